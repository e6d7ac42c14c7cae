"""How each aten operator becomes a node: NCHW in, NHWC out, no transposes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from millijoule.errors import UnsupportedError
from millijoule.graph import GraphBuilder
from millijoule.graph.operators import window_extent

__all__ = ["RULES", "Call", "Value"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Value:
    """A torch tensor as the graph sees it.

    Attributes:
        name: the graph's tensor.
        shape: its shape in the graph (NHWC for feature maps).
        torch_shape: its shape in torch (NCHW for feature maps).
        order: for a flattened feature map, (channels, height, width): torch flattened in this order, the graph in
            (height, width, channels); the weights of the dense layer that follows are permuted.
    """

    name: str
    shape: tuple[int, ...]
    torch_shape: tuple[int, ...]
    order: tuple[int, int, int] | None = None


@dataclass
class Call:
    """One call of an aten operator.

    Attributes:
        builder: where nodes go.
        source: the module's name.
        op: the aten operator, for example "aten.conv2d.default".
        args: positional arguments: `Value` for activations, arrays for parameters.
        kwargs: keyword arguments.
    """

    builder: GraphBuilder
    source: str
    op: str
    args: Sequence[Any]
    kwargs: dict[str, Any] = field(default_factory=dict)

    def refuse(self, reason: str, fix: str) -> UnsupportedError:
        """The error of a call that cannot be lowered."""
        return UnsupportedError(f"layer {self.source!r} ({self.op})", reason, fix)

    def argument(self, index: int, name: str, default: Any = None) -> Any:
        """A positional or keyword argument, or its default."""
        if index < len(self.args):
            return self.args[index]
        return self.kwargs.get(name, default)

    def data(self, index: int = 0) -> Value:
        """An argument that must be an activation."""
        value = self.argument(index, "input" if index == 0 else "other")
        if not isinstance(value, Value):
            raise self.refuse(
                "one of its operands is a constant, not an activation", "Move constants into a layer's weights or bias"
            )
        return value

    def feature_map(self) -> Value:
        """The first argument as (1, H, W, C); a value that is kept flat is reshaped here."""
        value = self.data()
        if len(value.torch_shape) != 4:
            raise self.refuse(
                f"its input has shape {value.torch_shape}", "Give it a batch of feature maps (N, C, H, W)"
            )
        if len(value.shape) != 4:
            batch, channels, height, width = value.torch_shape
            shape = (batch, height, width, channels)
            name = self.builder.node("reshape", [value.name], shape, attrs={"shape": shape}, source=self.source)
            return Value(name, shape, value.torch_shape)
        return value

    def emit(self, op: str, inputs: Sequence[str], shape: Sequence[int], /, **attrs: Any) -> Value:
        """Adds a node; four-dimensional results are feature maps, others are the same in torch."""
        shape = tuple(int(extent) for extent in shape)
        name = self.builder.node(op, inputs, shape, attrs=attrs, source=self.source)
        outside = (shape[0], shape[3], shape[1], shape[2]) if len(shape) == 4 else shape
        return Value(name, shape, outside)

    def constant(self, role: str, value: Array) -> str:
        """Adds a parameter of the layer; weights and biases may stay 16-bit floats."""
        half = value.dtype == np.float16 and role in ("weight", "bias")
        kind = np.float16 if half else np.float32
        return self.builder.constant(f"{self.source}.{role}", np.ascontiguousarray(value, dtype=kind))


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, (list, tuple)):
        return (int(value[0]), int(value[-1]))
    return (int(value), int(value))


def _conv2d(call: Call) -> Value:
    data = call.feature_map()
    weights, bias = call.argument(1, "weight"), call.argument(2, "bias")
    stride, dilation = _pair(call.argument(3, "stride", 1)), _pair(call.argument(5, "dilation", 1))
    groups = int(call.argument(6, "groups", 1))
    if not isinstance(weights, np.ndarray) or weights.ndim != 4:
        raise call.refuse("its weights are not a parameter", "Use a torch.nn.Conv2d")
    outputs, per_group, height, width = weights.shape
    padding = call.argument(4, "padding", 0)
    if padding == "same":
        total = [dilation[i] * (weights.shape[2 + i] - 1) for i in (0, 1)]
        sides = tuple(side for t in total for side in (t // 2, t - t // 2))
    else:
        vertical, horizontal = (0, 0) if padding == "valid" else _pair(padding)
        sides = (vertical, vertical, horizontal, horizontal)
    channels = data.shape[3]
    if groups == 1:
        op, stored = "conv2d", weights.transpose(0, 2, 3, 1)
    elif groups == channels == outputs and per_group == 1:
        op, stored = "depthwise_conv2d", weights.transpose(1, 2, 3, 0)
    else:
        raise call.refuse(
            f"it has {groups} groups over {channels} input and {outputs} output channels",
            "Use groups=1, or groups equal to both channel counts (depthwise)",
        )
    names = [data.name, call.constant("weight", stored)]
    if isinstance(bias, np.ndarray):
        names.append(call.constant("bias", bias))
    rows = window_extent(data.shape[1], height, stride[0], dilation[0], sides[0], sides[1])
    columns = window_extent(data.shape[2], width, stride[1], dilation[1], sides[2], sides[3])
    attrs: dict[str, Any] = {"stride": stride, "padding": sides}
    if dilation != (1, 1):
        attrs["dilation"] = dilation
    return call.emit(op, names, (data.shape[0], rows, columns, outputs), **attrs)


def _batch_norm(call: Call) -> Value:
    data = call.data()
    if data.order is not None:
        raise call.refuse("it follows a flatten", "Normalise the feature map before flattening it")
    mean, variance = call.argument(3, "running_mean"), call.argument(4, "running_var")
    if not isinstance(mean, np.ndarray) or not isinstance(variance, np.ndarray):
        raise call.refuse("it has no running statistics", "Use track_running_stats=True")
    gamma, beta = call.argument(1, "weight"), call.argument(2, "bias")
    roles = {
        "gamma": gamma if isinstance(gamma, np.ndarray) else np.ones_like(mean),
        "beta": beta if isinstance(beta, np.ndarray) else np.zeros_like(mean),
        "mean": mean,
        "variance": variance,
    }
    names = [data.name, *(call.constant(role, value) for role, value in roles.items())]
    epsilon = float(call.argument(7, "eps", 1e-5))
    return replace(call.emit("batch_norm", names, data.shape, epsilon=epsilon), torch_shape=data.torch_shape)


def _clamp(call: Call, low: float, high: float) -> Value:
    data = call.data()
    result = call.emit("clamp", [data.name], data.shape, clamp=(float(low), float(high)))
    return replace(result, torch_shape=data.torch_shape, order=data.order)


def _clamp_call(call: Call) -> Value:
    low, high = call.argument(1, "min"), call.argument(2, "max")
    return _clamp(call, -math.inf if low is None else low, math.inf if high is None else high)


def _hardtanh(call: Call) -> Value:
    return _clamp(call, call.argument(1, "min_val", -1.0), call.argument(2, "max_val", 1.0))


def _add(call: Call) -> Value:
    left, right = call.data(0), call.data(1)
    if call.kwargs.get("alpha", 1) != 1:
        raise call.refuse(f"alpha is {call.kwargs['alpha']}", "Add with alpha=1")
    if left.shape != right.shape or left.torch_shape != right.torch_shape or left.order != right.order:
        raise call.refuse(f"shapes {left.torch_shape} and {right.torch_shape} differ", "Add tensors of one shape")
    result = call.emit("add", [left.name, right.name], left.shape)
    return replace(result, torch_shape=left.torch_shape, order=left.order)


def _pad(call: Call) -> Value:
    data = call.feature_map()
    if call.op.startswith("aten.pad.") and call.argument(2, "mode", "constant") != "constant":
        raise call.refuse(f"mode {call.argument(2, 'mode')!r} is not supported", "Pad with zeros")
    value = call.argument(3 if call.op.startswith("aten.pad.") else 2, "value", 0.0)
    sides = [int(side) for side in call.argument(1, "pad")]
    if value not in (None, 0, 0.0) or min(sides) < 0 or len(sides) > 4:
        raise call.refuse(f"it pads {sides} with {value}", "Pad height and width with zeros; cropping is not supported")
    left, right, top, bottom = (*sides, *[0] * (4 - len(sides)))
    return _emit_pad(call, data, (top, bottom, left, right))


def _emit_pad(call: Call, data: Value, sides: tuple[int, int, int, int]) -> Value:
    batch, height, width, channels = data.shape
    shape = (batch, height + sides[0] + sides[1], width + sides[2] + sides[3], channels)
    return call.emit("pad", [data.name], shape, padding=sides)


def _mean(call: Call) -> Value:
    data = call.feature_map()
    axes = call.argument(1, "dim")
    if axes is None or sorted(int(axis) % 4 for axis in axes) != [2, 3]:
        raise call.refuse(f"it averages over {axes}", "Average over height and width (dim=(2, 3))")
    return _global_mean(call, data, bool(call.argument(2, "keepdim", False)))


def _global_mean(call: Call, data: Value, keep: bool) -> Value:
    result = call.emit("mean", [data.name], (data.shape[0], data.shape[3]))
    return replace(result, torch_shape=(*result.shape, 1, 1)) if keep else result


def _adaptive_avg_pool2d(call: Call) -> Value:
    data = call.feature_map()
    size = _pair(call.argument(1, "output_size"))
    if size == (1, 1):
        return _global_mean(call, data, True)
    if data.shape[1] % size[0] or data.shape[2] % size[1]:
        raise call.refuse(
            f"{data.shape[1]}x{data.shape[2]} does not divide into {size[0]}x{size[1]}", "Use AdaptiveAvgPool2d(1)"
        )
    kernel = (data.shape[1] // size[0], data.shape[2] // size[1])
    return _emit_pool(call, "avg_pool", data, kernel, kernel, (0, 0, 0, 0))


def _emit_pool(
    call: Call,
    op: str,
    data: Value,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    sides: tuple[int, int, int, int],
) -> Value:
    rows = window_extent(data.shape[1], kernel[0], stride[0], 1, sides[0], sides[1])
    columns = window_extent(data.shape[2], kernel[1], stride[1], 1, sides[2], sides[3])
    shape = (data.shape[0], rows, columns, data.shape[3])
    return call.emit(op, [data.name], shape, kernel=kernel, stride=stride, padding=sides)


def _pool(call: Call, op: str, ceil_index: int) -> Value:
    data = call.feature_map()
    kernel = _pair(call.argument(1, "kernel_size"))
    stride = _pair(call.argument(2, "stride") or kernel)
    vertical, horizontal = _pair(call.argument(3, "padding", 0))
    sides = (vertical, vertical, horizontal, horizontal)
    if op == "max_pool" and _pair(call.argument(4, "dilation", 1)) != (1, 1):
        raise call.refuse("its windows are dilated", "Use dilation=1")
    if op == "avg_pool" and call.argument(6, "divisor_override") is not None:
        raise call.refuse("divisor_override is set", "Leave the divisor to the window size")
    if call.argument(ceil_index, "ceil_mode", False):
        left_over = [(data.shape[1 + i] + 2 * (vertical, horizontal)[i] - kernel[i]) % stride[i] for i in (0, 1)]
        if any(left_over):
            raise call.refuse("ceil_mode adds partial windows", "Use ceil_mode=False or a resolution that divides")
    if op == "avg_pool" and any(sides) and call.argument(5, "count_include_pad", True):
        data, sides = _emit_pad(call, data, sides), (0, 0, 0, 0)
    return _emit_pool(call, op, data, kernel, stride, sides)


def _reshape(call: Call) -> Value:
    data = call.data()
    total = math.prod(data.torch_shape)
    name = call.op.split(".")[1]
    if name == "flatten":
        rank = len(data.torch_shape)
        first = int(call.argument(1, "start_dim", 0)) % rank
        last = int(call.argument(2, "end_dim", -1)) % rank
        merged = math.prod(data.torch_shape[first : last + 1])
        wanted: tuple[int, ...] = (*data.torch_shape[:first], merged, *data.torch_shape[last + 1 :])
    elif name == "squeeze":
        axes = call.argument(1, "dim")
        chosen = {int(axis) % len(data.torch_shape) for axis in ([axes] if isinstance(axes, int) else axes or ())}
        wanted = tuple(extent for axis, extent in enumerate(data.torch_shape) if not (axis in chosen and extent == 1))
    else:
        wanted = tuple(int(extent) for extent in call.argument(1, "shape"))
        if -1 in wanted:
            known = -math.prod(wanted)
            wanted = tuple(total // known if extent == -1 else extent for extent in wanted)
    if wanted == data.torch_shape:
        return data
    if len(wanted) != 2 or wanted[0] != data.torch_shape[0] or math.prod(wanted) != total:
        raise call.refuse(f"it turns {data.torch_shape} into {wanted}", "Only flattening to (N, features) is supported")
    if data.shape == wanted:
        return replace(data, torch_shape=wanted)
    if len(data.torch_shape) != 4:
        raise call.refuse(f"it flattens {data.torch_shape}", "Flatten a feature map (N, C, H, W)")
    _, channels, height, width = data.torch_shape
    result = call.emit("reshape", [data.name], wanted, shape=wanted)
    return result if height * width == 1 or channels == 1 else replace(result, order=(channels, height, width))


def _linear(call: Call) -> Value:
    data = call.data()
    weights, bias = call.argument(1, "weight"), call.argument(2, "bias")
    if not isinstance(weights, np.ndarray) or len(data.torch_shape) != 2:
        raise call.refuse(f"its input has shape {data.torch_shape}", "Flatten the input and use a torch.nn.Linear")
    if data.order is not None:
        weights = weights.reshape(-1, *data.order).transpose(0, 2, 3, 1).reshape(weights.shape)
    names = [data.name, call.constant("weight", weights)]
    if isinstance(bias, np.ndarray):
        names.append(call.constant("bias", bias))
    return call.emit("dense", names, (data.shape[0], weights.shape[0]))


def _softmax(call: Call) -> Value:
    data = call.data()
    axis = int(call.argument(1, "dim"))
    if len(data.torch_shape) != 2 or axis % 2 != 1 or data.order is not None:
        raise call.refuse(f"it runs along dimension {axis} of {data.torch_shape}", "Apply it to logits (N, classes)")
    return call.emit("softmax", [data.name], data.shape)


def _same(call: Call) -> Value:
    return call.data()


def _dropout(call: Call) -> Value:
    if call.argument(2, "train", False):
        raise call.refuse("it drops features at inference", "Call module.eval() semantics: nn.Dropout, not F.dropout")
    return call.data()


RULES: dict[str, Callable[[Call], Value]] = {
    "conv2d": _conv2d,
    "batch_norm": _batch_norm,
    "hardtanh": _hardtanh,
    "relu": lambda call: _clamp(call, 0.0, math.inf),
    "relu6": lambda call: _clamp(call, 0.0, 6.0),
    "clamp": _clamp_call,
    "clamp_min": lambda call: _clamp(call, call.argument(1, "min"), math.inf),
    "clamp_max": lambda call: _clamp(call, -math.inf, call.argument(1, "max")),
    "add": _add,
    "constant_pad_nd": _pad,
    "pad": _pad,
    "mean": _mean,
    "adaptive_avg_pool2d": _adaptive_avg_pool2d,
    "avg_pool2d": lambda call: _pool(call, "avg_pool", 4),
    "max_pool2d": lambda call: _pool(call, "max_pool", 5),
    "flatten": _reshape,
    "view": _reshape,
    "reshape": _reshape,
    "squeeze": _reshape,
    "linear": _linear,
    "softmax": _softmax,
    "dropout": _dropout,
    "feature_dropout": _dropout,
    "contiguous": _same,
    "clone": _same,
    "detach": _same,
    "alias": _same,
}
"""By the operator's name without namespace, overload and the underscore of in-place variants."""
