"""The native counting hook: built from C at first use with zig or the system's compiler, kept in the cache."""

from __future__ import annotations

import ctypes
import functools

from millijoule.emulate._library import native_library
from millijoule.errors import ToolchainError

__all__ = ["DEPTH", "LOWEST", "NOTHING", "WINDOWS", "Context", "Question", "hook_is_native", "hook_library"]

# The constants of c/hook.c.
WINDOWS = 8
DEPTH = 16
NOTHING = 0x3FFFFF
LOWEST = 256
_WORD = ctypes.c_uint64
# What the hook asks of Python, with two addresses, sizes or code indices.
Question = ctypes.CFUNCTYPE(_WORD, _WORD, _WORD)


class Context(ctypes.Structure):
    """The C hook's state; the fields mirror `context` in c/hook.c."""

    _fields_ = (
        ("windows", _WORD),
        ("base", _WORD * WINDOWS),
        ("span", _WORD * WINDOWS),
        ("first", _WORD * WINDOWS),
        ("size", ctypes.c_void_p),
        ("predictor", ctypes.c_void_p),
        ("marker", ctypes.c_void_p),
        ("key", ctypes.c_void_p),
        ("count", ctypes.c_void_p),
        ("missed", ctypes.c_void_p),
        ("price", ctypes.c_void_p),
        ("mask", _WORD),
        ("used", _WORD),
        ("previous", _WORD),
        ("previous_end", _WORD),
        ("layer", _WORD),
        ("depth", _WORD),
        ("returns", _WORD * DEPTH),
        ("layers", _WORD * DEPTH),
        ("blocks", _WORD),
        ("limit", _WORD),
        ("resized", _WORD),
        ("outside", _WORD),
        ("full", _WORD),
        ("stopped", _WORD),
        ("clock", _WORD),
        ("deadline", _WORD),
        ("timer", _WORD),
        ("masked", _WORD),
        ("group_mask", _WORD),
        ("paused", _WORD),
        ("trapped", _WORD),
        ("read_register", ctypes.c_void_p),
        ("read_memory", ctypes.c_void_p),
        ("stop", ctypes.c_void_p),
        ("fresh", Question),
        ("cost", Question),
        ("link_register", _WORD),
        ("primask", _WORD),
        ("basepri", _WORD),
        ("first_register", _WORD),
    )


@functools.lru_cache(maxsize=1)
def hook_library() -> ctypes.CDLL | None:
    """The compiled hook, or None when no compiler here can build it."""
    try:
        return native_library("hook", ["hook.c"])
    except ToolchainError:
        return None


def hook_is_native() -> bool:
    """Whether instructions are counted by a compiled hook here (built on first use), not in Python."""
    return hook_library() is not None
