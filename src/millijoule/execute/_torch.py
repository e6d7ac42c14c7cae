"""Float graphs in torch: as a module that can be trained or taught from, and as the fast float executor."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from millijoule.errors import GraphError, UnsupportedError
from millijoule.graph import Graph, Node, mode

__all__ = ["FloatModule", "TorchExecutor", "torch_constant"]


def torch_constant(node: Node, index: int, value: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A constant in torch's layout: OIHW for convolutions, everything else as it is; 16-bit floats widened."""
    value = value.astype(np.float32) if value.dtype == np.float16 else value
    if index == 1 and node.op == "conv2d":
        return np.ascontiguousarray(value.transpose(0, 3, 1, 2))
    if index == 1 and node.op == "depthwise_conv2d":
        return np.ascontiguousarray(value.transpose(3, 0, 1, 2))
    return value


class FloatModule(nn.Module):
    """A float graph as a torch module with trainable weights.

    `forward` takes float32 (N, C, H, W), normalised as the graph's `normalize` node does it, and returns the first
    output (logits), as the modules of `nets` do. Parameters are called like the graph's constants with dots replaced
    by underscores.

    Args:
        graph: a float graph, batch_norm nodes allowed (they use their running statistics).

    Raises:
        UnsupportedError: the graph has integer or dynamic nodes.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        self.parameter_names: dict[str, str] = {}
        for node in graph.nodes:
            if mode(graph, node) != "float":
                raise UnsupportedError(
                    f"layer {node.source or node.output!r} ({node.op})", "it is not float", "Give the float graph"
                )
            for index, name in enumerate(node.inputs):
                if name in graph.constants and name not in self.parameter_names:
                    stored = f"w_{name.replace('.', '_')}"
                    while hasattr(self, stored):
                        stored += "_"
                    value = torch.from_numpy(torch_constant(node, index, graph.constants[name]).copy())
                    if value.ndim == 4:
                        value = value.to(memory_format=torch.channels_last)
                    if node.op == "batch_norm" and index >= 3:
                        self.register_buffer(stored, value)
                    else:
                        self.register_parameter(stored, nn.Parameter(value))
                    self.parameter_names[name] = stored

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of normalised pictures (N, C, H, W)."""
        return self.values(x, self.graph.outputs[:1])[self.graph.outputs[0]]

    def values(self, x: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
        """The named tensors, feature maps as (N, C, H, W); stops when the last of them is there."""
        graph = self.graph
        wanted = set(names)
        first = graph.nodes[0]
        start = first.output if first.op == "normalize" else graph.inputs[0]
        values: dict[str, Tensor] = {start: x}
        found = {start: x} if start in wanted else {}
        last = {name: node for node in graph.nodes for name in node.inputs}
        for node in graph.nodes[1:] if first.op == "normalize" else graph.nodes:
            if len(found) == len(wanted):
                break
            inputs = [
                getattr(self, self.parameter_names[name]) if name in self.parameter_names else values[name]
                for name in node.inputs
            ]
            result = apply(graph, node, inputs)
            values[node.output] = result
            if node.output in wanted:
                found[node.output] = result
            for name in node.inputs:
                if last[name] is node:
                    values.pop(name, None)
        missing = wanted - set(found)
        if missing:
            raise GraphError(f"tensor {min(missing)!r}", "no node computes it", "Name an existing activation")
        return found


def apply(graph: Graph, node: Node, inputs: list[Tensor]) -> Tensor:
    """One float node in torch; feature maps are (N, C, H, W)."""
    x = inputs[0]
    if node.op in ("conv2d", "depthwise_conv2d"):
        result = _convolve(node, x, inputs[1], inputs[2] if len(inputs) == 3 else None)
    elif node.op == "dense":
        result = functional.linear(x, inputs[1], inputs[2] if len(inputs) == 3 else None)
    elif node.op == "batch_norm":
        gamma, beta, mean, variance = inputs[1:]
        result = functional.batch_norm(x, mean, variance, gamma, beta, False, 0.0, float(node.attrs["epsilon"]))
    elif node.op == "add":
        result = x + inputs[1]
    elif node.op == "pad":
        top, bottom, left, right = node.attrs["padding"]
        result = functional.pad(x, (left, right, top, bottom))
    elif node.op == "mean":
        result = x.mean((2, 3))
    elif node.op in ("avg_pool", "max_pool"):
        result = _pool(node, x)
    elif node.op == "softmax":
        result = x.softmax(-1)
    elif node.op == "clamp":
        result = x
    elif node.op == "transpose":
        result = x.transpose(2, 3)
    elif node.op == "reshape":
        flat = x.permute(0, 2, 3, 1) if x.ndim == 4 else x
        shape = tuple(node.attrs["shape"])
        result = flat.reshape(x.shape[0], *shape[1:])
        result = result.permute(0, 3, 1, 2) if len(shape) == 4 else result
    else:
        raise UnsupportedError(
            f"layer {node.source or node.output!r} ({node.op})", "it has no float arithmetic", "Use another operator"
        )
    clamp = node.attrs.get("clamp")
    return result if clamp is None else result.clamp(float(clamp[0]), float(clamp[1]))


def _convolve(node: Node, x: Tensor, weights: Tensor, bias: Tensor | None) -> Tensor:
    top, bottom, left, right = node.attrs["padding"]
    groups = x.shape[1] if node.op == "depthwise_conv2d" else 1
    sides: tuple[int, int] = (top, left)
    if top != bottom or left != right:
        x, sides = functional.pad(x, (left, right, top, bottom)), (0, 0)
    dilation = tuple(node.attrs.get("dilation", (1, 1)))
    return functional.conv2d(x, weights, bias, tuple(node.attrs["stride"]), sides, dilation, groups)


def _pool(node: Node, x: Tensor) -> Tensor:
    top, bottom, left, right = node.attrs["padding"]
    kernel, stride = tuple(node.attrs["kernel"]), tuple(node.attrs["stride"])
    sides = (left, right, top, bottom)
    if node.op == "max_pool":
        padded = functional.pad(x, sides, value=float("-inf")) if any(sides) else x
        return functional.max_pool2d(padded, kernel, stride)
    if not any(sides):
        return functional.avg_pool2d(x, kernel, stride)
    inside = functional.pad(torch.ones_like(x[:1, :1]), sides)
    total = functional.avg_pool2d(functional.pad(x, sides), kernel, stride, divisor_override=1)
    return total / functional.avg_pool2d(inside, kernel, stride, divisor_override=1)


class TorchExecutor:
    """Runs batches of pictures through a float graph; results in the graph's layouts."""

    def __init__(self, graph: Graph, keep: Iterable[str] = ()) -> None:
        self.graph = graph
        self.module = FloatModule(graph).eval()
        self.wanted = tuple(dict.fromkeys((*graph.outputs, *keep)))
        first = graph.nodes[0]
        self.normalize = first if first.op == "normalize" else None

    @torch.inference_mode()
    def __call__(self, pictures: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        """The outputs and kept tensors of one batch (N, H, W, C)."""
        x = torch.from_numpy(np.array(pictures)).float()  # a copy: memory maps are read-only
        if self.normalize is not None:
            scale = torch.tensor(self.normalize.attrs["scale"], dtype=torch.float32)
            offset = torch.tensor(self.normalize.attrs["offset"], dtype=torch.float32)
            x = x * scale + offset
        if x.ndim == 4:
            x = x.permute(0, 3, 1, 2)  # a view: this is channels_last
        values = self.module.values(x, [name for name in self.wanted if name not in self.graph.inputs])
        results = {
            name: np.ascontiguousarray((value.permute(0, 2, 3, 1) if value.ndim == 4 else value).numpy())
            for name, value in values.items()
        }
        return {name: results.get(name, pictures) for name in self.wanted}
