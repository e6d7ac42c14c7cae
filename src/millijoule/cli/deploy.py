"""`millijoule deploy`: compile, export, verify, emulate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from millijoule.cli._bars import progress_bars
from millijoule.errors import OptionError
from millijoule.graph import Graph, load_graph

app = typer.Typer(no_args_is_help=True, help="Compile, build, emulate, export firmware.")

Model = Annotated[Path, typer.Argument(help="A .mj file, for example runs/demo/qat.mj.")]
BoardName = Annotated[str, typer.Option("--board", help="stm32l4r9i, stm32h7b3i, or a board's TOML file.")]
Kernels = Annotated[str, typer.Option(help="dsp (Armv7E-M instructions) or plain C; the results are the same.")]
Compiler = Annotated[str, typer.Option(help="zig, or gcc for arm-none-eabi-gcc.")]
Out = Annotated[Path, typer.Option(help="Folder to write; it appears whole or not at all.")]
Data = Annotated[Path | None, typer.Option(help="Prepared data set; its test split is used. Without it: noise.")]
Count = Annotated[int, typer.Option("--pictures", min=1, help="How many pictures.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Objective = Annotated[
    str,
    typer.Option(
        help="cycles; ram: the smallest arena; energy: as cycles, which decide it on these boards. Same results."
    ),
]
RamBudget = Annotated[
    int | None, typer.Option("--ram-budget", help="Bytes that the arena may have; the fastest plan within them.")
]
Tune = Annotated[
    bool,
    typer.Option(
        "--tune",
        help="Try other chunk sizes in the emulator and keep the fastest; minutes, resumed if interrupted.",
    ),
]
Stream = Annotated[
    bool, typer.Option("--stream", help="The picture comes row by row (mj_push_row) and is stored nowhere.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export of millijoule.")]


@app.callback()
def _group() -> None:
    """Compile, build, emulate, export firmware."""


@app.command("compile")
def compile_command(
    model: Model,
    board: BoardName = "host",
    out: Annotated[Path | None, typer.Option(help="Folder for the C files.")] = None,
    kernels: Kernels = "dsp",
    objective: Objective = "cycles",
    ram_budget: RamBudget = None,
    stream: Stream = False,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Which layers run together, their rings, chunks and bytes, and the peak."),
    ] = False,
    tune: Tune = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Compile a model to C and print its memory plan; with --out the C files are written.

    A model that does not fit the board or the budget is refused, with the bytes that are missing and what would fit.

    Example: millijoule deploy compile runs/demo/static.mj --board stm32l4r9i --out build/model

    Example: millijoule deploy compile runs/demo/static.mj --board stm32l4r9i --ram-budget 160000 --explain

    Example: millijoule deploy compile runs/demo/static.mj --board stm32l4r9i --stream
    """
    from millijoule.cli._plan import explanation, tuned, tuning_text, tuning_values
    from millijoule.compile import PlanOptions, compile_graph, explain_program, row_timeline
    from millijoule.deploy import export_sources

    graph = load_graph(model)
    found = tuned(graph, board, kernels, objective, ram_budget) if tune else None
    program = compile_graph(
        graph,
        board,
        kernels=kernels,
        name=model.stem,
        options=PlanOptions(stream=stream),
        objective=objective,
        ram_budget=ram_budget,
        winners=None if found is None else found.winners,
    )
    if out is not None:
        export_sources(program, out, overwrite=overwrite)
    facts = explain_program(program) if explain else None
    if as_json:
        values = program.summary() | ({} if facts is None else {"explanation": facts, "ram": row_timeline(program)})
        typer.echo(json.dumps(values | ({} if found is None else {"tuning": tuning_values(found)})))
        return
    if facts is not None:
        typer.echo(explanation(facts))
        if found is not None:
            typer.echo(tuning_text(found))
        if out is not None:
            typer.echo(f"written    {out}")
        return
    table = _table(program.name, ("layer", "kernel", "result"), ("MACs", "constants", "alive"))
    for layer in program.layers:
        shape = "x".join(str(extent) for extent in layer.out_shape)
        numbers = (f"{value:,}" for value in (layer.macs, layer.weight_bytes, layer.live_bytes))
        table.add_row(layer.name, layer.kernel.replace("mj_", ""), shape, *numbers)
    _print(table)
    typer.echo(f"target     {program.target}, {program.kernels} kernels")
    typer.echo(f"arena      {program.arena_bytes:,} bytes; no plan can be smaller than {program.plan.lower_bound:,}")
    typer.echo("alive      bytes of RAM in use while the layer runs; constants: its bytes of flash")
    typer.echo(f"constants  {program.weight_bytes:,} bytes of flash")
    typer.echo(f"work       {program.macs:,} MACs")
    if found is not None:
        typer.echo(tuning_text(found))
    if out is not None:
        typer.echo(f"written    {out}")


@app.command()
def export(
    model: Model,
    out: Out,
    board: BoardName = "stm32l4r9i",
    format: Annotated[str, typer.Option("--format", help="make, cmake, cubeide, zephyr or arduino.")] = "make",
    kernels: Kernels = "dsp",
    compiler: Compiler = "zig",
    overwrite: Overwrite = False,
) -> None:
    """The same as `millijoule export`: write a project that builds by itself.

    Example: millijoule deploy export runs/demo/static.mj --board stm32h7b3i --out build/firmware
    """
    from millijoule.cli.export import write_project

    write_project(model, out, board, format=format, kernels=kernels, compiler=compiler, overwrite=overwrite)


