"""`millijoule compare`: several models of one task on the same pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from millijoule.cli._bars import progress_bars
from millijoule.errors import DataError, OptionError

if TYPE_CHECKING:
    from millijoule.data import PreparedSet
    from millijoule.graph import Graph
    from millijoule.quantize import Comparison, Compiled, LayerError, ModelFigures

__all__ = ["compare", "compiler"]

LAYER_PICTURES = 10
"""Pictures of `--layers`: every activation of all of them is held in memory."""


def compare(
    models: Annotated[
        list[Path],
        typer.Argument(help=".mj files, or best.safetensors of training runs. The first one is the reference."),
    ],
    data: Annotated[Path, typer.Option(help="A prepared data set, made by `millijoule data prepare`.")],
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    limit: Annotated[int | None, typer.Option(help="Only so many pictures, evenly chosen.")] = None,
    board: Annotated[str, typer.Option(help="What sizes are compiled for: a board, or host.")] = "host",
    layers: Annotated[
        bool, typer.Option("--layers", help="Signal to noise of every layer too, on at most 10 of the pictures.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Everything as JSON: also confusion matrices and each changed prediction.")
    ] = False,
) -> None:
    """Accuracy, sizes and changed predictions of several models on the same pictures.

    The first model is the reference, usually the float one. Flash and arena are those of the compiled model.

    Example: millijoule compare float.mj dynamic.mj static.mj qat.mj --data runs/photos
    """
    from millijoule.data import open_prepared
    from millijoule.quantize import chosen_rows
    from millijoule.quantize import compare as compare_models
    from millijoule.quantize.compare import kind_of

    compiled = compiler(board)
    prepared = open_prepared(data)
    chosen = prepared.split(split)
    graphs = _models(models, prepared)
    reference = next(iter(graphs))
    if layers and kind_of(graphs[reference]) != "float":
        raise OptionError("--layers", f"the reference {reference} is not a float model", "Name the float model first")
    with progress_bars() as progress:
        comparison = compare_models(
            graphs,
            chosen,
            reference=reference,
            limit=limit,
            tflite_bytes=_tflite_bytes(),
            compiled=compiled,
            progress=progress,
        )
        rows = chosen_rows(len(chosen.labels), limit)
        few = rows[chosen_rows(len(rows), LAYER_PICTURES)]
        errors = _layer_errors(graphs, np.ascontiguousarray(chosen.pictures[few])) if layers else {}
    if as_json:
        values = comparison.to_json()
        if layers:
            values["layer_pictures"] = len(few)
            values["layers"] = {name: [vars(item) for item in found] for name, found in errors.items()}
        typer.echo(json.dumps(values, indent=2))
        return
    # narrower terminals fold the lines of one table; cut cells would lose figures
    console = Console(highlight=False, width=max(Console().width, 140))
    console.print(
        f"{comparison.pictures} pictures; difference in percentage points, changed, lost/won and SQNR of the logits: "
        f"against {reference}; ranges and ±: 95 %; flash, .tflite and arena: bytes, compiled for {board}",
        soft_wrap=True,
        markup=False,
    )
    console.print(_table(comparison))
    for row in comparison.models:
        if row.compiled is not None and row.compiled.refusal:
            console.print(f"{row.name} is not compiled: {row.compiled.refusal}", soft_wrap=True, markup=False)
    if layers:
        console.print(
            f"\nlayers against {reference} on {len(few)} pictures: signal to noise of their results in dB, errors of "
            "earlier layers included; -: not comparable",
            soft_wrap=True,
            markup=False,
        )
        console.print(_layer_table(errors))


def _models(paths: list[Path], prepared: PreparedSet) -> dict[str, Graph]:
    """The models by the names they get, of the pictures' classes."""
    from millijoule.cli.quantize import _load

    graphs: dict[str, Graph] = {}
    for path in paths:
        name = path.stem if path.stem not in graphs else str(path)
        if name in graphs:
            raise OptionError(str(path), "it is given twice", "Name every model once")
        graphs[name] = _load(path)
        names = graphs[name].classes
        if names and tuple(names) != tuple(prepared.classes):
            raise DataError(
                str(path),
                f"its classes ({_few(names)}) are not those of {prepared.folder} ({_few(prepared.classes)})",
                "Give the prepared pictures of its task",
            )
    return graphs


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _layer_errors(graphs: Mapping[str, Graph], pictures: Any) -> dict[str, list[LayerError]]:
    """For every model but the first, a float one: its layers against those of the first."""
    from millijoule.quantize import layer_snr

    (_, reference), *others = graphs.items()
    return {name: layer_snr(reference, graph, pictures) for name, graph in others}


