"""The closed list of operators: what each one means, its attributes, and the shape of its result.

Layouts: feature maps NHWC, weights OHWI (conv2d), 1HWC (depthwise_conv2d), OI (dense).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from millijoule.errors import GraphError, UnsupportedError
from millijoule.graph.graph import Graph, Node

__all__ = ["OPERATORS", "Operator", "infer_shape", "macs", "window_extent"]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Operator:
    """One operator of the graph.

    Attributes:
        meaning: one line for documentation and messages.
        inputs: fewest and most inputs.
        attrs: names of the required attributes.
        shape: from the node and its input shapes to the result's shape.
    """

    meaning: str
    inputs: tuple[int, int]
    attrs: tuple[str, ...]
    shape: Callable[[Node, list[Shape]], Shape]


def window_extent(size: int, kernel: int, stride: int, dilation: int, before: int, after: int) -> int:
    """How many windows fit along one dimension of `size` with the given padding.

    Example:
        >>> window_extent(224, 3, 2, 1, 0, 1)
        112
    """
    return (size + before + after - dilation * (kernel - 1) - 1) // stride + 1


def _refuse(node: Node, reason: str, fix: str) -> GraphError:
    return GraphError(f"layer {node.source or node.output!r} ({node.op})", reason, fix)


def _same(node: Node, shapes: list[Shape]) -> Shape:
    return shapes[0]


def _feature_map(node: Node, shape: Shape) -> Shape:
    if len(shape) != 4:
        raise _refuse(node, f"its input has shape {shape}, not (1, height, width, channels)", "Reshape the input")
    return shape


def _windowed(node: Node, shape: Shape, kernel: tuple[int, int]) -> tuple[int, int]:
    stride, padding, dilation = node.attrs["stride"], node.attrs["padding"], node.attrs.get("dilation", (1, 1))
    height = window_extent(shape[1], kernel[0], stride[0], dilation[0], padding[0], padding[1])
    width = window_extent(shape[2], kernel[1], stride[1], dilation[1], padding[2], padding[3])
    if height < 1 or width < 1:
        raise _refuse(
            node, f"a {kernel[0]}x{kernel[1]} window does not fit into {shape[1]}x{shape[2]}", "Pad the input"
        )
    return height, width


def _conv2d(node: Node, shapes: list[Shape]) -> Shape:
    data, weights = _feature_map(node, shapes[0]), shapes[1]
    if len(weights) != 4 or weights[3] != data[3]:
        raise _refuse(node, f"weights {weights} do not match input {data}", "Weights are (out, height, width, in)")
    return (data[0], *_windowed(node, data, weights[1:3]), weights[0])


def _depthwise(node: Node, shapes: list[Shape]) -> Shape:
    data, weights = _feature_map(node, shapes[0]), shapes[1]
    if len(weights) != 4 or weights[0] != 1 or weights[3] != data[3]:
        raise _refuse(node, f"weights {weights} do not match input {data}", "Weights are (1, height, width, channels)")
    return (data[0], *_windowed(node, data, weights[1:3]), weights[3])


def _dense(node: Node, shapes: list[Shape]) -> Shape:
    data, weights = shapes[0], shapes[1]
    if len(data) != 2 or len(weights) != 2 or weights[1] != data[1]:
        raise _refuse(node, f"weights {weights} do not match input {data}", "Weights are (out, in), the input is flat")
    return (data[0], weights[0])


def _elementwise(node: Node, shapes: list[Shape]) -> Shape:
    if shapes[0] != shapes[1]:
        raise _refuse(node, f"shapes {shapes[0]} and {shapes[1]} differ", "Both inputs need the same shape")
    return shapes[0]


def _pad(node: Node, shapes: list[Shape]) -> Shape:
    batch, height, width, channels = _feature_map(node, shapes[0])
    top, bottom, left, right = node.attrs["padding"]
    return (batch, height + top + bottom, width + left + right, channels)


def _pool(node: Node, shapes: list[Shape]) -> Shape:
    data = _feature_map(node, shapes[0])
    return (data[0], *_windowed(node, data, node.attrs["kernel"]), data[3])


def _mean(node: Node, shapes: list[Shape]) -> Shape:
    data = _feature_map(node, shapes[0])
    return (data[0], data[3])


def _transpose(node: Node, shapes: list[Shape]) -> Shape:
    batch, height, width, channels = _feature_map(node, shapes[0])
    return (batch, width, height, channels)


def _reshape(node: Node, shapes: list[Shape]) -> Shape:
    return tuple(node.attrs["shape"])


OPERATORS: dict[str, Operator] = {
    # picture bytes to numbers: x * scale[c] + offset[c]; to int8 it is a table look-up
    "normalize": Operator("picture bytes to normalised values", (1, 1), ("scale", "offset"), _same),
    # sum of products over a window and all channels; optional bias and clamp
    "conv2d": Operator("2-D convolution", (2, 3), ("stride", "padding"), _conv2d),
    # one window per channel, multiplier 1
    "depthwise_conv2d": Operator("depthwise 2-D convolution", (2, 3), ("stride", "padding"), _depthwise),
    # fully connected
    "dense": Operator("fully connected layer", (2, 3), (), _dense),
    # elementwise sum with optional clamp
    "add": Operator("elementwise sum", (2, 2), (), _elementwise),
    # zeros around a feature map: (top, bottom, left, right)
    "pad": Operator("zero padding", (1, 1), ("padding",), _pad),
    # average of the window's taps that lie inside the picture
    "avg_pool": Operator("average pooling", (1, 1), ("kernel", "stride", "padding"), _pool),
    # largest of the window's taps
    "max_pool": Operator("maximum pooling", (1, 1), ("kernel", "stride", "padding"), _pool),
    # average over height and width: (N, H, W, C) to (N, C)
    "mean": Operator("global average pooling", (1, 1), (), _mean),
    # exp(x) / sum(exp(x)) along the last dimension
    "softmax": Operator("softmax", (1, 1), (), _same),
    # min(max(x, low), high); ReLU is (0, inf), ReLU6 is (0, 6)
    "clamp": Operator("clamp to real bounds (the ReLU family)", (1, 1), ("clamp",), _same),
    # rows become columns: (N, H, W, C) to (N, W, H, C)
    "transpose": Operator("height and width swapped", (1, 1), (), _transpose),
    # the same numbers in another shape
    "reshape": Operator("reshape", (1, 1), ("shape",), _reshape),
    # float to int8 with the output's scale
    "quantize": Operator("float to int8", (1, 1), (), _same),
    # int8 to float with the input's scale
    "dequantize": Operator("int8 to float", (1, 1), (), _same),
    # gamma * (x - mean) / sqrt(variance + epsilon) + beta; inputs x, gamma, beta, mean, variance; float graphs only
    "batch_norm": Operator("batch normalisation", (5, 5), ("epsilon",), _same),
}


def infer_shape(graph: Graph, node: Node) -> Shape:
    """The shape of a node's result. Raises UnsupportedError for an unknown operator, GraphError for a bad shape."""
    operator = OPERATORS.get(node.op)
    if operator is None:
        raise UnsupportedError(
            f"layer {node.source or node.output!r}",
            f"operator {node.op!r} is not known",
            f"Use one of: {', '.join(OPERATORS)}",
        )
    fewest, most = operator.inputs
    if not fewest <= len(node.inputs) <= most:
        raise _refuse(node, f"it has {len(node.inputs)} inputs", f"Give it {fewest} to {most}")
    missing = [name for name in operator.attrs if name not in node.attrs]
    if missing:
        raise _refuse(node, f"attributes {missing} are missing", "Set them")
    return operator.shape(node, [graph.tensor(name).shape for name in node.inputs])


def macs(graph: Graph, node: Node) -> int:
    """Multiply-accumulate operations of one node for one picture; 0 for operators without weights.

    Padding taps are counted, as every published MAC figure does.
    """
    if node.op not in ("conv2d", "depthwise_conv2d", "dense"):
        return 0
    weights: Any = graph.tensor(node.inputs[1]).shape
    result = graph.tensor(node.output).shape
    if node.op == "dense":
        return int(weights[0] * weights[1])
    pixels = result[1] * result[2]
    if node.op == "depthwise_conv2d":
        return int(pixels * weights[1] * weights[2] * weights[3])
    return int(pixels * weights[0] * weights[1] * weights[2] * weights[3])
