"""`millijoule quantize sensitivity` and `millijoule quantize mixed`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from millijoule.cli._bars import progress_bars
from millijoule.errors import OptionError
from millijoule.files import check_output

if TYPE_CHECKING:
    from millijoule.compile import Program
    from millijoule.graph import Graph
    from millijoule.quantize import Sensitivity

__all__ = ["mixed", "sensitivity"]

Model = Annotated[
    Path, typer.Argument(help="Float model: a .mj file, or best.safetensors of a training run.", show_default=False)
]
Data = Annotated[Path, typer.Option(help="A prepared data set, made by `millijoule data prepare`.")]
Calibration = Annotated[int, typer.Option(help="Training pictures to measure ranges on, balanced by class.")]
Seed = Annotated[int, typer.Option(help="Chooses other calibration pictures.")]
Observer = Annotated[str, typer.Option(help="How ranges are chosen, as for `quantize static`.")]


def sensitivity(
    model: Model,
    data: Data,
    calibration: Calibration = 100,
    seed: Seed = 0,
    observer: Observer = "mse",
    limit: Annotated[int, typer.Option(help="Pictures that the errors are measured on.")] = 16,
    accuracy: Annotated[
        bool, typer.Option("--accuracy", help="Accuracy too, on LIMIT validation pictures, evenly chosen.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """What each layer loses by quantisation, alone and among the others, and the bits it needs.

    Example: millijoule quantize sensitivity runs/train/best.safetensors --data runs/photos --accuracy --limit 200
    """
    import numpy as np

    from millijoule.cli.quantize import _load
    from millijoule.data import calibration_set, open_prepared
    from millijoule.quantize import sensitivity as measure

    if limit < 1:
        raise OptionError("limit", f"{limit} pictures are none", "Give at least 1")
    prepared = open_prepared(data)
    graph = _load(model)
    pictures, _ = calibration_set(prepared, calibration, seed)
    shown, labels = pictures[:limit], None
    if accuracy:
        split = prepared.split("validation")
        count = min(limit, len(split.labels))
        chosen = np.unique(np.linspace(0, len(split.labels) - 1, count).round().astype(np.int64))
        shown, labels = np.ascontiguousarray(split.pictures[chosen]), split.labels[chosen]
    with progress_bars() as progress:
        found = measure(graph, pictures, shown, labels, observer=observer, progress=progress)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
        return
    console = Console(highlight=False)
    Console(highlight=False, width=max(console.width, 150)).print(_table(found))


def _table(found: Sensitivity) -> Table:
    """One line per layer; ratios in dB."""
    whole = ", ".join(f"all with {bits} bits {_level(level)}" for bits, level in found.all_quantised.items())
    title = f"{found.pictures} pictures; signal to noise in dB; logits: {whole}"
    if found.accuracy:
        title += f"; right: float {100 * found.accuracy[32]:.1f} %, all with 8 bits {100 * found.accuracy[8]:.1f} %"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    heads = ["own 8", "own 4", "alone 8", "alone 4", "all but it 8", "all but it 4", "4 among 8"]
    heads += ["right without, 8", "right without, 4"] if found.accuracy else []
    for head in ("layer", "weights", *heads, "bits"):
        table.add_column(head, justify="left" if head == "layer" else "right", no_wrap=True)
    table.add_column("why")
    for layer in found.layers:
        levels = [*(part[bits] for part in (layer.own, layer.alone, layer.without) for bits in (8, 4))]
        cells = [_level(level) for level in (*levels, layer.four_among_eight)]
        cells += [f"{100 * layer.accuracy_without[bits]:.1f} %" for bits in (8, 4)] if found.accuracy else []
        table.add_row(layer.layer, f"{layer.weights:,}", *cells, str(layer.suggested_bits), layer.why)
    return table


def _level(level: float | None) -> str:
    return "-" if level is None else f"{level:.1f}"


def mixed(
    model: Model,
    data: Data,
    out: Annotated[Path, typer.Option(help="The .mj file to write.")],
    budget_bytes: Annotated[int | None, typer.Option(help="Most bytes of flash for weights and constants.")] = None,
    budget_share: Annotated[
        float | None, typer.Option(help="The same in per cent of the network with 8 bits everywhere.")
    ] = None,
    budget_cycles: Annotated[int | None, typer.Option(help="Most cycles for one picture; needs --board.")] = None,
    board: Annotated[str, typer.Option(help="What sizes are compiled for: a board, or host.")] = "host",
    observer: Observer = "mse",
    rounding: Annotated[str, typer.Option(help="single, double or mulhi, as for `quantize static`.")] = "single",
    calibration: Calibration = 200,
    held_back: Annotated[int, typer.Option(help="Calibration pictures that the choice is measured on.")] = 24,
    tune: Annotated[
        int, typer.Option(help="Steps of fine-tuning of the result as a whole, without labels; 0 for none.")
    ] = 0,
    seed: Seed = 0,
    report: Annotated[bool, typer.Option("--report", help="Print every decision, layer by layer.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Weights of 4 or 8 bits, layer by layer, within a budget of flash or cycles.

    Sizes are those of the compiler, cycles those of the emulator.

    Example: millijoule quantize mixed runs/train/best.safetensors --data runs/photos --out mixed.mj --budget-share 60
    """
    from millijoule.cli.quantize import _load, _save
    from millijoule.compile.explain import refused_four_bits
    from millijoule.data import calibration_set, open_prepared
    from millijoule.quantize import mixed as search
    from millijoule.quantize.tune import TuneOptions

    graph = _load(model)
    pictures, _ = calibration_set(open_prepared(data), calibration, seed)
    check_output(out)
    with progress_bars() as progress:
        found = search(
            graph,
            pictures,
            budget_bytes=budget_bytes,
            budget_share=budget_share,
            budget_cycles=budget_cycles,
            size=lambda graph: _compiled(graph, board).weight_bytes,
            cycles=_cycles(board, budget_cycles),
            refusals=lambda graph: refused_four_bits(graph, board),
            observer=observer,
            rounding=rounding,
            held_back=held_back,
            tune=TuneOptions(steps=tune, seed=seed) if tune else None,
            progress=progress,
        )
    _save(found.graph, out)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
        return
    share = 100 * found.bytes / found.bytes_at_eight
    level = "no error" if found.sqnr is None else f"{found.sqnr:.1f} dB"
    typer.echo(
        f"{found.bytes:,} bytes compiled, {share:.1f} % of {found.bytes_at_eight:,} with 8 bits everywhere; logits "
        f"{level} on the pictures held back"
    )
    wide = [name for name, bits in found.weight_bits.items() if bits == 8]
    typer.echo(f"{len(found.weight_bits) - len(wide)} of {len(found.weight_bits)} layers have 4 bits")
    if report:
        typer.echo(found.report.to_text())


def _compiled(graph: Graph, board: str) -> Program:
    from millijoule.compile import compile_graph

    return compile_graph(graph, board, self_test=False)


def _cycles(board: str, budget: int | None) -> Callable[[Graph], dict[tuple[str, ...], int]] | None:
    """Builds and emulates a graph, every instruction timed; None where no cycles are asked for."""
    if budget is None:
        return None
    if board == "host":
        raise OptionError("budget-cycles", "this computer has no cycles to count", "Name a board with --board")

    def cycles(graph: Graph) -> dict[tuple[str, ...], int]:
        from millijoule.cli.profile import noise_picture
        from millijoule.deploy import compile_model

        profile: Any = compile_model(graph, board).profile(noise_picture(graph), method="trace")
        found = {(): profile.cycles - sum(layer.cycles for layer in profile.layers)}
        return found | {layer.members or (layer.name,): layer.cycles for layer in profile.layers}

    return cycles
