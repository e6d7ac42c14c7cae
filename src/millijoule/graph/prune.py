"""Channels that carry no information are removed from an integer network, without a change of any result.

Two kinds of channels can go. A channel is constant when it holds the same stored value in every pixel of every picture
(all weights of its filter are zero, or its clamp never lets go). A channel is dead when every weight that reads it is
zero. What a constant channel adds to the sums of the next layer is a number, which moves into that layer's bias.

The pass looks at stretches of the network that begin with a convolution or dense layer, whose filters can go, and end
with the next one, which mixes its input channels. Between them lie only layers that keep channels apart: depthwise
convolutions, pooling, padding, clamps, transposes, global averages, and reshapes that keep the channels in order. No
tensor in between may have another reader or be an output of the network.

Where the window of the last layer hangs over the edge, its outer taps read the zero point instead of the constant, so
the sum of a channel differs from pixel to pixel; such a channel stays, unless its constant is the zero point or its
taps inside the map add up to the same number everywhere. The same holds for depthwise convolutions in between: they
make a constant of a constant only where `stored_bounds` proves it.

Folding cannot leave 32 bits: `verify` keeps ``abs(bias) + 256 * sum(abs(w))`` of every output channel below 2**31, and
what moves into the bias is at most 255 times the absolute weights that go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from millijoule.errors import OptionError
from millijoule.graph.bounds import Bounds, stored_bounds, window_patterns
from millijoule.graph.graph import Graph, Node, mode
from millijoule.graph.operators import macs
from millijoule.graph.tensor import Quant, Tensor
from millijoule.graph.verify import WEIGHT_AXIS, verify

__all__ = ["Removed", "prune"]

Int64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

MIXES = ("conv2d", "dense")
"""Operators whose every result reads every channel."""
KEEPS_APART = ("depthwise_conv2d", "max_pool", "avg_pool", "pad", "clamp", "transpose", "mean", "reshape")
"""Operators whose channel c reads channel c only."""


@dataclass(frozen=True)
class Removed:
    """What went with some channels of one layer.

    Attributes:
        layer: the layer whose filters were removed.
        channels: its removed output channels, numbered as before.
        bytes: weights and biases that went, here and in the layers behind that read these channels.
        macs: multiply-accumulate operations per picture that went, here and there.
    """

    layer: str
    channels: tuple[int, ...]
    bytes: int
    macs: int


@dataclass(frozen=True)
class _Stretch:
    """From one mixing layer to the next.

    Attributes:
        first: the layer that makes the channels.
        between: layers that keep them apart, in order.
        last: the layer that mixes them.
        owners: for `first` and each node of `between`, which channel of `first` each channel of its result stems from.
    """

    first: Node
    between: tuple[Node, ...]
    last: Node
    owners: tuple[Int64, ...]


def prune(graph: Graph, *, multiple: int = 1) -> tuple[Graph, tuple[Removed, ...]]:
    """The same network without dead and constant channels: smaller, faster, and equal bit for bit.

    Every layer keeps its name, every tensor too; a layer without a bias gets one where a constant has to be folded. A
    layer keeps at least one channel. Float and dynamic layers are left alone.

    Args:
        graph: a simplified graph.
        multiple: a layer that loses channels keeps a multiple of so many, because kernels that read whole words are
            slower with an odd number of channels than with a few more.

    Returns:
        The graph, verified, and what was removed, in the order of the layers. Nothing removed: the graph itself.

    Raises:
        GraphError: the graph breaks a rule.
        OptionError: `multiple` is below 1.
    """
    if multiple < 1:
        raise OptionError("multiple", f"{multiple} is below 1", "Keep a multiple of 1, 2 or 4 channels")
    verify(graph)
    stored = stored_bounds(graph)
    numbers: dict[str, Int64] = {}
    removed: dict[str, Removed] = {}
    pruned, changed = graph, True
    while changed:
        changed = False
        # Backwards: a filter that goes may leave the channels before it without a reader.
        for index in reversed(range(len(pruned.nodes))):
            stretch = _stretch(pruned, pruned.nodes[index])
            if stretch is None:
                continue
            gone, sums = _useless(pruned, stretch, stored, multiple)
            if not gone.any():
                continue
            smaller = _without(pruned, stretch, gone, sums)
            for node, owners in zip((stretch.first, *stretch.between), stretch.owners, strict=True):
                low, high = stored[node.output]
                stored[node.output] = low[~gone[owners]], high[~gone[owners]]
            name = stretch.first.output
            known = numbers.get(name, np.arange(len(gone)))
            numbers[name] = known[~gone]
            removed[name] = _account(pruned, smaller, stretch, known[gone], removed.get(name))
            pruned, changed = smaller, True
    if not removed:
        return graph, ()
    found = tuple(removed[node.output] for node in graph.nodes if node.output in removed)
    count, layers = sum(len(item.channels) for item in found), len(found)
    note = f"prune: {count} constant or dead channels of {layers} layers, {sum(item.bytes for item in found)} bytes"
    return verify(pruned.without_unused().with_note(note)), found


# *** what can go *****


def _stretch(graph: Graph, first: Node) -> _Stretch | None:
    """The stretch that begins with a node, None when there is none."""
    if not _integer(graph, first, MIXES):
        return None
    readers = graph.consumers()
    owners = [np.arange(graph.tensor(first.output).shape[-1])]
    between: list[Node] = []
    name = first.output
    while name not in graph.outputs and len(readers[name]) == 1:
        node = readers[name][0]
        if node.inputs.count(name) != 1 or node.inputs[0] != name:
            return None
        if _integer(graph, node, MIXES):
            return _Stretch(first, tuple(between), node, tuple(owners))
        if not _integer(graph, node, KEEPS_APART):
            return None
        kept = _reshaped(graph, node, owners[-1]) if node.op == "reshape" else owners[-1]
        if kept is None:
            return None
        owners.append(kept)
        between.append(node)
        name = node.output
    return None


def _integer(graph: Graph, node: Node, operators: Sequence[str]) -> bool:
    return (
        node.op in operators
        and mode(graph, node) == "integer"
        and graph.tensor(node.inputs[0]).dtype == graph.tensor(node.output).dtype == "int8"
    )


def _reshaped(graph: Graph, node: Node, owners: Int64) -> Int64 | None:
    """The owner of each element of a reshape's last dimension; None where it has several."""
    before, after = graph.tensor(node.inputs[0]).shape, graph.tensor(node.output).shape
    rows = np.broadcast_to(owners, before).reshape(-1, after[-1])
    return rows[0] if (rows == rows[0]).all() else None


