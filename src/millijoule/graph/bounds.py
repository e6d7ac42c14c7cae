"""Which values the numbers of an integer network can take, whatever the picture shows.

Interval arithmetic over stored integers, channel by channel: a picture byte goes through the table of `normalize`, a
sum of products is smallest when every tap holds whichever end of its range makes its product smallest, and
requantisation keeps order. Within one layer the bounds are exact: when every element of the input may take every value
of its channel's range, both ends are reached at some pixel of the result. Between layers they are safe, because
elements are treated as independent (R. E. Moore, Interval Analysis, 1966).

Taps of a padded window that lie outside the map read the zero point. Which taps lie outside at the same time follows
from the pixel, so every arrangement of the window that occurs is looked at, no other.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from millijoule.errors import GraphError, UnsupportedError
from millijoule.graph import arithmetic
from millijoule.graph.graph import Graph, Node, mode
from millijoule.graph.tensor import INT8_MAX, INT8_MIN
from millijoule.graph.verify import WEIGHT_AXIS

__all__ = [
    "Bounds",
    "accumulator_bounds",
    "check_overflow",
    "constant_channels",
    "folded_bias",
    "output_bounds",
    "stored_bounds",
    "window_patterns",
]

Int64 = npt.NDArray[np.int64]
Bounds = tuple[Int64, Int64]
"""Smallest and largest value, one of each per channel (per feature of a flat tensor)."""

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1


def accumulator_bounds(graph: Graph, node: Node, stored: Mapping[str, Bounds] | None = None) -> Bounds:
    """The smallest and the largest sum of each output channel of an integer layer, as the kernels see it.

    The sum is ``bias - zero_x * sum(w) + sum(w * x)`` over the taps of a window, x the stored values; it equals
    ``bias + sum(w * (x - zero_x))``.

    Args:
        graph: a verified graph.
        node: its conv2d, depthwise_conv2d or dense of int8 data.
        stored: from `stored_bounds`, for callers that ask for many layers; computed when not given.

    Returns:
        Two int64 arrays, one value per output channel.

    Raises:
        UnsupportedError: another operator, or another arithmetic.
    """
    _require_integer_layer(graph, node)
    low, high = _inputs(graph, node, stored)
    weights, zero = _channels_first(graph, node), graph.quant(node.inputs[0]).scalar_zero_point
    bias = folded_bias(graph, node)
    if node.op == "dense":
        lowest, highest = _tap_bounds(weights, low, high)
        return bias + lowest, bias + highest
    if node.op == "conv2d":
        lowest, highest = _tap_bounds(weights, low, high)
        outside = zero * weights.sum(axis=-1)
    else:
        lowest, highest = _tap_bounds(weights[..., None], low[:, None, None, None], high[:, None, None, None])
        outside = zero * weights
    rows, columns = window_patterns(graph, node)
    base = (bias + outside.sum(axis=(1, 2)))[:, None, None]
    smallest = base + np.matmul(rows, lowest - outside) @ columns.T
    largest = base + np.matmul(rows, highest - outside) @ columns.T
    return smallest.min(axis=(1, 2)), largest.max(axis=(1, 2))


def output_bounds(graph: Graph, node: Node, stored: Mapping[str, Bounds] | None = None) -> Bounds:
    """The smallest and the largest ``requantize(sum) + zero_y`` of each output channel, before it is clamped.

    Channels whose 32-bit arithmetic could wrap around get the ends of the 32-bit range.

    Args:
        graph: a verified graph.
        node: its conv2d, depthwise_conv2d or dense of int8 data.
        stored: as for `accumulator_bounds`.

    Raises:
        UnsupportedError: another operator, or another arithmetic.
    """
    low, high = accumulator_bounds(graph, node, stored)
    data, result = graph.quant(node.inputs[0]), graph.quant(node.output)
    scales = np.asarray(graph.quant(node.inputs[1]).scale, dtype=np.float64)
    reals = np.broadcast_to(data.scalar_scale * scales / result.scalar_scale, low.shape)
    multiplier, shift = arithmetic.multipliers(reals, graph.rounding)
    wraps = _wraps(low, high, reals)
    ends = [np.where(wraps, 0, end) for end in (low, high)]
    values = [arithmetic.requantize(end, multiplier, shift, graph.rounding).astype(np.int64) for end in ends]
    zero = result.scalar_zero_point
    return np.where(wraps, INT32_MIN, values[0] + zero), np.where(wraps, INT32_MAX, values[1] + zero)


def constant_channels(graph: Graph, node: Node, stored: Mapping[str, Bounds] | None = None) -> dict[int, int]:
    """The channels of an int8 result that hold the same value in every pixel of every picture.

    Args:
        graph: a verified graph.
        node: a node with an int8 result.
        stored: from `stored_bounds`; computed when not given.

    Returns:
        Channel -> stored value.

    Raises:
        UnsupportedError: the result is not int8.
    """
    if graph.tensor(node.output).dtype != "int8":
        raise UnsupportedError(_layer(node), "its result is not int8", "Ask for layers of an integer network")
    low, high = (stored_bounds(graph, node.output) if stored is None else stored)[node.output]
    return {int(channel): int(low[channel]) for channel in np.flatnonzero(low == high)}


def check_overflow(graph: Graph, stored: Mapping[str, Bounds] | None = None) -> None:
    """Refuses a layer whose sum could leave 32 bits on the way, in whatever order its taps are added.

    Args:
        graph: any graph; layers that are not integer are passed over.
        stored: from `stored_bounds`; computed when not given.

    Raises:
        GraphError: names the layer, the channel and the value it could reach.
    """
    stored = stored_bounds(graph) if stored is None else stored
    for node in graph.nodes:
        if node.op not in WEIGHT_AXIS or mode(graph, node) != "integer":
            continue
        low, high = _inputs(graph, node, stored)
        zero = graph.quant(node.inputs[0]).scalar_zero_point if any(node.attrs.get("padding", ())) else 0
        # With zero in every range no product is left out only because another is there: the worst of all partial sums.
        low, high = np.minimum(low, min(zero, 0)), np.maximum(high, max(zero, 0))
        weights, bias = _channels_first(graph, node), folded_bias(graph, node)
        if node.op == "depthwise_conv2d":
            weights, low, high = weights[..., None], low[:, None, None, None], high[:, None, None, None]
        lowest, highest = _tap_bounds(weights, low, high)
        count = len(bias)
        reach = np.stack(
            [bias + lowest.reshape(count, -1).sum(axis=1), bias + highest.reshape(count, -1).sum(axis=1), bias]
        )
        if node.inputs[2:]:
            reach = np.concatenate([reach, graph.constant(node.inputs[2]).astype(np.int64)[None]])
        outside = np.maximum(reach - INT32_MAX, INT32_MIN - reach)
        if outside.max() <= 0:
            continue
        row, channel = np.unravel_index(int(outside.argmax()), outside.shape)
        raise GraphError(
            _layer(node),
            f"the sum of output channel {channel} could reach {reach[row, channel]}, beyond 32 bits",
            "Widen this channel's weight scale, or split the layer",
        )


def folded_bias(graph: Graph, node: Node) -> Int64:
    """``bias - zero_x * sum(w)`` of each output channel, int64: where the kernels' sums begin."""
    weights = _channels_first(graph, node)
    sums: Int64 = weights.reshape(len(weights), -1).sum(axis=1)
    sums = -graph.quant(node.inputs[0]).scalar_zero_point * sums
    return sums + graph.constant(node.inputs[2]).astype(np.int64) if len(node.inputs) == 3 else sums


