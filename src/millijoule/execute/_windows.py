"""Windows over feature maps (N, H, W, C): padding, patches for matrix products, shifted views for depthwise layers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from millijoule.graph import Graph, Node

__all__ = ["Window", "pad_map", "patches", "row_blocks", "taps"]

Array = npt.NDArray[Any]

BLOCK_VALUES = 1 << 15
"""Values per block of rows: 256 KiB as float64, so that a block's passes stay in the second-level cache."""


class Window:
    """Kernel, stride, dilation, padding and result size of a windowed node."""

    def __init__(self, graph: Graph, node: Node) -> None:
        if node.op in ("conv2d", "depthwise_conv2d"):
            shape = graph.tensor(node.inputs[1]).shape
            self.kernel: tuple[int, int] = (shape[1], shape[2])
        else:
            self.kernel = tuple(node.attrs["kernel"])
        self.stride: tuple[int, int] = tuple(node.attrs["stride"])
        self.dilation: tuple[int, int] = tuple(node.attrs.get("dilation", (1, 1)))
        self.padding: tuple[int, int, int, int] = tuple(node.attrs["padding"])
        result = graph.tensor(node.output).shape
        self.rows, self.columns = result[1], result[2]

    @property
    def pointwise(self) -> bool:
        """Whether a matrix product over the pixels is all there is to do."""
        return self.kernel == (1, 1) and self.stride == (1, 1) and not any(self.padding)


def pad_map(x: Array, padding: tuple[int, int, int, int], value: Any) -> Array:
    """The feature map with (top, bottom, left, right) rows and columns of `value` around it."""
    top, bottom, left, right = padding
    if not any(padding):
        return x
    batch, height, width, channels = x.shape
    result = np.full((batch, height + top + bottom, width + left + right, channels), value, dtype=x.dtype)
    result[:, top : top + height, left : left + width] = x
    return result


def patches(x: Array, window: Window) -> Array:
    """A padded feature map as rows (N * rows * columns, kernel_h * kernel_w * C) for a matrix product."""
    batch, _, _, channels = x.shape
    n, h, w, c = x.strides
    view = np.lib.stride_tricks.as_strided(
        x,
        (batch, window.rows, window.columns, *window.kernel, channels),
        (n, h * window.stride[0], w * window.stride[1], h * window.dilation[0], w * window.dilation[1], c),
        writeable=False,
    )
    return np.ascontiguousarray(view).reshape(batch * window.rows * window.columns, -1)


def taps(x: Array, window: Window) -> Iterator[tuple[int, int, Array]]:
    """Each tap of the window over one padded picture (H, W, C), as a view (rows, columns * C).

    Strided windows are split into contiguous phases first, so that every view has long rows.
    """
    channels = x.shape[2]
    phases: dict[tuple[int, int], Array] = {}
    step_h, step_w = window.stride
    for i in range(window.kernel[0]):
        for j in range(window.kernel[1]):
            top, left = i * window.dilation[0], j * window.dilation[1]
            key = (top % step_h, left % step_w)
            if key not in phases:
                phase = np.ascontiguousarray(x[key[0] :: step_h, key[1] :: step_w])
                phases[key] = phase.reshape(phase.shape[0], -1)
            row, column = top // step_h, left // step_w
            view = phases[key][row : row + window.rows, column * channels : (column + window.columns) * channels]
            yield i, j, view


def row_blocks(rows: int, width: int) -> Iterator[slice]:
    """Slices of `rows` so that each block has about `BLOCK_VALUES` values of rows that are `width` long."""
    step = max(1, BLOCK_VALUES // max(1, width))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))
