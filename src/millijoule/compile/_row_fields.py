"""What a block of layers says to the row engine whatever its arithmetic: addresses, windows, planes, groups."""

from __future__ import annotations

from dataclasses import dataclass, replace

from millijoule.compile._text import C_TYPES
from millijoule.compile.lower import LOWERINGS, Call, Layer, Structure, window_structure
from millijoule.compile.rows import (
    FILTER_BYTES,
    RowMemory,
    chunk_pixels,
    filter_chunk,
    filter_words,
    lead_of,
    plane_bytes,
    widened_row,
    widened_rows,
)
from millijoule.graph import Node
from millijoule.kernels import Dims, Kernel

__all__ = ["RowLowering", "filter_fields"]


@dataclass(frozen=True)
class RowLowering:
    """What the parts of a block share.

    Attributes:
        layer: the step; constants go into its block of constants.
        memory: what the scratch memory holds.
        scratch: where in the arena that begins.
        structures: the parameter structures so far, each behind those that it points to.
        sources: the C functions so far, each once.
    """

    layer: Layer
    memory: RowMemory
    scratch: int
    structures: list[Structure]
    sources: list[str]

    def part(self, name: str, kind: str, skip: int = 0) -> str:
        """The address of a part of the scratch memory, `skip` bytes in, NULL when there is none."""
        if name not in self.memory.parts:
            return "NULL"
        return f"MJ_AT({kind}, {self.scratch + self.memory.parts[name][0] + skip})"

    def structure(self, kind: str, name: str, fields: dict[str, str]) -> str:
        """Adds a structure and returns the C expression of its address."""
        self.structures.append(Structure(kind, name, fields))
        return f"&{name}"

    def uses(self, kernel: str) -> str:
        """Notes that a C function is needed, and returns it."""
        if kernel not in self.sources:
            self.sources.append(kernel)
        return kernel

    def dense(self, node: Node, kernel: Kernel, prefix: str = "") -> Call:
        """The dense layer behind the mean: the means lie over the sums that they were made of, its scratch memory over
        what nobody needs once the last row is made.

        Args:
            node: the dense layer.
            kernel: its kernel.
            prefix: what names of its constants begin with, beside "dense_".
        """

        def address(name: str) -> str:
            return self.means(node) if name == node.inputs[0] else self.layer.address(name)

        scratch = self.part(self.memory.prepared, "uint8_t")
        names = f"{prefix}dense_"
        call = LOWERINGS[node.op, self.layer.step.mode](
            replace(self.layer, address=address, scratch=scratch, node=node, kernel=kernel, prefix=names)
        )
        for name in call.sources:
            self.uses(name)
        return replace(call, constants=(), staged={})

    def means(self, dense: Node) -> str:
        """The address of the means that a dense layer reads, with their type."""
        return self.part("sums", C_TYPES[self.layer.graph.tensor(dense.inputs[0]).dtype])

    def first(self) -> dict[str, str]:
        """The state and the sizes of the map that is read: fields of an `mj_rows`."""
        sizes = self.memory.conv or self.memory.filter
        assert sizes is not None, "a block has a convolution"
        return {
            "state": self.part("state", "mj_rows_state"),
            "in_height": str(sizes.in_height),
            "in_width": str(sizes.in_width),
            "in_channels": str(sizes.in_channels),
        }

    def convolved(self, node: Node, dims: Dims, product: str) -> dict[str, str]:
        """The first convolution, whose `mj_products` is `product`: fields of an `mj_rows`."""
        fields = {
            "conv": product,
            "conv_groups": self.part("conv_groups" if "conv_groups" in self.memory.parts else "groups", "uint32_t"),
            "chunk": str(chunk_pixels(dims, self.memory.window, self.memory.options)),
        }
        if self.memory.window:
            window = window_structure(self.layer, node)
            fields |= {
                "window": self.structure(window.type, window.name, dict(window.fields)),
                "widened": self.part("widened", "int16_t"),
                "widened_row": str(widened_row(dims)),
                "widened_rows": str(widened_rows(self.memory.block, self.memory.dims, self.memory.again)),
            }
        return fields | {"made_height": str(dims.out_height), "made_width": str(dims.out_width)}

    def filtered(self, dims: Dims, filters: str) -> dict[str, str]:
        """The depthwise convolution, whose `mj_filters` is `filters`: fields of an `mj_rows`."""
        return {
            "made_height": str(dims.in_height),
            "made_width": str(dims.in_width),
            "planes": self.part("planes", "uint32_t"),
            "plane": str(plane_bytes(dims, self.memory.patch, self.memory.window)),
            "lead": str(lead_of(dims, self.memory.again, self.memory.window)),
            "filter": filters,
            "filter_groups": self.part("groups", "uint32_t"),
            "filter_chunk": str(filter_chunk(dims, self.memory.options, self.memory.again)),
            "filter_depth": str(-(-dims.out_channels // 2)),
        }


def filter_fields(dims: Dims) -> dict[str, str]:
    """Sizes of a depthwise convolution: fields of an `mj_filters`."""
    return {
        "channels": str(dims.out_channels),
        "height": str(dims.kernel[0]),
        "width": str(dims.kernel[1]),
        "stride_height": str(dims.stride[0]),
        "stride_width": str(dims.stride[1]),
        "pad_top": str(dims.padding[0]),
        "pad_left": str(dims.padding[2]),
        "filter_bytes": str(FILTER_BYTES + 4 * filter_words(dims)),
    }
