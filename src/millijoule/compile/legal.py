"""Which convolutions the row kernels may compute: decided from their weights, biases and scales, for every input.

The row kernels keep two channels in one word and round in one instruction (`mj_rows.h`); that is exact within limits
which nearly every layer keeps by a wide margin. What is outside falls back to kernels that have no such limits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from millijoule.graph import Graph, Node, arithmetic, mode
from millijoule.graph.bounds import Bounds, accumulator_bounds, folded_bias, stored_bounds

__all__ = ["RowNumbers", "dense_by_lanes", "refusal", "row_layers", "row_numbers", "row_sums"]

PRODUCT_LIMIT = 1 << 23
"""Sums of a product lie in [-2^23, 2^23): two of them share a word."""
SHIFTS = {"single": (-23, -2), "double": (-31, 0), "mulhi": (0, 0)}
"""Shifts that the row kernels know, by rounding rule."""
DOUBLED_LIMIT = 1 << 30
"""Sums of a depthwise convolution with rule double lie in [-2^30, 2^30): they are doubled."""
DOUBLED_SHIFTS = (-22, -1)
"""Shifts of a depthwise convolution with rule double: half a unit and the zero point come in one addend."""
MOST_UP = 3
"""Weights of 4 bits times two to this power are bytes, -128 not among them."""
CONSTANT_SCALE = 2.0**-10
"""What the sum of a channel without weights is multiplied by; any number by which every rule multiplies exactly."""


@dataclass(frozen=True)
class RowNumbers:
    """What a channel's sum begins with and how it is requantised.

    Attributes:
        bias: folded bias, int64, one per output channel.
        multiplier: int32.
        shift: int8.
        constant: bool, the channels without weights.
        up: the row kernels multiply by the weights times 2^up, and bias and shift are for sums of that.
    """

    bias: npt.NDArray[np.int64]
    multiplier: npt.NDArray[np.int32]
    shift: npt.NDArray[np.int8]
    constant: npt.NDArray[np.bool_]
    up: int = 0


def row_numbers(graph: Graph, node: Node) -> RowNumbers:
    """Bias and requantisation of an int8 convolution for the row kernels.

    A channel whose weights are all zero is a constant; its sum and scale, which may be extreme, are replaced by others
    that give the same constant.

    The fewer bits the weights have, the larger is what their sums are multiplied by, and rule "single" has no shift for
    more than a quarter. Weights of 4 bits have room for up to three zero bits more below: sums times 2^up, shifted
    further, are rounded to the same results.

    Args:
        graph: a verified graph.
        node: an integer conv2d, depthwise_conv2d or dense.
    """
    bias = folded_bias(graph, node)
    data, result = graph.quant(node.inputs[0]), graph.quant(node.output)
    scales = np.asarray(graph.quant(node.inputs[1]).scale, dtype=np.float64)
    reals = np.broadcast_to(data.scalar_scale * scales / result.scalar_scale, bias.shape)
    multiplier, shift = arithmetic.multipliers(reals, graph.rounding)
    weights = graph.constant(node.inputs[1])
    axes = (0, 1, 2) if node.op == "depthwise_conv2d" else tuple(range(1, weights.ndim))
    constant: npt.NDArray[np.bool_] = np.asarray(~weights.any(axis=axes))
    if constant.any():
        bounds = arithmetic.clamp_bounds(node.attrs.get("clamp"), result)
        value = arithmetic.requantize(bias.astype(np.int32), multiplier, shift, graph.rounding).astype(np.int64)
        value = np.clip(value + result.scalar_zero_point, *bounds) - result.scalar_zero_point
        sums = value * round(1 / CONSTANT_SCALE)
        exact = arithmetic.quantize_multiplier(CONSTANT_SCALE, graph.rounding)
        bias = np.where(constant, sums, bias)
        multiplier = np.where(constant, exact[0], multiplier).astype(np.int32)
        shift = np.where(constant, exact[1], shift).astype(np.int8)
    up = 0
    if graph.quant(node.inputs[1]).bits == 4 and graph.rounding == "single":
        up = max(0, int(shift.max()) - SHIFTS["single"][1])
        up = up if up <= MOST_UP else 0
    return RowNumbers(bias << up, multiplier, (shift - up).astype(np.int8), constant, up)


def row_sums(
    graph: Graph, node: Node, numbers: RowNumbers, stored: Mapping[str, Bounds] | None = None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The smallest and the largest sum of each channel in the row kernels.

    Args:
        graph: a verified graph.
        node: an integer conv2d, depthwise_conv2d or dense.
        numbers: its `row_numbers`.
        stored: from `stored_bounds`; computed when not given.
    """
    low, high = (sums << numbers.up for sums in accumulator_bounds(graph, node, stored))
    return np.where(numbers.constant, numbers.bias, low), np.where(numbers.constant, numbers.bias, high)


def row_layers(graph: Graph) -> frozenset[str]:
    """The results of all convolutions whose arithmetic is within the limits of the row kernels."""
    stored = stored_bounds(graph)
    nodes = (node for node in graph.nodes if node.op in ("conv2d", "depthwise_conv2d"))
    return frozenset(n.output for n in nodes if mode(graph, n) == "integer" and refusal(graph, n, stored) is None)


def dense_by_lanes(graph: Graph, node: Node) -> bool:
    """Whether a dense layer of int8 can be computed on packed lanes (mj_dense.h)."""
    return refusal(graph, node) is None


def refusal(graph: Graph, node: Node, stored: Mapping[str, Bounds] | None = None) -> str | None:
    """Why the row kernels cannot compute an int8 convolution exactly; None if they can.

    Args:
        graph: a verified graph.
        node: an integer conv2d, depthwise_conv2d or dense.
        stored: from `stored_bounds`; computed when not given.
    """
    numbers = row_numbers(graph, node)
    low, high = row_sums(graph, node, numbers, stored)
    smallest, largest = int(low.min()), int(high.max())
    if node.op in ("conv2d", "dense"):
        if graph.constant(node.inputs[1]).min(initial=0) < -127:
            return "a weight is -128"
        if smallest < -PRODUCT_LIMIT or largest >= PRODUCT_LIMIT:
            return f"a sum can reach {max(-smallest, largest):,}, beyond 2^23"
    if smallest < -(2**31) or largest >= 2**31 or numbers.bias.min() < -(2**31) or numbers.bias.max() >= 2**31:
        return "a sum can leave 32 bits"
    doubled = graph.rounding == "double" and node.op in ("depthwise_conv2d", "dense")
    if doubled and (smallest < -DOUBLED_LIMIT or largest >= DOUBLED_LIMIT):
        return f"a sum can reach {max(-smallest, largest):,}, beyond 2^30"
    first, last = DOUBLED_SHIFTS if doubled else SHIFTS[graph.rounding]
    if numbers.shift.min() < first or numbers.shift.max() > last:
        return f"its scales ask for shifts from {numbers.shift.min()} to {numbers.shift.max()}, not {first} to {last}"
    zero = graph.quant(node.output).scalar_zero_point
    for end in (low, high):
        value = arithmetic.requantize(end, numbers.multiplier, numbers.shift, graph.rounding).astype(np.int64) + zero
        if value.min() < np.iinfo(np.int16).min or value.max() > np.iinfo(np.int16).max:
            return f"a result before saturation can reach {value.min()} or {value.max()}, beyond 16 bits"
    return None
