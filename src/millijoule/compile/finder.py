"""Which layers run as one, row by row: chains of convolutions as long as the row engine can do them.

Shapes alone decide here; whether the arithmetic of a layer permits it is decided from its weights in `legal`, and for
dynamic layers in `rows_dynamic`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from typing import Generic, TypeVar

from millijoule.compile.plan import aligned
from millijoule.graph import Graph, Node, mode
from millijoule.kernels import Dims, dims_of, kernels_for

__all__ = [
    "CHANNEL_BYTES",
    "POINTWISE",
    "Block",
    "Finder",
    "dense_fits",
    "find_blocks",
    "geometry_allows",
    "mean_saves",
    "pointwise",
]

POINTWISE = ((1, 1), (1, 1), (0, 0, 0, 0))
"""Window, stride and padding of a pointwise convolution."""
CHANNEL_BYTES = 16
"""RAM for the prepared requantisation of a channel of the last convolution, at least: half an mj_pair, or an mj_filter
without taps."""


@dataclass(frozen=True)
class Block:
    """A chain of layers that run as one, row by row; at least one of `conv` and `filter` is there.

    Attributes:
        normalize: turns picture bytes into int8, within the first convolution.
        conv: a convolution.
        filter: a depthwise convolution of its result.
        project: a pointwise convolution of that one's result.
        add: the sum of the result and another map.
        mean: the mean over all pixels of the result, which is stored nowhere itself.
        dense: a dense layer of the means, which lie in scratch memory.
    """

    normalize: Node | None = None
    conv: Node | None = None
    filter: Node | None = None
    project: Node | None = None
    add: Node | None = None
    mean: Node | None = None
    dense: Node | None = None

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The layers in order."""
        layers = (self.normalize, self.conv, self.filter, self.project, self.add, self.mean, self.dense)
        return tuple(layer for layer in layers if layer is not None)

    @property
    def alone(self) -> bool:
        """Whether it is a convolution by itself, or the mean of one, or a dense layer of that."""
        return [node for node in self.nodes if node is not self.mean and node is not self.dense] == [self.conv]

    @property
    def input(self) -> str:
        """The map that is read row by row."""
        return self.nodes[0].inputs[0]

    @property
    def output(self) -> str:
        """The result."""
        return self.nodes[-1].output

    @property
    def last_product(self) -> Node:
        """The last convolution."""
        last = self.project or self.filter or self.conv
        assert last is not None, "a block has a convolution"
        return last

    @property
    def residual(self) -> str | None:
        """The map that is added."""
        if self.add is None:
            return None
        first, second = self.add.inputs
        return second if first == self.last_product.output else first


AnyBlock = TypeVar("AnyBlock", bound=Block)


class Finder(ABC, Generic[AnyBlock]):
    """Finds the chains of a graph; what a chain may be is said by `block`.

    Args:
        graph: a verified graph.
        able: results of the convolutions that the row kernels may compute.
        convolutions: arithmetic of the convolutions (see `millijoule.graph.mode`).
        others: arithmetic of what stands before and behind them.
    """

    def __init__(self, graph: Graph, able: Collection[str], convolutions: str, others: str) -> None:
        self.graph, self.able = graph, frozenset(able)
        self.convolutions, self.others = convolutions, others
        self.readers = graph.consumers()
        self.written = graph.producers()
        self.place = {node.output: index for index, node in enumerate(graph.nodes)}

    @abstractmethod
    def block(self, first: Node) -> AnyBlock | None:
        """The longest chain that begins with this convolution (or with the layer in front of it), None if there is
        none.
        """

    def blocks(self) -> tuple[AnyBlock, ...]:
        """The chains in the order of their first convolutions; no layer is in two of them."""
        found: list[AnyBlock] = []
        taken: set[str] = set()
        for node in self.graph.nodes:
            block = self.block(node) if node.output not in taken else None
            if block is not None:
                found.append(block)
                taken.update(item.output for item in block.nodes)
        return tuple(found)

    def serves(self, node: Node | None, op: str) -> bool:
        """Whether the engine can do this layer, a `conv2d` or a `depthwise_conv2d`."""
        if node is None or node.op != op or node.output not in self.able:
            return False
        return geometry_allows(self.graph, node, self.convolutions)

    def only_reader(self, node: Node) -> Node | None:
        """The one layer that reads the result of `node`, if nothing else does."""
        readers = self.readers.get(node.output, [])
        return readers[0] if len(readers) == 1 and node.output not in self.graph.outputs else None

    def normalization(self, conv: Node | None) -> Node | None:
        """The layer in front of a convolution with a window that turns picture bytes into numbers for it alone."""
        maker = None if conv is None or pointwise(self.graph, conv) else self.written.get(conv.inputs[0])
        if maker is None or maker.op != "normalize" or mode(self.graph, maker) != self.others:
            return None
        return maker if self.only_reader(maker) is conv else None

    def addition(self, last: Node) -> Node | None:
        """The sum of this result and a map that is complete before."""
        reader = self.only_reader(last)
        if reader is None or reader.op != "add" or mode(self.graph, reader) != self.others:
            return None
        others = [name for name in reader.inputs if name != last.output]
        if len(others) != 1 or others[0] in self.graph.constants:
            return None
        return reader if self.complete(others[0], last) else None

    def mean(self, last: Node, added: Node | None) -> Node | None:
        """The mean over all pixels of a result."""
        reader = self.only_reader(added or last)
        if reader is None or reader.op != "mean" or mode(self.graph, reader) != self.others:
            return None
        return reader

    def dense(self, mean: Node | None) -> Node | None:
        """The dense layer that alone reads the means, right behind them, where it needs no more memory than they do."""
        reader = None if mean is None else self.only_reader(mean)
        if mean is None or reader is None or reader.op != "dense" or mode(self.graph, reader) != self.convolutions:
            return None
        if reader.inputs[0] != mean.output or self.place[reader.output] != self.place[mean.output] + 1:
            return None
        return reader if dense_fits(dims_of(self.graph, reader), self.convolutions) else None

    def complete(self, name: str, last: Node) -> bool:
        """Whether a map is written before the result of `last`."""
        return name in self.place and self.place[name] < self.place[last.output]


