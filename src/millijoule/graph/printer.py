"""A graph as text: one line per layer, aligned, for people and for `git diff`."""

from __future__ import annotations

from millijoule.graph.graph import Graph, Node
from millijoule.graph.operators import macs
from millijoule.graph.tensor import Tensor
from millijoule.graph.verify import WEIGHT_AXIS

__all__ = ["format_graph"]


def format_graph(graph: Graph) -> str:
    """The whole graph as aligned text.

    Example line: ``conv2d  Conv1  int8(1, 48, 48, 16) s=0.0235 z=-128  <- picture_q, Conv1_weight, Conv1_bias``
    """
    rows = [("operator", "layer", "result", "MACs", "inputs and attributes")]
    rows += [
        (
            node.op,
            node.source,
            _tensor(graph.tensor(node.output)),
            f"{macs(graph, node):,}" or "",
            _details(graph, node),
        )
        for node in graph.nodes
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [f"graph {graph.name}: rounding {graph.rounding}, {len(graph.nodes)} nodes, classes {len(graph.classes)}"]
    lines += [f"  {name}: {_tensor(graph.tensor(name))}" for name in graph.inputs]
    for row in rows:
        cells = [row[0].ljust(widths[0]), row[1].ljust(widths[1]), row[2].ljust(widths[2]), row[3].rjust(widths[3])]
        lines.append("  ".join([*cells, row[4]]).rstrip())
    lines += [f"-> {name}" for name in graph.outputs]
    lines += [f"history: {note}" for note in graph.history]
    return "\n".join(lines)


def _tensor(tensor: Tensor) -> str:
    text = f"{tensor.dtype}{tensor.shape}"
    if tensor.quant is not None and tensor.quant.axis is None:
        text += f" s={tensor.quant.scale[0]:.5g} z={tensor.quant.zero_point[0]}"
    return text


def _details(graph: Graph, node: Node) -> str:
    attrs = " ".join(f"{name}={value}" for name, value in node.attrs.items() if value is not None)
    weights = graph.tensor(node.inputs[1]).quant if node.op in WEIGHT_AXIS else None
    width = f" weights={weights.bits}bit" if weights is not None and weights.bits != 8 else ""
    return f"<- {', '.join(node.inputs)}  {attrs}{width}"
