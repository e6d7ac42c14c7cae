"""How weights of two channels share a word: packed weights give the sums of the definition."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from millijoule.compile.lower_rows import lane_order, pack_lanes
from millijoule.kernels import Dims


def gathered(pixel: np.ndarray) -> list[int]:
    """The numbers of one pixel in the order of `gather` in mj_rows_s8.c, two to a word."""
    numbers, c = [], 0
    while c + 4 <= len(pixel):
        even, odd = (pixel[c], pixel[c + 2]), (pixel[c + 1], pixel[c + 3])  # SXTB16, SXTB16 with ROR 8
        numbers += [*even, *odd]
        c += 4
    while c < len(pixel):
        numbers += [pixel[c], pixel[c + 1] if c + 1 < len(pixel) else 77]  # the second half may hold anything
        c += 2
    return [int(n) for n in numbers]


def collected(window: np.ndarray) -> list[int]:
    """The numbers of one window (rows, columns, channels) in the order of `collect`."""
    numbers = []
    for row in window.reshape(len(window), -1):
        numbers += [int(n) for n in row]
        if len(row) % 2:
            numbers.append(-55)  # the number behind the window
    return numbers


def product(words: np.ndarray, numbers: Sequence[int], pair: int) -> tuple[int, int]:
    """Both sums of a pair of channels as `mj_rows.h` says: from 256 * high + low and from the signed low bytes."""
    depth = len(numbers) // 2
    high = low = 0
    for k, number in enumerate(numbers):
        word = int(words[pair * depth + k // 2])
        lane = (word >> 16 if k % 2 else word) & 0xFFFF
        lane = lane - 0x10000 if lane >= 0x8000 else lane
        byte = lane & 0xFF
        high += number * lane
        low += number * (byte - 256 if byte >= 128 else byte)
    assert (high - low) % 256 == 0
    return low, (high - low) // 256


@settings(deadline=None)
@given(
    st.integers(1, 7),
    st.integers(1, 13),
    st.none() | st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.integers(0, 2**32 - 1),
)
def test_packed_weights_give_the_sums(out: int, channels: int, kernel: tuple[int, int] | None, seed: int) -> None:
    rng = np.random.default_rng(seed)
    window = kernel or (1, 1)
    weights = rng.choice([-127, 127, 1, 0, -1, 100], (out, *window, channels)).astype(np.int8)
    weights[0::2][rng.random(weights[0::2].shape) < 0.2] = -128  # the low half of a lane may hold it
    data = rng.integers(-128, 128, (*window, channels)).astype(np.int8)
    dims = Dims(in_channels=channels, out_channels=out, kernel=window)
    order = lane_order(dims, kernel is not None)
    words = pack_lanes(weights.reshape(out, -1), order)
    numbers = collected(data) if kernel else gathered(data.ravel())
    assert len(numbers) == len(order) and len(words) == -(-out // 2) * len(order) // 2
    assert sorted(order[order >= 0]) == list(range(math.prod(window) * channels))
    expected = [int((w.astype(np.int64) * data).sum()) for w in weights] + [0] * (out % 2)
    assert [s for pair in range(-(-out // 2)) for s in product(words, numbers, pair)] == expected
