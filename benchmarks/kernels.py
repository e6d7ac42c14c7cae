"""Instructions and cycles of the kernels on the emulated boards, written to benchmarks/kernels.md.

    python benchmarks/kernels.py

Each kernel is called by itself, with the shapes of MobileNetV2 layers and random data. First the inner kernels of the
row engine (the table of kernel_ladder.py, with full traces), then the kernels of single layers, whose cycles are those
of the models without wait states.
"""

from __future__ import annotations

import argparse
import struct
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from millijoule.boards import Board, firmware_sources, load_board
from millijoule.build.board import build_elf
from millijoule.emulate import Machine
from millijoule.files import atomic_write_text
from millijoule.kernels import KERNELS, UNPACK, Dims, headers, source

FENCE = b"\xa5" * 16
START = """
#include <stdint.h>
#include "mj_kernels.h"
#include "mj_unpack.h"
extern uint32_t mj_stack_top[];
void Reset_Handler(void);
%(keep)s
void Reset_Handler(void)
{
    for (;;) {
    }
}
__attribute__((section(".isr_vector"), used)) const void *const mj_vectors[] = {
    mj_stack_top, (const void *)Reset_Handler,
    %(names)s
};
"""


@dataclass(frozen=True)
class Struct:
    """A C struct of 32-bit words: integers, floats, arrays (their address) or bytes as they are."""

    words: tuple[Any, ...]


@dataclass(frozen=True)
class Cost:
    instructions: int
    cycles: int


class KernelMachine:
    """An emulated board whose firmware is nothing but the kernels."""

    def __init__(self, board: str, rounding: str = "single", defines: Mapping[str, str] | None = None) -> None:
        self.board: Board = load_board(board)
        kernels = [*(kernel.name for kernel in KERNELS), UNPACK]
        files = {**headers(), **{f"{name}.c": source(name) for name in kernels}}
        files["memory.c"] = firmware_sources(self.board)["memory.c"]
        files |= {name: text for name, text in firmware_sources(self.board).items() if name.endswith(".h")}
        names = ",\n    ".join(f"(const void *){name}" for name in kernels)
        files["start.c"] = START % {"keep": "", "names": names}
        macros = {f"MJ_ROUNDING_{rounding.upper()}": "1", **(defines or {})}
        self.image = build_elf(files, self.board, defines=macros, strict=True)
        self.machine = Machine(self.image, self.board)
        self.memory = self.board.data_memory  # for arrays; any memory of the board

    def call(self, name: str, *arguments: Any, offset: int = 0) -> Cost:
        """Calls a kernel. Arrays are copied to RAM and back; what lies around them is checked.

        Read-only arrays of 64 KB and more go to flash.

        Args:
            name: the C function.
            arguments: integers, float32, arrays, `Struct`, None.
            offset: bytes by which int8 arrays miss a word boundary.
        """
        memory = self.memory
        self._ram, self._flash = memory.base + 1024, self.board.flash.base + self.board.flash.size // 2
        self._limit = self.image.symbol("mj_stack_top").address - 8192
        if memory != self.board.data_memory:
            self._limit = memory.base + memory.size
        elif self._limit < self._ram:
            self._ram, self._limit = self._ram + 8192, memory.base + memory.size
        self._placed: list[tuple[int, np.ndarray]] = []
        words, floats = [], 0
        for argument in arguments:
            if isinstance(argument, float):
                bits = struct.unpack("<I", struct.pack("<f", argument))[0]
                self.machine.write_register(f"s{floats}", bits)
                floats += 1
            else:
                words.append(self._word(argument, offset))
        self.machine.clear_counts()
        self.machine.call(name, *words)
        counts = self.machine.counts()
        for address, array in self._placed:
            around = self.machine.read(address - 16, 16), self.machine.read(address + array.nbytes, 16)
            if around != (FENCE, FENCE):
                raise AssertionError(f"{name} wrote beside one of its buffers")
            data = np.frombuffer(self.machine.read(address, array.nbytes), dtype=array.dtype).reshape(array.shape)
            if array.flags.writeable:
                array[...] = data
            elif not np.array_equal(array, data):
                raise AssertionError(f"{name} changed its input")
        return Cost(counts.instructions, counts.cycles)

    def _word(self, argument: Any, offset: int) -> int:
        if argument is None:
            return 0
        if isinstance(argument, np.ndarray):
            return self._place(argument, offset if argument.dtype == np.int8 else 0)
        if isinstance(argument, bytes):
            return self._place(np.frombuffer(argument, dtype=np.uint8), 0)
        if isinstance(argument, Struct):
            data = b""
            for word in argument.words:
                if isinstance(word, bytes):
                    data += word
                elif isinstance(word, float):
                    data += struct.pack("<f", word)
                else:
                    data += (self._word(word, 0) & 0xFFFFFFFF).to_bytes(4, "little")
            return self._place(np.frombuffer(data, dtype=np.uint8), 0)
        return int(argument)

    def _place(self, array: np.ndarray, offset: int) -> int:
        if array.flags.writeable or array.nbytes < 65536:
            address = (self._ram + 16 + 3) // 4 * 4 + offset
            self._ram = address + array.nbytes + 16
            if self._ram > self._limit:
                raise ValueError("the buffers do not fit into the board's data memory")
        else:
            address = (self._flash + 16 + 3) // 4 * 4 + offset
            self._flash = address + array.nbytes + 16
        self.machine.write(address - 16, FENCE + array.tobytes() + FENCE)
        self._placed.append((address, array))
        return address


