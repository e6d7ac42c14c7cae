"""A folder with everything that the firmware is made of: sources, linker script, Makefile, and the built images."""

from __future__ import annotations

import errno
import json
import shlex
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from millijoule import __version__
from millijoule.boards import Board, firmware_defines, firmware_sources, linker_script
from millijoule.build import DEFAULT_STACK_BYTES, Image, compiler_flags
from millijoule.compile import Program
from millijoule.deploy.firmware import build_program
from millijoule.errors import OptionError, OutputError

__all__ = ["MARKER", "export_project", "export_sources"]

MARKER = "millijoule.json"
"""The file by which an exported folder is recognised; it holds the program's summary."""


def export_project(program: Program, folder: Path, *, compiler: str = "zig", overwrite: bool = False) -> Path:
    """Writes a project that builds by itself with `make`, and the firmware built here.

    The folder appears whole or not at all: it is written under a temporary name beside its place and then renamed.

    Args:
        program: compiled for a board.
        folder: where the project goes.
        compiler: "zig" or "gcc", for the images; the Makefile serves both.
        overwrite: replace an earlier export. Any other folder that is not empty is refused.

    Returns:
        The folder.

    Raises:
        OptionError: the program was compiled for this computer.
        OutputError: the folder is in use by something else, or cannot be written.
        ToolchainError: no compiler, or an error in a source.
    """
    board = program.board
    if board is None:
        raise OptionError("target 'host'", "a project is for a board", "Compile the model for a board")
    _check_place(Path(folder), overwrite)
    image = build_program(program, compiler=compiler).image
    assert image is not None  # a board's firmware always has one
    return _write_folder(_project_files(program, board, image), Path(folder))


def export_sources(program: Program, folder: Path, *, overwrite: bool = False) -> Path:
    """Writes the model's C files and `millijoule.json` (plan, layers, sizes) to a folder; see `export_project`.

    Raises:
        OutputError: the folder is in use by something else, or cannot be written.
    """
    _check_place(Path(folder), overwrite)
    texts = {**program.files, MARKER: _summary(program)}
    return _write_folder({name: text.encode("utf-8") for name, text in texts.items()}, Path(folder))


def _write_folder(files: Mapping[str, bytes], folder: Path) -> Path:
    """Puts a folder with these files in place of `folder`, whole or not at all."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
            fresh, previous = Path(temporary) / "fresh", Path(temporary) / "previous"
            for name, content in files.items():
                path = fresh / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            if folder.exists():
                folder.rename(previous)
            try:
                fresh.rename(folder)
            except OSError:
                if previous.exists():
                    previous.rename(folder)
                raise
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
        raise OutputError(str(folder), f"it cannot be written ({reason})", "Choose another folder") from error
    return folder


def _summary(program: Program) -> str:
    return json.dumps({"millijoule": __version__, **program.summary()}, indent=2) + "\n"


def _check_place(folder: Path, overwrite: bool) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OutputError(str(folder), "it is a file", "Choose another folder")
    if not (folder / MARKER).is_file():
        raise OutputError(str(folder), "it holds other files", "Choose an empty or a new folder")
    if not overwrite:
        raise OutputError(
            str(folder), "there is an exported project already", "Allow overwriting, or choose another folder"
        )


def _project_files(program: Program, board: Board, image: Image) -> dict[str, bytes]:
    memory = next(item for item in board.memories if item.name == image.arena_memory)
    texts = {f"model/{name}": text for name, text in program.files.items()}
    texts |= {f"board/{name}": text for name, text in firmware_sources(board).items()}
    texts["firmware.ld"] = linker_script(board, memory, stack_bytes=DEFAULT_STACK_BYTES)
    texts["Makefile"] = _makefile(board, sorted(name for name in texts if name.endswith(".c")))
    texts["README.md"] = _readme(program, board, image)
    texts[MARKER] = _summary(program)
    files = {name: text.encode("utf-8") for name, text in texts.items()}
    files["firmware.elf"] = image.elf.read_bytes()
    files["firmware.bin"] = image.binary()
    files["firmware.hex"] = image.hexadecimal().encode("ascii")
    return files


def _makefile(board: Board, sources: list[str]) -> str:
    macros = {
        **firmware_defines(board),
        "MJ_RAM_BYTES": str(board.arena_limit(DEFAULT_STACK_BYTES + 1024)),
        "MJ_BOARD_FLASH_BYTES": str(board.flash.size),
    }
    defines = " \\\n    ".join(shlex.quote(f"-D{name}={value}") for name, value in sorted(macros.items()))
    objects = " \\\n    ".join(f"build/{PurePosixPath(name).with_suffix('.o')}" for name in sources)
    return f"""# {board.title}. make: build with zig (pip install ziglang). make COMPILER=gcc: with arm-none-eabi-gcc.
