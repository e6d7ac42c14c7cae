"""Equalisation: channels of very different size are brought to one size, and shifted, without changing the network.

Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction" (arXiv:1906.04721), sections
4.1 and 4.1.3, carried over from pairs of layers to whole groups of tensors. Multiplying channel c of an activation by
s[c] and dividing the weights that read it by s[c] changes nothing in float; in 8 bits, where one scale serves all
channels, it decides how finely each channel is stored. The same holds for subtracting a constant from a channel and
adding what it gave to the bias of the layers that read it.

A group is the set of tensors that must be scaled together: what an addition adds and its sum (so that a whole residual
stream is one group), and what pooling and averaging read and give.

Clamps allow less. ReLU, (0, inf), commutes with positive factors. ReLU6, (0, 6), does not, and int8 graphs have one
clamp per tensor: a channel that reaches the clamp keeps its factor of 1, and a channel that stays below it on the
calibration pictures is scaled by no more than takes its largest value to the clamp. So no value that calibration saw
changes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from millijoule.graph import WEIGHT_AXIS, Graph, Node, verify

__all__ = ["ChannelStatistics", "Group", "channel_groups", "equalize", "scale_group", "shift_tensor", "shiftable"]

Float64 = npt.NDArray[np.float64]

_SAME_CHANNELS = ("add", "clamp", "pad", "avg_pool", "max_pool", "mean", "transpose")
"""Operators whose result has the channels of their inputs, each times the same factor."""

_LARGEST_FACTOR = 1024.0
"""Factors stay within this and its inverse: beyond, the weights of a channel that hardly matters set the scale."""

_MARGIN = 1.25
"""A clamped channel is scaled until its largest calibrated value is this far from the clamp: others will be larger."""

_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class ChannelStatistics:
    """What is known of each channel of a tensor, (C,) each.

    Attributes:
        low: smallest value.
        high: largest value.
        mean: mean value.
        square: mean square.
    """

    low: Float64
    high: Float64
    mean: Float64
    square: Float64


@dataclass(frozen=True)
class Group:
    """Tensors whose channels are scaled together.

    Attributes:
        tensors: their names, in the order in which they are written.
        writers: the layers with weights that write one of them.
        readers: the layers with weights that read one of them.
        clamps: (tensor, low, high) where the result is clamped to bounds that are neither 0 nor infinite.
    """

    tensors: tuple[str, ...]
    writers: tuple[Node, ...]
    readers: tuple[Node, ...]
    clamps: tuple[tuple[str, float, float], ...]


def channel_groups(graph: Graph) -> tuple[Group, ...]:
    """The groups of a simplified float graph that can be scaled; what touches an input, an output or an operator that
    mixes or fixes channels (softmax, normalize, reshape) cannot.
    """
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    fixed = {*graph.inputs, *graph.outputs}
    for node in graph.nodes:
        data = [name for name in node.inputs if name not in graph.constants]
        for name in (*data, node.output):
            root(name)
        if node.op in _SAME_CHANNELS:
            for name in data:
                parent[root(name)] = root(node.output)
        elif node.op not in WEIGHT_AXIS:
            fixed.update((*data, node.output))
    blocked = {root(name) for name in fixed}
    members: dict[str, list[str]] = {}
    for node in graph.nodes:
        if root(node.output) not in blocked:
            members.setdefault(root(node.output), []).append(node.output)
    groups = []
    for names in members.values():
        inside = set(names)
        writers = tuple(node for node in graph.nodes if node.op in WEIGHT_AXIS and node.output in inside)
        readers = tuple(node for node in graph.nodes if node.op in WEIGHT_AXIS and node.inputs[0] in inside)
        if readers and writers:
            groups.append(Group(tuple(names), writers, readers, tuple(_bounded(graph, inside))))
    return tuple(groups)


def _bounded(graph: Graph, names: set[str]) -> Iterable[tuple[str, float, float]]:
    for node in graph.nodes:
        clamp = node.attrs.get("clamp")
        if node.output in names and clamp is not None:
            low, high = (float(bound) for bound in clamp)
            if low not in (0.0, -math.inf) or high not in (0.0, math.inf):
                yield node.output, low, high


def scale_group(graph: Graph, group: Group, factors: Float64) -> Graph:
    """The graph with channel c of every tensor of the group multiplied by ``factors[c]``; its outputs stay the same.

    Exact up to the float32 rounding of the weights (exactly for powers of two), as long as no clamp of `group.clamps`
    acts on a scaled channel.

    Args:
        graph: a simplified float graph.
        group: one of its `channel_groups`.
        factors: (C,), positive.
    """
    constants = dict(graph.constants)
    for node in group.writers:
        shape = [1] * constants[node.inputs[1]].ndim
        shape[WEIGHT_AXIS[node.op]] = -1
        for name, factor in zip(node.inputs[1:], (factors.reshape(shape), factors), strict=False):
            constants[name] = (constants[name] * factor).astype(np.float32)
    for node in group.readers:
        weights = constants[node.inputs[1]]
        constants[node.inputs[1]] = (weights / factors).astype(np.float32)
    return verify(replace(graph, constants=constants))


def shiftable(graph: Graph, group: Group) -> bool:
    """Whether every channel of the group's tensors can be shifted: all are sums without clamps, and no layer that reads
    them pads (padding is 0, which a shifted channel does not mean).
    """
    names = set(group.tensors)
    for node in graph.nodes:
        if node.output in names and node.attrs.get("clamp") is not None:
            return False
        touches = node.inputs[0] in names or node.output in names
        padded = node.inputs[0] in names and any(node.attrs.get("padding", ()))
        if touches and (node.op in ("pad", "clamp") or padded):
            return False
    return all(len(node.inputs) == 3 for node in (*group.writers, *group.readers))


def shift_tensor(graph: Graph, name: str, shift: Float64) -> Graph:
    """The graph with ``shift[c]`` subtracted from channel c of what the layer that writes `name` gives.

    The layers that read it, or sums and averages of it, get what the constant gave them in their bias. Exact up to
    float32 rounding, if the tensor's group is `shiftable`.

    Args:
        graph: a simplified float graph.
        name: a tensor that a layer with weights and bias writes.
        shift: (C,).
    """
    constants = dict(graph.constants)
    writer = graph.producers()[name]
    constants[writer.inputs[2]] = (constants[writer.inputs[2]] - shift).astype(np.float32)
    moved = {name: 1.0}
    for node in graph.nodes:
        share = sum(moved.get(part, 0.0) for part in node.inputs)
        if share == 0.0:
            continue
        if node.op in WEIGHT_AXIS:
            weights, bias = constants[node.inputs[1]].astype(np.float64), constants[node.inputs[2]]
            taken = (weights * shift).sum(
                axis=(1, 2) if node.op == "depthwise_conv2d" else tuple(range(1, weights.ndim))
            )
            constants[node.inputs[2]] = (bias + share * taken.reshape(-1)).astype(np.float32)
        else:
            moved[node.output] = share
    return verify(replace(graph, constants=constants))


def equalize(
    graph: Graph, statistics: Mapping[str, ChannelStatistics], *, per_channel: bool = True, shift: bool = True
) -> tuple[Graph, tuple[tuple[str, str, float], ...]]:
    """The float graph with its channels brought to one size, for the least noise that 8 bits are expected to add.

    For each group some 25 sets of factors ``s = range^-a * column^b`` are compared (a, b from 0 to 1; a = b = 1/2 is
    the choice of Nagel et al. 2019, a = 1 fills the activation's range, b = 1 makes the columns of the readers' weights
    alike) by the noise that a uniform rounding error would add to the results of the readers, and the best set is
    applied where it is better than none.

    Args:
        graph: a simplified float graph.
        statistics: of every tensor of its groups, by name.
        per_channel: whether the weights will have one scale per output channel; otherwise one per layer.
        shift: whether channels may be shifted to mean 0 first (absorption of high biases, for tensors without clamps).

    Returns:
        The graph, and (tensor, what was done, gain) per change, the gain being how many dB less noise is expected.
    """
    notes = []
    known = dict(statistics)
    for group in channel_groups(graph):
        if shift and shiftable(graph, group):
            before = _noise(graph, group, known, np.ones(len(known[group.tensors[0]].low)), per_channel)
            shifted, moved = graph, known
            for writer in group.writers:
                amount = known[writer.output].mean
                shifted = shift_tensor(shifted, writer.output, amount)
                moved = _shifted(shifted, group, moved, writer.output, amount)
            after = _noise(shifted, group, moved, np.ones(len(known[group.tensors[0]].low)), per_channel)
            if after < before:
                graph, known = shifted, moved
                notes.append((group.tensors[-1], "shift", 10.0 * math.log10(before / after)))
        factors, gain = _factors(graph, group, known, per_channel)
        if gain > 0.0:
            graph = scale_group(graph, group, factors)
            notes.append((group.tensors[-1], "scale", gain))
            for name in group.tensors:
                seen = known[name]
                known[name] = ChannelStatistics(
                    seen.low * factors, seen.high * factors, seen.mean * factors, seen.square * factors**2
                )
    return graph, tuple(notes)


def _shifted(
    graph: Graph, group: Group, known: Mapping[str, ChannelStatistics], name: str, amount: Float64
) -> dict[str, ChannelStatistics]:
    """The statistics after `shift_tensor`."""
    result = dict(known)
    moved = {name: 1.0}
    for node in graph.nodes:
        if node.output in group.tensors and node.op not in WEIGHT_AXIS:
            share = sum(moved.get(part, 0.0) for part in node.inputs)
            if share:
                moved[node.output] = share
    for tensor, share in moved.items():
        seen, taken = result[tensor], share * amount
        square = seen.square - 2.0 * seen.mean * taken + taken**2
        result[tensor] = ChannelStatistics(
            seen.low - taken, seen.high - taken, seen.mean - taken, np.maximum(square, 0.0)
        )
    return result


def _factors(
    graph: Graph, group: Group, known: Mapping[str, ChannelStatistics], per_channel: bool
) -> tuple[Float64, float]:
    """The best factors and how many dB of noise they are expected to save."""
    spans = np.max([np.maximum(np.abs(known[name].high), np.abs(known[name].low)) for name in group.tensors], axis=0)
    columns = np.max([np.abs(_columns(graph, node)).max(axis=(0, 1)) for node in group.readers], axis=0)
    used = (spans > 0.0) & (columns > 0.0)
    if not used.any():
        return np.ones_like(spans), 0.0
    upper = np.full_like(spans, np.inf)
    free = used.copy()
    for name, _, high in group.clamps:
        reached = known[name].high >= high / _MARGIN
        upper = np.minimum(upper, np.where(known[name].high > 0.0, high / np.maximum(known[name].high, 1e-30), 1.0))
        free &= ~reached
        if any(low not in (0.0, -math.inf) for _, low, _ in group.clamps):
            return np.ones_like(spans), 0.0
    reference = float(max(spans[used].max(), 1e-30))
    middle = float(np.exp(np.log(columns[used]).mean()))
    best, chosen = _noise(graph, group, known, np.ones_like(spans), per_channel), np.ones_like(spans)
    first = best
    for a in _SHARES:
        for b in _SHARES:
            with np.errstate(divide="ignore"):
                factors = (reference / spans) ** a * (columns / middle) ** b
            factors = np.minimum(np.clip(factors, 1.0 / _LARGEST_FACTOR, _LARGEST_FACTOR), upper / _MARGIN)
            factors = np.where(free, factors, 1.0)
            noise = _noise(graph, group, known, factors, per_channel)
            if noise < best:
                best, chosen = noise, factors
    return chosen, 10.0 * math.log10(first / best) if best > 0.0 else 0.0


def _columns(graph: Graph, node: Node) -> Float64:
    """A reader's weights as (O, taps, C); depthwise: (1, taps, C)."""
    weights = graph.constant(node.inputs[1]).astype(np.float64)
    return weights.reshape(weights.shape[0], -1, weights.shape[-1])