def window_patterns(graph: Graph, node: Node) -> tuple[Int64, Int64]:
    """Which rows and which columns of a window lie inside the map, for every arrangement that occurs.

    Returns:
        Two arrays of 0 and 1: (arrangements, kernel height) and (arrangements, kernel width). A pixel's taps are one
        row of the first times one row of the second, and every combination occurs.
    """
    attrs, result = node.attrs, graph.tensor(node.output).shape
    data = graph.tensor(node.inputs[0]).shape
    kernel = attrs["kernel"] if "kernel" in attrs else graph.tensor(node.inputs[1]).shape[1:3]
    dilation, before = attrs.get("dilation", (1, 1)), attrs["padding"][::2]
    masks = []
    for axis in (0, 1):
        start = np.arange(result[axis + 1]) * attrs["stride"][axis] - before[axis]
        place = start[:, None] + np.arange(kernel[axis]) * dilation[axis]
        masks.append(np.unique((place >= 0) & (place < data[axis + 1]), axis=0).astype(np.int64))
    return masks[0], masks[1]


# *** every tensor *****


def stored_bounds(graph: Graph, until: str | None = None) -> dict[str, Bounds]:
    """The smallest and the largest stored value of every channel of every int8 tensor that the network computes.

    Args:
        graph: a verified graph.
        until: stop when the bounds of this tensor are known.

    Returns:
        Tensor name -> bounds, int64, one value per element of the tensor's last dimension.
    """
    stored: dict[str, Bounds] = {}
    for name in graph.inputs:
        if graph.tensor(name).dtype == "int8":
            stored[name] = _full(graph, name, INT8_MIN, INT8_MAX)
    for node in graph.nodes:
        if until in stored:
            break
        if graph.tensor(node.output).dtype == "int8":
            stored[node.output] = _node_bounds(graph, node, stored)
    return stored


