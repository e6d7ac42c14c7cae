"""Where the error of a quantised network comes from, layer by layer, and how many bits each layer needs."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from millijoule.errors import DataError
from millijoule.files import Progress
from millijoule.graph import Graph, simplify
from millijoule.graph.conversion import integer_graph
from millijoule.quantize.bias_correction import correct_biases
from millijoule.quantize.compare import sqnr
from millijoule.quantize.decisions import report_of
from millijoule.quantize.dynamic import require_float
from millijoule.quantize.equalize import channel_groups
from millijoule.quantize.layerwise import FLOAT, Simulation, noise
from millijoule.quantize.static import calibrate, ranges_from

__all__ = ["LayerError", "LayerSensitivity", "Sensitivity", "decibels", "layer_snr", "sensitivity"]

_FREE_LOSS = 0.5
"""Most dB that 4 bits in one layer may take from the logits of the 8-bit network to be called free."""

_COSTLY_LOSS = 3.0
"""From this loss in dB on, one layer with 4 bits makes more noise than all others together with 8."""


@dataclass(frozen=True)
class LayerError:
    """One layer's result in the quantised network against the float network's.

    Attributes:
        layer: the name the user knows.
        operator: its operator.
        sqnr: signal to noise in dB, errors of all earlier layers included; None when the two are equal.
        mean_error: mean error in units of the float result's deviation: what bias correction can take away.
    """

    layer: str
    operator: str
    sqnr: float | None
    mean_error: float


def layer_snr(graph: Graph, converted: Graph, pictures: npt.NDArray[np.uint8]) -> list[LayerError]:
    """The error of every activation of a dynamic or integer graph on a few pictures.

    Args:
        graph: the float graph.
        converted: its quantised version, with the same tensor names.
        pictures: uint8 (N, H, W, C); all activations of all of them are held in memory, so give about ten.

    Returns:
        One entry per layer that both graphs have, in execution order; the probabilities are left out, and so are layers
        whose channels were equalised: they have other units than the float network's.
    """
    from millijoule import execute

    exact = simplify(graph)
    written = {node.output for node in exact.nodes} - _equalized(exact, converted)
    nodes = [node for node in converted.nodes if node.output in written and node.op != "softmax"]
    names = [node.output for node in nodes]
    real, stored = (execute.run(model, pictures, keep=names) for model in (exact, converted))
    errors = []
    for node in nodes:
        value = stored[node.output].astype(np.float64)
        quant = converted.tensor(node.output).quant
        if quant is not None:
            value = (value - quant.scalar_zero_point) * quant.scalar_scale
        difference = value - real[node.output]
        deviation = float(real[node.output].std())
        mean = float(difference.mean()) / deviation if deviation > 0.0 else 0.0
        errors.append(LayerError(node.source or node.output, node.op, sqnr(real[node.output], value), mean))
    return errors


def _equalized(exact: Graph, converted: Graph) -> set[str]:
    """The tensors of a simplified float graph whose channels the conversion scaled or shifted."""
    report = report_of(converted)
    noted = {item.layer for item in report.decisions if item.what == "equalize"} if report is not None else set()
    if not noted:
        return set()
    names = {node.output: node.source or node.output for node in exact.nodes}
    # the report names the last tensor of a group
    groups = [group.tensors for group in channel_groups(exact) if names[group.tensors[-1]] in noted]
    return {name for group in groups for name in group}


@dataclass(frozen=True)
class LayerSensitivity:
    """What quantising one layer does, all figures signal-to-noise ratios in dB (None: no error at all).

    Attributes:
        layer: the name the user knows.
        operator: its operator.
        weights: how many it has.
        own: by bits of the weights: of its own results when only this layer is quantised (weights and results).
        alone: by bits: of the logits when only this layer is quantised.
        without: by bits: of the logits when every layer but this one is quantised with that many bits.
        four_among_eight: of the logits when this layer has 4 bits and all others 8.
        accuracy_without: by bits: share of the labelled pictures right when every layer but this one is quantised;
            empty without labels.
        suggested_bits: 4 or 8.
        why: one sentence.
    """

    layer: str
    operator: str
    weights: int
    own: dict[int, float | None]
    alone: dict[int, float | None]
    without: dict[int, float | None]
    four_among_eight: float | None
    accuracy_without: dict[int, float]
    suggested_bits: int
    why: str


@dataclass(frozen=True)
class Sensitivity:
    """The sensitivity of all layers of a network.

    Attributes:
        layers: in execution order.
        all_quantised: by bits: signal to noise of the logits with every layer quantised, dB.
        pictures: pictures of the measurement.
        accuracy: by bits (32: float): share of the labelled pictures right; empty without labels.
    """

    layers: tuple[LayerSensitivity, ...]
    all_quantised: dict[int, float | None]
    pictures: int
    accuracy: dict[int, float]

    def to_json(self) -> dict[str, Any]:
        """The same as plain dictionaries, lists and numbers."""
        return asdict(self)


def decibels(relative: float) -> float | None:
    """Signal to noise in dB of a relative noise (`layerwise.noise`); None for no noise."""
    return None if relative <= 0.0 else -10.0 * math.log10(relative)


def sensitivity(
    graph: Graph,
    calibration: npt.NDArray[np.uint8],
    pictures: npt.NDArray[np.uint8] | None = None,
    labels: npt.NDArray[np.int64] | None = None,
    *,
    observer: str = "mse",
    progress: Progress | None = None,
) -> Sensitivity:
    """What each layer of a float network loses by quantisation, alone and among the others.

    Weights are rounded to nearest with one scale per output channel and the biases are corrected. The network is
    computed in float on the integer network's grids (`layerwise`), several times faster than the integer executor and
    within about a tenth of a dB of it.

    Args:
        graph: a float graph.
        calibration: uint8 (N, height, width, channels): ranges are measured on all of them.
        pictures: what the errors are measured on; default: the first 16 of `calibration`.
        labels: classes of `pictures`; adds accuracies.
        observer: a key of `OBSERVERS`.
        progress: called during calibration and after each layer of each group of pictures.

    Raises:
        QuantizationError: as `static`.
        DataError: labels without their pictures, or another number of them.
    """
    if labels is not None and (pictures is None or len(labels) != len(pictures)):
        raise DataError("the labels", "there is not one for each picture", "Give pictures and labels of one split")
    simplified = simplify(require_float(graph))
    statistics = calibrate(simplified, calibration, progress=progress)
    ranges = ranges_from(simplified, statistics, observer)
    means = {name: seen.mean for name, seen in statistics.items()}
    converted = {
        bits: correct_biases(simplified, integer_graph(simplified, ranges, weight_bits=bits), means) for bits in (8, 4)
    }
    simulation = Simulation(simplified, converted, calibration[:16] if pictures is None else pictures)
    reference = simulation.reference

    def right(logits: npt.NDArray[Any]) -> float:
        return float((logits.argmax(axis=1) == labels).mean())

    whole = {bits: simulation.run(simulation.all(bits)) for bits in (8, 4)}
    own: dict[tuple[str, int], float] = {}
    alone: dict[tuple[str, int], float] = {}
    each = dict.fromkeys(simulation.layers, (8, 4))
    for branch in simulation.branches(
        simulation.all(FLOAT), each, others=False, what="each layer alone", progress=progress
    ):
        own[branch.layer, branch.bits] = branch.own
        alone[branch.layer, branch.bits] = noise(reference, branch.logits)
    without: dict[tuple[str, int], float] = {}
    accuracy: dict[tuple[str, int], float] = {}
    among: dict[str, float] = {}
    for bits in (8, 4):
        tried = dict.fromkeys(simulation.layers, (FLOAT, 4) if bits == 8 else (FLOAT,))
        what = f"all but one layer with {bits} bits"
        for branch in simulation.branches(simulation.all(bits), tried, what=what, progress=progress):
            if branch.bits == 4:
                among[branch.layer] = noise(reference, branch.logits)
                continue
            without[branch.layer, bits] = noise(reference, branch.logits)
            if labels is not None:
                accuracy[branch.layer, bits] = right(branch.logits)
    nodes = {node.output: node for node in simplified.nodes}
    eight = noise(reference, whole[8])
    layers = []
    for name in simulation.layers:
        node = nodes[name]
        suggested, why = _suggestion(node.op, eight, among[name])
        layers.append(
            LayerSensitivity(
                simulation.names[name],
                node.op,
                simplified.tensor(node.inputs[1]).elements,
                {bits: decibels(own[name, bits]) for bits in (8, 4)},
                {bits: decibels(alone[name, bits]) for bits in (8, 4)},
                {bits: decibels(without[name, bits]) for bits in (8, 4)},
                decibels(among[name]),
                {bits: accuracy[name, bits] for bits in (8, 4)} if labels is not None else {},
                suggested,
                why,
            )
        )
    rates = {FLOAT: right(reference), **{bits: right(whole[bits]) for bits in (8, 4)}} if labels is not None else {}
    levels = {bits: decibels(noise(reference, whole[bits])) for bits in (8, 4)}
    return Sensitivity(tuple(layers), levels, len(simulation.pictures), rates)


def _suggestion(operator: str, eight: float, among: float) -> tuple[int, str]:
    """Bits of one layer's weights, and why: from the noise of the logits with all layers at 8 and this one at 4."""
    if eight <= 0.0:
        return 8, "the 8-bit network has no error to compare with"
    loss = 10.0 * math.log10(max(among, 1e-30) / eight)
    if operator == "depthwise_conv2d":
        return 8, f"4 bits cost {loss:+.1f} dB at the logits, and depthwise filters take whole bytes in flash anyway"
    if loss <= _FREE_LOSS:
        return 4, f"4 bits cost {loss:+.1f} dB at the logits: nearly nothing"
    if loss < _COSTLY_LOSS:
        return 4, f"4 bits cost {loss:+.1f} dB at the logits, less than the noise of all layers at 8 bits"
    return 8, f"4 bits cost {loss:+.1f} dB at the logits: more noise than all layers together make at 8 bits"
