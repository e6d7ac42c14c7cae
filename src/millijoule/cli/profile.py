"""`millijoule profile`: where the cycles, the memory and the energy of one inference go."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from millijoule.errors import DataError, DeviceError, OptionError
from millijoule.graph import Graph, load_graph

app = typer.Typer(help="Where the cycles, the memory and the energy of one inference go.")

WIDE = 190
"""Columns of the whole table; a narrower terminal gets the first columns only."""


@app.command()
def profile(
    model: Annotated[Path, typer.Argument(help="A quantised .mj file, for example runs/demo/qat.mj.")],
    board: Annotated[str, typer.Option("--board", help="A name of `millijoule boards list`, or a board's TOML file.")],
    trace: Annotated[
        bool,
        typer.Option("--trace/--edges", help="Time every instruction and address, or price counts of blocks (faster)."),
    ] = True,
    top: Annotated[int, typer.Option(min=0, help="Only the N slowest layers; 0 for all in their order.")] = 0,
    functions: Annotated[bool, typer.Option("--functions", help="Add the functions of the firmware.")] = False,
    hot: Annotated[int, typer.Option(min=0, max=100, help="Add the N instructions that took most cycles.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Also write a page with charts over time and of the RAM (.html).")
    ] = None,
    firmware_out: Annotated[
        Path | None,
        typer.Option("--firmware", help="Write firmware (.elf) that times its layers, to flash onto a board."),
    ] = None,
    port: Annotated[
        str | None, typer.Option(help="Where a board with that firmware is: /dev/ttyACM0, COM3, tcp:PORT. Compares.")
    ] = None,
    baud: Annotated[int, typer.Option(help="Bits per second of the port.")] = 115200,
    rate: Annotated[
        float | None, typer.Option(help="Inferences a second, sleeping in between: average power. 1 with --battery.")
    ] = None,
    sleep_current: Annotated[
        float | None, typer.Option(min=0.0, help="Microamperes of that sleep; the board's own figure by default.")
    ] = None,
    battery: Annotated[
        float | None, typer.Option(min=0.0, help="Milliampere hours of a cell: how long it lasts.")
    ] = None,
    kernels: Annotated[
        str, typer.Option(help="dsp (Armv7E-M instructions) or plain C; the results are equal.")
    ] = "dsp",
    compiler: Annotated[str, typer.Option(help="zig, or gcc for arm-none-eabi-gcc.")] = "zig",
) -> None:
    """Profile one inference on an emulated board: layer by layer, block by block.

    Cycles, cycles per MAC, kinds of instructions, causes of lost cycles, RAM in use, energy. The picture is noise: the
    time of an int8 model hardly depends on it. With --port the cycles of a board's own counter stand beside them.

    Example: millijoule profile runs/demo/qat.mj --board stm32l4r9i --top 10 --out profile.html
    """
    from millijoule.compile import row_timeline
    from millijoule.deploy import compile_model

    graph = _quantised(model)
    if board == "host":
        raise OptionError(
            "board 'host'", "this computer has no cycle model", "Name a board of `millijoule boards list`"
        )
    firmware = compile_model(graph, board, kernels=kernels, compiler=compiler, name=model.stem)
    measured: Any = firmware.profile(noise_picture(graph), method="trace" if trace else "edges")
    values = measured.to_json()
    if hot and not trace:
        raise OptionError("--hot", "counts of blocks do not tell instructions apart", "Leave out --edges")
    if firmware_out is not None:
        _write_firmware(firmware.program, compiler, firmware_out)
    values["measured"] = _measured(values, port, baud) if port is not None else None
    asked = rate is not None or sleep_current is not None or battery is not None
    values["duty"] = _duty(measured, rate or 1.0, sleep_current, battery) if asked else []
    title = f"{model.stem} on {firmware.program.board.title if firmware.program.board else board}"
    values["ram"] = row_timeline(firmware.program)
    if out is not None:
        from millijoule.report import MOMENTS, write_profile

        shown = {**values, "ram": row_timeline(firmware.program, MOMENTS)}
        write_profile(shown, f"Profile of {title}", out)
    if as_json:
        typer.echo(json.dumps(values))
        return
    _show(values, title, top, functions, hot)
    for path in (out, firmware_out):
        if path is not None:
            typer.echo(f"written    {path}")


def noise_picture(graph: Graph) -> npt.NDArray[np.uint8]:
    """The picture (H, W, C) that times are measured with where none is given: the same noise every time."""
    shape = graph.tensor(graph.inputs[0]).shape[1:]
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def _duty(measured: Any, rate: float, sleep_current: float | None, capacity: float | None) -> list[dict[str, Any]]:
    """Average power and battery life with each regulator."""
    from millijoule.boards import load_board
    from millijoule.emulate import Battery, duty_cycle

    amperes, sleep = None if sleep_current is None else sleep_current * 1e-6, load_board(measured.board).sleep
    cell = Battery(capacity) if capacity is not None else None
    found = []
    for item in measured.energies:
        duty = duty_cycle(item, rate, sleep_amperes=amperes, sleep=sleep, battery=cell)
        found.append({**asdict(duty), "regulator": item.regulator, "title": item.title, "statement": duty.statement})
    return found


def _write_firmware(program: Any, compiler: str, out: Path) -> None:
    from millijoule.build import build_board

    build_board(program.files, program.board, compiler=compiler, defines={"MJ_PROFILE": "1"}, out=out)


def _measured(values: Mapping[str, Any], port: str, baud: int) -> dict[str, Any]:
    """What the board's counter says. Raises DeviceError for a board with another model."""
    from millijoule.device import Device, measure_layers

    with Device.open(port, baud=baud) as device:
        found = measure_layers(device)
    if [layer.name for layer in found.layers] != [layer["name"] for layer in values["layers"]]:
        raise DeviceError(
            f"port {port}",
            f"the board's model has other layers ({len(found.layers)}, here {len(values['layers'])})",
            "Flash the firmware that millijoule profile MODEL --board B --firmware FILE writes",
        )
    return asdict(found)


