"""`millijoule study`: the paper's study on any pictures."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from millijoule.errors import OptionError

app = typer.Typer()

_PICTURES, _NETWORK, _QUANTISE, _BOARDS = "Pictures", "Network and training", "Quantisation", "Boards"


@app.command()
def study(
    data: Annotated[
        Path | None, typer.Argument(help="A folder made by `millijoule data prepare`; or use --source.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The run folder.")] = Path("runs/study"),
    config: Annotated[
        Path | None, typer.Option(help="Options from a TOML file; the command line overrides it.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget what is there and start anew.")] = False,
    source: Annotated[
        str | None,
        typer.Option(
            help="toy_vehicles, folder, parquet or vmmrdb: prepare the pictures too.", rich_help_panel=_PICTURES
        ),
    ] = None,
    root: Annotated[
        Path | None, typer.Option(help="Folder or file of the photographs.", rich_help_panel=_PICTURES)
    ] = None,
    subset: Annotated[
        str | None, typer.Option(help="vmmrdb: msv; parquet: column=value.", rich_help_panel=_PICTURES)
    ] = None,
    per_class: Annotated[
        int | None, typer.Option(help="toy_vehicles: pictures of each class.", rich_help_panel=_PICTURES)
    ] = None,
    resolution: Annotated[
        int | None,
        typer.Option(help="Pixels per side; that of prepared pictures by default.", rich_help_panel=_PICTURES),
    ] = None,
    alpha: Annotated[float | None, typer.Option(help="Width multiplier.", rich_help_panel=_NETWORK)] = None,
    init: Annotated[Path | None, typer.Option(help="Start from this weight file.", rich_help_panel=_NETWORK)] = None,
    init_alpha: Annotated[
        float | None,
        typer.Option(help="Width of the network in it, if narrower: it is grown.", rich_help_panel=_NETWORK),
    ] = None,
    init_partial: Annotated[
        bool | None,
        typer.Option("--init-partial", help="Pad or skip layers of another shape.", rich_help_panel=_NETWORK),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Of float training.", rich_help_panel=_NETWORK)] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pictures per step.", rich_help_panel=_NETWORK)] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Highest rate of Adam.", rich_help_panel=_NETWORK)] = None,
    modern: Annotated[
        bool, typer.Option("--modern", help="Cosine, label smoothing, averaged weights.", rich_help_panel=_NETWORK)
    ] = False,
    seed: Annotated[int | None, typer.Option(min=0, help="Of everything random.", rich_help_panel=_NETWORK)] = None,
    qat: Annotated[
        str | None, typer.Option(help="fine-tune, scratch, both or none.", rich_help_panel=_QUANTISE)
    ] = None,
    qat_epochs: Annotated[int | None, typer.Option(help="Of QAT.", rich_help_panel=_QUANTISE)] = None,
    calibration: Annotated[
        int | None, typer.Option(help="Pictures that choose the ranges.", rich_help_panel=_QUANTISE)
    ] = None,
    observer: Annotated[
        str | None, typer.Option(help="How they choose: mse, minmax, ...", rich_help_panel=_QUANTISE)
    ] = None,
    rounding: Annotated[str | None, typer.Option(help="single, double or mulhi.", rich_help_panel=_QUANTISE)] = None,
    gallery: Annotated[
        bool | None,
        typer.Option(
            "--gallery/--no-gallery",
            help="Thumbnails of the test pictures that quantisation changes, in the report.",
            rich_help_panel=_QUANTISE,
            show_default="no",
        ),
    ] = None,
    board: Annotated[
        list[str] | None, typer.Option(help="A board; give it again for more.", rich_help_panel=_BOARDS)
    ] = None,
    kernels: Annotated[str | None, typer.Option(help="dsp or plain.", rich_help_panel=_BOARDS)] = None,
    compiler: Annotated[str | None, typer.Option(help="zig or gcc.", rich_help_panel=_BOARDS)] = None,
    verify_pictures: Annotated[
        int | None, typer.Option(help="Test pictures for the bit-exact check.", rich_help_panel=_BOARDS)
    ] = None,
) -> None:
    """Run the paper's study on your own photographs: Tables 1, 2 and 3, with firmware on both boards.

    Without training options the paper's are used (Adam, 1e-4, batch 16, 150 epochs, alpha 0.5): many hours without a
    GPU. A finished stage is never done twice; after Ctrl-C the same command goes on where it was.

    [bold]Examples[/bold]

      millijoule data prepare folder --root photos --out runs/photos --resolution 96

      millijoule study runs/photos --alpha 0.35 --modern --epochs 40

      millijoule study --source parquet --root cars.parquet --resolution 224 --init imagenet.safetensors
    """
    from millijoule.cli._study import run_and_tell
    from millijoule.study import StudyOptions, clear_run

    options = StudyOptions.from_toml(config) if config is not None else StudyOptions()
    if data is not None and source is not None:
        raise OptionError("data", "both a prepared folder and --source were given", "Give one of them")
    if data is None and source is None and config is None:
        raise OptionError("data", "no pictures were given", "Name a prepared folder, or use --source and --root")
    pictures = _given(kind=source, root=_text(root), subset=subset, per_class=per_class, prepared=_text(data))
    if source is not None:
        pictures["prepared"] = ""
    train = {**options.train, **(_modern() if modern else {})}
    train.update(_given(epochs=epochs, batch_size=batch_size, learning_rate=learning_rate))
    tuning = {**options.qat.training, **_given(epochs=qat_epochs)}
    options = options.with_changes(
        data=replace(options.data, **pictures),
        train=train,
        qat=replace(options.qat, training=tuning, **_given(mode=qat)),
        alpha=alpha,
        resolution=resolution,
        init=_text(init),
        init_alpha=init_alpha,
        init_partial=init_partial,
        seed=seed,
        calibration=calibration,
        observer=observer,
        rounding=rounding,
        gallery=gallery,
        boards=tuple(board) if board else None,
        kernels=kernels,
        compiler=compiler,
        verify_pictures=verify_pictures,
    )
    if not options.data.prepared and not options.resolution:
        options = options.with_changes(resolution=224)
    if fresh:
        clear_run(out)
    run_and_tell(options, out, title=None, command=shlex.join(["millijoule", *sys.argv[1:]]))


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _modern() -> dict[str, Any]:
    from millijoule.train import TrainOptions

    chosen, paper = TrainOptions.modern().to_dict(), TrainOptions().to_dict()
    return {name: value for name, value in chosen.items() if value != paper[name]}
