"""Products of the row engine: plain C against numpy, assembler text on the emulated cores against plain C."""

from __future__ import annotations

import ctypes
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from millijoule.kernels.assembly import assembly_source
from timeless import timeless

from .inner import (
    GUARD,
    ROUNDINGS,
    benchmark,
    call_emulated,
    call_native,
    host_libraries,
    needs_gcc,
    requantized,
    struct_of,
)

NAMES = ("mj_product_planes", "mj_product_planes_clamped", "mj_product_pixels", "mj_product_pixels_clamped")

bench = benchmark("kernel_ladder")


@dataclass
class Case:
    """One call: int16 data (groups, depth, 4 pixels, 2), weights (2 count, 2 depth) and what the structs hold."""

    planes: bool
    clamped: bool
    pixels: int
    depth: int
    count: int
    distance: int
    step: int
    offset: int  # of the result in its buffer
    data: np.ndarray
    weights: np.ndarray
    bias: np.ndarray
    requant: np.ndarray  # (count, 6) as in mj_pair
    bounds: tuple[int, int]

    @classmethod
    def random(cls, rng: np.random.Generator, planes: bool, clamped: bool, rounding: str, small: bool = False) -> Case:
        pixels = int(rng.choice([7, 14, rng.integers(1, 41)]))
        depth, count = int(rng.integers(1, 41)), int(rng.integers(1, 13))
        if small:
            pixels, depth, count = int(rng.integers(1, 14)), int(rng.integers(1, 20)), int(rng.integers(1, 4))
        if rng.integers(3) == 0:  # sizes with code of their own
            pixels, depth = 4 * int(rng.integers(1, 5)), int(rng.choice([4, 8, 15, 16]))
            pixels += int(rng.choice([0, 0, 1, 2]))
        groups, k = -(-pixels // 4), 2 * depth
        data = rng.integers(-128, 128, (groups, depth, 4, 2))
        weights = rng.integers(-127, 128, (2 * count, k))
        kind = int(rng.integers(4))
        if kind == 0:
            data, weights = rng.choice([-128, 127], data.shape), rng.choice([-127, 127], weights.shape)
        elif kind == 1:
            data[...], weights[...] = -128, rng.choice([-127, 127])
        elif kind == 2:  # small sums, which small shifts fit
            weights = rng.integers(-1, 2, weights.shape)
        if rng.integers(3) == 0:  # an odd number of values per pixel: the second half of the last word is anything
            weights[:, -1] = 0
            data[:, -1, :, 1] = rng.integers(-32768, 32768, data[:, -1, :, 1].shape)
        if rng.integers(3) == 0:  # an odd number of channels
            weights[-1] = 0
        room = (1 << 23) - 1 - 128 * np.abs(weights).sum(axis=1)
        bias = rng.integers(-9999, 9999, 2 * count) // int(rng.choice([1, 1000]))
        if rng.integers(3) == 0:  # sums at the bound
            bias = room * rng.choice([-1, 1], 2 * count)
        requant = np.zeros((count, 2, 3), dtype=np.int64)
        for channel in range(2 * count):
            most = int(abs(bias[channel]) + 128 * np.abs(weights[channel]).sum())
            requant[channel // 2, channel % 2] = cls._requant(rng, rounding, most)
        low, high = (-128, 127) if not clamped else sorted(int(v) for v in rng.integers(-128, 128, 2))
        step = 4 * int(rng.choice([3, 3, rng.integers(1, 6)])) if planes else 0
        distance = 2 * groups * step + 4 * int(rng.integers(3)) if planes else 2 * count + int(rng.integers(5))
        offset = 4 * int(rng.integers(max(1, step // 4))) if planes else int(rng.integers(4))
        return cls(
            planes, clamped, pixels, depth, count, distance, step, offset, data.astype(np.int16), weights,
            bias, requant.reshape(count, 6).astype(np.int32), (low, high),
        )  # fmt: skip

    @staticmethod
    def _requant(rng: np.random.Generator, rounding: str, most: int) -> tuple[int, int, int]:
        """Multiplier, addend and shift that keep results of sums up to `most` within int16."""
        most += 1
        zero = int(rng.integers(-128, 128))
        if rounding == "mulhi":
            largest = min(2**31 - 1, 2**32 * 32000 // most)
            return int(rng.integers(0, largest // (1 if rng.integers(2) else 64) + 1)), zero, 0
        multiplier = int(rng.integers(2**30, 2**31)) if rng.integers(4) else int(rng.choice([0, 2**30, 2**31 - 1]))
        least = 1 if rounding == "single" else 0
        half = 32 if rounding == "single" else 31
        while (most * multiplier >> half) >> least > 32000:
            least += 1
        shift = int(rng.integers(least, 23)) if rng.integers(3) else min(22, least + int(rng.integers(0, 9)))
        return (multiplier, (2 * zero + 1) << (shift - 1), shift) if rounding == "single" else (multiplier, zero, shift)

    @property
    def groups(self) -> int:
        return self.data.shape[0]

    @property
    def out_bytes(self) -> int:
        last = 2 * self.count * self.distance if self.planes else 4 * self.groups * self.distance + 2 * self.count
        return (self.offset + last + 8 + 3) // 4 * 4

    def expected(self, rounding: str) -> tuple[np.ndarray, np.ndarray]:
        """The bytes of the result, and which of them are fixed (the others may be anything)."""
        k = 2 * self.depth
        x = self.data.astype(np.int64).transpose(0, 2, 1, 3).reshape(4 * self.groups, k)
        sums = x @ self.weights.T.astype(np.int64) + self.bias
        multiplier, addend, shift = (self.requant.reshape(-1, 3)[:, i].astype(np.int64) for i in range(3))
        value = requantized(sums, multiplier, addend, shift, rounding)
        assert value[: self.pixels].min() >= -32768 and value[: self.pixels].max() <= 32767
        value = np.clip(value, *self.bounds).astype(np.int16)
        out = np.full(self.out_bytes, GUARD, dtype=np.uint8)
        fixed = np.ones(self.out_bytes, dtype=bool)
        for pixel in reversed(range(4 * self.groups)):
            for channel in range(2 * self.count):
                if self.planes:
                    at = self.offset + channel * self.distance + pixel // 2 * self.step + pixel % 2 * 2
                else:
                    at = self.offset + pixel * self.distance + channel
                size = 2 if self.planes else 1
                fixed[at : at + size] = pixel < self.pixels
                out[at : at + size] = np.frombuffer(value[pixel, channel].tobytes(), dtype=np.uint8)[:size]
        return out, fixed

    def parts(self) -> dict[str, bytes]:
        """What lies in memory."""
        return {
            "x": self.data.tobytes(),
            "weights": bench.pack_weights(self.weights),
            "pairs": bench.pack_pairs(self.bias[0::2], self.bias[1::2], self.requant),
            "out": bytes([GUARD]) * self.out_bytes,
        }

    @property
    def numbers(self) -> tuple[int, ...]:
        bounds = ((value & 0xFFFF) * 0x10001 for value in self.bounds)
        return (self.pixels, self.depth, self.count, self.distance, self.step, *bounds)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ctypes.CDLL]:
    """The plain C by rounding rule."""
    return host_libraries(tmp_path_factory.mktemp("product"), NAMES)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("name", NAMES)
def test_plain_c_is_the_contract(name: str, rounding: str, hosts: dict[str, ctypes.CDLL]) -> None:
    rng = np.random.default_rng(1)
    for number in range(60):
        case = Case.random(rng, "planes" in name, "clamped" in name, rounding)
        expected, fixed = case.expected(rounding)
        found = call_native(hosts[rounding][name], case)
        assert np.array_equal(found[fixed], expected[fixed]), f"case {number}"


def compare(machine: Any, host: ctypes.CDLL, name: str, rounding: str, total: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    done = 0
    while done < total:
        small = bool(rng.integers(2))
        size = min(total - done, 25 if small else 5)
        cases = [Case.random(rng, "planes" in name, "clamped" in name, rounding, small) for _ in range(size)]
        for number, (case, found) in enumerate(zip(cases, call_emulated(machine, cases), strict=True)):
            fixed = case.expected(rounding)[1]
            expected = call_native(host[name], case)
            assert np.array_equal(found[fixed], expected[fixed]), (
                f"case {done + number}: {case.pixels} pixels, depth {case.depth}, {case.count} pairs"
            )
        done += size


MACHINES = [(board, rounding) for board in bench.BOARDS for rounding in ROUNDINGS]


def machine_for(board: str, rounding: str, name: str, compiler: str = "zig") -> Any:
    pytest.importorskip("unicorn")
    pytest.importorskip("ziglang")
    machine = bench.RowMachine(board, name, rounding, "mj_product", compiler=compiler)
    assert machine.is_assembly
    timeless(machine.machine)
    return machine


@pytest.mark.parametrize(("board", "rounding"), MACHINES)
@pytest.mark.parametrize("name", NAMES)
def test_assembly_gives_the_bytes_of_c(name: str, board: str, rounding: str, hosts: dict[str, ctypes.CDLL]) -> None:
    compare(machine_for(board, rounding, name), hosts[rounding], name, rounding, 90, 2)


@pytest.mark.slow
@pytest.mark.parametrize(("board", "rounding"), MACHINES)
@pytest.mark.parametrize("name", NAMES)
def test_assembly_gives_the_bytes_of_c_often(
    name: str, board: str, rounding: str, hosts: dict[str, ctypes.CDLL]
) -> None:
    compare(machine_for(board, rounding, name), hosts[rounding], name, rounding, 4200, 3)


@pytest.mark.parametrize("part", ["x", "weights", "pairs"])
@pytest.mark.parametrize("name", ["mj_product_planes", "mj_product_pixels_clamped"])
@pytest.mark.parametrize("board", bench.BOARDS)
def test_assembly_reads_nothing_behind_its_buffers(
    board: str, name: str, part: str, hosts: dict[str, ctypes.CDLL]
) -> None:
    machine = machine_for(board, "single", name)
    end = machine.board.data_memory.end  # nothing answers behind it
    rng = np.random.default_rng(4)
    for number in range(40):
        case = Case.random(rng, "planes" in name, "clamped" in name, "single", small=True)
        where, free = {}, machine.ram + 64
        for other, data in case.parts().items():
            where[other] = end - len(data) if other == part else free
            machine.machine.write(where[other], data)
            free += -(-len(data) // 4) * 4 if other != part else 0
        machine.machine.write(machine.ram, struct_of(case, where))
        machine.call(machine.ram)
        found = np.frombuffer(machine.machine.read(where["out"], case.out_bytes), dtype=np.uint8)
        fixed = case.expected("single")[1]
        assert np.array_equal(found[fixed], call_native(hosts["single"][name], case)[fixed]), f"case {number}"


@needs_gcc
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_gnu_assembler_reads_the_text(rounding: str, tmp_path: Path) -> None:
    for core, unit in (("cortex-m4", "fpv4-sp-d16"), ("cortex-m7", "fpv5-d16")):
        for name in NAMES:
            text = assembly_source(name, core, rounding)
            assert text is not None
            path = tmp_path / f"{name}.S"
            path.write_text(text)
            flags = [f"-mcpu={core}", "-mthumb", "-mfloat-abi=hard", f"-mfpu={unit}", "-Wa,--fatal-warnings"]
            command = ["arm-none-eabi-gcc", *flags, "-c", str(path), "-o", str(tmp_path / "product.o")]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr


@needs_gcc
@pytest.mark.parametrize("board", bench.BOARDS)
def test_gnu_assembler_makes_the_same_of_it(board: str, hosts: dict[str, ctypes.CDLL]) -> None:
    for name in ("mj_product_planes", "mj_product_pixels_clamped"):
        compare(machine_for(board, "single", name, "gcc"), hosts["single"], name, "single", 40, 5)


def test_other_names_and_cores_have_no_assembly() -> None:
    assert assembly_source("mj_product_planes", "cortex-m3", "single") is None
    assert assembly_source("mj_product_planes", "cortex-m4", "third") is None
    assert assembly_source("mj_pointwise_s8", "cortex-m4", "single") is None
