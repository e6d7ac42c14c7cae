"""Rows of depthwise convolutions: C on the host and assembler text on the emulated cores, against numpy."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from millijoule.kernels import headers, source
from millijoule.kernels.assembly import CORES, assembly_source
from timeless import timeless

from .inner import ROUNDINGS, emulated, host_libraries, needs_gcc, requantized

SQUARE = ((3, 3), (5, 5), (7, 7))
WINDOWS = (
    *SQUARE,
    (1, 3),
    (3, 1),
    (1, 5),
    (5, 1),
    (1, 7),
    (7, 1),
    (3, 5),
    (5, 3),
    (4, 4),
    (1, 1),
    (2, 6),
    (6, 2),
    (7, 6),
)
SIZED = {
    f"mj_filter_row_{size[0]}x{size[1]}_s{stride}_p{phase}": (size, stride, phase)
    for size in WINDOWS
    for stride in (1, 2)
    for phase in (0, 1)
}
NAMES = ("mj_filter_row_any", *SIZED)
# the C of all sizes is the same inline function
IN_C = (
    "mj_filter_row_any",
    *(name for name, (size, _, _) in SIZED.items() if size in SQUARE),
    *(f"mj_filter_row_{window}" for window in ("1x5_s1_p1", "7x1_s2_p1", "2x6_s2_p0")),
)
FULL = (-128, 127)
GUARD = 0x5A5A
POINTERS = ("planes", "filters", "groups")
NUMBERS = ("pixels", "channels", "plane", "group", "top", "slots", "width", "stride", "phase", "filter_bytes")


@dataclass
class Case:
    """Arguments of one call and what it must give.

    planes: int16 (channels, column pairs, slots, 2), with spare words behind every plane; filters: int32 (channels,
    words); expected: int16 as in memory, with guards around; wanted: where bytes are decided.
    """

    name: str
    planes: np.ndarray
    filters: np.ndarray
    expected: np.ndarray
    wanted: np.ndarray
    numbers: dict[str, int]
    bounds: tuple[int, int]

    def fields(self, planes: int, filters: int, groups: int) -> list[int]:
        """The members of mj_filter_row; `groups` is where `expected` begins, guards included."""
        low, high = ((bound & 0xFFFF) * 0x10001 for bound in self.bounds)
        return [planes, filters, groups + 16, *(self.numbers[name] for name in NUMBERS), low, high]

    def check(self, got: np.ndarray) -> None:
        bad = (got != self.expected) & self.wanted
        assert not bad.any(), f"{self.name} {self.numbers} {self.bounds}: {np.flatnonzero(bad)[:8]}"


def packed_taps(taps: np.ndarray) -> np.ndarray:
    """Taps (channels, height, width) as words, int32 (channels, words)."""
    channels, height, width = taps.shape
    if width == 3:
        lanes = taps[:, :, [0, 1, 1, 2]]
    else:
        lanes = np.zeros((channels, height, width + width % 2), np.int16)
        lanes[:, :, :width] = taps
    return np.ascontiguousarray(lanes.astype(np.int16)).reshape(channels, -1).view(np.int32)


def random_case(rng: np.random.Generator, name: str, rounding: str) -> Case:
    channels, pixels = int(rng.integers(1, 10)), int(rng.integers(1, 41))
    if name in SIZED:
        (height, width), stride, phase = SIZED[name]
    else:
        stride, phase = int(rng.integers(1, 3)), int(rng.integers(2))
        height, width = rng.integers(1, rng.choice([8, 8, 8, 15]), 2).tolist()
    top = int(rng.integers(height))
    pairs = -(-(phase + stride * (-(-pixels // 4) * 4 - 1) + width) // 2)
    shape = (channels, pairs, height, 2)
    kind = int(rng.integers(4))
    data = rng.choice([-128, 127], shape) if kind == 0 else rng.integers(-128, 128, shape)
    shape = (channels, height, width)
    taps = rng.choice([-128, 127], shape) if kind in (0, 1) else rng.integers(-128, 128, shape)
    by_column = data.transpose(0, 1, 3, 2).reshape(channels, -1, height)  # (channels, columns, slots)
    starts = phase + stride * np.arange(pixels)
    sums = np.zeros((channels, pixels), np.int64)
    for row in range(height):
        for column in range(width):
            sums += by_column[:, starts + column, (top + row) % height] * taps[:, row, column, None]
    # assembler text of rule double: sums below 2^30, shifts as with rule single
    limited = rounding == "double" and name in SIZED
    bias = rng.integers(-(2**30), 2**30, channels) >> rng.integers(limited, 25, channels)
    sums += bias[:, None]
    shift = rng.integers(1, 23, channels) if rounding == "single" or limited else rng.integers(0, 32, channels)
    zero = rng.integers(-128, 128, channels)
    addend = (2 * zero + 1) << (shift - 1) if rounding == "single" else zero
    # the compiler proves that results fit into 16 bits
    places = {"single": 32 + shift, "mulhi": np.full(channels, 32), "double": 31 + shift}[rounding]
    limit = np.minimum((32000 << places.astype(object)) // np.maximum(abs(sums).max(axis=1), 1), 2**31 - 1)
    multiplier = (limit.astype(np.int64) * rng.choice([1, 1, 0.6, 0.01], channels)).astype(np.int64)
    if rng.integers(2) == 0:  # most results within the bounds
        multiplier //= 200
    bounds = FULL if rng.integers(3) else tuple(sorted(int(v) for v in rng.integers(-128, 128, 2)))
    values = requantized(sums, multiplier[:, None], addend[:, None], shift[:, None], rounding)
    assert abs(values).max() <= 32767
    head = np.stack([bias, multiplier, addend, shift], axis=1).astype(np.int32)
    filters = np.concatenate([head, packed_taps(taps), np.full((channels, 1), GUARD, np.int32)], axis=1)
    depth = (channels + 1) // 2 + int(rng.integers(2))
    groups = -(-pixels // 4)
    expected = np.full((8 + groups * depth * 8 + 8,), GUARD, np.int16)
    wanted = np.ones(expected.shape, bool)
    inside, decided = (array[8:-8].reshape(groups, depth, 4, 2) for array in (expected, wanted))
    values = np.clip(values, *bounds)
    for channel in range(channels):
        where = inside[:, channel // 2, :, channel % 2]
        where[np.arange(pixels) // 4, np.arange(pixels) % 4] = values[channel]
        decided[-1, channel // 2, pixels - 4 * (groups - 1) :, channel % 2] = False
    planes = np.full((channels, pairs * height + 1, 2), GUARD, np.int16)
    planes[:, :-1] = data.reshape(channels, -1, 2)
    numbers = [pixels, channels, planes[0].nbytes, depth * 16, top, height, width, stride, phase, filters[0].nbytes]
    return Case(name, planes, filters, expected, wanted, dict(zip(NUMBERS, numbers, strict=True)), bounds)  # type: ignore[arg-type]


class Row(ctypes.Structure):
    _fields_ = [
        *[(name, ctypes.c_void_p) for name in POINTERS],
        *[(name, ctypes.c_int32) for name in NUMBERS],
        ("low", ctypes.c_uint32),
        ("high", ctypes.c_uint32),
    ]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ctypes.CDLL]:
    """The C files for the host, by rounding rule; undefined behaviour stops the program."""
    return host_libraries(tmp_path_factory.mktemp("filter_row"), IN_C)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("name", IN_C)
def test_c_gives_what_numpy_gives(name: str, rounding: str, host: dict[str, ctypes.CDLL]) -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        case = random_case(rng, name, rounding)
        before = case.planes.copy(), case.filters.copy()
        got = np.full_like(case.expected, GUARD)
        arrays = (case.planes, case.filters, got)
        getattr(host[rounding], name)(ctypes.byref(Row(*case.fields(*(array.ctypes.data for array in arrays)))))
        case.check(got)
        np.testing.assert_array_equal(case.planes, before[0])
        np.testing.assert_array_equal(case.filters, before[1])


FIRMWARE = """
#include "mj_rows.h"
extern uint32_t mj_stack_top[];
void Reset_Handler(void);
void mj_run_cases(void (*const *kernels)(const mj_filter_row *), const mj_filter_row *rows, int32_t count);
void mj_run_cases(void (*const *kernels)(const mj_filter_row *), const mj_filter_row *rows, int32_t count)
{
    for (int32_t i = 0; i < count; ++i) {
        kernels[i](&rows[i]);
    }
}
void Reset_Handler(void)
{
    for (;;) {
    }
}
__attribute__((section(".isr_vector"), used)) const void *const mj_vectors[] = {
    mj_stack_top, (const void *)Reset_Handler, (const void *)mj_run_cases,
    %s
};
"""


class Emulated:
    """A board whose firmware is the kernels; many cases run in one call."""

    def __init__(self, core: str, rounding: str, compiler: str = "zig") -> None:
        from millijoule.boards import firmware_sources, load_board
        from millijoule.build.board import build_elf
        from millijoule.emulate import Machine

        self.board = load_board({"cortex-m4": "stm32l4r9i", "cortex-m7": "stm32h7b3i"}[core])
        files = {**headers(), "memory.c": firmware_sources(self.board)["memory.c"]}
        files |= {name: text for name, text in firmware_sources(self.board).items() if name.endswith(".h")}
        for name in NAMES:
            text = assembly_source(name, core, rounding)
            files |= {f"{name}.c": source(name)} if text is None else {f"{name}.S": text}
        files["start.c"] = FIRMWARE % ",\n    ".join(f"(const void *){name}" for name in NAMES)
        macros = {f"MJ_ROUNDING_{rounding.upper()}": "1"}
        image = build_elf(files, self.board, compiler=compiler, defines=macros, strict=True)
        self.machine = timeless(Machine(image, self.board))
        self.code = {name: image.symbol(name).address | 1 for name in NAMES}
        memory = max(self.board.memories, key=lambda memory: memory.size)
        self.base = memory.base + 65536 if memory == self.board.data_memory else memory.base
        self.room = memory.size - 65536 - 16384

    def run(self, cases: Sequence[Case]) -> int:
        """Runs and checks the first cases, as many as there is room for; returns how many."""
        blob, rows, kernels, outputs = bytearray(), b"", b"", []
        for count, case in enumerate(cases):
            parts = [case.planes.tobytes(), case.filters.tobytes(), np.full_like(case.expected, GUARD).tobytes()]
            if count and len(blob) + sum(map(len, parts)) + 68 * (count + 1) > self.room:
                break
            addresses = []
            for part in parts:
                addresses.append(self.base + len(blob))
                blob += part + bytes(-len(part) % 4)
            rows += struct.pack("<15I", *(value & 0xFFFFFFFF for value in case.fields(*addresses)))
            kernels += struct.pack("<I", self.code[case.name])
            outputs.append((case, addresses[2]))
        tables = self.base + len(blob)
        self.machine.write(self.base, bytes(blob) + kernels + rows)
        self.machine.call("mj_run_cases", tables, tables + len(kernels), len(outputs))
        after = self.machine.read(self.base, len(blob))
        for case, address in outputs:
            start = address - self.base
            case.check(np.frombuffer(after[start : start + case.expected.nbytes], np.int16))
            blob[start : start + case.expected.nbytes] = after[start : start + case.expected.nbytes]
        assert after == blob, "a kernel changed its input"
        return len(outputs)

    def run_all(self, cases: list[Case]) -> None:
        while cases:
            cases = cases[self.run(cases) :]


@emulated
@pytest.mark.parametrize("rounding", ["single", pytest.param("double", marks=pytest.mark.slow), "mulhi"])
@pytest.mark.parametrize("core", CORES)
def test_cores_give_what_numpy_gives(core: str, rounding: str) -> None:
    rng = np.random.default_rng(2)
    squares = [name for name, (size, _, _) in SIZED.items() if size in SQUARE]
    names = squares * 30 + [*SIZED] * 6 + [NAMES[0]] * 20
    Emulated(core, rounding).run_all([random_case(rng, name, rounding) for name in names])


@emulated
@needs_gcc
@pytest.mark.parametrize("core", [pytest.param("cortex-m4", marks=pytest.mark.slow), "cortex-m7"])
def test_gcc_takes_the_same_text(core: str) -> None:
    rng = np.random.default_rng(4)
    Emulated(core, "single", "gcc").run_all([random_case(rng, name, "single") for name in [*NAMES] * 5])


@emulated
@pytest.mark.slow
@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("core", CORES)
def test_many_cases(core: str, rounding: str) -> None:
    rng = np.random.default_rng(3)
    machine = Emulated(core, rounding)
    for _ in range(17):
        machine.run_all([random_case(rng, name, rounding) for name in [*SIZED] * 100])


def test_what_has_no_assembler_text_is_left_to_c() -> None:
    assert assembly_source("mj_filter_row_any", "cortex-m4", "single") is None
    assert assembly_source("mj_filter_row_3x3_s1_p0", "cortex-m0", "single") is None
