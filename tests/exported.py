"""Exported projects, built with their own build files and run: on the emulated board, or on this computer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from millijoule.compile import Program
from millijoule.execute import run

ZIG = f"{sys.executable} -m ziglang"
HAS = {
    "gcc": shutil.which("arm-none-eabi-gcc") is not None,
    "zig": find_spec("ziglang") is not None,
    "make": shutil.which("make") is not None,
    "cmake": shutil.which("cmake") is not None,
    "cc": shutil.which("cc") is not None,
    "emulator": all(find_spec(name) is not None for name in ("unicorn", "capstone", "elftools")),
}


def needs(*tools: str) -> pytest.MarkDecorator:
    """Skips a test where a tool is missing."""
    missing = [tool for tool in tools if not HAS[tool]]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def execute(command: Sequence[str], folder: Path, *, stdin: bytes = b"", refused: bool = False) -> str:
    """Runs a tool in a folder and returns what it printed; `refused` says that it must fail."""
    environment = {key: value for key, value in os.environ.items() if key not in ("CC", "CFLAGS", "MAKEFLAGS")}
    done = subprocess.run(list(command), cwd=folder, input=stdin, capture_output=True, env=environment, check=False)
    text = (done.stdout + done.stderr).decode("utf-8", "replace")
    assert (done.returncode != 0) == refused, text[-4000:]
    return text


def expected(program: Program, pictures: npt.NDArray[np.uint8]) -> npt.NDArray[np.int8]:
    """The logits by the executor, which defines what is right."""
    logits: npt.NDArray[np.int8] = run(program.graph, pictures)[program.graph.outputs[0]]
    assert logits.dtype == np.int8
    return logits


def lines(program: Program, pictures: npt.NDArray[np.uint8]) -> list[str]:
    """What the main program must print: its greeting, and a class for every picture."""
    return ["ready", *(program.graph.classes[index] for index in expected(program, pictures).argmax(axis=1))]


def check_on_board(elf: Path, program: Program, pictures: npt.NDArray[np.uint8]) -> None:
    """Boots an exported firmware on the emulated board and sends it pictures over the serial line.

    Its logits must equal the executor's in every bit, and it must print the right classes.
    """
    from millijoule.build import read_image
    from millijoule.emulate import Machine

    assert program.board is not None
    image = read_image(elf, program.board.name)
    machine = Machine(image, program.board)
    asks, runs = image.symbol("mj_console_get").address, image.symbol("mj_run").address
    tensor = program.graph.outputs[0]
    offset = next(buffer.offset for buffer in program.plan.buffers if tensor in buffer.tensors)
    logits = expected(program, pictures)

    def go(until: int) -> None:
        machine.emulator.ctl_flush_tb()  # the emulator library does not stop in code it has translated before
        machine.run(until, block_limit=5_000_000)

    go(asks)
    assert machine.console == "ready\r\n"
    assert machine.peripherals.problems == []
    for picture, right in zip(pictures, logits, strict=True):
        machine.peripherals.received.extend(picture.tobytes())
        go(runs)
        go(asks)
        content = machine.read(image.symbol("mj_arena").address + offset, right.size)
        np.testing.assert_array_equal(np.frombuffer(content, np.int8), right)
    assert machine.console.split("\r\n") == [*lines(program, pictures), ""]


def golden_verdict(elf: Path, board: str) -> str:
    """What the golden test prints on the emulated board."""
    from millijoule.build import read_image
    from millijoule.emulate import Machine

    image = read_image(elf, board)
    machine = Machine(image, board)
    machine.run(image.symbol("mj_halt").address)
    return machine.console


def make(folder: Path, compiler: str, *targets: str) -> str:
    """Runs the project's Makefile."""
    return execute(["make", f"COMPILER={compiler}", f"ZIG={ZIG}", *targets], folder)


def cmake(folder: Path, compiler: str, target: str = "all") -> Path:
    """Builds the project with one of its CMake presets; returns the folder of the results."""
    execute(["cmake", "--preset", compiler, f"-DMJ_PYTHON={sys.executable}"], folder)
    execute(["cmake", "--build", "--preset", compiler, "--target", target], folder)
    return folder / "build" / compiler
