"""The refinements in their order, and `refine="auto"`: those are kept that help on pictures that were held back.

Order: the float graph is equalised, then converted, then its biases are corrected, or all its layers reconstructed
(which corrects biases too), and then it is fine-tuned as a whole. Each is a pure function of graphs; this module only
calls them and writes down what became of each layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from millijoule.errors import OptionError, QuantizationError
from millijoule.files import Progress
from millijoule.graph import Graph
from millijoule.quantize.bias_correction import correct_biases
from millijoule.quantize.compare import real_values, sqnr
from millijoule.quantize.decisions import Decision, Trial
from millijoule.quantize.equalize import ChannelStatistics, equalize
from millijoule.quantize.reconstruct import PARTS, LayerChange, reconstruct
from millijoule.quantize.statistics import TensorStatistics
from millijoule.quantize.tune import TuneOptions, tune

__all__ = [
    "FOUR_BITS",
    "REFINEMENTS",
    "STEPS",
    "Refined",
    "channel_statistics",
    "few",
    "parse_refinements",
    "reconstruction_decisions",
    "refine",
    "refine_auto",
    "tuned",
]

STEPS = ("equalize", "means", "empirical", *PARTS, "tune")
"""The single refinements: equalisation; biases from mean inputs; biases from the quantised network's own results; what
reconstruction can do besides (adjusted weights, searched scales, learned rounding); and fine-tuning of the whole."""

REFINEMENTS = ("none", "bias", "full", "auto")
"""Sets of refinements by name; sets of one's own are written with plus signs, "equalize+round"."""

FOUR_BITS = "empirical+adjust+clip+round"
"""What weights of 4 bits want: every layer reconstructed."""

_MAP_VALUES = 60_000_000
"""Most float values of one feature map, over all pictures, while layers are reconstructed (float32: 240 MB)."""

Pictures = npt.NDArray[np.uint8]
Convert = Callable[[Graph, Mapping[str, TensorStatistics]], Graph]
Calibrate = Callable[[Graph, Pictures], Mapping[str, TensorStatistics]]


def parse_refinements(name: str, per_channel: bool) -> tuple[str, ...]:
    """The single refinements that a name stands for ("auto" is not one).

    Raises:
        OptionError: an unknown name.
    """
    if name == "none":
        return ()
    if name == "bias":
        return ("means",)
    if name == "full":
        return ("equalize", "empirical", "round") if per_channel else ("equalize", "empirical", *PARTS)
    chosen = tuple(name.split("+"))
    unknown = [part for part in chosen if part not in STEPS]
    if unknown:
        raise OptionError(
            "refine", f"{unknown[0]!r} is unknown", f"Use one of: {', '.join((*REFINEMENTS, *STEPS))}; join with +"
        )
    return tuple(step for step in STEPS if step in chosen)


@dataclass(frozen=True)
class Refined:
    """A converted graph and what was decided on the way."""

    graph: Graph
    steps: tuple[str, ...]
    decisions: tuple[Decision, ...]
    trials: tuple[Trial, ...] = ()
    held_back: int = 0


def channel_statistics(statistics: Mapping[str, TensorStatistics]) -> dict[str, ChannelStatistics]:
    """What equalisation needs of calibration's statistics."""
    return {
        name: ChannelStatistics(
            seen.channel_low.astype(np.float64),
            seen.channel_high.astype(np.float64),
            seen.channel_mean,
            seen.channel_square,
        )
        for name, seen in statistics.items()
    }


def refine(
    graph: Graph,
    pictures: Pictures,
    steps: tuple[str, ...],
    *,
    calibrate: Calibrate,
    convert: Convert,
    per_channel: bool,
    known: dict[bool, tuple[Graph, Mapping[str, TensorStatistics], tuple[Decision, ...]]] | None = None,
    progress: Progress | None = None,
) -> Refined:
    """Converts a simplified float graph with the given refinements.

    Args:
        graph: a simplified float graph.
        pictures: calibration pictures.
        steps: of `STEPS`.
        calibrate: gives the statistics of a graph on pictures.
        convert: gives the quantised graph.
        per_channel: one weight scale per output channel.
        known: graphs and statistics of earlier calls, by whether they are equalised; filled in.
        progress: called while layers are reconstructed.
    """
    known = {} if known is None else known
    equalized = "equalize" in steps
    if not equalized and False not in known:
        known[False] = (graph, calibrate(graph, pictures), ())
    if equalized and True not in known:
        # factors need only the size of each channel: a third of the pictures tells that
        seen = known[False][1] if False in known else calibrate(graph, pictures[::3])
        changed, notes = equalize(graph, channel_statistics(seen), per_channel=per_channel)
        known[True] = (changed, calibrate(changed, pictures), _equalized(graph, notes))
    source, statistics, decisions = known[equalized]
    converted = convert(source, statistics)
    if "means" in steps:
        converted = correct_biases(source, converted, {name: seen.mean for name, seen in statistics.items()})
    if "empirical" in steps or any(part in steps for part in PARTS):
        some = few(source, pictures)
        parts = tuple(part for part in PARTS if part in steps)
        converted, changes = reconstruct(source, converted, some, parts=parts, progress=progress)
        decisions += reconstruction_decisions(changes, parts)
    if "tune" in steps:
        converted, decision = tuned(source, converted, pictures, None, progress)
        decisions += (decision,)
    return Refined(converted, steps, decisions)


