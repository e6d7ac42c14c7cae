"""The C kernels: one function per file, a readable plain C definition of each, faster variants beside it."""

from __future__ import annotations

from millijoule.kernels.fused import FUSED, FusedKernel, choose_fused
from millijoule.kernels.registry import (
    FLAGS,
    KERNELS,
    Dims,
    Kernel,
    choose,
    dims_of,
    headers,
    kernels_for,
    source,
    support_table,
)

__all__ = [
    "FLAGS",
    "FUSED",
    "KERNELS",
    "Dims",
    "FusedKernel",
    "Kernel",
    "choose",
    "choose_fused",
    "dims_of",
    "headers",
    "kernels_for",
    "source",
    "support_table",
]
