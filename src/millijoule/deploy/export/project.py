"""What every exported project is made of: the model, the board's support, the main program, the golden test."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from millijoule.boards import Board, firmware_defines, firmware_sources, linker_script
from millijoule.build import DEFAULT_STACK_BYTES, Image, build_elf, compiler_flags
from millijoule.compile import Program, golden_picture
from millijoule.compile._text import C_TYPES, array_values, float_literal
from millijoule.compile.golden import RELATIVE_TOLERANCE
from millijoule.deploy.export._elf import without_debug
from millijoule.execute import run

__all__ = ["Format", "Project", "c_file", "identifier", "sources"]

_C = Path(__file__).resolve().parent / "c"
_HEADER = "mj_model.h"
GOLDEN_SEEDS = (2, 3, 4)
"""The golden test's pictures; `mj_init` has number 1."""


@dataclass(frozen=True)
class Format:
    """One way of handing a model over.

    Attributes:
        name: what the user types.
        title: what it is, in a few words.
        files: the text files besides README, licence and marker, by relative path.
        readme: the README's sections on building and flashing.
        firmware: it is a whole firmware, whose images are put into the folder.
        model: the folder of mj_model.h.
        source: the folder of the model's C files.
        reuse: the README's section on existing projects; None for the general one.
        listing: files of the format itself, and what they are.
    """

    name: str
    title: str
    files: Callable[[Project], dict[str, str]]
    readme: Callable[[Project], str]
    firmware: bool
    model: str = "model"
    source: str = "model/source"
    reuse: Callable[[Project], str] | None = None
    listing: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Project:
    """A compiled model on its way into a folder.

    Attributes:
        program: compiled for `board`.
        board: where it will run.
        compiler: "zig" or "gcc": what the images are built with.
    """

    program: Program
    board: Board
    compiler: str = "zig"

    @property
    def name(self) -> str:
        """The model's name as an identifier."""
        return identifier(self.program.name)

    def model(self, folder: str = "model", sources: str = "source") -> dict[str, str]:
        """The model as a library: one public header in `folder`, everything else in `folder/sources`."""
        inside = f"{folder}/{sources}"
        return {
            f"{folder}/{name}" if name == _HEADER else f"{inside}/{name}": text
            for name, text in self.program.files.items()
        }

    @functools.cached_property
    def board_support(self) -> dict[str, str]:
        """Start-up, clock, serial line and printing: the board's files that know nothing of a model."""
        known = {
            name: text
            for name, text in firmware_sources(self.board).items()
            if name != "main.c" and not re.search(r'#\s*include\s+"mj_(model|firmware)\.h"', text)
        }
        configuration = "mj_board_config.h"
        known["mj_board.h"] = f'#include "{configuration}"\n{known["mj_board.h"]}'
        known[configuration] = self._configuration()
        known |= {name: c_file(name) for name in ("board.h", "board.c")}
        return {f"board/{name}": text for name, text in sorted(known.items())}

    def _configuration(self) -> str:
        macros = firmware_defines(self.board, stack_bytes=DEFAULT_STACK_BYTES)
        lines = "\n".join(f"#define {name} {value}" for name, value in sorted(macros.items()))
        title = (
            f"/* {self.board.title}: what the files beside this one are told. SPDX-License-Identifier: Apache-2.0 */"
        )
        return f"{title}\n#ifndef MJ_BOARD_CONFIG_H\n#define MJ_BOARD_CONFIG_H\n\n{lines}\n\n#endif\n"

    @functools.cached_property
    def firmware(self) -> dict[str, str]:
        """Every C file and header of the firmware."""
        return {**self.model(), **self.board_support, "src/main.c": c_file("main.c")}

    @functools.cached_property
    def image(self) -> Image:
        """The firmware, built here: proof that it fits, and the sizes in the README.

        Raises:
            PlacementError: it does not fit the board.
            ToolchainError: the compiler is missing, or an error in a source.
        """
        return build_elf(self.firmware, self.board, compiler=self.compiler)

    @property
    def linker_script(self) -> str:
        """With the arenas in the memories that the image uses."""
        memories = {memory.name: memory for memory in self.board.memories}
        arena, fast = memories[self.image.arena_memory], memories.get(self.image.fast_memory)
        return linker_script(self.board, arena, stack_bytes=DEFAULT_STACK_BYTES, fast=fast)

    def flags(self, compiler: str) -> list[str]:
        """How every file is compiled, debug information apart."""
        return [flag for flag in compiler_flags(self.board, compiler) if not flag.startswith("-g")]

    @property
    def bare_metal(self) -> dict[str, str]:
        """What the formats without an operating system share: firmware, linker script, golden test on both sides."""
        board_test = {"test/golden_board.c": c_file("golden_board.c")}
        return {**self.firmware, "firmware.ld": self.linker_script, **self.golden("test"), **board_test}

    def golden(self, folder: str) -> dict[str, str]:
        """The golden test as it runs on a computer."""
        files = {name: c_file(name) for name in ("golden.c", "golden.h", "golden_host.c")}
        files["golden_logits.h"] = _golden_logits(self.program)
        return {f"{folder}/{name}": text for name, text in files.items()}

    def images(self) -> dict[str, bytes]:
        """The firmware as ELF, raw binary and Intel hex."""
        return {
            "firmware.elf": without_debug(self.image.elf.read_bytes()),
            "firmware.bin": self.image.binary(),
            "firmware.hex": self.image.hexadecimal().encode("ascii"),
        }


def c_file(name: str) -> str:
    """The text of one of the C files that are the same in every project."""
    return (_C / name).read_text(encoding="utf-8")


def identifier(name: str) -> str:
    """A name that build systems accept: letters, digits and underscores, a letter first.

    Example:
        >>> identifier("static 0.5")
        'static_0_5'
    """
    text = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_") or "model"
    return text if text[0].isalpha() else f"model_{text}"


def sources(files: dict[str, str], *folders: str) -> list[str]:
    """The C files in these folders or below them, sorted."""
    chosen = {str(PurePosixPath(name)) for name in files if name.endswith(".c")}
    return sorted(name for name in chosen if not folders or name.startswith(tuple(f"{folder}/" for folder in folders)))


def _golden_logits(program: Program) -> str:
    graph = program.graph
    shape = graph.tensor(graph.inputs[0]).shape
    pictures = np.concatenate([golden_picture(shape, seed) for seed in GOLDEN_SEEDS])
    logits: npt.NDArray[Any] = run(graph, pictures)[graph.outputs[0]]
    tolerance = "0"
    if logits.dtype == np.float32:
        tolerance = float_literal(RELATIVE_TOLERANCE * max(1e-3, float(np.abs(logits).max())))
    rows = "\n".join(f"    {{\n{array_values(row)}\n    }}," for row in logits.reshape(len(GOLDEN_SEEDS), -1))
    seeds = ", ".join(f"{seed}u" for seed in GOLDEN_SEEDS)
    return f"""/* What the golden pictures must give, by millijoule's executor. SPDX-License-Identifier: Apache-2.0 */
#ifndef MJ_GOLDEN_LOGITS_H
#define MJ_GOLDEN_LOGITS_H
#include <stdint.h>

#include "mj_model.h"

#define GOLDEN_PICTURES {len(GOLDEN_SEEDS)}
#define GOLDEN_TOLERANCE {tolerance}
typedef {C_TYPES[logits.dtype.name]} golden_logit;

static const uint32_t golden_seeds[GOLDEN_PICTURES] = {{{seeds}}};
static const golden_logit golden_logits[GOLDEN_PICTURES][MJ_CLASSES] = {{
{rows}
}};

#endif
"""
