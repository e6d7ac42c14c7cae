"""Commands that are imported when they are used, so that `millijoule --help` needs no optional package and no time."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperCommand

from millijoule.errors import ToolchainError

__all__ = ["EXTRA_OF", "LazyCommand", "LazyEntry", "missing_package"]

EXTRA_OF = {
    "torch": "train",
    "cv2": "train",
    "pyarrow": "train",
    "ziglang": "deploy",
    "unicorn": "deploy",
    "capstone": "deploy",
    "elftools": "deploy",
    "ai_edge_litert": "interchange",
    "flatbuffers": "interchange",
    "jinja2": "report",
}
"""Which extra of this project brings an importable package."""


@dataclass(frozen=True)
class LazyEntry:
    """One command of the top level.

    Attributes:
        name: what the user types.
        module: the module that defines it.
        help: one sentence for the overview.
        panel: the heading it is listed under.
        attribute: the `typer.Typer` in the module.
        subcommand: take this command of the Typer instead of the whole Typer.
    """

    name: str
    module: str
    help: str
    panel: str
    attribute: str = "app"
    subcommand: str | None = None


def missing_package(error: ModuleNotFoundError) -> ToolchainError:
    """The refusal for a package that is not installed, naming the extra that brings it."""
    package = (error.name or str(error)).split(".")[0]
    extra = EXTRA_OF.get(package)
    fix = f"Run pip install 'millijoule[{extra}]'" if extra else "Run pip install 'millijoule[all]'"
    return ToolchainError(f"Python package {package}", "it is not installed", fix)


class LazyCommand(TyperCommand):
    """Stands for a command in the overview; imports the real one when it is called."""

    def __init__(self, entry: LazyEntry) -> None:
        super().__init__(entry.name, help=entry.help, rich_help_panel=entry.panel)
        self.entry = entry

    def load(self) -> Any:
        """The real command. Raises ToolchainError when a package it needs is missing."""
        try:
            module = importlib.import_module(self.entry.module)
        except ModuleNotFoundError as error:
            raise missing_package(error) from error
        application: Any = getattr(module, self.entry.attribute)
        application._add_completion = False  # offered once, at the top level
        command: Any = typer.main.get_command(application)
        if self.entry.subcommand is not None:
            command = command.commands[self.entry.subcommand]
        command.name = self.entry.name
        return command

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Hands over to the real command: parsing, help and the call itself happen there."""
        return self.load().make_context(info_name, args, parent=parent, **extra)
