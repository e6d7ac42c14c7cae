"""The kernels as a shared library of the host, called with buffers that end (or begin) at a forbidden page."""

from __future__ import annotations

import ctypes
import mmap
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from millijoule.graph import ROUNDINGS, arithmetic
from millijoule.kernels import FLAGS, FUSED, KERNELS, Dims, FusedKernel, headers, source

PAGE = mmap.PAGESIZE


class Window(ctypes.Structure):
    _fields_ = [
        *[(f"{side}_{size}", ctypes.c_uint16) for side in ("in", "out") for size in ("height", "width", "channels")],
        *[
            (name, ctypes.c_uint8)
            for name in ("kernel_height", "kernel_width", "stride_height", "stride_width", "dilation_height",
                         "dilation_width", "pad_top", "pad_left")
        ],
    ]  # fmt: skip

    @classmethod
    def of(cls, dims: Dims) -> Window:
        return cls(
            dims.in_height, dims.in_width, dims.in_channels, dims.out_height, dims.out_width, dims.out_channels,
            *dims.kernel, *dims.stride, *dims.dilation, dims.padding[0], dims.padding[2],
        )  # fmt: skip


class Requant(ctypes.Structure):
    _fields_ = [
        ("multiplier", ctypes.c_void_p),
        ("shift", ctypes.c_void_p),
        *[(name, ctypes.c_int32) for name in ("in_zero", "out_zero", "low", "high")],
    ]


class Dynamic(ctypes.Structure):
    _fields_ = [
        ("weight_scale", ctypes.c_void_p),
        ("weight_sums", ctypes.c_void_p),
        ("low", ctypes.c_float),
        ("high", ctypes.c_float),
    ]


class AddParams(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int32)
        for name in (
            *[f"{side}_{part}" for part in ("zero", "multiplier", "shift") for side in ("left", "right", "out")],
            "low",
            "high",
        )
    ]


class ConvDepthwise(ctypes.Structure):
    _fields_ = [
        (f"{layer}_{part}", ctypes.c_void_p)
        for layer in ("conv", "depthwise")
        for part in ("window", "requant", "weights", "bias")
    ]


class Guarded:
    """Memory between two pages that may not be touched; buffers lie flush with one of them."""

    _libc = ctypes.CDLL(None, use_errno=True)

    def __init__(self, pages: int = 64) -> None:
        self.size = pages * PAGE
        self.map = mmap.mmap(-1, self.size + 2 * PAGE)
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self.map)) + PAGE
        for address in (self.base - PAGE, self.base + self.size):
            assert self._libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(PAGE), 0) == 0

    def place(self, nbytes: int, at_end: bool, align: int = 1) -> int:
        assert nbytes <= self.size
        return self.base + (self.size - nbytes) // align * align if at_end else self.base