def _quantised(model: Path) -> Graph:
    """The model. Raises FormatError for what is none, DataError for a float one."""
    graph = load_graph(model)
    weights = [graph.tensor(node.inputs[1]).dtype for node in graph.nodes if node.op in WEIGHTED]
    if {"float32", "float16"} & set(weights):
        raise DataError(
            str(model),
            "it is a float model, and the profile is about quantised ones",
            "Quantise it first: millijoule quantize static, or runs/*/static.mj of a study",
        )
    return graph


WEIGHTED = ("conv2d", "depthwise_conv2d", "dense")


def _show(values: Mapping[str, Any], title: str, top: int, functions: bool, hot: int) -> None:
    from millijoule.report import profile_rows, whole_row

    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDE)
    wide = console.width >= WIDE
    layers: Sequence[Mapping[str, Any]] = values["layers"]
    if top:
        layers = sorted(layers, key=lambda layer: -layer["cycles"])[:top]
    _print(console, title, "layer", profile_rows(values, [*layers, values["outside"], whole_row(values)]), values, wide)
    _print(console, "blocks of the network", "block", profile_rows(values, values["blocks"]), values, wide)
    if functions:
        _functions(console, values, top)
    if hot:
        _instructions(console, values, hot)
    if values["measured"] is not None:
        _compare(console, values, top)
    milliseconds, cycles, instructions = values["milliseconds"], values["cycles"], values["instructions"]
    typer.echo(f"latency    {milliseconds:.2f} ms ({cycles:,} cycles, {instructions:,} instructions)")
    for item in values["energies"]:
        typer.echo(f"energy     {item['millijoules']:.3f} mJ, {item['title']}")
    typer.echo(f"memory     {values['arena_bytes']:,} bytes of arena, {values['peak_stack_bytes']:,} of stack")
    for item in values["duty"]:
        lasts = (
            f"; {item['battery']['capacity_mah']:g} mAh last {item['battery_hours']:,.0f} h" if item["battery"] else ""
        )
        power = f"{1e3 * item['watts']:.3f} mW, {1e3 * item['amperes']:.3f} mA on average"
        typer.echo(f"duty       {power}, {item['title']}{lasts}")
    for item in values["duty"] or values["energies"]:
        typer.echo(item["statement"])
    if not wide:
        typer.echo(f"with {WIDE} columns or --json: kinds of instructions and causes of lost cycles, too")


