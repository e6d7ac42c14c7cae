"""A float ONNX model, ours or another tool's, as a graph; the lowering is the one of `capture`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from millijoule.errors import FormatError, MillijouleError, UnsupportedError
from millijoule.graph import Graph, GraphBuilder
from millijoule.interchange._capture_rules import RULES as ATEN
from millijoule.interchange._capture_rules import Call, Value
from millijoule.interchange._onnx_write import METADATA, onnx_module

__all__ = ["read_onnx"]

Array = npt.NDArray[Any]

_FLOAT = 1
"""TensorProto.FLOAT of the ONNX specification."""


class _Normalization(Protocol):
    @property
    def scale(self) -> float | Sequence[float]: ...
    @property
    def offset(self) -> float | Sequence[float]: ...


def read_onnx(path: Path, *, normalization: _Normalization | None = None) -> Graph:
    """Reads a float classifier: one input (N, C, H, W), convolutions, pools, dense layers.

    Args:
        path: the file.
        normalization: scale and offset of x = picture * scale + offset; puts a `normalize` node first. Default: what
            our own files carry; for other files the graph's input is float32 (1, H, W, C).

    Returns:
        A verified float graph; layers are called like the model's nodes' results.

    Raises:
        FormatError: the file is missing, truncated or not ONNX.
        UnsupportedError: an operator or attribute that the graph does not have.
        ToolchainError: onnx is not installed.
    """
    path = Path(path)
    onnx = onnx_module()
    if not path.is_file():
        raise FormatError(str(path), "there is no such file", "Check the path")
    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf, checker and decoding errors have no common base
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise FormatError(str(path), f"it is truncated or not ONNX ({reason:.80})", "Export the model again") from None
    try:
        return _read(onnx, model, path, normalization)
    except MillijouleError:
        raise
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise FormatError(str(path), f"its network is damaged ({error!r:.80})", "Export the model again") from None


def _read(onnx: Any, model: Any, path: Path, normalization: _Normalization | None) -> Graph:
    known = {entry.key: entry.value for entry in model.metadata_props}
    ours: dict[str, Any] = json.loads(known[METADATA]) if METADATA in known else {}
    values: dict[str, Any] = {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}
    entries = [entry for entry in model.graph.input if entry.name not in values]
    if len(entries) != 1:
        raise UnsupportedError(str(path), f"it has {len(entries)} inputs", "Use a classifier with one input")
    extents = [extent.dim_value for extent in entries[0].type.tensor_type.shape.dim]
    if len(extents) != 4 or min(extents[1:]) < 1:
        raise UnsupportedError(str(path), f"its input has shape {extents}", "Export with a fixed (N, C, H, W)")
    _, channels, height, width = extents
    builder = GraphBuilder(str(ours.get("name", path.stem)))
    rule = ours.get("normalize")
    if normalization is not None:
        rule = {"scale": normalization.scale, "offset": normalization.offset}
    shape = (1, height, width, channels)
    if rule is None:
        start = builder.input(entries[0].name, shape)
    else:
        attrs = {key: _listed(rule[key]) for key in ("scale", "offset")}
        start = builder.node("normalize", [builder.input("picture", shape, "uint8")], shape, attrs=attrs,
                             source="normalize")  # fmt: skip
    values[entries[0].name] = Value(start, shape, (1, channels, height, width))
    for node in model.graph.node:
        attrs = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
        if node.op_type == "Constant":
            values[node.output[0]] = onnx.numpy_helper.to_array(attrs["value"])
            continue
        convert = RULES.get(node.op_type)
        call = Call(builder, node.output[0], f"ONNX {node.op_type}", [values[n] if n else None for n in node.input])
        if convert is None:
            raise call.refuse("the graph has no such operator", f"Supported are {', '.join(sorted(RULES))}")
        values[node.output[0]] = convert(call, attrs)
    names = []
    for item in model.graph.output:
        value = values[item.name]
        if not isinstance(value, Value) or value.order is not None:
            raise UnsupportedError(f"output {item.name!r}", "it is not an activation", "Export a classifier")
        names.append(value.name)
    return builder.build(names, classes=map(str, ours.get("classes", ())), history=[f"read {path.name}"])


def _listed(value: float | Sequence[float]) -> tuple[float, ...]:
    return (float(value),) if isinstance(value, (int, float)) else tuple(float(item) for item in value)


def _aten(call: Call, name: str, *args: Any) -> Value:
    return ATEN[name](replace(call, args=args, op=f"{call.op.split('.')[0]}.{name}"))


def _sides(call: Call, attrs: dict[str, Any]) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of an operator with pads or auto_pad."""
    automatic = attrs.get("auto_pad", b"NOTSET")
    if automatic not in (b"NOTSET", b"VALID"):
        raise call.refuse(f"auto_pad is {automatic.decode()}", "Export with explicit pads")
    top, left, bottom, right = attrs.get("pads", [0, 0, 0, 0])
    return top, bottom, left, right


def _padded(call: Call, sides: tuple[int, int, int, int]) -> Value:
    if not any(sides):
        return call.feature_map()
    top, bottom, left, right = sides
    return _aten(call, "constant_pad_nd", call.data(), (left, right, top, bottom), 0.0)


