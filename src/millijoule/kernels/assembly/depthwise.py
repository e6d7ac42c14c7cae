"""Depthwise convolutions of the row engine as assembler text: mj_filter_row_3x3_*."""

from __future__ import annotations

from millijoule.kernels.assembly._filter_row import Row
from millijoule.kernels.assembly._filter_row_m7 import M7Row

__all__ = ["filter_row_3x3"]


def filter_row_3x3(stride: int, phase: int, core: str, rounding: str) -> str | None:
    """The text of mj_filter_row_3x3_s<stride>_p<phase>, None where only C exists.

    Args:
        stride: 1 or 2.
        phase: 0 or 1.
        core: "cortex-m4" or "cortex-m7".
        rounding: "single", "double" or "mulhi".
    """
    if rounding == "double":
        return None
    return (M7Row if core == "cortex-m7" else Row)(stride, phase, rounding).text()
