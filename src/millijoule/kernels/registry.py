"""Every kernel: what it computes, when it is legal, how much scratch memory it needs, how its weights are stored.

One row of `KERNELS` per file in `c/`. The compiler asks `kernels_for` (or `choose`) for the best legal kernel, stores
``kernel.pack(weights)`` (or the weights as they are, when `pack` is None) as an int8 array, hands the kernel
``kernel.scratch_bytes(dims)`` bytes of 4-byte aligned scratch, and writes out what `sources` gives. The row
engine, which does chains of convolutions, has its inner kernels in `ROW_KERNELS`, generated for the boards by
`assembly`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from millijoule.errors import UnsupportedError
from millijoule.graph import WEIGHT_AXIS, Graph, Node, mode
from millijoule.kernels._nibbles import pack_lane_nibbles

__all__ = [
    "ARITHMETICS",
    "DENSE_INNER",
    "DENSE_LANES",
    "DENSE_NIBBLES",
    "FLAGS",
    "KERNELS",
    "ROWS",
    "ROWS_AGAIN",
    "ROWS_DYNAMIC",
    "ROWS_MEAN",
    "ROWS_MEAN_FLOATS",
    "ROWS_PATCH",
    "ROW_KERNELS",
    "ROW_KERNELS_DYNAMIC",
    "UNPACK",
    "VARIANTS",
    "Dims",
    "Kernel",
    "choose",
    "dims_of",
    "kernels_for",
    "nibble_features",
    "support_table",
]

ARITHMETICS = ("integer", "dynamic", "float")
VARIANTS = ("plain", "dsp")
FLAGS = ("-std=c11", "-ffp-contract=off")
"""Compiler flags that the kernels need: without fused multiply-adds, host and boards give equal floats."""

_BLOCK_PIXELS = 4  # MJ_BLOCK_PIXELS of mj_block.h
_TILE_BYTES = 4096  # of unpacked weights of a dense layer; every tile brings another kernel into a small cache
_MAX_TAPS = 49  # MJ_MAX_TAPS of mj_depthwise_s8_dsp.c

Int8 = npt.NDArray[np.int8]


@dataclass(frozen=True)
class Dims:
    """The sizes of one layer; dense, softmax and friends use channels only (features, classes).

    Attributes:
        in_height: rows of the input.
        in_width: columns of the input.
        in_channels: channels (or features) of the input.
        out_height: rows of the result.
        out_width: columns of the result.
        out_channels: channels (or features) of the result.
        kernel: height and width of the window.
        stride: vertical and horizontal step of the window.
        dilation: vertical and horizontal distance of the window's taps.
        padding: top, bottom, left, right.
        weight_bits: 8 or 4; of float layers 16 or 32.
    """

    in_height: int = 1
    in_width: int = 1
    in_channels: int = 1
    out_height: int = 1
    out_width: int = 1
    out_channels: int = 1
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    weight_bits: int = 8

    @property
    def in_elements(self) -> int:
        """Numbers in the input."""
        return self.in_height * self.in_width * self.in_channels

    @property
    def window_length(self) -> int:
        """Products in one sum of a convolution."""
        return self.kernel[0] * self.kernel[1] * self.in_channels


@dataclass(frozen=True)
class Kernel:
    """One C function.

    Attributes:
        name: the C function, which is also the file's name.
        operator: the graph's operator.
        arithmetic: "integer", "dynamic" or "float".
        variant: "plain" (readable C, every core) or "dsp" (Armv7E-M).
        legal: whether the kernel can do a layer of these sizes; its docstring says the condition to the user.
        scratch_bytes: bytes of scratch for a layer of these sizes.
        pack: from weights in the graph's layout to the int8 array the kernel reads; None: as they are.
    """

    name: str
    operator: str
    arithmetic: str
    variant: str
    legal: Callable[[Dims], bool]
    scratch_bytes: Callable[[Dims], int]
    pack: Callable[[Int8], Int8] | None = None

    @property
    def file(self) -> str:
        """The file in `c/` that defines it."""
        return f"{self.name}.c"

    def packed(self, weights: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The weights as the kernel reads them: flat int8 in its own order, or `weights` unchanged."""
        return weights if self.pack is None else self.pack(weights)


# *** limits: the docstring is the message *****


def _any_size(dims: Dims) -> bool:
    """Any size."""
    return True


