"""The integer executor: `graph.arithmetic` for batches of pictures, bit for bit, with numpy only.

Sums of products run through float matrix products. They are exact: every partial sum is an integer below 2**24
(float32) or 2**53 (float64) in magnitude, which the constructor of each layer checks from its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from millijoule.errors import UnsupportedError
from millijoule.execute._requantize import Requantizer
from millijoule.execute._windows import Window, pad_map, patches, row_blocks, taps
from millijoule.graph import WEIGHT_AXIS, Graph, Node, arithmetic

__all__ = ["integer_step"]

Array = npt.NDArray[Any]
Step = Callable[[Sequence[Array]], Array]


def integer_step(graph: Graph, node: Node) -> Step:
    """The function that computes one int8 node from its data inputs (leading dimension: pictures)."""
    builder = BUILDERS.get(node.op)
    if builder is None:
        raise UnsupportedError(
            f"layer {node.source or node.output!r} ({node.op})", "it has no integer arithmetic", "Keep it in float"
        )
    return builder(graph, node)


def exact_type(weights: Array, axis: int, reach: int) -> type[np.float32] | type[np.float64]:
    """The float type in which no sum of `weights` with values up to `reach` is ever rounded."""
    totals = np.abs(np.moveaxis(weights.astype(np.int64), axis, 0)).reshape(weights.shape[axis], -1).sum(axis=1)
    return np.float32 if int(totals.max()) * reach < 2**24 else np.float64


def _bounds(graph: Graph, node: Node) -> tuple[int, int]:
    return arithmetic.clamp_bounds(node.attrs.get("clamp"), graph.quant(node.output))


def _requantizer(graph: Graph, node: Node, tile: int) -> Requantizer:
    axis = WEIGHT_AXIS[node.op]
    weights = np.moveaxis(graph.constant(node.inputs[1]).astype(np.int64), axis, 0)
    weights = weights.reshape(weights.shape[0], -1)
    data, result = graph.quant(node.inputs[0]), graph.quant(node.output)
    bias = graph.constant(node.inputs[2]).astype(np.int64) if len(node.inputs) == 3 else np.zeros(len(weights), int)
    scales = np.asarray(graph.quant(node.inputs[1]).scale, dtype=np.float64)
    reals = np.broadcast_to(data.scalar_scale * scales / result.scalar_scale, (len(weights),))
    zero = data.scalar_zero_point
    offset = bias - zero * weights.sum(axis=1)
    bound = np.abs(weights).sum(axis=1) * max(127 - zero, zero + 128) + np.abs(bias)
    return Requantizer(reals, offset, bound, result.scalar_zero_point, _bounds(graph, node), graph.rounding, tile)


def _matrix_product(x: Array, weights: Array, finish: Requantizer, tile: int) -> Array:
    """Rows of int8 values times weights (K, O), requantised block by block: (rows, O) int8."""
    rows, outputs = x.shape[0], weights.shape[1]
    result = np.empty((rows // tile, tile * outputs), dtype=np.int8)
    for block in row_blocks(rows // tile, tile * max(outputs, x.shape[1])):
        data = x[block.start * tile : block.stop * tile].astype(weights.dtype)
        result[block] = finish((data @ weights).reshape(-1, tile * outputs))
    return result.reshape(rows, outputs)


def _conv2d(graph: Graph, node: Node) -> Step:
    window = Window(graph, node)
    stored = graph.constant(node.inputs[1])
    weights = np.ascontiguousarray(stored.reshape(stored.shape[0], -1).T).astype(exact_type(stored, 0, 128))
    zero = graph.quant(node.inputs[0]).scalar_zero_point
    finish = _requantizer(graph, node, window.columns)

    def step(inputs: Sequence[Array]) -> Array:
        x = inputs[0]
        if window.pointwise:
            rows = np.ascontiguousarray(x).reshape(-1, x.shape[3])
        else:
            rows = patches(pad_map(x, window.padding, zero), window)
        result = _matrix_product(rows, weights, finish, window.columns)
        return result.reshape(x.shape[0], window.rows, window.columns, -1)

    return step


def _depthwise(graph: Graph, node: Node) -> Step:
    window = Window(graph, node)
    stored = graph.constant(node.inputs[1])
    kind = exact_type(stored, 3, 128)
    weights = np.tile(stored[0].astype(kind), (1, 1, window.columns))
    zero = graph.quant(node.inputs[0]).scalar_zero_point
    finish = _requantizer(graph, node, window.columns)
    channels = stored.shape[3]

    def step(inputs: Sequence[Array]) -> Array:
        x = inputs[0]
        result = np.empty((x.shape[0], window.rows, window.columns * channels), dtype=np.int8)
        for picture, out in zip(x, result, strict=True):
            padded = pad_map(picture[None], window.padding, zero)[0].astype(kind)
            views = list(taps(padded, window))
            for block in row_blocks(window.rows, window.columns * channels):
                total: Array | None = None
                scratch: Array | None = None
                for i, j, view in views:
                    if total is None or scratch is None:
                        total = view[block] * weights[i, j]
                        scratch = np.empty_like(total)
                    else:
                        np.multiply(view[block], weights[i, j], out=scratch)
                        total += scratch
                assert total is not None
                out[block] = finish(total)
        return result.reshape(x.shape[0], window.rows, window.columns, channels)

    return step


def _dense(graph: Graph, node: Node) -> Step:
    stored = graph.constant(node.inputs[1])
    weights = np.ascontiguousarray(stored.T).astype(exact_type(stored, 0, 128))
    finish = _requantizer(graph, node, 1)
    return lambda inputs: _matrix_product(inputs[0], weights, finish, 1)


def _normalize(graph: Graph, node: Node) -> Step:
    table = arithmetic.normalize_table(node.attrs["scale"], node.attrs["offset"], graph.quant(node.output))

    def step(inputs: Sequence[Array]) -> Array:
        planes = [table[c][inputs[0][..., c]] for c in range(len(table))] if len(table) > 1 else []
        result: Array = np.stack(planes, axis=-1) if planes else table[0][inputs[0]]
        return result

    return step


def _add(graph: Graph, node: Node) -> Step:
    """All 65,536 pairs are added once by the definition; a batch is then a table look-up."""
    quants = [graph.quant(name) for name in (*node.inputs, node.output)]
    values = np.arange(-128, 128).astype(np.int8)
    left, right = np.repeat(values, 256), np.tile(values, 256)
    zeros = (quants[0].scalar_zero_point, quants[1].scalar_zero_point, quants[2].scalar_zero_point)
    plan = arithmetic.add_plan(quants[0], quants[1], quants[2], graph.rounding)
    table = arithmetic.add_int8(left, right, zeros, plan, _bounds(graph, node), graph.rounding)

    def step(inputs: Sequence[Array]) -> Array:
        index = (inputs[0].view(np.uint8) ^ 0x80).astype(np.uint16)
        index <<= 8
        index |= inputs[1].view(np.uint8) ^ 0x80
        return table[index]

    return step


def _mean(graph: Graph, node: Node) -> Step:
    shape = graph.tensor(node.inputs[0]).shape
    count = shape[1] * shape[2]
    data, result = graph.quant(node.inputs[0]), graph.quant(node.output)
    multiplier, shift = arithmetic.mean_multiplier(data, result, count, graph.rounding)
    low, high = _bounds(graph, node)

    def step(inputs: Sequence[Array]) -> Array:
        total = inputs[0].sum(axis=(1, 2), dtype=np.int32) - count * data.scalar_zero_point
        mean = arithmetic.requantize(total, multiplier, shift, graph.rounding) + result.scalar_zero_point
        return np.clip(mean, low, high).astype(np.int8)

    return step


def _avg_pool(graph: Graph, node: Node) -> Step:
    window = Window(graph, node)
    bounds = _bounds(graph, node)

    def step(inputs: Sequence[Array]) -> Array:
        x = inputs[0]
        total = patches(pad_map(x.astype(np.int32), window.padding, 0), window)
        inside = patches(pad_map(np.ones((1, *x.shape[1:3], 1), np.int32), window.padding, 0), window).sum(axis=1)
        sums = total.reshape(x.shape[0], window.rows, window.columns, -1, x.shape[3]).sum(axis=3, dtype=np.int32)
        return arithmetic.average_int8(sums, inside.reshape(1, window.rows, window.columns, 1), bounds)

    return step


def _max_pool(graph: Graph, node: Node) -> Step:
    window = Window(graph, node)
    low, high = _bounds(graph, node)

    def step(inputs: Sequence[Array]) -> Array:
        x = inputs[0]
        rows = patches(pad_map(x, window.padding, -128), window)
        largest = rows.reshape(x.shape[0], window.rows, window.columns, -1, x.shape[3]).max(axis=3)
        result: Array = np.clip(largest, low, high).astype(np.int8)
        return result

    return step


def _pad(graph: Graph, node: Node) -> Step:
    zero = graph.quant(node.inputs[0]).scalar_zero_point
    return lambda inputs: pad_map(inputs[0], tuple(node.attrs["padding"]), zero)


def _clamp(graph: Graph, node: Node) -> Step:
    low, high = _bounds(graph, node)
    return lambda inputs: np.clip(inputs[0], low, high).astype(np.int8)


def _softmax(graph: Graph, node: Node) -> Step:
    table = arithmetic.softmax_table(graph.quant(node.inputs[0]).scalar_scale)
    return lambda inputs: arithmetic.softmax_int8(inputs[0], table)


def _reshape(graph: Graph, node: Node) -> Step:
    shape = tuple(node.attrs["shape"])[1:]
    return lambda inputs: np.ascontiguousarray(inputs[0]).reshape(-1, *shape)


def _quantize(graph: Graph, node: Node) -> Step:
    quant = graph.quant(node.output)
    return lambda inputs: arithmetic.quantize_array(inputs[0], quant).astype(np.int8)


def _dequantize(graph: Graph, node: Node) -> Step:
    quant = graph.quant(node.inputs[0])
    scale, zero = np.float32(quant.scalar_scale), quant.scalar_zero_point
    return lambda inputs: (inputs[0].astype(np.int32) - zero).astype(np.float32) * scale


BUILDERS: dict[str, Callable[[Graph, Node], Step]] = {
    "normalize": _normalize,
    "conv2d": _conv2d,
    "depthwise_conv2d": _depthwise,
    "dense": _dense,
    "add": _add,
    "mean": _mean,
    "avg_pool": _avg_pool,
    "max_pool": _max_pool,
    "pad": _pad,
    "clamp": _clamp,
    "softmax": _softmax,
    "transpose": lambda graph, node: lambda inputs: np.ascontiguousarray(np.swapaxes(inputs[0], 1, 2)),
    "reshape": _reshape,
    "quantize": _quantize,
    "dequantize": _dequantize,
}
