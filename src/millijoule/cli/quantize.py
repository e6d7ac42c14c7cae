"""`millijoule quantize`: a float model to 8 bits or 16-bit floats; `millijoule quantize compare`: the table of them."""

from __future__ import annotations

import fnmatch
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from millijoule.cli._bars import progress_bars
from millijoule.cli._compare import compare
from millijoule.cli._mixed import mixed, sensitivity
from millijoule.errors import OptionError
from millijoule.files import check_output

if TYPE_CHECKING:
    from millijoule.graph import Graph

app = typer.Typer(
    no_args_is_help=True, help="Float model to 8 bits: dynamic, static, QAT; to 16-bit floats; compare the results."
)
app.command()(sensitivity)
app.command()(mixed)
app.command()(compare)

Model = Annotated[
    Path, typer.Argument(help="Float model: a .mj file, or best.safetensors of a training run.", show_default=False)
]
Out = Annotated[Path, typer.Option(help="The .mj file to write.")]
Data = Annotated[Path, typer.Option(help="A prepared data set, made by `millijoule data prepare`.")]
Observer = Annotated[
    str,
    typer.Option(help="How ranges are chosen: min_max, moving_average, percentile, mse, entropy; static also auto."),
]
Rounding = Annotated[
    str,
    typer.Option(
        help="32-bit sums to 8 bits: single (one rounding), double (as LiteRT's reference kernels) or mulhi (one "
        "rounding in one instruction, multipliers of 32 fractional bits)."
    ),
]
PerChannel = Annotated[
    bool, typer.Option("--per-channel/--per-layer", help="One weight scale per output channel, or one per layer.")
]
Refine = Annotated[str, typer.Option(help="none, bias (corrected biases), full (every layer reconstructed).")]
StaticRefine = Annotated[
    str | None,
    typer.Option(
        help="none, bias (corrected biases), full (every layer reconstructed), auto (what helps on pictures "
        "held back), or steps joined with +: equalize, means, empirical, adjust, clip, round, tune (the whole network "
        "fine-tuned on the calibration pictures, minutes). "
        "Default: bias; full with --per-layer or --data-free; empirical+adjust+clip+round for weights of 4 bits."
    ),
]
WeightBits = Annotated[
    list[str] | None,
    typer.Option(help="4 or 8 for all layers, LAYER=4 for one (repeatable, * stands for anything) [8]."),
]
Report = Annotated[bool, typer.Option("--report", help="Print every decision, layer by layer.")]
ReportJson = Annotated[bool, typer.Option("--json", help="With --report: as JSON.")]
Calibration = Annotated[int, typer.Option(help="Training pictures to measure ranges on, balanced by class.")]
Seed = Annotated[int, typer.Option(help="Chooses other calibration pictures.")]


@app.command("float")
def capture_float(model: Model, out: Out) -> None:
    """Write a trained network as a float .mj model, batch normalisation kept.

    Example: millijoule quantize float runs/train/best.safetensors --out float.mj
    """
    _save(_load(model), out)


@app.command()
def dynamic(
    model: Model,
    out: Out,
    data: Annotated[
        Path | None, typer.Option(help="A prepared data set for --refine full; without one, pictures are drawn.")
    ] = None,
    per_channel: PerChannel = True,
    refine: Refine = "full",
    calibration: Calibration = 200,
    seed: Seed = 0,
    report: Report = False,
    as_json: ReportJson = False,
) -> None:
    """8-bit weights, float activations quantised per layer at run time. Needs no photographs.

    Example: millijoule quantize dynamic runs/train/best.safetensors --out dynamic.mj
    """
    from millijoule.data import calibration_set, open_prepared
    from millijoule.quantize import dynamic as quantize_dynamic

    graph = _load(model)
    pictures = None if data is None or refine != "full" else calibration_set(open_prepared(data), calibration, seed)[0]
    check_output(out)
    with progress_bars() as progress:
        result = quantize_dynamic(graph, pictures, per_channel=per_channel, refine=refine, progress=progress)
    _save(result, out)
    _print_report(result, report, as_json)


@app.command()
def half(model: Model, out: Out, report: Report = False, as_json: ReportJson = False) -> None:
    """16-bit float weights, float activations: half the bytes. Needs no photographs.

    Example: millijoule quantize half runs/train/best.safetensors --out half.mj
    """
    from millijoule.quantize import half as quantize_half

    result = quantize_half(_load(model))
    _save(result, out)
    _print_report(result, report, as_json)


