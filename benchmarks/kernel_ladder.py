"""Cycles of the inner kernels of the row engine, one call each, with full traces of both cores.

    python benchmarks/kernel_ladder.py [--json FILE] [--rounding single] [--weights ram|flash] [PART OF A NAME ...]

Two figures per board: "flash" is the board as it is (code in flash behind its caches), "ideal" has memories without
wait states. Data lie in the RAM of the board; caches are warm, as in the second of two calls.
"""

from __future__ import annotations

import argparse
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from millijoule.boards import firmware_sources, load_board
from millijoule.build.board import build_elf
from millijoule.emulate import CortexM4, CortexM7, FlashInterfaceRules, FullTrace, M7MemoryRules, Machine
from millijoule.files import atomic_write_json
from millijoule.kernels import headers, source
from millijoule.kernels.assembly import assembly_source

BOARDS = ("stm32l4r9i", "stm32h7b3i")
START = """
#include <stdint.h>
#include "mj_dense.h"
extern uint32_t mj_stack_top[];
void Reset_Handler(void);
void mj_run_many(const %(struct)s *first, int32_t count);
void mj_run_many(const %(struct)s *first, int32_t count)
{
    for (int32_t i = 0; i < count; ++i) {
        %(name)s(&first[i]);
    }
}
void Reset_Handler(void)
{
    for (;;) {
    }
}
__attribute__((section(".isr_vector"), used)) const void *const mj_vectors[] = {
    mj_stack_top, (const void *)Reset_Handler, (const void *)mj_run_many, (const void *)%(name)s,
};
"""


class RowMachine:
    """An emulated board whose firmware is one kernel of the row engine.

    Args:
        board: name of the board.
        name: the kernel.
        rounding: the rule it is built for.
        argument: the struct its only argument points to.
        plain: the C, also where there is assembler text.
        text: assembler text to use instead of the registered one.
        compiler: "zig" or "gcc".
    """

    def __init__(
        self,
        board: str,
        name: str,
        rounding: str,
        argument: str,
        *,
        plain: bool = False,
        text: str | None = None,
        compiler: str = "zig",
    ) -> None:
        self.board, self.name = load_board(board), name
        text = text or (None if plain else assembly_source(name, self.board.core, rounding))
        self.is_assembly = text is not None
        files = {**headers(), f"{name}.c": source(name)} if text is None else {**headers(), f"{name}.S": text}
        own = firmware_sources(self.board)
        files |= {file: content for file, content in own.items() if file.endswith(".h") or file == "memory.c"}
        files["start.c"] = START % {"name": name, "struct": argument}
        defines = {f"MJ_ROUNDING_{rounding.upper()}": "1"}
        self.image = build_elf(files, self.board, compiler=compiler, defines=defines, strict=True)
        self.machine = Machine(self.image, self.board)
        self.ram = self.image.symbol("mj_stack_top").address + 1024  # data and stack lie below
        self.flash = self.board.flash.base + self.board.flash.size // 2

    def call(self, argument: int, name: str | None = None, *more: int) -> None:
        self.machine.call(name or self.name, argument, *more)

    def cycles(self, argument: int, *, ideal: bool = False) -> int:
        """Cycles of the second of two calls."""
        model: CortexM4 | CortexM7
        if self.board.core == "cortex-m4":
            model = CortexM4(flash=FlashInterfaceRules(wait_states=0)) if ideal else CortexM4(board=self.board)
        else:
            memory = M7MemoryRules(instruction_bytes=0, data_bytes=0)
            model = CortexM7(memory=memory) if ideal else CortexM7(board=self.board)
        with FullTrace(self.machine, model=model) as trace:
            self.call(argument)
            trace.clear()
            self.call(argument)
            return trace.result().cycles


@dataclass(frozen=True)
class Shape:
    """One row of the table: a kernel, what it does, and how its argument gets into a machine (returns its address)."""

    name: str
    title: str
    argument: str
    macs: int
    outputs: int
    place: Callable[[RowMachine, str], int]


