"""`millijoule boards`: what the boards are, how they are clocked, what an inference costs and how long a cell lasts."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from millijoule.boards import Board, Regulator, board_names, load_board
from millijoule.boards.power import STALL_ROW, TEST_ROWS

app = typer.Typer(
    no_args_is_help=True, help="The boards: clock tree, memories, energy and where its figures come from."
)

BoardName = Annotated[str, typer.Argument(help="A name of `boards list`, or a path to a board's .toml file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


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
def show(name: BoardName, as_json: AsJson = False) -> None:
    """Show one board: core, clock tree, console, memories, energy with its source and its error.

    Example: millijoule boards show stm32l4r9i
    """
    board = load_board(name)
    if as_json:
        typer.echo(json.dumps(_values(board)))
        return
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"[bold]{board.title}[/bold]  {board.core}, {board.fpu}, {board.clock_hz / 1e6:.0f} MHz")
    for line in _clock_lines(board):
        console.print(line, markup=False)
    flash = board.flash
    console.print(
        f"flash  {flash.base:#010x}  {flash.size / 1024:7.0f} KiB  {flash.wait_states} wait states, {flash.bank_mode}"
    )
    for memory in board.memories:
        console.print(f"{memory.name:<6} {memory.base:#010x}  {memory.size / 1024:7.0f} KiB  {memory.purpose}")
    for regulator in board.regulators:
        for line in _energy_lines(regulator):
            console.print(line, markup=False)
    if board.paper is not None:
        console.print(
            f"paper  {board.paper.milliseconds:,.0f} ms, {board.paper.millijoules:g} mJ per inference; "
            f"{board.paper.remark}"
        )


@app.command()
def energy(
    name: BoardName,
    cycles: Annotated[float, typer.Option(help="Core cycles of an inference, for example 2e7.")],
    stall_cycles: Annotated[
        float | None, typer.Option(help="How many of them wait for flash; unknown without this option.")
    ] = None,
    regulator: Annotated[str, typer.Option(help="A supply of `boards show`; the first by default.")] = "",
    volts: Annotated[float | None, typer.Option(help="Supply voltage; that of the measurements by default.")] = None,
    rate: Annotated[
        float | None, typer.Option(help="Inferences a second, sleeping in between; 0.01 is one in 100 s.")
    ] = None,
    sleep_current: Annotated[
        float | None, typer.Option(help="Microamperes of that sleep; the board's own figure by default.")
    ] = None,
    sleep_source: Annotated[str, typer.Option(help="Where that current comes from.")] = "user",
    wake_energy: Annotated[
        float | None, typer.Option(help="Microjoules to wake up once; not counted without this option.")
    ] = None,
    battery: Annotated[float | None, typer.Option(help="Milliampere hours of a cell: how long it lasts.")] = None,
    usable: Annotated[float, typer.Option(help="Share of the cell's capacity that can be used.")] = 1.0,
    self_discharge: Annotated[float, typer.Option(help="Share of the cell's capacity lost in a year.")] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Energy of an inference; with --rate also average power, with --battery how long a cell lasts.

    Example: millijoule boards energy stm32l4r9i --cycles 2e7 --rate 0.1 --sleep-current 3 --battery 220
    """
    from millijoule import emulate
    from millijoule.errors import OptionError

    one = emulate.energy(cycles, name, regulator or None, stall_cycles=stall_cycles, volts=volts)
    values: dict[str, Any] = {
        "board": load_board(name).name,
        "regulator": one.regulator,
        "volts": one.volts,
        "joules": one.joules,
        "uncertainty": one.uncertainty,
        "seconds": one.seconds,
        "phases": [{"name": item.name, "seconds": item.seconds, "joules": item.joules} for item in one.phases],
        "statement": one.statement,
    }
    duty: emulate.DutyCycle | None = None
    if rate is not None:
        duty = emulate.duty_cycle(
            one,
            rate,
            sleep_amperes=None if sleep_current is None else sleep_current * 1e-6,
            sleep_source=sleep_source,
            sleep=load_board(name).sleep,
            wake_joules=None if wake_energy is None else wake_energy * 1e-6,
            battery=None if battery is None else emulate.Battery(battery, usable, self_discharge),
        )
        values["duty"] = {
            "per_second": duty.per_second,
            "watts": duty.watts,
            "amperes": duty.amperes,
            "uncertainty": duty.uncertainty,
            "sleep_share": duty.sleep_share,
            "battery_hours": duty.battery_hours,
            "statement": duty.statement,
        }
    elif any(value is not None for value in (sleep_current, wake_energy, battery)):
        raise OptionError("a sleep current, wake-up energy or cell", "no rate is given", "Add --rate")
    if as_json:
        typer.echo(json.dumps(values))
        return
    typer.echo(f"energy   {_scaled(one.joules, 'J')} +-{one.uncertainty:.1%} in {_scaled(one.seconds, 's')}")
    for item in duty.phases if duty else one.phases:
        typer.echo(f"  {item.name:<12} {_scaled(item.seconds, 's'):>10} x {_scaled(item.watts, 'W'):>10}")
    if duty is not None:
        typer.echo(
            f"average  {_scaled(duty.watts, 'W')} +-{duty.uncertainty:.1%}, {_scaled(duty.amperes, 'A')}, "
            f"{duty.sleep_share:.0%} of it asleep"
        )
        if duty.battery_hours is not None:
            typer.echo(f"battery  {duty.battery_hours / 24:,.0f} days")
    typer.echo(duty.statement if duty else one.statement)


