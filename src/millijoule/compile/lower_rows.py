"""A block of layers as one call of the row engine: packed weights, parameter structures, addresses in its scratch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from millijoule.compile._row_fields import RowLowering, filter_fields
from millijoule.compile.legal import row_numbers
from millijoule.compile.lower import Call, Layer, Structure, add_structure
from millijoule.compile.rows import PATCHES, RowMemory, kept_rows, lead_of, prefix, row_distance, tile_pairs
from millijoule.compile.staging import Copy
from millijoule.graph import Node, arithmetic
from millijoule.kernels import (
    ROWS_AGAIN,
    ROWS_MEAN,
    ROWS_PATCH,
    UNPACK,
    Dims,
    Kernel,
    dims_of,
    filter_row,
    pack_lane_nibbles,
)

__all__ = ["filter_kernel", "lane_order", "lower_rows", "pack_lanes"]

FULL = (-128, 127)
COPIED = {"tiles": ("tiles", "tile"), "part": ("place", "held"), "unpacked": ("place", "held")}
"""Fields of mj_products for the place of a copy and how many pairs it holds, by `Copy.way`."""


def lane_order(dims: Dims, window: bool) -> npt.NDArray[np.int64]:
    """Which number of a pixel each lane of its groups holds, -1 for a lane that is not used.

    With a window: row by row of the window, each filled up to an even count (`collect` in mj_rows_s8.c). Without one:
    by fours as 0, 2, 1, 3, the rest in order (`gather`).
    """
    if window:
        row = dims.kernel[1] * dims.in_channels
        numbers = np.arange(dims.kernel[0] * row).reshape(dims.kernel[0], row)
        return np.pad(numbers, ((0, 0), (0, row % 2)), constant_values=-1).ravel()
    quads = dims.in_channels // 4 * 4
    first = np.arange(quads).reshape(-1, 4)[:, [0, 2, 1, 3]].ravel()
    rest = np.arange(quads, dims.in_channels)
    return np.concatenate([first, rest, np.full(dims.in_channels % 2, -1)]).astype(np.int64)


def pack_lanes(weights: npt.NDArray[np.int8], order: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
    """Weights (out, numbers) as words of two 16-bit lanes, two channels in each lane: `mj_rows.h`."""
    lanes = np.where(order >= 0, weights.astype(np.int64)[:, np.maximum(order, 0)], 0)
    if len(lanes) % 2:
        lanes = np.concatenate([lanes, np.zeros_like(lanes[:1])])
    halves = (256 * lanes[1::2] + lanes[0::2]) & 0xFFFF
    words: npt.NDArray[np.uint32] = (halves[:, 0::2] | halves[:, 1::2] << 16).astype(np.uint32).ravel()
    return words


NARROWEST = 2**15 - 1
"""Biases up to here take 16 bits, where all of a layer do."""


def filter_kernel(dims: Dims) -> str:
    """The C function for a depthwise convolution of these sizes."""
    phase = lead_of(dims, "", False) - dims.padding[2]
    return filter_row(*dims.kernel, dims.stride[1], phase % 2)


@dataclass(frozen=True)
class _Lowering(RowLowering):
    """What the parts of a block share; what belongs to later blocks of a cascade has a prefix."""

    copies: Mapping[str, Copy]
    prefix: str

    def common(self, node: Node, name: str) -> dict[str, str]:
        """Constants and bounds that products and filters have alike."""
        graph = self.layer.graph
        numbers = row_numbers(graph, node)
        low, high = arithmetic.clamp_bounds(node.attrs.get("clamp"), graph.quant(node.output))
        short = numbers.bias if node.op == "depthwise_conv2d" else numbers.bias >> numbers.up
        narrow = bool((np.abs(short) <= NARROWEST).all())
        bias = short.astype(np.int16) if narrow else numbers.bias.astype(np.int32)
        return {
            "narrow" if narrow else "bias": self.flash(f"{name}_bias", bias),
            "multiplier": self.flash(f"{name}_multiplier", numbers.multiplier),
            "shift": self.flash(f"{name}_shift", numbers.shift),
            "zero": str(graph.quant(node.output).scalar_zero_point),
            "low": str(low),
            "high": str(high),
        }

    def product(self, node: Node, name: str, order: npt.NDArray[np.int64], form: str) -> str:
        """A convolution as products; `form` is planes or pixels."""
        common = self.common(node, name)
        full = (int(common["low"]), int(common["high"])) == FULL
        kernel = f"mj_product_{form}" if full else f"mj_product_{form}_clamped"
        weights = self.layer.graph.constant(node.inputs[1])
        fields = {
            **common,
            "pairs": self.part(f"{name}_pairs", "mj_pair"),
            "product": self.uses(kernel),
            "channels": str(weights.shape[0]),
            "depth": str(len(order) // 2),
        }
        words = pack_lanes(weights.reshape(weights.shape[0], -1), order)
        if self.layer.graph.quant(node.inputs[1]).bits == 4:
            words = pack_lane_nibbles(words, len(order) // 2)
            fields |= self.unpacked(node, name)
        fields["weights"] = self.flash(f"{name}_weights", words)
        copy = self.copies.get(f"{self.prefix}{name}_weights")
        if copy is not None and copy.way in COPIED:
            place, count = COPIED[copy.way]
            fields |= {place: f"MJ_AT(uint32_t, {copy.offset})", count: str(copy.bytes // (2 * len(order)))}
        return self.structure("mj_products", name, fields)

    def unpacked(self, node: Node, name: str) -> dict[str, str]:
        """Where weights of 4 bits go: all that fit at once, the others a tile at a time."""
        dims, part = self.memory.dims[node.output], self.part(f"{name}_tile", "uint32_t")
        pairs, tile = -(-dims.out_channels // 2), tile_pairs(dims)
        fields = {"unpack": self.uses(UNPACK), "up": str(row_numbers(self.layer.graph, node).up)}
        if tile == pairs:
            return fields | {"place": part, "held": str(pairs)}
        return fields | {"tiles": part, "tile": str(tile)}

    def filter(self, node: Node, dims: Dims) -> str:
        """A depthwise convolution on planes."""
        taps = (
            np.moveaxis(self.layer.graph.constant(node.inputs[1])[0], -1, 0) << row_numbers(self.layer.graph, node).up
        )
        fields = {
            **self.common(node, "filter"),
            "taps": self.flash("filter_taps", taps),
            "filters": self.part("filters", "uint32_t"),
            "filter_row": self.uses(filter_kernel(dims)),
            **filter_fields(dims),
        }
        return self.structure("mj_filters", "filter", fields)

    def mean(self, node: Node) -> str:
        """The mean over all pixels."""
        self.uses(ROWS_MEAN)
        graph = self.layer.graph
        data, result = graph.quant(node.inputs[0]), graph.quant(node.output)
        _, height, width, _ = graph.tensor(node.inputs[0]).shape
        multiplier, shift = arithmetic.mean_multiplier(data, result, height * width, graph.rounding)
        low, high = arithmetic.clamp_bounds(node.attrs.get("clamp"), result)
        fields = {
            "take": "mj_rows_mean_take",
            "finish": "mj_rows_mean_finish",
            "sums": self.part("sums", "int32_t"),
            "start": str(-data.scalar_zero_point * height * width),
            "multiplier": str(multiplier),
            "shift": str(shift),
            "zero": str(result.scalar_zero_point),
            "low": str(low),
            "high": str(high),
        }
        return self.structure("mj_rows_mean", "mean", fields)

    def flash(self, name: str, value: npt.NDArray[Any]) -> str:
        """Puts an array into the layer's constants and returns the C expression of its first element."""
        return self.layer.flash(self.prefix + name, value)

    def structure(self, kind: str, name: str, fields: dict[str, str]) -> str:
        """See `RowLowering.structure`."""
        return super().structure(kind, self.prefix + name, fields)


