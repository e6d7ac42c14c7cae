"""`millijoule device`: a board at the end of a serial line, real or emulated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer

from millijoule.cli._bars import progress_bars
from millijoule.graph import load_graph

app = typer.Typer(no_args_is_help=True, help="Accuracy and latency on a board at the end of a serial line.")

PortName = Annotated[
    str, typer.Option("--port", help="Serial port (/dev/ttyACM0, COM3, a pseudo-terminal), tcp:PORT or tcp:HOST:PORT.")
]
Baud = Annotated[int, typer.Option(help="Bits per second; 9600 for a board in energy mode.")]
Timeout = Annotated[float, typer.Option(min=0.1, help="Seconds of silence after which a command is unanswered.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def info(port: PortName, baud: Baud = 115200, timeout: Timeout = 5.0, as_json: AsJson = False) -> None:
    """Ask a board what it is and what model it holds.

    Example: millijoule device info --port /dev/ttyACM0
    """
    from millijoule.device import Device

    with Device.open(port, baud=baud, timeout=timeout) as device:
        values = {"device": device.name, "model": device.model, **device.facts}
    if as_json:
        typer.echo(json.dumps(values))
        return
    for name, value in values.items():
        typer.echo(f"{name:<18} {value}")


@app.command()
def accuracy(
    port: PortName,
    model: Annotated[Path, typer.Option("--model", help="The .mj file of the model in the board.")],
    data: Annotated[Path, typer.Option(help="Prepared data set; its test split is used.")],
    count: Annotated[
        int | None, typer.Option(min=1, help="Pictures, evenly from the test split; all without it.")
    ] = None,
    baud: Baud = 115200,
    timeout: Timeout = 5.0,
    as_json: AsJson = False,
) -> None:
    """Classify pictures on the board, and compare every output bit by bit with this computer's executor.

    Exit code 1 when an output differs. A board with another firmware that speaks the MLPerf Tiny protocol is compared
    to three decimals.

    Example: millijoule device accuracy --port /dev/ttyACM0 --model runs/demo/qat.mj --data runs/toy --count 20
    """
    from millijoule.device import Device, measure_accuracy

    graph = load_graph(model)
    pictures, labels = _test_pictures(data, count)
    with Device.open(port, baud=baud, timeout=timeout) as device, progress_bars() as progress:
        report = measure_accuracy(device, graph, pictures, labels, progress=progress)
    if as_json:
        typer.echo(json.dumps(report.as_dict()))
    else:
        typer.echo(f"device     {report.device}, model {report.model}")
        if report.accuracy is not None and report.interval is not None:
            between = f"{report.interval.low:.1f} to {report.interval.high:.1f}"
            typer.echo(
                f"accuracy   {report.accuracy:.2%} ({report.correct} of {report.pictures}; 95 % interval {between})"
            )
        typer.echo(f"outputs    {_verdict(report)}")
        typer.echo(f"classes    {report.changed_predictions} other than the executor's")
        typer.echo(f"took       {report.seconds:.1f} s")
    if not report.all_equal:
        raise typer.Exit(1)


@app.command()
def latency(
    port: PortName,
    model: Annotated[
        Path | None, typer.Option("--model", help="The .mj file of the model in the board: outputs are compared too.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Prepared data set for the pictures; noise without it.")] = None,
    windows: Annotated[int, typer.Option(min=1, help="Windows; the median counts.")] = 5,
    count: Annotated[int | None, typer.Option(min=1, help="Inferences in a window, instead of its length.")] = None,
    window_seconds: Annotated[float, typer.Option(min=0.0, help="Length of a window by the board's clock.")] = 10.0,
    warm_up: Annotated[int, typer.Option(min=0, help="Inferences before each window.")] = 1,
    baud: Baud = 115200,
    timeout: Timeout = 5.0,
    as_json: AsJson = False,
) -> None:
    """Time inferences with the board's own clock, as the MLPerf Tiny runner does: the median of five windows.

    With --model the outputs are compared with this computer's executor; exit code 1 when they differ.

    Example: millijoule device latency --port /dev/ttyACM0 --model runs/demo/qat.mj
    """
    from millijoule.device import Device, measure_latency

    graph = None if model is None else load_graph(model)
    pictures = None if data is None else _test_pictures(data, windows)[0]
    with Device.open(port, baud=baud, timeout=timeout) as device, progress_bars() as progress:
        report = measure_latency(
            device,
            graph=graph,
            pictures=pictures,
            windows=windows,
            count=count,
            window_seconds=window_seconds,
            warm_up=warm_up,
            progress=progress,
        )
    if as_json:
        typer.echo(json.dumps(report.as_dict()))
    else:
        typer.echo(f"device     {report.device}, model {report.model}")
        cycles = "" if report.cycles is None else f", {report.cycles:,} cycles at {(report.clock_hz or 0) / 1e6:g} MHz"
        typer.echo(f"latency    {report.milliseconds:.3f} ms{cycles}; {1e3 / report.milliseconds:.2f} inferences/s")
        each = ", ".join(f"{window.milliseconds:.3f}" for window in report.windows)
        typer.echo(f"windows    {each} ms, {report.windows[0].count} inferences each")
        if report.short_windows:
            typer.echo(f"note       {report.short_windows} windows are shorter than the ten seconds of MLPerf Tiny")
        if report.equal is not None:
            typer.echo(f"outputs    {'equal to' if report.equal else 'DIFFERENT from'} the executor's")
    if report.equal is False:
        raise typer.Exit(1)


def _verdict(report: Any) -> str:
    how = "every bit" if report.comparison == "bits" else "all three decimals"
    if report.all_equal:
        return f"{how} of {report.pictures} pictures equal to the executor's"
    return (
        f"DIFFERENT for {report.pictures - report.equal} of {report.pictures} pictures, first number "
        f"{report.first_difference}; largest difference {report.largest_difference:g}"
    )


def _test_pictures(data: Path, count: int | None) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    from millijoule.data import open_prepared

    split = open_prepared(data).split("test")
    total = len(split.labels)
    rows = np.linspace(0, total - 1, min(count or total, total)).round().astype(np.int64)
    return np.ascontiguousarray(split.pictures[rows]), np.asarray(split.labels)[rows]