def _node_bounds(graph: Graph, node: Node, stored: Mapping[str, Bounds]) -> Bounds:
    """Bounds of one node's int8 result."""
    low, high = arithmetic.clamp_bounds(node.attrs.get("clamp"), graph.quant(node.output))
    if low > INT8_MAX:  # a clamp that int8 cannot hold
        return _full(graph, node.output, INT8_MIN, INT8_MAX)
    if node.op in WEIGHT_AXIS:
        found = output_bounds(graph, node, stored)
    elif node.op == "normalize":
        table = arithmetic.normalize_table(
            tuple(node.attrs["scale"]), tuple(node.attrs["offset"]), graph.quant(node.output)
        ).astype(np.int64)
        channels = graph.tensor(node.output).shape[-1:]
        found = np.broadcast_to(table.min(axis=1), channels), np.broadcast_to(table.max(axis=1), channels)
    elif node.op == "add":
        found = _add(graph, node, stored)
    elif node.op == "mean":
        found = _mean(graph, node, stored)
    elif node.op == "reshape":
        found = _reshape(graph, node, stored)
    elif node.op in ("max_pool", "avg_pool"):
        # Without a single tap inside the map a window has no value of the input to stand for it.
        empty = any((~mask.any(axis=1)).any() for mask in window_patterns(graph, node))
        found = _full(graph, node.output, INT8_MIN, INT8_MAX) if empty else stored[node.inputs[0]]
    elif node.op == "pad":
        found = stored[node.inputs[0]]
        if any(node.attrs["padding"]):
            zero = graph.quant(node.output).scalar_zero_point
            found = np.minimum(found[0], zero), np.maximum(found[1], zero)
    elif node.op in ("clamp", "transpose"):
        found = stored[node.inputs[0]]
    else:
        found = _full(graph, node.output, INT8_MIN, INT8_MAX)
    return np.clip(found[0], low, high), np.clip(found[1], low, high)


def _add(graph: Graph, node: Node, stored: Mapping[str, Bounds]) -> Bounds:
    quants = [graph.quant(name) for name in (*node.inputs, node.output)]
    plan = arithmetic.add_plan(quants[0], quants[1], quants[2], graph.rounding)
    bounds = arithmetic.clamp_bounds(node.attrs.get("clamp"), quants[2])
    step = 2.0 * max(quants[0].scalar_scale, quants[1].scalar_scale)
    real = step / ((1 << arithmetic.ADD_LEFT_SHIFT) * quants[2].scalar_scale)
    reach = np.array([256 << arithmetic.ADD_LEFT_SHIFT])
    if _wraps(-reach, reach, np.array([real]))[0]:
        return _full(graph, node.output, *bounds)
    zeros = (quants[0].scalar_zero_point, quants[1].scalar_zero_point, quants[2].scalar_zero_point)
    ends = []
    for end in (0, 1):
        left, right = (stored[name][end].astype(np.int8) for name in node.inputs)
        ends.append(arithmetic.add_int8(left, right, zeros, plan, bounds, graph.rounding).astype(np.int64))
    return ends[0], ends[1]