def _window(dims: Dims) -> bool:
    """Sizes are below 65,536; kernel, stride, dilation and padding are below 256."""
    sizes = (dims.in_height, dims.in_width, dims.in_channels, dims.out_height, dims.out_width, dims.out_channels)
    small = (*dims.kernel, *dims.stride, *dims.dilation, dims.padding[0], dims.padding[2])
    return max(sizes) < 1 << 16 and max(small) < 1 << 8


def _pointwise(dims: Dims) -> bool:
    """The window is 1x1 with stride 1 and without padding; sizes are below 65,536."""
    plain = dims.kernel == (1, 1) and dims.stride == (1, 1) and dims.padding == (0, 0, 0, 0)
    return plain and _window(dims)


def _half_window(dims: Dims) -> bool:
    """Weights are 16-bit floats; sizes are below 65,536; kernel, stride, dilation and padding are below 256."""
    return dims.weight_bits == 16 and _window(dims)


def _half_features(dims: Dims) -> bool:
    """Weights are 16-bit floats."""
    return dims.weight_bits == 16


def _float_window(dims: Dims) -> bool:
    """Weights are 32-bit floats; sizes are below 65,536; kernel, stride, dilation and padding are below 256."""
    return dims.weight_bits != 16 and _window(dims)


def _float_features(dims: Dims) -> bool:
    """Weights are 32-bit floats."""
    return dims.weight_bits != 16


def _few_taps(dims: Dims) -> bool:
    """The window has at most 49 taps (7x7); sizes are below 65,536, stride, dilation and padding below 256."""
    return dims.kernel[0] * dims.kernel[1] <= _MAX_TAPS and _window(dims)


def _softmax_classes(dims: Dims) -> bool:
    """There are at most 32,767 classes."""
    return dims.out_channels <= 32767


# *** scratch *****


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _no_scratch(dims: Dims) -> int:
    return 0


def _block_scratch(dims: Dims) -> int:
    """One block of pixels as int16."""
    return 2 * _BLOCK_PIXELS * _round_up(dims.in_channels, 4)


def _window_block_scratch(dims: Dims) -> int:
    """One block of windows as int16, and one window as int8."""
    return (2 * _BLOCK_PIXELS + 1) * _round_up(dims.window_length, 4)


def _row_scratch(dims: Dims) -> int:
    """The input features as int16, by eights for `DENSE_LANES`, which may take the layer over; weights unpacked a
    tile at a time if they have 4 bits.
    """
    return 2 * _round_up(dims.in_channels, 8) + _nibble_scratch(dims)


