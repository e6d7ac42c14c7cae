"""The `millijoule` command: the list of sub-commands, and one place where every refusal becomes one sentence."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
import sys
import traceback
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from millijoule import __version__
from millijoule.cli._lazy import LazyCommand, LazyEntry, missing_package
from millijoule.errors import MillijouleError

__all__ = ["COMMANDS", "app", "explain", "main"]

_START, _PATH, _LOOK = "Start here", "The path of a model, step by step", "Look at things"

COMMANDS = (
    LazyEntry(
        "demo", "millijoule.cli.demo", "The whole path on a toy data set, in minutes: no network, no data.", _START
    ),
    LazyEntry("doctor", "millijoule.cli.doctor", "What is installed, what is missing and how to get it.", _START),
    LazyEntry("study", "millijoule.cli.study", "The paper's study on your own photographs.", _START),
    LazyEntry("data", "millijoule.cli.data", "Photographs to a prepared data set.", _PATH),
    LazyEntry("nets", "millijoule.cli.nets", "Networks as tables: layers, parameters, MACs, memory.", _PATH),
    LazyEntry("train", "millijoule.cli.train", "Train in float; resumes after any interruption.", _PATH),
    LazyEntry("quantize", "millijoule.cli.quantize", "Float model to 8 bits: dynamic, static, QAT.", _PATH),
    LazyEntry(
        "compare",
        "millijoule.cli.quantize",
        "Accuracy, sizes and predictions changed, model by model.",
        _PATH,
        subcommand="compare",
    ),
    LazyEntry("deploy", "millijoule.cli.deploy", "Compile, build, emulate, export firmware.", _PATH),
    LazyEntry("export", "millijoule.cli.export", "A project for make, CMake, CubeIDE, Zephyr, Arduino.", _PATH),
    LazyEntry("flash", "millijoule.cli.flash", "Program a board through a debug probe.", _PATH),
    LazyEntry("device", "millijoule.cli.device", "Accuracy, latency on a board at a serial line.", _PATH),
    LazyEntry("emulate", "millijoule.cli.emulate", "Run any firmware image on an emulated board.", _LOOK),
    LazyEntry("profile", "millijoule.cli.profile", "Where the cycles and the energy of one inference go.", _LOOK),
    LazyEntry("bench", "millijoule.cli.bench", "The kernels on a whole network, beside goals and peers.", _LOOK),
    LazyEntry("report", "millijoule.cli.report", "Rebuild report.html from report.json.", _LOOK),
    LazyEntry("boards", "millijoule.cli.boards", "The boards: clock tree, memories, energy, battery life.", _LOOK),
    LazyEntry("graph", "millijoule.cli.graph", "Print a .mj model layer by layer.", _LOOK),
)

INTERRUPTED = "interrupted; run the same command again to resume"


class _Root(TyperGroup):
    """The top level: lists the lazy commands in the order of `COMMANDS`, and turns exceptions into sentences."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [entry.name for entry in COMMANDS if _exists(entry.module)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        for entry in COMMANDS:
            if entry.name == cmd_name and _exists(entry.module):
                return LazyCommand(entry)
        return None

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (MillijouleError, OSError, ModuleNotFoundError, KeyboardInterrupt) as error:
            message, code = explain(error)
            if message is None:
                raise
            if ctx.params.get("debug") or os.environ.get("MILLIJOULE_DEBUG"):
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.write(f"{message}\n")
            raise typer.Exit(code) from error


def _exists(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def explain(error: BaseException) -> tuple[str | None, int]:
    """The one sentence for the user and the exit code; the sentence is None for what must not be caught here.

    Codes: 2 for refusals and for the operating system's errors, 130 for an interruption by the user.
    """
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, 130
    if isinstance(error, MillijouleError):
        return f"millijoule: {error}", 2
    if isinstance(error, ModuleNotFoundError):
        if error.name is None or error.name.startswith("millijoule"):
            return None, 1
        return f"millijoule: {missing_package(error)}", 2
    if isinstance(error, BrokenPipeError) or (isinstance(error, OSError) and error.errno == errno.EPIPE):
        return None, 1
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        reason = (
            "the disk is full. Free some space and run the command again"
            if error.errno == errno.ENOSPC
            else (f"{error.strerror or error}. Check the path and its permissions")
        )
        return f"millijoule: {place}{reason}.", 2
    return None, 1


app = typer.Typer(
    name="millijoule",
    cls=_Root,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"millijoule {__version__}")
        raise typer.Exit


@app.callback(
    epilog=(
        "[bold]Examples[/bold]\n\n"
        "  millijoule demo\n\n"
        "  millijoule data prepare folder --root photos --out runs/photos\n\n"
        "  millijoule study runs/photos --out runs/study --alpha 0.35\n\n"
        "  millijoule nets show --alpha 0.5\n\n"
        "  millijoule graph show runs/demo/qat.mj\n\n"
        "Every command has its own --help.\n\nExit codes: 0 done, 2 refused (one sentence says why), 130 interrupted."
    )
)
def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback behind a refusal.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Photographs to a running firmware: train, quantise, compile, emulate, and know the millijoules."""


def main() -> None:
    """Runs the command line; `--debug` may stand anywhere before a `--`."""
    # Threads that spin while they wait for each other waste a busy computer; threads that sleep at once waste an idle
    # one. A short spin (GNU OpenMP, which torch brings) serves both: docs/results/demo.md.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    arguments = sys.argv[1:]
    end = arguments.index("--") if "--" in arguments else len(arguments)
    if "--debug" in arguments[:end]:
        arguments = ["--debug", *(item for item in arguments[:end] if item != "--debug"), *arguments[end:]]
    try:
        try:
            app(arguments, prog_name="millijoule")
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader (for example `head`) has gone; keep the interpreter from complaining once more at exit.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
