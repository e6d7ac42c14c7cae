"""What the commands `demo` and `study` share: run with bars, then print the summary."""

from __future__ import annotations

from pathlib import Path

import typer

from millijoule.study import RichReporter, Study, StudyOptions, run_study, summary

__all__ = ["run_and_tell"]


def run_and_tell(options: StudyOptions, out: Path, *, title: str | None, command: str) -> Study:
    """Runs a study (or the rest of it) and prints its summary."""
    study = run_study(options, out, reporter=RichReporter(), title=title, command=command)
    typer.echo()
    typer.echo(summary(study, out / "report.html"))
    typer.echo(f"numbers: {out / 'report.json'}   time: {study.seconds:.0f} s")
    return study
