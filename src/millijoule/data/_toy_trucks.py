"""The trucks of `toy_vehicles`, a cab and a load on a frame, and the choice between them and the cars."""

from __future__ import annotations

from millijoule.data._chance import Chance
from millijoule.data._toy_proportions import TRUCKS
from millijoule.data._toy_shapes import Builder, Face, Part, circle

__all__ = ["build_vehicle"]


class TruckBuilder(Builder):
    """Collects the faces of one truck."""

    def __init__(self, kind: str, chance: Chance) -> None:
        self.kind, self.chance = kind, chance
        self.length = chance.uniform(6.2, 7.8)
        self.half = chance.uniform(1.05, 1.2)
        self.height = chance.uniform(2.35, 2.7)
        self.clearance = chance.uniform(0.40, 0.50)
        self.belt = self.height * chance.uniform(0.55, 0.62)
        self.wheel = chance.uniform(0.44, 0.52)
        self.cab_x = self.length - chance.uniform(1.6, 2.0)
        self.floor = self.wheel * 2 + chance.uniform(0.05, 0.15)
        rear = self.length * chance.uniform(0.16, 0.22)
        front = self.length - chance.uniform(0.75, 0.95)
        tandem = chance.happens(0.35)
        self.axles = (rear - 0.3, rear + 2.15 * self.wheel - 0.3, front) if tandem else (rear, front)

    def frame(self) -> Part:
        """The dark frame that carries everything."""
        low, y = self.clearance + 0.08, self.half * 0.7
        return self.box((0.03 * self.length, self.length - 0.3), y, (low, self.floor), "arch")

    def cab(self) -> Part:
        """The driver's cab over the front axle."""
        chance, y, low, top = self.chance, self.half, self.clearance, self.height
        x0, x1, belt = self.cab_x, self.length, self.belt
        rake = chance.uniform(0.10, 0.35)
        profile = [
            (x0, low + 0.1, y),
            (x1 - 0.04, low, y),
            (x1, low + 0.3, y),
            (x1 - 0.02, belt, y),
            (x1 - rake, top - 0.1, y * 0.96),
            (x1 - rake - 0.3, top, y * 0.94),
            (x0, top, y * 0.94),
        ]
        part = Part(((x0 + x1) / 2, 0.0, belt))
        self.extrude(part, profile, "paint")
        self.on_side(part, [(x0, low + 0.1, y), (x1 - 0.04, low, y), (x1, low + 0.3, y), (x0, low + 0.3, y)], "lower")
        self.on_side(part, self.disc(self.axles[-1], self.wheel, self.wheel * 1.17, y * 1.001), "arch")
        height = top - 0.1 - belt
        ahead = x1 - 0.02 - rake * 0.85
        window = [
            (x0 + 0.35, belt + 0.05, y * 1.002),
            (x1 - 0.16, belt + 0.05, y * 1.002),
            (ahead - 0.08, belt + 0.85 * height, y * 0.98),
            (x0 + 0.35, belt + 0.85 * height, y * 0.98),
        ]
        self.on_side(part, window, "glass")
        for x in (x0 + 0.28, x1 - 0.14):
            line = [(x, low + 0.3, y), (x + 0.04, low + 0.3, y), (x + 0.04, belt, y), (x, belt, y)]
            self.on_side(part, line, "seam")
        front = (1.0, 0.0, 0.0)
        screen = []
        for share, side in ((0.08, -0.92), (0.08, 0.92), (0.9, 0.88), (0.9, -0.88)):
            screen.append((x1 - 0.02 - (rake - 0.02) * share, side * y, belt + share * height))
        part.faces.append(Face(tuple(screen), (1.0, 0.0, 0.2), "screen"))
        z0, z1 = low + 0.4, belt - chance.uniform(0.12, 0.25)
        grille = y * chance.uniform(0.45, 0.7)
        self.across(part, (x1, -grille, z0), (x1, grille, z1), front, chance.choice(("black", "chrome")))
        self.across(part, (x1, -y, low), (x1, y, low + 0.28), front, "lower")
        for side in (-1.0, 1.0):
            self.across(part, (x1, side * y * 0.97, z0), (x1, side * y * 0.72, z0 + 0.2), front, "headlamp")
        return part

    def lamps(self, part: Part, x: float, half: float) -> None:
        """Tail lamps and plate at the rear end of the load."""
        rear, z = (-1.0, 0.0, 0.0), self.floor
        for side in (-1.0, 1.0):
            self.across(part, (x, side * half * 0.95, z - 0.2), (x, side * half * 0.7, z - 0.05), rear, "taillamp")
        self.across(part, (x, -0.28, z - 0.22), (x, 0.28, z - 0.08), rear, "plate")

    def box_body(self) -> Part:
        """The closed box of a box truck, taller than the cab, sometimes with a sign."""
        chance, y = self.chance, self.half * 1.03
        top, front = self.height * chance.uniform(1.18, 1.42), self.cab_x - 0.12
        part = self.box((0.0, front), y, (self.floor, top), "cargo")
        rim = self.floor + 0.1
        self.on_side(part, [(0.0, self.floor, y), (front, self.floor, y), (front, rim, y), (0.0, rim, y)], "lower")
        rear = (-1.0, 0.0, 0.0)
        self.across(part, (0.0, -0.03, self.floor), (0.0, 0.03, top), rear, "seam")
        if chance.happens(0.4):
            z0, z1 = self.floor + 0.45 * (top - self.floor), self.floor + 0.75 * (top - self.floor)
            x0, x1 = front * 0.15, front * chance.uniform(0.5, 0.9)
            self.on_side(part, [(x0, z0, y), (x1, z0, y), (x1, z1, y), (x0, z1, y)], "load")
        self.lamps(part, 0.0, y)
        return part

    def tank(self) -> Part:
        """The lying tank of a tanker: an elliptic cylinder with bands and filling caps."""
        chance, front = self.chance, self.cab_x - 0.2
        y, tall = self.half * 0.98, chance.uniform(0.72, 0.85)
        middle = self.floor + tall * 0.97
        material = chance.choice(("tank", "tank", "cargo", "load"))
        ring = circle(18)
        part = Part((front / 2, 0.0, middle))
        for index, (y0, z0) in enumerate(ring):
            y1, z1 = ring[(index + 1) % len(ring)]
            strip = (
                (0.0, y * y0, middle + tall * z0),
                (front, y * y0, middle + tall * z0),
                (front, y * y1, middle + tall * z1),
                (0.0, y * y1, middle + tall * z1),
            )
            normal = (0.0, (y0 + y1) / y, (z0 + z1) / tall)
            part.faces.append(Face(strip, normal, material))
            for band in range(1, 4):
                x = front * band / 4
                (ay, az), (by, bz) = (strip[0][1:], strip[3][1:])
                part.faces.append(
                    Face(((x, ay, az), (x + 0.07, ay, az), (x + 0.07, by, bz), (x, by, bz)), normal, "arch")
                )
        for x, side in ((0.0, -1.0), (front, 1.0)):
            cap = tuple((x, y * right, middle + tall * up) for right, up in ring)
            part.faces.append(Face(cap, (side, 0.0, 0.0), material))
        for x in (front * 0.3, front * 0.62):
            part.faces += self.box((x, x + 0.5), 0.25, (middle + tall * 0.96, middle + tall + 0.14), "arch").faces
        self.lamps(part, 0.0, y)
        return part

    def platform(self) -> Part:
        """The open platform of a flatbed: a thin floor, a front wall, sometimes stakes or a low load."""
        chance, y, front = self.chance, self.half * 1.02, self.cab_x - 0.12
        part = self.box((0.0, front), y, (self.floor, self.floor + 0.2), chance.choice(("lower", "load", "wood")))
        z = self.floor + 0.2
        boards = ((0.05, -y * 0.95, z), (front, -y * 0.95, z), (front, y * 0.95, z), (0.05, y * 0.95, z))
        part.faces.append(Face(boards, (0.0, 0.0, 1.0), "wood"))
        part.faces += self.box((front - 0.1, front), y, (z, self.height * chance.uniform(0.7, 0.85)), "lower").faces
        if chance.happens(0.3):
            x0 = front * chance.uniform(0.1, 0.4)
            x1 = x0 + front * chance.uniform(0.25, 0.45)
            high = chance.uniform(0.2, 0.6)
            part.faces += self.box((x0, x1), y * 0.7, (z, z + high), chance.choice(("load", "wood"))).faces
        if chance.happens(0.35):
            for x in (0.1, front * 0.3, front * 0.6):
                post = [(x, z, y), (x + 0.09, z, y), (x + 0.09, z + 0.55, y), (x, z + 0.55, y)]
                self.on_side(part, post, "arch")
        self.lamps(part, 0.0, y)
        return part


def build_vehicle(kind: str, chance: Chance) -> tuple[list[Part], Part, float, float]:
    """One vehicle of a body type.

    Args:
        kind: one of `BODY_TYPES`.
        chance: the stream its proportions and details are drawn from.

    Returns:
        The parts without the wheels (the first is drawn first), the wheels, the length and the half width in metres.
    """
    if kind in TRUCKS:
        truck = TruckBuilder(kind, chance)
        load = {"box_truck": truck.box_body, "tanker_truck": truck.tank, "flatbed_truck": truck.platform}[kind]()
        return [truck.frame(), truck.cab(), load], truck.wheels(), truck.length, truck.half
    car = Builder(kind, chance)
    parts = [car.body()]
    if kind == "convertible":
        parts += car.open_cabin()
    elif kind == "pickup":
        parts += [*car.bed(), car.cabin()]
    else:
        cabin = car.cabin()
        for extra in car.fittings():
            cabin.faces += extra.faces
        parts.append(cabin)
    return parts, car.wheels(), car.length, car.half
