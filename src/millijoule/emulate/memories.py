"""Memory beside flash and RAM: aliases, small RAMs, the vendor's read-only memory; what a stray pointer would find."""

from __future__ import annotations

import ctypes
import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from millijoule.boards import Board
from millijoule.errors import EmulationError

__all__ = ["BIT_BANDS", "BIT_BAND_BYTES", "MemoryMap", "MemoryWindow", "bit_of", "default_windows"]

_PAGE = 4096


@dataclass(frozen=True)
class MemoryWindow:
    """A further range of addresses that answers.

    Attributes:
        base: first address, a multiple of 4096. `size`: bytes, a multiple of 4096.
        alias: the address whose memory appears here, None for memory of its own.
        content: its first bytes; the others are 0xFF. `writable`: whether stores change it (an alias: as its origin).
    """

    name: str
    base: int
    size: int
    alias: int | None = None
    content: bytes = b""
    writable: bool = False


def default_windows(board: Board) -> tuple[MemoryWindow, ...]:
    """The further memories of the board's chip family, beside those of its description.

    Source: vendor device headers stm32l4r9xx.h (SRAM2_BASE, FLASHSIZE_BASE) and stm32h7b3xx.h (SRD_SRAM_BASE,
    SRD_BKPSRAM_BASE, FLASHSIZE_BASE). The read-only memories hold the size of the flash; the code of the
    vendor's boot loader and the unique number are not known and read as erased.
    """
    size = (board.flash.size // 1024).to_bytes(2, "little")
    if board.core == "cortex-m4":
        system = bytearray(b"\xff" * 0x10000)
        system[0x75E0:0x75E2] = size
        found = [
            MemoryWindow("flash at zero", 0, board.flash.size, alias=board.flash.base),
            MemoryWindow("SRAM2", 0x10000000, 0x10000, alias=0x20030000),
            MemoryWindow("system memory", 0x1FFF0000, 0x10000, content=bytes(system)),
        ]
    else:
        facts = bytearray(b"\xff" * 0x1000)
        facts[0x80C:0x80E] = size
        found = [
            MemoryWindow("system facts", 0x08FFF000, 0x1000, content=bytes(facts)),
            MemoryWindow("SRD SRAM", 0x38000000, 0x8000, writable=True),
            MemoryWindow("backup SRAM", 0x38800000, 0x1000, writable=True),
        ]
    own = [(board.flash.base, board.flash.size), *((memory.base, memory.size) for memory in board.memories)]
    return tuple(w for w in found if not any(w.base < base + size and base < w.base + w.size for base, size in own))


# Armv7-M Architecture Reference Manual, B3.1.1 (optional in the Cortex-M4, absent in the Cortex-M7): each word of these
# 32 MB is one bit of the first megabyte of RAM and of the peripherals.
BIT_BANDS = {0x22000000: 0x20000000, 0x42000000: 0x40000000}
BIT_BAND_BYTES = 0x2000000


def bit_of(address: int) -> tuple[int, int] | None:
    """The byte and the bit in it (0 to 7) that a word of a bit-band region stands for, None outside these regions."""
    target = BIT_BANDS.get(address & ~(BIT_BAND_BYTES - 1))
    if target is None:
        return None
    offset = address & (BIT_BAND_BYTES - 1)
    return target + offset // 32, offset // 4 % 8


class MemoryMap:
    """All memories of a machine, each in a buffer of this process, so that aliases share their bytes.

    Args:
        emulator: the emulator library's machine.
        board: whose flash and memories are mapped.
        windows: further memories.

    Raises:
        EmulationError: windows overlap, or an alias leads nowhere.
    """

    def __init__(self, emulator: Any, board: Board, windows: tuple[MemoryWindow, ...]) -> None:
        unicorn: Any = importlib.import_module("unicorn")
        self._emulator = emulator
        self._buffers: list[tuple[int, int, Any, int]] = []  # base, size, array, offset of its first byte
        self._ram: list[tuple[int, int]] = []
        self._all: list[tuple[int, int]] = []
        self.windows = windows
        read_only = unicorn.UC_PROT_READ | unicorn.UC_PROT_EXEC
        self._own(board.flash.base, board.flash.size, read_only)
        for memory in board.memories:
            self._own(memory.base, memory.size, unicorn.UC_PROT_ALL)
        for window in windows:
            if window.alias is None:
                self._own(window.base, window.size, unicorn.UC_PROT_ALL if window.writable else read_only)
                self._emulator.mem_write(window.base, b"\xff" * window.size)
            else:
                self._alias(window, unicorn.UC_PROT_ALL, read_only)
        self.reset_windows()

    def reset_windows(self) -> None:
        """The content of the windows as after power-on."""
        for window in self.windows:
            if window.content:
                self._emulator.mem_write(window.base, window.content[: window.size])

    def is_mapped(self, address: int, size: int) -> bool:
        """Whether all bytes of a range lie in one memory."""
        return any(base <= address and address + size <= base + span for base, span in self._all)

    def is_ram(self, address: int, size: int) -> bool:
        """Whether all bytes of a range lie in one memory that can be written."""
        return any(base <= address and address + size <= base + span for base, span in self._ram)

    def spans(self) -> list[tuple[int, int]]:
        """(base, size) of all memories, flash first."""
        return list(self._all)

    def _own(self, base: int, size: int, rights: int) -> None:
        room = np.zeros(size + _PAGE, np.uint8)
        self._map(base, size, rights, room, -room.ctypes.data % _PAGE)

    def _alias(self, window: MemoryWindow, writable: int, read_only: int) -> None:
        assert window.alias is not None
        for base, size, room, offset in self._buffers:
            if base <= window.alias and window.alias + window.size <= base + size:
                rights = writable if self.is_ram(window.alias, window.size) else read_only
                self._map(window.base, window.size, rights, room, offset + window.alias - base)
                return
        raise EmulationError(window.name, f"there is no memory at {window.alias:#010x}", "Correct its alias")

    def _map(self, base: int, size: int, rights: int, room: Any, offset: int) -> None:
        unicorn: Any = importlib.import_module("unicorn")
        try:
            self._emulator.mem_map_ptr(base, size, rights, ctypes.c_void_p(room.ctypes.data + offset))
        except unicorn.UcError as error:
            raise EmulationError(
                f"memory at {base:#010x}", f"it cannot be mapped ({error})", "Correct base or size of the window"
            ) from error
        self._buffers.append((base, size, room, offset))
        self._all.append((base, size))
        if rights & unicorn.UC_PROT_WRITE:
            self._ram.append((base, size))
