"""Whether a network is computed on the transposed picture: its rows get longer where its maps are narrow.

The row engine computes four neighbouring pixels of a row at a time, so a row of 5 costs as much as one of 8. A network
with maps of 25 x 5 computes 60 % more pixels than there are; with maps of 5 x 25 it computes 12 % more.
"""

from __future__ import annotations

from millijoule.graph import Graph, macs, mode, transposed

__all__ = ["computed_macs", "oriented"]

LEAST_SAVING = 0.08
"""The share of the computed products that must go: longer rows need more memory, and transposing takes time."""
PIXELS = 4
"""Neighbours in a row that are computed together."""


def computed_macs(graph: Graph) -> int:
    """Multiply-accumulate operations of all convolutions when every row of a result is filled up to whole fours."""
    total = 0
    for node in graph.nodes:
        if node.op in ("conv2d", "depthwise_conv2d"):
            width = graph.tensor(node.output).shape[2]
            total += macs(graph, node) // width * (-(-width // PIXELS) * PIXELS)
    return total


def oriented(graph: Graph) -> Graph | None:
    """The network on the transposed picture if that saves clearly; None if not, or if a layer computes with floats.

    Args:
        graph: a simplified graph.
    """
    if any(mode(graph, node) != "integer" for node in graph.nodes if macs(graph, node)):
        return None
    shapes = [tensor.shape for tensor in graph.activations() if len(tensor.shape) == 4]
    if all(shape[1] == shape[2] for shape in shapes):
        return None
    turned = transposed(graph)
    return turned if computed_macs(turned) <= (1.0 - LEAST_SAVING) * computed_macs(graph) else None
