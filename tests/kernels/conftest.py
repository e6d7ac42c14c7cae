"""The kernels as a shared library of the host, called with buffers that end (or begin) at a forbidden page."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from millijoule.graph import ROUNDINGS, arithmetic
from millijoule.kernels import Dims

from .inner import host_compiler, shared_library, write_sources

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


def rounded(acc: Any, multiplier: Any, shift: Any, zero: int, low: int, high: int, rounding: str) -> np.ndarray:
    """clamp(requantize(acc) + zero), the sum in 64 bits."""
    value = arithmetic.requantize(acc, multiplier, shift, rounding).astype(np.int64) + zero
    return np.clip(value, low, high).astype(np.int8)


class Tools:
    """What the tests of this folder share."""

    Window, Requant, Dynamic, AddParams, Library = Window, Requant, Dynamic, AddParams, Library
    rounded = staticmethod(rounded)
    write_sources = staticmethod(write_sources)
    host_compiler = staticmethod(host_compiler)


@pytest.fixture(scope="session")
def tools() -> type[Tools]:
    return Tools


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Library]]:
    """One library for each rounding rule; undefined behaviour in C stops the program.

    All test processes of a run share them.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "kernels"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "made").exists():
            _make_libraries(folder)
            (folder / "made").touch()
    yield {rounding: Library(folder / f"{rounding}.so") for rounding in ROUNDINGS}


def _make_libraries(folder: Path) -> None:
    files = write_sources(folder)
    files.append(folder / "requantize_many.c")
    files[-1].write_text(
        '#include "mj_requantize.h"\n'
        "void requantize_many(const int32_t *acc, const int32_t *multiplier, const int32_t *shift, int32_t *y,\n"
        "                     int32_t count);\n"
        "void requantize_many(const int32_t *acc, const int32_t *multiplier, const int32_t *shift, int32_t *y,\n"
        "                     int32_t count)\n"
        "{\n    for (int32_t i = 0; i < count; ++i) {\n"
        "        y[i] = mj_requantize(acc[i], multiplier[i], shift[i]);\n    }\n}\n"
    )
    for rounding in ROUNDINGS:
        shared_library(folder / f"{rounding}.so", files, rounding)