def _mean(graph: Graph, node: Node, stored: Mapping[str, Bounds]) -> Bounds:
    data, result = graph.quant(node.inputs[0]), graph.quant(node.output)
    shape = graph.tensor(node.inputs[0]).shape
    count = shape[1] * shape[2]
    multiplier, shift = arithmetic.mean_multiplier(data, result, count, graph.rounding)
    low, high = (count * (end - data.scalar_zero_point) for end in stored[node.inputs[0]])
    wraps = _wraps(low, high, np.full(low.shape, data.scalar_scale / result.scalar_scale / count))
    ends = []
    for end, widest in ((low, INT8_MIN), (high, INT8_MAX)):
        value = arithmetic.requantize(np.where(wraps, 0, end), multiplier, shift, graph.rounding).astype(np.int64)
        ends.append(np.where(wraps, widest, value + result.scalar_zero_point))
    return ends[0], ends[1]


def _reshape(graph: Graph, node: Node, stored: Mapping[str, Bounds]) -> Bounds:
    before, after = graph.tensor(node.inputs[0]).shape, graph.tensor(node.output).shape
    low, high = (np.broadcast_to(end, before).reshape(-1, after[-1]) for end in stored[node.inputs[0]])
    return low.min(axis=0), high.max(axis=0)


# *** parts *****


def _layer(node: Node) -> str:
    return f"layer {node.source or node.output!r} ({node.op})"


def _require_integer_layer(graph: Graph, node: Node) -> None:
    if node.op not in WEIGHT_AXIS or mode(graph, node) != "integer":
        raise UnsupportedError(
            _layer(node), "it has no 32-bit sums of int8 products", "Ask for integer convolutions and dense layers"
        )


def _inputs(graph: Graph, node: Node, stored: Mapping[str, Bounds] | None) -> Bounds:
    name = node.inputs[0]
    return (stored_bounds(graph, name) if stored is None else stored)[name]


def _full(graph: Graph, name: str, low: int, high: int) -> Bounds:
    channels = graph.tensor(name).shape[-1]
    return np.full(channels, low, dtype=np.int64), np.full(channels, high, dtype=np.int64)


def _channels_first(graph: Graph, node: Node) -> Int64:
    """The weights as int64 with the output channel as first dimension; depthwise: (channels, height, width)."""
    weights = np.moveaxis(graph.constant(node.inputs[1]).astype(np.int64), WEIGHT_AXIS[node.op], 0)
    return weights[:, 0] if node.op == "depthwise_conv2d" else weights


def _tap_bounds(weights: Int64, low: Int64, high: Int64) -> Bounds:
    """Smallest and largest sum of w * x over the last dimension, x between `low` and `high`."""
    first, second = weights * low, weights * high
    lowest: Int64 = np.minimum(first, second).sum(axis=-1)
    highest: Int64 = np.maximum(first, second).sum(axis=-1)
    return lowest, highest


def _wraps(low: Int64, high: Int64, reals: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Where requantising sums between `low` and `high` could wrap around 32 bits, and so lose their order.

    A left shift makes a sum at most four times its product with `reals`, because it leaves multipliers of at least
    2**29 ("mulhi": 2**30) and a bit; every other number on the way is smaller.
    """
    reach = np.maximum(np.abs(low), np.abs(high)).astype(np.float64)
    wraps: npt.NDArray[np.bool_] = reach * np.maximum(8.0 * reals, 1.0) >= 2.0**31
    return wraps