def _table(head: str, columns: Sequence[str], title: str, values: Mapping[str, Any]) -> Table:
    """An empty table whose caption states the conditions of its figures."""
    from millijoule.report import conditions_line

    table = Table(
        title=escape(title),
        caption=escape(conditions_line(values)),
        caption_justify="left",
        box=box.SIMPLE,
        pad_edge=False,
    )
    table.add_column(head, overflow="fold")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _print(
    console: Console, title: str, head: str, rows: Sequence[Mapping[str, Any]], values: Mapping[str, Any], wide: bool
) -> None:
    from millijoule.report import CAUSES

    mix = list(values["mix"]) if wide else []
    lost = list(CAUSES) if wide and values["stalls"] is not None else []
    groups = [[f"instr. %\n{mix[0]}", *mix[1:]] if mix else [], [f"lost %\n{lost[0]}", *lost[1:]] if lost else []]
    table = _table(
        head, ("cycles", "share\n%", "cycles\n/MAC", "RAM\nKiB", "uJ", *groups[0], *groups[1]), title, values
    )
    for row in rows:
        parts = [*(row["mix"] if mix else ()), *(row["lost"] if lost else ())]
        share = f"{100 * row['share']:.1f}"
        table.add_row(
            escape(row["name"]), f"{row['cycles']:,}", share, row["per_mac"], row["ram"], row["energy"], *parts
        )
    console.print(table)


def _functions(console: Console, values: Mapping[str, Any], top: int) -> None:
    columns = ("calls", "instructions", "cycles", "share\n%")
    table = _table("function", columns, "functions, each by itself", values)
    for item in values["functions"][: top or None]:
        share = f"{100 * item['cycles'] / values['cycles']:.1f}"
        table.add_row(
            escape(item["name"]), f"{item['calls']:,}", f"{item['instructions']:,}", f"{item['cycles']:,}", share
        )
    console.print(table)


def _instructions(console: Console, values: Mapping[str, Any], hot: int) -> None:
    from millijoule.report import instruction_row

    table = _table("instruction", ("times", "cycles", "share\n%", "lost\n%"), "the hottest instructions", values)
    table.add_column("mostly by")
    table.add_column("function", overflow="fold")
    for item in values["hottest"][:hot]:
        row = instruction_row(item)
        numbers = (f"{item['count']:,}", f"{item['cycles']:,}", f"{100 * item['cycles'] / values['cycles']:.1f}")
        table.add_row(
            escape(f"{row['address']:08x}  {row['text']}"), *numbers, row["lost"], row["cause"], escape(row["function"])
        )
    console.print(table)


def _compare(console: Console, values: Mapping[str, Any], top: int) -> None:
    """The board's cycles beside the model's; the difference is relative to the board's."""
    pairs = zip(values["layers"], values["measured"]["layers"], strict=True)
    rows = [(layer["name"], layer["cycles"], board["cycles"]) for layer, board in pairs]
    if top:
        rows = sorted(rows, key=lambda row: -row[1])[:top]
    table = _table("layer", ("the model's", "the board's", "model\n%"), "cycles by the board's own counter", values)
    for name, model, board in [*rows, ("all", values["cycles"], values["measured"]["cycles"])]:
        table.add_row(escape(name), f"{model:,}", f"{board:,}", f"{100 * (model / board - 1):+.1f}")
    console.print(table)
    typer.echo("the board's cycles include, for each layer, some 40 of its call and of reading the counter")
