"""One BLAS thread per worker: our own threads run whole pictures, and BLAS threads that wait would spin beside them.

Measured on two busy cores, OpenBLAS with two threads inside two workers is ten times slower than with one.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["single_blas_thread"]

NAMES = ("scipy_openblas_{}_num_threads64_", "scipy_openblas_{}_num_threads", "openblas_{}_num_threads64_",
         "openblas_{}_num_threads")  # fmt: skip


@functools.lru_cache(maxsize=1)
def _controls() -> tuple[Callable[[], int], Callable[[int], Any]] | None:
    """The functions that read and set the thread count of the OpenBLAS that numpy brings; None for another BLAS."""
    package = Path(np.__file__).parent
    for folder in (package.parent / "numpy.libs", package / ".dylibs", package / ".libs"):
        for path in sorted(folder.glob("*openblas*")):
            with contextlib.suppress(OSError):
                library = ctypes.CDLL(str(path))  # loaded already: this only gives its handle
                for name in NAMES:
                    if hasattr(library, name.format("set")) and hasattr(library, name.format("get")):
                        return getattr(library, name.format("get")), getattr(library, name.format("set"))
    return None


@contextlib.contextmanager
def single_blas_thread() -> Iterator[None]:
    """Runs the body with one BLAS thread where that can be set; the old number is restored."""
    controls = _controls()
    if controls is None:
        yield
        return
    get, put = controls
    before = int(get())
    put(1)
    try:
        yield
    finally:
        put(before)
