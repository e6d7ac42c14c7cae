"""Chains of layers with float data and int8 weights that run row by row, in passes: which they are, what they need.

Dynamic quantisation needs the range of a whole map before the next layer can begin, so that layer by layer every map
exists in float, the widest one included. A chain's wide maps are computed again in each pass instead
(`mj_rows_dynamic.h`), a few rows at a time; what is stored are the float result and the input, as int8 over its own
floats where nobody needs them any more. Of a result whose mean alone is wanted, only a sum per channel is kept.

As in `finder`, shapes alone decide here; `dynamic_layers` looks at the weights.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from millijoule.compile.finder import Block, Finder, pointwise
from millijoule.compile.options import RowOptions
from millijoule.compile.plan import aligned
from millijoule.compile.rows import (
    FILTER_BYTES,
    PAIR_BYTES,
    STATE_BYTES,
    RowMemory,
    chunk_pixels,
    conv_depth,
    filter_chunk,
    filter_words,
    fits_one_row,
    has_window,
    one_row,
    plane_bytes,
    rows_read,
    sizes_of,
    slice_channels,
    widened_row,
)
from millijoule.graph import Graph, Node, mode
from millijoule.kernels import Dims, dims_of

__all__ = [
    "DynamicBlock",
    "DynamicMemory",
    "can_store",
    "dynamic_distance",
    "dynamic_layers",
    "dynamic_memory_of",
    "find_dynamic_blocks",
]

OPTIONS = RowOptions()
RESULT_BYTES = 16  # sizeof(mj_dynamic_result), in front of pairs
FRONT_BYTES = 32  # sizeof(mj_filter_front)
SUM_LIMIT = (1 << 23) - 64
"""Sums of a product lie in [-2^23, 2^23): two of them share a word; the engine moves them by up to 32."""
FLAT_BYTES = 20480
"""A pointwise convolution by itself takes its whole map for one row if its groups need at most this much."""


@dataclass(frozen=True)
class DynamicBlock(Block):
    """A chain.

    Attributes:
        stores: the sums of the depthwise convolution are stored, so that the last pass need not compute them again.
    """

    stores: bool = False


@dataclass(frozen=True)
class DynamicMemory(RowMemory):
    """The scratch memory of a chain, without its quantised input.

    Attributes:
        input_bytes: of the input as int8; 0 where it is the picture, which is int8 by a table.
    """

    input_bytes: int = 0


# *** which chains *****


def dynamic_layers(graph: Graph) -> frozenset[str]:
    """The results of all dynamic convolutions that the row kernels may compute, whatever their input holds.

    Graphs with another rounding rule than "single" have none: the integer kernels of a firmware share one rule, and the
    constants that are made at run time are for that one.
    """
    if graph.rounding != "single":
        return frozenset()
    return frozenset(
        node.output
        for node in graph.nodes
        if node.op in ("conv2d", "depthwise_conv2d") and mode(graph, node) == "dynamic" and _suits(graph, node)
    )


def _suits(graph: Graph, node: Node) -> bool:
    weights = graph.constant(node.inputs[1]).astype(np.int64)
    per_channel = (
        weights[0].reshape(-1, weights.shape[3]).T if node.op != "conv2d" else weights.reshape(len(weights), -1)
    )
    largest = 255 * int(np.abs(per_channel).sum(axis=1).max(initial=0))
    return weights.min(initial=0) >= -127 and largest < SUM_LIMIT


def find_dynamic_blocks(graph: Graph, able: Collection[str]) -> tuple[DynamicBlock, ...]:
    """The chains of a graph: [convolution] depthwise convolution, pointwise convolution, or a convolution; then
    [addition] [mean] [dense]. Whether a mean needs less memory than the map is for the schedule to say.

    Args:
        graph: a verified graph.
        able: results of the convolutions that may be computed so (`dynamic_layers`).
    """
    return _DynamicFinder(graph, able, "dynamic", "float").blocks()


class _DynamicFinder(Finder[DynamicBlock]):
    """Finds chains with float data and int8 weights."""

    def block(self, first: Node) -> DynamicBlock | None:
        """See `Finder.block`."""
        conv = first if self.serves(first, "conv2d") else None
        depthwise = self.inner(first) if conv is not None else first
        if depthwise is not None and self.serves(depthwise, "depthwise_conv2d"):
            project = self.inner(depthwise)
            if project is not None and self.serves(project, "conv2d") and pointwise(self.graph, project):
                return self.ended(conv, depthwise, project, project)
        return None if conv is None else self.ended(conv, None, None, conv)

    def ended(self, conv: Node | None, depthwise: Node | None, project: Node | None, last: Node) -> DynamicBlock:
        """The chain of these convolutions, `last` the last one of them, with what is in front of it and behind it."""
        added = self.addition(last)
        mean = self.mean(last, added)
        return DynamicBlock(self.normalization(conv), conv, depthwise, project, added, mean, self.dense(mean))

    def inner(self, node: Node) -> Node | None:
        """The one layer that reads a result which stays inside the chain; its bounds must hold zero."""
        low, high = node.attrs.get("clamp") or (0.0, 0.0)
        return self.only_reader(node) if low <= 0.0 <= high else None

    def normalization(self, conv: Node | None) -> Node | None:
        """See `Finder.normalization`; a larger byte must not become a smaller number."""
        maker = super().normalization(conv)
        return maker if maker is not None and min(maker.attrs["scale"]) >= 0 else None


# *** memory *****


def can_store(graph: Graph, block: Block) -> bool:
    """Whether the sums of a chain's depthwise convolution may be stored: its rows must be made in one piece."""
    if not isinstance(block, DynamicBlock) or block.filter is None:
        return False
    dims = dims_of(graph, block.filter)
    return dims.out_width <= filter_chunk(dims, OPTIONS)


