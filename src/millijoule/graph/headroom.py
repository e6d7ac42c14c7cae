"""Ranges that are wide enough for the fast kernels.

A convolution's sums are multiplied by s_x s_w / s_y. The kernels that work row by row, in a fraction of the memory,
round in one instruction, which leaves room for factors up to a limit of the rounding rule (`compile.legal`): a quarter
with "single". A channel with large weights behind a wide range can be above it. Then the range of the result is widened
by as much as is missing, since a coarser step in one map costs less than a kernel that needs the whole map.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from millijoule.graph.bounds import constant_channels
from millijoule.graph.graph import Graph, Node

__all__ = ["MARGIN", "MOST", "OPERATORS", "factor_limit", "with_headroom"]

OPERATORS = ("conv2d", "depthwise_conv2d")
"""What the kernels by rows compute."""

MARGIN = 1.02
"""Refinements and training change the scales of weights; a range is widened as if they would grow by so much."""

MOST = 1.5
"""By how much a range is widened at most (3.5 dB of its noise); what lacks more keeps its range."""


def factor_limit(rounding: str, bits: int, op: str = "conv2d") -> float:
    """What a convolution's sums may be multiplied by; less than that.

    Args:
        rounding: "single", "double" or "mulhi".
        bits: of the weights: 8, or 4, whose sums rule "single" has up to 8 times larger.
        op: one of `OPERATORS`.
    """
    if rounding == "single":
        return 0.25 if bits == 8 else 2.0
    return 1.0 if rounding == "double" and op == "conv2d" else 0.5


def with_headroom(
    graph: Graph,
    ranges: Mapping[str, tuple[float, float]],
    convert: Callable[[Mapping[str, tuple[float, float]]], Graph],
) -> tuple[Graph, dict[str, float]]:
    """The integer graph, ranges widened where its convolutions lack room.

    A wider range is a larger step for the readers of the map, so layers are looked at in their order.

    Args:
        graph: a simplified float graph.
        ranges: (low, high) by tensor.
        convert: the integer graph of such ranges.

    Returns:
        What `convert` gives for the widened ranges, and what they were multiplied by, by tensor.
    """
    given, found = dict(ranges), convert(ranges)
    factors: dict[str, float] = {}
    for output in [node.output for node in graph.nodes if node.op in OPERATORS]:
        factor = _missing(found, found.producers()[output])
        if 1.0 < factor <= MOST:
            low, high = given[output]
            given[output], factors[output] = (low * factor, high * factor), factor
            found = convert(given)
    return found, factors


def _missing(found: Graph, node: Node) -> float:
    """What the range of a convolution's result has to be multiplied by."""
    weights, data, result = (found.quant(name) for name in (node.inputs[1], node.inputs[0], node.output))
    scales = np.asarray(weights.scale, dtype=np.float64)
    share = data.scalar_scale / result.scalar_scale * MARGIN / factor_limit(found.rounding, weights.bits, node.op)
    if float(scales.max()) * share > 1.0 and len(scales) > 1:
        scales = np.delete(scales, list(constant_channels(found, node)))  # they are not compiled
    return float(scales.max(initial=0.0)) * share