@app.command()
def static(
    model: Model,
    out: Out,
    data: Annotated[Path | None, typer.Option(help="A prepared data set, made by `millijoule data prepare`.")] = None,
    observer: Observer = "mse",
    rounding: Rounding = "single",
    per_channel: PerChannel = True,
    refine: StaticRefine = None,
    calibration: Calibration = 200,
    seed: Seed = 0,
    data_free: Annotated[bool, typer.Option("--data-free", help="No pictures: drawn ones instead of --data.")] = False,
    weight_bits: WeightBits = None,
    report: Report = False,
    as_json: ReportJson = False,
) -> None:
    """8 bits throughout; ranges measured on training pictures.

    Example: millijoule quantize static runs/train/best.safetensors --data runs/photos --out static.mj
    """
    from millijoule.data import calibration_set, open_prepared
    from millijoule.quantize import static as quantize_static
    from millijoule.quantize.refine import FOUR_BITS

    if (data is None) != data_free:
        raise OptionError("--data", "give either a prepared set or --data-free", "Name one of the two")
    graph = _load(model)
    bits = _weight_bits(graph, weight_bits or [])
    pictures = None if data is None else calibration_set(open_prepared(data), calibration, seed)[0]
    check_output(out)
    with progress_bars() as progress:
        result = quantize_static(
            graph,
            pictures,
            observer=observer,
            rounding=rounding,
            per_channel=per_channel,
            refine=refine or (FOUR_BITS if bits != 8 else "bias" if per_channel and not data_free else "full"),
            weight_bits=bits,
            progress=progress,
        )
    _save(result, out)
    _print_report(result, report, as_json)


@app.command()
def qat(
    model: Model,
    data: Data,
    out: Out,
    run: Annotated[Path | None, typer.Option(help="Folder of the training run [OUT without .mj, plus .run].")] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training pictures.")] = 10,
    learning_rate: Annotated[float, typer.Option(help="Of Adam, at its highest.")] = 1e-4,
    batch_size: Annotated[int, typer.Option(help="Pictures per step.")] = 16,
    schedule: Annotated[str, typer.Option(help="constant or cosine.")] = "cosine",
    distillation: Annotated[
        float | None,
        typer.Option(help="Share of the loss that imitates the float model, or --teacher [0.5; 0 from scratch]."),
    ] = None,
    teacher: Annotated[
        list[Path] | None, typer.Option(help="Other networks to imitate, as for `train`; again for several.")
    ] = None,
    teacher_data: Annotated[Path | None, typer.Option(help="The data of teachers with finer classes.")] = None,
    temperature: Annotated[float, typer.Option(help="Softens both answers for --distillation.")] = 2.0,
    ema_decay: Annotated[float, typer.Option(help="Average of the weights, per step; 0 for none.")] = 0.0,
    ranges: Annotated[
        str, typer.Option(help="observed: averages of each batch's extremes. learned: trained beside the weights.")
    ] = "observed",
    weight_bits: WeightBits = None,
    start: Annotated[
        Path | None,
        typer.Option(help="A static .mj model of this network whose integers, bits and ranges training begins with."),
    ] = None,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="No calibration; give an untrained model, as the paper does.")
    ] = False,
    augmentation: Annotated[
        bool, typer.Option("--augmentation/--no-augmentation", help="The paper's random changes.")
    ] = True,
    batch_norm_pictures: Annotated[
        int | None,
        typer.Option(
            help="Measure statistics and ranges anew on so many plain pictures at the end; kept if better [1280]."
        ),
    ] = None,
    observer: Observer = "mse",
    rounding: Rounding = "single",
    calibration: Calibration = 200,
    seed: Seed = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew even if there is a checkpoint.")] = False,
) -> None:
    """Train with fake quantisation, then convert without changing a prediction. Resumes after any interruption.

    Example: millijoule quantize qat runs/train/best.safetensors --data runs/photos --out qat.mj --epochs 5
    """
    from millijoule.cli._teacher import named_teacher
    from millijoule.data import open_prepared
    from millijoule.quantize import QatOptions, quantization_aware_training
    from millijoule.quantize.qat import MEASURED, SCRATCH, TAUGHT, normalization_of
    from millijoule.train import TrainOptions

    if distillation is None:
        distillation = 0.0 if from_scratch and not teacher else TAUGHT["distillation"]
    elif distillation and from_scratch and not teacher:
        why = "a training from scratch has no float network to imitate"
        raise OptionError(f"--distillation {distillation:g}", why, "Add --teacher, or leave it out")
    changes: dict[str, Any] = {} if augmentation else {"augmentation": False}
    training = TrainOptions.from_dict(
        {
            "epochs": epochs,
            "learning_rate": learning_rate,
            "batch_size": batch_size,
            "schedule": schedule,
            "distillation": distillation,
            "temperature": temperature,
            "ema_decay": ema_decay,
            **(MEASURED if batch_norm_pictures is None else {"batch_norm_pictures": batch_norm_pictures}),
            "seed": seed,
            "device": device,
            **changes,
        }
    )
    if start is not None and weight_bits:
        raise OptionError("--weight-bits", "the model of --start has its own", "Leave out one of the two")
    graph = _load(model)
    if batch_norm_pictures and not any(node.op == "batch_norm" for node in graph.nodes):
        why = f"{model} has no batch normalisation whose statistics could be measured"
        raise OptionError(f"--batch-norm-pictures {batch_norm_pictures}", why, "Leave it out")
    options = QatOptions.from_dict(
        {
            "training": training,
            "observer": observer,
            "rounding": rounding,
            "calibration": calibration,
            "ranges": ranges,
            "weight_bits": _weight_bits(graph, weight_bits or []),
            **(SCRATCH if from_scratch else {}),
        }
    )
    folder, prepared = run or out.with_suffix(".run"), open_prepared(data)
    guide = named_teacher(teacher or (), teacher_data, prepared, normalization_of(graph), distillation)
    check_output(out)
    with progress_bars() as progress:
        result = quantization_aware_training(
            graph,
            prepared,
            options,
            folder,
            from_scratch=from_scratch,
            teacher=guide,
            start=None if start is None else _load(start),
            fresh=fresh,
            progress=progress,
        )
    _save(result.graph, out)
    typer.echo(
        f"best epoch {result.training.best_epoch}, validation {100 * result.training.validation_accuracy:.2f} %, "
        f"{result.disagreements} of {result.pictures} predictions changed by conversion "
        f"({result.float_sums} with float32 sums)"
    )


