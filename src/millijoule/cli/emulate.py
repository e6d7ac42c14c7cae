"""`millijoule emulate`: any firmware image on an emulated board, with its serial line on this computer."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from millijoule.errors import OptionError

app = typer.Typer(no_args_is_help=True, help="Run any firmware image on an emulated board.")

_ENDS = {
    "found": "the firmware sent the text that was waited for",
    "time": "the time on the board is over",
    "hung up": "the other end of the serial line hung up",
    "input ended": "the input ended and the firmware waits for more",
    "interrupted": "interrupted",
    "fault": "the firmware cannot go on",
}


@app.command()
def emulate(
    firmware: Annotated[Path, typer.Argument(help="An .elf, .hex or .bin file.", metavar="FW")],
    board: Annotated[str, typer.Option("--board", help="A name of `millijoule boards list`, or a board's TOML file.")],
    serial: Annotated[str, typer.Option(help="stdio, tcp:PORT (on 127.0.0.1), pty, or none.")] = "stdio",
    address: Annotated[
        str | None, typer.Option(help="Where a .bin begins and the vector table lies; the start of flash by default.")
    ] = None,
    port: Annotated[
        str | None,
        typer.Option(help="The chip's serial port, like USART1. Default: the board's, or the one that speaks."),
    ] = None,
    seconds: Annotated[float | None, typer.Option(min=0.0, help="Stop after this time on the board.")] = None,
    until: Annotated[str | None, typer.Option(help="Stop when the firmware has sent this text.")] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check", "--uninitialised", help="Also find reads of unwritten RAM and misaligned accesses (slower)."
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the outcome as JSON, the console's text in it.")
    ] = False,
) -> None:
    """Run a firmware image on an emulated board; its serial line is standard input and output, a TCP port or a pty.

    Any image for the chip will do, not only this project's. At the end: instructions, cycles, time at the board's
    clock, and what went wrong. Exit codes: 0 done, 1 --until was not found, 2 refused or a fault, 130 interrupted.

    Examples:
      millijoule emulate build/firmware.elf --board stm32l4r9i --until m-ready

      millijoule emulate other.bin --board stm32h7b3i --serial pty --address 0x08000000
    """
    from millijoule.emulate.access import AccessCheck
    from millijoule.emulate.image import load_image
    from millijoule.emulate.machine import Machine
    from millijoule.emulate.serial import open_link
    from millijoule.emulate.session import Session

    image = load_image(firmware, board, _number(address))
    machine = Machine(image, board)
    machine.peripherals.select_console(port)
    link = open_link(serial, baud=machine.board.console.baud, echo=not as_json)
    try:
        if serial not in ("stdio", "none"):
            print(f"serial line at {link.place}", file=sys.stderr, flush=True)
        with contextlib.ExitStack() as stack:
            watch = stack.enter_context(AccessCheck(machine)) if check else None
            stopped = stack.enter_context(_interruptions())
            outcome = Session(machine, link, until=until, seconds=seconds, stopped=stopped).run()
    finally:
        link.close()
    findings = [str(finding) for finding in watch.found()] if watch is not None else []
    if as_json:
        values = {"board": machine.board.name, "firmware": str(firmware), **outcome.as_dict()}
        typer.echo(json.dumps(values | ({"accesses": findings} if check else {})))
    else:
        _print(outcome)
        for text in findings:
            print(f"access        {text}", file=sys.stderr, flush=True)
    if outcome.fault is not None:
        if as_json:
            raise typer.Exit(2)
        raise outcome.fault
    if outcome.reason == "interrupted":
        raise typer.Exit(130)
    if until is not None and outcome.reason != "found":
        raise typer.Exit(1)


def _print(outcome: Any) -> None:
    """The summary goes to standard error: standard output is the firmware's."""

    def line(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    line("")
    line(f"ended         {_ENDS[outcome.reason]}")
    line(f"instructions  {outcome.counts.instructions:,}")
    line(f"cycles        {outcome.counts.cycles:,} executed, {outcome.cycles:,} passed")
    line(f"time          {outcome.seconds * 1e3:,.3f} ms at {outcome.clock_hz / 1e6:g} MHz")
    for text in outcome.problems:
        line(f"clock set-up  {text}")
    for text in outcome.warnings:
        line(f"note          {text}")


def _number(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return int(text, 0)
    except ValueError:
        raise OptionError(f"--address {text}", "it is no number", "Write it like 0x08000000") from None


@contextlib.contextmanager
def _interruptions() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and the system's request to end are noticed between slices, never in the middle of one."""
    seen: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda got, _: seen.append(got)) for number in numbers}
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