def _conv(call: Call, attrs: dict[str, Any]) -> Value:
    sides = _sides(call, attrs)
    bias = call.argument(2, "bias")
    stride, dilation = attrs.get("strides", [1, 1]), attrs.get("dilations", [1, 1])
    groups, weights = attrs.get("group", 1), call.args[1]
    if sides[0] == sides[1] and sides[2] == sides[3]:
        return _aten(call, "conv2d", call.data(), weights, bias, stride, (sides[0], sides[2]), dilation, groups)
    return _aten(call, "conv2d", _padded(call, sides), weights, bias, stride, (0, 0), dilation, groups)


def _pool(call: Call, attrs: dict[str, Any], largest: bool) -> Value:
    sides = _sides(call, attrs)
    if attrs.get("ceil_mode", 0):
        raise call.refuse("ceil_mode adds partial windows", "Export with ceil_mode=0")
    kernel, stride = attrs["kernel_shape"], attrs.get("strides", [1, 1])
    if sides[0] != sides[1] or sides[2] != sides[3]:
        raise call.refuse(f"its padding {sides} is one-sided", "Pad before the layer")
    padding = (sides[0], sides[2])
    if largest:
        return _aten(call, "max_pool2d", call.data(), kernel, stride, padding, attrs.get("dilations", [1, 1]))
    counted = bool(attrs.get("count_include_pad", 0))
    return _aten(call, "avg_pool2d", call.data(), kernel, stride, padding, False, counted)


def _clip(call: Call, attrs: dict[str, Any]) -> Value:
    low, high = call.argument(1, "min", attrs.get("min")), call.argument(2, "max", attrs.get("max"))
    return _aten(
        call, "hardtanh", call.data(), -math.inf if low is None else float(low),
        math.inf if high is None else float(high),
    )  # fmt: skip


def _gemm(call: Call, attrs: dict[str, Any]) -> Value:
    if attrs.get("alpha", 1.0) != 1.0 or attrs.get("beta", 1.0) != 1.0 or attrs.get("transA", 0):
        raise call.refuse("alpha, beta or transA is set", "Export a plain linear layer")
    weights = call.args[1]
    if not isinstance(weights, np.ndarray):
        raise call.refuse("its weights are not constant", "Export constant weights")
    bias = call.argument(2, "bias")
    return _aten(call, "linear", call.data(), weights if attrs.get("transB", 0) else weights.T, bias)


def _pad(call: Call, attrs: dict[str, Any]) -> Value:
    sides = np.asarray(call.argument(1, "pads", attrs.get("pads"))).tolist()
    if attrs.get("mode", b"constant") != b"constant" or len(sides) != 8 or any((*sides[:2], *sides[4:6])):
        raise call.refuse(f"it pads {sides}", "Pad height and width with zeros")
    value = call.argument(2, "value", attrs.get("value", 0.0))
    return _aten(
        call, "constant_pad_nd", call.data(), (sides[3], sides[7], sides[2], sides[6]),
        float(np.asarray(0.0 if value is None else value)),
    )  # fmt: skip


def _mean(call: Call, attrs: dict[str, Any]) -> Value:
    axes = attrs.get("axes", call.argument(1, "axes"))
    return _aten(call, "mean", call.data(), np.asarray(axes).tolist(), bool(attrs.get("keepdims", 1)))


def _reshape(call: Call, attrs: dict[str, Any]) -> Value:
    shape = [int(extent) for extent in np.asarray(call.args[1]).ravel()]
    known = call.data().torch_shape
    return _aten(call, "view", call.data(), [known[i] if extent == 0 else extent for i, extent in enumerate(shape)])


def _cast(call: Call, attrs: dict[str, Any]) -> Any:
    """16-bit float constants stay what they are: the graph widens them itself."""
    value = call.args[0]
    if not isinstance(value, np.ndarray) or value.dtype != np.float16 or attrs.get("to") != _FLOAT:
        raise call.refuse("it converts types", "Export float32, or 16-bit float constants behind Cast")
    return value


def _batch_norm(call: Call, attrs: dict[str, Any]) -> Value:
    epsilon = attrs.get("epsilon", 1e-5)
    return _aten(call, "batch_norm", *call.args[:5], False, 0.0, epsilon)


RULES: dict[str, Callable[[Call, dict[str, Any]], Any]] = {
    "Cast": _cast,
    "Conv": _conv,
    "BatchNormalization": _batch_norm,
    "Relu": lambda call, attrs: _aten(call, "relu", call.data()),
    "Clip": _clip,
    "Add": lambda call, attrs: _aten(call, "add", *call.args),
    "Pad": _pad,
    "AveragePool": lambda call, attrs: _pool(call, attrs, False),
    "MaxPool": lambda call, attrs: _pool(call, attrs, True),
    "GlobalAveragePool": lambda call, attrs: _aten(call, "adaptive_avg_pool2d", call.data(), (1, 1)),
    "ReduceMean": _mean,
    "Flatten": lambda call, attrs: _aten(call, "flatten", call.data(), attrs.get("axis", 1)),
    "Reshape": _reshape,
    "Gemm": _gemm,
    "Softmax": lambda call, attrs: _aten(call, "softmax", call.data(), attrs.get("axis", -1)),
    "Identity": lambda call, attrs: call.data(),
    "Dropout": lambda call, attrs: call.data(),
}