def lower_rows(
    layer: Layer,
    memories: Sequence[RowMemory],
    scratch: int,
    kernel_of: Callable[[Node], Kernel],
    copies: Mapping[str, Copy] | None = None,
) -> Call:
    """The call of the row engine for a block, or for several that hand their rows on.

    Args:
        layer: the blocks' step; their constants go into one block of constants.
        memories: what the scratch memory holds.
        scratch: where in the arena it begins.
        kernel_of: the kernel of an addition or a dense layer.
        copies: places in the arena for constants; one that is smaller than its constant holds tiles of it.
    """
    sources: list[str] = ["mj_rows_s8"]
    structures: list[Structure] = []
    result = layer.address(memories[-1].block.output)
    then: Call | None = None
    for index, memory in reversed(list(enumerate(memories))):
        parts = _Lowering(layer, memory, scratch, structures, sources, copies or {}, prefix(index))
        fields = _fields(parts, kernel_of)
        dense = memory.block.dense
        if dense is not None:
            result, then = parts.means(dense), parts.dense(dense, kernel_of(dense), parts.prefix)
        if memory.feeds:
            fields["next"] = f"&{prefix(index + 1)}rows"
        parts.structure("mj_rows", "rows", fields)
    first = memories[0].block
    return Call(
        "mj_rows_s8",
        tuple(dict.fromkeys(sources)),
        (layer.address(first.input), result, "&rows"),
        tuple(layer.constants),
        tuple(structures),
        layer.staged,
        then,
    )


