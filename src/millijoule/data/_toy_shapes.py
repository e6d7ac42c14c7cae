"""The cars of `toy_vehicles`: body types as flat faces in space, drawn from ranges of proportions.

Coordinates are metres: x runs from the rear bumper (0) to the front, y to the left (the middle of the vehicle is 0),
z up from the ground.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

from millijoule.data._chance import Chance
from millijoule.data._toy_proportions import PROPORTIONS

__all__ = ["Builder", "Face", "Part", "Point", "circle", "cosine", "sine"]

Point = tuple[float, float, float]


def sine(turns: float) -> float:
    """Sine of an angle in turns by its Taylor series: sums and products only, so equal bits on every machine."""
    turns -= int(turns + 0.5 if turns >= 0 else turns - 0.5)
    if turns > 0.25:
        turns = 0.5 - turns
    elif turns < -0.25:
        turns = -0.5 - turns
    angle = turns * 6.283185307179586
    square = angle * angle
    total, term = angle, angle
    for order in range(2, 20, 2):
        term = -term * square / (order * (order + 1))
        total += term
    return total


def cosine(turns: float) -> float:
    """Cosine of an angle in turns; see `sine`."""
    return sine(turns + 0.25)


@functools.cache
def circle(count: int) -> tuple[tuple[float, float], ...]:
    """`count` points of the unit circle, from the right, counter-clockwise where y points up."""
    return tuple((cosine(index / count), sine(index / count)) for index in range(count))


@dataclass(frozen=True)
class Face:
    """A flat polygon: its corners, the outward normal (None: always drawn) and the material that colours it."""

    points: tuple[Point, ...]
    normal: Point | None
    material: str


@dataclass
class Part:
    """Faces drawn one after another; `centre` orders the parts from far to near."""

    centre: Point
    faces: list[Face] = field(default_factory=list)


def _range(chance: Chance, bounds: tuple[float, float]) -> float:
    return chance.uniform(*bounds)


class Builder:
    """Collects the faces of one vehicle from its proportions."""

    axles: tuple[float, ...]

    def __init__(self, kind: str, chance: Chance) -> None:
        shape = PROPORTIONS[kind]
        self.kind, self.chance = kind, chance
        self.length = _range(chance, shape.length)
        self.half = _range(chance, shape.width) / 2
        self.height = _range(chance, shape.height)
        self.clearance = _range(chance, shape.clearance)
        self.belt = self.height * _range(chance, shape.belt)
        self.wheel = _range(chance, shape.wheel)
        self.hood_x = self.length * (1 - _range(chance, shape.hood))
        self.roof_front = self.hood_x - self.length * _range(chance, shape.screen)
        self.roof_rear = self.length * max(0.002, _range(chance, shape.roof_end))
        self.deck_x = self.length * max(0.001, _range(chance, shape.deck))
        self.windows = chance.choice(shape.windows)
        self.nose = self.belt * chance.uniform(0.72, 0.86)
        self.tail = self.belt * (chance.uniform(0.93, 1.0) if self.deck_x > 0.06 * self.length else 0.98)
        if kind in ("pickup", "suv", "van", "bus"):
            self.nose = self.belt * chance.uniform(0.86, 0.96)
        # The walls of a pickup's bed are lower than its windows; elsewhere the body goes on level.
        self.rail = self.belt * (chance.uniform(0.84, 0.90) if kind == "pickup" else 1.0)
        self.tumble = self.half * chance.uniform(0.10, 0.22)
        if kind in ("van", "bus"):
            self.tumble *= 0.4
        self.axles = (
            self.length * chance.uniform(0.17, 0.22),
            self.length * (1 - chance.uniform(0.15, 0.20)),
        )

    # Body -----------------------------------------------------------------------------------------------------------

    def extrude(self, part: Part, profile: list[tuple[float, float, float]], material: str, skip: float = -1.0) -> None:
        """Faces of a profile of (x, z, half width) corners, counter-clockwise seen from the right (rear to front)."""
        count = len(profile)
        for index in range(count):
            (x0, z0, w0), (x1, z1, w1) = profile[index], profile[(index + 1) % count]
            if z0 == z1 == skip:
                continue
            normal = (z1 - z0, 0.0, x0 - x1)
            strip = ((x0, -w0, z0), (x1, -w1, z1), (x1, w1, z1), (x0, w0, z0))
            part.faces.append(Face(strip, normal, material))
        for side in (-1.0, 1.0):
            polygon = tuple((x, side * w, z) for x, z, w in profile)
            part.faces.append(Face(polygon, (0.0, side, 0.0), material))

    def on_side(self, part: Part, corners: list[tuple[float, float, float]], material: str) -> None:
        """The same polygon of (x, z, half width) corners on both sides."""
        for side in (-1.0, 1.0):
            part.faces.append(Face(tuple((x, side * w, z) for x, z, w in corners), (0.0, side, 0.0), material))

    def across(self, part: Part, low: Point, high: Point, normal: Point, material: str) -> None:
        """A rectangle on the front or rear: corners (x, y, z), y may be given on both sides by the caller."""
        (x0, y0, z0), (x1, y1, z1) = low, high
        part.faces.append(Face(((x0, y0, z0), (x0, y1, z0), (x1, y1, z1), (x1, y0, z1)), normal, material))

    def body(self) -> Part:
        """The lower body with lamps, plates, door lines and wheel arches."""
        length, half, low = self.length, self.half, self.clearance
        narrow = half * self.chance.uniform(0.86, 0.95)
        top = self.belt
        profile = [
            (0.02 * length, low, narrow),
            (length * 0.98, low, narrow),
            (length, low + 0.25 * (self.nose - low), narrow),
            (length * 0.99, self.nose, narrow),
            (self.hood_x, top, half),
            (self.deck_x, self.rail, half),
            (0.012 * length, min(self.tail, self.rail), half * 0.97),
            (0.0, low + 0.3 * (self.tail - low), narrow),
        ]
        part = Part((length / 2, 0.0, low))
        self.extrude(part, profile, "paint")
        sill = low + 0.14 * (top - low)
        self.on_side(
            part,
            [
                (0.1 * length, low, half),
                (0.9 * length, low, half),
                (0.9 * length, sill, half),
                (0.1 * length, sill, half),
            ],
            "lower",
        )
        crease = low + self.chance.uniform(0.62, 0.72) * (top - low)
        rear_x, front_x = 0.03 * length, 0.965 * length
        self.on_side(
            part,
            [
                (rear_x, crease, half),
                (front_x, crease - 0.05, half),
                (front_x, crease, half),
                (rear_x, crease + 0.06, half),
            ],
            "highlight",
        )
        for axle in self.axles:
            self.on_side(part, self.disc(axle, self.wheel, self.wheel * 1.17, half), "arch")
        self.front_and_rear(part, narrow)
        return part

    def front_and_rear(self, part: Part, narrow: float) -> None:
        """Lamps, grille, bumpers and plates."""
        chance, length, low = self.chance, self.length, self.clearance
        front, rear = (1.0, 0.0, 0.0), (-1.0, 0.0, 0.0)
        rise = self.nose - low
        z0, z1 = low + rise * chance.uniform(0.58, 0.66), low + rise * chance.uniform(0.84, 0.94)
        lamp, x = narrow * chance.uniform(0.28, 0.40), length * 1.0
        grille = narrow * chance.uniform(0.40, 0.62)
        self.across(
            part, (x, -grille, z0 - 0.04), (x, grille, z1 - 0.02), front, chance.choice(("black", "chrome", "black"))
        )
        for side in (-1.0, 1.0):
            self.across(part, (x, side * narrow, z0), (x, side * (narrow - lamp), z1), front, "headlamp")
        self.across(part, (x, -narrow, low), (x, narrow, low + 0.22 * rise), front, "lower")
        self.across(part, (x, -0.26, low + 0.26 * rise), (x, 0.26, low + 0.42 * rise), front, "plate")
        self.on_side(
            part,
            [(0.985 * length, z0, narrow * 1.01), (0.985 * length, z1, narrow * 1.01), (0.94 * length, z1, self.half)],
            "headlamp",
        )
        rise = self.tail - low
        tall = self.kind in ("suv", "van", "bus")
        z0 = low + rise * (chance.uniform(0.50, 0.64) if tall else chance.uniform(0.60, 0.68))
        z1, lamp = low + rise * chance.uniform(0.86, 0.97), narrow * chance.uniform(0.16, 0.36)
        for side in (-1.0, 1.0):
            self.across(part, (0.0, side * narrow, z0), (0.01 * length, side * (narrow - lamp), z1), rear, "taillamp")
        self.across(part, (0.0, -narrow, low), (0.0, narrow, low + 0.24 * rise), rear, "lower")
        self.across(part, (0.0, -0.26, low + 0.45 * rise), (0.0, 0.26, low + 0.62 * rise), rear, "plate")
        self.on_side(
            part,
            [(0.012 * length, z0, narrow * 1.01), (0.012 * length, z1, narrow * 1.01), (0.04 * length, z1, self.half)],
            "taillamp",
        )

    def disc(self, x: float, z: float, radius: float, half: float, count: int = 16) -> list[tuple[float, float, float]]:
        """Corners of a disc on the side."""
        return [(x + radius * right, z + radius * up, half) for right, up in circle(count)]

    def wheels(self) -> Part:
        """Tyres and rims on both sides; the renderer draws the far ones first."""
        part = Part((self.length / 2, 0.0, 0.0))
        inner = self.half * 0.78
        for axle in self.axles:
            outer = self.half * 1.005
            tyre = self.disc(axle, self.wheel, self.wheel, outer)
            for side in (-1.0, 1.0):
                part.faces.append(Face(tuple((x, side * inner, z) for x, z, _ in tyre), None, "tyre"))
            self.on_side(part, tyre, "tyre")
            rim = self.wheel * self.chance.uniform(0.60, 0.70)
            self.on_side(part, self.disc(axle, self.wheel, rim, outer), "rim")
            self.on_side(part, self.disc(axle, self.wheel, rim * 0.35, outer, 8), "arch")
        return part

    # Cabin ----------------------------------------------------------------------------------------------------------

    def width_at(self, z: float) -> float:
        """Half width of the cabin at height z: it narrows towards the roof."""
        return self.half - self.tumble * (z - self.belt) / (self.height - self.belt)

    def cabin(self, material: str = "paint") -> Part:
        """Roof, pillars and windows of a closed car."""
        top, base = self.height, self.belt
        w_top = self.half - self.tumble
        middle = (self.roof_front + self.roof_rear) / 2
        edge = top - 0.035 * (top - base)
        profile = [
            (self.hood_x, base, self.half),
            (self.roof_front, edge, w_top),
            (middle, top, w_top),
            (self.roof_rear, edge, w_top),
            (self.deck_x, base, self.half),
        ]
        part = Part(((self.hood_x + self.deck_x) / 2, 0.0, base))
        # The profile runs front to rear over the roof: the floor edge closes it and is never seen.
        self.extrude(part, profile, material, skip=base)
        self.side_windows(part, edge)
        for foot, head, pillar in ((self.hood_x, self.roof_front, 0.10), (self.deck_x, self.roof_rear, 0.14)):
            rear = head > foot
            if rear and (self.kind == "van" and self.chance.happens(0.7)):
                continue
            self.screen(part, foot, head, edge, pillar, rear)
        return part

    def screen(self, part: Part, foot: float, head: float, edge: float, pillar: float, rear: bool) -> None:
        """The windscreen or the rear window, inset in its strip of the cabin."""
        base, lift, drop = self.belt, 0.08, 0.12 if not rear else 0.16
        corners = []
        for fraction, side in ((lift, -1.0), (lift, 1.0), (1 - drop, 1.0), (1 - drop, -1.0)):
            z = base + fraction * (edge - base)
            x = foot + fraction * (head - foot)
            corners.append((x, side * (self.width_at(z) * (1 - pillar)), z))
        slope = edge - base
        normal = (-slope, 0.0, head - foot) if rear else (slope, 0.0, foot - head)
        part.faces.append(Face(tuple(corners), normal, "screen"))

    def side_windows(self, part: Part, edge: float) -> None:
        """Side windows between the pillars, and the door lines under them."""
        base, count = self.belt, self.windows
        z0, z1 = base + 0.07 * (edge - base), base + 0.86 * (edge - base)

        def front_at(z: float) -> float:
            return self.hood_x + (self.roof_front - self.hood_x) * (z - base) / (edge - base) - 0.10

        def rear_at(z: float) -> float:
            inset = 0.10 if self.kind not in ("suv", "van") else 0.14
            return self.deck_x + (self.roof_rear - self.deck_x) * (z - base) / (edge - base) + inset

        total = self.roof_front - max(self.deck_x, self.roof_rear * 0.5)
        rear_limit = 0.0
        if self.kind == "van":
            rear_limit = self.roof_front - self.length * self.chance.uniform(0.16, 0.24)
        span = total / count
        if self.kind == "van":
            cuts = [self.roof_front, rear_limit]
        else:
            shift = self.chance.uniform(-0.06, 0.06) * total
            cuts = [self.roof_front] + [self.roof_front - span * (i + 1) + shift for i in range(count - 1)] + [-9.0]
        gap = 0.045
        for index in range(len(cuts) - 1):
            corners = []
            for z, ahead in ((z0, True), (z1, True), (z1, False), (z0, False)):
                if ahead:
                    x = front_at(z) if index == 0 else cuts[index] - gap
                else:
                    x = rear_at(z) if cuts[index + 1] == -9.0 else cuts[index + 1] + gap
                corners.append((min(x, front_at(z)), z, self.width_at(z) * 1.004))
            if corners[0][0] - corners[3][0] > 0.08:
                self.on_side(part, corners, "glass")
        if self.kind == "bus":
            return
        doors = [self.hood_x - 0.04, *[cut for cut in cuts[1:] if cut > 0]]
        if len(cuts) == 2 and cuts[1] == -9.0:
            doors.append(self.hood_x - self.chance.uniform(1.15, 1.4))
        for x in doors:
            bottom = self.clearance + 0.14 * (base - self.clearance)
            line = [
                (x, bottom, self.half),
                (x + 0.03, bottom, self.half),
                (x + 0.03, base, self.half),
                (x, base, self.half),
            ]
            self.on_side(part, line, "seam")
            handle = base - 0.14
            self.on_side(
                part,
                [(x + 0.08, handle, self.half), (x + 0.26, handle, self.half), (x + 0.26, handle + 0.05, self.half),
                 (x + 0.08, handle + 0.05, self.half)],
                "seam",
            )  # fmt: skip

    def box(self, x: tuple[float, float], y: float, z: tuple[float, float], material: str) -> Part:
        """A closed box centred on the middle line; `y` is its half width."""
        part = Part(((x[0] + x[1]) / 2, 0.0, (z[0] + z[1]) / 2))
        corners = [(x[0], z[0], y), (x[1], z[0], y), (x[1], z[1], y), (x[0], z[1], y)]
        self.extrude(part, corners, material)
        return part

    def open_cabin(self) -> list[Part]:
        """The open seats of a convertible: dark interior, head rests, windscreen frame."""
        base = self.belt
        rear, front = self.deck_x + 0.05 * self.length, self.hood_x - 0.03
        well = Part((self.length / 2, 0.0, base))
        y = self.half * 0.86
        floor = ((rear, -y, base + 0.004), (front, -y, base + 0.004), (front, y, base + 0.004), (rear, y, base + 0.004))
        well.faces.append(Face(floor, (0.0, 0.0, 1.0), "interior"))
        parts = [well]
        rows = [self.hood_x - self.length * 0.27]
        if rows[0] - rear > 0.8 and self.chance.happens(0.6):
            rows.append(rear + 0.15)
        for x in rows:
            for y in (-0.5, 0.5):
                seat = self.box((x, x + 0.16), 0.2, (base - 0.02, base + 0.24), "seat")
                shift = y * self.half
                seat.centre = (x, shift, base)
                seat.faces = [
                    Face(tuple((px, py + shift, pz) for px, py, pz in face.points), face.normal, face.material)
                    for face in seat.faces
                ]
                parts.append(seat)
        if self.chance.happens(0.5):
            parts.append(self.box((rear - 0.16, rear + 0.18), self.half * 0.84, (base - 0.02, base + 0.10), "softtop"))
        frame = Part((self.hood_x - 0.1, 0.0, base))
        top = self.height * 0.985
        lean = self.roof_front
        w_top = self.width_at(top)
        outline = (
            (self.hood_x, -self.half * 0.95, base),
            (self.hood_x, self.half * 0.95, base),
            (lean, w_top, top),
            (lean, -w_top, top),
        )
        frame.faces.append(Face(outline, None, "paint"))
        inner = 0.9
        z0, z1 = base + 0.06 * (top - base), base + 0.88 * (top - base)
        x0 = self.hood_x + (lean - self.hood_x) * 0.06
        x1 = self.hood_x + (lean - self.hood_x) * 0.88
        w0, w1 = self.width_at(z0) * inner, self.width_at(z1) * inner
        frame.faces.append(Face(((x0, -w0, z0), (x0, w0, z0), (x1, w1, z1), (x1, -w1, z1)), None, "screen"))
        parts.append(frame)
        return parts

    def bed(self) -> list[Part]:
        """The open bed of a pickup, sometimes with a cover or a load."""
        base, y = self.rail, self.half * 0.86
        rear, front = 0.03 * self.length, self.deck_x - 0.06
        part = Part((self.deck_x / 2, 0.0, base))
        opening = ((rear, -y, base + 0.01), (front, -y, base + 0.01), (front, y, base + 0.01), (rear, y, base + 0.01))
        part.faces.append(Face(opening, (0.0, 0.0, 1.0), self.chance.choice(("interior", "interior", "softtop"))))
        parts = [part]
        if self.chance.happens(0.2):
            x0 = rear + (front - rear) * self.chance.uniform(0.1, 0.5)
            load = self.box((x0, front - 0.1), y * 0.8, (base - 0.05, base + self.chance.uniform(0.1, 0.45)), "load")
            parts.append(load)
        return parts

    def fittings(self) -> list[Part]:
        """What marks an suv (roof rails, dark wheel arches, spare wheel) and a bus (doors, a band along the side)."""
        part = Part((self.length / 2, 0.0, self.height))
        y, z, low = self.half - self.tumble, self.height, self.clearance
        if self.kind == "suv":
            x0, x1 = self.roof_rear + 0.15, self.roof_front - 0.1
            self.on_side(part, [(x0, z, y), (x1, z, y), (x1, z + 0.07, y), (x0, z + 0.07, y)], "arch")
            if self.chance.happens(0.6):
                middle = low + 0.62 * (self.belt - low)
                wheel = [(-0.08, 0.36 * right, middle + 0.36 * up) for right, up in circle(14)]
                part.faces.append(Face(tuple(wheel), (-1.0, 0.0, 0.0), "tyre"))
        elif self.kind == "bus":
            top = self.belt + 0.8 * (self.height - self.belt)
            for x in (self.length * 0.955, self.length * self.chance.uniform(0.45, 0.55)):
                half = self.half * 1.004
                door = [(x - 0.45, low, half), (x + 0.35, low, half), (x + 0.35, top, half), (x - 0.45, top, half)]
                self.on_side(part, door, "glass")
            z0 = low + self.chance.uniform(0.5, 0.7) * (self.belt - low)
            x0, x1, half = 0.02 * self.length, self.length * 0.90, self.half * 1.002
            band = [(x0, z0, half), (x1, z0, half), (x1, z0 + 0.14, half), (x0, z0 + 0.14, half)]
            self.on_side(part, band, "load")
        return [part] if part.faces else []
