"""Several versions of one network side by side: accuracy, sizes, predictions changed against the float model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from millijoule.errors import DataError, OptionError
from millijoule.files import Progress
from millijoule.graph import WEIGHT_AXIS, Graph, mode, simplify

__all__ = [
    "ChangedPicture",
    "Comparison",
    "Compiled",
    "Interval",
    "ModelFigures",
    "bits_of_weights",
    "chosen_rows",
    "compare",
    "flash_bytes",
    "paired_interval",
    "sqnr",
    "wilson",
]

Z95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""


class LabelledPictures(Protocol):
    """What a split of a prepared set offers: uint8 (N, R, R, 3) pictures and int64 (N,) labels."""

    @property
    def pictures(self) -> Any:
        """The pictures."""

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """Their classes."""


@dataclass(frozen=True)
class Interval:
    """A 95 % confidence interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Compiled:
    """Sizes of a compiled model in bytes: constants in flash, the arena in RAM; None, and why, where it is refused."""

    flash_bytes: int | None
    arena_bytes: int | None
    refusal: str = ""


@dataclass(frozen=True)
class ChangedPicture:
    """A picture for which some model answers otherwise than the reference; classes are indices.

    Attributes:
        row: which picture of the split.
        label: its class.
        reference: the reference's answer.
        models: the answers of the models that differ, by name.
    """

    row: int
    label: int
    reference: int
    models: dict[str, int]


