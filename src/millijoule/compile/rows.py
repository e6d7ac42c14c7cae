"""Chains of layers that run row by row: what memory they need, how far input and result may overlap, which are joined.

An inverted residual block widens its input, filters each channel and narrows it again. Computed layer by layer, its
widest map decides the memory of the whole network. Computed by rows (`mj_row_engine.h`) that map exists a few rows at
a time, already in the form that the next step reads, and the result takes the place of input rows that nobody needs
any more. (The idea is that of patch-based inference cut down to rows, which needs no recomputation: J. Lin et al.,
MCUNetV2, 2021.) Where even the ring is too much, a few rows of the block's input are kept instead, and the map is made
again for every row of the result: a slice of its channels at a time (`RowOptions.slice_channels`), or, as in that work,
a patch of its columns at a time (`RowOptions.patch_pixels`).

Shapes alone decide here, so that other resolutions and widths can be planned (`fit`). Which layers make a block is
decided in `finder`; whether the arithmetic of a layer permits it, from its weights, in `legal`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from millijoule.compile.finder import CHANNEL_BYTES, POINTWISE, Block
from millijoule.compile.options import DEFAULTS, PlanOptions, RowOptions
from millijoule.compile.plan import aligned
from millijoule.graph import Graph
from millijoule.kernels import Dims, dims_of

__all__ = [
    "PATCHES",
    "SLICES",
    "RowMemory",
    "can_feed",
    "cascade_of",
    "chains",
    "fits_one_row",
    "has_window",
    "lead_of",
    "made_again",
    "memory_of",
    "one_row",
    "overlap_distance",
    "pair_bytes",
    "patch_columns",
    "prefix",
    "rows_read",
    "sizes_of",
    "slack_bytes",
    "tile_pairs",
    "widened_rows",
]

SLICES, PATCHES = "slices", "patches"
"""Ways to make a map again for every row of the result."""
STATE_BYTES = 40  # sizeof(mj_rows_state) where pointers have 64 bits, with MJ_DEBUG
PAIR_BYTES = 2 * CHANNEL_BYTES  # sizeof(mj_pair)
FILTER_BYTES = CHANNEL_BYTES  # sizeof(mj_filter) without taps
TILE_BYTES = 2048
"""RAM into which weights of 4 bits are unpacked, a tile at a time; more where a pair of channels needs more."""
MEAN_CHANNELS = 64
"""Of a pointwise convolution whose mean is taken, so many channels are made at a time."""


@dataclass(frozen=True)
class RowMemory:
    """The scratch memory of a block: what lies where, from the start of its scratch buffer, and the sizes behind it.

    Attributes:
        block: the layers.
        dims: sizes of each layer, by its result.
        parts: name -> (offset, bytes).
        flat: the map is taken for a single row, which is read whole before anything is written.
        fed: its input comes row by row from the block before, and is stored nowhere.
        feeds: its result goes row by row to the next block, and is stored nowhere.
        options: how much is done at a time.
    """

    block: Block
    dims: Mapping[str, Dims]
    parts: Mapping[str, tuple[int, int]]
    flat: bool = False
    fed: bool = False
    feeds: bool = False
    options: RowOptions = DEFAULTS.default

    @property
    def bytes(self) -> int:
        """Where its last part ends, from the start of the scratch buffer."""
        return max(offset + size for offset, size in self.parts.values())

    @cached_property
    def conv(self) -> Dims | None:
        """Sizes of the first convolution."""
        return self.dims[self.block.conv.output] if self.block.conv else None

    @cached_property
    def filter(self) -> Dims | None:
        """Sizes of the depthwise convolution."""
        return self.dims[self.block.filter.output] if self.block.filter else None

    @cached_property
    def last(self) -> Dims:
        """Sizes of the last convolution."""
        return self.dims[self.block.last_product.output]

    @property
    def window(self) -> bool:
        """Whether the first convolution has a window, a stride or padding."""
        return self.conv is not None and has_window(self.conv)

    @property
    def slice(self) -> int:
        """How many channels of a row are made at a time; 0: all."""
        return slice_channels(self.block, self.dims, self.options)

    @property
    def patch(self) -> int:
        """For how many pixels of the result the map in front of the depthwise convolution is made at a time; 0: all."""
        return self.options.patch_pixels if self.again == PATCHES else 0

    @property
    def prepared(self) -> str:
        """The part with the requantisation of the last convolution; nobody needs it once the last row is made."""
        return "project_pairs" if self.block.project else "filters" if self.block.filter else "conv_pairs"

    @property
    def again(self) -> str:
        """How the map in front of the depthwise convolution is made again for every row of the result: `SLICES`,
        `PATCHES`, or "" where it is made once.
        """
        return made_again(self.block, self.dims, self.options)


def has_window(dims: Dims) -> bool:
    """Whether a convolution has a window, a stride or padding."""
    return (dims.kernel, dims.stride, dims.padding) != POINTWISE


def slice_channels(block: Block, dims: Mapping[str, Dims], options: RowOptions) -> int:
    """How many channels of a row of a pointwise convolution are made at a time; 0: all."""
    if block.conv is None or has_window(dims[block.conv.output]):
        return 0
    if block.filter is not None:
        wanted = 0 if has_patches(block, dims, options) else options.slice_channels
    else:
        wanted = MEAN_CHANNELS if block.mean is not None and block.add is None else 0
    return wanted if wanted < dims[block.conv.output].out_channels else 0


def has_patches(block: Block, dims: Mapping[str, Dims], options: RowOptions) -> bool:
    """Whether the map in front of the depthwise convolution is made a patch at a time."""
    if block.conv is None or block.filter is None:
        return False
    return 0 < options.patch_pixels < dims[block.filter.output].out_width


def made_again(block: Block, dims: Mapping[str, Dims], options: RowOptions) -> str:
    """See `RowMemory.again`."""
    if has_patches(block, dims, options):
        return PATCHES
    return SLICES if block.filter is not None and slice_channels(block, dims, options) else ""


def conv_depth(dims: Dims, window: bool) -> int:
    """Words per pixel of a convolution's groups: with a window each of its rows is filled up to an even count."""
    if window:
        return dims.kernel[0] * (-(-dims.kernel[1] * dims.in_channels // 2))
    return -(-dims.in_channels // 2)


def pair_bytes(dims: Dims) -> int:
    """Bytes of the unpacked weights of two channels of a convolution."""
    return 4 * conv_depth(dims, has_window(dims))


def tile_pairs(dims: Dims) -> int:
    """Of weights of 4 bits so many pairs of channels are unpacked at a time, at least; 0 with 8 bits."""
    if dims.weight_bits != 4:
        return 0
    return min(-(-dims.out_channels // 2), max(1, TILE_BYTES // pair_bytes(dims)))


def chunk_pixels(dims: Dims, window: bool, options: RowOptions) -> int:
    """How many output pixels get their groups at a time; a multiple of four."""
    row = aligned(dims.out_width, 4)
    if not window:
        return row
    fitting = options.chunk_bytes // (4 * conv_depth(dims, window)) // 4 * 4
    return max(4, min(row, options.chunk_pixels, fitting))


def filter_chunk(dims: Dims, options: RowOptions, again: str = "") -> int:
    """How many output pixels of a depthwise convolution get their groups at a time; a multiple of four: the whole row
    where its input is made again by slices, a patch where it is by patches.
    """
    row = aligned(dims.out_width, 4)
    return row if again == SLICES else min(row, options.patch_pixels if again == PATCHES else options.filter_pixels)


def patch_columns(block: Block, dims: Mapping[str, Dims], patch: int) -> int:
    """At most so many columns of the map in front of the depthwise convolution are made for a patch of pixels."""
    assert block.conv is not None and block.filter is not None, "it has patches"
    filtered = dims[block.filter.output]
    before = lead_of(filtered, PATCHES, has_window(dims[block.conv.output])) - filtered.padding[2]
    return before + (patch - 1) * filtered.stride[1] + filtered.kernel[1]


def widened_row(dims: Dims) -> int:
    """int16 numbers in a widened row: padding on both sides, all columns that windows touch, one for an odd window."""
    columns = max(
        dims.padding[2] + dims.in_width + dims.padding[3],
        (dims.out_width - 1) * dims.stride[1] + dims.kernel[1],
    )
    return aligned(columns * dims.in_channels + 1, 2)


def widened_rows(block: Block, dims: Mapping[str, Dims], again: str) -> int:
    """How many rows of the input are kept for a convolution with a window: those under its windows, with patches under
    those of all rows that the depthwise convolution reads.
    """
    assert block.conv is not None, "it has a window"
    conv = dims[block.conv.output]
    below = dims[block.filter.output].kernel[0] - 1 if block.filter is not None and again == PATCHES else 0
    return conv.kernel[0] + below * conv.stride[0]


def lead_of(dims: Dims, again: str, window: bool) -> int:
    """Columns of padding to the left of a picture in planes; even, so that the picture begins with a word. A patch
    begins where a group of its input does, which without a window has four pixels.
    """
    return aligned(dims.padding[2], 4 if again == PATCHES and not window else 2)


def plane_bytes(dims: Dims, patch: int = 0, window: bool = False) -> int:
    """Bytes of the plane of one channel: every column that is written, by fours, or read, for outputs by fours.

    Args:
        dims: sizes of the depthwise convolution.
        patch: it holds only the columns under the windows of so many pixels, a multiple of four; 0: the whole row.
        window: the convolution in front has a window.
    """
    lead = lead_of(dims, PATCHES if patch else "", window)
    first = lead - dims.padding[2]
    read = first + ((patch or aligned(dims.out_width, 4)) - 1) * dims.stride[1] + dims.kernel[1]
    written = lead + (aligned(read - lead, 4) if patch else aligned(dims.in_width, 4))
    if patch:  # all but the first patch of a row begin in front of the padding
        written = max(written, aligned(read, 4))
    return 2 * dims.kernel[0] * (aligned(max(written, read), 2) + 2)


def filter_words(dims: Dims) -> int:
    """Words of the taps of one channel of a depthwise convolution."""
    return dims.kernel[0] * (2 if dims.kernel[1] == 3 else -(-dims.kernel[1] // 2))


def row_distance(memory_last: Dims) -> int:
    """Bytes from a pixel to the next in a row that is being made."""
    return aligned(memory_last.out_channels, 2)


def _sizes(
    block: Block, dims: Mapping[str, Dims], fed: bool, feeds: bool, options: RowOptions
) -> Iterator[tuple[str, int]]:
    yield "state", STATE_BYTES
    groups = 0
    own = slice_channels(block, dims, options)
    again, window = made_again(block, dims, options), False
    if block.conv is not None:
        conv = dims[block.conv.output]
        window = has_window(conv)
        yield "conv_pairs", PAIR_BYTES * -(-conv.out_channels // 2)
        groups = 4 * conv_depth(conv, window) * chunk_pixels(conv, window, options)
        if window:
            yield "widened", 2 * widened_rows(block, dims, again) * widened_row(conv)
        if conv.weight_bits == 4:
            yield "conv_tile", tile_pairs(conv) * pair_bytes(conv)
    if block.filter is not None:
        filtered = dims[block.filter.output]
        if again and not window:
            yield "conv_groups", filtered.kernel[0] * groups
            groups = 0
        groups = max(groups, 4 * -(-filtered.out_channels // 2) * filter_chunk(filtered, options, again))
        yield "filters", (FILTER_BYTES + 4 * filter_words(filtered)) * filtered.out_channels
        patch = options.patch_pixels if again == PATCHES else 0
        channels = own if again == SLICES else aligned(filtered.in_channels, 2)
        yield "planes", plane_bytes(filtered, patch, window) * channels
    if block.project is not None:
        project = dims[block.project.output]
        yield "project_pairs", PAIR_BYTES * -(-project.out_channels // 2)
        if project.weight_bits == 4:
            yield "project_tile", tile_pairs(project) * pair_bytes(project)
    # A row's groups for the first convolution are used up before those for the last one are made.
    yield "groups", groups
    last = dims[block.last_product.output]
    if _needs_row(block, last, feeds):
        yield "row", (own if own and not again else row_distance(last)) * aligned(last.out_width, 4)
    if block.mean is not None:
        yield "sums", 4 * last.out_channels
    if fed and block.residual == block.input:
        yield "kept", kept_rows(block, dims) * last.out_width * last.out_channels


def prefix(index: int) -> str:
    """What names of constants and structures of a block begin with, by its place in a cascade."""
    return f"part{index}_" if index else ""


def _needs_row(block: Block, last: Dims, feeds: bool) -> bool:
    """Whether a row of the result is made apart: to be added to, handed on, stored nowhere, or because its pixels lie
    too close for pairs of channels.
    """
    return feeds or block.add is not None or block.mean is not None or last.out_channels % 2 == 1


def slack_bytes(memory: RowMemory) -> int:
    """Bytes behind the result that are written when its last group of pixels is not whole."""
    last = memory.last
    if _needs_row(memory.block, last, memory.feeds):
        return 0
    return (aligned(last.out_width, 4) - last.out_width) * last.out_channels


def kept_rows(block: Block, dims: Mapping[str, Dims]) -> int:
    """How many rows of an input that is stored nowhere are kept until the result is added to them."""
    return max(count - row for row, count in enumerate(rows_read(sizes_of(block, dims))))


def cascade_of(graph: Graph, blocks: Sequence[Block], options: PlanOptions = DEFAULTS) -> tuple[RowMemory, ...]:
    """Lays out the scratch memory of blocks each of which hands its rows to the next one."""
    found: list[RowMemory] = []
    for index, block in enumerate(blocks):
        base = aligned(found[-1].bytes) if found else 0
        own = options.of(block.output)
        found.append(memory_of(graph, block, base, fed=index > 0, feeds=index + 1 < len(blocks), options=own))
    return tuple(found)


def memory_of(
    graph: Graph,
    block: Block,
    base: int = 0,
    *,
    fed: bool = False,
    feeds: bool = False,
    options: RowOptions = DEFAULTS.default,
) -> RowMemory:
    """Lays out the scratch memory of a block, `base` bytes behind the start of the scratch buffer."""
    dims = {node.output: dims_of(graph, node) for node in block.nodes if node.op.endswith("conv2d")}
    flat = not (fed or feeds) and block.alone and fits_one_row(dims[block.last_product.output], options.flat_bytes)
    if flat:
        dims = {name: one_row(sizes) for name, sizes in dims.items()}
    parts: dict[str, tuple[int, int]] = {}
    offset = base
    for name, size in _sizes(block, dims, fed, feeds, options):
        parts[name] = (offset, size)
        offset += aligned(size)
    return RowMemory(block, dims, parts, flat, fed, feeds, options)


def fits_one_row(dims: Dims, limit: int) -> bool:
    """Whether a pointwise convolution's groups for the whole map are small: then no row has pixels left over, and each
    weight is read once for many pixels.

    Args:
        dims: sizes of a convolution.
        limit: bytes that the groups may need.
    """
    pixels = aligned(dims.in_height * dims.in_width, 4)
    return not has_window(dims) and 4 * conv_depth(dims, False) * pixels <= limit


def one_row(dims: Dims) -> Dims:
    """The same pixels in a single row."""
    pixels = dims.in_height * dims.in_width
    return replace(dims, in_height=1, in_width=pixels, out_height=1, out_width=pixels)


# *** how far the result may overlap the input *****


def sizes_of(block: Block, dims: Mapping[str, Dims]) -> list[Dims]:
    """Sizes of the layers of a block whose rows depend on several rows."""
    return [dims[node.output] for node in (block.conv, block.filter) if node is not None]


def rows_read(layers: Sequence[Dims]) -> list[int]:
    """For each row of the last layer's result: how many rows of the first one's input have been read by then."""
    read = list(range(1, layers[0].in_height + 1))
    for dims in layers:
        needed = (out * dims.stride[0] - dims.padding[0] + dims.kernel[0] for out in range(dims.out_height))
        read = [read[min(max(rows, 1), dims.in_height) - 1] for rows in needed]
    return read


def overlap_distance(graph: Graph, *memories: RowMemory) -> int:
    """The largest offset of the result behind its input at which no row is overwritten before it is read, in bytes.

    Args:
        graph: the network.
        memories: a block, or several that hand rows to each other.
    """
    first, last = memories[0].block, memories[-1].block
    data, result = graph.tensor(first.input), graph.tensor(last.output)
    if last.mean is not None:  # written when everything has been read
        return data.bytes
    layers = [dims for memory in memories for dims in sizes_of(memory.block, memory.dims)]
    read = rows_read(layers)
    rows = layers[0].in_height
    in_row, out_row = data.bytes // rows, result.bytes // len(read)
    slack = slack_bytes(memories[-1])
    # where everything has been read, anything may be overwritten
    waiting = [count * in_row - (row + 1) * out_row - slack for row, count in enumerate(read) if count < rows]
    distance = min(waiting, default=data.bytes)
    if first.residual == first.input and len(memories) == 1:
        # the row that is added is read while the row of the result is written, later ones afterwards
        distance = min(distance, 0)
    elif first.residual == first.input:
        added = rows_read([dims for memory in memories[1:] for dims in sizes_of(memory.block, memory.dims)])
        waiting = [count * in_row - (row + 1) * out_row - slack for row, count in enumerate(added) if count < rows]
        distance = min(distance, *waiting, data.bytes)
    return distance


# *** blocks that hand their rows to the next one *****


def can_feed(graph: Graph, first: Block, second: Block) -> bool:
    """Whether the rows of one block may go straight into another, so that the map between them is never stored."""
    name = first.output
    if second.input != name or second.normalize is not None or name in graph.outputs:
        return False
    inside = {id(node) for node in second.nodes}
    readers = [node for node in graph.nodes if name in node.inputs]
    return all(id(node) in inside for node in readers) and second.residual in (None, name)


def chains(graph: Graph, blocks: Sequence[Block], unstored: Collection[str]) -> tuple[tuple[Block, ...], ...]:
    """The blocks, those joined whose map in between is among `unstored`."""
    found: list[list[Block]] = []
    for block in blocks:
        before = next((chain for chain in found if chain[-1].output == block.input), None)
        if before is not None and block.input in unstored and can_feed(graph, before[-1], block):
            before.append(block)
        else:
            found.append([block])
    return tuple(tuple(chain) for chain in found)
