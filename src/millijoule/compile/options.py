"""What a plan may decide differently without changing a bit of any result: how much is done at a time, and where.

Small chunks need little memory and ask for the weights often. Which numbers are fastest depends on the layer and the
board; the defaults are good for all of them, `objective` chooses others where memory is short.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from millijoule.errors import OptionError

__all__ = ["DEFAULTS", "PlanOptions", "RowOptions"]

_PIXELS = ("chunk_pixels", "filter_pixels")
_BYTES = ("chunk_bytes", "flat_bytes")


@dataclass(frozen=True)
class RowOptions:
    """How one block of layers runs row by row.

    Attributes:
        chunk_pixels: a convolution with a window makes groups for so many pixels at a time; a multiple of four.
        chunk_bytes: and for so few that they take at most this much, four pixels at least.
        filter_pixels: a depthwise convolution makes groups for so many pixels at a time; a multiple of four.
        slice_channels: the map between a pointwise convolution and a depthwise one exists so many channels at a time,
            an even number, and is made again for every row of the result; 0: all of them, made once.
        patch_pixels: the map between a convolution and a depthwise one exists only under the windows of so many pixels
            of the result, a multiple of four, and is made again for every such patch of a row; then nothing is sliced.
            0: all of it, made once.
        flat_bytes: a pointwise convolution by itself takes its whole map for one row if its groups need at most this
            much; 0: never.
        join: it may hand its rows to the next block, or get them from the one before.
        stage: its weights may be copied to RAM (boards whose flash asks for it).

    Raises:
        OptionError: a number out of range.
    """

    chunk_pixels: int = 28
    chunk_bytes: int = 8192
    filter_pixels: int = 64
    slice_channels: int = 0
    patch_pixels: int = 0
    flat_bytes: int = 20480
    join: bool = True
    stage: bool = True

    def __post_init__(self) -> None:
        for name in _PIXELS:
            value = getattr(self, name)
            if type(value) is not int or value < 4 or value % 4:
                raise OptionError(name, f"{value!r} is no multiple of four above zero", "Use 4, 8, 12 and so on")
        if type(self.slice_channels) is not int or self.slice_channels < 0 or self.slice_channels % 2:
            raise OptionError("slice_channels", f"{self.slice_channels!r} is no even number", "Use 0, 2, 4 and so on")
        if type(self.patch_pixels) is not int or self.patch_pixels < 0 or self.patch_pixels % 4:
            raise OptionError("patch_pixels", f"{self.patch_pixels!r} is no multiple of four", "Use 0, 4, 8 and so on")
        for name in _BYTES:
            value = getattr(self, name)
            if type(value) is not int or value < 0:
                raise OptionError(name, f"{value!r} is no number of bytes", "Use 0 or more")
        for name in ("join", "stage"):
            if type(getattr(self, name)) is not bool:
                raise OptionError(name, f"{getattr(self, name)!r} is neither true nor false", "Use True or False")

    def as_dict(self) -> dict[str, Any]:
        """The options as JSON values."""
        return {item.name: getattr(self, item.name) for item in fields(self)}


@dataclass(frozen=True)
class PlanOptions:
    """The options of every block, and which blocks hand their rows on.

    Attributes:
        default: of every block that has none of its own.
        blocks: result of a block (`finder.Block.output`), or of a layer that runs by itself -> its options.
        unstored: the maps between two blocks that are never stored; None: found where that lowers the peak.
        stream: the picture comes row by row and is stored nowhere.
    """

    default: RowOptions = RowOptions()
    blocks: Mapping[str, RowOptions] = field(default_factory=dict)
    unstored: frozenset[str] | None = None
    stream: bool = False

    def of(self, result: str) -> RowOptions:
        """The options of the block or layer with this result."""
        return self.blocks.get(result, self.default)


DEFAULTS = PlanOptions()
"""What is best on the whole."""
