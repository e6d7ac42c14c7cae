"""The rules every graph obeys; run after every pass. A refusal names the source layer, the reason and the fix."""

from __future__ import annotations

import math

import numpy as np

from millijoule.errors import GraphError, QuantizationError
from millijoule.graph.arithmetic import add_plan, mean_multiplier, quantize_multiplier
from millijoule.graph.graph import ROUNDINGS, Graph, Node, mode
from millijoule.graph.nibbles import INT4_MAX, INT4_MIN
from millijoule.graph.operators import infer_shape
from millijoule.graph.tensor import DTYPES, INT8_MAX, INT8_MIN, Quant, Tensor

__all__ = ["WEIGHT_AXIS", "verify"]

WEIGHT_AXIS = {"conv2d": 0, "depthwise_conv2d": 3, "dense": 0}
"""The output-channel dimension of the weights of each operator."""


def verify(graph: Graph) -> Graph:
    """Checks shapes, types, scales, single writers and dangling tensors; returns the graph unchanged.

    Raises:
        GraphError: a structural rule is broken.
        QuantizationError: a scale is degenerate or a 32-bit sum could overflow.
    """
    if graph.rounding not in ROUNDINGS:
        raise GraphError(f"graph {graph.name!r}", f"rounding {graph.rounding!r} is unknown", f"Use one of {ROUNDINGS}")
    for name, tensor in graph.tensors.items():
        _verify_tensor(graph, name, tensor)
    known = {*graph.inputs, *graph.constants}
    for node in graph.nodes:
        _verify_node(graph, node, known)
        known.update(node.outputs)
    for name in graph.outputs:
        if name not in known:
            raise GraphError(f"output {name!r}", "no node writes it", "Name an existing tensor")
    return graph


def _layer(node: Node) -> str:
    return f"layer {node.source or node.output!r} ({node.op})"


def _verify_tensor(graph: Graph, name: str, tensor: Tensor) -> None:
    what = f"tensor {name!r}"
    if tensor.name != name:
        raise GraphError(what, f"it calls itself {tensor.name!r}", "Keep names and keys equal")
    if tensor.dtype not in DTYPES:
        raise GraphError(what, f"type {tensor.dtype!r} is unknown", f"Use one of {', '.join(DTYPES)}")
    if any(extent < 1 for extent in tensor.shape):
        raise GraphError(what, f"shape {tensor.shape} has an empty dimension", "Every dimension is at least 1")
    value = graph.constants.get(name)
    if value is not None and (value.shape != tensor.shape or value.dtype.name != tensor.dtype):
        raise GraphError(
            what,
            f"its value is {value.dtype.name}{value.shape} but it is declared {tensor.dtype}{tensor.shape}",
            "Declare what is stored",
        )
    if value is not None and tensor.dtype in ("float32", "float16") and not np.isfinite(value).all():
        raise GraphError(what, "it holds NaN or infinity", "Train again with a smaller learning rate")
    quant = tensor.quant
    if tensor.dtype == "float16" and (value is None or quant is not None):
        raise GraphError(what, "it is float16 and no plain constant", "Use float16 for weights and biases only")
    if quant is None:
        return
    for scale in quant.scale:
        if not math.isfinite(scale) or scale <= 0.0 or np.float32(scale) < np.finfo(np.float32).tiny:
            raise QuantizationError(
                what, f"scale {scale!r} is degenerate", "Calibrate with pictures that excite this layer"
            )
        if float(np.float32(scale)) != scale:
            raise QuantizationError(what, f"scale {scale!r} is not a float32", "Round scales to float32")
    if quant.axis is not None and (
        not 0 <= quant.axis < len(tensor.shape) or tensor.shape[quant.axis] != len(quant.scale)
    ):
        raise QuantizationError(
            what, f"{len(quant.scale)} scales do not fit axis {quant.axis} of {tensor.shape}", "Give one per slice"
        )
    if quant.bits == 4:
        _verify_nibbles(graph, tensor, quant)
    if tensor.dtype == "int8" and any(not INT8_MIN <= zero <= INT8_MAX for zero in quant.zero_point):
        raise QuantizationError(what, "a zero point is outside int8", "Keep zero points within [-128, 127]")


def _verify_nibbles(graph: Graph, tensor: Tensor, quant: Quant) -> None:
    """Only weights have 4 bits: int8 constants in [-8, 7] with zero point 0."""
    what, value = f"tensor {tensor.name!r}", graph.constants.get(tensor.name)
    if value is None or tensor.dtype != "int8" or any(quant.zero_point):
        raise QuantizationError(what, "it has 4 bits and is no symmetric int8 constant", "Use 4 bits for weights only")
    if value.min() < INT4_MIN or value.max() > INT4_MAX:
        raise QuantizationError(
            what, f"it has 4 bits and its values reach from {value.min()} to {value.max()}", "Keep them within [-8, 7]"
        )


