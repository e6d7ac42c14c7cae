"""Weights of 4 bits: unpacked on this computer and on both cores to the lanes that the products read."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from millijoule.compile.lower_rows import pack_lanes
from millijoule.kernels import DENSE_INNER, DENSE_LANES, DENSE_NIBBLES, UNPACK, pack_lane_nibbles
from timeless import timeless

from .inner import GUARD, ROUNDINGS, benchmark, emulated, host_libraries

bench = benchmark("kernels")
UPS = range(4)


def every_nibble() -> np.ndarray:
    """All pairs of weights in one lane, beside every weight in the other one: (2 channels, numbers)."""
    pairs = np.array([(a, b) for a in range(-8, 8) for b in range(-8, 8)], np.int8).T
    return np.concatenate([np.repeat(pairs, 2, axis=1), np.repeat(pairs[::-1, ::-1], 3, axis=1)], axis=1)


def lanes(weights: np.ndarray) -> np.ndarray:
    """The words of lanes of weights (channels, numbers)."""
    numbers = weights.shape[1]
    return pack_lanes(weights, np.concatenate([np.arange(numbers), np.full(numbers % 2, -1)]))


@dataclass
class Rows:
    """Weights (channels, numbers) of 4 bits, packed, and what they must become."""

    weights: np.ndarray
    up: int

    @property
    def depth(self) -> int:
        return -(-self.weights.shape[1] // 2)

    @property
    def rows(self) -> int:
        return -(-len(self.weights) // 2)

    @property
    def packed(self) -> np.ndarray:
        return pack_lane_nibbles(lanes(self.weights), self.depth)

    @property
    def expected(self) -> np.ndarray:
        return lanes((self.weights << self.up).astype(np.int8))


def cases(rng: np.random.Generator, count: int) -> list[Rows]:
    """All values with every shift, then random sizes."""
    found = [Rows(every_nibble(), up) for up in UPS]
    for _ in range(count):
        size = int(rng.integers(1, 12)), int(rng.integers(1, rng.choice([9, 70])))
        found.append(Rows(rng.integers(-8, 8, size).astype(np.int8), int(rng.integers(4))))
    return found


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ctypes.CDLL]:
    """The C for this computer by rounding rule; undefined behaviour stops the program."""
    return host_libraries(tmp_path_factory.mktemp("unpack"), (UNPACK, DENSE_NIBBLES.name, DENSE_INNER))


def pointers(arrays: Sequence[np.ndarray]) -> list[ctypes.c_void_p]:
    return [ctypes.c_void_p(array.ctypes.data) for array in arrays]


def test_eight_weights_take_a_word() -> None:
    for case in cases(np.random.default_rng(0), 100):
        assert case.packed.size == case.rows * ((case.depth + 1) // 2)
    with pytest.raises(AssertionError, match="4 bits"):
        pack_lane_nibbles(lanes(np.array([[3, 8], [0, 0]], np.int8)), 1)


def test_c_unpacks_what_was_packed(hosts: dict[str, ctypes.CDLL]) -> None:
    for case in cases(np.random.default_rng(1), 400):
        packed, words = case.packed, np.full(case.expected.size + 2, 0xA5A5A5A5, np.uint32)
        hosts["single"].mj_unpack_lanes(*pointers([packed, words]), case.rows, case.depth, case.up)
        np.testing.assert_array_equal(words[:-2], case.expected)
        assert (words[-2:] == 0xA5A5A5A5).all()


@emulated
@pytest.mark.parametrize(("board", "defines"), [("stm32l4r9i", {}), ("stm32h7b3i", {"MJ_DSP_ASSEMBLY": "1"})])
def test_the_cores_unpack_what_was_packed(board: str, defines: dict[str, str]) -> None:
    machine = bench.KernelMachine(board, "single", defines)
    timeless(machine.machine)
    for case in cases(np.random.default_rng(2), 60):
        words = np.zeros(case.expected.size, np.uint32)
        machine.call(UNPACK, bench.constant(case.packed), words, case.rows, case.depth, case.up)
        np.testing.assert_array_equal(words, case.expected)


@emulated
@pytest.mark.parametrize("board", ["stm32l4r9i", "stm32h7b3i"])
def test_a_weight_costs_less_than_two_cycles(board: str) -> None:
    case = Rows(np.random.default_rng(3).integers(-8, 8, (64, 96)).astype(np.int8), 0)
    words = np.zeros(case.expected.size, np.uint32)
    cost = bench.KernelMachine(board).call(UNPACK, bench.constant(case.packed), words, case.rows, case.depth, 0)
    assert cost.cycles < 2 * case.weights.size


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_dense_layers_give_the_same_from_half_the_bytes(rounding: str, hosts: dict[str, ctypes.CDLL]) -> None:
    rng = np.random.default_rng(3)
    for _ in range(150):
        numbers, features, up = int(rng.integers(1, 100)), int(rng.integers(1, 14)), int(rng.integers(4))
        tile = int(rng.choice([4, 8, features + features % 2]))
        weights = rng.integers(-8, 8, (features, numbers)).astype(np.int8)
        data = rng.integers(-128, 128, numbers).astype(np.int8)
        pairs = np.zeros((-(-features // 2), 8), np.int32)
        bias = rng.integers(-999, 999, len(pairs) * 2).astype(np.int32)
        pairs[:, 0], pairs[:, 1] = bias[0::2], 256 * bias[1::2] + bias[0::2]
        pairs[:, [2, 5]] = rng.integers(1 << 22, 1 << 27, (len(pairs), 2))
        pairs[:, [4, 7]] = 0 if rounding == "mulhi" else 1
        packed = DENSE_NIBBLES.packed(weights)
        whole = DENSE_LANES.packed((weights << up).astype(np.int8))
        assert packed.size * 2 == whole.size
        y = np.full((2, features + 4), GUARD, np.uint8).view(np.int8)
        scratch = np.full(-(-numbers // 8) * (8 + 4 * min(tile, features + features % 2)) + 2, -23131, np.int16)
        sizes = (numbers, features, -100, 120)
        place = ctypes.c_void_p(scratch.ctypes.data)
        hosts[rounding].mj_dense_s4_lanes(*pointers([data, packed, pairs, y[0]]), *sizes, place, up, tile)
        assert (scratch[-2:] == -23131).all()
        # one pair of features at a time, from words that were never packed
        depth = -(-numbers // 8) * 4
        column = np.zeros(2 * depth, np.int16)
        column[:numbers] = data
        x = np.ascontiguousarray(column.reshape(-1, 4)[:, [0, 2, 1, 3]])
        dense = Dense(x.ctypes.data, whole.ctypes.data, pairs.ctypes.data, y[1].ctypes.data, depth, *sizes[1:])
        hosts[rounding].mj_dense_lanes(ctypes.byref(dense))
        np.testing.assert_array_equal(y[0], y[1])


class Dense(ctypes.Structure):
    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("x", "weights", "pairs", "y")],
        *[(name, ctypes.c_int32) for name in ("depth", "features", "low", "high")],
    ]
