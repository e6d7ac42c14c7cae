"""Random numbers that are the same on every machine and with every version of numpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["Chance"]

Choice = TypeVar("Choice")


class Chance:
    """A stream of random numbers from the raw 64-bit words of PCG64.

    numpy promises a stable stream for its bit generators only, not for the distributions of `Generator`, so the few
    distributions needed are made here from raw words with exactly rounded operations.

    Args:
        key: integers that select the stream; the same key gives the same stream everywhere.
    """

    def __init__(self, *key: int) -> None:
        self._bits = np.random.PCG64(list(key))
        self._words: list[int] = []

    def word(self) -> int:
        """The next 64-bit word."""
        if not self._words:
            self._words = self._bits.random_raw(128).tolist()
        return self._words.pop()

    def uniform(self, low: float, high: float) -> float:
        """A number in [low, high), multiple of 2^-53 of the range."""
        return low + (high - low) * ((self.word() >> 11) * 2.0**-53)

    def integer(self, low: int, high: int) -> int:
        """An integer in [low, high], both included."""
        return low + self.word() % (high - low + 1)

    def happens(self, probability: float) -> bool:
        """True with the given probability."""
        return self.uniform(0.0, 1.0) < probability

    def choice(self, items: Sequence[Choice]) -> Choice:
        """One of the items, all equally likely."""
        return items[self.word() % len(items)]

    def bytes(self, count: int) -> NDArray[np.uint8]:
        """`count` uniform bytes, little-endian order of the raw words."""
        words = self._bits.random_raw((count + 7) // 8)
        return np.asarray(words, dtype="<u8").view(np.uint8)[:count]
