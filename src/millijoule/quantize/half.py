"""16-bit float weights: half the bytes, float arithmetic.

Every weight and every bias is rounded to IEEE 754 binary16 (`graph.arithmetic.round_to_half`) and stored so; whoever
runs the network widens them to float32, which is exact, and computes in float32. The same as post-training float16
quantisation of TFLite's converter (tensorflow.org/lite/performance/post_training_float16_quant).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from millijoule.errors import QuantizationError
from millijoule.graph import WEIGHT_AXIS, Graph, Node, Tensor, arithmetic, simplify, verify
from millijoule.quantize.decisions import Decision, QuantizationReport
from millijoule.quantize.dynamic import require_float

__all__ = ["half"]


def half(graph: Graph) -> Graph:
    """A float graph with its weights and biases as 16-bit floats; activations stay float32.

    Args:
        graph: a float graph, simplified or as captured (batch normalisation is folded before anything is rounded).

    Returns:
        The verified graph; constants are called ``<float name>.half``. Its history tells how many numbers became
        subnormal (fewer than 11 significant bits) or 0; `report_of` tells it layer by layer.

    Raises:
        QuantizationError: the graph is quantised already, or a number is beyond 65504 (names the layer).
    """
    _require_32_bits(graph)
    graph = simplify(require_float(graph))
    tensors, constants = dict(graph.tensors), dict(graph.constants)
    nodes, decisions = [], []
    total = small = zero = 0
    for node in graph.nodes:
        if node.op in WEIGHT_AXIS:
            counts = np.zeros(3, dtype=np.int64)
            inputs = [node.inputs[0]]
            for name in node.inputs[1:]:
                value = _rounded(graph.constant(name), node, name)
                counts += _counts(graph.constant(name), value)
                inputs.append(f"{name}.half")
                tensors[inputs[-1]] = Tensor(inputs[-1], tuple(value.shape), "float16")
                constants[inputs[-1]] = value
            node = replace(node, inputs=tuple(inputs))
            if counts[1:].any():
                why = f"of {counts[0]:,} numbers {counts[1]:,} became subnormal and {counts[2]:,} became 0"
                decisions.append(Decision(node.source or node.output, "half", why))
            total, small, zero = total + int(counts[0]), small + int(counts[1]), zero + int(counts[2])
        nodes.append(node)
    converted = verify(replace(graph, nodes=tuple(nodes), tensors=tensors, constants=constants).without_unused())
    settings = {"quantisation": "16-bit float weights", "numbers": total, "subnormal": small, "became 0": zero}
    converted = converted.with_note(QuantizationReport(settings, (), tuple(decisions)).note())
    return converted.with_note(f"half: 16-bit float weights and biases, {small:,} of {total:,} subnormal, {zero:,} 0")


def _require_32_bits(graph: Graph) -> None:
    for node in graph.nodes:
        if any(graph.tensor(name).dtype == "float16" for name in node.inputs):
            raise QuantizationError(
                f"graph {graph.name!r}",
                f"the weights of layer {node.source or node.output!r} are 16-bit floats already",
                "Start from the float model",
            )


def _rounded(value: npt.NDArray[Any], node: Node, name: str) -> npt.NDArray[np.float16]:
    try:
        return arithmetic.round_to_half(value)
    except QuantizationError as error:
        raise QuantizationError(
            f"layer {node.source or name!r}", f"its {name!r} does not fit a 16-bit float: {error.reason}", error.fix
        ) from None


def _counts(exact: npt.NDArray[Any], rounded: npt.NDArray[np.float16]) -> npt.NDArray[np.int64]:
    """How many numbers there are, how many became subnormal, how many became 0 without being 0."""
    size = np.abs(rounded.astype(np.float32))
    subnormal = (size > 0) & (size < arithmetic.HALF_SMALLEST_NORMAL)
    return np.array([exact.size, subnormal.sum(), ((size == 0) & (exact != 0)).sum()], dtype=np.int64)
