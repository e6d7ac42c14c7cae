"""toy_vehicles: rendered pictures of ten vehicle body types, made on demand and identical on every machine.

A toy, for demonstrations and tests without any download: accuracies on it say nothing about photographs. Every
picture is a flat-shaded perspective drawing of a vehicle of random proportions and paint, from a random viewpoint, in
front of random clutter, partly covered, blurred and noisy.

Equal bytes everywhere rest on four rules: random numbers come from raw PCG64 words; angles from sums and products;
float64 arithmetic only by exactly rounded operations, element by element; filling and filtering in whole numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from millijoule.data._chance import Chance
from millijoule.data._toy_canvas import Canvas, Colour
from millijoule.data._toy_proportions import BODY_TYPES
from millijoule.data._toy_scene import develop, draw_background, draw_occluders, mix
from millijoule.data._toy_shapes import Face, Part, Point, cosine, sine
from millijoule.data._toy_trucks import build_vehicle
from millijoule.errors import OptionError

__all__ = ["BODY_TYPES", "TOY_VERSION", "render"]

TOY_VERSION = 8
"""Changes whenever the bytes of the pictures change."""

_PAINTS: tuple[Colour, ...] = (
    (238, 238, 238), (48, 50, 56), (120, 124, 130), (185, 188, 192), (165, 25, 30), (30, 60, 135), (25, 85, 60),
    (200, 185, 150), (110, 70, 45), (225, 170, 40), (60, 75, 95), (120, 20, 60), (90, 150, 190),
)  # fmt: skip


@dataclass(frozen=True)
class _Camera:
    """Where the picture is taken from: position, and the directions right, up and forward."""

    position: Point
    right: Point
    up: Point
    forward: Point

    @classmethod
    def around(cls, target: Point, turns: float, elevation: float, distance: float) -> _Camera:
        """A camera that looks at the target from a direction around it (0: from the front) and above it."""
        ca, sa, ce, se = cosine(turns), sine(turns), cosine(elevation), sine(elevation)
        position = (
            target[0] + distance * ca * ce,
            target[1] + distance * sa * ce,
            target[2] + distance * se,
        )
        return cls(position, (-sa, ca, 0.0), (-ca * se, -sa * se, ce), (-ca * ce, -sa * ce, -se))

    def depth(self, point: Point) -> float:
        """Distance in front of the camera, along its axis."""
        (x, y, z), (px, py, pz), (fx, fy, fz) = point, self.position, self.forward
        return (x - px) * fx + (y - py) * fy + (z - pz) * fz

    def sees(self, face: Face) -> bool:
        """True when the outer side of the face is turned to the camera."""
        if face.normal is None:
            return True
        (x, y, z), (px, py, pz), (nx, ny, nz) = face.points[0], self.position, face.normal
        return (px - x) * nx + (py - y) * ny + (pz - z) * nz > 0

    def project(self, faces: list[Face]) -> list[list[tuple[float, float]]]:
        """The corners on the picture plane: x to the right, y down, in units of the distance."""
        points = np.array([point for face in faces for point in face.points], np.float64)
        x, y, z = (points[:, axis] - self.position[axis] for axis in range(3))
        (rx, ry, rz), (ux, uy, uz), (fx, fy, fz) = self.right, self.up, self.forward
        depth = np.maximum(x * fx + y * fy + z * fz, 0.1)
        flat_x = ((x * rx + y * ry + z * rz) / depth).tolist()
        flat_y = ((x * -ux + y * -uy + z * -uz) / depth).tolist()
        result, start = [], 0
        for face in faces:
            end = start + len(face.points)
            result.append(list(zip(flat_x[start:end], flat_y[start:end], strict=True)))
            start = end
        return result


def _palette(kind: str, chance: Chance) -> dict[str, Colour]:
    paint = mix(chance.choice(_PAINTS), chance.choice(_PAINTS), chance.uniform(0.0, 0.3))
    glass = mix((25, 32, 40), (120, 145, 165), chance.uniform(0.0, 0.7))
    lower = chance.choice((paint, mix(paint, (20, 20, 20), 0.5), (45, 45, 48)))
    light = (235, 235, 230)
    return {
        "paint": paint,
        "lower": lower,
        "highlight": mix(paint, (255, 255, 255) if chance.happens(0.5) else (0, 0, 0), 0.15),
        "glass": glass,
        "screen": mix(glass, (200, 215, 225), chance.uniform(0.0, 0.35)),
        "black": (22, 22, 24),
        "arch": (16, 16, 18),
        "tyre": (28, 28, 30),
        "rim": chance.choice(((150, 152, 155), (185, 187, 190), (60, 60, 62), (110, 112, 115))),
        "chrome": (175, 178, 182),
        "headlamp": mix(light, (255, 250, 210), chance.uniform(0.0, 1.0)),
        "taillamp": mix((170, 20, 25), (220, 60, 40), chance.uniform(0.0, 1.0)),
        "plate": chance.choice(((230, 230, 225), (225, 200, 70), (60, 60, 60))),
        "seam": mix(paint, (10, 10, 10), 0.55),
        "interior": (38, 35, 34),
        "seat": chance.choice(((190, 165, 130), (150, 60, 45), (205, 200, 190))),
        "softtop": chance.choice(((38, 38, 42), (85, 70, 55), (30, 35, 60))),
        "cargo": chance.choice(((232, 232, 230), (225, 225, 220), (200, 205, 210))),
        "load": chance.choice(_PAINTS),
        "tank": chance.choice(((190, 193, 197), (210, 212, 215), (165, 168, 172))),
        "wood": chance.choice(((150, 115, 75), (125, 95, 65), (95, 80, 65))),
    }


def _shade(colour: Colour, normal: Point | None, light: Point, ambient: float) -> Colour:
    if normal is None:
        return colour
    x, y, z = normal
    length = math.sqrt(x * x + y * y + z * z)
    facing = (x * light[0] + y * light[1] + z * light[2]) / length if length > 0 else 0.0
    level = ambient + (1.25 - ambient) * max(0.0, facing)
    return (min(255, int(colour[0] * level)), min(255, int(colour[1] * level)), min(255, int(colour[2] * level)))


def _ordered(parts: list[Part], wheels: Part, camera: _Camera) -> list[Face]:
    inner = [face for face in wheels.faces if face.normal is None]
    outer = [face for face in wheels.faces if face.normal is not None and camera.sees(face)]
    rest = sorted(parts[1:], key=lambda part: -camera.depth(part.centre))
    solid = [face for part in (parts[0], *rest) for face in part.faces if camera.sees(face)]
    return inner + solid + outer


def render(body_type: str, index: int, *, resolution: int, seed: int = 0) -> NDArray[np.uint8]:
    """One picture of `toy_vehicles`.

    Args:
        body_type: one of `BODY_TYPES`.
        index: which picture of that type, from 0.
        resolution: pixels per side, 16 to 1024; the scene is the same at every resolution, only finer.
        seed: another seed gives another, unrelated set.

    Returns:
        uint8 (resolution, resolution, 3) RGB.

    Raises:
        OptionError: unknown body type, or a number out of range.
    """
    if body_type not in BODY_TYPES:
        raise OptionError(
            f"body type {body_type!r}", "toy_vehicles has no such type", f"Use one of {', '.join(BODY_TYPES)}"
        )
    if not 16 <= resolution <= 1024:
        raise OptionError(
            f"resolution {resolution}", "toy_vehicles renders 16 to 1024 pixels a side", "Choose one of those"
        )
    if index < 0 or seed < 0:
        raise OptionError(f"picture {index} of seed {seed}", "numbers start at 0", "Use 0 or more")
    chance = Chance(TOY_VERSION, seed, BODY_TYPES.index(body_type), index)
    canvas = Canvas(resolution * 2)
    parts, wheels, length, half = build_vehicle(body_type, chance)
    palette = _palette(body_type, chance)

    # Seen from the side, or three-quarter from the front or rear: as people photograph cars.
    low, high = (0.12, 0.18) if chance.happens(0.35) else (0.18, 0.25)
    turns = chance.choice((0.0, 0.5)) + chance.choice((-1.0, 1.0)) * chance.uniform(low, high)
    elevation = chance.uniform(0.018, 0.045)
    distance = length * chance.uniform(1.6, 2.8)
    camera = _Camera.around((length / 2, 0.0, 0.75), turns, elevation, distance)
    light_turn, light_height = turns + chance.uniform(-0.3, 0.3), chance.uniform(0.08, 0.2)
    light = (
        cosine(light_turn) * cosine(light_height),
        sine(light_turn) * cosine(light_height),
        sine(light_height),
    )
    ambient = chance.uniform(0.5, 0.75)

    spread = half * 1.08
    shadow = Face(
        ((0.0, -spread, 0.0), (length, -spread, 0.0), (length * 1.01, spread, 0.0), (-0.01 * length, spread, 0.0)),
        None,
        "shadow",
    )
    faces = [shadow, *_ordered(parts, wheels, camera)]
    outlines = camera.project(faces)
    xs = [x for outline in outlines[1:] for x, _ in outline]
    ys = [y for outline in outlines[1:] for _, y in outline]
    left, right, top, bottom = min(xs), max(xs), min(ys), max(ys)
    # The vehicle fills most of the frame, like pictures cropped to it; upright stretch as from stretched photographs.
    stretch = 1.45
    scale = chance.uniform(0.88, 0.98) / max(right - left, (bottom - top) * stretch)
    centre_x = 0.5 + chance.uniform(-0.03, 0.03)
    centre_y = 0.53 + chance.uniform(-0.04, 0.04)
    shift_x = centre_x - (left + right) / 2 * scale
    shift_y = centre_y - (top + bottom) / 2 * scale * stretch

    foot = bottom * scale * stretch + shift_y
    horizon = min(0.85, max(0.15, foot - (bottom - top) * scale * stretch * chance.uniform(0.35, 0.9)))
    draw_background(canvas, chance, horizon)
    palette["shadow"] = (40, 40, 42)
    for face, outline in zip(faces, outlines, strict=True):
        colour = _shade(palette[face.material], face.normal, light, ambient)
        canvas.polygon([(x * scale + shift_x, y * scale * stretch + shift_y) for x, y in outline], colour)
    draw_occluders(canvas, chance)
    return develop(canvas, resolution, chance)