@app.command()
def verify(
    model: Model,
    board: Annotated[
        list[str] | None, typer.Option("--board", help="host or a board; may be repeated. Default: all of them.")
    ] = None,
    data: Data = None,
    count: Count = 3,
    kernels: Kernels = "dsp",
    compiler: Compiler = "zig",
    as_json: AsJson = False,
) -> None:
    """Prove that the executor, C on this computer and the emulated boards agree; exit code 1 when they do not.

    Integer models must agree in every bit; the first layer that differs is named.

    Example: millijoule deploy verify runs/demo/static.mj --data runs/toy --pictures 20
    """
    from millijoule.boards import board_names
    from millijoule.deploy import verify as verify_graph

    graph = load_graph(model)
    targets = board or ["host", *board_names()]
    pictures, _ = _pictures(graph, data, count)
    with progress_bars() as progress:
        report = verify_graph(graph, pictures, targets, kernels=kernels, compiler=compiler, progress=progress)
    if as_json:
        typer.echo(json.dumps(report.as_dict()))
    else:
        typer.echo(f"{report.model}: {report.arithmetic}, {report.pictures} pictures against the executor")
        for target in report.targets:
            verdict = "every bit equal" if target.bit_exact else "within tolerance" if target.equal else "DIFFERENT"
            largest = f"largest difference {target.largest_difference:g} (allowed {report.tolerance:g})"
            typer.echo(f"{target.target:<12} {verdict}, {largest}, {target.changed_predictions} predictions changed")
            where = target.first_difference
            if where is not None:
                typer.echo(f"{'':<12} first in layer {where.index} {where.name!r} ({where.operator}, {where.kernel})")
    if not report.equal:
        raise typer.Exit(1)


@app.command()
def emulate(
    model: Model,
    board: BoardName = "stm32l4r9i",
    data: Data = None,
    count: Count = 1,
    kernels: Kernels = "dsp",
    compiler: Compiler = "zig",
    as_json: AsJson = False,
) -> None:
    """Run the firmware on an emulated board: classes, cycles per layer, milliseconds, millijoules.

    Example: millijoule deploy emulate runs/demo/static.mj --board stm32h7b3i --data runs/toy --pictures 10
    """
    from millijoule.deploy import compile_model

    graph = load_graph(model)
    pictures, labels = _pictures(graph, data, count)
    firmware = compile_model(graph, board, kernels=kernels, compiler=compiler, name=model.stem)
    if firmware.image is None:
        raise OptionError("board 'host'", "this computer needs no emulation", "Name a board")
    with progress_bars() as progress:
        results = firmware.run(pictures, progress=progress)
    profile: Any = firmware.profile(pictures[0])
    classes = [int(index) for index in results["class"]]
    correct = None if labels is None else int((results["class"] == labels).sum())
    if as_json:
        values = {
            "classes": classes,
            "correct": correct,
            "profile": profile.to_json(),
            "program": firmware.program.summary(),
        }
        typer.echo(json.dumps(values))
        return
    table = _table(f"{model.stem} on {board}", ("layer",), ("MACs", "instructions", "cycles", "cycles/MAC"))
    for layer in profile.layers:
        ratio = f"{layer.cycles_per_mac:.2f}" if layer.macs else ""
        table.add_row(layer.name, f"{layer.macs:,}", f"{layer.instructions:,}", f"{layer.cycles:,}", ratio)
    _print(table)
    names = graph.classes or tuple(str(index) for index in range(max(classes) + 1))
    typer.echo(f"classes    {', '.join(names[index] for index in classes[:10])}{' ...' if len(classes) > 10 else ''}")
    if correct is not None:
        typer.echo(f"correct    {correct} of {len(classes)}")
    typer.echo(
        f"latency    {profile.milliseconds:.2f} ms ({profile.cycles:,} cycles, {profile.instructions:,} instructions)"
    )
    for item in profile.energies:
        typer.echo(f"energy     {item.millijoules:.3f} mJ: {item.statement}")
    typer.echo(f"memory     {firmware.program.arena_bytes:,} bytes of arena, {profile.peak_stack_bytes:,} of stack")
    typer.echo(f"cycles are {profile.assumptions}")


def _table(title: str, words: tuple[str, ...], numbers: tuple[str, ...]) -> Table:
    """A table that keeps its words whole; numbers are aligned on the right."""
    table = Table(title=title, box=box.SIMPLE, padding=(0, 1, 0, 0))
    for name in words:
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _print(table: Table) -> None:
    """Prints a table, wide enough for its words when nobody looks at a terminal."""
    console = Console()
    (console if console.is_terminal else Console(width=120)).print(table)


def _pictures(
    graph: Graph, data: Path | None, count: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64] | None]:
    """Pictures evenly from the test split with their labels, or noise without labels."""
    shape = graph.tensor(graph.inputs[0]).shape[1:]
    if data is None:
        return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8), None
    from millijoule.data import open_prepared

    split = open_prepared(data).split("test")
    rows = np.linspace(0, len(split.labels) - 1, min(count, len(split.labels))).round().astype(np.int64)
    return np.ascontiguousarray(split.pictures[rows]), np.asarray(split.labels)[rows]