# *** products *****


def pack_pairs(low: np.ndarray, high: np.ndarray, requant: np.ndarray) -> bytes:
    """mj_pair structs: biases of the even and odd channels, requant (pairs, 6) in the order of the struct."""
    start = np.stack([low, (256 * high.astype(np.int64) + low).astype(np.uint32).view(np.int32)], axis=1)
    return np.ascontiguousarray(np.concatenate([start, requant], axis=1), dtype=np.int32).tobytes()


def pack_weights(weights: np.ndarray) -> bytes:
    """int8 (channels, k), both even -> words of two channels in 16-bit lanes."""
    lanes = 256 * weights[1::2].astype(np.int32) + weights[0::2]
    return lanes.astype(np.int16).tobytes()


def product_struct(
    x: int, weights: int, pairs: int, out: int, sizes: tuple[int, ...], bounds: tuple[int, int]
) -> bytes:
    """mj_product; sizes: pixels, depth, count, distance, step."""
    low, high = ((value & 0xFFFF) * 0x10001 for value in bounds)
    return struct.pack("<4I5i2I", x, weights, pairs, out, *sizes, low, high)


def product(name: str, pixels: int, inner: int, channels: int) -> Shape:
    """A product of a row of `pixels` with `inner` numbers each."""
    depth, count, groups = (inner + 1) // 2, channels // 2, (pixels + 3) // 4

    def place(machine: RowMachine, weights_in: str) -> int:
        rng = np.random.default_rng(0)
        x = rng.integers(-128, 128, groups * depth * 8).astype(np.int16).tobytes()
        weights = pack_weights(rng.integers(-127, 128, (2 * count, 2 * depth)))
        requant = np.tile(np.array([1 << 30, 3 << 9, 10] * 2, dtype=np.int32), (count, 1))
        pairs = pack_pairs(*rng.integers(-999, 999, (2, count)).astype(np.int32), requant)
        planes = "planes" in name
        step, distance = 12, (24 * groups + 36 if planes else channels)
        out = machine.ram + 64
        where = out + (channels * distance if planes else 4 * groups * distance) + 64 & ~31
        addresses = []
        for part, data in (("x", x), ("pairs", pairs), ("weights", weights)):
            address = machine.flash if part == "weights" and weights_in == "flash" else where
            machine.machine.write(address, data)
            addresses.append(address)
            where += (len(data) + 31 & ~31) if address == where else 0
        sizes = (pixels, depth, count, distance, step)
        machine.machine.write(
            machine.ram, product_struct(addresses[0], addresses[2], addresses[1], out, sizes, (-128, 100))
        )
        return machine.ram

    title = f"{pixels} pixels, {inner} -> {channels}"
    return Shape(name, title, "mj_product", pixels * inner * channels, pixels * channels, place)


# *** dense layers *****


