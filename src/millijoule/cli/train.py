"""`millijoule train`: training in floating point."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import tomli_w
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from millijoule.errors import OptionError
from millijoule.files import Progress as ProgressCallback
from millijoule.files import atomic_write_text

tomllib: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

app = typer.Typer(help="Train in float; resumes after any interruption.")

_RUN_KEYS = ("data", "out", "init", "init_alpha", "teacher", "teacher_data", "partial", "preset")
_NETWORK_KEYS = ("family", "alpha", "resolution", "dropout", "bn_momentum", "seed")


@app.command()
def train(
    data: Annotated[Path | None, typer.Option(help="A prepared data set, made by `millijoule data prepare`.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; a run that is there goes on.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML with [run], [network] and [train]; the command line overrides it.")
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="paper: Adam 1e-4, batch 16, 150 epochs. modern: cosine, smoothing, averaged weights, 40."),
    ] = None,
    family: Annotated[str | None, typer.Option(help="A name of `nets list` [mobilenet_v2].")] = None,
    alpha: Annotated[float | None, typer.Option(help="Width multiplier [that of the family; 0.5].")] = None,
    resolution: Annotated[int | None, typer.Option(help="Input side in pixels [that of the data].")] = None,
    dropout: Annotated[float | None, typer.Option(help="Before the classifier [0.2].")] = None,
    init: Annotated[
        Path | None, typer.Option(help="Weights to begin with: .safetensors of ours or in Keras' layout.")
    ] = None,
    init_alpha: Annotated[
        float | None, typer.Option(help="Width of the network in --init; a narrower one is grown to --alpha.")
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Pad or skip layers of --init that have another shape.")
    ] = False,
    teacher: Annotated[
        list[Path] | None,
        typer.Option(help="best.safetensors of a trained network to imitate; give it again for several."),
    ] = None,
    teacher_data: Annotated[
        Path | None, typer.Option(help="The data of teachers with finer classes: the same pictures, prepared so.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training pictures.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pictures per step, all processes together.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of Adam, at its highest.")] = None,
    schedule: Annotated[str | None, typer.Option(help="constant or cosine.")] = None,
    warmup_epochs: Annotated[float | None, typer.Option(help="Epochs of linearly rising rate.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Decoupled, on kernels only.")] = None,
    label_smoothing: Annotated[float | None, typer.Option(help="Share of the target given to all classes.")] = None,
    ema_decay: Annotated[float | None, typer.Option(help="Average of the weights, per step; 0 for none.")] = None,
    mixup: Annotated[float | None, typer.Option(help="Parameter of the beta distribution; 0 for none.")] = None,
    distillation: Annotated[float | None, typer.Option(help="Share of the loss that imitates --teacher.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Softens both answers for --distillation.")] = None,
    gradient_clip: Annotated[float | None, typer.Option(help="Largest gradient norm; 0 for none.")] = None,
    augmentation: Annotated[
        bool | None, typer.Option("--augmentation/--no-augmentation", help="The paper's random changes.")
    ] = None,
    batch_norm_pictures: Annotated[
        int | None,
        typer.Option(help="Measure batch normalisation anew on so many plain pictures at the end; kept if better [0]."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of shuffling, augmentation and dropout.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, float32 or bfloat16.")] = None,
    checkpoint_steps: Annotated[int | None, typer.Option(help="Also a checkpoint every so many steps.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew even if there is a checkpoint.")] = False,
) -> None:
    """Train a network on a prepared data set.

    The run folder gets best.safetensors, last.safetensors, metrics.jsonl, config.toml and result.json. The same command
    goes on after any interruption. Several processes: torchrun --nproc-per-node 2 -m millijoule train ...

    Example: millijoule train --data runs/photos --out runs/train --preset modern --alpha 0.35 --epochs 30
    """
    given = {name: value for name, value in locals().items() if value is not None}
    settings = _resolve(given)
    from millijoule.cli._teacher import named_teacher
    from millijoule.data import open_prepared
    from millijoule.nets import specify
    from millijoule.train import TrainOptions, fit, initial_network

    run, network, options = settings["run"], settings["network"], TrainOptions.from_dict(settings["train"])
    folder = Path(run["out"])
    prepared = open_prepared(Path(run["data"]))
    network.setdefault("resolution", prepared.resolution)
    chosen = {name: network[name] for name in ("alpha", "resolution", "dropout", "bn_momentum") if name in network}
    spec = specify(network["family"], classes=len(prepared.classes), **chosen)
    leader = int(os.environ.get("RANK", "0")) == 0
    console = Console(stderr=True, quiet=not leader, highlight=False)
    resumes = (folder / "last.safetensors").exists() and not fresh
    module, report = initial_network(
        spec,
        prepared,
        seed=network["seed"],
        init=Path(run["init"]) if "init" in run and not resumes else None,
        init_alpha=float(run.get("init_alpha", 0.0)),
        partial=run.get("partial", False),
    )
    if report is not None:
        console.print(f"{run['init']}: {report.summary()}")
        for line in (*report.padded, *report.skipped):
            console.print(f"  {line}")
    named = run.get("teacher", [])
    guide = named_teacher(
        [Path(path) for path in ([named] if isinstance(named, str) else named)],
        Path(run["teacher_data"]) if "teacher_data" in run else None,
        prepared,
        spec.normalization,
        options.distillation,
    )
    if leader:
        settings["train"] = options.to_dict()
        atomic_write_text(folder / "config.toml", tomli_w.dumps(settings))
    with _shown(console) as progress:
        result = fit(module, prepared, options, folder, teacher=guide, fresh=fresh, progress=progress)
    if leader:
        out_console = Console(highlight=False, soft_wrap=True)
        out_console.print(f"best epoch   {result.best_epoch} of {len(result.history)}")
        out_console.print(f"validation   {100 * result.validation_accuracy:.2f} %")
        if result.test is not None:
            low, high = result.test.interval
            out_console.print(
                f"test         {100 * result.test.accuracy:.2f} %  "
                f"({result.test.correct} of {result.test.count}, 95 % interval {100 * low:.1f} to {100 * high:.1f})"
            )
        out_console.print(f"time         {result.seconds:,.0f} s")
        out_console.print(f"weights      {result.weights}")


def _resolve(given: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Defaults, preset, configuration file and command line, each overriding the one before.

    Raises:
        OptionError: the file cannot be read or has unknown tables, or data or out is missing.
    """
    from millijoule.train import TrainOptions

    settings: dict[str, dict[str, Any]] = {"run": {}, "network": {}, "train": {}}
    if "config" in given:
        path: Path = given["config"]
        try:
            stored = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise OptionError(str(path), f"it is not a readable TOML file ({error})", "Check the file") from error
        for table, values in stored.items():
            if table not in settings or not isinstance(values, dict):
                raise OptionError(f"{path}: [{table}]", "there is no such table", "Use [run], [network] and [train]")
            settings[table] = values
    run, network, options = settings["run"], settings["network"], settings["train"]
    run.update({name: str(given[name]) for name in ("data", "out", "init", "teacher_data") if name in given})
    if "teacher" in given:
        run["teacher"] = [str(path) for path in given["teacher"]]
    run.update({name: given[name] for name in ("preset", "init_alpha") if name in given})
    if given.get("partial"):
        run["partial"] = True
    preset = run.setdefault("preset", "paper")
    if preset not in ("paper", "modern"):
        raise OptionError(f"preset {preset!r}", "it is not known", "Use paper or modern")
    for name in ("data", "out"):
        if name not in run:
            raise OptionError(f"--{name}", "it is missing", f"Give --{name} FOLDER, or write it under [run]")
    for name in run:
        if name not in _RUN_KEYS:
            raise OptionError(f"[run] {name}", "it is not known", f"Use {', '.join(_RUN_KEYS)}")
    for name in network:
        if name not in _NETWORK_KEYS:
            raise OptionError(f"[network] {name}", "it is not known", f"Use {', '.join(_NETWORK_KEYS)}")
    network.update({name: given[name] for name in ("family", "alpha", "resolution", "dropout") if name in given})
    settings["network"] = _network_defaults(network.get("family", "mobilenet_v2")) | network
    base = TrainOptions.modern() if preset == "modern" else TrainOptions()
    chosen = {name: value for name, value in given.items() if name in base.to_dict()}
    settings["train"] = base.to_dict() | options | chosen
    return settings


def _network_defaults(name: str) -> dict[str, Any]:
    """The values of [network] where nothing is given, those that the family has."""
    from millijoule.nets import family

    entry = family(name)
    defaults: dict[str, Any] = {"family": name, "seed": 0, "bn_momentum": 0.03}
    if "alpha" in entry.options:
        defaults |= {"alpha": entry.options["alpha"], "dropout": entry.specify().dropout}
    return defaults


@contextmanager
def _shown(console: Console) -> Iterator[ProgressCallback | None]:
    """A live bar on a terminal; elsewhere one line per epoch."""
    if console.quiet:
        yield None
    elif console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console) as bar:
            task = bar.add_task("starting")
            yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)
    else:
        news = [""]

        def report(what: str, done: int, total: int) -> None:
            if news[0] and (what.split(",")[0] != news[0].split(",")[0]):
                console.print(news[0])
            news[0] = what
            if done == total:
                console.print(what)

        yield report
