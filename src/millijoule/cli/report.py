"""`millijoule report`: the HTML page from the JSON beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from millijoule.report import load_result, write_report

app = typer.Typer(help="Rebuild report.html from report.json.")


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="The folder of a run, or its report.json.")],
    out: Annotated[Path | None, typer.Option(help="Where to write the page; beside the JSON by default.")] = None,
) -> None:
    """Rebuild report.html of a finished run from its report.json.

    Example: millijoule report runs/demo
    """
    source = run / "report.json" if run.is_dir() else run
    target = out or source.with_name("report.html")
    write_report(load_result(source), target)
    typer.echo(f"wrote {target}")