def pack_dense(weights: np.ndarray) -> np.ndarray:
    """int8 (features, numbers) -> words in the order of mj_dense.h, written down once more."""
    features, numbers = weights.shape
    full = np.zeros((features + features % 2, -(-numbers // 8) * 8), np.int64)
    full[:features, :numbers] = weights
    order = np.arange(full.shape[1]).reshape(-1, 2, 2).transpose(0, 2, 1).ravel()
    rows = np.ascontiguousarray((256 * full[1::2] + full[0::2])[:, order].astype(np.int16)).view(np.uint32)
    words = [np.stack(rows[i : i + 2], axis=1).ravel() for i in range(0, len(rows), 2)]
    return np.concatenate(words)


def dense(numbers: int, features: int) -> Shape:
    """A dense layer, without the widening of its input."""
    depth = (numbers + 7) // 8 * 4

    def place(machine: RowMachine, weights_in: str) -> int:
        rng = np.random.default_rng(0)
        x = rng.integers(-128, 128, 2 * depth).astype(np.int16).tobytes()
        weights = pack_dense(rng.integers(-127, 128, (features, numbers))).tobytes()
        count = (features + 1) // 2
        requant = np.tile(np.array([1 << 30, 3 << 9, 10] * 2, dtype=np.int32), (count, 1))
        pairs = pack_pairs(*rng.integers(-999, 999, (2, count)).astype(np.int32), requant)
        where = machine.flash if weights_in == "flash" else machine.ram + 4096 + len(x)
        parts = (machine.ram + 4096, where + len(pairs), where, machine.ram + 64)
        for address, data in zip(parts, (x, weights, pairs), strict=False):
            machine.machine.write(address, data)
        machine.machine.write(machine.ram, struct.pack("<4I4i", *parts, depth, features, -128, 100))
        return machine.ram

    title = f"{numbers} -> {features}"
    return Shape("mj_dense_lanes", title, "mj_dense", numbers * features, features, place)


# *** rows of depthwise convolutions *****


def filter_row(size: int, stride: int, phase: int, pixels: int, channels: int, width: int | None = None) -> Shape:
    """A row of a depthwise convolution with a window of size x width, or size x size."""
    width = width or size
    groups, depth = (pixels + 3) // 4, (channels + 1) // 2
    pairs = (phase + stride * (4 * groups - 1) + width + 1) // 2
    words = size * (2 if width == 3 else (width + 1) // 2)  # of taps

    def place(machine: RowMachine, weights_in: str) -> int:
        del weights_in  # the filters are made in RAM
        rng = np.random.default_rng(0)
        planes = rng.integers(-128, 128, (channels, pairs, size, 2)).astype(np.int16)
        taps = np.zeros((channels, size, 2 * words // size), np.int16)
        taps[:, :, :width] = rng.integers(-128, 128, (channels, size, width))
        if width == 3:
            taps = taps[:, :, [0, 1, 1, 2]]
        head = np.tile(np.array([777, 1 << 30, 3 << 9, 10], dtype=np.int32), (channels, 1))
        filters = np.concatenate([head, np.ascontiguousarray(taps).reshape(channels, -1).view(np.int32)], axis=1)
        addresses = [machine.ram + 64]
        for data in (planes.tobytes(), filters.tobytes()):
            machine.machine.write(addresses[-1], data)
            addresses.append(addresses[-1] + len(data) + 31 & ~31)
        numbers = (
            pixels,
            channels,
            planes[0].nbytes,
            16 * depth,
            min(1, size - 1),
            size,
            width,
            stride,
            phase,
            filters[0].nbytes,
        )
        machine.machine.write(
            machine.ram, struct.pack("<3I10i2I", *addresses, *numbers, -128 & 0xFFFF | 0xFF800000, 0x007F007F)
        )
        return machine.ram

    name = f"mj_filter_row_{size}x{width}_s{stride}_p{phase}"
    return Shape(
        name, f"{pixels} pixels, {channels} channels", "mj_filter_row", pixels * channels * size * width,
        pixels * channels, place,
    )  # fmt: skip


SHAPES: tuple[Shape, ...] = (
    dense(1280, 10),
    dense(640, 128),
    dense(128, 128),
    dense(128, 640),
    dense(8, 128),
    filter_row(3, 1, 1, 112, 16),
    filter_row(3, 1, 1, 56, 96),
    filter_row(3, 1, 1, 28, 96),
    filter_row(3, 1, 1, 14, 192),
    filter_row(3, 1, 1, 7, 480),
    filter_row(3, 1, 0, 56, 96),
    filter_row(3, 2, 0, 56, 48),
    filter_row(3, 2, 0, 14, 192),
    filter_row(3, 2, 1, 56, 48),
    filter_row(5, 1, 0, 28, 96),
    filter_row(5, 1, 0, 14, 192),
    filter_row(5, 2, 1, 28, 96),
    filter_row(7, 1, 1, 28, 96),
    *(filter_row(height, 1, 0, 28, 96, width) for height, width in ((1, 3), (3, 1), (1, 5), (5, 1), (1, 7), (7, 1))),
    *(filter_row(height, 1, 1, 28, 96, width) for height, width in ((3, 5), (5, 3), (4, 4), (2, 2))),
    product("mj_product_planes", 112, 8, 48),
    product("mj_product_planes", 56, 16, 96),
    product("mj_product_planes", 112, 30, 16),
    product("mj_product_planes", 28, 16, 96),
    product("mj_product_planes", 28, 32, 192),
    product("mj_product_planes", 14, 32, 192),
    product("mj_product_planes", 14, 48, 288),
    product("mj_product_planes", 7, 80, 480),
    product("mj_product_planes", 56, 96, 96),
    product("mj_product_planes_clamped", 112, 8, 48),
    product("mj_product_planes_clamped", 112, 30, 16),
    product("mj_product_planes_clamped", 56, 96, 96),
    product("mj_product_planes_clamped", 56, 16, 96),
    product("mj_product_planes_clamped", 14, 32, 192),
    product("mj_product_planes_clamped", 14, 48, 288),
    product("mj_product_planes_clamped", 7, 80, 480),
    product("mj_product_pixels", 112, 16, 8),
    product("mj_product_pixels", 56, 48, 16),
    product("mj_product_pixels", 56, 96, 16),
    product("mj_product_pixels", 14, 192, 32),
    product("mj_product_pixels", 14, 288, 48),
    product("mj_product_pixels", 7, 480, 80),
    product("mj_product_pixels", 49, 160, 128),
    product("mj_product_pixels_clamped", 56, 96, 16),
    product("mj_product_pixels_clamped", 14, 288, 48),
    product("mj_product_pixels_clamped", 7, 480, 80),
)


def measure(rounding: str, plain: bool, weights: str, parts: list[str]) -> list[dict[str, Any]]:
    """Rows of the table."""
    rows = []
    machines: dict[tuple[str, str], RowMachine] = {}
    for shape in SHAPES:
        if parts and not any(part in f"{shape.name}: {shape.title}" for part in parts):
            continue
        row: dict[str, Any] = {"kernel": shape.name, "shape": shape.title, "macs": shape.macs}
        for board in BOARDS:
            if (board, shape.name) not in machines:
                machines[board, shape.name] = RowMachine(board, shape.name, rounding, shape.argument, plain=plain)
            machine = machines[board, shape.name]
            argument = shape.place(machine, weights)
            for condition in ("flash", "ideal"):
                cycles = machine.cycles(argument, ideal=condition == "ideal")
                row[f"{board} {condition}"] = cycles
                row[f"{board} {condition}/MAC"] = round(cycles / shape.macs, 3)
        rows.append(row)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table: cycles per MAC, cycles of the board as it is."""
    conditions = [f"{board} {condition}" for board in BOARDS for condition in ("flash", "ideal")]
    lines = ["| kernel | shape | MAC | " + " | ".join(f"{c}, cycles (per MAC)" for c in conditions) + " |"]
    lines.append("|---|---|---:|" + "---:|" * len(conditions))
    for row in rows:
        figures = " | ".join(f"{row[c]:,} ({row[f'{c}/MAC']:.3f})" for c in conditions)
        lines.append(f"| `{row['kernel']}` | {row['shape']} | {row['macs']:,} | {figures} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help="kernels or shapes to take, by a part of their name")
    parser.add_argument("--json", type=Path, help="where the figures go as JSON")
    parser.add_argument("--rounding", default="single", choices=("single", "double", "mulhi"))
    parser.add_argument("--plain", action="store_true", help="the C kernels")
    parser.add_argument("--weights", default="ram", choices=("ram", "flash"), help="where the weights lie")
    given = parser.parse_args()
    rows = measure(given.rounding, given.plain, given.weights, given.parts)
    print(table(rows), end="")
    if given.json:
        atomic_write_json(given.json, {"rounding": given.rounding, "weights": given.weights, "rows": rows})


if __name__ == "__main__":
    main()