def _rows(graph: Graph, node: Node) -> Float64:
    """A writer's weights as (C, everything else)."""
    weights = graph.constant(node.inputs[1]).astype(np.float64)
    return np.moveaxis(weights, WEIGHT_AXIS[node.op], 0).reshape(weights.shape[WEIGHT_AXIS[node.op]], -1)


def _noise(
    graph: Graph, group: Group, known: Mapping[str, ChannelStatistics], factors: Float64, per_channel: bool
) -> float:
    """Expected noise in the readers' results, relative to their signal, if the group is scaled by `factors`.

    Rounding with step d adds d^2 / 12 to each value. Activations: d is the widest channel's range / 255. Weights: d is
    the largest weight of the row (per layer: of all rows) / 127, and the error is multiplied by what the weight reads.
    """
    energy: Any = 0.0
    total = 0.0
    for node in group.readers:
        seen = known[node.inputs[0]]
        columns = _columns(graph, node)
        signal = (np.square(columns) * np.maximum(seen.square, 1e-12)).sum(axis=(0, 1))
        scaled = np.abs(columns) / factors
        square = seen.square * factors**2
        taps = columns.shape[1]
        if node.op == "depthwise_conv2d":
            # each channel is a result of its own
            power = np.maximum(signal, 1e-9 * signal.max())
            energy = energy + np.square(columns).sum(axis=(0, 1)) / power / len(power)
            if not per_channel:
                total += float((np.square(scaled.max() / 127.0) / 12.0 * taps * square / power).mean())
            continue
        power = float(signal.sum())
        energy = energy + np.square(columns).sum(axis=(0, 1)) / power
        largest = scaled.max(axis=(1, 2)) if per_channel else np.full(len(columns), scaled.max())
        total += float(np.square(largest / 127.0).sum() / 12.0 * taps * square.sum() / power)
    for name in group.tensors:
        seen = known[name]
        width = max(float((seen.high * factors).max()), 0.0) - min(float((seen.low * factors).min()), 0.0)
        total += float((np.square(width / 255.0) / 12.0 * energy / factors**2).sum())
    if not per_channel:
        for node in group.writers:
            rows = np.abs(_rows(graph, node)) * factors[:, None]
            source = known.get(node.inputs[0])
            read = _mean_square(source, node, rows.shape[1])
            total += float((np.square(rows.max() / 127.0) / 12.0 * read * energy / factors**2).sum())
    return total


def _mean_square(source: ChannelStatistics | None, node: Node, taps: int) -> Any:
    """The sum of the squares of what one result of a layer reads."""
    if source is None:
        return float(taps)
    if node.op == "depthwise_conv2d":
        return taps * source.square
    return float(source.square.mean()) * taps
