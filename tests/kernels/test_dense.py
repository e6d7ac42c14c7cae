"""Dense layers on packed lanes: plain C against numpy, assembler text on the emulated cores against numpy."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from millijoule.kernels import DENSE_LANES
from millijoule.kernels.assembly import assembly_source
from timeless import timeless

from . import inner
from .inner import GUARD, ROUNDINGS, benchmark, call_emulated, call_native, emulated, host_libraries, needs_gcc

bench = benchmark("kernel_ladder")


@dataclass
class Case:
    """A layer: int8 data (numbers,), weights (features, numbers), requant (features, 3), what it must give."""

    data: np.ndarray
    weights: np.ndarray
    bias: np.ndarray
    requant: np.ndarray
    bounds: tuple[int, int]
    expected: np.ndarray

    offset = 0

    @property
    def words(self) -> np.ndarray:
        """The data as in mj_dense.h, uint32."""
        full = np.zeros(-(-len(self.data) // 8) * 8, np.int16)
        full[: len(self.data)] = self.data
        return full.reshape(-1, 4)[:, [0, 2, 1, 3]].ravel().view(np.uint32)

    @property
    def pairs(self) -> bytes:
        """The mj_pair of every two features."""
        odd = len(self.bias) % 2
        bias, requant = np.pad(self.bias, (0, odd)), np.pad(self.requant, ((0, odd), (0, 0)))
        return bench.pack_pairs(bias[0::2], bias[1::2], requant.reshape(-1, 6))

    @property
    def numbers(self) -> tuple[int, ...]:
        return (len(self.words), len(self.expected), *self.bounds)

    def parts(self) -> dict[str, bytes]:
        """What lies in memory; four bytes or more behind the result."""
        return {
            "x": self.words.tobytes(),
            "weights": bench.pack_dense(self.weights).tobytes(),
            "pairs": self.pairs,
            "out": bytes([GUARD]) * ((len(self.expected) + 7) // 4 * 4),
        }

    def check(self, out: np.ndarray) -> None:
        """out: the buffer of the result, uint8."""
        np.testing.assert_array_equal(out.view(np.int8)[: len(self.expected)], self.expected)
        assert (out[len(self.expected) :] == GUARD).all()


def requantized(sums: np.ndarray, requant: np.ndarray, rounding: str) -> np.ndarray:
    """By the definitions in mj_dense.h, in 64 bits."""
    multiplier, addend, shift = requant.T
    if rounding != "double":
        return inner.requantized(sums, multiplier, addend, shift, rounding)
    return (((2 * sums * multiplier + (1 << 31)) >> 32) + addend - (sums < 0)) >> shift


def random_case(rng: np.random.Generator, rounding: str, largest: int = 150) -> Case:
    numbers, features = int(rng.integers(1, largest)), int(rng.integers(1, rng.choice([6, 20])))
    kind = int(rng.integers(4))
    data = rng.choice([-128, 127], numbers) if kind == 0 else rng.integers(-128, 128, numbers)
    shape = (features, numbers)
    weights = rng.choice([-127, 127], shape) if kind in (0, 1) else rng.integers(-127, 128, shape)
    if numbers > 500:  # sums stay below the limit
        data //= 4
    products = weights @ data
    room = (1 << 23) - 1 - abs(products)  # to the limit of sums
    bias = (room * rng.choice([-1, 1, 0.01, -0.001], features)).astype(np.int64)
    bias = np.where((rng.random(features) < 0.2) & (products < 0), -(1 << 23) - products, bias)
    sums = products + bias
    shift = rng.integers(1, 23, features) if rounding != "mulhi" else np.zeros(features, np.int64)
    zero = int(rng.integers(-128, 128))
    addend = np.full(features, zero) if rounding == "mulhi" else (2 * zero + 1) << (shift - 1)
    places = 32 + shift - (rounding == "double")
    # the compiler proves that results fit into 16 bits
    limit = np.minimum((32000 << places.astype(object)) // np.maximum(abs(sums), 1), 2**31 - 1).astype(np.int64)
    multiplier = (limit * rng.choice([1, 0.3, 0.005, 0.002], features)).astype(np.int64)
    requant = np.stack([multiplier, addend, shift], axis=1)
    bounds = (-128, 127) if rng.integers(2) else tuple(sorted(int(v) for v in rng.integers(-128, 128, 2)))
    values = requantized(sums, requant, rounding)
    assert abs(values).max() <= 32767
    expected = np.clip(values, *bounds).astype(np.int8)
    return Case(data.astype(np.int8), weights.astype(np.int8), bias.astype(np.int32), requant.astype(np.int32),
                bounds, expected)  # fmt: skip


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ctypes.CDLL]:
    """The C for this computer by rounding rule; undefined behaviour stops the program."""
    return host_libraries(tmp_path_factory.mktemp("dense"), ("mj_dense_lanes", DENSE_LANES.name))


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_c_gives_what_numpy_gives(rounding: str, hosts: dict[str, ctypes.CDLL]) -> None:
    rng = np.random.default_rng(1)
    for number in range(700):
        case = random_case(rng, rounding, 150 if number % 10 else 1300)
        case.check(call_native(hosts[rounding].mj_dense_lanes, case))


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_layer_with_weights_as_the_registry_packs_them(rounding: str, hosts: dict[str, ctypes.CDLL]) -> None:
    rng = np.random.default_rng(2)
    for _ in range(200):
        case = random_case(rng, rounding)
        numbers, features = len(case.data), len(case.expected)
        weights = DENSE_LANES.packed(case.weights)
        np.testing.assert_array_equal(weights.view(np.uint32), bench.pack_dense(case.weights))
        y = np.full(features + 4, GUARD, np.uint8).view(np.int8)
        scratch = np.full(-(-numbers // 8) * 8 + 2, -23131, np.int16)
        pairs = np.frombuffer(case.pairs, np.int32)
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in (case.data, weights, pairs, y)]
        hosts[rounding].mj_dense_s8_lanes(
            *pointers, numbers, features, *case.bounds, ctypes.c_void_p(scratch.ctypes.data)
        )
        np.testing.assert_array_equal(y[:-4], case.expected)
        assert (y.view(np.uint8)[-4:] == GUARD).all()
        assert (scratch[-2:] == -23131).all()


def run_on(machine: Any, cases: list[Case]) -> None:
    """All cases in as few calls as memory allows."""
    for case, out in zip(cases, call_emulated(machine, cases), strict=True):
        case.check(out)


@emulated
@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("board", bench.BOARDS)
def test_cores_give_what_numpy_gives(board: str, rounding: str) -> None:
    rng = np.random.default_rng(3)
    machine = bench.RowMachine(board, "mj_dense_lanes", rounding, "mj_dense")
    timeless(machine.machine)
    assert machine.is_assembly
    for _ in range(10):
        run_on(machine, [random_case(rng, rounding, 100) for _ in range(40)])
    run_on(machine, [random_case(rng, rounding, 1300) for _ in range(2)])


@emulated
@pytest.mark.slow
@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("board", bench.BOARDS)
def test_many_cases(board: str, rounding: str) -> None:
    rng = np.random.default_rng(4)
    machine = bench.RowMachine(board, "mj_dense_lanes", rounding, "mj_dense")
    for _ in range(420):
        run_on(machine, [random_case(rng, rounding, 100) for _ in range(40)])


@emulated
@needs_gcc
@pytest.mark.parametrize("board", bench.BOARDS)
def test_gcc_takes_the_same_text(board: str) -> None:
    rng = np.random.default_rng(5)
    machine = bench.RowMachine(board, "mj_dense_lanes", "single", "mj_dense", compiler="gcc")
    run_on(machine, [random_case(rng, "single", 60) for _ in range(20)])


def test_other_rules_have_no_assembly() -> None:
    assert assembly_source("mj_dense_lanes", "cortex-m4", "third") is None
