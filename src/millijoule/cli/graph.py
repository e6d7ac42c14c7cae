"""`millijoule graph`: look into a model file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from millijoule.graph import describe_graph, format_graph, load_graph

app = typer.Typer(no_args_is_help=True, help="Look into .mj model files.")


@app.callback()
def _group() -> None:
    """Look into .mj model files."""


@app.command()
def show(
    model: Annotated[Path, typer.Argument(help="A .mj file, for example runs/demo/qat.mj.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with the whole history.")] = False,
) -> None:
    """Print a model layer by layer: operator, name, shape, scale, MACs, attributes.

    Example: millijoule graph show runs/demo/qat.mj | less -S
    """
    graph = load_graph(model)
    typer.echo(json.dumps(describe_graph(graph), indent=2) if as_json else format_graph(graph))