def _print_report(graph: Graph, wanted: bool, as_json: bool) -> None:
    """What was decided, layer by layer, where that is asked for and known."""
    from millijoule.quantize import report_of

    decided = report_of(graph) if wanted else None
    if decided is not None:
        typer.echo(json.dumps(decided.to_json(), indent=2) if as_json else decided.to_text())


def _weight_bits(graph: Graph, given: list[str]) -> int | dict[str, int]:
    """Bits of the weights of all layers, or by layer, from the command line's words."""
    from millijoule.graph import WEIGHT_AXIS

    names = [node.source or node.output for node in graph.nodes if node.op in WEIGHT_AXIS]
    bits = dict.fromkeys(names, 8)
    for word in given:
        pattern, _, number = word.rpartition("=")
        if number not in ("4", "8"):
            raise OptionError(f"--weight-bits {word}", "it is neither 4, 8 nor LAYER=4", "Write for example 4")
        found = [name for name in names if not pattern or fnmatch.fnmatchcase(name, pattern)]
        if not found:
            raise OptionError(f"--weight-bits {word}", "no layer with weights has this name", f"Use {', '.join(names)}")
        bits.update(dict.fromkeys(found, int(number)))
    return next(iter(bits.values())) if len(set(bits.values())) == 1 else bits


def _kilobytes(size: int) -> str:
    return f"{size / 1000:,.1f}"


def _load(path: Path) -> Graph:
    """A model file: .mj as it is, weights of a training run captured."""
    from millijoule.graph import load_graph

    if path.suffix != ".safetensors":
        return load_graph(path)
    from millijoule.interchange import capture
    from millijoule.nets import load_network

    network, classes = load_network(path)
    return capture(network, network.spec, classes=classes or ())


def _save(graph: Graph, path: Path) -> None:
    from millijoule.graph import save_graph
    from millijoule.quantize import flash_bytes

    save_graph(graph, path)
    note = graph.history[-1] if graph.history else "float"
    typer.echo(f"{path}: {note}; {_kilobytes(flash_bytes(graph))} KB of weights, biases and constants")
