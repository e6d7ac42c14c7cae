"""The C kernels: one function per file, a readable plain C definition of each, faster variants beside it."""

from __future__ import annotations

from millijoule.kernels._nibbles import pack_lane_nibbles
from millijoule.kernels.assembly import assembly_source
from millijoule.kernels.registry import (
    DENSE_INNER,
    DENSE_LANES,
    DENSE_NIBBLES,
    FLAGS,
    KERNELS,
    ROW_KERNELS,
    ROW_KERNELS_DYNAMIC,
    ROWS,
    ROWS_AGAIN,
    ROWS_DYNAMIC,
    ROWS_MEAN,
    ROWS_MEAN_FLOATS,
    ROWS_PATCH,
    UNPACK,
    Dims,
    Kernel,
    choose,
    dims_of,
    kernels_for,
    nibble_features,
    support_table,
)
from millijoule.kernels.sources import filter_row, headers, source

__all__ = [
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
    "Dims",
    "Kernel",
    "assembly_source",
    "choose",
    "dims_of",
    "filter_row",
    "headers",
    "kernels_for",
    "nibble_features",
    "pack_lane_nibbles",
    "source",
    "support_table",
]
