"""The C text of the kernels: files of `c/` and `include/`, and windows of depthwise convolutions that have no file."""

from __future__ import annotations

import re
from pathlib import Path

from millijoule.errors import UnsupportedError

__all__ = ["filter_row", "headers", "source"]

_FOLDER = Path(__file__).resolve().parent
_FILES = frozenset(path.stem for path in (_FOLDER / "c").glob("*.c"))
_WINDOW = re.compile(r"mj_filter_row_([1-7])x([1-7])_s([12])_p([01])")
_WINDOW_TEXT = """#include "mj_filter_row.h"

/* {0} x {1} taps, stride {2}, the first column in the {4} half of its word. */
void {5}(const mj_filter_row *f)
{{
    mj_filter_row_blocks(f, {2}, {3});
}}
"""


def filter_row(height: int, width: int, stride: int, phase: int) -> str:
    """The fastest function for rows of depthwise convolutions with this window (mj_rows.h)."""
    name = f"mj_filter_row_{height}x{width}_s{stride}_p{phase}"
    return name if _WINDOW.fullmatch(name) else "mj_filter_row_any"


def source(name: str) -> str:
    """The C text of a kernel, fused ones included, by function name. Raises UnsupportedError for an unknown name.

    Windows of depthwise convolutions that have no file are written here: all are the same inline function.
    """
    window = _WINDOW.fullmatch(name)
    if window is not None and name not in _FILES:
        half = ("low", "high")[int(window[4])]
        return _WINDOW_TEXT.format(*window.groups(), half, name)
    if name not in _FILES:
        raise UnsupportedError(f"kernel {name!r}", "there is no such kernel", "Use a name from the registry")
    return (_FOLDER / "c" / f"{name}.c").read_text(encoding="utf-8")


def headers() -> dict[str, str]:
    """Every header that the kernels include, by file name."""
    return {path.name: path.read_text(encoding="utf-8") for path in sorted((_FOLDER / "include").glob("*.h"))}