@dataclass(frozen=True)
class ModelFigures:
    """One row of the comparison. Percentages are 0 to 100, sizes are bytes.

    Attributes:
        name: what the caller calls the model.
        kind: "float", "half" (16-bit float weights), "dynamic" or "integer".
        correct: pictures classified rightly.
        accuracy: 100 * correct / pictures.
        interval: Wilson score interval of the accuracy.
        weight_bits: bits of a weight, the mean over all weights.
        layers_by_bits: how many layers have weights of so many bits.
        flash_bytes: weights, biases and quantisation constants, see `flash_bytes`.
        compiled: exact sizes of the compiled model, None when no compiler was given.
        tflite_bytes: size of the equivalent .tflite file, None when it was not asked for.
        changed: predictions that differ from the reference, None for the reference itself.
        lost: reference right, this wrong.
        won: reference wrong, this right.
        difference: accuracy minus the reference's, percentage points.
        difference_interval: 95 % interval of the paired difference.
        logits_sqnr: signal to noise of the logits against the reference's in dB, None when they are equal.
        confusion: rows the true class, columns the predicted one.
    """

    name: str
    kind: str
    correct: int
    accuracy: float
    interval: Interval
    weight_bits: float
    layers_by_bits: dict[int, int]
    flash_bytes: int
    compiled: Compiled | None
    tflite_bytes: int | None
    changed: int | None
    lost: int | None
    won: int | None
    difference: float | None
    difference_interval: Interval | None
    logits_sqnr: float | None
    confusion: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Comparison:
    """Figures of several models on the same pictures.

    Attributes:
        pictures: how many pictures were classified.
        reference: name of the model that the others are compared with.
        classes: the class names.
        models: one row per model, in the order given.
        changes: the pictures for which not all models answer as the reference does, in the order of the split.
    """

    pictures: int
    reference: str
    classes: tuple[str, ...]
    models: tuple[ModelFigures, ...]
    changes: tuple[ChangedPicture, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """The same as plain dictionaries, lists and numbers."""
        return asdict(self)


def compare(
    models: Mapping[str, Graph],
    split: LabelledPictures,
    *,
    reference: str | None = None,
    batch: int | None = None,
    limit: int | None = None,
    tflite_bytes: Callable[[Graph], int | None] | None = None,
    compiled: Callable[[Graph], Compiled] | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Runs every model over the same pictures.

    Args:
        models: graphs by the name they get in the table; float graphs may still hold batch_norm nodes.
        split: pictures and labels.
        reference: the model the others are compared with; the first float one, else the first, when None.
        batch: pictures per step of the executor; its own choice when None.
        limit: use only so many pictures, taken evenly over the split.
        tflite_bytes: gives the size of the .tflite file of a graph.
        compiled: gives the exact sizes of a graph.
        progress: called after each batch.

    Raises:
        OptionError: no models, an unknown reference, or models with different classes.
        DataError: no pictures, pictures of another size than a model's, or labels beyond the classes.
    """
    if not models:
        raise OptionError("compare", "no models were given", "Name at least one model file")
    rows = chosen_rows(len(split.labels), limit)
    graphs = {name: simplify(graph) for name, graph in models.items()}
    first = next(iter(graphs))
    if reference is None:
        reference = next((name for name, graph in graphs.items() if kind_of(graph) == "float"), first)
    if reference not in graphs:
        raise OptionError("reference", f"there is no model {reference!r}", f"Use one of: {', '.join(graphs)}")
    classes = graphs[first].tensor(graphs[first].outputs[0]).shape[-1]
    logits: dict[str, npt.NDArray[np.float64]] = {}
    predictions: dict[str, npt.NDArray[np.int64]] = {}
    for name, graph in graphs.items():
        if graph.tensor(graph.outputs[0]).shape[-1] != classes or graph.classes != graphs[first].classes:
            raise OptionError(
                f"model {name!r}", f"its classes are not those of {first!r}", "Compare models of one task"
            )
        _check_pictures(name, graph, split, classes)
    for name, graph in graphs.items():
        stored = _logits(graph, split.pictures, rows, batch, name, progress)
        predictions[name] = stored.argmax(axis=1)
        logits[name] = real_values(graph, graph.outputs[0], stored)
    labels = np.asarray(split.labels)[rows]
    figures = []
    for name, graph in graphs.items():
        figures.append(
            _figures(
                name,
                graph,
                labels,
                predictions[name],
                None if name == reference else predictions[reference],
                None if name == reference else sqnr(logits[reference], logits[name]),
                None if compiled is None else compiled(graph),
                None if tflite_bytes is None else tflite_bytes(graph),
                classes,
            )
        )
    names = graphs[first].classes or tuple(str(index) for index in range(classes))
    return Comparison(len(rows), reference, names, tuple(figures), _changes(rows, labels, predictions, reference))


def chosen_rows(count: int, limit: int | None) -> npt.NDArray[np.int64]:
    """Indices of all of `count` pictures, or of `limit` of them, taken evenly.

    Raises:
        OptionError: a limit below 1.
        DataError: no pictures.
    """
    if limit is not None and limit < 1:
        raise OptionError("limit", f"{limit} is not a number of pictures", "Use at least 1")
    if count == 0:
        raise DataError("the pictures to compare on", "there are none", "Choose a split that holds pictures")
    rows = np.arange(count)
    return rows if limit is None or limit >= count else rows[np.linspace(0, count - 1, limit).round().astype(np.int64)]


def _check_pictures(name: str, graph: Graph, split: LabelledPictures, classes: int) -> None:
    """Refuses pictures and labels that a model cannot be asked about."""
    expected, given = graph.tensor(graph.inputs[0]).shape[1:], tuple(split.pictures.shape[1:])
    if given != expected:
        raise DataError(
            f"model {name!r}",
            f"its input is {_size(expected)} and the pictures are {_size(given)}",
            f"Prepare them with --resolution {expected[0]}, or compare models of the pictures' size",
        )
    highest = int(np.max(split.labels, initial=-1))
    if highest >= classes:
        raise DataError(
            f"model {name!r}",
            f"it knows {classes} classes and the pictures have at least {highest + 1}",
            "Give the pictures of its task",
        )


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _changes(
    rows: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64],
    predictions: Mapping[str, npt.NDArray[np.int64]],
    reference: str,
) -> tuple[ChangedPicture, ...]:
    """The pictures for which some model answers otherwise than the reference."""
    expected = predictions[reference]
    changes = []
    for index, row in enumerate(rows):
        models = {name: int(own[index]) for name, own in predictions.items() if own[index] != expected[index]}
        if models:
            changes.append(ChangedPicture(int(row), int(labels[index]), int(expected[index]), models))
    return tuple(changes)


def _logits(
    graph: Graph, pictures: Any, rows: npt.NDArray[np.int64], batch: int | None, name: str, progress: Progress | None
) -> npt.NDArray[Any]:
    from millijoule import execute

    def report(_: str, done: int, total: int) -> None:
        if progress is not None:
            progress(f"evaluate {name}", done, total)

    stored = execute.run(graph, _Rows(pictures, rows), batch=batch, progress=report)[graph.outputs[0]]
    return np.asarray(stored).reshape(len(rows), -1)


class _Rows:
    """Some of the pictures of a split, read from disk only when they are sliced."""

    def __init__(self, pictures: Any, rows: npt.NDArray[np.int64]) -> None:
        self._pictures = pictures
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, part: slice) -> npt.NDArray[np.uint8]:
        return np.ascontiguousarray(self._pictures[self._rows[part]])


def real_values(graph: Graph, name: str, stored: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """What the stored values of a tensor with one scale stand for; values of a float tensor are themselves.

    Args:
        graph: its graph.
        name: the tensor.
        stored: values as an executor gives them, any shape.
    """
    quant = graph.tensor(name).quant
    values = stored.astype(np.float64)
    return values if quant is None else (values - quant.scalar_zero_point) * quant.scalar_scale


def _figures(
    name: str,
    graph: Graph,
    labels: npt.NDArray[np.int64],
    predicted: npt.NDArray[np.int64],
    reference: npt.NDArray[np.int64] | None,
    noise: float | None,
    compiled: Compiled | None,
    tflite: int | None,
    classes: int,
) -> ModelFigures:
    count = len(labels)
    correct = int((predicted == labels).sum())
    confusion = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    changed = lost = won = None
    difference, interval = None, None
    if reference is not None:
        changed = int((predicted != reference).sum())
        lost = int(((reference == labels) & (predicted != labels)).sum())
        won = int(((reference != labels) & (predicted == labels)).sum())
        difference = 100.0 * (won - lost) / count
        interval = paired_interval(lost, won, count)
    mean_bits, layers_by_bits = bits_of_weights(graph)
    return ModelFigures(
        name=name,
        kind=kind_of(graph),
        correct=correct,
        accuracy=100.0 * correct / count,
        interval=wilson(correct, count),
        weight_bits=mean_bits,
        layers_by_bits=layers_by_bits,
        flash_bytes=flash_bytes(graph),
        compiled=compiled,
        tflite_bytes=tflite,
        changed=changed,
        lost=lost,
        won=won,
        difference=difference,
        difference_interval=interval,
        logits_sqnr=noise,
        confusion=tuple(tuple(int(value) for value in row) for row in confusion),
    )


def kind_of(graph: Graph) -> str:
    """What a graph is by its arithmetic and weights.

    "integer" when some node works in int8, else "dynamic" when weights are int8, else "half" when weights are 16-bit
    floats, else "float".
    """
    modes = {mode(graph, node) for node in graph.nodes}
    if "integer" in modes or "dynamic" in modes:
        return "integer" if "integer" in modes else "dynamic"
    return "half" if any(value.dtype == np.float16 for value in graph.constants.values()) else "float"


def bits_of_weights(graph: Graph) -> tuple[float, dict[int, int]]:
    """Bits of a weight, the mean over all of a graph's weights, and how many layers have how many bits (ascending).

    Biases do not count. Weights of 4 bits count as 4 even where flash holds them in whole bytes.
    """
    bits, weights = 0, 0
    layers: dict[int, int] = {}
    for node in graph.nodes:
        if node.op in WEIGHT_AXIS:
            tensor = graph.tensor(node.inputs[1])
            plain = 16 if tensor.dtype == "float16" else 32
            width = plain if tensor.quant is None else tensor.quant.bits
            bits, weights = bits + width * tensor.elements, weights + tensor.elements
            layers[width] = layers.get(width, 0) + 1
    return bits / max(1, weights), dict(sorted(layers.items()))


def wilson(correct: int, count: int) -> Interval:
    """95 % Wilson score interval of a share, in per cent (Wilson 1927).

    Example:
        >>> wilson(1139, 1392)
        Interval(low=79.71..., high=83.75...)
    """
    share, z2 = correct / count, Z95 * Z95
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = Z95 * math.sqrt(share * (1 - share) / count + z2 / (4 * count * count)) / (1 + z2 / count)
    return Interval(100.0 * max(0.0, centre - half), 100.0 * min(1.0, centre + half))


def paired_interval(lost: int, won: int, count: int) -> Interval:
    """95 % Wald interval of the difference of two accuracies on the same pictures, percentage points.

    The variance of a paired difference comes from the discordant pictures alone (McNemar 1947; Agresti, Categorical
    Data Analysis, section 10.1).

    Args:
        lost: pictures only the reference classifies rightly.
        won: pictures only the other model classifies rightly.
        count: all pictures.
    """
    difference = (won - lost) / count
    half = Z95 * math.sqrt(max(0.0, (won + lost) / count - difference * difference) / count)
    return Interval(100.0 * (difference - half), 100.0 * (difference + half))


def sqnr(reference: npt.NDArray[Any], other: npt.NDArray[Any]) -> float | None:
    """``10 log10(sum r^2 / sum (r - o)^2)`` in dB; None when the two are equal or the reference is 0."""
    signal = float(np.square(reference, dtype=np.float64).sum())
    noise = float(np.square(reference.astype(np.float64) - other).sum())
    return None if noise == 0.0 or signal == 0.0 else 10.0 * math.log10(signal / noise)


def flash_bytes(graph: Graph) -> int:
    """Bytes of weights, biases and quantisation constants as a compiled model stores them in flash.

    An int8 layer with weights keeps one int32 multiplier and one int8 shift per output channel (they replace the weight
    scales), a dynamic layer one float32 scale per output channel (or one per layer); int8 pictures are normalised with
    a table of 256 bytes per channel rule. Weights of 4 bits take half a byte each, in depthwise layers a whole one.
    Scalars (zero points, clamp bounds, the constants of add and mean) sit in the code and are not counted.
    """
    filters = {node.inputs[1] for node in graph.nodes if node.op == "depthwise_conv2d"}
    total = sum(
        value.nbytes if name in filters else graph.tensor(name).bytes for name, value in graph.constants.items()
    )
    for node in graph.nodes:
        how = mode(graph, node)
        if node.op in ("conv2d", "depthwise_conv2d", "dense") and how != "float":
            channels = graph.tensor(node.output).shape[-1]
            scales = len(graph.quant(node.inputs[1]).scale)
            total += 5 * channels if how == "integer" else 4 * scales
        elif node.op == "normalize" and how == "integer":
            total += 256 * len(set(zip(node.attrs["scale"], node.attrs["offset"], strict=True)))
    return total