COMPILER ?= zig

ZIG ?= python3 -m ziglang
GCC ?= arm-none-eabi-gcc
ifeq ($(COMPILER),zig)
CC := $(ZIG) cc
FLAGS := {" ".join(compiler_flags(board, "zig"))}
LINK := -rtlib=compiler-rt
else
CC := $(GCC)
FLAGS := {" ".join(compiler_flags(board, "gcc"))}
LINK := -nostartfiles -Wl,--no-warn-rwx-segments -lgcc
# GCC would turn the loops of memcpy and memset into calls of themselves.
build/board/memory.o: FLAGS += -fno-tree-loop-distribute-patterns
endif

DEFINES := \\
    {defines}
OBJECTS := \\
    {objects}

build/firmware.elf: $(OBJECTS) firmware.ld
\t$(CC) $(filter-out -W%,$(FLAGS)) -nostdlib -Wl,-T,firmware.ld -Wl,-e,Reset_Handler -Wl,--gc-sections \\
\t    $(OBJECTS) -o $@ $(LINK)

build/%.o: %.c $(wildcard model/*.h board/*.h) Makefile
\t@mkdir -p $(@D)
\t$(CC) $(FLAGS) $(DEFINES) -Imodel -Iboard -c $< -o $@

.PHONY: clean
clean:
\trm -rf build
"""


def _readme(program: Program, board: Board, image: Image) -> str:
    graph = program.graph
    _, height, width, channels = graph.tensor(graph.inputs[0]).shape
    classes = ", ".join(graph.classes) or "unnamed"
    colour, resize = graph.picture.colour.upper(), graph.picture.resize
    return f"""# {program.name} on {board.title}

Made by millijoule {__version__}. Everything the firmware needs is in this folder.

| | |
|---|---|
| picture | {height} x {width} x {channels} bytes, {colour} rows; resize rule: {resize} |
| classes | {classes} |
| arena | {program.arena_bytes} bytes in {image.arena_memory} (no plan can be smaller than {program.plan.lower_bound}) |
| constants | {program.weight_bytes} bytes of flash |
| firmware | {image.flash_bytes} bytes of flash, {image.ram_bytes} bytes of RAM with stack |
| built with | {image.compiler}, {" ".join(image.flags)} |

## Build

    make                  # zig, from PyPI: pip install ziglang
    make COMPILER=gcc     # arm-none-eabi-gcc

## Flash

`firmware.elf`, `firmware.bin` (at {board.flash.base:#010x}) and `firmware.hex` are built already. With a debug probe:

    st-flash write firmware.bin {board.flash.base:#010x}

The board prints its name on {board.console.peripheral} at {board.console.baud} baud, runs its self-test and waits.

## In another project

Take the folder `model/`: three functions, no malloc, no library. Write the picture to `MJ_INPUT`, then call `mj_run`.

    #include "mj_model.h"

    mj_result result;
    if (mj_init() == MJ_OK) {{
        /* camera writes MJ_INPUT_BYTES bytes to MJ_INPUT */
        mj_run(&result);
        /* mj_class_names[result.class_index] */
    }}
"""