def _table(comparison: Comparison) -> Table:
    """One line per model; the paper's figures below the models that it has, too."""
    from millijoule.report import PAPER_METHODS

    table = Table(caption_justify="left", box=None, pad_edge=False)
    table.add_column("model", no_wrap=True)
    heads = ("accuracy %", "difference", "changed", "lost/won", "SQNR dB", "bits", "flash", ".tflite", "arena")
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for row in comparison.models:
        sizes = row.compiled
        difference = "-"
        if row.difference is not None and row.difference_interval is not None:
            half = (row.difference_interval.high - row.difference_interval.low) / 2
            difference = f"{row.difference:+.2f} ±{half:.2f}"
        table.add_row(
            row.name,
            f"{row.accuracy:.2f} ({row.interval.low:.1f}-{row.interval.high:.1f})",
            difference,
            "-" if row.changed is None else f"{row.changed} ({100 * row.changed / comparison.pictures:.1f} %)",
            "-" if row.lost is None else f"{row.lost}/{row.won}",
            "-" if row.name == comparison.reference else _level(row.logits_sqnr),
            _bits(row),
            _count(sizes.flash_bytes if sizes else None),
            _count(row.tflite_bytes),
            _count(sizes.arena_bytes if sizes else None),
        )
    theirs = {row.name: PAPER_METHODS[row.name] for row in comparison.models if row.name in PAPER_METHODS}
    if theirs:
        table.caption = "the paper on VMMRdb, other photographs than these (accuracy % / model KB / activations KB): "
        table.caption += ", ".join(
            f"{name} {paper.accuracy} / {paper.model_kb:,g} / {paper.activation_kb:,g}"
            for name, paper in theirs.items()
        )
    return table


def _level(level: float | None) -> str:
    """A ratio in dB; None means that there is no error at all."""
    return "equal" if level is None else f"{level:.1f}"


def _bits(row: ModelFigures) -> str:
    """Bits of the weights; of a mixture the mean, and how many layers have the fewest."""
    if len(row.layers_by_bits) < 2:
        return f"{row.weight_bits:.0f}"
    fewest, layers = next(iter(row.layers_by_bits.items()))
    return f"{row.weight_bits:.1f} ({layers} of {sum(row.layers_by_bits.values())} with {fewest})"


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _layer_table(errors: Mapping[str, list[LayerError]]) -> Table:
    """One line per layer, one column per model: signal to noise in dB."""
    table = Table(box=None, pad_edge=False)
    table.add_column("layer", no_wrap=True)
    for name in errors:
        table.add_column(name, justify="right", no_wrap=True)
    found = {name: {item.layer: _level(item.sqnr) for item in items} for name, items in errors.items()}
    for layer in dict.fromkeys(item.layer for items in errors.values() for item in items):
        table.add_row(layer, *(levels.get(layer, "-") for levels in found.values()))
    return table


def _tflite_bytes() -> Callable[[Graph], int | None] | None:
    """The size of a graph's .tflite file, or None where that package is missing."""
    try:
        from millijoule.errors import MillijouleError
        from millijoule.interchange import tflite_bytes
    except ImportError:
        return None

    def size(graph: Graph) -> int | None:
        try:
            return len(tflite_bytes(graph))
        except (ModuleNotFoundError, MillijouleError):
            return None

    return size


def compiler(board: str) -> Callable[[Graph], Compiled]:
    """Exact sizes for a board; the reason of a refusal instead. Raises BoardError."""
    from millijoule.boards import load_board
    from millijoule.compile import HOST, compile_graph
    from millijoule.errors import MillijouleError
    from millijoule.quantize import Compiled

    target = HOST if board == HOST else load_board(board)

    def sizes(graph: Graph) -> Compiled:
        try:
            program = compile_graph(graph, target, self_test=False)
        except MillijouleError as error:
            return Compiled(None, None, str(error))
        return Compiled(program.weight_bytes, program.arena_bytes)

    return sizes
