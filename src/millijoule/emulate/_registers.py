"""Registers of the emulated core, several at once, through the library's C interface without its layers of Python."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Sequence
from typing import Any

__all__ = ["RegisterBank"]

_PREFIX = "UC_ARM_REG_"
# Places of a value: registers of 32 and of 64 bits use the lower part, vector registers all.
_WORDS = 2


class RegisterBank:
    """Reads and writes registers by name: r0, sp, lr, pc, xpsr, msp, psp, control, primask, basepri, s0, d0, fpscr, ...

    Args:
        emulator: the emulator library's machine.
    """

    def __init__(self, emulator: Any) -> None:
        constants = vars(importlib.import_module("unicorn.arm_const"))
        self._ids = {name[len(_PREFIX) :].lower(): n for name, n in constants.items() if name.startswith(_PREFIX)}
        self._library: Any = importlib.import_module("unicorn.unicorn_py3.unicorn").uclib
        self._emulator = emulator
        self._groups: dict[tuple[str, ...], tuple[Any, Any, Any]] = {}

    def read(self, names: tuple[str, ...]) -> tuple[int, ...]:
        """The values of several registers."""
        ids, pointers, values = self._group(names)
        self._library.uc_reg_read_batch(self._emulator._uch, ids, pointers, len(names))
        return tuple(values[::_WORDS])

    def write(self, names: tuple[str, ...], words: Sequence[int]) -> None:
        """Changes several registers, in this order."""
        ids, pointers, values = self._group(names)
        for index, word in enumerate(words):
            values[_WORDS * index] = word & 0xFFFFFFFFFFFFFFFF
        self._library.uc_reg_write_batch(self._emulator._uch, ids, pointers, len(names))

    def _group(self, names: tuple[str, ...]) -> tuple[Any, Any, Any]:
        group = self._groups.get(names)
        if group is None:
            values = (ctypes.c_uint64 * (_WORDS * len(names)))()
            ids = (ctypes.c_int * len(names))(*(self._ids[name] for name in names))
            first = ctypes.addressof(values)
            pointers = (ctypes.c_void_p * len(names))(*(first + 8 * _WORDS * index for index in range(len(names))))
            group = self._groups[names] = (ids, pointers, values)
        return group
