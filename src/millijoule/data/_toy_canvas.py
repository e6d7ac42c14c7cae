"""A picture filled with flat polygons in whole numbers, so that it is the same on every machine.

Drawing libraries change which pixels on a polygon's edge are filled from version to version (OpenCV 4.10 and 4.12 do
not agree), hence this small one: all polygons of a picture are cut into rows at once, and where they overlap the one
drawn last is seen.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from millijoule.data._chance import Chance
from millijoule.data._toy_shapes import circle

__all__ = ["Canvas", "Colour"]

Colour = tuple[int, int, int]

_BITS = 4  # corners lie on sixteenths of a pixel
_HALF = 1 << (_BITS - 1)
_REACH = 1 << 19  # corners are kept within this many sixteenths of the picture's left edge
_FIELD = 21  # bits of a crossing's position in the sorting key


class Canvas:
    """A square picture of `size` pixels a side, at most 4096, drawn in coordinates 0 to 1 (right, down).

    Attributes:
        background: uint8 (size, size, 3), seen where no polygon lies.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.background: NDArray[np.uint8] = np.zeros((size, size, 3), np.uint8)
        self._corners: list[tuple[float, float]] = []
        self._counts: list[int] = []
        self._colours: list[Colour] = [(0, 0, 0)]

    def polygon(self, corners: list[tuple[float, float]], colour: Colour) -> None:
        """Adds a polygon (even-odd rule) on top of all before it."""
        self._corners.extend(corners)
        self._counts.append(len(corners))
        self._colours.append(colour)

    def rectangle(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        """Adds an upright rectangle."""
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], colour)

    def blob(self, x: float, y: float, radius: float, colour: Colour, chance: Chance, count: int = 11) -> None:
        """Adds an uneven round shape, such as the crown of a tree."""
        corners = []
        for right, up in circle(count):
            reach = radius * chance.uniform(0.75, 1.1)
            corners.append((x + reach * right, y + reach * up))
        self.polygon(corners, colour)

    def pixels(self) -> NDArray[np.uint8]:
        """The picture, uint8 (size, size, 3): a pixel has the colour of the last polygon that covers its centre."""
        result: NDArray[np.uint8] = self.background.copy()
        if not self._counts:
            return result
        seen = np.zeros(self.size * self.size, np.uint16)
        first, length, polygon = self._spans()
        ends = np.cumsum(length)
        places = np.arange(int(ends[-1]) if len(ends) else 0) + np.repeat(first - (ends - length), length)
        # In drawing order: of equal places the last value stays.
        seen[places] = np.repeat((polygon + 1).astype(np.uint16), length)
        colours = np.array(self._colours, np.int64).astype(np.uint8)
        covered = seen.reshape(self.size, self.size, 1) > 0
        np.copyto(result, np.take(colours, seen, axis=0).reshape(result.shape), where=covered)
        return result

    def _spans(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Runs of pixels: index of the first, number of pixels, polygon; in drawing order."""
        scaled = np.array(self._corners, np.float64) * (self.size << _BITS)
        points = np.clip(np.floor(scaled), -_REACH, _REACH).astype(np.int64)
        counts = np.array(self._counts, np.int64)
        owner = np.repeat(np.arange(len(counts)), counts)
        following = np.arange(1, len(points) + 1)
        last = np.cumsum(counts) - 1
        following[last] = last - counts + 1
        x0, y0, x1, y1 = points[:, 0], points[:, 1], points[following, 0], points[following, 1]
        down = y0 <= y1
        x0, y0, x1, y1 = np.where(down, x0, x1), np.where(down, y0, y1), np.where(down, x1, x0), np.where(down, y1, y0)
        # An edge crosses the rows whose centres lie in [y0, y1): every row is crossed an even number of times.
        top = np.clip((y0 + _HALF - 1) >> _BITS, 0, self.size)
        rows = np.clip((y1 + _HALF - 1) >> _BITS, 0, self.size) - top
        edge = np.repeat(np.arange(len(rows)), rows)
        row = np.arange(len(edge)) - np.repeat(np.cumsum(rows) - rows, rows) + top[edge]
        centre = (row << _BITS) + _HALF
        crossing = x0[edge] + (centre - y0[edge]) * (x1 - x0)[edge] // (y1 - y0)[edge]
        key = np.sort((owner[edge] * self.size + row) << _FIELD | (crossing + _REACH))
        enter, leave = key[0::2], key[1::2]
        mask = (1 << _FIELD) - 1
        start = np.clip(((enter & mask) - _REACH + _HALF - 1) >> _BITS, 0, self.size)
        end = np.clip(((leave & mask) - _REACH + _HALF - 1) >> _BITS, 0, self.size)
        polygon, line = np.divmod(enter >> _FIELD, self.size)
        return line * self.size + start, end - start, polygon