class Library:
    """Calls kernels by name; numpy arrays are copied into guarded buffers and written back afterwards."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.library = ctypes.CDLL(str(path))
        self.buffers = [Guarded() for _ in range(8)]

    def call(self, name: str, *arguments: Any, at_end: bool = True) -> None:
        function = getattr(self.library, name)
        function.restype = None
        given: list[Any] = []
        used: list[tuple[np.ndarray, int]] = []
        for argument in arguments:
            if isinstance(argument, np.ndarray):
                assert argument.flags.c_contiguous
                align = 4 if argument.dtype == np.uint64 else argument.itemsize
                address = self.buffers[len(used)].place(argument.nbytes, at_end, align)
                ctypes.memmove(address, argument.ctypes.data, argument.nbytes)
                used.append((argument, address))
                given.append(ctypes.c_void_p(address))
            elif isinstance(argument, float):
                given.append(ctypes.c_float(argument))
            elif isinstance(argument, ctypes.Structure):
                given.append(ctypes.byref(argument))
            else:
                given.append(argument if argument is None else ctypes.c_int32(argument))
        function(*given)
        for array, address in used:
            if array.flags.writeable:
                ctypes.memmove(array.ctypes.data, address, array.nbytes)


def host_compiler() -> list[str]:
    found = shutil.which("cc")
    return [found] if found else [sys.executable, "-m", "ziglang", "cc"]


def write_sources(folder: Path) -> list[Path]:
    for name, text in headers().items():
        (folder / name).write_text(text)
    files = []
    for kernel in (*KERNELS, *FUSED):
        files.append(folder / kernel.file)
        files[-1].write_text(source(kernel.name))
    return files


def rounded(acc: Any, multiplier: Any, shift: Any, zero: int, low: int, high: int, rounding: str) -> np.ndarray:
    """clamp(requantize(acc) + zero), the sum in 64 bits."""
    value = arithmetic.requantize(acc, multiplier, shift, rounding).astype(np.int64) + zero
    return np.clip(value, low, high).astype(np.int8)


# *** pairs of a convolution and the depthwise convolution that reads its result *****


def frozen(array: np.ndarray) -> np.ndarray:
    copy = np.array(array, order="C")
    copy.flags.writeable = False
    return copy


def after(
    size: tuple[int, int, int], out: int, kernel: int, stride: int, padding: tuple[int, int, int, int], step: int = 1
) -> Dims:
    """A layer that reads a map of this size; step: its dilation along the width."""
    height, width, channels = size
    top, bottom, left, right = padding
    return Dims(
        height, width, channels,
        (height + top + bottom - kernel) // stride + 1, (width + left + right - step * (kernel - 1) - 1) // stride + 1,
        out, (kernel, kernel), (stride, stride), (1, step), padding,
    )  # fmt: skip


def random_pair(rng: np.random.Generator) -> tuple[Dims, Dims]:
    """Windows of 1x1, 3x3 and 5x5, strides 1 and 2 (depthwise: at times 3), paddings of all kinds."""

    def padding(kernel: int) -> tuple[int, int, int, int]:
        side = kernel // 2
        made: list[tuple[int, int, int, int]] = [(side, side, side, side), (0, 1, 0, 1), (0, 0, 0, 0)]
        made.append(tuple(int(v) for v in rng.integers(0, kernel + 3, 4)))  # type: ignore[arg-type]
        return made[int(rng.integers(4))]

    kernel = int(rng.choice([1, 1, 3, 5]))
    size = tuple(int(v) for v in rng.integers(5, 12, 2))
    inner, channels = int(rng.integers(1, 8)), int(rng.integers(1, 14))
    pads = (0, 0, 0, 0) if kernel == 1 and rng.integers(4) else padding(kernel)
    stride = 1 if kernel == 1 and rng.integers(4) else int(rng.integers(1, 3))
    conv = after((size[0], size[1], inner), channels, kernel, stride, pads)
    window = int(rng.choice([1, 3, 3, 5]))
    while True:
        pads = padding(window)
        step = int(rng.choice([1, 1, 1, 2]))
        size = (conv.out_height, conv.out_width, channels)
        depthwise = after(size, channels, window, int(rng.choice([1, 1, 2, 2, 3])), pads, step)
        if depthwise.out_height > 0 and depthwise.out_width > 0:
            return conv, depthwise


@dataclass
class Layer:
    """Constants of one layer: weights in the graph's layout and what requantisation needs."""

    dims: Dims
    weights: np.ndarray
    bias: np.ndarray
    multiplier: np.ndarray
    shift: np.ndarray
    rest: tuple[int, int, int, int]  # in_zero, out_zero, low, high

    @classmethod
    def random(cls, rng: np.random.Generator, dims: Dims, depthwise: bool, in_zero: int, out_zero: int) -> Layer:
        count = dims.out_channels
        shape = (1, *dims.kernel, count) if depthwise else (count, *dims.kernel, dims.in_channels)
        weights = rng.choice([-127, 127], shape) if rng.integers(4) == 0 else rng.integers(-127, 128, shape)
        low, high = (-128, 127) if rng.integers(2) else sorted(int(v) for v in rng.integers(-128, 128, 2))
        products = dims.kernel[0] * dims.kernel[1] * (1 if depthwise else dims.in_channels)
        shift = -8 - int(np.log2(products)) // 2
        return cls(
            dims,
            weights.astype(np.int8),
            frozen(rng.integers(-9999, 9999, count).astype(np.int32)),
            frozen(rng.integers(2**30, 2**31, count).astype(np.int32)),
            frozen(rng.integers(shift - 2, shift + 2, count).astype(np.int8)),
            (in_zero, out_zero, low, high),
        )


