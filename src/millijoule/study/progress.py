"""How a study tells what it is doing: one line per stage with a bar, or nothing at all."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column

from millijoule.files import Progress as Callback

__all__ = ["QuietReporter", "Reporter", "RichReporter"]


class Reporter(Protocol):
    """Shows the stages of a study."""

    def stage(self, title: str) -> contextlib.AbstractContextManager[Callback]:
        """Shows that a stage runs; gives the callback for its progress."""

    def reused(self, title: str) -> None:
        """Shows that a stage was up to date."""

    def say(self, text: str) -> None:
        """Shows one line."""


class QuietReporter:
    """Shows nothing."""

    @contextlib.contextmanager
    def stage(self, title: str) -> Iterator[Callback]:
        """Nothing to show."""
        yield lambda _what, _done, _total: None

    def reused(self, title: str) -> None:
        """Nothing to show."""

    def say(self, text: str) -> None:
        """Nothing to show."""


class RichReporter:
    """A bar per stage on standard error; plain lines where that is no terminal."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)

    @contextlib.contextmanager
    def stage(self, title: str) -> Iterator[Callback]:
        """A bar with the newest line of news, replaced by one line with the time when the stage is done."""
        if not self.console.is_terminal:
            self.console.print(f"{title} ...")
            sys.stderr.flush()
            yield lambda _what, _done, _total: None
            return
        columns = (
            SpinnerColumn(finished_text="[green]ok[/green]", table_column=Column(width=2)),
            TextColumn("{task.description}", table_column=Column(width=26, no_wrap=True)),
            BarColumn(bar_width=14, table_column=Column(width=14)),
            MofNCompleteColumn(table_column=Column(width=11, no_wrap=True)),
            TimeElapsedColumn(table_column=Column(width=7)),
            TextColumn("[dim]{task.fields[news]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
        )
        with Progress(*columns, console=self.console, expand=True) as progress:
            task = progress.add_task(title, total=None, news="")

            def callback(what: str, done: int, total: int) -> None:
                progress.update(task, completed=done, total=max(total, 1), news=what)

            yield callback
            bar = progress.tasks[0]
            total = bar.total or 1
            progress.update(task, completed=total, total=total, news="")

    def reused(self, title: str) -> None:
        """One line."""
        self.console.print(f"[dim]ok {title}: up to date[/dim]")

    def say(self, text: str) -> None:
        """One line."""
        self.console.print(text)
