"""Mixed precision: 4 or 8 bits for the weights of each layer, so that a budget of flash or cycles is kept.

The network is converted with 8 bits everywhere and with 4 bits everywhere (scales searched, rounding learned, biases
corrected); a simulation mixes the two layer by layer (`layerwise`), a search finds the mixture with the least noise of
the logits on held-back calibration pictures (`mixed_search`), and the mixture is then converted and reconstructed as a
whole. Sizes are those of the graph that is returned, measured by the function that is given, and not estimates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from millijoule.errors import OptionError, QuantizationError
from millijoule.files import Progress
from millijoule.graph import WEIGHT_AXIS, Graph, simplify
from millijoule.graph.conversion import integer_graph
from millijoule.graph.headroom import with_headroom
from millijoule.quantize.bias_correction import correct_biases
from millijoule.quantize.compare import flash_bytes, real_values
from millijoule.quantize.decisions import Decision, QuantizationReport
from millijoule.quantize.dynamic import require_float
from millijoule.quantize.layerwise import Simulation, noise
from millijoule.quantize.mixed_search import Layers, MixedSearch, Point, SimulatedErrors
from millijoule.quantize.observers import Range
from millijoule.quantize.reconstruct import reconstruct
from millijoule.quantize.refine import few, reconstruction_decisions, tuned
from millijoule.quantize.sensitivity import decibels
from millijoule.quantize.static import calibrate, ranges_from
from millijoule.quantize.tune import TuneOptions

__all__ = ["MixedResult", "mixed"]

PARTS = ("adjust", "clip", "round")
"""How the chosen mixture is reconstructed."""

_TRIES = 6
"""Choices that are converted and measured until one keeps the budget."""

Pictures = npt.NDArray[np.uint8]

Cycles = Mapping[tuple[str, ...], int]
"""Cycles of one picture by the layers that are computed together, which have the names that the user knows; what
belongs to no layer stands under ()."""


@dataclass(frozen=True)
class MixedResult:
    """A network with 4 and 8 bits.

    Attributes:
        graph: the verified integer graph; its history holds the report (`report_of`).
        weight_bits: bits by layer, as `integer_graph` takes them, by the name the user knows.
        bytes: flash as measured.
        bytes_at_eight: flash of the same network with 8 bits everywhere.
        cycles: for one picture as measured; None without a budget of cycles.
        least_bytes: the smallest flash that 4 bits can give, before the network is reconstructed.
        sqnr: signal to noise of the logits on the held-back pictures, integer executor, dB.
        frontier: (bytes, dB in the simulation, layers with 4 bits) of all choices that no other one beats.
        report: every decision.
    """

    graph: Graph
    weight_bits: dict[str, int]
    bytes: int
    bytes_at_eight: int
    cycles: int | None
    least_bytes: int
    sqnr: float | None
    frontier: tuple[tuple[int, float | None, int], ...]
    report: QuantizationReport

    def to_json(self) -> dict[str, Any]:
        """Everything but the graph as plain values."""
        plain = {name: value for name, value in vars(self).items() if name not in ("graph", "report")}
        return {**plain, "report": self.report.to_json()}


def mixed(
    graph: Graph,
    calibration: Pictures,
    *,
    budget_bytes: int | None = None,
    budget_share: float | None = None,
    budget_cycles: int | None = None,
    size: Callable[[Graph], int] = flash_bytes,
    cycles: Callable[[Graph], Cycles] | None = None,
    refusals: Callable[[Graph], Mapping[str, str]] | None = None,
    observer: str = "mse",
    rounding: str = "single",
    held_back: int = 24,
    tune: TuneOptions | None = None,
    progress: Progress | None = None,
) -> MixedResult:
    """A float graph as an int8 graph whose layers have weights of 4 or 8 bits, within a budget.

    Args:
        graph: a float graph.
        calibration: uint8 (N, height, width, channels), at least 8 pictures. Every fourth is held back: the search
            measures the logits' noise on at most `held_back` of those. The others calibrate and fit.
        budget_bytes: most bytes of flash, in the unit of `size`.
        budget_share: the same in per cent of the network with 8 bits everywhere; the smaller of the two holds.
        budget_cycles: most cycles for one picture; weights of 4 bits take more cycles than those of 8.
        size: exact bytes of an integer graph; give the compiler's.
        cycles: measures an integer graph; needed with `budget_cycles`.
        refusals: by layer (the name the user knows): why 4 bits save nothing there, of the graph with 4 bits
            everywhere; these layers keep 8 bits.
        observer: a key of `OBSERVERS`.
        rounding: see `arithmetic.requantize`.
        held_back: pictures of the search.
        tune: how the mixture is fine-tuned as a whole at the end, on the pictures that are not held back; None
            leaves it out.
        progress: called at each step.

    Raises:
        OptionError: no budget; a budget of cycles without `cycles`.
        QuantizationError: fewer than 8 pictures, a budget that cannot be kept (says the least that is possible and
            names the layers that cannot have 4 bits), or as `static`.
    """
    if budget_bytes is None and budget_cycles is None and budget_share is None:
        raise OptionError("the budget", "there is none", "Give budget_bytes, budget_share or budget_cycles")
    if budget_cycles is not None and cycles is None:
        raise OptionError("budget_cycles", "nothing measures cycles", "Give a function that does")
    if len(calibration) < 8:
        raise QuantizationError("the calibration set", f"{len(calibration)} pictures are too few", "Give at least 8")
    network = _Network(graph, calibration, observer, rounding, progress)
    every = {node.output: node.source or node.output for node in network.graph.nodes if node.op in WEIGHT_AXIS}
    eight, four = (network.convert(dict.fromkeys(every, bits)) for bits in (8, 4))
    refused = dict(refusals(four)) if refusals is not None else {}
    for node in network.graph.nodes:
        if node.op == "depthwise_conv2d":
            refused.setdefault(every[node.output], "filters of depthwise convolutions take whole bytes in flash")
    layers, least = _layers(network, eight, every, refused, size, cycles if budget_cycles is not None else None)
    if budget_share is not None:
        part = int(layers.bytes_at_eight * budget_share / 100)
        budget_bytes = part if budget_bytes is None else min(part, budget_bytes)
    held = calibration[::4]
    held = held[np.linspace(0, len(held) - 1, min(held_back, len(held))).round().astype(np.int64)]
    simulation = Simulation(network.graph, {8: eight, 4: four}, np.ascontiguousarray(held))
    search = MixedSearch(SimulatedErrors(simulation), simulation.layers, layers, progress)

    def bits_of(four: Collection[str]) -> dict[str, int]:
        return {name: 4 if name in four else 8 for name in every}

    limit_bytes, limit_cycles = budget_bytes, budget_cycles
    if budget_bytes is not None:
        for _ in range(_TRIES):  # sizes of choices are estimates; the limit is moved by what they are wrong
            point = search.best(limit_bytes, limit_cycles)
            wrong = 0 if point is None else point.bytes - size(network.plain(bits_of(point.four)))
            if point is None or budget_bytes + wrong == limit_bytes:
                break
            limit_bytes = budget_bytes + wrong
    for _ in range(_TRIES):
        point = search.best(limit_bytes, limit_cycles)
        if point is None:
            raise _impossible(least, layers, budget_bytes, budget_cycles, refused)
        bits = bits_of(point.four)
        result, decisions = network.reconstructed(bits)
        measured = size(result)
        taken = sum(cycles(result).values()) if cycles is not None and budget_cycles is not None else None
        over = 0 if budget_bytes is None else measured - budget_bytes
        slow = 0 if budget_cycles is None or taken is None else taken - budget_cycles
        if over <= 0 and slow <= 0:
            break
        limit_bytes = point.bytes - max(over, 1) if over > 0 and limit_bytes is not None else limit_bytes
        if slow > 0 and point.cycles is not None:
            limit_cycles = point.cycles - slow
    else:
        raise _impossible(least, layers, budget_bytes, budget_cycles, refused)
    if tune is not None:
        result, decision = tuned(network.graph, result, network.fitted, tune, progress)
        decisions += (decision,)
        measured = size(result)
    chosen = _decisions(search, point, every, layers, refused)
    exact = _noise(simulation, result)
    names = {name: bits[node] for node, name in every.items()}
    report = QuantizationReport(
        {
            "quantisation": "mixed int4/int8 weights, int8 activations",
            "budget bytes": budget_bytes,
            "budget cycles": budget_cycles,
            "bytes": measured,
            "bytes with 8 bits": layers.bytes_at_eight,
            "observer": observer,
            "rounding": rounding,
            "calibration pictures": len(calibration),
        },
        ("empirical", *PARTS) if tune is None else ("empirical", *PARTS, "tune"),
        (*chosen, *decisions),
        held_back=len(held),
    )
    note = ",".join(name for name, wide in names.items() if wide == 4)
    noted = result.with_note(report.note()).with_note(
        f"mixed: {len(point.four)} of {len(every)} layers with 4 bits, {measured:,} bytes of "
        f"{layers.bytes_at_eight:,} with 8 bits, {observer} ranges of {len(calibration) - len(calibration[::4])} "
        f"pictures; 4 bits: {note or 'none'}"
    )
    frontier = tuple((p.bytes, decibels(p.error), len(p.four)) for p in search.frontier)
    return MixedResult(
        noted,
        names,
        measured,
        layers.bytes_at_eight,
        taken,
        least,
        decibels(exact),
        frontier,
        report,
    )


class _Network:
    """A simplified float graph and what calibration found."""

    def __init__(
        self, graph: Graph, calibration: Pictures, observer: str, rounding: str, progress: Progress | None
    ) -> None:
        self.graph = simplify(require_float(graph))
        self.fitted = np.ascontiguousarray(np.delete(calibration, np.s_[::4], axis=0))
        self.statistics = calibrate(self.graph, self.fitted, progress=progress)
        self.ranges = ranges_from(self.graph, self.statistics, observer)
        self.rounding, self.progress = rounding, progress

    def plain(self, bits: Mapping[str, int]) -> Graph:
        """Rounded to nearest."""

        def convert(ranges: Mapping[str, Range]) -> Graph:
            return integer_graph(self.graph, ranges, rounding=self.rounding, weight_bits=bits)

        return with_headroom(self.graph, self.ranges, convert)[0]

    def convert(self, bits: Mapping[str, int]) -> Graph:
        """Scales and rounding fitted layer by layer, biases corrected with the float network's means.

        So no layer makes up for the errors of others, which may be other ones in a mixture.
        """
        some = few(self.graph, self.fitted)
        result, _ = reconstruct(self.graph, self.plain(bits), some, parts=("clip", "round"), progress=self.progress)
        return correct_biases(self.graph, result, {name: seen.mean for name, seen in self.statistics.items()})

    def reconstructed(self, bits: Mapping[str, int]) -> tuple[Graph, tuple[Decision, ...]]:
        """The mixture, its layers fitted one after another to what they really read."""
        some = few(self.graph, self.fitted)
        result, changes = reconstruct(self.graph, self.plain(bits), some, parts=PARTS, progress=self.progress)
        return result, reconstruction_decisions(changes, PARTS)


def _layers(
    network: _Network,
    eight: Graph,
    every: Mapping[str, str],
    refused: Mapping[str, str],
    size: Callable[[Graph], int],
    cycles: Callable[[Graph], Cycles] | None,
) -> tuple[Layers, int]:
    """What 4 bits change by layer, and the bytes with 4 bits wherever they save any.

    Bytes: half a byte per weight; what the measured sizes of the two networks differ by besides (biases may be stored
    shorter) is shared out by the channels. Cycles: the difference measured between the two.
    """
    nodes = [node for node in network.graph.nodes if node.op in WEIGHT_AXIS]
    weights = {node.output: network.graph.tensor(node.inputs[1]).elements for node in nodes}
    saved = {name: weights[name] // 2 for name in every if every[name] not in refused and weights[name] > 1}
    four = network.plain({name: 4 if name in saved else 8 for name in every})
    bytes_at_eight, least = size(eight), size(four)
    channels = {node.output: network.graph.tensor(node.output).shape[-1] for node in nodes if node.output in saved}
    rest = bytes_at_eight - sum(saved.values()) - least
    shares = {name: rest * count // sum(channels.values()) for name, count in channels.items()}
    saved = {name: max(1, part + shares[name]) for name, part in saved.items()}
    if cycles is None:
        return Layers(saved, bytes_at_eight, {}), least
    before, after = cycles(eight), cycles(four)
    own, other = ({every[name]: part for name, part in saved.items()}, {name: key for key, name in every.items()})
    extra = dict.fromkeys(saved, 0.0)
    for sign, counts in ((-1, before), (1, after)):
        for group, count in counts.items():  # layers of one group share its cycles out by their weights
            whole = sum(own.get(name, 0) for name in group)
            for name in group:
                if name in own:
                    extra[other[name]] += sign * count * own[name] / whole
    taken = {name: round(count) for name, count in extra.items()}
    return Layers(saved, bytes_at_eight, taken, sum(before.values())), least


def _noise(simulation: Simulation, result: Graph) -> float:
    """Noise of the integer executor's logits on the simulation's pictures."""
    from millijoule import execute

    stored = execute.run(result, simulation.pictures, keep=(simulation.logits,))[simulation.logits]
    real = real_values(result, simulation.logits, stored)
    return noise(simulation.reference, real.reshape(simulation.reference.shape))


def _decisions(
    search: MixedSearch, point: Point, every: Mapping[str, str], layers: Layers, refused: Mapping[str, str]
) -> tuple[Decision, ...]:
    """For each layer its bits, and what the other choice would have done where the search tried it."""
    known = {other.four: other for other in search.points}
    decisions = []
    for layer, name in every.items():
        if name in refused:
            decisions.append(Decision(name, "bits", f"4 bits refused, stays at 8: {refused[name]}", None, False))
            continue
        bits, other = (4, 8) if layer in point.four else (8, 4)
        flipped = known.get(point.four ^ {layer})
        why = f"{bits} bits; {layers.saved.get(layer, 0):,} bytes {'saved' if bits == 4 else 'more'}"
        if flipped is not None and min(flipped.error, point.error) > 0.0:
            change = 10.0 * math.log10(point.error / flipped.error)
            why += f"; with {other} bits the logits would have {change:+.2f} dB signal to noise"
        decisions.append(Decision(name, "bits", why))
    return tuple(decisions)


def _impossible(
    smallest: int,
    layers: Layers,
    budget_bytes: int | None,
    budget_cycles: int | None,
    refused: Mapping[str, str],
) -> QuantizationError:
    wanted = [f"{budget_bytes:,} bytes"] if budget_bytes is not None else []
    wanted += [f"{budget_cycles:,} cycles"] if budget_cycles is not None else []
    least = f"the least possible is about {smallest:,} bytes (with 8 bits {layers.bytes_at_eight:,})"
    if layers.cycles_at_eight is not None:
        most = layers.cycles_at_eight + sum(layers.cycles.values())
        least += f"; with 8 bits everywhere it takes {layers.cycles_at_eight:,} cycles, in the smallest {most:,}"
        if budget_bytes is not None and budget_bytes >= smallest:
            least += f", within the bytes at least {_least_cycles(layers, budget_bytes):,}"
    for why in dict.fromkeys(refused.values()):
        least += f"; cannot have 4 bits: {', '.join(name for name in refused if refused[name] == why)} ({why})"
    return QuantizationError(
        f"the budget of {' and '.join(wanted)}", least, "Allow more, or use a smaller network or resolution"
    )


def _least_cycles(layers: Layers, budget_bytes: int) -> int:
    """Fewest cycles with which the bytes could be kept, were layers divisible: the cheapest per byte first."""
    missing, cycles = layers.bytes_at_eight - budget_bytes, float(layers.cycles_at_eight or 0)
    for name in sorted(layers.saved, key=lambda name: layers.cycles[name] / layers.saved[name]):
        share = min(1.0, max(0.0, missing / layers.saved[name]))
        cycles += (share if layers.cycles[name] > 0 else 1.0) * layers.cycles[name]
        missing -= layers.saved[name]
    return round(cycles)
