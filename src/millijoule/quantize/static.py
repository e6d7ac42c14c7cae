"""Static quantisation: int8 throughout, with the ranges of the activations measured on calibration pictures."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from millijoule.errors import OptionError, QuantizationError
from millijoule.files import Progress
from millijoule.graph import ROUNDINGS, WEIGHT_AXIS, Graph, simplify
from millijoule.graph.conversion import KEEPS_SCALE, integer_graph
from millijoule.graph.headroom import with_headroom
from millijoule.quantize.compare import bits_of_weights
from millijoule.quantize.data_free import drawn_for, normal_ranges, widened
from millijoule.quantize.decisions import Decision, QuantizationReport
from millijoule.quantize.dynamic import require_float
from millijoule.quantize.observers import AUTO_CANDIDATES, OBSERVERS, Range, choose_range, measured_choice
from millijoule.quantize.refine import parse_refinements, refine_auto
from millijoule.quantize.refine import refine as apply_refinements
from millijoule.quantize.statistics import TensorStatistics, collect_statistics

__all__ = ["calibrate", "ranges_from", "static"]

LOGITS_OBSERVER = "min_max"
"""The logits decide the class and are few: cutting off their extremes cuts off the confident pictures."""


def static(
    graph: Graph,
    calibration: npt.NDArray[np.uint8] | None,
    *,
    observer: str = "mse",
    rounding: str = "single",
    per_channel: bool = True,
    refine: str = "bias",
    weight_bits: int | Mapping[str, int] = 8,
    progress: Progress | None = None,
) -> Graph:
    """A float graph as an int8 graph.

    The picture's normalisation gets the exact range of bytes 0 to 255; every other activation the range that the
    observer chooses after its fused clamp; the logits keep all that was
    seen, unless the observer is a moving average.

    Args:
        graph: a float graph, simplified or as captured.
        calibration: uint8 (N, height, width, channels), representative pictures; 200 are enough. None: without any
            pictures, see `data_free`; give the graph as captured then, batch normalisation tells the ranges.
        observer: a key of `OBSERVERS`, or "auto": for each tensor the one that costs its readers least.
        rounding: "single", "double" or "mulhi", see `arithmetic.requantize`.
        per_channel: one weight scale per output channel; otherwise one per layer.
        refine: "none": plain conversion; "bias": biases corrected with the means of the layers' inputs; "full": the
            layers reconstructed one after another after equalisation; "auto": the refinements
            that help on pictures held back; or a list of `refine.STEPS` joined with "+" ("tune" takes minutes).
        weight_bits: 8, or 4 for weights in [-8, 7], of all layers or by layer as `integer_graph` takes them; 4 bits
            want `refine` with "adjust+clip+round".
        progress: called after each batch, and after each layer that is reconstructed.

    Returns:
        The verified graph. Its history ends with the report of every decision (`decisions.report_of` reads it) and a
        summary.

    Raises:
        QuantizationError: no calibration pictures, pictures of another shape, a degenerate range (names layer, reason
            and fix), or the graph is quantised already.
        OptionError: unknown observer, rounding or refinement.
    """
    _check_options(observer, rounding, refine, per_channel)
    if calibration is None and refine != "auto" and "equalize" in parse_refinements(refine, per_channel):
        if refine != "full":
            raise OptionError("refine", "equalisation needs calibration pictures", "Give some, or leave it out")
        refine = "empirical+round" if per_channel else "empirical+adjust+clip+round"
    graph = require_float(graph)
    simplified = simplify(graph)

    drawn = calibration is None
    pictures = drawn_for(simplified) if calibration is None else calibration
    expected = normal_ranges(graph) if drawn else {}

    def measure(source: Graph, pictures: npt.NDArray[np.uint8]) -> dict[str, TensorStatistics]:
        return calibrate(source, pictures, progress=progress)

    observed: list[Decision] = []
    roomier: list[Decision] = []

    def convert(source: Graph, statistics: Mapping[str, TensorStatistics]) -> Graph:
        if observer == "auto":
            choices = chosen_observers(source, statistics)
            ranges = {name: span for name, (_, span, _) in choices.items()}
            observed[:] = _observer_decisions(source, choices)
        else:
            ranges = ranges_from(source, statistics, observer)
        if drawn:
            ranges = widened(ranges, expected, _logits(source))
        converted, widths = with_headroom(
            source,
            ranges,
            lambda given: integer_graph(
                source, given, rounding=rounding, per_channel=per_channel, weight_bits=weight_bits
            ),
        )
        roomier[:] = _room_decisions(source, widths)
        return converted

    if refine == "auto":
        refined = refine_auto(
            simplified,
            pictures,
            calibrate=measure,
            convert=convert,
            per_channel=per_channel,
            equalizing=not drawn,
            progress=progress,
        )
    else:
        refined = apply_refinements(
            simplified,
            pictures,
            parse_refinements(refine, per_channel),
            calibrate=measure,
            convert=convert,
            per_channel=per_channel,
            progress=progress,
        )
    scope = "channel" if per_channel else "layer"
    settings = {
        "quantisation": "static int8",
        "observer": observer,
        "rounding": rounding,
        "weight scales": f"one per {scope}",
        f"{'drawn' if drawn else 'calibration'} pictures": len(pictures),
        "refine": refine,
    }
    narrow = bits_of_weights(refined.graph)[1].get(4, 0)
    if narrow:
        settings["layers with 4-bit weights"] = narrow
    report = QuantizationReport(
        settings, refined.steps, (*observed, *roomier, *refined.decisions), refined.trials, refined.held_back
    )
    result = refined.graph if not report.decisions and not report.trials else refined.graph.with_note(report.note())
    done = refine if refine in ("none", "bias") else "+".join(refined.steps) or "none"
    used = f"{len(pictures)} {'drawn ' if drawn else ''}pictures"
    widths = f", weights of 4 bits in {narrow} layers" if narrow else ""
    return result.with_note(
        f"static: int8{widths}, {observer} ranges of {used}, one weight scale per {scope}, "
        f"{rounding} rounding, refinement: {done}"
    )


def _observer_decisions(graph: Graph, choices: Mapping[str, tuple[str, Range, float]]) -> list[Decision]:
    producers = graph.producers()
    return [
        Decision(
            producers[name].source or name if name in producers else name,
            "observer",
            f"{observer}: [{low:.4g}, {high:.4g}] costs its readers least (gain against {AUTO_CANDIDATES[0]})",
            gain,
        )
        for name, (observer, (low, high), gain) in choices.items()
    ]


def _room_decisions(graph: Graph, factors: Mapping[str, float]) -> list[Decision]:
    producers = graph.producers()
    return [
        Decision(
            producers[name].source or name,
            "range",
            f"widened by {100 * (factor - 1):.1f} %: otherwise a channel's sums are multiplied by more than the fast "
            "kernels can",
        )
        for name, factor in factors.items()
    ]


def _check_options(observer: str, rounding: str, refine: str, per_channel: bool) -> None:
    if observer not in OBSERVERS and observer != "auto":
        raise OptionError("observer", f"{observer!r} is unknown", f"Use one of: auto, {', '.join(OBSERVERS)}")
    if refine != "auto":
        parse_refinements(refine, per_channel)
    if rounding not in ROUNDINGS:
        raise OptionError("rounding", f"{rounding!r} is unknown", f"Use one of: {', '.join(ROUNDINGS)}")


def _layer_inputs(graph: Graph) -> tuple[str, ...]:
    """The data that layers with weights read; bias correction needs their means."""
    return tuple(dict.fromkeys(node.inputs[0] for node in graph.nodes if node.op in WEIGHT_AXIS))


def calibrated_tensors(graph: Graph) -> tuple[str, ...]:
    """The activations whose range has to be measured.

    The picture, its normalisation, softmax and operators that keep their input's scale have theirs by rule.
    """
    by_rule = {"normalize", "softmax", *KEEPS_SCALE}
    names = [name for name in graph.inputs if graph.tensor(name).dtype == "float32"]
    names += [node.output for node in graph.nodes if node.op not in by_rule]
    return tuple(names)


def calibrate(
    graph: Graph, calibration: npt.NDArray[np.uint8], *, batch: int | None = None, progress: Progress | None = None
) -> dict[str, TensorStatistics]:
    """The statistics of every activation of a simplified float graph whose range or mean has to be measured.

    Raises:
        QuantizationError: no pictures, pictures of another shape than the graph's input, or activations not finite.
    """
    expected = graph.tensor(graph.inputs[0]).shape[1:]
    if calibration.ndim != 4 or (len(calibration) and calibration.shape[1:] != expected):
        raise QuantizationError(
            "the calibration set",
            f"its pictures are {calibration.shape[1:]}, not {expected}",
            "Prepare them at that size",
        )
    names = dict.fromkeys((*calibrated_tensors(graph), *_layer_inputs(graph)))
    return collect_statistics(graph, names, calibration, batch=batch, progress=progress)


def ranges_from(graph: Graph, statistics: Mapping[str, TensorStatistics], observer: str) -> dict[str, Range]:
    """The range of every measured activation, as `integer_graph` takes them.

    Args:
        graph: the simplified float graph that was calibrated.
        statistics: from `calibrate`.
        observer: a key of `OBSERVERS`, or "auto".
    """
    if observer == "auto":
        return {name: span for name, (_, span, _) in chosen_observers(graph, statistics).items()}
    logits = _logits(graph)
    ranges = {}
    for name in calibrated_tensors(graph):
        seen = statistics[name]
        careful = name == logits and observer in ("percentile", "mse", "entropy")
        ranges[name] = choose_range(seen, LOGITS_OBSERVER if careful else observer)
    return ranges


def chosen_observers(graph: Graph, statistics: Mapping[str, TensorStatistics]) -> dict[str, tuple[str, Range, float]]:
    """For `observer="auto"`: observer, range and gain in dB of every measured activation, see `measured_choice`.

    An error costs a layer with weights as much as the weights that read the channel are large; sums and averages count
    all channels alike, and so do the logits.
    """
    readers = graph.consumers()
    chosen = {}
    for name in calibrated_tensors(graph):
        channels = graph.tensor(name).shape[-1]
        costs = np.zeros(channels)
        for node in readers.get(name, ()):
            cost = np.ones(channels)
            if node.op in WEIGHT_AXIS:
                cost = np.square(graph.constant(node.inputs[1]), dtype=np.float64).reshape(-1, channels).sum(axis=0)
            costs += cost / max(float(cost.mean()), 1e-30)
        chosen[name] = measured_choice(statistics[name], costs if costs.any() else np.ones(channels))
    return chosen


def _logits(graph: Graph) -> str:
    """The first output, or what it is a mere reshape or softmax of."""
    name, producers = graph.outputs[0], graph.producers()
    while name in producers and producers[name].op in ("softmax", "reshape"):
        name = producers[name].inputs[0]
    return name
