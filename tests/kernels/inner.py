"""What the tests of the row engine's inner kernels share: their C on this computer, calls, definitions, conditions."""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest

from millijoule.kernels import FLAGS, KERNELS, headers, source

ROUNDINGS = ("single", "double", "mulhi")
GUARD = 0xA5
LAYERS = tuple(kernel.name for kernel in KERNELS)
POINTERS = ("x", "weights", "pairs", "out")


def benchmark(name: str) -> Any:
    """A file of benchmarks/ as a module."""
    path = Path(__file__).resolve().parents[2] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def has(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) is not None for module in modules)


emulated = pytest.mark.skipif(not has("unicorn", "ziglang", "capstone"), reason="needs unicorn, capstone and ziglang")
needs_gcc = pytest.mark.skipif(shutil.which("arm-none-eabi-gcc") is None, reason="arm-none-eabi-gcc is not installed")


# *** C on this computer *****


def host_compiler() -> list[str]:
    found = shutil.which("cc")
    return [found] if found else [sys.executable, "-m", "ziglang", "cc"]


def shared_library(path: Path, files: Iterable[Path], rounding: str) -> None:
    """Builds files, with the headers beside them; undefined behaviour stops the program."""
    flags = [*FLAGS, "-O2", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-pedantic", "-fsanitize=undefined"]
    trap = "-fsanitize-trap=undefined" if "ziglang" in host_compiler() else "-fsanitize-undefined-trap-on-error"
    command = [*host_compiler(), *flags, trap, f"-DMJ_ROUNDING_{rounding.upper()}", f"-I{path.parent}", "-o", str(path)]
    done = subprocess.run([*command, *map(str, files)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def write_sources(folder: Path, names: Iterable[str] = LAYERS) -> list[Path]:
    """The C of these kernels, or of all single layers, and all headers."""
    files = {f"{name}.c": source(name) for name in names}
    for name, text in {**headers(), **files}.items():
        (folder / name).write_text(text)
    return [folder / name for name in files]


def host_libraries(folder: Path, names: Iterable[str]) -> dict[str, ctypes.CDLL]:
    """The C of these kernels by rounding rule."""
    files, made = write_sources(folder, names), {}
    for rounding in ROUNDINGS:
        path = folder / f"{rounding}.so"
        shared_library(path, files, rounding)
        made[rounding] = ctypes.CDLL(str(path))
    return made


# *** definitions *****


def requantized(sums: np.ndarray, multiplier: np.ndarray, addend: np.ndarray, shift: np.ndarray, rounding: str) -> Any:
    """By the definitions in mj_rows.h, in 64 bits; before saturation."""
    product = sums * multiplier
    if rounding == "single":
        return ((product >> 32) + addend) >> shift
    if rounding == "mulhi":
        return ((product + (1 << 31)) >> 32) + addend
    # gemmlowp: round the high product, then divide, halves away from zero
    high = (product + (1 << 30)) >> 31
    half = np.where(shift > 0, 1 << np.maximum(shift - 1, 0), 0)
    return np.where(high >= 0, (high + half) >> shift, -((-high + half) >> shift)) + addend


# *** calls of kernels whose struct begins with the pointers x, weights, pairs, out *****


class Call(Protocol):
    """One call."""

    @property
    def numbers(self) -> Sequence[int]:
        """What follows the pointers in the struct, 32 bits each."""

    @property
    def offset(self) -> int:
        """Where in its buffer the result begins."""

    def parts(self) -> dict[str, bytes]:
        """What lies in memory, `POINTERS` in this order."""


def struct_of(call: Call, where: dict[str, int], pointer: str = "I") -> bytes:
    """The struct; `pointer`: their format, as on the boards or "P"."""
    addresses = [where[part] + (call.offset if part == "out" else 0) for part in POINTERS]
    numbers = [number & 0xFFFFFFFF for number in call.numbers]
    return struct.pack(f"@{len(addresses)}{pointer}{len(numbers)}I", *addresses, *numbers)


def call_native(function: Any, call: Call) -> np.ndarray:
    """The buffer of the result, uint8, after a call on this computer."""
    parts = call.parts()
    buffers = {part: ctypes.create_string_buffer(data, len(data)) for part, data in parts.items()}
    argument = struct_of(call, {part: ctypes.addressof(buffer) for part, buffer in buffers.items()}, "P")
    function.restype = None
    function(ctypes.create_string_buffer(argument, len(argument)))
    for part in POINTERS[:-1]:
        assert buffers[part].raw == parts[part], "a kernel changed its input"
    return np.frombuffer(buffers["out"].raw, dtype=np.uint8)


def call_emulated(machine: Any, calls: Sequence[Call]) -> list[np.ndarray]:
    """The same for many calls, in one of the firmware."""
    structs, memory = b"", bytearray()
    base = machine.ram + 64 * len(calls)
    outs = []
    for call in calls:
        where = {}
        for part, data in call.parts().items():
            where[part] = base + len(memory)
            size = len(data)
            memory += data + bytes(-size % 4)
        outs.append((where["out"] - base, size))
        structs += struct_of(call, where)
    machine.machine.write(machine.ram, structs)
    machine.machine.write(base, bytes(memory))
    machine.call(machine.ram, "mj_run_many", len(calls))
    after = machine.machine.read(base, len(memory))
    start = 0
    for at, size in outs:
        assert after[start:at] == memory[start:at], "a kernel changed its input"
        start = at + size
    return [np.frombuffer(after[at : at + size], dtype=np.uint8) for at, size in outs]
