"""The float executor in numpy, and the dynamic one: float activations with int8 weights.

Used for nodes of mixed graphs and where torch is not installed; whole float graphs run faster through `_torch`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from millijoule.errors import UnsupportedError
from millijoule.execute._integer import exact_type
from millijoule.execute._windows import Window, pad_map, patches, taps
from millijoule.graph import WEIGHT_AXIS, Graph, Node, arithmetic

__all__ = ["dynamic_step", "float_step"]

Array = npt.NDArray[Any]
Step = Callable[[Sequence[Array]], Array]
Linear = Callable[[Array], Array]


def float_step(graph: Graph, node: Node) -> Step:
    """The function that computes one float32 node from its data inputs (leading dimension: pictures)."""
    builder = BUILDERS.get(node.op)
    if builder is None:
        raise UnsupportedError(
            f"layer {node.source or node.output!r} ({node.op})", "it has no float arithmetic", "Use another operator"
        )
    return builder(graph, node)


def dynamic_step(graph: Graph, node: Node) -> Step:
    """A layer with float data and int8 weights.

    Each picture's data is quantised from its own range (`arithmetic.dynamic_range`, `dynamic_quantize`), the sums are
    integers, and ``y = float32(sum) * (scale_x * scale_w[c]) + bias[c]``, clamped, all in float32.
    """
    if node.op not in WEIGHT_AXIS:
        raise UnsupportedError(
            f"layer {node.source or node.output!r} ({node.op})", "it has no dynamic arithmetic", "Keep it in float"
        )
    stored = graph.constant(node.inputs[1])
    linear = _linear(graph, node, stored.astype(exact_type(stored, WEIGHT_AXIS[node.op], 255)))
    scales = np.asarray(graph.quant(node.inputs[1]).scale, dtype=np.float32)
    bias = _bias(graph, node)

    def step(inputs: Sequence[Array]) -> Array:
        x = np.asarray(inputs[0], dtype=np.float32)
        axes = tuple(range(1, x.ndim))
        scale, zero = arithmetic.dynamic_range(x.min(axis=axes), x.max(axis=axes))
        shape = (-1, *([1] * (x.ndim - 1)))
        centred = arithmetic.dynamic_quantize(x, scale, zero).astype(np.int16) - zero.reshape(shape).astype(np.int16)
        sums = linear(centred).astype(np.float32)
        y = sums * (scale.reshape(shape) * scales)
        if bias is not None:
            y += bias
        return _clamped(y, node)

    return step


def _bias(graph: Graph, node: Node) -> Array | None:
    return graph.constant(node.inputs[2]).astype(np.float32) if len(node.inputs) == 3 else None


def _clamped(y: Array, node: Node) -> Array:
    clamp = node.attrs.get("clamp")
    if clamp is None:
        return y
    return np.clip(y, np.float32(clamp[0]), np.float32(clamp[1]))


def _linear(graph: Graph, node: Node, weights: Array) -> Linear:
    """The sums of products of a layer, in the float type of `weights`, zeros outside the picture."""
    if node.op == "dense":
        matrix = np.ascontiguousarray(weights.T)
        return lambda x: x.astype(matrix.dtype) @ matrix
    window = Window(graph, node)
    if node.op == "conv2d":
        matrix = np.ascontiguousarray(weights.reshape(weights.shape[0], -1).T)

        def conv2d(x: Array) -> Array:
            if window.pointwise:
                rows = np.ascontiguousarray(x).reshape(-1, x.shape[3])
            else:
                rows = patches(pad_map(x, window.padding, 0), window)
            sums: Array = rows.astype(matrix.dtype) @ matrix
            return sums.reshape(x.shape[0], window.rows, window.columns, -1)

        return conv2d
    tiled = np.tile(weights[0], (1, 1, window.columns))

    def depthwise(x: Array) -> Array:
        result = np.zeros((x.shape[0], window.rows, tiled.shape[2]), dtype=tiled.dtype)
        for picture, out in zip(x, result, strict=True):
            padded = pad_map(picture[None], window.padding, 0)[0].astype(tiled.dtype)
            for i, j, view in taps(padded, window):
                out += view * tiled[i, j]
        return result.reshape(x.shape[0], window.rows, window.columns, -1)

    return depthwise


def _layer(graph: Graph, node: Node) -> Step:
    linear = _linear(graph, node, graph.constant(node.inputs[1]).astype(np.float32))
    bias = _bias(graph, node)

    def step(inputs: Sequence[Array]) -> Array:
        y = linear(inputs[0])
        return _clamped(y if bias is None else y + bias, node)

    return step


def _normalize(graph: Graph, node: Node) -> Step:
    scale = np.asarray(node.attrs["scale"], dtype=np.float32)
    offset = np.asarray(node.attrs["offset"], dtype=np.float32)
    return lambda inputs: inputs[0].astype(np.float32) * scale + offset


def _batch_norm(graph: Graph, node: Node) -> Step:
    gamma, beta, mean, variance = (graph.constant(name).astype(np.float64) for name in node.inputs[1:])
    factor = gamma / np.sqrt(variance + float(node.attrs["epsilon"]))
    scale, offset = factor.astype(np.float32), (beta - mean * factor).astype(np.float32)
    return lambda inputs: inputs[0] * scale + offset


def _pool(graph: Graph, node: Node) -> Step:
    window = Window(graph, node)
    largest = node.op == "max_pool"

    def step(inputs: Sequence[Array]) -> Array:
        x = inputs[0]
        rows = patches(pad_map(x, window.padding, -np.inf if largest else 0.0), window)
        grouped = rows.reshape(x.shape[0], window.rows, window.columns, -1, x.shape[3])
        if largest:
            return _clamped(grouped.max(axis=3), node)
        inside = patches(pad_map(np.ones((1, *x.shape[1:3], 1), np.float32), window.padding, 0), window).sum(axis=1)
        return _clamped(grouped.sum(axis=3) / inside.reshape(1, window.rows, window.columns, 1), node)

    return step


def _softmax(graph: Graph, node: Node) -> Step:
    def step(inputs: Sequence[Array]) -> Array:
        e = np.exp(inputs[0] - inputs[0].max(axis=-1, keepdims=True))
        probabilities: Array = (e / e.sum(axis=-1, keepdims=True)).astype(np.float32)
        return probabilities

    return step


def _mean(graph: Graph, node: Node) -> Step:
    shape = graph.tensor(node.inputs[0]).shape
    count = np.float32(math.prod(shape[1:3]))
    return lambda inputs: inputs[0].sum(axis=(1, 2), dtype=np.float32) / count


def _reshape(graph: Graph, node: Node) -> Step:
    shape = tuple(node.attrs["shape"])[1:]
    return lambda inputs: np.ascontiguousarray(inputs[0]).reshape(-1, *shape)


BUILDERS: dict[str, Callable[[Graph, Node], Step]] = {
    "normalize": _normalize,
    "conv2d": _layer,
    "depthwise_conv2d": _layer,
    "dense": _layer,
    "batch_norm": _batch_norm,
    "add": lambda graph, node: lambda inputs: _clamped(inputs[0] + inputs[1], node),
    "mean": _mean,
    "avg_pool": _pool,
    "max_pool": _pool,
    "pad": lambda graph, node: lambda inputs: pad_map(inputs[0], tuple(node.attrs["padding"]), 0.0),
    "clamp": lambda graph, node: lambda inputs: _clamped(inputs[0], node),
    "softmax": _softmax,
    "transpose": lambda graph, node: lambda inputs: np.ascontiguousarray(np.swapaxes(inputs[0], 1, 2)),
    "reshape": _reshape,
}