def _verify_node(graph: Graph, node: Node, known: set[str]) -> None:
    for name in node.inputs:
        graph.tensor(name)
        if name not in known:
            raise GraphError(_layer(node), f"its input {name!r} is not written before it", "Sort the nodes")
        quant = graph.tensor(name).quant
        if quant is not None and quant.bits == 4 and (node.op not in WEIGHT_AXIS or name in node.inputs[::2]):
            raise QuantizationError(_layer(node), f"its input {name!r} has 4 bits", "Use 4 bits for weights only")
        if graph.tensor(name).dtype == "float16" and (
            node.op not in WEIGHT_AXIS or name == node.inputs[0] or mode(graph, node) != "float"
        ):
            raise GraphError(
                _layer(node), f"its input {name!r} is float16", "Use float16 for weights and biases of float layers"
            )
    for name in node.outputs:
        graph.tensor(name)
        if name in known:
            raise GraphError(_layer(node), f"its output {name!r} has another writer already", "Use a new name")
    shape = infer_shape(graph, node)
    result = graph.tensor(node.output)
    if shape != result.shape:
        raise GraphError(_layer(node), f"its result is declared {result.shape} but is {shape}", "Declare the result")
    if node.op == "reshape" and math.prod(shape) != graph.tensor(node.inputs[0]).elements:
        raise GraphError(_layer(node), f"{shape} holds another number of elements than its input", "Keep the count")
    if mode(graph, node) == "integer":
        _verify_integer(graph, node)
    elif mode(graph, node) == "dynamic":
        _verify_weight_quant(graph, node)


def _verify_integer(graph: Graph, node: Node) -> None:
    data, result = graph.tensor(node.inputs[0]), graph.tensor(node.output)
    for tensor in (data, result):
        if tensor.dtype == "int8" and (tensor.quant is None or tensor.quant.axis is not None):
            raise QuantizationError(
                _layer(node), f"int8 tensor {tensor.name!r} has no single scale", "Activations have one scale each"
            )
    if node.op in ("pad", "reshape", "transpose", "max_pool", "avg_pool", "clamp") and data.quant != result.quant:
        raise QuantizationError(
            _layer(node), "its result has another scale than its input", f"{node.op} keeps the scale of its input"
        )
    if node.op == "softmax" and (
        result.quant is None or result.quant.scale != (1 / 256,) or result.quant.zero_point != (-128,)
    ):
        raise QuantizationError(_layer(node), "its result must have scale 1/256 and zero point -128", "Use that scale")
    if node.op in WEIGHT_AXIS:
        _verify_weight_quant(graph, node)
        _verify_sums(graph, node)
    elif node.op == "add":  # raises where a ratio of scales is out of range
        add_plan(graph.quant(node.inputs[0]), graph.quant(node.inputs[1]), graph.quant(node.output), graph.rounding)
    elif node.op == "mean":
        zero, count = graph.quant(node.inputs[0]).scalar_zero_point, data.shape[1] * data.shape[2]
        worst = count * max(INT8_MAX - zero, zero - INT8_MIN)
        if worst >= 2**31:
            raise QuantizationError(
                _layer(node), f"the sum of {count} pixels could reach {worst}, beyond 32 bits", "Pool a smaller map"
            )
        mean_multiplier(
            graph.quant(node.inputs[0]), graph.quant(node.output), data.shape[1] * data.shape[2], graph.rounding
        )


def _verify_weight_quant(graph: Graph, node: Node) -> None:
    weights = graph.tensor(node.inputs[1])
    if weights.dtype != "int8" or weights.quant is None or any(weights.quant.zero_point):
        raise QuantizationError(
            _layer(node), "its weights are not symmetric int8", "Quantise weights with zero point 0 in [-127, 127]"
        )
    if weights.quant.axis not in (None, WEIGHT_AXIS[node.op]):
        raise QuantizationError(
            _layer(node), f"its weight scales run along axis {weights.quant.axis}", f"Use axis {WEIGHT_AXIS[node.op]}"
        )


def _verify_sums(graph: Graph, node: Node) -> None:
    """No 32-bit sum can overflow, whatever the picture; every requantisation multiplier is representable."""
    weights = graph.constant(node.inputs[1]).astype(np.int64)
    axis = WEIGHT_AXIS[node.op]
    zero = graph.quant(node.inputs[0]).scalar_zero_point
    reach = max(INT8_MAX - zero, zero - INT8_MIN)
    channels = weights.shape[axis]
    sums = np.abs(np.moveaxis(weights, axis, 0)).reshape(channels, -1).sum(axis=1) * 2 * max(reach, 128)
    if len(node.inputs) == 3:
        bias = graph.tensor(node.inputs[2])
        if bias.dtype != "int32":
            raise QuantizationError(_layer(node), f"its bias is {bias.dtype}, not int32", "Quantise it at s_x * s_w")
        sums = sums + np.abs(graph.constant(node.inputs[2]).astype(np.int64))
    worst = int(sums.max())
    if worst >= 2**31:
        channel = int(sums.argmax())
        raise QuantizationError(
            _layer(node),
            f"the sum of output channel {channel} could reach {worst}, beyond 32 bits",
            "Widen this channel's weight scale so that its bias fits int32",
        )
    weight_quant, data, result = graph.quant(node.inputs[1]), graph.quant(node.inputs[0]), graph.quant(node.output)
    for scale in weight_quant.scale:
        quantize_multiplier(data.scalar_scale * scale / result.scalar_scale, graph.rounding)
