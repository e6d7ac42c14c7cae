"""The stages of a study, one function each: options and earlier results in, files and plain values out."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from millijoule.errors import OptionError
from millijoule.files import Progress, atomic_write_text
from millijoule.graph import Graph, load_graph, save_graph, simplify
from millijoule.nets import NetworkSpec, mobilenet_v2
from millijoule.study.options import DataOptions, StudyOptions

if TYPE_CHECKING:
    from millijoule.data import PreparedSet, Source
    from millijoule.nets import Network
    from millijoule.quantize import QatOptions
    from millijoule.train import TrainOptions

__all__ = [
    "TITLES",
    "capture_float",
    "check_options",
    "data_source",
    "evaluate",
    "make_dynamic",
    "make_half",
    "make_mixed",
    "make_static",
    "network_of",
    "plan_arenas",
    "prepare_data",
    "qat_options",
    "train_float",
    "train_options",
    "train_qat",
]

TITLES = {
    "float": "No quantisation",
    "half": "16-bit float",
    "dynamic": "Dynamic",
    "static": "Static",
    "qat": "QAT",
    "qat_scratch": "QAT from scratch",
    "static4": "Static, 4 bits",
    "mixed": "Mixed 4/8 bits",
    "qat4": "QAT, 4 bits",
}
"""The name of each method in tables."""


def data_source(options: DataOptions, seed: int) -> Source:
    """Opens the source of pictures. Raises DataError or OptionError."""
    from millijoule.data import open_source

    return open_source(
        options.kind,
        root=Path(options.root) if options.root else None,
        subset=options.subset or None,
        label=options.label,
        per_class=options.per_class,
        seed=seed,
    )


def prepare_data(source: Source, options: StudyOptions, folder: Path, progress: Progress) -> PreparedSet:
    """Decodes, splits and stores the pictures in `folder`."""
    from millijoule.data import prepare

    return prepare(
        source,
        folder,
        resolution=options.resolution,
        split=options.data.split,
        move_near_duplicates=options.data.move_near_duplicates,
        progress=progress,
    )


def network_of(options: StudyOptions, prepared: PreparedSet) -> NetworkSpec:
    """The network for these pictures.

    Raises:
        OptionError: the pictures were prepared at another resolution than the options ask for.
    """
    if options.resolution not in (0, prepared.resolution):
        raise OptionError(
            f"resolution {options.resolution}",
            f"the pictures were prepared at {prepared.resolution}",
            f"Use --resolution {prepared.resolution}, or prepare the pictures again",
        )
    classes = len(prepared.classes)
    return mobilenet_v2(options.alpha, prepared.resolution, classes, options.dropout, bn_momentum=options.bn_momentum)


def train_options(options: StudyOptions, changes: Mapping[str, Any] | None = None) -> TrainOptions:
    """The options of a training run: the study's, with `changes` on top. Raises OptionError."""
    from millijoule.train import TrainOptions

    return TrainOptions.from_dict({"seed": options.seed, **options.train, **(changes or {})})


def check_options(options: StudyOptions) -> None:
    """Refuses what the rooms would refuse later, after hours of training perhaps. Raises OptionError."""
    from millijoule.quantize.refine import parse_refinements

    train_options(options)
    qat_options(options)
    if options.static.refine != "auto":
        parse_refinements(options.static.refine, True)
    if (options.mixed.budget_share or options.mixed.budget_bytes) and options.calibration < 8:
        raise OptionError(
            f"calibration = {options.calibration}", "mixed precision needs at least 8 pictures", "Use 8 or more"
        )


def qat_options(options: StudyOptions, *, scratch: bool = False, weight_bits: int = 8) -> QatOptions:
    """The options of quantisation-aware training: the study's, with those of its plan on top. Raises OptionError."""
    from millijoule.quantize import QatOptions
    from millijoule.quantize.qat import MEASURED, SCRATCH, TAUGHT

    usual = {**MEASURED, **({} if scratch else TAUGHT)}
    changes = {name: value for name, value in usual.items() if name not in options.train}
    changes |= options.qat.scratch if scratch else options.qat.training
    values = {
        "observer": options.observer,
        "calibration": options.calibration,
        "rounding": options.rounding,
        "batch_norm_momentum": options.bn_momentum,
        **(SCRATCH if scratch else {}),
        **options.qat.settings,
        **({"weight_bits": weight_bits} if weight_bits != 8 else {}),
        "training": train_options(options, changes).to_dict(),
    }
    return QatOptions.from_dict(values)


def _training_folder(folder: Path, mark: str) -> Path:
    """`folder`, emptied first when it belongs to a run with other options, so that no foreign checkpoint is resumed."""
    note = folder / "fingerprint"
    if folder.exists() and (not note.is_file() or note.read_text(encoding="utf-8").strip() != mark):
        shutil.rmtree(folder)
    atomic_write_text(note, mark + "\n")
    return folder


def _first_network(spec: NetworkSpec, prepared: PreparedSet, options: StudyOptions) -> Network:
    from millijoule.train import initial_network

    network, _ = initial_network(
        spec,
        prepared,
        seed=options.seed,
        init=Path(options.init) if options.init else None,
        init_alpha=options.init_alpha,
        partial=options.init_partial,
    )
    return network


def train_float(
    spec: NetworkSpec, prepared: PreparedSet, options: StudyOptions, folder: Path, mark: str, progress: Progress
) -> dict[str, Any]:
    """Trains the float network; resumes from its checkpoint."""
    from millijoule.train import fit

    module = _first_network(spec, prepared, options)
    trained = fit(
        module, prepared, train_options(options), _training_folder(folder, mark), test=False, progress=progress
    )
    return {
        "epochs": list(trained.history),
        "best_epoch": trained.best_epoch,
        "validation_accuracy": trained.validation_accuracy,
        "seconds": trained.seconds,
    }