def _fields(parts: _Lowering, kernel_of: Callable[[Node], Kernel]) -> dict[str, str]:
    """The mj_rows of one block."""
    layer, memory = parts.layer, parts.memory
    graph, block = layer.graph, memory.block
    first = block.conv or block.filter
    assert first is not None, "a block has a convolution"
    fields = {**parts.first(), "in_zero": str(graph.quant(first.inputs[0]).scalar_zero_point)}
    if block.normalize is not None:
        scale, offset = block.normalize.attrs["scale"], block.normalize.attrs["offset"]
        table = arithmetic.normalize_table(tuple(scale), tuple(offset), graph.quant(block.normalize.output))
        if (table == np.arange(-128, 128)).all():
            fields["flip"] = "0x80"
        else:
            fields |= {"table": parts.flash("table", table), "table_step": "0" if len(table) == 1 else "256"}
    if memory.conv is not None and block.conv is not None:
        form = "planes" if block.filter else "pixels"
        product = parts.product(block.conv, "conv", lane_order(memory.conv, memory.window), form)
        fields |= parts.convolved(block.conv, memory.conv, product)
    if memory.filter is not None and block.filter is not None:
        fields |= parts.filtered(memory.filter, parts.filter(block.filter, memory.filter))
    if block.project is not None:
        numbers = dims_of(graph, block.project).in_channels
        order = np.concatenate([np.arange(numbers), np.full(numbers % 2, -1)])
        fields["project"] = parts.product(block.project, "project", order, "pixels")
    last = memory.last
    if memory.again == PATCHES:
        fields["parts"] = parts.uses(ROWS_PATCH)
    elif memory.slice:
        way = parts.uses(ROWS_AGAIN) if memory.again else "mj_rows_mean_slices"
        fields |= {"parts": way, "slice": str(memory.slice)}
    if block.mean is not None:
        fields["mean"] = parts.mean(block.mean)
    fields |= {
        "out_height": str(last.out_height),
        "out_width": str(last.out_width),
        "out_channels": str(last.out_channels),
        "row": parts.part("row", "int8_t"),
        "row_distance": str(row_distance(last)) if "row" in memory.parts else str(last.out_channels),
    }
    if block.add is not None and block.residual is not None:
        sums = add_structure(graph, block.add)
        fields |= {
            "sum": parts.uses(kernel_of(block.add).name),
            "add": parts.structure(sums.type, sums.name, dict(sums.fields)),
            "result_left": str(int(block.add.inputs[0] == block.last_product.output)),
        }
        if "kept" in memory.parts:
            fields |= {"kept": parts.part("kept", "int8_t"), "kept_rows": str(kept_rows(block, memory.dims))}
        else:
            fields["residual"] = layer.address(block.residual)
    return fields
