"""The same network on the transposed picture: what has few columns gets few rows instead.

Kernels work along rows, so a map of 25 x 5 costs more than one of 5 x 25. Every sum keeps its terms, only their order
changes; integers are equal bit for bit, floats up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from millijoule.graph.graph import Graph, Node
from millijoule.graph.tensor import Tensor
from millijoule.graph.verify import verify

__all__ = ["transposed"]

PAIRS = ("kernel", "stride", "dilation")
"""Attributes that hold a vertical and a horizontal number."""


def transposed(graph: Graph) -> Graph:
    """Swaps height and width of every feature map, window, padding and filter; inputs and outputs stay as they are.

    The picture arrives as ever: it is transposed behind normalize. Where a map is flattened for dense layers alone,
    the columns of their weights are permuted; in front of any other reshape, and of an output that is a map, it is
    transposed back. Tensors and layers keep their names; the new nodes have no layer name, and only what exists both
    ways has a second name, with ``.transposed`` or ``.upright`` behind the first.

    Args:
        graph: any verified graph.

    Returns:
        A verified graph that computes the same: the outputs of an integer graph are equal bit for bit, those of others
        up to the rounding of sums.

    Raises:
        GraphError: the graph breaks a rule.
    """
    return _Turning(verify(graph)).result()


def _is_map(tensor: Tensor) -> bool:
    return len(tensor.shape) == 4


def _swapped(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0], shape[2], shape[1], *shape[3:])


def _indifferent(tensor: Tensor) -> bool:
    """Whether the elements lie in the same order in both forms."""
    return not _is_map(tensor) or min(tensor.shape[1:3]) == 1


class _Turning:
    """The new graph while it grows. A map is there upright (as before), turned, or both."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.readers = graph.consumers()
        self.nodes: list[Node] = []
        self.tensors, self.constants = dict(graph.tensors), dict(graph.constants)
        self.upright = {name: name for name in graph.inputs}
        self.turned: dict[str, str] = {}
        for name, value in graph.constants.items():
            if _is_map(graph.tensor(name)):  # weights of convolutions, and maps
                self.store(name, value.swapaxes(1, 2), graph.tensor(name))
                self.turned[name] = name

    def result(self) -> Graph:
        for node in self.graph.nodes:
            self.add(node)
        for name in self.graph.outputs:
            if _is_map(self.graph.tensor(name)) and name in self.turned:
                self.upright_of(name)
        found = replace(self.graph, nodes=tuple(self.nodes), tensors=self.tensors, constants=self.constants)
        return verify(found.without_unused().with_note("transpose: height and width of every map swapped"))

    def store(self, name: str, value: npt.NDArray[Any], tensor: Tensor) -> None:
        self.constants[name] = np.ascontiguousarray(value)
        self.tensors[name] = replace(tensor, name=name, shape=value.shape)

    def fresh(self, stem: str) -> str:
        name, count = stem, 1
        while name in self.tensors:
            count += 1
            name = f"{stem}_{count}"
        return name

    def turned_of(self, name: str) -> str:
        """The name of a tensor's turned form, which is made if it is not there."""
        tensor = self.graph.tensor(name)
        if not _is_map(tensor):
            return name
        if name not in self.turned:
            found = self.turned[name] = self.fresh(f"{name}.transposed")
            self.tensors[found] = replace(tensor, name=found, shape=_swapped(tensor.shape))
            self.nodes.append(Node("transpose", (self.upright[name],), (found,)))
        return self.turned[name]

    def upright_of(self, name: str) -> str:
        """The name of a tensor's upright form, which is made if it is not there."""
        tensor = self.graph.tensor(name)
        if not _is_map(tensor):
            return name
        if name not in self.upright:
            found = self.upright[name] = name if name in self.graph.outputs else self.fresh(f"{name}.upright")
            self.tensors[found] = replace(tensor, name=found)
            self.nodes.append(Node("transpose", (self.turned[name],), (found,)))
        return self.upright[name]

    def add(self, node: Node) -> None:
        if node.op == "normalize":
            self.upright[node.output] = node.output
            self.nodes.append(replace(node, inputs=(self.upright_of(node.inputs[0]),)))
        elif node.op == "transpose":
            # the turned form of its result is the upright form of its input
            self.nodes.append(replace(node, inputs=(self.turned_of(node.inputs[0]),), outputs=(self.declare(node),)))
        elif node.op == "reshape":
            self.reshape(node)
        else:
            inputs = tuple(self.turned_of(name) for name in node.inputs)
            self.nodes.append(replace(node, inputs=inputs, outputs=(self.declare(node),), attrs=_attributes(node)))

    def declare(self, node: Node) -> str:
        """The name of the turned result of a node."""
        name, tensor = node.output, self.graph.tensor(node.output)
        if not _is_map(tensor):
            return name
        found = self.fresh(f"{name}.transposed") if name in self.graph.outputs else name
        self.turned[name] = found
        self.tensors[found] = replace(tensor, name=found, shape=_swapped(tensor.shape))
        return found

    def reshape(self, node: Node) -> None:
        before, after = self.graph.tensor(node.inputs[0]), self.graph.tensor(node.output)
        if _indifferent(before):
            data = self.turned_of(before.name)
        elif self.only_dense(node):
            data = self.turned_of(before.name)
            self.permute(node, before.shape)
        else:
            data = self.upright_of(before.name)
        if not _indifferent(after):
            self.upright[after.name] = after.name
            self.nodes.append(replace(node, inputs=(data,)))
            return
        shape = _swapped(after.shape) if _is_map(after) else after.shape
        attrs = {**node.attrs, "shape": shape}
        self.nodes.append(replace(node, inputs=(data,), outputs=(self.declare(node),), attrs=attrs))

    def only_dense(self, node: Node) -> bool:
        """Whether the result of a reshape is a flat row that nothing but dense layers reads, each with own weights."""
        if node.output in self.graph.outputs or len(self.graph.tensor(node.output).shape) != 2:
            return False
        return all(
            reader.op == "dense"
            and reader.inputs.count(node.output) == 1
            and reader.inputs[0] == node.output
            and reader.inputs[1] in self.graph.constants
            and reader.inputs[1] not in self.graph.outputs
            and len(self.readers[reader.inputs[1]]) == 1
            for reader in self.readers[node.output]
        )

    def permute(self, node: Node, shape: tuple[int, ...]) -> None:
        """Brings the weights of the dense layers behind a flattened map into its new order."""
        for reader in self.readers[node.output]:
            name = reader.inputs[1]
            value = self.graph.constant(name)
            turned = value.reshape(-1, *shape[1:]).swapaxes(1, 2).reshape(value.shape)
            self.store(name, turned, self.graph.tensor(name))


def _attributes(node: Node) -> Mapping[str, Any]:
    """The attributes of a node with its two dimensions swapped."""
    changed: dict[str, Any] = dict(node.attrs)
    for name in PAIRS:
        if name in changed:
            changed[name] = _pair(changed[name])
    if "padding" in changed:
        top, bottom, left, right = changed["padding"]
        changed["padding"] = (left, right, top, bottom)
    return changed


def _pair(value: Iterable[int]) -> tuple[int, int]:
    vertical, horizontal = value
    return horizontal, vertical