def tuned(
    graph: Graph, converted: Graph, pictures: Pictures, options: TuneOptions | None, progress: Progress | None
) -> tuple[Graph, Decision]:
    """`tune`, and what is to be said about it."""
    options = options or TuneOptions()
    result, told = tune(graph, converted, pictures, options, progress=progress)
    moved, weights = (sum(counts) for counts in zip(*told.moved.values(), strict=True))
    why = (
        f"fine-tuned as a whole, {options.steps} steps of {options.batch_size} pictures, to imitate the float network; "
        f"loss {told.before:.4f} before, {told.after:.4f} after; {moved:,} of {weights:,} weights are other integers"
    )
    return result, Decision("all", "tune", why, kept=told.kept)


def few(graph: Graph, pictures: Pictures) -> Pictures:
    """As many pictures, evenly chosen, as have room in memory while layers are reconstructed."""
    largest = max(tensor.elements for tensor in graph.activations())
    count = max(1, min(len(pictures), _MAP_VALUES // largest))
    chosen = np.linspace(0, len(pictures) - 1, count).round().astype(np.int64)
    return np.ascontiguousarray(pictures[chosen])


def _equalized(graph: Graph, notes: tuple[tuple[str, str, float], ...]) -> tuple[Decision, ...]:
    producers = graph.producers()
    words = {
        "scale": "its channels are brought to one size; the layers that read it divide by the same factors",
        "shift": "its channels are shifted to mean 0; the layers that read it have the rest in their bias",
    }
    return tuple(Decision(producers[name].source or name, "equalize", words[what], gain) for name, what, gain in notes)


def reconstruction_decisions(changes: Iterable[LayerChange], parts: tuple[str, ...]) -> tuple[Decision, ...]:
    """What `reconstruct` did with the given parts, a decision per layer."""
    return tuple(_reconstructed(change, parts) for change in changes)


def _reconstructed(change: LayerChange, parts: tuple[str, ...]) -> Decision:
    def loss(error: float) -> str:
        return "no error" if error <= 0.0 else f"{-10.0 * math.log10(error):.1f} dB"

    gain = 10.0 * math.log10(change.before / change.after) if min(change.before, change.after) > 0.0 else None
    done = ["bias from the mean error of its results"]
    if "adjust" in parts:
        done.append("weights fitted to what it really reads")
    if "clip" in parts:
        done.append(f"{change.clipped} scales smaller than the largest weight asks for")
    if "round" in parts:
        done.append("learned rounding")
    if "adjust" in parts or "round" in parts:
        done.append(f"{change.moved} of {change.weights} weights away from the nearest value")
    what = "round" if "round" in parts else "adjust" if "adjust" in parts else "clip" if "clip" in parts else "bias"
    why = f"{'; '.join(done)}; signal to noise {loss(change.before)} before, {loss(change.after)} after"
    return Decision(change.layer, what, why, gain)


def refine_auto(
    graph: Graph,
    pictures: Pictures,
    *,
    calibrate: Calibrate,
    convert: Convert,
    per_channel: bool,
    equalizing: bool = True,
    progress: Progress | None = None,
) -> Refined:
    """Tries refinements one after another and keeps those that lower the error of the logits on held-back pictures.

    Every fourth picture is held back; the others calibrate and fit. Biases, equalisation, adjusted and rounded
    weights, searched scales are added in this order, each on top of what was kept so far. Fine-tuning, which takes
    minutes, is not tried.

    Args:
        graph: a simplified float graph.
        pictures: calibration pictures, at least 8.
        calibrate: gives the statistics of a graph on pictures.
        convert: gives the quantised graph.
        per_channel: one weight scale per output channel.
        equalizing: whether equalisation is tried.
        progress: called while layers are reconstructed.

    Raises:
        QuantizationError: fewer than 8 pictures.
    """
    from millijoule import execute

    if len(pictures) < 8:
        raise QuantizationError(
            "the calibration set", f'{len(pictures)} pictures are too few for refine="auto"', "Give at least 8"
        )
    held = np.ascontiguousarray(pictures[::4])
    fitted = np.ascontiguousarray(np.delete(pictures, np.s_[::4], axis=0))
    reference = execute.run(graph, held)[graph.outputs[0]].astype(np.float64)
    known: dict[bool, tuple[Graph, Mapping[str, TensorStatistics], tuple[Decision, ...]]] = {}
    trials: list[Trial] = []

    def attempt(steps: tuple[str, ...]) -> tuple[Refined, float]:
        result = refine(
            graph,
            fitted,
            steps,
            calibrate=calibrate,
            convert=convert,
            per_channel=per_channel,
            known=known,
            progress=progress,
        )
        logits = _real_logits(result.graph, held)
        ratio = sqnr(reference, logits)
        changed = int((logits.argmax(axis=1) != reference.argmax(axis=1)).sum())
        trials.append(Trial(steps, ratio, changed, False))
        return result, math.inf if ratio is None else ratio

    best, highest = attempt(())
    for candidates in ((("means",), ("empirical",)), (("equalize",),), (("adjust",), ("round",)), (("clip",),)):
        together = tuple(step for candidate in candidates for step in candidate)
        if candidates == (("equalize",),) and not equalizing:
            continue
        tried = [together] if together == ("adjust", "round") else list(candidates)
        for extra in tried:
            base = tuple(step for step in best.steps if not (step == "means" and "empirical" in extra))
            steps = tuple(step for step in STEPS if step in (*base, *extra))
            result, ratio = attempt(steps)
            if ratio > highest:
                best, highest = result, ratio
    final = tuple(
        Trial(trial.refinements, trial.sqnr, trial.changed, trial.refinements == best.steps) for trial in trials
    )
    return Refined(best.graph, best.steps, best.decisions, final, len(held))


def _real_logits(graph: Graph, pictures: Pictures) -> npt.NDArray[np.float64]:
    from millijoule import execute

    return real_values(graph, graph.outputs[0], execute.run(graph, pictures)[graph.outputs[0]])