def dynamic_memory_of(graph: Graph, block: Block) -> DynamicMemory:
    """Lays out the scratch memory of a chain."""
    dims = {node.output: dims_of(graph, node) for node in block.nodes if node.op.endswith("conv2d")}
    last = dims[block.last_product.output]
    # a row of which all channels are made at a time would be the map, which a mean does without
    sliced = block.mean is None or slice_channels(block, dims, OPTIONS) > 0
    if block.alone and sliced and fits_one_row(last, FLAT_BYTES):
        dims = {name: one_row(sizes) for name, sizes in dims.items()}
    parts: dict[str, tuple[int, int]] = {}
    offset = 0
    for name, size in _sizes(graph, block, dims):
        parts[name] = (offset, size)
        offset += aligned(size)
    input_bytes = 0 if block.normalize else graph.tensor(block.input).elements
    return DynamicMemory(block, dims, parts, options=OPTIONS, input_bytes=input_bytes)


def _pairs(dims: Dims) -> int:
    return RESULT_BYTES + PAIR_BYTES * -(-dims.out_channels // 2)


def _sizes(graph: Graph, block: Block, dims: Mapping[str, Dims]) -> Iterator[tuple[str, int]]:
    yield "state", STATE_BYTES
    groups = 0
    if block.normalize is not None:
        yield "table", 256 * len(block.normalize.attrs["scale"])
    if block.conv is not None:
        conv = dims[block.conv.output]
        window = has_window(conv)
        yield "conv_pairs", _pairs(conv)
        groups = 4 * conv_depth(conv, window) * chunk_pixels(conv, window, OPTIONS)
        if window:
            yield "widened", 2 * conv.kernel[0] * widened_row(conv)
    if block.filter is not None:
        filtered = dims[block.filter.output]
        groups = max(groups, 4 * -(-filtered.out_channels // 2) * filter_chunk(filtered, OPTIONS))
        yield "filters", FRONT_BYTES + (FILTER_BYTES + 4 * filter_words(filtered)) * filtered.out_channels
        yield "planes", plane_bytes(filtered) * aligned(filtered.in_channels, 2)
        if isinstance(block, DynamicBlock) and block.stores:
            yield "stored", 4 * filtered.out_height * filtered.out_channels * aligned(filtered.out_width, 4)
    if block.project is not None:
        yield "project_pairs", _pairs(dims[block.project.output])
    # A row's groups for the first convolution are used up before those for the last one are made.
    yield "groups", groups
    last = dims[block.last_product.output]
    own = 4 * slice_channels(block, dims, OPTIONS)
    if block.add is not None or block.mean is not None or last.out_channels % 2:
        yield "row", (own or float_distance(last)) * last.out_width
    if block.mean is not None:
        yield "sums", 4 * last.out_channels


def float_distance(last: Dims) -> int:
    """Bytes from a pixel to the next in a row of floats that is being made."""
    return 4 * aligned(last.out_channels, 2)


def dynamic_distance(memory: RowMemory) -> int:
    """The largest offset of the result behind its input, as int8 or picture, at which no row is lost, in bytes."""
    block = memory.block
    layers = sizes_of(block, memory.dims)
    first, last = layers[0], memory.last
    in_row, out_row = first.in_width * first.in_channels, 4 * last.out_width * last.out_channels
    if block.mean is not None:  # written when everything has been read
        return (4 if block.residual == block.input else 1) * in_row * first.in_height
    if block.residual == block.input:
        return 0  # the input as int8 lies elsewhere, and a number is read just before the result takes its place
    # where everything has been read, anything may be overwritten
    waiting = [
        count * in_row - (row + 1) * out_row for row, count in enumerate(rows_read(layers)) if count < first.in_height
    ]
    return min(waiting, default=in_row * first.in_height)
