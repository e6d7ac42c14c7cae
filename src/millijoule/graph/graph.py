"""The network itself: nodes, tensors, constants. Data only; everything else reads or rewrites it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from millijoule.errors import GraphError
from millijoule.graph.tensor import Quant, Tensor

__all__ = ["ROUNDINGS", "Graph", "GraphBuilder", "Node", "PictureRule", "mode"]

ROUNDINGS = ("single", "double", "mulhi")
"""How a 32-bit sum becomes an 8-bit value; see `arithmetic.requantize`."""


@dataclass(frozen=True)
class Node:
    """One operation.

    Attributes:
        op: a key of `operators.OPERATORS`.
        inputs: tensor names: first the data, then weights and bias where the operator has them.
        outputs: tensor names.
        attrs: the operator's attributes, JSON values and tuples only.
        source: the layer name that the user knows (the module's name in torch).
    """

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""

    @property
    def output(self) -> str:
        """The first (usually only) output."""
        return self.outputs[0]


@dataclass(frozen=True)
class PictureRule:
    """How a photograph becomes the network's input; stored with the graph so that every executor does the same.

    Attributes:
        resize: "stretch": the whole picture is stretched to the input size (area averaging when it shrinks).
        colour: "rgb": the order of the channels.
    """

    resize: str = "stretch"
    colour: str = "rgb"


@dataclass(frozen=True)
class Graph:
    """A network.

    Attributes:
        name: an identifier, used for files and in the generated C.
        nodes: in execution order.
        tensors: every tensor by name, constants included.
        constants: the values of weights, biases and tables.
        inputs: names of the inputs; classifiers have one, the uint8 picture (1, H, W, C).
        outputs: names of the outputs; classifiers give the logits first, then the probabilities.
        rounding: one of `ROUNDINGS`.
        classes: the class names, in the order of the logits.
        picture: how photographs are brought to the input's size.
        history: what was done to the graph, oldest first.
    """

    name: str
    nodes: tuple[Node, ...]
    tensors: Mapping[str, Tensor]
    constants: Mapping[str, npt.NDArray[Any]]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    rounding: str = "single"
    classes: tuple[str, ...] = ()
    picture: PictureRule = PictureRule()
    history: tuple[str, ...] = ()

    def tensor(self, name: str) -> Tensor:
        """The tensor called `name`. Raises GraphError when there is none."""
        try:
            return self.tensors[name]
        except KeyError:
            raise GraphError(f"tensor {name!r}", "it is used but not defined", "Rebuild the graph") from None

    def constant(self, name: str) -> npt.NDArray[Any]:
        """The value of the constant called `name`. Raises GraphError when it is not one."""
        try:
            return self.constants[name]
        except KeyError:
            raise GraphError(f"tensor {name!r}", "a constant was expected here", "Use constant weights") from None

    def quant(self, name: str) -> Quant:
        """The quantisation of the tensor called `name`. Raises GraphError when it has none."""
        quant = self.tensor(name).quant
        if quant is None:
            raise GraphError(f"tensor {name!r}", "it has no quantisation", "Quantise the graph first")
        return quant

    def producers(self) -> dict[str, Node]:
        """Which node writes each tensor."""
        return {name: node for node in self.nodes for name in node.outputs}

    def consumers(self) -> dict[str, list[Node]]:
        """Which nodes read each tensor."""
        readers: dict[str, list[Node]] = {name: [] for name in self.tensors}
        for node in self.nodes:
            for name in node.inputs:
                readers.setdefault(name, []).append(node)
        return readers

    def activations(self) -> Iterator[Tensor]:
        """The tensors that hold data at run time: inputs and node outputs, in order of appearance."""
        for name in self.inputs:
            yield self.tensor(name)
        for node in self.nodes:
            for name in node.outputs:
                yield self.tensor(name)

    def with_note(self, note: str) -> Graph:
        """The same graph with one more line of history."""
        return replace(self, history=(*self.history, note))

    def without_unused(self) -> Graph:
        """The same graph without tensors and constants that no node touches."""
        used = {name for node in self.nodes for name in (*node.inputs, *node.outputs)} | {*self.inputs, *self.outputs}
        return replace(
            self,
            tensors={name: tensor for name, tensor in self.tensors.items() if name in used},
            constants={name: value for name, value in self.constants.items() if name in used},
        )


def mode(graph: Graph, node: Node) -> str:
    """Which arithmetic a node runs in, told from the types of its tensors.

    "integer": 8-bit data in or out by fixed-point rules; "dynamic": float data with 8-bit weights, quantised from its
    own range at run time; "float": everything else.
    """
    data, result = graph.tensor(node.inputs[0]), graph.tensor(node.output)
    if "int8" in (data.dtype, result.dtype):
        return "integer"
    if any(graph.tensor(name).dtype == "int8" for name in node.inputs[1:]):
        return "dynamic"
    return "float"


class GraphBuilder:
    """Collects nodes and tensors one after another; `build` gives the frozen graph.

    Example:
        >>> builder = GraphBuilder("tiny")
        >>> _ = builder.input("picture", (1, 8, 8, 3), "uint8")
        >>> y = builder.node("normalize", ["picture"], (1, 8, 8, 3), attrs={"scale": (1.0,), "offset": (0.0,)})
        >>> builder.build([y]).nodes[0].op
        'normalize'
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._nodes: list[Node] = []
        self._tensors: dict[str, Tensor] = {}
        self._constants: dict[str, npt.NDArray[Any]] = {}
        self._inputs: list[str] = []

    def unique(self, stem: str) -> str:
        """A tensor name that is not taken yet."""
        name, count = stem, 1
        while name in self._tensors:
            count += 1
            name = f"{stem}_{count}"
        return name

    def input(self, name: str, shape: Iterable[int], dtype: str = "float32", quant: Quant | None = None) -> str:
        """Adds an input of the network and returns its name."""
        self._tensors[name] = Tensor(name, tuple(shape), dtype, quant)
        self._inputs.append(name)
        return name

    def constant(self, name: str, value: npt.NDArray[Any], quant: Quant | None = None) -> str:
        """Adds weights, a bias or a table and returns its (unique) name."""
        name = self.unique(name)
        self._tensors[name] = Tensor(name, tuple(value.shape), value.dtype.name, quant)
        self._constants[name] = value
        return name

    def node(
        self,
        op: str,
        inputs: Iterable[str],
        shape: Iterable[int],
        *,
        attrs: Mapping[str, Any] | None = None,
        dtype: str = "float32",
        quant: Quant | None = None,
        source: str = "",
        output: str | None = None,
    ) -> str:
        """Adds an operation with one output and returns the output's name."""
        name = self.unique(output or source or op)
        self._tensors[name] = Tensor(name, tuple(shape), dtype, quant)
        self._nodes.append(Node(op, tuple(inputs), (name,), dict(attrs or {}), source))
        return name

    def build(
        self,
        outputs: Iterable[str],
        *,
        rounding: str = "single",
        classes: Iterable[str] = (),
        picture: PictureRule | None = None,
        history: Iterable[str] = (),
    ) -> Graph:
        """The graph, verified. Raises GraphError naming the first rule that is broken."""
        from millijoule.graph.verify import verify

        graph = Graph(
            self.name,
            tuple(self._nodes),
            dict(self._tensors),
            {name: np.ascontiguousarray(value) for name, value in self._constants.items()},
            tuple(self._inputs),
            tuple(outputs),
            rounding,
            tuple(classes),
            picture or PictureRule(),
            tuple(history),
        ).without_unused()
        return verify(graph)
