"""`millijoule profile`: where the cycles, the memory and the energy of one inference go."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from millijoule.errors import DataError, OptionError
from millijoule.graph import Graph, load_graph

app = typer.Typer(help="Where the cycles, the memory and the energy of one inference go.")

WIDE = 170
"""Columns of the whole table; a narrower terminal gets the first columns only."""


@app.command()
def profile(
    model: Annotated[Path, typer.Argument(help="A quantised .mj file, for example runs/demo/qat.mj.")],
    board: Annotated[str, typer.Option("--board", help="A name of `millijoule boards list`, or a board's TOML file.")],
    top: Annotated[int, typer.Option(min=0, help="Only the N slowest layers; 0 for all in their order.")] = 0,
    functions: Annotated[bool, typer.Option("--functions", help="Add the functions of the firmware.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    out: Annotated[Path | None, typer.Option(help="Also write a page with the chart over time (.html).")] = None,
    kernels: Annotated[
        str, typer.Option(help="dsp (Armv7E-M instructions) or plain C; the results are equal.")
    ] = "dsp",
    compiler: Annotated[str, typer.Option(help="zig, or gcc for arm-none-eabi-gcc.")] = "zig",
) -> None:
    """Profile one inference on an emulated board: layer by layer, block by block.

    Cycles, cycles per MAC, kinds of instructions, causes of lost cycles, RAM in use, energy. The picture is noise: the
    time of an int8 model hardly depends on it.

    Example: millijoule profile runs/demo/qat.mj --board stm32l4r9i --top 10 --out profile.html
    """
    from millijoule.deploy import compile_model

    graph = _quantised(model)
    if board == "host":
        raise OptionError(
            "board 'host'", "this computer has no cycle model", "Name a board of `millijoule boards list`"
        )
    firmware = compile_model(graph, board, kernels=kernels, compiler=compiler, name=model.stem)
    shape = graph.tensor(graph.inputs[0]).shape[1:]
    picture = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    measured: Any = firmware.profile(picture)
    values = measured.to_json()
    title = f"{model.stem} on {firmware.program.board.title if firmware.program.board else board}"
    if out is not None:
        from millijoule.report import write_profile

        write_profile(values, f"Profile of {title}", out)
    if as_json:
        typer.echo(json.dumps(values))
        return
    _show(values, title, top, functions)
    if out is not None:
        typer.echo(f"written    {out}")


def _quantised(model: Path) -> Graph:
    """The model. Raises FormatError for what is none, DataError for a float one."""
    graph = load_graph(model)
    weights = [graph.tensor(node.inputs[1]).dtype for node in graph.nodes if node.op in WEIGHTED]
    if "float32" in weights:
        raise DataError(
            str(model),
            "it is a float model, and the profile is about quantised ones",
            "Quantise it first: millijoule quantize static, or runs/*/static.mj of a study",
        )
    return graph


WEIGHTED = ("conv2d", "depthwise_conv2d", "dense")


def _show(values: Mapping[str, Any], title: str, top: int, functions: bool) -> None:
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
    milliseconds, cycles, instructions = values["milliseconds"], values["cycles"], values["instructions"]
    typer.echo(f"latency    {milliseconds:.2f} ms ({cycles:,} cycles, {instructions:,} instructions)")
    for item in values["energies"]:
        typer.echo(f"energy     {item['millijoules']:.3f} mJ, {item['title']}")
    typer.echo(f"memory     {values['arena_bytes']:,} bytes of arena, {values['peak_stack_bytes']:,} of stack")
    for line in values["statements"]:
        typer.echo(line)
    if not wide:
        typer.echo(
            f"a terminal of {WIDE} columns also shows kinds of instructions and causes of lost cycles; so does --json"
        )


def _print(
    console: Console, title: str, head: str, rows: Sequence[Mapping[str, Any]], values: Mapping[str, Any], wide: bool
) -> None:
    from millijoule.report import CAUSES, conditions_line

    table = Table(
        title=title, box=box.SIMPLE, padding=(0, 1, 0, 0), caption=conditions_line(values), caption_justify="left"
    )
    table.add_column(head, overflow="fold")
    mix = [f"{name} %" for name in values["mix"]] if wide else []
    lost = [f"{name} lost %" for name in CAUSES] if wide and values["stalls"] is not None else []
    for name in ("cycles", "share %", "cycles/MAC", *mix, *lost, "RAM KiB", "uJ"):
        table.add_column(name, justify="right", no_wrap=not (mix or lost))
    for row in rows:
        parts = [*(row["mix"] if mix else ()), *(row["lost"] if lost else ())]
        share = f"{100 * row['share']:.1f}"
        table.add_row(row["name"], f"{row['cycles']:,}", share, row["per_mac"], *parts, row["ram"], row["energy"])
    console.print(table)


def _functions(console: Console, values: Mapping[str, Any], top: int) -> None:
    from millijoule.report import conditions_line

    table = Table(
        title="functions, each by itself", box=box.SIMPLE, padding=(0, 1, 0, 0), caption=conditions_line(values)
    )
    table.add_column("function", overflow="fold")
    for name in ("calls", "instructions", "cycles", "share %"):
        table.add_column(name, justify="right", no_wrap=True)
    for item in values["functions"][: top or None]:
        share = f"{100 * item['cycles'] / values['cycles']:.1f}"
        table.add_row(item["name"], f"{item['calls']:,}", f"{item['instructions']:,}", f"{item['cycles']:,}", share)
    console.print(table)
