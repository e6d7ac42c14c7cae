"""A .tflite file, ours or another tool's, as a graph."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from millijoule.errors import FormatError, GraphError, MillijouleError, QuantizationError, UnsupportedError
from millijoule.graph import Graph, GraphBuilder, Quant
from millijoule.graph.nibbles import unpack_nibbles
from millijoule.interchange._tflite_schema import ACTIVATIONS, IDENTIFIER, METADATA, NUMPY_TYPES, schema

__all__ = ["read_tflite"]

Array = npt.NDArray[Any]


class _Normalization(Protocol):
    @property
    def scale(self) -> float | Sequence[float]: ...
    @property
    def offset(self) -> float | Sequence[float]: ...


def read_tflite(path: Path, *, normalization: _Normalization | None = None, rounding: str | None = None) -> Graph:
    """Reads a float, 16-bit float, dynamic-range or int8 classifier.

    Files written by this package carry the picture's normalisation, the class names and the rounding rule. For other
    files the graph's input is the file's (float32 or int8), unless `normalization` says how pictures become it.

    Args:
        path: the file.
        normalization: scale and offset of x = picture * scale + offset; puts a `normalize` node first.
        rounding: rule for 8-bit results; default: the file's, else "single" (LiteRT's).

    Returns:
        A verified graph whose tensors and layers carry the file's tensor names.

    Raises:
        FormatError: the file is missing, truncated or not .tflite.
        UnsupportedError: an operator that the graph does not have.
        ToolchainError: ai-edge-litert is not installed.
    """
    path = Path(path)
    api = schema()
    if not path.is_file():
        raise FormatError(str(path), "there is no such file", "Check the path")
    data = path.read_bytes()
    if len(data) < 16 or data[4:8] != IDENTIFIER:
        raise FormatError(str(path), "it is not a .tflite file", "Give a file that a TFLite converter wrote")
    try:
        model = api.ModelT.InitFromObj(api.Model.GetRootAs(data, 0))
        reader = _Reader(api, model, path, rounding)
        return reader.graph(normalization)
    except UnsupportedError:
        raise
    except (GraphError, QuantizationError) as error:
        raise UnsupportedError(error.what, f"the file's layer breaks a rule: {error.reason}", error.fix) from None
    except MillijouleError:
        raise
    except Exception as error:  # damaged offsets surface as almost any exception
        raise FormatError(str(path), f"it is truncated or damaged ({error!r:.80})", "Convert the model again") from None


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")


class _Reader:
    def __init__(self, api: Any, model: Any, path: Path, rounding: str | None) -> None:
        self.api, self.model, self.path = api, model, path
        if not model.subgraphs or len(model.subgraphs) != 1:
            raise UnsupportedError(str(path), "it does not hold exactly one network", "Export a single network")
        self.subgraph = model.subgraphs[0]
        self.types = {value: name for name, value in vars(api.TensorType).items() if not name.startswith("_")}
        self.operators = {value: name for name, value in vars(api.BuiltinOperator).items() if not name.startswith("_")}
        self.activations = {
            value: name for name, value in vars(api.ActivationFunctionType).items() if not name.startswith("_")
        }
        self.known = self._metadata()
        self.rounding = rounding or str(self.known.get("rounding", "single"))
        self.builder = GraphBuilder(str(self.known.get("name", path.stem)))
        self.names: dict[int, str] = {}
        self.widened: dict[int, int] = {}
        """Results of DEQUANTIZE that are constants: the 16-bit floats they stand for."""

    def _metadata(self) -> dict[str, Any]:
        for entry in self.model.metadata or []:
            if _text(entry.name) == METADATA:
                known: dict[str, Any] = json.loads(bytes(self.model.buffers[entry.buffer].data))
                return known
        return {}

    def graph(self, normalization: _Normalization | None) -> Graph:
        if len(self.subgraph.inputs) != 1:
            raise UnsupportedError(str(self.path), f"it has {len(self.subgraph.inputs)} inputs", "Use a classifier")
        self._input(int(self.subgraph.inputs[0]), normalization)
        for operator in self.subgraph.operators or []:
            self._operator(operator)
        outputs = [self._name(int(index)) for index in self.subgraph.outputs]
        classes = tuple(map(str, self.known.get("classes", ())))
        return self.builder.build(outputs, rounding=self.rounding, classes=classes, history=[f"read {self.path.name}"])

    def _input(self, index: int, normalization: _Normalization | None) -> None:
        tensor = self.subgraph.tensors[index]
        shape, kind, name = self._shape(tensor), self._kind(tensor), _text(tensor.name)
        rule = self.known.get("normalize")
        if normalization is not None:
            rule = {"scale": _listed(normalization.scale), "offset": _listed(normalization.offset)}
        if rule is None:
            self.names[index] = self.builder.input(name, shape, kind, self._quant(tensor))
            return
        picture = self.builder.input("picture" if name != "picture" else "picture_bytes", shape, "uint8")
        attrs = {"scale": tuple(map(float, rule["scale"])), "offset": tuple(map(float, rule["offset"]))}
        self.names[index] = self.builder.node(
            "normalize", [picture], shape, attrs=attrs, dtype=kind, quant=self._quant(tensor), source="normalize",
            output=name,
        )  # fmt: skip

    def _shape(self, tensor: Any) -> tuple[int, ...]:
        return tuple(max(1, int(extent)) for extent in (tensor.shape if tensor.shape is not None else ()))

    def _kind(self, tensor: Any) -> str:
        name = self.types.get(tensor.type, str(tensor.type))
        if name not in NUMPY_TYPES:
            raise UnsupportedError(f"tensor {_text(tensor.name)!r}", f"its type is {name}", "Use float32 or int8")
        known_name: str = name.lower()
        return "int8" if known_name == "int4" else known_name

    def _quant(self, tensor: Any) -> Quant | None:
        stored = tensor.quantization
        if stored is None or stored.scale is None or len(stored.scale) == 0:
            return None
        scales = tuple(float(np.float32(scale)) for scale in stored.scale)
        zeros = tuple(int(zero) for zero in stored.zeroPoint) if stored.zeroPoint is not None else (0,) * len(scales)
        if len(zeros) == 1:
            zeros = zeros * len(scales)
        axis = int(stored.quantizedDimension) if len(scales) > 1 else None
        return Quant(scales, zeros, axis, 4 if tensor.type == self.api.TensorType.INT4 else 8)

    def _values(self, index: int) -> Array | None:
        """The value of a constant tensor, None for an activation."""
        tensor = self.subgraph.tensors[index]
        data = self.model.buffers[tensor.buffer].data if tensor.buffer else None
        if data is None or len(data) == 0:
            return None
        kind = NUMPY_TYPES[self._kind(tensor).upper()]
        shape = tuple(int(extent) for extent in (tensor.shape if tensor.shape is not None else ()))
        if tensor.type == self.api.TensorType.INT4:
            return unpack_nibbles(np.asarray(data, dtype=np.uint8), shape)
        return np.frombuffer(np.asarray(data, dtype=np.uint8).tobytes(), dtype=kind).reshape(shape)

    def _name(self, index: int) -> str:
        if index not in self.names:
            name = _text(self.subgraph.tensors[index].name)
            raise UnsupportedError(f"tensor {name!r}", "a constant is used where data is expected", "Fold it first")
        return self.names[index]

    def _operator(self, operator: Any) -> None:
        code = self.model.operatorCodes[operator.opcodeIndex]
        name = self.operators.get(max(code.builtinCode, code.deprecatedBuiltinCode), "CUSTOM")
        source = _text(self.subgraph.tensors[operator.outputs[0]].name)
        call = _Call(self, operator, name, source)
        rule = RULES.get(name)
        if rule is None:
            raise call.refuse("the graph has no such operator", f"Supported are {', '.join(sorted(RULES))}")
        rule(call)


def _listed(value: float | Sequence[float]) -> list[float]:
    return [float(value)] if isinstance(value, (int, float)) else [float(item) for item in value]


class _Call:
    """One operator of the file."""

    def __init__(self, reader: _Reader, operator: Any, name: str, source: str) -> None:
        self.reader, self.operator, self.name, self.source = reader, operator, name, source
        self.options = operator.builtinOptions
        self.result = reader.subgraph.tensors[operator.outputs[0]]
        self.shape = reader._shape(self.result)

    def refuse(self, reason: str, fix: str) -> UnsupportedError:
        return UnsupportedError(f"layer {self.source!r} ({self.name})", reason, fix)

    def index(self, position: int) -> int:
        inputs = self.operator.inputs
        index = int(inputs[position]) if position < len(inputs) else -1
        return self.reader.widened.get(index, index)

    def data(self, position: int = 0) -> str:
        return self.reader._name(self.index(position))

    def data_shape(self) -> tuple[int, ...]:
        return self.reader._shape(self.reader.subgraph.tensors[self.index(0)])

    def values(self, position: int) -> Array:
        value = self.reader._values(self.index(position))
        if value is None:
            raise self.refuse("its weights are computed at run time", "Export constant weights")
        return value

    def constant(self, position: int) -> str:
        tensor = self.reader.subgraph.tensors[self.index(position)]
        quant = self.reader._quant(tensor)
        return self.reader.builder.constant(_text(tensor.name), self.values(position), quant)

    def clamp(self) -> dict[str, Any]:
        name = self.reader.activations.get(getattr(self.options, "fusedActivationFunction", 0), "?")
        if name not in ACTIVATIONS:
            raise self.refuse(f"its fused activation is {name}", "Use ReLU or ReLU6")
        return {} if ACTIVATIONS[name] is None else {"clamp": ACTIVATIONS[name]}

    def emit(self, op: str, inputs: Sequence[str], attrs: dict[str, Any]) -> None:
        self.reader.names[int(self.operator.outputs[0])] = self.node(op, inputs, self.shape, attrs, self.source)

    def node(self, op: str, inputs: Sequence[str], shape: tuple[int, ...], attrs: dict[str, Any], name: str) -> str:
        quant = self.reader._quant(self.result)
        kind = self.reader._kind(self.result)
        return self.reader.builder.node(
            op, inputs, shape, attrs=attrs, dtype=kind, quant=quant, source=self.source, output=name
        )

    def window(self, kernel: tuple[int, int], dilation: tuple[int, int] = (1, 1)) -> dict[str, Any]:
        stride = (int(self.options.strideH), int(self.options.strideW))
        sides: list[int] = []
        for size, extent, step, spread in zip(self.data_shape()[1:3], kernel, stride, dilation, strict=True):
            total = max(0, (-(-size // step) - 1) * step + (extent - 1) * spread + 1 - size)
            same = self.options.padding == self.reader.api.Padding.SAME
            sides += [total // 2, total - total // 2] if same else [0, 0]
        return {"stride": stride, "padding": tuple(sides)}


def _convolution(call: _Call) -> None:
    weights = call.values(1)
    op = "depthwise_conv2d" if call.name == "DEPTHWISE_CONV_2D" else "conv2d"
    if op == "depthwise_conv2d" and weights.shape[3] != call.data_shape()[3]:
        raise call.refuse("its depth multiplier is not 1", "Use one filter per channel")
    dilation = (int(call.options.dilationHFactor), int(call.options.dilationWFactor))
    attrs = call.window((weights.shape[1], weights.shape[2]), dilation) | call.clamp()
    if dilation != (1, 1):
        attrs["dilation"] = dilation
    inputs = [call.data(), call.constant(1)] + ([call.constant(2)] if call.index(2) >= 0 else [])
    call.emit(op, inputs, attrs)


def _dense(call: _Call) -> None:
    weights = call.values(1)
    data = call.data()
    if len(call.data_shape()) != 2:
        if call.data_shape()[0] != 1 or int(np.prod(call.data_shape())) != weights.shape[1]:
            raise call.refuse(f"its input has shape {call.data_shape()}", "Flatten the input to (1, features)")
        tensor = call.reader.subgraph.tensors[call.index(0)]
        shape = (1, weights.shape[1])
        data = call.reader.builder.node(
            "reshape", [data], shape, attrs={"shape": shape}, dtype=call.reader._kind(tensor),
            quant=call.reader._quant(tensor), source=call.source, output=f"{call.source}.flat",
        )  # fmt: skip
    inputs = [data, call.constant(1)] + ([call.constant(2)] if call.index(2) >= 0 else [])
    call.emit("dense", inputs, call.clamp())


def _mean(call: _Call) -> None:
    axes = sorted(int(axis) % len(call.data_shape()) for axis in call.values(1).ravel())
    if len(call.data_shape()) != 4 or axes != [1, 2]:
        raise call.refuse(f"it averages over {axes}", "Average over height and width")
    if not call.options.keepDims:
        call.emit("mean", [call.data()], {})
        return
    mean = call.node("mean", [call.data()], (call.shape[0], call.shape[3]), {}, f"{call.source}.mean")
    call.emit("reshape", [mean], {"shape": call.shape})


def _pad(call: _Call) -> None:
    widths = call.values(1).tolist()
    if len(widths) != 4 or any(widths[0]) or any(widths[3]):
        raise call.refuse(f"it pads {widths}", "Pad height and width only")
    call.emit("pad", [call.data()], {"padding": (*map(int, widths[1]), *map(int, widths[2]))})


def _pool(call: _Call) -> None:
    kernel = (int(call.options.filterHeight), int(call.options.filterWidth))
    op = "avg_pool" if call.name == "AVERAGE_POOL_2D" else "max_pool"
    call.emit(op, [call.data()], {"kernel": kernel, **call.window(kernel), **call.clamp()})


def _softmax(call: _Call) -> None:
    if call.options.beta != 1.0:
        raise call.refuse(f"beta is {call.options.beta}", "Use beta = 1")
    call.emit("softmax", [call.data()], {})


def _dequantize(call: _Call) -> None:
    index, kind = call.index(0), call.reader._kind(call.reader.subgraph.tensors[call.index(0)])
    if kind == "float16" and call.reader._values(index) is not None:
        call.reader.widened[int(call.operator.outputs[0])] = index
        return
    call.emit("dequantize", [call.data()], {})


def _quantize(call: _Call) -> None:
    if call.reader._kind(call.reader.subgraph.tensors[call.index(0)]) != "float32":
        raise call.refuse("it converts between integer types", "Convert with int8 inputs and outputs")
    call.emit("quantize", [call.data()], {})


RULES: dict[str, Callable[[_Call], None]] = {
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _convolution,
    "FULLY_CONNECTED": _dense,
    "ADD": lambda call: call.emit("add", [call.data(), call.data(1)], call.clamp()),
    "MEAN": _mean,
    "PAD": _pad,
    "AVERAGE_POOL_2D": _pool,
    "MAX_POOL_2D": _pool,
    "SOFTMAX": _softmax,
    "RESHAPE": lambda call: call.emit("reshape", [call.data()], {"shape": call.shape}),
    "SQUEEZE": lambda call: call.emit("reshape", [call.data()], {"shape": call.shape}),
    "QUANTIZE": _quantize,
    "DEQUANTIZE": _dequantize,
    "RELU": lambda call: call.emit("clamp", [call.data()], {"clamp": ACTIVATIONS["RELU"]}),
    "RELU6": lambda call: call.emit("clamp", [call.data()], {"clamp": ACTIVATIONS["RELU6"]}),
    "RELU_N1_TO_1": lambda call: call.emit("clamp", [call.data()], {"clamp": ACTIVATIONS["RELU_N1_TO_1"]}),
}
