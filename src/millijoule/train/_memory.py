"""Memory that training frees and asks for again at every step."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["kept_memory"]

# malloc.h of the GNU C library
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -2, -3, -4
AFTERWARDS = (
    (M_TRIM_THRESHOLD, 64 << 20),
    (M_TOP_PAD, 128 << 10),
    (M_MMAP_THRESHOLD, 32 << 20),
    (M_MMAP_MAX, 65536),
)
"""Where the library's own, moving thresholds end in a process that uses large blocks; see mallopt(3)."""

TOP_PAD = 64 << 20
"""Bytes by which the heap grows at least."""


@contextmanager
def kept_memory() -> Iterator[bool]:
    """Inside, freed memory stays with this process, so that the next step finds its pages mapped.

    The maps of a step are larger than what the GNU C library keeps: it gives each back to the system and asks for it
    again, and the system clears every page anew. For a network of depthwise convolutions that costs as much as the
    arithmetic (`benchmarks/qat_step.py --library-memory`). It changes speed only; other C libraries are left alone.

    Yields:
        Whether the setting took effect. At the end the thresholds are the library's and free memory is given back.
    """
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018 - AttributeError says that it is another library
        changed = (
            bool(library.mallopt(M_MMAP_MAX, 0))
            and bool(library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
            and bool(library.mallopt(M_TOP_PAD, TOP_PAD))
        )
    except (AttributeError, OSError, TypeError):
        yield False
        return
    try:
        yield changed
    finally:
        for option, value in AFTERWARDS:
            library.mallopt(option, value)
        library.malloc_trim(0)
