"""`millijoule boards`: what the boards are."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from millijoule.boards import board_names, load_board

app = typer.Typer(no_args_is_help=True, help="The boards: clock, memories, where the energy figures come from.")


@app.command("list")
def list_boards() -> None:
    """List the boards, one line each.

    Example: millijoule boards list
    """
    table = Table(box=None, pad_edge=False)
    for heading in ("name", "core", "clock", "flash", "RAM", "largest arena", "energy"):
        table.add_column(heading, justify="left" if heading in ("name", "core", "energy") else "right")
    for name in board_names():
        board = load_board(name)
        regulator = board.regulator()
        table.add_row(
            name,
            board.core,
            f"{board.clock_hz / 1e6:.0f} MHz",
            f"{board.flash.size / 1024:.0f} KiB",
            f"{board.ram_bytes / 1024:.0f} KiB",
            f"{board.arena_limit() / 1024:.0f} KiB",
            f"{regulator.joules_per_cycle * 1e12:.0f} pJ/cycle ({regulator.name})",
        )
    Console().print(table)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A name of `boards list`, or a path to a board's .toml file.")],
) -> None:
    """Show one board: core, clock, memories, energy with its source.

    Example: millijoule boards show stm32l4r9i
    """
    board = load_board(name)
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"[bold]{board.title}[/bold]  {board.core}, {board.fpu}, {board.clock_hz / 1e6:.0f} MHz")
    flash = board.flash
    console.print(
        f"flash  {flash.base:#010x}  {flash.size / 1024:7.0f} KiB  {flash.wait_states} wait states, {flash.bank_mode}"
    )
    for memory in board.memories:
        console.print(f"{memory.name:<6} {memory.base:#010x}  {memory.size / 1024:7.0f} KiB  {memory.purpose}")
    for regulator in board.regulators:
        console.print(
            f"energy {regulator.name}: {regulator.joules_per_cycle * 1e12:.0f} pJ per cycle "
            f"(+-{regulator.uncertainty:.0%}), {regulator.title}; {regulator.source}"
        )
    if board.paper is not None:
        console.print(
            f"paper  {board.paper.milliseconds:,.0f} ms, {board.paper.millijoules:g} mJ per inference; "
            f"{board.paper.remark}"
        )