def _useless(graph: Graph, stretch: _Stretch, stored: Mapping[str, Bounds], multiple: int) -> tuple[Mask, Int64]:
    """Which channels of the first layer can go, and what they add to each sum of the last one."""
    node, owners = stretch.last, stretch.owners[-1]
    zero = graph.quant(node.inputs[0]).scalar_zero_point
    low, high = stored[node.inputs[0]]
    weights = graph.constant(node.inputs[1]).astype(np.int64)
    if node.op == "dense":
        weights = weights[:, None, None, :]
    unread = ~weights.any(axis=(0, 1, 2))
    quiet = (low == high) | unread
    count = len(stretch.owners[0])
    gone = np.bincount(owners, quiet, count) == np.bincount(owners, minlength=count)
    value = np.where(unread, zero, low) - zero
    masks = window_patterns(graph, node) if node.op == "conv2d" else (np.ones((1, 1), np.int64),) * 2
    folded: dict[int, Int64] = {}
    for channel in map(int, np.flatnonzero(gone)):
        own = owners == channel
        taps = (weights[..., own] * value[own]).sum(axis=-1)
        sums = np.matmul(masks[0], taps) @ masks[1].T
        if (sums == sums[:, :1, :1]).all():
            folded[channel] = sums[:, 0, 0]
    stay = min(count, -(-max(count - len(folded), 1) // multiple) * multiple)
    chosen = list(folded)[: count - stay]
    gone[:] = False
    gone[chosen] = True
    total = np.zeros(len(weights), dtype=np.int64)
    for channel in chosen:
        total += folded[channel]
    return gone, total


# *** the smaller network *****


def _without(graph: Graph, stretch: _Stretch, gone: Mask, sums: Int64) -> Graph:
    """The graph without some channels of the first layer; `sums` move into the bias of the last one."""
    readers, change = graph.consumers(), _Change(graph)
    nodes: dict[int, Node] = {}
    for node, owners in zip((stretch.first, *stretch.between), stretch.owners, strict=True):
        kept = ~gone[owners]
        inputs = list(node.inputs)
        if node.op in WEIGHT_AXIS:
            axes = (WEIGHT_AXIS[node.op], 0)
            for place, (name, axis) in enumerate(zip(node.inputs[1:], axes, strict=False), 1):
                quant = _sliced(graph.tensor(name).quant, axis, kept)
                value = np.compress(kept, graph.constant(name), axis)
                inputs[place] = change.store(name, value, quant, len(readers[name]) > 1)
        result = graph.tensor(node.output)
        shape = (*result.shape[:-1], int(kept.sum()))
        change.tensors[node.output] = replace(result, shape=shape)
        attrs = {**node.attrs, "shape": shape} if node.op == "reshape" else node.attrs
        nodes[id(node)] = replace(node, inputs=tuple(inputs), attrs=attrs)
    last, kept = stretch.last, ~gone[stretch.owners[-1]]
    weights, *bias = last.inputs[1:]
    value = np.compress(kept, graph.constant(weights), -1)
    inputs = [last.inputs[0], change.store(weights, value, graph.tensor(weights).quant, len(readers[weights]) > 1)]
    if bias:
        folded = graph.constant(bias[0]) + sums
        quant = graph.tensor(bias[0]).quant
        inputs.append(change.store(bias[0], folded.astype(np.int32), quant, len(readers[bias[0]]) > 1))
    elif sums.any():
        name = f"{last.source or last.output}.bias"
        inputs.append(change.store(name, sums.astype(np.int32), _bias_quant(graph, last), name in graph.tensors))
    nodes[id(last)] = replace(last, inputs=tuple(inputs))
    changed = tuple(nodes.get(id(node), node) for node in graph.nodes)
    return replace(graph, nodes=changed, tensors=change.tensors, constants=change.constants)


class _Change:
    """The tensors and constants of the new graph."""

    def __init__(self, graph: Graph) -> None:
        self.tensors, self.constants = dict(graph.tensors), dict(graph.constants)

    def store(self, name: str, value: npt.NDArray[np.integer], quant: Quant | None, taken: bool) -> str:
        """Puts a constant there, under a new name where its own is taken, and returns the name."""
        stem, count = name, 1
        while taken and name in self.tensors:
            count += 1
            name = f"{stem}_{count}"
        self.tensors[name] = Tensor(name, value.shape, value.dtype.name, quant)
        self.constants[name] = np.ascontiguousarray(value)
        return name


def _sliced(quant: Quant | None, axis: int, kept: Mask) -> Quant | None:
    """The scales that are left when slices along `axis` go."""
    if quant is None or quant.axis != axis:
        return quant
    pairs = [pair for pair, keep in zip(zip(quant.scale, quant.zero_point, strict=True), kept, strict=True) if keep]
    return replace(quant, scale=tuple(pair[0] for pair in pairs), zero_point=tuple(pair[1] for pair in pairs))


def _bias_quant(graph: Graph, node: Node) -> Quant:
    """The quantisation of a layer's bias: ``s_x * s_w``, zero point 0."""
    weights = graph.quant(node.inputs[1])
    scales = graph.quant(node.inputs[0]).scalar_scale * np.asarray(weights.scale)
    return Quant.per_tensor(float(scales[0])) if weights.axis is None else Quant.per_channel(scales, 0)


def _account(before: Graph, after: Graph, stretch: _Stretch, channels: Int64, earlier: Removed | None) -> Removed:
    """What went, together with what went of the same layer before."""
    nodes = (stretch.first, *stretch.between, stretch.last)
    places = [index for index, node in enumerate(before.nodes) if any(node is item for item in nodes)]
    work = sum(macs(before, before.nodes[index]) - macs(after, after.nodes[index]) for index in places)
    size = sum(_constant_bytes(before, before.nodes[index]) for index in places)
    for index in places:
        size -= _constant_bytes(after, after.nodes[index], len(before.nodes[index].inputs))
    numbers = tuple(int(channel) for channel in channels)
    name = stretch.first.source or stretch.first.output
    if earlier is None:
        return Removed(name, numbers, size, work)
    return Removed(name, tuple(sorted((*earlier.channels, *numbers))), earlier.bytes + size, earlier.macs + work)


def _constant_bytes(graph: Graph, node: Node, inputs: int = 3) -> int:
    return sum(graph.tensor(name).bytes for name in node.inputs[1:inputs] if name in graph.constants)
