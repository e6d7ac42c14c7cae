"""Quantisation-aware training: the float loop on a fake-quantised module, and a faithful conversion."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from millijoule.errors import OptionError, QuantizationError
from millijoule.files import Progress
from millijoule.graph import ROUNDINGS, WEIGHT_AXIS, Graph, simplify
from millijoule.quantize.dynamic import require_float
from millijoule.quantize.observers import OBSERVERS
from millijoule.quantize.static import calibrate, ranges_from
from millijoule.train import TrainOptions

if TYPE_CHECKING:
    from torch import nn

    from millijoule.data import PreparedSet
    from millijoule.execute import FakeQuantModule
    from millijoule.nets import Normalization
    from millijoule.train import TrainResult

__all__ = ["MEASURED", "SCRATCH", "TAUGHT", "QatOptions", "QatResult", "convert", "quantization_aware_training"]

TAUGHT = {"distillation": 0.5, "temperature": 2.0}
"""Options of `TrainOptions` for fine-tuning: half of the loss is what the float network answers, since a short training
on hard labels alone makes it forget what a long one found (docs/results/qat.md has the measurements)."""

MEASURED = {"batch_norm_pictures": 1280}
"""Options of `TrainOptions` for all trainings with fake quantisation: augmented batches leave statistics and ranges
that plain pictures do not have, and measuring both anew was worth more than an epoch (docs/results/qat.md)."""

SCRATCH = {"averaging": 0.1, "freeze_batch_norm": 0.8, "freeze_ranges": 0.9}
"""Options of `QatOptions` for training from scratch: it needs the batches' statistics while its rate is high, so it
freezes them late (frozen at half of the epochs it diverged, docs/results/qat.md); and its ranges have to keep up with
weights that change fast (docs/results/demo.md has the measurement)."""

WARM_UP = 0.1
"""Share of the epochs of a training from scratch in which learned ranges follow the batches."""

AGREEMENT_BATCH = 32
"""Pictures compared at a time."""


@dataclass(frozen=True)
class QatOptions:
    """How to train with fake quantisation.

    Attributes:
        training: epochs, rate, batch and the rest of the float loop's options, `TAUGHT` and `MEASURED` unless given;
            with `batch_norm_pictures` the ranges are measured anew, too, after the statistics of batch normalisation
            (networks that have none are left as they are).
        observer: which ranges fine-tuning starts from.
        calibration: how many training pictures these are measured on.
        averaging: weight of the newest batch in the moving average of ranges, in (0, 1].
        batch_norm_momentum: share of the newest batch in the statistics of batch normalisation, in (0, 1].
        freeze_batch_norm: share of the epochs after which batch normalisation keeps its statistics, so that the last
            epochs train exactly the weights that are converted (Krishnamoorthi 2018, arXiv:1806.08342, section 3.3).
            From scratch later, see `SCRATCH`.
        freeze_ranges: share of the epochs after which the ranges stay.
        rounding: of the integer model.
        per_channel: one weight scale per output channel; otherwise one per layer.
        ranges: "observed" (moving averages of each batch's extremes) or "learned": the ends of ranges and the steps of
            weights are trained beside the weights (Esser et al. 2020, arXiv:1902.08153).
        weight_bits: 8, or 4, of all layers or by layer name; layers that are not named have 8.
        agreement_pictures: validation pictures on which the integer model has to give the trained one's very logits.
    """

    training: TrainOptions = field(
        default_factory=lambda: TrainOptions.from_dict(
            {"epochs": 10, "learning_rate": 1e-4, "schedule": "cosine", **TAUGHT, **MEASURED}
        )
    )
    observer: str = "mse"
    calibration: int = 200
    averaging: float = 0.01
    batch_norm_momentum: float = 0.03
    freeze_batch_norm: float = 0.5
    freeze_ranges: float = 0.75
    rounding: str = "single"
    per_channel: bool = True
    ranges: str = "observed"
    weight_bits: int | Mapping[str, int] = 8
    agreement_pictures: int = 256

    def __post_init__(self) -> None:
        """Refuses values outside their range. Raises OptionError."""
        if self.observer not in OBSERVERS:
            raise OptionError("observer", f"{self.observer!r} is unknown", f"Use one of: {', '.join(OBSERVERS)}")
        if self.rounding not in ROUNDINGS:
            raise OptionError("rounding", f"{self.rounding!r} is unknown", f"Use one of: {', '.join(ROUNDINGS)}")
        if self.ranges not in ("observed", "learned"):
            raise OptionError("ranges", f"{self.ranges!r} is unknown", "Use observed or learned")
        for bits in self.weight_bits.values() if isinstance(self.weight_bits, Mapping) else (self.weight_bits,):
            if bits not in (4, 8):
                raise OptionError("weight_bits", f"{bits!r} bits are not stored", "Use 8 or 4")
        for name in ("freeze_batch_norm", "freeze_ranges"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise OptionError(f"{name} = {getattr(self, name)!r}", "it is a share of the epochs", "Use 0 to 1")
        for name, usual in (("averaging", 0.01), ("batch_norm_momentum", 0.03)):
            if not 0.0 < getattr(self, name) <= 1.0:
                why = "it must be above 0 and at most 1"
                raise OptionError(f"{name} = {getattr(self, name)!r}", why, f"Use {usual}")
        for name in ("calibration", "agreement_pictures"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} = {getattr(self, name)!r}", "it counts pictures", "Use at least 1")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for TOML and JSON."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        values["training"] = self.training.to_dict()
        if isinstance(self.weight_bits, Mapping):
            values["weight_bits"] = dict(self.weight_bits)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> QatOptions:
        """The inverse of `to_dict`. Raises OptionError for unknown options and values out of range."""
        known = {item.name for item in dataclasses.fields(cls)}
        for name in values:
            if name not in known:
                raise OptionError(f"QAT option {name!r}", "it is not known", f"Use {', '.join(sorted(known))}")
        chosen = dict(values)
        if isinstance(chosen.get("training"), Mapping):
            chosen["training"] = TrainOptions.from_dict(chosen["training"])
        return cls(**chosen)


@dataclass(frozen=True)
class QatResult:
    """What quantisation-aware training gives.

    Attributes:
        graph: the integer graph.
        float_graph: the trained weights as a float graph, batch_norm nodes kept.
        training: the run's figures; its accuracies are those of the fake-quantised module.
        pictures: on how many validation pictures the two models were compared.
        disagreements: how many of them they predict differently: always 0, a conversion that changes any is refused.
        float_sums: how many of them the arithmetic of training, with its sums in float32, predicts differently.
    """

    graph: Graph
    float_graph: Graph
    training: TrainResult
    pictures: int
    disagreements: int
    float_sums: int


def quantization_aware_training(
    source: Graph | nn.Module,
    prepared: PreparedSet,
    options: QatOptions,
    run_dir: Path,
    *,
    from_scratch: bool = False,
    teacher: Graph | nn.Module | None = None,
    start: Graph | None = None,
    fresh: bool = False,
    test: bool = False,
    progress: Progress | None = None,
) -> QatResult:
    """Trains with fake quantisation and converts to an integer graph.

    Fine-tuning starts from the ranges of static quantisation. From scratch the weights are taken as they are (give an
    untrained module or graph), the ranges come from the first batches on. An interrupted run resumes as float training
    does.

    Args:
        source: a float graph as captured, batch_norm nodes included (a simplified one trains without batch
            normalisation), or a module with a `spec`.
        prepared: the data set.
        options: how to train.
        run_dir: folder of the run.
        from_scratch: whether to leave out calibration.
        teacher: whose logits are imitated when `options.training.distillation` is above 0; when fine-tuning, the float
            network itself unless given. From scratch nobody unless given: the labels alone count.
        start: the network's static version, refined as well as can be: training begins with its integers, ranges and
            biases instead of those of rounding to nearest. Its bits, rounding and scales take the place of
            `options.weight_bits`, `rounding` and `per_channel`; ranges are learned, and batch normalisation keeps its
            statistics from the first step on, since the biases were corrected for them.
        fresh: start anew even if there is a checkpoint.
        test: whether the loop evaluates the fake-quantised module on the test split.
        progress: told about calibration, training and comparison.

    Raises:
        QuantizationError: a range is degenerate, or the integer model computes something else than the trained one
            (names the first layer that differs).
        OptionError, CheckpointError, OutputError: as `train.fit`.
    """
    from millijoule import execute
    from millijoule.train import fit

    if start is not None and from_scratch:
        raise OptionError("start", "a training from scratch has none", "Leave out one of the two")
    graph = require_float(source) if isinstance(source, Graph) else _captured(source, prepared)
    if not any(node.op == "batch_norm" for node in graph.nodes):
        options = replace(options, training=replace(options.training, batch_norm_pictures=0))
    module, bits = _module(graph, prepared, options, from_scratch, start, progress)
    if teacher is None and from_scratch:
        options = replace(options, training=replace(options.training, distillation=0.0))
    elif teacher is None and options.training.distillation > 0.0:
        teacher = graph
    if isinstance(teacher, Graph):
        # batch normalisation folded: a fifth less time
        teacher = execute.float_module(simplify(teacher)).eval().requires_grad_(False)
    training = fit(
        module,
        prepared,
        options.training,
        run_dir,
        teacher=teacher,
        normalization=normalization_of(graph),
        on_epoch_start=_phases(options, from_scratch, start is not None),
        fresh=fresh,
        test=test,
        progress=progress,
    )
    pictures = evenly(prepared.split("validation").pictures, options.agreement_pictures)
    converted, different, float_sums = convert(module, pictures, progress=progress)
    how = "from scratch" if from_scratch else "fine-tuned"
    named = f"{bits}-bit weights" if isinstance(bits, int) else "weights of 4 and 8 bits"
    what = "int8" if bits == 8 else f"int8, {named}"
    note = f"qat: {what}, {how} in {options.training.epochs} epochs, {converted.rounding} rounding"
    if module.learned:
        note += ", learned ranges"
    return QatResult(converted.with_note(note), module.to_float(), training, len(pictures), different, float_sums)


def _module(
    graph: Graph,
    prepared: PreparedSet,
    options: QatOptions,
    from_scratch: bool,
    start: Graph | None,
    progress: Progress | None,
) -> tuple[FakeQuantModule, int | Mapping[str, int]]:
    """The module that is trained, and the bits of its weights."""
    from millijoule import execute
    from millijoule.data import calibration_set
    from millijoule.quantize.warm_start import warm_module

    if start is not None:
        module = warm_module(graph, start, batch_norm_momentum=options.batch_norm_momentum)
        widths = {start.quant(node.inputs[1]).bits for node in start.nodes if node.op in WEIGHT_AXIS}
        return module, widths.pop() if len(widths) == 1 else {}
    ranges: dict[str, tuple[float, float]] = {}
    if not from_scratch:
        pictures, _ = calibration_set(prepared, options.calibration, options.training.seed)
        simplified = simplify(graph)
        statistics = calibrate(simplified, pictures, progress=progress)
        ranges = ranges_from(simplified, statistics, options.observer)
    module = execute.FakeQuantModule(
        graph,
        averaging=options.averaging,
        init_ranges=ranges,
        batch_norm_momentum=options.batch_norm_momentum,
        per_channel=options.per_channel,
        rounding=options.rounding,
        ranges=options.ranges,
        weight_bits=options.weight_bits,
    )
    return module, options.weight_bits


def _captured(module: nn.Module, prepared: PreparedSet) -> Graph:
    from millijoule.interchange import capture

    spec: Any = getattr(module, "spec", None)
    if spec is None:
        raise OptionError("the network", "the module has no `spec`", "Capture it yourself and give the graph")
    return capture(module, spec, classes=prepared.classes)


def normalization_of(graph: Graph) -> Normalization:
    """The normalisation of a graph's first node as the training loop takes it.

    Raises:
        OptionError: the graph has no such node, or its channels are normalised differently.
    """
    from millijoule.nets import Normalization

    first = graph.nodes[0]
    if first.op != "normalize":
        raise OptionError(f"graph {graph.name!r}", "it does not begin with normalize", "Capture it from pictures on")
    scales, offsets = set(first.attrs["scale"]), set(first.attrs["offset"])
    if len(scales) != 1 or len(offsets) != 1:
        raise OptionError(
            f"graph {graph.name!r}", "its channels are normalised differently", "Train with one scale and offset"
        )
    return Normalization(scale=scales.pop(), offset=offsets.pop())


def _phases(options: QatOptions, from_scratch: bool, started: bool = False) -> Any:
    """The hook that freezes statistics and ranges in the last part of the training.

    Learned ranges are observed only where there are none to start from: in the first tenth of a training from scratch.
    With integers to start from, statistics are frozen throughout.
    """
    epochs = options.training.epochs
    last_observed = max(1.0, options.freeze_ranges * epochs)
    frozen_from = 0.0 if started else max(1.0, options.freeze_batch_norm * epochs)
    if options.ranges == "learned" or started:
        last_observed = max(1.0, WARM_UP * epochs) if from_scratch else 0.0

    def on_epoch_start(module: FakeQuantModule, epoch: int) -> None:
        module.set_phase(
            observe=epoch < last_observed,
            quantize=True,
            freeze_batch_norm=epoch >= frozen_from,
        )

    return on_epoch_start


def evenly(pictures: Any, count: int) -> npt.NDArray[np.uint8]:
    """Up to `count` of the pictures (N, R, R, 3), evenly spread."""
    rows = np.unique(np.linspace(0, len(pictures) - 1, count).round().astype(np.int64))
    return np.ascontiguousarray(pictures[rows])


def convert(
    module: FakeQuantModule, pictures: npt.NDArray[np.uint8], *, progress: Progress | None = None
) -> tuple[Graph, int, int]:
    """The integer graph of a trained module, compared with it on some pictures.

    Args:
        module: a trained module; it is moved to the CPU and put into evaluation mode.
        pictures: uint8 (N, R, R, 3).
        progress: told about the comparison.

    Returns:
        The graph, on how many pictures the module predicts something else (always 0), and on how many it would if it
        summed in float32 as it does in training.

    Raises:
        QuantizationError: a logit differs; names the first layer that differs.
    """
    import torch

    from millijoule import execute

    module.cpu().eval()
    graph = module.to_integer()
    quant = graph.quant(module.logits)
    different = float_sums = 0
    for start in range(0, len(pictures), AGREEMENT_BATCH):
        batch = pictures[start : start + AGREEMENT_BATCH]
        stored = execute.run(graph, batch)[graph.outputs[0]].reshape(len(batch), -1)
        x = _network_input(graph, batch)
        with torch.inference_mode():
            trained = module(x).numpy()
            module.exact = False
            approximate = module(x).numpy()
            module.exact = True
        logits = (stored.astype(np.float32) - quant.scalar_zero_point) * np.float32(quant.scalar_scale)
        wrong = np.flatnonzero((logits != trained).any(axis=1))
        if len(wrong):
            layer = first_difference(module, graph, batch[wrong])
            raise QuantizationError(
                f"the conversion of {graph.name!r}",
                f"{len(wrong)} of {len(batch)} pictures get other logits from the integer model than from the trained "
                f"one; the first layer that differs is {layer!r}",
                "Report this as a defect with the model file",
            )
        different += int((logits.argmax(axis=1) != trained.argmax(axis=1)).sum())
        float_sums += int((logits.argmax(axis=1) != approximate.argmax(axis=1)).sum())
        if progress is not None:
            progress("compare the integer with the trained model", start + len(batch), len(pictures))
    return graph, different, float_sums


def _network_input(graph: Graph, pictures: npt.NDArray[np.uint8]) -> Any:
    import torch

    from millijoule.train import network_input

    return network_input(pictures, normalization_of(graph), torch.device("cpu"))


def first_difference(module: FakeQuantModule, graph: Graph, pictures: npt.NDArray[np.uint8]) -> str:
    """The first layer whose trained and converted results are not equal, bit for bit.

    Args:
        module: the trained module, in evaluation mode.
        graph: its integer graph.
        pictures: uint8 (N, R, R, 3).

    Returns:
        The layer's name, or "none" when all agree.
    """
    from millijoule import execute

    names = [step.output for step in module.steps]
    trained = module.stored(_network_input(graph, pictures), names)
    converted = execute.run(graph, pictures, keep=names)
    for step in module.steps:
        if not np.array_equal(trained[step.output].numpy(), converted[step.output]):
            return step.node.source or step.output
    return "none"
