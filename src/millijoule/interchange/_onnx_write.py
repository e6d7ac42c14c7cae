"""A graph as ONNX: float, or int8 as QuantizeLinear/DequantizeLinear pairs (QDQ)."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from millijoule.errors import ToolchainError, UnsupportedError
from millijoule.files import atomic_write_bytes
from millijoule.graph import WEIGHT_AXIS, Graph, Node, Quant, mode, simplify

__all__ = ["METADATA", "OPSET", "onnx_bytes", "onnx_module", "write_onnx"]

Array = npt.NDArray[Any]

OPSET = 13
METADATA = "millijoule"


def onnx_module() -> Any:
    """The onnx package. Raises ToolchainError when it is not installed."""
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise ToolchainError("onnx", "it is not installed", "Run pip install 'millijoule[interchange]'") from error
    return onnx


def write_onnx(graph: Graph, path: Path) -> None:
    """Writes `onnx_bytes` to `path`. Raises what it raises, and OutputError."""
    atomic_write_bytes(Path(path), onnx_bytes(graph))


def onnx_bytes(graph: Graph) -> bytes:
    """A float or int8 graph as an ONNX model (opset 13, NCHW).

    The model's input is float32 (N, C, H, W): what the graph's `normalize` node gives. An int8 graph becomes QDQ: every
    activation is followed by QuantizeLinear and DequantizeLinear with its scale, weights are int8 per channel and
    biases int32 behind DequantizeLinear. A runtime that fuses QDQ requantises in float, so results may differ from the
    integer executor's by single steps. Weights that are 16-bit floats stay so, behind Cast. Outputs are float32.

    Args:
        graph: what to write; batch normalisation is folded.

    Raises:
        UnsupportedError: dynamic nodes, or a flatten whose reader is not a dense layer.
        ToolchainError: onnx is not installed.
    """
    if any(node.op == "batch_norm" for node in graph.nodes):
        graph = simplify(graph)
    return _Writer(graph).bytes()


def _outside(shape: Sequence[int]) -> list[Any]:
    shape = [int(extent) for extent in shape]
    return ["N", shape[3], shape[1], shape[2]] if len(shape) == 4 else ["N", *shape[1:]]


class _Writer:
    def __init__(self, graph: Graph) -> None:
        self.graph, self.onnx = graph, onnx_module()
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.order: dict[str, tuple[int, int, int]] = {}
        self.names: dict[str, str] = {}

    def bytes(self) -> bytes:
        graph, helper = self.graph, self.onnx.helper
        kind = self.onnx.TensorProto.FLOAT
        start = graph.inputs[0]
        for node in graph.nodes:
            if node.op == "normalize":
                start = node.output
        shape = graph.tensor(start).shape
        entry = "input" if "input" not in graph.tensors else f"{start}.input"
        self._publish(start, entry)
        for node in graph.nodes:
            if node.op != "normalize":
                self._node(node)
        outputs = []
        for name in graph.outputs:
            final = f"{name}.output" if self.names[name] != name else name
            if final != self.names[name]:
                self._add("Identity", [self.names[name]], final)
            outputs.append(helper.make_tensor_value_info(final, kind, _outside(graph.tensor(name).shape)))
        inputs = [helper.make_tensor_value_info(entry, kind, _outside(shape))]
        body = helper.make_graph(self.nodes, graph.name, inputs, outputs, self.constants)
        model = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="millijoule")
        model.ir_version = 8
        rules = [node.attrs for node in graph.nodes if node.op == "normalize"]
        known = {
            "name": graph.name,
            "classes": list(graph.classes),
            "normalize": {key: list(rules[0][key]) for key in ("scale", "offset")} if rules else None,
        }
        helper.set_model_props(model, {METADATA: json.dumps(known)})
        self.onnx.checker.check_model(model)
        data: bytes = model.SerializeToString()
        return data

    def _refuse(self, node: Node, reason: str, fix: str) -> UnsupportedError:
        return UnsupportedError(f"layer {node.source or node.output!r} ({node.op})", f"in ONNX {reason}", fix)

    def _add(self, op: str, inputs: Sequence[str], output: str, **attrs: Any) -> str:
        self.nodes.append(self.onnx.helper.make_node(op, list(inputs), [output], name=f"{op}:{output}", **attrs))
        return output

    def _constant(self, name: str, value: Array) -> str:
        self.constants.append(self.onnx.numpy_helper.from_array(np.array(value, order="C"), name))
        return name

    def _publish(self, name: str, raw: str) -> None:
        """Makes `raw` the value of tensor `name`; int8 tensors pass through a quantise/dequantise pair."""
        quant = self.graph.tensor(name).quant
        if self.graph.tensor(name).dtype != "int8" or quant is None:
            self.names[name] = raw
            return
        scale, zero = self._quant_constants(name, quant)
        stored = self._add("QuantizeLinear", [raw, scale, zero], f"{name}.stored")
        self.names[name] = self._add("DequantizeLinear", [stored, scale, zero], f"{name}.real")

    def _quant_constants(self, name: str, quant: Quant, kind: type[np.generic] = np.int8) -> tuple[str, str]:
        single = quant.axis is None
        scale = np.float32(quant.scale[0]) if single else np.array(quant.scale, np.float32)
        zero = np.array(quant.zero_point[0] if single else quant.zero_point, kind)
        return self._constant(f"{name}.scale", np.asarray(scale)), self._constant(f"{name}.zero", zero)

    def _parameter(self, name: str, value: Array, axis: int) -> str:
        """A float constant, behind Cast where it has 16 bits, or an integer one behind DequantizeLinear."""
        quant = self.graph.tensor(name).quant
        if value.dtype == np.float16:
            float32 = self.onnx.TensorProto.FLOAT
            return self._add("Cast", [self._constant(name, value)], f"{name}.float32", to=float32)
        if quant is None or value.dtype == np.float32:
            return self._constant(name, value)
        kind = np.int8 if value.dtype == np.int8 else np.int32
        scale, zero = self._quant_constants(name, quant, kind)
        extra = {} if quant.axis is None else {"axis": axis}
        return self._add("DequantizeLinear", [self._constant(name, value), scale, zero], f"{name}.real", **extra)

    def _node(self, node: Node) -> None:
        if mode(self.graph, node) == "dynamic":
            raise self._refuse(node, "dynamic layers are not written", "Write the float or the static graph")
        data = self.names[node.inputs[0]]
        clamp = node.attrs.get("clamp")
        quantized = self.graph.tensor(node.output).dtype == "int8"
        raw = f"{node.output}.raw" if quantized else node.output
        before = raw if clamp is None or node.op == "clamp" else f"{node.output}.sum"
        if node.inputs[0] in self.order and node.op != "dense":
            if node.op not in ("clamp", "add"):
                raise self._refuse(node, "it reads a flattened feature map", "Flatten directly before a dense layer")
            self.order[node.output] = self.order[node.inputs[0]]
        if node.op in WEIGHT_AXIS:
            self._layer(node, data, before)
        elif node.op == "add":
            self._add("Add", [data, self.names[node.inputs[1]]], before)
        elif node.op == "pad":
            top, bottom, left, right = node.attrs["padding"]
            sides = self._constant(f"{raw}.sides", np.array([0, 0, top, left, 0, 0, bottom, right], np.int64))
            self._add("Pad", [data, sides], before)
        elif node.op in ("avg_pool", "max_pool"):
            top, bottom, left, right = node.attrs["padding"]
            attrs: dict[str, Any] = {
                "kernel_shape": list(node.attrs["kernel"]),
                "strides": list(node.attrs["stride"]),
                "pads": [top, left, bottom, right],
            }
            self._add("AveragePool" if node.op == "avg_pool" else "MaxPool", [data], before, **attrs)
        elif node.op == "mean":
            self._add("ReduceMean", [data], before, axes=[2, 3], keepdims=0)
        elif node.op == "softmax":
            self._add("Softmax", [data], before, axis=-1)
        elif node.op == "transpose":
            self._add("Transpose", [data], before, perm=[0, 1, 3, 2])
        elif node.op == "reshape":
            self._reshape(node, data, before)
        elif node.op in ("quantize", "dequantize"):
            self._add("Identity", [data], before)
        elif node.op != "clamp":
            raise self._refuse(node, "there is no such operator", "Simplify the graph first")
        if clamp is not None:
            self._clamp(node, data if node.op == "clamp" else before, raw)
        self._publish(node.output, raw)

    def _clamp(self, node: Node, data: str, result: str) -> None:
        low, high = (float(bound) for bound in node.attrs["clamp"])
        if (low, high) == (0.0, math.inf):
            self._add("Relu", [data], result)
            return
        names = [
            "" if math.isinf(bound) else self._constant(f"{result}.{role}", np.array(bound, np.float32))
            for role, bound in (("low", low), ("high", high))
        ]
        self._add("Clip", [data, *names], result)

    def _layer(self, node: Node, data: str, result: str) -> None:
        weights = self.graph.constant(node.inputs[1])
        if node.op == "dense":
            if node.inputs[0] in self.order:
                channels, height, width = self.order[node.inputs[0]]
                weights = weights.reshape(-1, height, width, channels).transpose(0, 3, 1, 2).reshape(weights.shape)
            names = [self._parameter(node.inputs[1], weights, 0)]
        else:
            order = (0, 3, 1, 2) if node.op == "conv2d" else (3, 0, 1, 2)
            names = [self._parameter(node.inputs[1], weights.transpose(order), 0)]
        if len(node.inputs) == 3:
            names.append(self._parameter(node.inputs[2], self.graph.constant(node.inputs[2]), 0))
        if node.op == "dense":
            self._add("Gemm", [data, *names], result, transB=1)
            return
        top, bottom, left, right = node.attrs["padding"]
        self._add(
            "Conv", [data, *names], result,
            kernel_shape=list(weights.shape[1:3]), strides=list(node.attrs["stride"]), pads=[top, left, bottom, right],
            dilations=list(node.attrs.get("dilation", (1, 1))),
            group=weights.shape[3] if node.op == "depthwise_conv2d" else 1,
        )  # fmt: skip

    def _reshape(self, node: Node, data: str, result: str) -> None:
        before, after = self.graph.tensor(node.inputs[0]).shape, self.graph.tensor(node.output).shape
        if len(before) == 4 and len(after) == 2:
            self._add("Flatten", [data], result, axis=1)
            if before[1] * before[2] > 1 and before[3] > 1:
                self.order[node.output] = (before[3], before[1], before[2])
            return
        if len(before) == len(after) == 2 or (len(after) == 4 and after[1] == after[2] == 1 and len(before) == 2):
            shape = [0, *(_outside(after)[1:])]
            self._add("Reshape", [data, self._constant(f"{result}.shape", np.array(shape, np.int64))], result)
            return
        raise self._refuse(node, f"it turns {before} into {after}", "Flatten to (N, features)")