class Pair:
    """A random pair; `expected` is what the two plain kernels give, one after the other."""

    def __init__(self, rng: np.random.Generator, conv: Dims, depthwise: Dims, rounding: str) -> None:
        zeros = [int(zero) for zero in rng.choice([-128, -3, 0, 127], 3)]
        self.x = frozen(rng.integers(-128, 128, (conv.in_height, conv.in_width, conv.in_channels)).astype(np.int8))
        self.conv = Layer.random(rng, conv, False, zeros[0], zeros[1])
        self.depthwise = Layer.random(rng, depthwise, True, zeros[1], zeros[2])
        for layer in (self.conv, self.depthwise):
            real = layer.multiplier * 2.0 ** (layer.shift.astype(np.int64) - 31)
            layer.multiplier, layer.shift = (frozen(part) for part in arithmetic.multipliers(real, rounding))

    def result(self) -> np.ndarray:
        dims = self.depthwise.dims
        return np.full((dims.out_height, dims.out_width, dims.out_channels), 99, dtype=np.int8)

    def scratch(self, kernel: FusedKernel) -> np.ndarray:
        size = kernel.scratch_bytes(self.conv.dims, self.depthwise.dims)
        assert size % 4 == 0
        return np.full(size // 4, 0xA5A5A5A5, dtype=np.uint32)

    def expected(self, library: Any, tools: Any) -> np.ndarray:
        data = self.x
        for layer, name in ((self.conv, "mj_conv2d_s8"), (self.depthwise, "mj_depthwise_s8")):
            dims = layer.dims
            result = np.zeros((dims.out_height, dims.out_width, dims.out_channels), dtype=np.int8)
            requant = tools.Requant(layer.multiplier.ctypes.data, layer.shift.ctypes.data, *layer.rest)
            weights = frozen(layer.weights)
            library.call(name, data, weights, layer.bias, result, tools.Window.of(dims), requant, None)
            data = frozen(result)
        return data


class Tools:
    """What the tests of this folder share."""

    Window, Requant, Dynamic, AddParams, Library = Window, Requant, Dynamic, AddParams, Library
    ConvDepthwise, Pair, Layer = ConvDepthwise, Pair, Layer
    after, random_pair, frozen = staticmethod(after), staticmethod(random_pair), staticmethod(frozen)
    rounded = staticmethod(rounded)
    write_sources = staticmethod(write_sources)
    host_compiler = staticmethod(host_compiler)


@pytest.fixture(scope="session")
def tools() -> type[Tools]:
    return Tools


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Library]]:
    """One library for each rounding rule; undefined behaviour in C stops the program."""
    folder = tmp_path_factory.mktemp("kernels")
    files = write_sources(folder)
    made = {}
    for rounding in ROUNDINGS:
        path = folder / f"{rounding}.so"
        flags = [*FLAGS, "-O2", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-pedantic"]
        flags += [
            "-fsanitize=undefined",
            "-fsanitize-undefined-trap-on-error" if "ziglang" not in host_compiler() else "-fsanitize-trap=undefined",
        ]
        (folder / "requantize_many.c").write_text(
            '#include "mj_requantize.h"\n'
            "void requantize_many(const int32_t *acc, const int32_t *multiplier, const int32_t *shift, int32_t *y,\n"
            "                     int32_t count);\n"
            "void requantize_many(const int32_t *acc, const int32_t *multiplier, const int32_t *shift, int32_t *y,\n"
            "                     int32_t count)\n"
            "{\n    for (int32_t i = 0; i < count; ++i) {\n"
            "        y[i] = mj_requantize(acc[i], multiplier[i], shift[i]);\n    }\n}\n"
        )
        command = [*host_compiler(), *flags, f"-DMJ_ROUNDING_{rounding.upper()}", f"-I{folder}", "-o", str(path)]
        done = subprocess.run(
            [*command, *map(str, files), str(folder / "requantize_many.c")], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        made[rounding] = Library(path)
    yield made
