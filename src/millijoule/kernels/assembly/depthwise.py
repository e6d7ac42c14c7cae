"""Depthwise convolutions of the row engine as assembler text: mj_filter_row_*."""

from __future__ import annotations

from millijoule.kernels.assembly._filter_row import Row
from millijoule.kernels.assembly._filter_row_m7 import M7Row
from millijoule.kernels.assembly._filter_window import M7Window, Window

__all__ = ["filter_row_3x3", "filter_row_window"]


def filter_row_3x3(stride: int, phase: int, core: str, rounding: str) -> str:
    """The text of mj_filter_row_3x3_s<stride>_p<phase>.

    Args:
        stride: 1 or 2.
        phase: 0 or 1.
        core: "cortex-m4" or "cortex-m7".
        rounding: "single", "double" or "mulhi".
    """
    return (M7Row if core == "cortex-m7" else Row)(stride, phase, rounding).text()


def filter_row_window(size: tuple[int, int], stride: int, phase: int, core: str, rounding: str) -> str:
    """The text of mj_filter_row_<height>x<width>_s<stride>_p<phase>.

    Args:
        size: height and width, 1 to 7.
        stride: 1 or 2.
        phase: 0 or 1.
        core: "cortex-m4" or "cortex-m7".
        rounding: "single", "double" or "mulhi".
    """
    return (M7Window if core == "cortex-m7" else Window)(size, stride, phase, rounding).text()
