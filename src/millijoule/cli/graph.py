"""`millijoule graph`: look into a model file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from millijoule.graph import format_graph, load_graph

app = typer.Typer(no_args_is_help=True, help="Look into .mj model files.")


@app.callback()
def _group() -> None:
    """Look into .mj model files."""


@app.command()
def show(model: Annotated[Path, typer.Argument(help="A .mj file, for example runs/demo/qat.mj.")]) -> None:
    """Print a model layer by layer: operator, name, shape, scale, MACs, attributes.

    Example: millijoule graph show runs/demo/qat.mj | less -S
    """
    typer.echo(format_graph(load_graph(model)))
