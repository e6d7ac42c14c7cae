"""`millijoule nets`: networks as tables."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from millijoule.nets import (
    LayerRow,
    NetworkSpec,
    StageRow,
    families,
    family,
    layer_table,
    parameter_count,
    specify,
    stage_table,
)

app = typer.Typer(no_args_is_help=True, help="Networks as tables: layers, parameters, MACs, memory.")


@app.command("list")
def list_networks() -> None:
    """List the families of networks.

    Example: millijoule nets list
    """
    table = Table(box=None, pad_edge=False)
    for heading in ("name", "what it is", "alpha with published weights", "paper"):
        table.add_column(heading)
    for entry in families():
        widths = ", ".join(f"{alpha:g}" for alpha in entry.alphas) or "-"
        table.add_row(entry.name, entry.summary, widths, entry.paper)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200  # a file or pipe has no width of its own
    console.print(table)


@app.command()
def show(
    network: Annotated[str, typer.Argument(help="A name of `nets list`.")] = "mobilenet_v2",
    alpha: Annotated[float | None, typer.Option(help="Width multiplier of a MobileNet or a VGG16.")] = None,
    resolution: Annotated[int | None, typer.Option(help="Side of the input picture in pixels.")] = None,
    classes: Annotated[int | None, typer.Option(help="Number of classes.")] = None,
    layers: Annotated[bool, typer.Option("--layers/--no-layers", help="Also list every layer.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Print a network's published table, with parameters, MACs and activation sizes per layer.

    Options default to MobileNetV2 0.5 at 224 with 10 classes, to the full VGG16, and to the configuration of MLPerf
    Tiny for the others. Activations are bytes alive while a layer runs (inputs, output, and what a later addition
    needs), before any tiling.

    Example: millijoule nets show mobilenet_v2 --alpha 0.35 --resolution 96

    Example: millijoule nets show resnet8
    """
    spec = specify(network, alpha=alpha, resolution=resolution, classes=classes)
    if as_json:
        typer.echo(json.dumps(_as_json(spec), indent=2))
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120  # a file or pipe has no width of its own
    count = parameter_count(spec)
    rows = layer_table(spec)
    width = f"alpha {spec.alpha:g}, " if "alpha" in family(spec.family).options else ""
    outputs = f"{spec.classes} {'classes' if 'classes' in family(spec.family).options else 'outputs'}"
    console.print(f"[bold]{network}[/bold]  {width}input {_size(spec.input_shape)}, {outputs}\n")
    console.print(_stage_table(spec))
    if layers:
        console.print()
        console.print(_layer_table(spec))
    peak = max(rows, key=lambda row: row.activation_bytes_int8)
    console.print()
    console.print(
        f"parameters   {count.total:,} ({count.without_classifier:,} without the last layer; "
        f"{count.total - count.trainable:,} moving statistics)"
    )
    console.print(f"MACs         {sum(row.macs for row in rows):,}")
    console.print(
        f"activations  {peak.activation_bytes_int8 / 1024:,.0f} KiB int8, "
        f"{peak.activation_bytes_float / 1024:,.0f} KiB float, largest at {peak.name}"
    )


def _as_json(spec: NetworkSpec) -> dict[str, object]:
    count = parameter_count(spec)
    return {
        "network": spec.to_dict(),
        "parameters": count.total,
        "parameters_trainable": count.trainable,
        "parameters_without_classifier": count.without_classifier,
        "macs": sum(row.macs for row in layer_table(spec)),
        "table_1": [row.to_dict() for row in stage_table(spec)],
        "layers": [row.to_dict() for row in layer_table(spec)],
    }


def _size(shape: tuple[int, int, int]) -> str:
    return "x".join(str(side) for side in shape)


def _table(*columns: tuple[str, bool]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading, right in columns:
        table.add_column(heading, justify="right" if right else "left", no_wrap=True)
    return table


_COSTS = (("parameters", True), ("MACs", True), ("int8 KiB", True), ("float KiB", True))


def _costs(row: StageRow | LayerRow) -> tuple[str, str, str, str]:
    return (
        f"{row.parameters:,}",
        f"{row.macs / 1e6:,.2f} M",
        f"{row.activation_bytes_int8 / 1024:,.1f}",
        f"{row.activation_bytes_float / 1024:,.1f}",
    )


def _stage_table(spec: NetworkSpec) -> Table:
    table = _table(("Input", False), ("Operator", False), ("t", True), ("c", True), ("n", True), ("s", True), *_COSTS)
    for row in stage_table(spec):
        stride = "-" if row.operator in ("avgpool", "dense") else str(row.s)
        expansion = "-" if row.t is None else str(row.t)
        table.add_row(_size(row.input_shape), row.operator, expansion, str(row.c), str(row.n), stride, *_costs(row))
    return table


def _layer_table(spec: NetworkSpec) -> Table:
    table = _table(("Layer", False), ("Operator", False), ("Input", False), ("Output", False), *_COSTS)
    for row in layer_table(spec):
        words = row.operator.removesuffix("_conv2d").removesuffix("2d")
        operator = f"{words} {row.kernel[0]}x{row.kernel[1]}" if row.kernel[0] else words
        operator += f" /{row.stride}" if row.stride > 1 else ""
        table.add_row(row.name, operator, _size(row.input_shape), _size(row.output_shape), *_costs(row))
    return table