def _scaled(value: float, unit: str) -> str:
    """Three digits with the prefix that suits: 0.00123 s -> 1.23 ms."""
    steps = ((1.0, ""), (1e-3, "m"), (1e-6, "u"))
    factor, prefix = next(((factor, prefix) for factor, prefix in steps if abs(value) >= factor), (1e-9, "n"))
    number = value / factor
    return f"{number:,.0f} {prefix}{unit}" if abs(number) >= 100.0 else f"{number:.3g} {prefix}{unit}"


def _clock_lines(board: Board) -> list[str]:
    """The clock tree and the console, computed from the numbers that the start-up code is compiled with."""
    tree, mega = board.clock, 1e6
    console = tree.console(board.console.peripheral, board.console.baud)
    buses = ", ".join(f"{bus.name} {tree.hertz(bus.name) / mega:g} MHz" for bus in tree.buses)
    pins = f"P{board.console.transmit.port}{board.console.transmit.pin}"
    pins += f"/P{board.console.receive.port}{board.console.receive.pin}"
    steps = " x 256" if board.console.peripheral.startswith("LPUART") else ""
    return [
        f"clock  {tree.oscillator} {tree.oscillator_hz / mega:g} MHz / {tree.input_divider} = "
        f"{tree.pll_input_hz / mega:g} MHz, x {tree.multiplier} = {tree.vco_hz / mega:g} MHz, "
        f"/ {tree.output_divider} = {tree.system_hz / mega:g} MHz; {tree.voltage}",
        f"       core from {tree.core}: {tree.core_hz / mega:g} MHz; {buses}",
        f"serial {board.console.peripheral} on {pins}, {console.source} {console.hertz / mega:g} MHz{steps} / "
        f"{console.divider} = {console.baud:,.0f} baud ({console.error:+.2%} of {board.console.baud})",
    ]


def _energy_lines(regulator: Regulator) -> list[str]:
    """Power, error on what the fit has not seen, and the rows."""
    fit = regulator.fit
    low, high = fit.stall_range
    factor = (
        f"a cycle waiting for flash costs {fit.stall_factor:.2f} of it (published rounds: {low:.2f} to {high:.2f})"
        if fit.identified
        else f"a cycle waiting for flash is taken to cost the same (published rounds: {low:.2f} to {high:.2f})"
    )
    errors = ", ".join(f"{name} {fit.residuals[name]:+.1%}" for name in TEST_ROWS if name in fit.residuals)
    if not fit.identified and STALL_ROW in fit.residuals:
        errors += f"; {STALL_ROW}, which often waits for flash: {fit.residuals[STALL_ROW]:+.1%}"
    return [
        f"energy {regulator.name}: {regulator.joules_per_cycle * 1e12:.0f} pJ per cycle, "
        f"{fit.compute_watts * 1e3:.1f} mW, {regulator.title}; {factor}",
        f"       fitted to {', '.join(fit.fit_rows)}; tested on {errors}; up to {fit.blind_error:.1%} where the "
        f"waiting is not known; {regulator.source}",
    ]


def _values(board: Board) -> dict[str, Any]:
    """A board as plain values."""
    console = board.clock.console(board.console.peripheral, board.console.baud)
    return {
        "name": board.name,
        "title": board.title,
        "silicon": board.silicon,
        "core": board.core,
        "fpu": board.fpu,
        "clock_hz": board.clock_hz,
        "clock": board.clock.to_json(),
        "console": {
            "peripheral": board.console.peripheral,
            "source": console.source,
            "hz": console.hertz,
            "divider": console.divider,
            "baud": console.baud,
            "error": console.error,
        },
        "flash": {
            "base": board.flash.base,
            "bytes": board.flash.size,
            "wait_states": board.flash.wait_states,
            "bank_mode": board.flash.bank_mode,
        },
        "memories": [
            {"name": item.name, "base": item.base, "bytes": item.size, "purpose": item.purpose}
            for item in board.memories
        ],
        "energy": [
            {
                "regulator": item.name,
                "title": item.title,
                "volts": item.volts,
                "joules_per_cycle": item.joules_per_cycle,
                "compute_watts": item.fit.compute_watts,
                "stall_factor": item.fit.stall_factor,
                "stall_range": item.fit.stall_range,
                "stall_factor_identified": item.fit.identified,
                "residuals": item.fit.residuals,
                "test_error": item.fit.test_error,
                "error_without_stalls": item.fit.blind_error,
                "rows": item.rows,
                "source": item.source,
            }
            for item in board.regulators
        ],
    }
