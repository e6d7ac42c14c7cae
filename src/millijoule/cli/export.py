"""`millijoule export`: a model as a project for somebody else's tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from millijoule.graph import load_graph

__all__ = ["app", "write_project"]

app = typer.Typer(help="A project for your own tools: make, CMake, STM32CubeIDE, Zephyr, Arduino.")

_NEXT = {
    "make": "make -C {folder}",
    "cmake": "cd {folder} && cmake --preset gcc && cmake --build --preset gcc",
    "cubeide": "in STM32CubeIDE: File, Import, Existing Projects into Workspace",
    "zephyr": "in a Zephyr environment: cd {folder} && west build -b BOARD (README.md names it)",
    "arduino": "copy it into the folder libraries of your sketchbook",
}


@app.command()
def export(
    model: Annotated[Path, typer.Argument(help="A .mj file, for example runs/demo/qat.mj.")],
    project: Annotated[Path, typer.Argument(help="Folder to write; it appears whole or not at all.")],
    board: Annotated[
        str, typer.Option("--board", help="A name of `boards list`, or a board's TOML file.")
    ] = "stm32l4r9i",
    format: Annotated[str, typer.Option("--format", help="make, cmake, cubeide, zephyr or arduino.")] = "make",
    kernels: Annotated[
        str, typer.Option(help="dsp (Armv7E-M instructions) or plain C; the results are the same.")
    ] = "dsp",
    compiler: Annotated[
        str, typer.Option(help="zig, or gcc for arm-none-eabi-gcc: builds the firmware put into the folder.")
    ] = "zig",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export of millijoule.")] = False,
) -> None:
    """Write a folder that builds by itself: the model as a C library, a 20-line main program, a golden test, a README.

    A model that does not fit the board is refused before anything is written; so is a folder with other files in it.

    Example: millijoule export runs/demo/qat.mj build/firmware --board stm32h7b3i --format cmake
    """
    write_project(model, project, board, format=format, kernels=kernels, compiler=compiler, overwrite=overwrite)


def write_project(
    model: Path, folder: Path, board: str, *, format: str, kernels: str, compiler: str, overwrite: bool
) -> None:
    """Compiles the model, writes the project, prints where it is and what comes next."""
    from millijoule.compile import compile_graph
    from millijoule.deploy import check_format, export_project

    check_format(format)
    program = compile_graph(load_graph(model), board, kernels=kernels, name=model.stem)
    export_project(program, folder, format=format, compiler=compiler, overwrite=overwrite)
    typer.echo(f"written    {folder} ({format}); begin with its README.md")
    typer.echo(f"next       {_NEXT[format].format(folder=folder)}")