def window_bytes(dims: Dims) -> bytes:
    """The struct mj_window."""
    sizes = (dims.in_height, dims.in_width, dims.in_channels, dims.out_height, dims.out_width, dims.out_channels)
    return struct.pack("<6H8B", *sizes, *dims.kernel, *dims.stride, *dims.dilation, dims.padding[0], dims.padding[2])


def constant(array: np.ndarray) -> np.ndarray:
    """A contiguous copy that a kernel must not change."""
    copy = np.array(array, order="C")
    copy.flags.writeable = False
    return copy


def macs(operator: str, dims: Dims) -> int:
    taps = dims.kernel[0] * dims.kernel[1] * dims.out_height * dims.out_width * dims.out_channels
    return taps if operator == "depthwise_conv2d" else taps * dims.in_channels


def measure(machine: KernelMachine, name: str, dims: Dims) -> Cost:
    """One call with random data; multipliers as real layers have them (real scale below 1/4)."""
    kernel = next(kernel for kernel in KERNELS if kernel.name == name)
    rng = np.random.default_rng(0)
    shape = (1, *dims.kernel, dims.in_channels)
    if kernel.operator == "conv2d":
        shape = (dims.out_channels, *dims.kernel, dims.in_channels)
    elif kernel.operator == "dense":
        shape = (dims.out_channels, dims.in_channels)
    x = constant(rng.integers(-128, 128, (dims.in_height, dims.in_width, dims.in_channels), dtype=np.int8))
    y = np.zeros((dims.out_height, dims.out_width, dims.out_channels), dtype=np.int8)
    requant = Struct((
        constant(rng.integers(2**30, 2**31, dims.out_channels).astype(np.int32)),
        constant(np.full(dims.out_channels, -8, dtype=np.int8)),
        3, -5, -128, 127,
    ))  # fmt: skip
    sizes = (dims.in_channels, dims.out_channels) if kernel.operator == "dense" else (window_bytes(dims),)
    scratch = np.zeros(kernel.scratch_bytes(dims), dtype=np.uint8)
    weights = kernel.packed(rng.integers(-127, 128, shape, dtype=np.int8))
    bias = constant(rng.integers(-9999, 9999, dims.out_channels).astype(np.int32))
    return machine.call(name, x, constant(weights), bias, y, *sizes, requant, scratch)


