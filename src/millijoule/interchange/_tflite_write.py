"""A graph as .tflite bytes, without TensorFlow."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from millijoule.errors import UnsupportedError
from millijoule.files import atomic_write_bytes
from millijoule.graph import WEIGHT_AXIS, Graph, Node, Quant, mode, simplify
from millijoule.graph.nibbles import pack_nibbles
from millijoule.interchange._tflite_schema import ACTIVATIONS, IDENTIFIER, METADATA, schema

__all__ = ["tflite_bytes", "write_tflite"]

Array = npt.NDArray[Any]

VERSIONS = {"PAD": 2, "SOFTMAX": 2, "MEAN": 2, "ADD": 2, "AVERAGE_POOL_2D": 2, "MAX_POOL_2D": 2, "DEQUANTIZE": 2}
"""Operator versions that read int8; float graphs are written with version 1."""


def write_tflite(graph: Graph, path: Path, *, bias_quantization: bool = True) -> None:
    """Writes `tflite_bytes` to `path`. Raises what it raises, and OutputError."""
    atomic_write_bytes(Path(path), tflite_bytes(graph, bias_quantization=bias_quantization))


def tflite_bytes(graph: Graph, *, bias_quantization: bool = True) -> bytes:
    """A float, dynamic-range or int8 graph as a .tflite file (FlatBuffers schema version 3).

    The graph's `normalize` node is not part of the file, since TFLite has no such operator: the file's input is what
    `normalize` gives. An int8 graph takes int8 with the input tensor's scale and zero point; float and dynamic graphs
    take float32, ``picture * scale + offset``. Batch normalisation is folded. Outputs are the graph's, in its order.

    Weights of 4 bits are INT4, which LiteRT and TFLite Micro unpack when they load the file or run the layer.

    Weights and biases that are 16-bit floats are FLOAT16 behind a DEQUANTIZE operator each, as TFLite's converter
    writes them; LiteRT widens them once.

    Dynamic graphs become TFLite's hybrid kernels: float data, int8 weights per channel, data quantised at run time
    asymmetrically, each picture by its own range.

    Args:
        graph: what to write.
        bias_quantization: whether int32 biases carry their scales and zero points. TFLite derives them from the
            input and the weights; without them the file is about a tenth smaller.

    Raises:
        UnsupportedError: an operator or attribute that .tflite cannot express; names the layer.
        ToolchainError: ai-edge-litert is not installed.
    """
    if any(node.op == "batch_norm" for node in graph.nodes):
        graph = simplify(graph)
    return _Writer(graph, bias_quantization).bytes()


class _Writer:
    def __init__(self, graph: Graph, bias_quantization: bool) -> None:
        self.graph, self.bias_quantization = graph, bias_quantization
        self.s = schema()
        self.tensors: list[Any] = []
        self.buffers: list[Any] = [self.s.BufferT()]
        self.operators: list[Any] = []
        self.codes: dict[tuple[str, int], int] = {}
        self.index: dict[str, int] = {}

    def bytes(self) -> bytes:
        import flatbuffers

        graph, s = self.graph, self.s
        start = graph.inputs[0]
        for node in graph.nodes:
            if node.op == "normalize":
                if node.inputs[0] != start:
                    raise self._refuse(node, "it is not at the input", "Normalise the picture first")
                start = node.output
        self.index[start] = self._tensor(start)
        for node in graph.nodes:
            if node.op != "normalize":
                self._node(node)
        subgraph = s.SubGraphT()
        subgraph.name = "main"
        subgraph.tensors, subgraph.operators = self.tensors, self.operators
        subgraph.inputs = [self.index[start]]
        subgraph.outputs = [self.index[name] for name in graph.outputs]
        model = s.ModelT()
        model.version = 3
        model.description = f"millijoule {graph.name}"
        model.operatorCodes = [self._code(name, version) for name, version in self.codes]
        model.metadata = [self._metadata()]
        model.subgraphs, model.buffers = [subgraph], self.buffers
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
        return bytes(builder.Output())

    def _metadata(self) -> Any:
        """What .tflite has no place for: how pictures are normalised, the classes, the rounding; as JSON."""
        graph = self.graph
        rules = [node.attrs for node in graph.nodes if node.op == "normalize"]
        known = {
            "name": graph.name,
            "classes": list(graph.classes),
            "rounding": graph.rounding,
            "normalize": {key: list(rules[0][key]) for key in ("scale", "offset")} if rules else None,
        }
        entry = self.s.MetadataT()
        buffer = self.s.BufferT()
        buffer.data = np.frombuffer(json.dumps(known).encode(), dtype=np.uint8)
        self.buffers.append(buffer)
        entry.name, entry.buffer = METADATA, len(self.buffers) - 1
        return entry

    def _refuse(self, node: Node, reason: str, fix: str) -> UnsupportedError:
        return UnsupportedError(f"layer {node.source or node.output!r} ({node.op})", f"in .tflite {reason}", fix)

    def _code(self, name: str, version: int) -> Any:
        code = self.s.OperatorCodeT()
        value = getattr(self.s.BuiltinOperator, name)
        code.deprecatedBuiltinCode, code.builtinCode, code.version = min(value, 127), value, version
        return code

    def _tensor(
        self, name: str, value: Array | None = None, quant: Quant | None = None, shape: Sequence[int] | None = None
    ) -> int:
        """Adds a tensor; a value makes it a constant, otherwise it is an activation of the graph."""
        s = self.s
        if value is None and shape is None:
            declared = self.graph.tensor(name)
            shape, kind, quant = declared.shape, declared.dtype, declared.quant
        elif value is not None:
            shape, kind = value.shape, value.dtype.name
        else:
            kind = "float32"
        tensor = s.TensorT()
        tensor.name, tensor.shape = name, [int(extent) for extent in shape or ()]
        tensor.type = getattr(s.TensorType, kind.upper())
        if value is not None:
            buffer = s.BufferT()
            if quant is not None and quant.bits == 4:
                tensor.type, value = s.TensorType.INT4, pack_nibbles(value)
            buffer.data = np.frombuffer(np.ascontiguousarray(value).tobytes(), dtype=np.uint8)
            self.buffers.append(buffer)
            tensor.buffer = len(self.buffers) - 1
        if quant is not None:
            tensor.quantization = s.QuantizationParametersT()
            tensor.quantization.scale = np.array(quant.scale, dtype=np.float32)
            tensor.quantization.zeroPoint = np.array(quant.zero_point, dtype=np.int64)
            tensor.quantization.quantizedDimension = quant.axis or 0
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def _operator(self, name: str, inputs: Sequence[int], outputs: Sequence[int], options: Any, version: int) -> None:
        operator = self.s.OperatorT()
        operator.opcodeIndex = self.codes.setdefault((name, version), len(self.codes))
        operator.inputs, operator.outputs = list(inputs), list(outputs)
        if options is not None:
            kind = type(options).__name__.removesuffix("T")
            operator.builtinOptionsType = getattr(self.s.BuiltinOptions, kind)
            operator.builtinOptions = options
        self.operators.append(operator)

    def _node(self, node: Node) -> None:
        writer = getattr(self, f"_write_{node.op}", None)
        if writer is None:
            raise self._refuse(node, "there is no such operator", "Simplify the graph, or use another layer")
        self.index[node.output] = self._tensor(node.output)
        writer(node)

    def _emit(self, node: Node, name: str, options: Any, extra: Sequence[int] = (), *, version: int = 0) -> None:
        kind = mode(self.graph, node)
        version = version or (VERSIONS.get(name, 1) if kind == "integer" else 1)
        self._operator(name, [self.index[node.inputs[0]], *extra], [self.index[node.output]], options, version)

    def _activation(self, node: Node) -> int:
        clamp = node.attrs.get("clamp")
        for name, bounds in ACTIVATIONS.items():
            if bounds == (None if clamp is None else tuple(clamp)):
                return int(getattr(self.s.ActivationFunctionType, name))
        raise self._refuse(node, f"there is no fused clamp {clamp}", "Use ReLU, ReLU6 or bounds (-1, 1)")

    def _window(self, node: Node, options: Any, kernel: tuple[int, int], zero_padding: bool) -> int:
        """Sets stride and padding; padding that is neither VALID nor SAME becomes a PAD operator. Gives the input."""
        data = self.graph.tensor(node.inputs[0])
        stride, sides = tuple(node.attrs["stride"]), tuple(node.attrs["padding"])
        dilation = tuple(node.attrs.get("dilation", (1, 1)))
        options.strideH, options.strideW = stride
        same: list[int] = []
        for size, window, step, spread in zip(data.shape[1:3], kernel, stride, dilation, strict=True):
            total = max(0, (-(-size // step) - 1) * step + (window - 1) * spread + 1 - size)
            same += [total // 2, total - total // 2]
        options.padding = self.s.Padding.VALID
        if sides == tuple(same) and any(sides):
            options.padding = self.s.Padding.SAME
        elif any(sides):
            if not zero_padding:
                raise self._refuse(node, f"pooling cannot be padded by {sides}", "Use a padding that TFLite calls SAME")
            return self._padded(node, sides)
        return self.index[node.inputs[0]]

    def _padded(self, node: Node, sides: tuple[int, ...]) -> int:
        data = self.graph.tensor(node.inputs[0])
        shape = (data.shape[0], data.shape[1] + sides[0] + sides[1], data.shape[2] + sides[2] + sides[3], data.shape[3])
        padded = self._tensor(f"{node.output}.padded", None, data.quant, shape)
        self.tensors[padded].type = getattr(self.s.TensorType, data.dtype.upper())
        self._pad(self.index[node.inputs[0]], padded, sides, data.dtype)
        return padded

    def _pad(self, source: int, result: int, sides: tuple[int, ...], dtype: str) -> None:
        table = np.array([[0, 0], sides[:2], sides[2:], [0, 0]], dtype=np.int32)
        widths = self._tensor(f"{self.tensors[result].name}.widths", table)
        self._operator("PAD", [source, widths], [result], self.s.PadOptionsT(), 2 if dtype == "int8" else 1)

    def _parameter(self, name: str, value: Array, quant: Quant | None) -> int:
        """A constant; a 16-bit float behind the operator that widens it."""
        stored = self._tensor(name, value, quant)
        if value.dtype != np.float16:
            return stored
        widened = self._tensor(f"{name}.float32", shape=value.shape)
        self._operator("DEQUANTIZE", [stored], [widened], self.s.DequantizeOptionsT(), 3)
        return widened

    def _constants(self, node: Node) -> list[int]:
        names = node.inputs[1:]
        weights, quant = self.graph.constant(names[0]), self.graph.tensor(names[0]).quant
        made = [self._parameter(names[0], weights, quant)]
        channels = weights.shape[WEIGHT_AXIS[node.op]]
        integer = mode(self.graph, node) == "integer"
        if len(names) > 1:
            bias_quant = self.graph.tensor(names[1]).quant if self.bias_quantization else None
            made.append(self._parameter(names[1], self.graph.constant(names[1]), bias_quant))
        else:
            made.append(self._tensor(f"{node.output}.bias", np.zeros(channels, np.int32 if integer else np.float32)))
        return made

    def _write_conv2d(self, node: Node) -> None:
        options = self.s.Conv2DOptionsT()
        options.fusedActivationFunction = self._activation(node)
        options.dilationHFactor, options.dilationWFactor = node.attrs.get("dilation", (1, 1))
        weights = self.graph.tensor(node.inputs[1])
        data = self._window(node, options, (weights.shape[1], weights.shape[2]), True)
        version = {"float": 1, "integer": 3, "dynamic": 5}[mode(self.graph, node)]
        self._operator("CONV_2D", [data, *self._constants(node)], [self.index[node.output]], options, version)

    def _write_depthwise_conv2d(self, node: Node) -> None:
        options = self.s.DepthwiseConv2DOptionsT()
        options.depthMultiplier = 1
        options.fusedActivationFunction = self._activation(node)
        options.dilationHFactor, options.dilationWFactor = node.attrs.get("dilation", (1, 1))
        weights = self.graph.tensor(node.inputs[1])
        data = self._window(node, options, (weights.shape[1], weights.shape[2]), True)
        version = {"float": 1, "integer": 3, "dynamic": 6}[mode(self.graph, node)]
        if version == 1 and node.attrs.get("dilation", (1, 1)) != (1, 1):
            version = 2
        self._operator("DEPTHWISE_CONV_2D", [data, *self._constants(node)], [self.index[node.output]], options, version)

    def _write_dense(self, node: Node) -> None:
        options = self.s.FullyConnectedOptionsT()
        options.fusedActivationFunction = self._activation(node)
        kind = mode(self.graph, node)
        options.asymmetricQuantizeInputs = kind == "dynamic"
        per_channel = kind != "float" and self.graph.quant(node.inputs[1]).axis is not None
        version = {"float": 1, "integer": 5 if per_channel else 4, "dynamic": 12 if per_channel else 9}[kind]
        self._emit(node, "FULLY_CONNECTED", options, self._constants(node), version=version)

    def _write_add(self, node: Node) -> None:
        options = self.s.AddOptionsT()
        options.fusedActivationFunction = self._activation(node)
        self._emit(node, "ADD", options, [self.index[node.inputs[1]]])

    def _write_pad(self, node: Node) -> None:
        dtype = self.graph.tensor(node.output).dtype
        self._pad(self.index[node.inputs[0]], self.index[node.output], tuple(node.attrs["padding"]), dtype)

    def _write_mean(self, node: Node) -> None:
        axes = self._tensor(f"{node.output}.axes", np.array([1, 2], dtype=np.int32))
        self._emit(node, "MEAN", self.s.ReducerOptionsT(), [axes])

    def _pool(self, node: Node, name: str) -> None:
        options = self.s.Pool2DOptionsT()
        options.filterHeight, options.filterWidth = node.attrs["kernel"]
        options.fusedActivationFunction = self._activation(node)
        self._window(node, options, tuple(node.attrs["kernel"]), False)
        self._emit(node, name, options)

    def _write_avg_pool(self, node: Node) -> None:
        self._pool(node, "AVERAGE_POOL_2D")

    def _write_max_pool(self, node: Node) -> None:
        self._pool(node, "MAX_POOL_2D")

    def _write_softmax(self, node: Node) -> None:
        options = self.s.SoftmaxOptionsT()
        options.beta = 1.0
        self._emit(node, "SOFTMAX", options)

    def _write_clamp(self, node: Node) -> None:
        names: Mapping[int, str] = {1: "RELU", 2: "RELU_N1_TO_1", 3: "RELU6"}
        activation = self._activation(node)
        if activation not in names:
            raise self._refuse(node, f"there is no operator for {node.attrs['clamp']}", "Use ReLU, ReLU6 or (-1, 1)")
        self._emit(node, names[activation], None, version=2 if mode(self.graph, node) == "integer" else 1)

    def _write_reshape(self, node: Node) -> None:
        options = self.s.ReshapeOptionsT()
        options.newShape = [int(extent) for extent in node.attrs["shape"]]
        shape = self._tensor(f"{node.output}.shape", np.array(node.attrs["shape"], dtype=np.int32))
        self._emit(node, "RESHAPE", options, [shape])

    def _write_quantize(self, node: Node) -> None:
        self._emit(node, "QUANTIZE", self.s.QuantizeOptionsT())

    def _write_dequantize(self, node: Node) -> None:
        self._emit(node, "DEQUANTIZE", self.s.DequantizeOptionsT())
