"""What stands around the vehicle in a `toy_vehicles` picture, and what the camera does to it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from millijoule.data._chance import Chance
from millijoule.data._toy_canvas import Canvas, Colour

__all__ = ["develop", "draw_background", "draw_occluders", "mix"]


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """The colour `share` of the way from the first to the second, each channel 0 to 255."""
    return (
        int(first[0] + (second[0] - first[0]) * share),
        int(first[1] + (second[1] - first[1]) * share),
        int(first[2] + (second[2] - first[2]) * share),
    )


def _gradient(canvas: Canvas, top: int, bottom: int, first: Colour, second: Colour) -> None:
    rows = bottom - top
    if rows <= 0:
        return
    steps = np.arange(rows, dtype=np.int32)[:, None]
    start, end = np.array(first, np.int32), np.array(second, np.int32)
    ramp = start + (end - start) * steps // max(1, rows - 1)
    canvas.background[top:bottom] = ramp[:, None, :].astype(np.uint8)


def _any_colour(chance: Chance, low: int = 30, high: int = 225) -> Colour:
    return (chance.integer(low, high), chance.integer(low, high), chance.integer(low, high))


def _grey(chance: Chance, low: int, high: int, tint: int = 12) -> Colour:
    base = chance.integer(low, high)
    return (
        base + chance.integer(-tint, tint),
        base + chance.integer(-tint, tint),
        base + chance.integer(-tint, tint),
    )


def draw_background(canvas: Canvas, chance: Chance, horizon: float) -> None:
    """Sky or wall, ground, and clutter: buildings, trees, posts, parked boxes, road marks.

    Args:
        canvas: painted all over.
        chance: the stream of this picture.
        horizon: height of the line between wall and ground, 0 to 1 from the top.
    """
    line = int(horizon * canvas.size)
    indoor = chance.happens(0.25)
    if indoor:
        wall = _grey(chance, 90, 230, 20)
        _gradient(canvas, 0, line, wall, mix(wall, _grey(chance, 60, 200, 10), 0.5))
    else:
        sky = mix((120, 165, 225), (225, 225, 230), chance.uniform(0.0, 1.0))
        _gradient(canvas, 0, line, mix(sky, (70, 90, 140), chance.uniform(0.0, 0.6)), sky)
    near = chance.choice((_grey(chance, 60, 150), _grey(chance, 120, 200), (chance.integer(60, 120), 120, 60)))
    _gradient(canvas, line, canvas.size, mix(near, (150, 150, 150), chance.uniform(0.0, 0.7)), near)

    for _ in range(chance.integer(0, 3)):  # buildings, fences, shop fronts
        left, width, height = chance.uniform(-0.2, 1.0), chance.uniform(0.1, 0.5), chance.uniform(0.08, 0.5)
        colour = mix(_any_colour(chance, 60, 210), (170, 170, 170), chance.uniform(0.65, 0.95))
        top = horizon - height
        canvas.rectangle(left, top, left + width, horizon + 0.01, colour)
        if chance.happens(0.6):
            dark, rows, columns = mix(colour, _any_colour(chance), 0.2), chance.integer(1, 4), chance.integer(2, 6)
            for row in range(rows):
                y = top + height * (row + 0.25) / rows
                for column in range(columns):
                    x = left + width * (column + 0.2) / columns
                    canvas.rectangle(x, y, x + width * 0.6 / columns, y + height * 0.5 / rows, dark)
    for _ in range(chance.integer(0, 2)):  # trees
        x, radius = chance.uniform(-0.1, 1.1), chance.uniform(0.05, 0.18)
        green = (chance.integer(25, 100), chance.integer(60, 130), chance.integer(20, 80))
        y = horizon - chance.uniform(0.02, 0.35)
        canvas.rectangle(x - 0.012, y, x + 0.012, horizon + 0.02, (80, 60, 45))
        for _ in range(3):
            shade = mix(green, (20, 30, 15), chance.uniform(0.0, 0.5))
            canvas.blob(x + chance.uniform(-0.06, 0.06), y + chance.uniform(-0.06, 0.06), radius, shade, chance)
    for _ in range(chance.integer(0, 1)):  # another parked vehicle, far away
        x, width, height = chance.uniform(-0.2, 1.0), chance.uniform(0.12, 0.25), chance.uniform(0.04, 0.08)
        colour = mix(_any_colour(chance), (150, 150, 150), 0.3)
        y = horizon + chance.uniform(-0.02, 0.05)
        canvas.rectangle(x, y - height, x + width, y, colour)
        roof = [
            (x + 0.2 * width, y - height),
            (x + 0.35 * width, y - 1.8 * height),
            (x + 0.75 * width, y - 1.8 * height),
            (x + 0.9 * width, y - height),
        ]
        canvas.polygon(roof, mix(colour, (40, 50, 60), 0.7))
        for wheel in (0.2, 0.8):
            canvas.blob(x + wheel * width, y, height * 0.35, (25, 25, 28), chance, 8)
    for _ in range(chance.integer(0, 2)):  # marks and stains on the ground
        y, slope = chance.uniform(horizon + 0.05, 1.0), chance.uniform(-0.3, 0.3)
        thick = chance.uniform(0.004, 0.03)
        band = [(0.0, y), (1.0, y + slope), (1.0, y + slope + thick), (0.0, y + thick)]
        canvas.polygon(band, mix(near, chance.choice(((235, 235, 225), (40, 40, 40), (220, 190, 60))), 0.6))


def draw_occluders(canvas: Canvas, chance: Chance) -> None:
    """Things between camera and vehicle: posts, bushes, a passer-by, the corner of a neighbour."""
    if chance.happens(0.08):
        x, width = chance.uniform(0.05, 0.95), chance.uniform(0.012, 0.03)
        canvas.rectangle(x, 0.0, x + width, 1.0, _grey(chance, 30, 200))
    if chance.happens(0.08):
        green = (chance.integer(25, 100), chance.integer(60, 130), chance.integer(20, 80))
        x, y = chance.choice((0.0, 1.0, 0.5)), 1.0
        for _ in range(5):
            shade = mix(green, (15, 25, 10), chance.uniform(0.0, 0.6))
            canvas.blob(x + chance.uniform(-0.2, 0.2), y + chance.uniform(-0.04, 0.1), 0.10, shade, chance)
    if chance.happens(0.06):
        x, height = chance.uniform(0.1, 0.9), chance.uniform(0.3, 0.45)
        foot = chance.uniform(0.75, 1.0)
        cloth = _any_colour(chance)
        canvas.rectangle(x, foot - height * 0.5, x + height * 0.16, foot, mix(cloth, (30, 30, 50), 0.7))
        canvas.rectangle(x - 0.01, foot - height * 0.86, x + height * 0.18, foot - height * 0.45, cloth)
        canvas.blob(x + height * 0.08, foot - height * 0.93, height * 0.07, (190, 150, 125), chance, 8)
    if chance.happens(0.08):
        side, width, top = chance.choice((0, 1)), chance.uniform(0.06, 0.16), chance.uniform(0.5, 0.75)
        left = -0.05 if side == 0 else 1.05 - width
        canvas.rectangle(left, top, left + width, 1.0, _any_colour(chance))


def develop(canvas: Canvas, resolution: int, chance: Chance) -> NDArray[np.uint8]:
    """The camera: light across the picture, blur, contrast, colour cast and noise, all in whole numbers.

    Args:
        canvas: drawn at twice the resolution.
        resolution: pixels per side of the result.
        chance: the stream of this picture.

    Returns:
        uint8 (resolution, resolution, 3) RGB.
    """
    fine = canvas.pixels().reshape(resolution, 2, resolution, 2, 3).astype(np.uint16)
    picture = ((fine[:, 0, :, 0] + fine[:, 1, :, 0] + fine[:, 0, :, 1] + fine[:, 1, :, 1] + 2) >> 2).astype(np.int32)
    # A pass of (1, 2, 1) / 4 spreads by one pixel; the count grows with the resolution so that the look stays.
    blur = chance.choice((0, 0, 0, 0, 1))
    for _ in range((blur * resolution * resolution + 96 * 48) // (96 * 96)):
        picture[1:-1] = (picture[:-2] + 2 * picture[1:-1] + picture[2:] + 2) >> 2
        picture[:, 1:-1] = (picture[:, :-2] + 2 * picture[:, 1:-1] + picture[:, 2:] + 2) >> 2
    # Light falls off across the picture: a factor in 1/256 that changes along a random direction.
    across, down = chance.integer(-35, 35), chance.integer(-35, 35)
    ramp = np.arange(resolution, dtype=np.int32) * 256 // resolution - 128
    contrast = chance.integer(225, 285)
    factor = contrast * (256 + ((across * ramp[None, :] + down * ramp[:, None]) >> 8)) >> 8
    middle = chance.integer(100, 140)
    bright = chance.integer(112, 142)
    tint = np.array([bright + chance.integer(-8, 8) for _ in range(3)], np.int32)
    picture = ((picture - middle) * factor[:, :, None] >> 8) + tint
    # Four uniform bytes added are close to a normal deviate of standard deviation 148.
    strength = chance.choice((1, 1, 1, 2, 3))
    count = resolution * resolution * 3
    noise = chance.bytes(count * 4).reshape(4, count)
    total = noise[0].astype(np.int32) + noise[1] + noise[2] + noise[3] - 510
    picture += (total * strength >> 7).reshape(resolution, resolution, 3)
    result: NDArray[np.uint8] = np.clip(picture, 0, 255).astype(np.uint8)
    return result