def nibble_features(dims: Dims) -> int:
    """Of how many features `DENSE_NIBBLES` unpacks the weights at a time: a multiple of four, or all of them."""
    return min(_round_up(dims.out_channels, 2), max(1, _TILE_BYTES // (4 * _round_up(dims.in_channels, 8))) * 4)


def _nibble_scratch(dims: Dims) -> int:
    """The weights of so many features as bytes."""
    return _round_up(dims.in_channels, 8) * nibble_features(dims) if dims.weight_bits == 4 else 0


def _plain_row_scratch(dims: Dims) -> int:
    """Nothing, unless the weights have 4 bits: then as `DENSE_NIBBLES`."""
    return _row_scratch(dims) if dims.weight_bits == 4 else 0


def _outside_scratch(dims: Dims) -> int:
    """One pixel for the taps outside the picture."""
    return _round_up(dims.in_channels, 4)


def _quantized_scratch(dims: Dims) -> int:
    """The whole input as int8."""
    return _round_up(dims.in_elements, 4)


# *** weight layouts *****


def _pack_pairs(weights: Int8) -> Int8:
    """Weights of two output channels side by side, in the order in which SXTB16 unpacks the data.

    ``(out, ..., in)`` is flattened to (out, k); out is padded with zeros to a multiple of 2 and k to a multiple of 4.
    For channels a, b and taps k..k+3 the eight bytes are ``a0 b0 a2 b2  a1 b1 a3 b3``: SXTB16 of the first word gives
    (a0, a2), rotated by 8 bits (b0, b2), which meet the data pair (x0, x2), and so on.
    """
    flat = weights.reshape(weights.shape[0], -1)
    padded = np.zeros((_round_up(flat.shape[0], 2), _round_up(flat.shape[1], 4)), dtype=np.int8)
    padded[: flat.shape[0], : flat.shape[1]] = flat
    # (channel pair, a|b, quad, k: low bit is the fast one of 0..3) -> (channel pair, quad, odd|even k, half, a|b)
    quads = padded.reshape(padded.shape[0] // 2, 2, padded.shape[1] // 4, 2, 2)
    return np.ascontiguousarray(quads.transpose(0, 2, 4, 3, 1)).reshape(-1)


def _pack_channel_groups(weights: Int8) -> Int8:
    """Depthwise weights, all taps of four channels together: (channels / 4, taps, 4), padded with zero channels."""
    channels = weights.shape[-1]
    flat = weights.reshape(-1, channels)
    padded = np.zeros((flat.shape[0], _round_up(channels, 4)), dtype=np.int8)
    padded[:, :channels] = flat
    groups = padded.reshape(flat.shape[0], -1, 4)
    return np.ascontiguousarray(groups.transpose(1, 0, 2)).reshape(-1)


def _pack_lanes(weights: Int8) -> Int8:
    """Weights (out, in) as words of lanes in the order of mj_dense.h, as bytes.

    Out is padded with zeros to a multiple of 2, in to a multiple of 8. Lane k of features (2j, 2j + 1) is
    256 * w[2j+1][k] + w[2j][k]; numbers by fours as 0, 2, 1, 3.
    """
    features, numbers = weights.shape
    padded = np.zeros((_round_up(features, 2), _round_up(numbers, 8)), dtype=np.int64)
    padded[:features, :numbers] = weights
    padded = padded.reshape(len(padded), -1, 4)[:, :, [0, 2, 1, 3]].reshape(len(padded), -1)
    lanes = (256 * padded[1::2] + padded[0::2]).astype(np.int16)
    words = np.ascontiguousarray(lanes).view(np.int32)
    even = len(words) // 2 * 2
    together = words[:even].reshape(even // 2, 2, words.shape[1]).transpose(0, 2, 1)
    return np.concatenate([together.ravel(), words[even:].ravel()]).view(np.int8)


def _pack_lane_nibbles(weights: Int8) -> Int8:
    """As `_pack_lanes`, with 4 bits for each weight."""
    words = _pack_lanes(weights).view(np.uint32)
    return pack_lane_nibbles(words, len(words)).view(np.int8)


# *** the table *****

KERNELS: tuple[Kernel, ...] = (
    # within an operator: best first
    Kernel("mj_normalize_s8", "normalize", "integer", "plain", _any_size, _no_scratch),
    Kernel("mj_normalize_f32", "normalize", "float", "plain", _any_size, _no_scratch),
    Kernel("mj_pointwise_s8_dsp", "conv2d", "integer", "dsp", _pointwise, _block_scratch, _pack_pairs),
    Kernel("mj_conv2d_s8_dsp", "conv2d", "integer", "dsp", _window, _window_block_scratch, _pack_pairs),
    Kernel("mj_pointwise_s8", "conv2d", "integer", "plain", _pointwise, _no_scratch),
    Kernel("mj_conv2d_s8", "conv2d", "integer", "plain", _window, _no_scratch),
    Kernel("mj_conv2d_dyn", "conv2d", "dynamic", "plain", _window, _quantized_scratch),
    Kernel("mj_conv2d_f32", "conv2d", "float", "plain", _float_window, _no_scratch),
    Kernel("mj_conv2d_f16", "conv2d", "float", "plain", _half_window, _no_scratch),
    Kernel(
        "mj_depthwise_s8_dsp", "depthwise_conv2d", "integer", "dsp", _few_taps, _outside_scratch, _pack_channel_groups
    ),
    Kernel("mj_depthwise_s8", "depthwise_conv2d", "integer", "plain", _window, _no_scratch),
    Kernel("mj_depthwise_dyn", "depthwise_conv2d", "dynamic", "plain", _window, _quantized_scratch),
    Kernel("mj_depthwise_f32", "depthwise_conv2d", "float", "plain", _float_window, _no_scratch),
    Kernel("mj_depthwise_f16", "depthwise_conv2d", "float", "plain", _half_window, _no_scratch),
    Kernel("mj_dense_s8_dsp", "dense", "integer", "dsp", _any_size, _row_scratch, _pack_pairs),
    Kernel("mj_dense_s8", "dense", "integer", "plain", _any_size, _plain_row_scratch),
    Kernel("mj_dense_dyn", "dense", "dynamic", "plain", _any_size, _quantized_scratch),
    Kernel("mj_dense_f32", "dense", "float", "plain", _float_features, _no_scratch),
    Kernel("mj_dense_f16", "dense", "float", "plain", _half_features, _no_scratch),
    Kernel("mj_add_s8_dsp", "add", "integer", "dsp", _any_size, _no_scratch),
    Kernel("mj_add_s8", "add", "integer", "plain", _any_size, _no_scratch),
    Kernel("mj_add_f32", "add", "float", "plain", _any_size, _no_scratch),
    Kernel("mj_mean_s8_dsp", "mean", "integer", "dsp", _any_size, _no_scratch),
    Kernel("mj_mean_s8", "mean", "integer", "plain", _any_size, _no_scratch),
    Kernel("mj_mean_f32", "mean", "float", "plain", _any_size, _no_scratch),
    Kernel("mj_avg_pool_s8", "avg_pool", "integer", "plain", _window, _no_scratch),
    Kernel("mj_avg_pool_f32", "avg_pool", "float", "plain", _window, _no_scratch),
    Kernel("mj_max_pool_s8", "max_pool", "integer", "plain", _window, _no_scratch),
    Kernel("mj_max_pool_f32", "max_pool", "float", "plain", _window, _no_scratch),
    Kernel("mj_pad_s8", "pad", "integer", "plain", _any_size, _no_scratch),
    Kernel("mj_pad_f32", "pad", "float", "plain", _any_size, _no_scratch),
    Kernel("mj_transpose_s8", "transpose", "integer", "plain", _any_size, _no_scratch),
    Kernel("mj_transpose_f32", "transpose", "float", "plain", _any_size, _no_scratch),
    Kernel("mj_clamp_s8", "clamp", "integer", "plain", _any_size, _no_scratch),
    Kernel("mj_clamp_f32", "clamp", "float", "plain", _any_size, _no_scratch),
    Kernel("mj_softmax_s8_dsp", "softmax", "integer", "dsp", _softmax_classes, _no_scratch),
    Kernel("mj_softmax_s8", "softmax", "integer", "plain", _softmax_classes, _no_scratch),
    Kernel("mj_softmax_f32", "softmax", "float", "plain", _any_size, _no_scratch),
    Kernel("mj_quantize_s8", "quantize", "integer", "plain", _any_size, _no_scratch),
    Kernel("mj_dequantize_s8", "dequantize", "integer", "plain", _any_size, _no_scratch),
)


ROWS = Kernel("mj_rows_s8", "rows", "integer", "dsp", _any_size, _no_scratch)
"""The row engine, which computes chains of convolutions; the compiler decides which (`compile.rows`)."""

ROWS_AGAIN, ROWS_PATCH = "mj_rows_again", "mj_rows_patch"
"""Parts of the row engine that few blocks need: recomputation by slices of channels, by patches of columns."""
ROWS_MEAN, ROWS_MEAN_FLOATS = "mj_rows_mean", "mj_rows_mean_floats"
"""Means; means of floats."""

ROWS_DYNAMIC = Kernel("mj_rows_dyn", "rows", "dynamic", "dsp", _any_size, _no_scratch)
"""The row engine in passes, for chains with float data and int8 weights (`compile.rows_dynamic`)."""

DENSE_LANES = Kernel("mj_dense_s8_lanes", "dense", "integer", "dsp", _any_size, _row_scratch, _pack_lanes)
"""Takes the place of mj_dense_s8_dsp where the weights allow it (`compile.legal`); weights are in [-127, 127]."""

DENSE_INNER = "mj_dense_lanes"
"""Its inner kernel (`mj_dense.h`), generated for the boards."""

DENSE_NIBBLES = Kernel("mj_dense_s4_lanes", "dense", "integer", "dsp", _any_size, _row_scratch, _pack_lane_nibbles)
"""The same for weights of 4 bits."""

UNPACK = "mj_unpack_lanes"
"""Unpacks weights of 4 bits for the row engine and `DENSE_NIBBLES` (`mj_unpack.h`)."""

ROW_KERNELS = (
    *(f"mj_product_{form}{bounds}" for form in ("planes", "pixels") for bounds in ("", "_clamped")),
    "mj_filter_row_any",
    *(f"mj_filter_row_{k}x{k}_s{stride}_p{phase}" for k in (3, 5, 7) for stride in (1, 2) for phase in (0, 1)),
)
"""The inner kernels of the row engine (`mj_rows.h`)."""

ROW_KERNELS_DYNAMIC = (
    "mj_product_range",
    "mj_product_floats",
    "mj_product_floats_clamped",
    "mj_product_planes_exact",
    "mj_product_planes_relu",
    "mj_filter_range_any",
    "mj_filter_range_3x3",
    "mj_filter_row_relu_3x3",
    "mj_filter_row_stored",
    "mj_filter_row_exact",
)
"""Those that it needs besides for dynamic models (`mj_rows_dynamic.h`)."""


def kernels_for(operator: str, arithmetic: str, dims: Dims) -> list[Kernel]:
    """The kernels that can do a layer, best first (dsp before plain, special before general).

    Args:
        operator: a key of `graph.OPERATORS`.
        arithmetic: "integer", "dynamic" or "float".
        dims: the layer's sizes.
    """
    return [
        kernel
        for kernel in KERNELS
        if kernel.operator == operator and kernel.arithmetic == arithmetic and kernel.legal(dims)
    ]


def dims_of(graph: Graph, node: Node) -> Dims:
    """The sizes of a node of a verified graph."""
    data, result = graph.tensor(node.inputs[0]).shape, graph.tensor(node.output).shape
    # (1, features) is a map of one pixel
    data = data if len(data) == 4 else (1, 1, 1, data[-1])
    result = result if len(result) == 4 else (1, 1, 1, result[-1])
    kernel: tuple[int, int] = (1, 1)
    if node.op in ("conv2d", "depthwise_conv2d"):
        weights = graph.tensor(node.inputs[1]).shape
        kernel = (weights[1], weights[2])
    elif "kernel" in node.attrs:
        kernel = (node.attrs["kernel"][0], node.attrs["kernel"][1])
    stride = tuple(node.attrs.get("stride", (1, 1)))
    dilation = tuple(node.attrs.get("dilation", (1, 1)))
    padding = tuple(node.attrs.get("padding", (0, 0, 0, 0)))
    return Dims(
        *data[1:], *result[1:], kernel, (stride[0], stride[1]), (dilation[0], dilation[1]),
        (padding[0], padding[1], padding[2], padding[3]), _weight_bits(graph, node),
    )  # fmt: skip


def _weight_bits(graph: Graph, node: Node) -> int:
    """Bits of a weight; 8 where there are none."""
    if node.op not in WEIGHT_AXIS:
        return 8
    weights = graph.tensor(node.inputs[1])
    return {"float32": 32, "float16": 16}.get(weights.dtype, 8 if weights.quant is None else weights.quant.bits)


def choose(graph: Graph, node: Node, variant: str = "dsp") -> Kernel:
    """The best kernel for a node.

    Args:
        graph: the (verified) graph of the node.
        node: any operator but reshape and batch_norm.
        variant: "dsp": the fastest legal kernel; "plain": plain C only.

    Raises:
        UnsupportedError: no kernel does this operator in this arithmetic, or none does these sizes.
    """
    arithmetic, dims = mode(graph, node), dims_of(graph, node)
    known = [kernel for kernel in KERNELS if kernel.operator == node.op and kernel.arithmetic == arithmetic]
    known = [kernel for kernel in known if variant == "dsp" or kernel.variant == "plain"]
    for kernel in known:
        if kernel.legal(dims):
            return kernel
    what = f"layer {node.source or node.output!r} ({node.op})"
    if not known:
        raise UnsupportedError(what, f"no kernel computes it in {arithmetic} arithmetic", "See the support table")
    conditions = " Or: ".join(dict.fromkeys((kernel.legal.__doc__ or "").strip() for kernel in known))
    raise UnsupportedError(what, "its sizes are beyond every kernel", f"Change the layer: {conditions.rstrip('.')}")


def support_table() -> str:
    """A Markdown table of all kernels and their limits, made from the rows and docstrings above."""
    lines = ["| operator | arithmetic | variant | kernel | condition |", "|---|---|---|---|---|"]
    lines += [
        f"| {kernel.operator} | {kernel.arithmetic} | {kernel.variant} | `{kernel.name}` "
        f"| {(kernel.legal.__doc__ or '').strip()} |"
        for kernel in KERNELS
    ]
    return "\n".join(lines) + "\n"
