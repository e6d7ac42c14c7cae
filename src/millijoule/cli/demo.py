"""`millijoule demo`: the whole path on rendered pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="The run folder.")] = Path("runs/demo"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget what is there and start anew.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of pictures, weights and training.")] = 0,
) -> None:
    """Run the whole path on a toy data set: no network, no data, minutes on two cores.

    Renders toy_vehicles, trains MobileNetV2 alpha 0.35 at 96x96, quantises it three ways (dynamic, static, QAT),
    compares them, compiles firmware for both boards, runs it in the emulator, and writes report.html and report.json.
    A second run reuses what is there; after Ctrl-C the same command goes on where it was.

    Example: millijoule demo && xdg-open runs/demo/report.html
    """
    from millijoule.cli._study import run_and_tell
    from millijoule.study import clear_run, demo_options

    if fresh:
        clear_run(out)
    command = "millijoule demo" + (f" --seed {seed}" if seed else "") + (f" --out {out}" if out.name != "demo" else "")
    run_and_tell(
        demo_options(seed),
        out,
        title="The millijoule demo: MobileNetV2 alpha 0.35 at 96x96 on toy_vehicles",
        command=command,
    )
