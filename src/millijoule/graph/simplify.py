"""Rewrites that every later stage wants: batch norm folded, clamps fused, padding merged.

Each pass is a pure function from graph to graph; the examples are in the tests. All of them keep the function that the
graph computes (folding up to float rounding, the others exactly).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from millijoule.graph.graph import Graph, Node
from millijoule.graph.tensor import Tensor
from millijoule.graph.verify import WEIGHT_AXIS, verify

__all__ = ["fold_batch_norm", "fuse_clamp", "merge_padding", "simplify", "widen_halves"]

FUSABLE = ("conv2d", "depthwise_conv2d", "dense", "add")


def simplify(graph: Graph) -> Graph:
    """All passes of this module, in the order in which they help one another."""
    return merge_padding(fuse_clamp(fold_batch_norm(graph)))


def _only_reader(graph: Graph, name: str, readers: Mapping[str, list[Node]]) -> bool:
    return len(readers[name]) == 1 and name not in graph.outputs


def fold_batch_norm(graph: Graph) -> Graph:
    """conv2d, depthwise_conv2d or dense followed by batch_norm becomes one layer with scaled weights and a bias.

    ``w' = w * gamma / sqrt(variance + epsilon)``, ``b' = beta + (b - mean) * gamma / sqrt(variance + epsilon)``,
    computed in float64 and stored as float32.
    """
    producers, readers = graph.producers(), graph.consumers()
    tensors, constants = dict(graph.tensors), dict(graph.constants)
    replaced: dict[int, Node | None] = {}
    for index, norm in enumerate(graph.nodes):
        layer = producers.get(norm.inputs[0]) if norm.op == "batch_norm" else None
        if layer is None or layer.op not in WEIGHT_AXIS or not _only_reader(graph, layer.output, readers):
            continue
        if layer.attrs.get("clamp") is not None:
            continue
        gamma, beta, mean, variance = (graph.constant(name).astype(np.float64) for name in norm.inputs[1:])
        factor = gamma / np.sqrt(variance + float(norm.attrs["epsilon"]))
        weights = graph.constant(layer.inputs[1]).astype(np.float64)
        shape = [1] * weights.ndim
        shape[WEIGHT_AXIS[layer.op]] = -1
        bias = graph.constant(layer.inputs[2]).astype(np.float64) if len(layer.inputs) == 3 else 0.0
        names = []
        for role, value in (("weight", weights * factor.reshape(shape)), ("bias", beta + (bias - mean) * factor)):
            name = _fresh(tensors, f"{layer.source or layer.output}.{role}.folded")
            _store(tensors, constants, name, value.astype(np.float32))
            names.append(name)
        folded = Node(layer.op, (layer.inputs[0], *names), norm.outputs, layer.attrs, layer.source)
        replaced[graph.nodes.index(layer)] = folded
        replaced[index] = None
    return verify(_rebuild(graph, replaced, tensors, constants))


def fuse_clamp(graph: Graph) -> Graph:
    """A clamp after a layer or an addition becomes that layer's `clamp` attribute."""
    producers, readers = graph.producers(), graph.consumers()
    replaced: dict[int, Node | None] = {}
    for index, clamp in enumerate(graph.nodes):
        layer = producers.get(clamp.inputs[0]) if clamp.op == "clamp" else None
        if layer is None or layer.op not in FUSABLE or not _only_reader(graph, layer.output, readers):
            continue
        if layer.attrs.get("clamp") is not None:
            continue
        fused = replace(layer, outputs=clamp.outputs, attrs={**layer.attrs, "clamp": tuple(clamp.attrs["clamp"])})
        replaced[graph.nodes.index(layer)] = fused
        replaced[index] = None
    return verify(_rebuild(graph, replaced, dict(graph.tensors), dict(graph.constants)))


def merge_padding(graph: Graph) -> Graph:
    """A zero pad before a convolution becomes that convolution's own padding."""
    producers, readers = graph.producers(), graph.consumers()
    replaced: dict[int, Node | None] = {}
    for index, layer in enumerate(graph.nodes):
        pad = producers.get(layer.inputs[0]) if layer.op in ("conv2d", "depthwise_conv2d") else None
        if pad is None or pad.op != "pad" or not _only_reader(graph, pad.output, readers):
            continue
        total = tuple(a + b for a, b in zip(pad.attrs["padding"], layer.attrs["padding"], strict=True))
        inputs = (pad.inputs[0], *layer.inputs[1:])
        replaced[index] = replace(layer, inputs=inputs, attrs={**layer.attrs, "padding": total})
        replaced[graph.nodes.index(pad)] = None
    return verify(_rebuild(graph, replaced, dict(graph.tensors), dict(graph.constants)))


def widen_halves(graph: Graph) -> Graph:
    """Constants that are 16-bit floats become the same numbers as float32; names stay."""
    halves = {name for name, tensor in graph.tensors.items() if tensor.dtype == "float16"}
    if not halves:
        return graph
    tensors = {name: replace(graph.tensor(name), dtype="float32") for name in halves}
    constants = {name: graph.constant(name).astype(np.float32) for name in halves}
    return verify(replace(graph, tensors={**graph.tensors, **tensors}, constants={**graph.constants, **constants}))


def _fresh(tensors: Mapping[str, Tensor], stem: str) -> str:
    name, count = stem, 1
    while name in tensors:
        count += 1
        name = f"{stem}_{count}"
    return name


def _store(
    tensors: dict[str, Tensor], constants: dict[str, npt.NDArray[Any]], name: str, value: npt.NDArray[Any]
) -> None:
    tensors[name] = Tensor(name, value.shape, value.dtype.name)
    constants[name] = value


def _rebuild(
    graph: Graph,
    replaced: Mapping[int, Node | None],
    tensors: dict[str, Tensor],
    constants: dict[str, npt.NDArray[Any]],
) -> Graph:
    nodes = []
    for index, old in enumerate(graph.nodes):
        node = replaced.get(index, old)
        if node is not None:
            nodes.append(node)
    return replace(graph, nodes=tuple(nodes), tensors=tensors, constants=constants).without_unused()
