"""`millijoule flash`: a firmware into a board, through a debug probe."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Program a board through a debug probe.")


@app.command()
def flash(
    firmware: Annotated[Path, typer.Argument(help="The firmware: .elf, .hex, or .bin (at the start of flash).")],
    board: Annotated[str, typer.Option("--board", help="A name of `millijoule boards list`, or a board's TOML file.")],
    tool: Annotated[
        str | None, typer.Option("--tool", help="pyocd or openocd; the first that is installed without it.")
    ] = None,
    probe: Annotated[
        str | None, typer.Option("--probe", help="Serial number, when several probes are connected.")
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Print the command line instead of running it.")] = False,
) -> None:
    """Program a board with pyOCD or OpenOCD, verify, and reset it. Nothing else is installed or downloaded.

    The file is checked against the board's memories first.

    Example: millijoule flash build/firmware/firmware.elf --board stm32l4r9i
    """
    from millijoule.boards import load_board
    from millijoule.device import flash_firmware
    from millijoule.device.flash import TOOLS, FlashTool, flash_command
    from millijoule.emulate.image import load_image
    from millijoule.errors import OptionError

    target = load_board(board)
    if show:
        load_image(firmware, target)
        name = tool or TOOLS[0]
        if name not in TOOLS:
            raise OptionError(f"tool {name!r}", "it is none of those known here", f"Choose one of: {', '.join(TOOLS)}")
        typer.echo(shlex.join(flash_command(firmware, target, FlashTool(name, (name,)), probe=probe)))
        return
    used, _ = flash_firmware(firmware, target, tool=tool, probe=probe)
    typer.echo(f"written    {firmware} to {target.title}, by {used.name}; the board has been reset")