def capture_float(weights: Path, classes: Sequence[str], captured: Path, target: Path) -> None:
    """Captures the trained network as a float graph: with batch normalisation for QAT, and with it folded."""
    from millijoule.interchange import capture
    from millijoule.nets import load_network

    network, _ = load_network(weights)
    graph = capture(network, network.spec, classes=classes)
    save_graph(graph, captured)
    save_graph(simplify(graph), target)


def make_half(source: Path, target: Path) -> dict[str, Any]:
    """Rounds the weights to 16-bit floats."""
    from millijoule.quantize import half

    save_graph(half(load_graph(source)), target)
    return {}


def make_dynamic(source: Path, target: Path, progress: Progress) -> None:
    """Quantises the weights, refined on drawn pictures."""
    from millijoule.quantize import dynamic

    save_graph(dynamic(load_graph(source), progress=progress), target)


def make_static(
    source: Path,
    prepared: PreparedSet,
    options: StudyOptions,
    target: Path,
    progress: Progress,
    *,
    weight_bits: int = 8,
) -> dict[str, Any]:
    """Quantises everything, with ranges from a calibration set whose hashes are recorded."""
    from millijoule.data import calibration_set
    from millijoule.quantize import static
    from millijoule.quantize.refine import FOUR_BITS

    pictures, hashes = calibration_set(prepared, options.calibration, options.seed)
    graph = static(
        load_graph(source),
        pictures,
        observer=options.observer,
        rounding=options.rounding,
        refine=options.static.refine if weight_bits == 8 else FOUR_BITS,
        weight_bits=weight_bits,
        progress=progress,
    )
    save_graph(graph, target)
    return {"calibration": hashes}


def make_mixed(
    source: Path, prepared: PreparedSet, options: StudyOptions, target: Path, progress: Progress
) -> dict[str, Any]:
    """Weights of 4 and 8 bits within the budget, in the bytes of the compiler; gives what the search found, too."""
    from millijoule.compile import HOST, compile_graph
    from millijoule.compile.explain import refused_four_bits
    from millijoule.data import calibration_set
    from millijoule.quantize import mixed

    pictures, hashes = calibration_set(prepared, options.calibration, options.seed)
    found = mixed(
        load_graph(source),
        pictures,
        budget_bytes=options.mixed.budget_bytes or None,
        budget_share=options.mixed.budget_share or None,
        size=lambda graph: compile_graph(graph, HOST, self_test=False).weight_bytes,
        refusals=lambda graph: refused_four_bits(graph, HOST),
        observer=options.observer,
        rounding=options.rounding,
        held_back=options.mixed.held_back,
        progress=progress,
    )
    save_graph(found.graph, target)
    values = found.to_json()
    del values["report"]  # it is in the graph's history
    return {"calibration": hashes, "found": values}


def train_qat(
    source: Path,
    prepared: PreparedSet,
    spec: NetworkSpec,
    options: StudyOptions,
    folder: Path,
    mark: str,
    target: Path,
    progress: Progress,
    *,
    scratch: bool,
    weight_bits: int = 8,
) -> dict[str, Any]:
    """Quantisation-aware training from the trained float network, or from where that one began; resumes."""
    from millijoule.quantize import quantization_aware_training

    result = quantization_aware_training(
        _first_network(spec, prepared, options) if scratch else load_graph(source),
        prepared,
        qat_options(options, scratch=scratch, weight_bits=weight_bits),
        _training_folder(folder, mark),
        from_scratch=scratch,
        progress=progress,
    )
    save_graph(result.graph, target)
    return {
        "epochs": list(result.training.history),
        "best_epoch": result.training.best_epoch,
        "validation_accuracy": result.training.validation_accuracy,
        "seconds": result.training.seconds,
        "agreement": {
            "pictures": result.pictures,
            "disagreements": result.disagreements,
            "float_sums": result.float_sums,
        },
    }


def evaluate(models: Mapping[str, Path], prepared: PreparedSet, progress: Progress) -> dict[str, Any]:
    """All models on the test split."""
    from millijoule.quantize.compare import compare

    graphs = {name: load_graph(path) for name, path in models.items()}
    comparison = compare(graphs, prepared.split("test"), reference="float", progress=progress)
    result = comparison.to_json()
    for row in result["models"]:
        row["tflite_bytes"] = _tflite_size(graphs[row["name"]])
    return result


def plan_arenas(models: Mapping[str, Path], progress: Progress) -> dict[str, Any]:
    """Bytes of the arena and of the constants of each model, compiled for this computer."""
    from millijoule.compile import HOST, compile_graph

    arenas = {}
    for done, (name, path) in enumerate(models.items()):
        progress("plan", done, len(models))
        program = compile_graph(load_graph(path), HOST, self_test=False)
        arenas[name] = {"activation_bytes": program.arena_bytes, "compiled_bytes": program.weight_bytes}
    progress("plan", len(models), len(models))
    return arenas


def _tflite_size(graph: Graph) -> int | None:
    """Bytes of the equivalent .tflite file; None where it cannot be written (no flatbuffers, a part TFLite lacks)."""
    from millijoule.errors import MillijouleError

    try:
        from millijoule.interchange import tflite_bytes

        return len(tflite_bytes(graph))
    except (ModuleNotFoundError, MillijouleError):
        return None