def same(size: int, channels: int, stride: int = 1, out: int | None = None) -> Dims:
    """A 3x3 window with TensorFlow SAME padding."""
    extent = -(-size // stride)
    before = max((extent - 1) * stride + 3 - size, 0) // 2
    after = max((extent - 1) * stride + 3 - size, 0) - before
    return Dims(
        size, size, channels, extent, extent, out or channels, (3, 3), (stride, stride), (1, 1),
        (before, after, before, after),
    )  # fmt: skip


def point(size: int, channels: int, out: int) -> Dims:
    return Dims(size, size, channels, size, size, out)


# layers of MobileNetV2 alpha 0.5; large maps are cut to what fits into the data memory of both boards
LAYERS = (
    ("first convolution", "mj_conv2d_s8", same(64, 3, 2, 16)),
    ("expand 8 -> 48", "mj_pointwise_s8", point(28, 8, 48)),
    ("expand 16 -> 96", "mj_pointwise_s8", point(28, 16, 96)),
    ("project 96 -> 16", "mj_pointwise_s8", point(28, 96, 16)),
    ("expand 32 -> 192", "mj_pointwise_s8", point(14, 32, 192)),
    ("project 192 -> 32", "mj_pointwise_s8", point(14, 192, 32)),
    ("expand 80 -> 480", "mj_pointwise_s8", point(7, 80, 480)),
    ("last 160 -> 1280", "mj_pointwise_s8", point(7, 160, 320)),
    ("depthwise 48, 28x28", "mj_depthwise_s8", same(28, 48)),
    ("depthwise 96, stride 2", "mj_depthwise_s8", same(28, 96, 2)),
    ("depthwise 192, 14x14", "mj_depthwise_s8", same(14, 192)),
    ("depthwise 480, 7x7", "mj_depthwise_s8", same(7, 480)),
    ("classifier 1280 -> 10", "mj_dense_s8", Dims(in_channels=1280, out_channels=10)),
)


def measure_elementwise(machine: KernelMachine, name: str, pixels: int, channels: int) -> Cost:
    """One call of add, mean or softmax with random data and multipliers as real layers have them."""
    rng = np.random.default_rng(0)
    x, other = (constant(rng.integers(-128, 128, (pixels, channels), dtype=np.int8)) for _ in range(2))
    y = np.zeros((pixels, channels), dtype=np.int8)
    if name.startswith("mj_add"):
        params = Struct((3, -5, 7, 2**30, 1518500250, 1318500250, 0, -1, -18, -128, 127))
        return machine.call(name, x, other, y, x.size, params)
    if name.startswith("mj_mean"):
        return machine.call(name, x, y[0].copy(), pixels, channels, 3, -5, 1518500250, -6, -128, 127)
    exponentials = constant(np.floor(65536 * np.exp(-0.05 * np.arange(256)) + 0.5).astype(np.uint32))
    return machine.call(name, x, y, x.size, exponentials)


# pixels, channels
ELEMENTWISE = (
    ("add, 28x28x16", "mj_add_s8", 784, 16),
    ("add, 7x7x80", "mj_add_s8", 49, 80),
    ("mean, 7x7x1280", "mj_mean_s8", 49, 1280),
    ("softmax, 10 classes", "mj_softmax_s8", 1, 10),
    ("softmax, 1000 classes", "mj_softmax_s8", 1, 1000),
)


def header(boards: tuple[str, ...], unit: str) -> list[str]:
    return [
        f"| layer | kernel | {unit} | "
        + " | ".join(f"{b} instructions/{unit} | {b} cycles/{unit}" for b in boards)
        + " |",
        "|---|---|---:|" + "---:|---:|" * len(boards),
    ]


def elementwise_table(machines: list[KernelMachine]) -> str:
    lines = header(tuple(machine.board.name for machine in machines), "element")
    for layer, stem, pixels, channels in ELEMENTWISE:
        for name in (stem, f"{stem}_dsp"):
            costs = [measure_elementwise(machine, name, pixels, channels) for machine in machines]
            work = pixels * channels
            figures = " | ".join(f"{cost.instructions / work:.2f} | {cost.cycles / work:.2f}" for cost in costs)
            lines.append(f"| {layer} | `{name}` | {work:,} | {figures} |")
    return "\n".join(lines) + "\n"


def table(machines: list[KernelMachine]) -> str:
    lines = header(tuple(machine.board.name for machine in machines), "MAC")
    for layer, stem, dims in LAYERS:
        for name in (stem, f"{stem}_dsp"):
            work = macs(next(k.operator for k in KERNELS if k.name == name), dims)
            costs = [measure(machine, name, dims) for machine in machines]
            figures = " | ".join(f"{cost.instructions / work:.2f} | {cost.cycles / work:.2f}" for cost in costs)
            lines.append(f"| {layer} | `{name}` | {work:,} | {figures} |")
    return "\n".join(lines) + "\n"


LADDER_HEAD = """## Row engine: generated assembly

The inner kernels of chains of convolutions (`mj_rows.h`), one call for one row: products of four neighbouring pixels
with pairs of channels, rows of depthwise convolutions; requantisation included. Full traces: "flash" is the board as it
is (code in flash behind its caches), "ideal" has memories without wait states. Weights in RAM. The same table alone,
for other rounding rules, or with the C kernels: `python benchmarks/kernel_ladder.py --help`.

"""
LAYERS_HEAD = """
## Layers that run by themselves: C

What the row engine does not take (see docs/compiler.md), and the plain references. One call per kernel, all its
overhead included (columns, edges, requantisation). Cycles: the models of the emulate room, no wait states. The bounds
of the results are those of int8.

"""


def commit() -> str:
    """The commit that is checked out, in short."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def main() -> None:
    import kernel_ladder  # beside this file

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    boards = ("stm32l4r9i", "stm32h7b3i")
    arguments = parser.parse_args()
    machines = [KernelMachine(board, "single") for board in boards]
    image = machines[0].image
    text = "# Kernels on the emulated boards\n\n"
    text += "Made by `python benchmarks/kernels.py`; compiler "
    text += f"{image.compiler}, flags `{' '.join(image.flags)}` (Cortex-M4).\n"
    text += f"Commit {commit()}. Rounding: single. Versions on the way: [kernel_versions.md](kernel_versions.md); "
    text += "whole networks: [ladder.md](ladder.md).\n\n"
    text += LADDER_HEAD + kernel_ladder.table(kernel_ladder.measure("single", False, "ram", []))
    text += LAYERS_HEAD + table(machines)
    text += "\nAdd, mean and softmax, per element of the input:\n\n" + elementwise_table(machines)
    atomic_write_text(arguments.out, text)
    print(text)


if __name__ == "__main__":
    main()
