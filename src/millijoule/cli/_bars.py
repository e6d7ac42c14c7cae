"""Progress bars on standard error, for commands whose standard output is the result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from millijoule.files import Progress as ProgressCallback

__all__ = ["progress_bars"]


@contextmanager
def progress_bars() -> Iterator[ProgressCallback]:
    """Yields a callback (what, done, total) that moves one bar for each `what`; they vanish at the end.

    News of training ("epoch ...") changes the text of one bar.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def report(what: str, done: int, total: int) -> None:
            kind = "training" if what.startswith("epoch ") else what
            if kind not in tasks:
                tasks[kind] = bars.add_task(what, total=total)
            bars.update(tasks[kind], description=what, completed=done, total=total)

        yield report
