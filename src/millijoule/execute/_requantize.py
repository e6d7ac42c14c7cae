"""`arithmetic.requantize` for whole layers, vectorised in float64 where that is provably exact.

Let ``real = multiplier * 2**(shift - 31)``. A product ``sum * real`` is a multiple of 2**(shift - 31). While the shift
is at least -12 every such product below 2**9 in magnitude, half and zero point added, fits the 53 bits of a float64:
it is computed without any rounding. Products above 2**9 may round, but monotonically, and the int8 clamp cuts them
anyway. Channels with smaller shifts (dead ones), and those with results beyond 32 bits, which lose their upper bits, go
through the definition itself, in 64-bit integers.

Rounding "mulhi" has products that are multiples of 2**-32, so that this holds for all of its multipliers.

Rounding "double" first rounds ``sum * multiplier * 2**(left - 31)`` to an integer with halves up; below 2**21 that
needs 52 bits, above it the second shift by at most 12 leaves at least 2**9, which the clamp cuts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from millijoule.graph import arithmetic

__all__ = ["Requantizer"]

Array = npt.NDArray[Any]

SMALLEST_SHIFT = -12


class Requantizer:
    """Turns exact sums into int8: ``clamp(requantize(sum + offset) + zero)`` per output channel.

    Args:
        reals: multiplier of each channel, ``s_x * s_w / s_y``.
        offset: integers added to the sums (folded bias), one per channel, below 2**31 in magnitude.
        bound: largest magnitude that sum + offset can reach, per channel.
        zero: zero point of the result.
        bounds: clamp of the result.
        rounding: as in `arithmetic.requantize`.
        tile: how often the channels repeat along a row of sums.
    """

    def __init__(
        self,
        reals: npt.NDArray[np.float64],
        offset: npt.NDArray[np.int64],
        bound: npt.NDArray[np.int64],
        zero: int,
        bounds: tuple[int, int],
        rounding: str,
        tile: int = 1,
    ) -> None:
        self.multiplier, self.shift = arithmetic.multipliers(reals, rounding)
        self.channels, self.zero, self.bounds, self.rounding = len(offset), zero, bounds, rounding
        shift = self.shift.astype(np.int64)
        multiplier = self.multiplier.astype(np.float64)
        overflow = bound.astype(object) * (1 << np.maximum(shift, 0).astype(object)) >= 2**31
        # what leaves 32 bits loses its upper ones: before the product, or ("single") in the result
        if rounding == "single":
            overflow = bound.astype(np.float64) * reals >= 2.0**30
        slow = (shift < SMALLEST_SHIFT) | overflow.astype(bool)
        self.slow = np.flatnonzero(slow & (self.multiplier > 0))
        self.offset = np.tile(offset.astype(np.float64), tile)
        if rounding == "single":
            self.first = np.tile(multiplier * 2.0 ** (shift - 31), tile)
        elif rounding == "mulhi":
            self.first = np.tile(multiplier * 2.0 ** (shift - 32), tile)
        else:
            self.first = np.tile(multiplier * 2.0 ** (np.maximum(shift, 0) - 31), tile)
        self.second = np.tile(2.0 ** np.minimum(shift, 0).astype(np.float64), tile)

    def __call__(self, sums: Array) -> npt.NDArray[np.int8]:
        """Requantises sums of shape (rows, tile * channels), float32 or float64 holding integers."""
        y = np.add(sums, self.offset, dtype=np.float64)
        exact = y.reshape(-1, self.channels)[:, self.slow].astype(np.int64) if self.slow.size else None
        low, high = self.bounds
        y *= self.first
        if self.rounding == "double":
            y += 0.5
            np.floor(y, out=y)
            y *= self.second
            half = np.copysign(0.5, y)
            y += half
            np.trunc(y, out=y)
            y += self.zero + 128
        else:
            y += self.zero + 128.5
        np.clip(y, low + 128, high + 128.5, out=y)  # at least 0, so that the conversion below is a floor
        stored = y.astype(np.uint8)
        stored ^= 0x80
        result = stored.view(np.int8)
        if exact is not None:
            columns = arithmetic.requantize(exact, self.multiplier[self.slow], self.shift[self.slow], self.rounding)
            result.reshape(-1, self.channels)[:, self.slow] = np.clip(columns.astype(np.int64) + self.zero, low, high)
        return result
