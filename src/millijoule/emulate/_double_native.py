"""Double precision with the host's arithmetic, where it cannot differ: a hook in C before the one in Python."""

from __future__ import annotations

import ctypes
from typing import Any

from millijoule.emulate._library import add_hook, native_library

__all__ = ["DoubleHook"]

_WORD = ctypes.c_uint64


class _Context(ctypes.Structure):
    """The fields mirror `context` in c/double.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("read_register", "write_register", "read_memory")),
        *((name, _WORD) for name in ("enabled", "pc", "xpsr", "fpscr", "control", "doubles", "singles")),
    )


class DoubleHook:
    """Installed for a Cortex-M7; `enabled` follows the access that CPACR gives.

    Args:
        emulator: the emulator library's machine.

    Raises:
        ToolchainError: the C part cannot be built here; the hook in Python does without.
    """

    def __init__(self, emulator: Any) -> None:
        from unicorn import UC_HOOK_INSN_INVALID, arm_const
        from unicorn.unicorn_py3.unicorn import uclib

        self._library = native_library("double", ["double.c"])
        context = self._context = _Context()
        for name, function in (
            ("read_register", uclib.uc_reg_read),
            ("write_register", uclib.uc_reg_write),
            ("read_memory", uclib.uc_mem_read),
        ):
            setattr(context, name, ctypes.cast(function, ctypes.c_void_p).value)
        for name, register in (("doubles", "D0"), ("singles", "S0")):
            setattr(context, name, getattr(arm_const, f"UC_ARM_REG_{register}"))
        for name in ("pc", "xpsr", "fpscr", "control"):
            setattr(context, name, getattr(arm_const, f"UC_ARM_REG_{name.upper()}"))
        fix = "Use hook='python'"
        self._handle = add_hook(emulator, UC_HOOK_INSN_INVALID, self._library.mj_hook_double, context, fix)

    @property
    def size(self) -> tuple[int, int]:
        """Bytes of the context here and in C: equal where the mirror is right."""
        self._library.mj_double_size.restype = _WORD
        return ctypes.sizeof(_Context), int(self._library.mj_double_size())

    def enable(self, on: bool) -> None:
        """Whether CPACR gives access to the floating point unit."""
        self._context.enabled = int(on)
