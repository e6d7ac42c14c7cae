"""Instructions that the emulator library executes too readily: found when a block is first seen, stopped at when due.

Floating point while the unit is off; FPv5 instructions on the Cortex-M4, which has FPv4 (the library accepts them);
divisions by zero while CCR.DIV_0_TRP is set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from millijoule.emulate._faults import DIVISION, NO_COPROCESSOR, UNDEFINED, Reason
from millijoule.emulate.exceptions import USAGE_FAULT

if TYPE_CHECKING:
    from millijoule.emulate.machine import Machine

__all__ = ["Guards", "halfwords", "is_newer_float"]

# CPSIE and CPSID with the F bit; MSR FAULTMASK (second halfword).
_FAULT_MASK_CHANGES = {0xB661, 0xB663, 0xB671, 0xB673}
_MSR_FAULT_MASK = 0x8813


def halfwords(code: bytes) -> list[tuple[int, int, int]]:
    """(offset, first halfword, second halfword or 0) of every instruction in Thumb code."""
    found, at = [], 0
    while at + 2 <= len(code):
        first = code[at] | code[at + 1] << 8
        wide = first >= 0xE800 and at + 4 <= len(code)
        found.append((at, first, code[at + 2] | code[at + 3] << 8 if wide else 0))
        at += 4 if wide else 2
    return found


def is_newer_float(first: int, second: int) -> bool:
    """Whether an instruction came with FPv5: VSEL, VMAXNM, VMINNM, VRINT*, VCVTA/N/P/M (single precision)."""
    if second & 0x0E10 != 0x0A00:
        return False
    if first & 0xFF00 == 0xFE00:
        return True
    return (first & 0xFFBF == 0xEEB6 and second & 0x40 == 0x40) or (first & 0xFFBF == 0xEEB7 and second & 0xD0 == 0x40)


class Guards:
    """Watches single instructions of one machine.

    Attributes:
        reason: why the emulator was stopped at a guarded instruction, None when it was not.
        masks_faults: whether code that changes FAULTMASK was seen.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.reason: Reason | None = None
        self.masks_faults = False
        self._floats: dict[int, Any] = {}  # address -> hook, while the unit is off
        self._newer: set[int] = set()
        self._divisions: set[int] = set()
        self._watched: set[int] = set()
        self._new: set[int] = set()

    def examine(self, address: int, size: int) -> bool:
        """Looks at a block that was never seen; whether hooks must be installed before it runs."""
        machine = self._machine
        before = len(self._new)
        for offset, first, second in halfwords(machine.read(address, size)):
            place = address + offset
            if first & 0xEC00 == 0xEC00 and second & 0x0E00 == 0x0A00:
                if machine.board.core == "cortex-m4" and is_newer_float(first, second):
                    self._newer.add(place)
                    self._new.add(place)
                elif not machine.system.floats_enabled:
                    self._new.add(place)
            elif first & 0xFFD0 == 0xFB90 and second & 0xF0F0 == 0xF0F0:
                self._divisions.add(place)
            elif first in _FAULT_MASK_CHANGES or (first & 0xFFE0 == 0xF380 and second == _MSR_FAULT_MASK):
                self.masks_faults = True
        divisions = machine.system.traps_division and not self._divisions <= self._watched
        return divisions or len(self._new) > before

    def install(self) -> None:
        """Brings the hooks up to date; the emulator must stand still."""
        import unicorn

        machine, changed = self._machine, False
        for address in sorted(self._new - set(self._floats)):
            hook = machine.emulator.hook_add(unicorn.UC_HOOK_CODE, self._stop, None, address, address)
            self._floats[address] = hook
            changed = True
        self._new.clear()
        if machine.system.floats_enabled:
            for address in [place for place in self._floats if place not in self._newer]:
                machine.emulator.hook_del(self._floats.pop(address))
                changed = True
        if machine.system.traps_division and not self._divisions <= self._watched:
            machine.counter.trap_divisions(sorted(self._divisions - self._watched))
            self._watched |= self._divisions
            changed = True
        if changed:
            machine.emulator.ctl_flush_tb()

    def division(self, address: int) -> Reason | None:
        """The fault of a division by zero at `address`, None when the firmware does not trap it."""
        if not self._machine.system.traps_division:
            return None
        return Reason(USAGE_FAULT, DIVISION, "it divides by zero", None)

    def _stop(self, emulator: Any, address: int, _size: int, _: object) -> None:
        if not self._machine.system.floats_enabled:
            reason = Reason(USAGE_FAULT, NO_COPROCESSOR, "it uses floating point before CPACR gives access to the unit")
        elif address in self._newer:
            reason = Reason(
                USAGE_FAULT, UNDEFINED, "the instruction is undefined on this core: it came with FPv5, this is FPv4"
            )
        else:
            return
        self.reason = reason
        emulator.emu_stop()
