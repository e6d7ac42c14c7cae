"""A compiled model as a project for somebody else's tools: one module per format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from millijoule import __version__
from millijoule.compile import Program
from millijoule.deploy.export import arduino, cmake, cubeide, make, zephyr
from millijoule.deploy.export._folder import MARKER, check_place, write_folder
from millijoule.deploy.export._readme import readme
from millijoule.deploy.export.project import Format, Project
from millijoule.errors import OptionError

__all__ = ["FORMATS", "MARKER", "Format", "check_format", "export_project", "export_sources"]

_ALL = (make.FORMAT, cmake.FORMAT, cubeide.FORMAT, zephyr.FORMAT, arduino.FORMAT)
FORMATS: Mapping[str, Format] = MappingProxyType({kind.name: kind for kind in _ALL})
"""The formats by name."""


def check_format(name: str) -> Format:
    """The format called `name`. Raises `OptionError` when there is none."""
    try:
        return FORMATS[name]
    except KeyError:
        raise OptionError(
            f"format {name!r}", "there is no such format", f"Choose one of: {', '.join(FORMATS)}"
        ) from None


def export_project(
    program: Program, folder: Path, *, format: str = "make", compiler: str = "zig", overwrite: bool = False
) -> Path:
    """Writes a project that builds by itself. Equal programs give equal files, byte by byte.

    The firmware is built here first, so that a model which does not fit is refused before anything is written. The
    folder appears whole or not at all.

    Args:
        program: compiled for a board.
        folder: where the project goes.
        format: a key of `FORMATS`.
        compiler: "zig" or "gcc", for the images put into the folder and the sizes in the README.
        overwrite: replace an earlier export. Any other folder that is not empty is refused.

    Returns:
        The folder.

    Raises:
        OptionError: unknown format, or a program that was compiled for this computer.
        OutputError: the folder is in use by something else, or cannot be written.
        PlacementError: the firmware does not fit the board.
        ToolchainError: no compiler, or an error in a source.
    """
    kind = check_format(format)
    if program.board is None:
        raise OptionError("target 'host'", "a project is for a board", "Compile the model for a board")
    check_place(Path(folder), overwrite)
    project = Project(program, program.board, compiler)
    texts = {
        **kind.files(project),
        "LICENSE": _licence(),
        "README.md": readme(project, kind),
        MARKER: _summary(program),
    }
    files = {name: text.encode("utf-8") for name, text in texts.items()}
    if kind.firmware:
        files |= project.images()
    return write_folder(files, Path(folder))


def export_sources(program: Program, folder: Path, *, overwrite: bool = False) -> Path:
    """Writes the model's C files and `millijoule.json` (plan, layers, sizes) to a folder; see `export_project`.

    Raises:
        OutputError: the folder is in use by something else, or cannot be written.
    """
    check_place(Path(folder), overwrite)
    texts = {**program.files, MARKER: _summary(program)}
    return write_folder({name: text.encode("utf-8") for name, text in texts.items()}, Path(folder))


def _summary(program: Program) -> str:
    return json.dumps({"millijoule": __version__, **program.summary()}, indent=2) + "\n"


def _licence() -> str:
    return (Path(__file__).resolve().parent / "LICENSE").read_text(encoding="utf-8")
