"""From ranges to scales, from a float graph to an int8 graph: the rules of the TFLite 8-bit specification.

https://ai.google.dev/edge/litert/models/quantization_spec: activations int8, one asymmetric scale per tensor; weights
int8 in [-127, 127], symmetric, one scale per output channel; bias int32 at ``s_x * s_w``; pooling, padding, reshape and
clamp keep the scale of their input; softmax has scale 1/256 and zero point -128.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from millijoule.errors import QuantizationError
from millijoule.graph.arithmetic import quantize_array
from millijoule.graph.graph import Graph, Node
from millijoule.graph.tensor import INT8_MAX, INT8_MIN, WIDTHS, Quant, Tensor
from millijoule.graph.verify import WEIGHT_AXIS, verify

__all__ = [
    "KEEPS_SCALE",
    "SMALLEST_RANGE",
    "SOFTMAX_QUANT",
    "activation_quant",
    "input_range",
    "integer_graph",
    "quantize_weights",
    "weight_quant",
]

KEEPS_SCALE = ("pad", "reshape", "transpose", "max_pool", "avg_pool", "clamp")
"""Operators whose result has the scale and zero point of their input."""

SOFTMAX_QUANT = Quant((1 / 256,), (-128,))
"""The quantisation that TFLite prescribes for probabilities."""

SMALLEST_RANGE = 1e-6
"""Activations whose whole range is narrower come from a layer that does nothing; their scale would be degenerate."""

BIAS_LIMIT = 2.0**30
"""Largest int32 bias `weight_quant` allows: the other half of the 32-bit range is left to the products."""


def activation_quant(low: float, high: float) -> Quant:
    """The int8 quantisation of activations between `low` and `high`, with zero exactly representable.

    The range is widened to hold zero, ``scale = (high - low) / 255`` as float32, and the zero point is nudged to an
    integer: ``round(-128 - low / scale)``, halves away from zero (TFLite; Jacob et al. 2018, arXiv:1712.05877, section
    3.1).

    Args:
        low: smallest value, not above `high`.
        high: largest value.

    Returns:
        A per-tensor quantisation.

    Raises:
        QuantizationError: a bound is not finite, the bounds are swapped, or the range is narrower than
            `SMALLEST_RANGE`.

    Example:
        >>> activation_quant(0.0, 6.0).zero_point
        (-128,)
    """
    if not (math.isfinite(low) and math.isfinite(high)) or low > high:
        raise QuantizationError(
            "an activation range", f"[{low!r}, {high!r}] is not a range", "Calibrate with finite pictures and weights"
        )
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    if high - low < SMALLEST_RANGE:
        raise QuantizationError(
            "an activation range",
            f"[{low!r}, {high!r}] is degenerate",
            "Calibrate with pictures that excite this layer, or train the network first",
        )
    scale = float(np.float32((high - low) / 255.0))
    exact = INT8_MIN - low / scale
    zero = math.trunc(exact + math.copysign(0.5, exact))
    return Quant((scale,), (max(INT8_MIN, min(INT8_MAX, zero)),))


def weight_quant(
    weights: npt.NDArray[np.floating],
    axis: int,
    per_channel: bool = True,
    bias: npt.NDArray[np.floating] | None = None,
    input_scale: float | None = None,
    bits: int = 8,
) -> Quant:
    """The symmetric quantisation of weights, ``scale = max|w| / 127``, widened where the bias would not fit.

    Dead channels have weights near 1e-18 beside a bias of -2: at ``s_x * s_w`` such a bias overflows 32 bits, so the
    scale is raised until it stays below 2**30. A scale is also at least 2**-31 of the layer's largest one (what is
    smaller cannot move a result that shares one scale), and a layer of zeros gets scale 1/127.

    Args:
        weights: float weights of any shape.
        axis: the output-channel dimension.
        per_channel: one scale per slice along `axis`; otherwise one for all.
        bias: float bias, one per output channel.
        input_scale: scale of the layer's input; needed with `bias`.
        bits: 8, or 4: ``scale = max|w| / 7``.

    Returns:
        A quantisation along `axis`, or a per-tensor one; every scale is a float32.

    Raises:
        QuantizationError: a weight or bias is not finite.
    """
    if not np.isfinite(weights).all() or (bias is not None and not np.isfinite(bias).all()):
        raise QuantizationError("weights", "they hold NaN or infinity", "Train again with a smaller learning rate")
    rows = np.abs(np.moveaxis(np.asarray(weights, dtype=np.float64), axis, 0)).reshape(weights.shape[axis], -1)
    highest = _highest(bits)
    scales = rows.max(axis=1) / highest
    largest = float(scales.max())
    smallest = max(largest * 2.0**-31, 1e-30) if largest > 0.0 else 1.0 / highest
    scales = np.maximum(scales, smallest)
    if bias is not None and input_scale is not None:
        scales = np.maximum(scales, np.abs(np.asarray(bias, dtype=np.float64)) / (input_scale * BIAS_LIMIT))
    if per_channel:
        return Quant.per_channel(scales, axis, bits=bits)
    return Quant.per_tensor(float(scales.max()), bits=bits)


def _highest(bits: int) -> int:
    """The largest weight: 127, or 7 with 4 bits."""
    if bits not in WIDTHS:
        raise QuantizationError("weights", f"{bits!r} bits are not stored", "Use 8 or 4 bits")
    return int(2 ** (bits - 1) - 1)


def quantize_weights(weights: npt.NDArray[np.floating], quant: Quant) -> npt.NDArray[np.int8]:
    """Float weights as int8 in [-127, 127], 4 bits in [-7, 7]: ``clamp(round_half_away(w / scale))`` in float64."""
    highest = _highest(quant.bits)
    stored: npt.NDArray[np.int8] = np.clip(quantize_array(weights, quant), -highest, highest).astype(np.int8)
    return stored


def input_range(node: Node) -> tuple[float, float]:
    """The values a `normalize` node gives for picture bytes 0 and 255, over all channels."""
    ends = [
        byte * float(scale) + float(offset)
        for byte in (0, 255)
        for scale, offset in zip(node.attrs["scale"], node.attrs["offset"], strict=True)
    ]
    return min(ends), max(ends)


def integer_graph(
    graph: Graph,
    ranges: Mapping[str, tuple[float, float]],
    *,
    rounding: str = "single",
    per_channel: bool = True,
    weight_bits: int | Mapping[str, int] = 8,
) -> Graph:
    """A float graph as an int8 graph: same nodes, same tensor names, every activation after the picture int8.

    Args:
        graph: a simplified float graph (no batch_norm, see `simplify`). A float input gets a `quantize` node.
        ranges: (low, high) of each activation by tensor name. Not needed for the results of operators that keep the
            scale (`KEEPS_SCALE`), of softmax, and of normalize (whose range follows from its attributes unless given).
        rounding: how 32-bit sums become 8-bit values, see `arithmetic.requantize`.
        per_channel: one weight scale per output channel; otherwise one per layer.
        weight_bits: bits of the weights, 8 or 4, of all layers or by layer (`Node.source`, or the name of the result);
            layers that are not named have 8. Activations have 8 always, biases 32.

    Returns:
        The verified int8 graph. Weights and biases are called `<float name>.int8` and `<float name>.int32`.

    Raises:
        QuantizationError: a range is missing or degenerate (names the layer), a 32-bit sum could overflow, a number of
            bits is neither 8 nor 4, or `weight_bits` names a layer that has no weights.
    """
    widths = _weight_widths(graph, weight_bits)
    quants: dict[str, Quant] = {}
    tensors: dict[str, Tensor] = {}
    constants: dict[str, npt.NDArray[Any]] = {}
    nodes: list[Node] = []
    renamed: dict[str, str] = {}
    for name in graph.inputs:
        tensors[name] = graph.tensor(name)
        if graph.tensor(name).dtype == "float32":
            quants[name] = _range_quant(f"input {name!r}", name, ranges)
            renamed[name] = f"{name}.int8"
            tensors[renamed[name]] = Tensor(renamed[name], graph.tensor(name).shape, "int8", quants[name])
            nodes.append(Node("quantize", (name,), (renamed[name],), {}, name))
    for node in graph.nodes:
        quant = _result_quant(graph, node, ranges, quants)
        quants[node.output] = quant
        tensors[node.output] = replace(graph.tensor(node.output), dtype="int8", quant=quant)
        inputs = [renamed.get(name, name) for name in node.inputs]
        if node.op in WEIGHT_AXIS:
            made = _integer_constants(graph, node, quants[node.inputs[0]], per_channel, widths[node.output])
            for index, (name, value, constant_quant) in enumerate(made, start=1):
                inputs[index] = name
                tensors[name] = Tensor(name, tuple(value.shape), value.dtype.name, constant_quant)
                constants[name] = value
        nodes.append(replace(node, inputs=tuple(inputs)))
    converted = replace(
        graph, nodes=tuple(nodes), tensors=tensors, constants=constants, rounding=rounding
    ).without_unused()
    return verify(converted)


def _weight_widths(graph: Graph, weight_bits: int | Mapping[str, int]) -> dict[str, int]:
    """Bits of the weights by the result of their layer."""
    layers = [node for node in graph.nodes if node.op in WEIGHT_AXIS]
    if not isinstance(weight_bits, Mapping):
        weight_bits = dict.fromkeys((node.output for node in layers), weight_bits)
    known = {name for node in layers for name in (node.source, node.output)}
    for name in weight_bits:
        if name not in known:
            raise QuantizationError(
                f"layer {name!r}", "no layer with weights has this name", "Name a layer of the graph"
            )
    found = {node.output: weight_bits.get(node.output, weight_bits.get(node.source, 8)) for node in layers}
    for node in layers:
        if found[node.output] not in WIDTHS:
            raise QuantizationError(
                _layer(node), f"its weights cannot have {found[node.output]!r} bits", "Use 8 or 4 bits"
            )
    return found


def _layer(node: Node) -> str:
    return f"layer {node.source or node.output!r} ({node.op})"


def _range_quant(what: str, name: str, ranges: Mapping[str, tuple[float, float]]) -> Quant:
    if name not in ranges:
        raise QuantizationError(what, f"no range is known for {name!r}", "Calibrate the graph that is converted")
    try:
        return activation_quant(*ranges[name])
    except QuantizationError as error:
        raise QuantizationError(what, f"its range {error.reason}", error.fix) from None


def _result_quant(
    graph: Graph, node: Node, ranges: Mapping[str, tuple[float, float]], quants: Mapping[str, Quant]
) -> Quant:
    if graph.tensor(node.output).dtype != "float32" or node.op in ("batch_norm", "quantize", "dequantize"):
        raise QuantizationError(
            _layer(node), "only simplified float graphs are converted", "Run simplify on the float graph first"
        )
    if node.op in KEEPS_SCALE:
        return quants[node.inputs[0]]
    if node.op == "softmax":
        return SOFTMAX_QUANT
    if node.op == "normalize" and node.output not in ranges:
        return activation_quant(*input_range(node))
    return _range_quant(_layer(node), node.output, ranges)


def _integer_constants(
    graph: Graph, node: Node, data: Quant, per_channel: bool, bits: int = 8
) -> list[tuple[str, npt.NDArray[Any], Quant]]:
    """Name, value and quantisation of a layer's weights and, when it has one, of its int32 bias."""
    axis = WEIGHT_AXIS[node.op]
    weights = graph.constant(node.inputs[1])
    bias = graph.constant(node.inputs[2]) if len(node.inputs) == 3 else None
    quant = weight_quant(weights, axis, per_channel, bias, data.scalar_scale, bits)
    made: list[tuple[str, npt.NDArray[Any], Quant]] = [
        (f"{node.inputs[1]}.int8", quantize_weights(weights, quant), quant)
    ]
    if bias is not None:
        scales = data.scalar_scale * np.asarray(quant.scale, dtype=np.float64)
        bias_quant = Quant.per_channel(scales, 0) if per_channel else Quant.per_tensor(float(scales[0]))
        made.append((f"{node.inputs[2]}.int32", quantize_array(bias, bias_quant, "int32").astype(np.int32), bias_quant))
    return made