def find_blocks(graph: Graph, able: Collection[str]) -> tuple[Block, ...]:
    """The chains of a graph with integer arithmetic, each as long as it can be.

    Args:
        graph: a verified graph.
        able: results of the convolutions that the row kernels may compute (`legal.row_layers`).
    """
    return _IntegerFinder(graph, able, "integer", "integer").blocks()


class _IntegerFinder(Finder[Block]):
    """Finds `[normalize] [conv2d] [depthwise_conv2d] [pointwise] [add] [mean] [dense]`, each part present or not."""

    def block(self, first: Node) -> Block | None:
        """See `Finder.block`."""
        conv = first if self.serves(first, "conv2d") else None
        depthwise = first if conv is None else self.only_reader(conv)
        if depthwise is None or not self.serves(depthwise, "depthwise_conv2d"):
            depthwise = None
        last = depthwise or conv
        if last is None:
            return None
        project = None if depthwise is None else self.only_reader(depthwise)
        if project is None or not self.serves(project, "conv2d") or not pointwise(self.graph, project):
            project = None
        last = project or last
        added = self.addition(last)
        # sums need less memory than the map
        saves = mean_saves(dims_of(self.graph, first), dims_of(self.graph, last))
        mean = self.mean(last, added) if saves else None
        return Block(self.normalization(conv), conv, depthwise, project, added, mean, self.dense(mean))

    def complete(self, name: str, last: Node) -> bool:
        """See `Finder.complete`; the graph's input is complete from the start."""
        return name in self.graph.inputs or super().complete(name, last)


def mean_saves(first: Dims, last: Dims) -> bool:
    """Whether a row of the map behind `last` and a sum for each channel need less memory than the map itself, which
    would lie over the input of `first` as far as that reaches.
    """
    row = -(-last.out_width // 4) * 4 * (last.out_channels + 1)
    size = last.out_height * last.out_width * last.out_channels
    return row + 4 * last.out_channels < size - first.in_elements


def dense_fits(dims: Dims, arithmetic: str = "integer") -> bool:
    """Whether a dense layer behind means finds room in memory that their block is done with, so that the arena cannot
    grow by it: its result takes no more than the means would, its scratch no more than the prepared requantisation.

    Args:
        dims: its sizes.
        arithmetic: "integer", or "dynamic" for means and results in float.
    """
    scratch = max(kernel.scratch_bytes(dims) for kernel in kernels_for("dense", arithmetic, dims))
    size = 1 if arithmetic == "integer" else 4
    fits = aligned(size * dims.out_channels) <= aligned(size * dims.in_channels)
    return fits and scratch <= CHANNEL_BYTES * dims.in_channels


def pointwise(graph: Graph, node: Node) -> bool:
    """Whether a layer is a convolution that looks at one pixel at a time."""
    if node.op != "conv2d":
        return False
    dims = dims_of(graph, node)
    return (dims.kernel, dims.stride, dims.padding) == POINTWISE


def geometry_allows(graph: Graph, node: Node, arithmetic: str = "integer") -> bool:
    """Whether the row engine can do a layer of these sizes.

    Args:
        graph: the network.
        node: a layer; others than convolutions of this arithmetic are none.
        arithmetic: "integer" or "dynamic" (see `millijoule.graph.mode`).
    """
    if node.op not in ("conv2d", "depthwise_conv2d") or mode(graph, node) != arithmetic:
        return False
    dims = dims_of(graph, node)
    kernel_height, kernel_width = dims.kernel
    sizes = (dims.in_height, dims.in_width, dims.in_channels, dims.out_height, dims.out_width, dims.out_channels)
    return (
        dims.dilation == (1, 1)
        and max(sizes) < 1 << 16
        and max(*dims.kernel, *dims.stride) < 1 << 8
        and dims.padding[0] < kernel_height
        and dims.padding[2] < kernel_width
        and (node.op == "conv2d" or dims.stride[1] <= 2)
        and (node.op == "conv2d" or dims.out_channels == dims.in_channels)
    )
