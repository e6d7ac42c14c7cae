"""A graph as text, one line per layer, aligned, for people and for `git diff`; and the same as JSON values."""

from __future__ import annotations

from typing import Any

from millijoule.graph.graph import Graph, Node
from millijoule.graph.operators import macs
from millijoule.graph.tensor import Tensor
from millijoule.graph.verify import WEIGHT_AXIS

__all__ = ["describe_graph", "format_graph"]

LONGEST_NOTE = 200  # characters; a quantiser's report on every layer is one note of many thousands


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
    lines += [f"history: {_shortened(note)}" for note in graph.history]
    return "\n".join(lines)


def describe_graph(graph: Graph) -> dict[str, Any]:
    """What `format_graph` prints as JSON values, with the notes of the history in full."""
    return {
        "name": graph.name,
        "rounding": graph.rounding,
        "classes": list(graph.classes),
        "inputs": [_description(graph.tensor(name)) for name in graph.inputs],
        "outputs": list(graph.outputs),
        "nodes": [
            {
                "operator": node.op,
                "layer": node.source,
                "result": _description(graph.tensor(node.output)),
                "macs": macs(graph, node),
                "inputs": list(node.inputs),
                "attributes": {name: value for name, value in node.attrs.items() if value is not None},
                "weight_bits": _weight_bits(graph, node),
            }
            for node in graph.nodes
        ],
        "history": list(graph.history),
    }


def _shortened(note: str) -> str:
    note = " ".join(note.split())
    left = len(note) - LONGEST_NOTE
    return note if left <= 0 else f"{note[:LONGEST_NOTE]} ... and {left:,} more characters"


def _description(tensor: Tensor) -> dict[str, Any]:
    value: dict[str, Any] = {"name": tensor.name, "type": str(tensor.dtype), "shape": list(tensor.shape)}
    if tensor.quant is not None and tensor.quant.axis is None:
        value |= {"scale": float(tensor.quant.scale[0]), "zero_point": int(tensor.quant.zero_point[0])}
    return value


def _weight_bits(graph: Graph, node: Node) -> int | None:
    """Bits of the layer's weights where they are fewer than 32; None without such weights."""
    if node.op not in WEIGHT_AXIS:
        return None
    weights = graph.tensor(node.inputs[1])
    return 16 if weights.dtype == "float16" else None if weights.quant is None else weights.quant.bits


def _tensor(tensor: Tensor) -> str:
    text = f"{tensor.dtype}{tensor.shape}"
    if tensor.quant is not None and tensor.quant.axis is None:
        text += f" s={tensor.quant.scale[0]:.5g} z={tensor.quant.zero_point[0]}"
    return text


def _details(graph: Graph, node: Node) -> str:
    attrs = " ".join(f"{name}={value}" for name, value in node.attrs.items() if value is not None)
    bits = _weight_bits(graph, node)
    width = f" weights={bits}bit" if bits not in (None, 8) else ""
    return f"<- {', '.join(node.inputs)}  {attrs}{width}"
