"""Faults of the core: which exception, which status bits, where and why; one report for people and programs.

Source: Armv7-M Architecture Reference Manual, B3.2.15 (configurable fault status register) and B3.2.16 (HardFault
status).
"""

from __future__ import annotations

import importlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from millijoule.emulate._decode import decode
from millijoule.emulate._lines import source_line
from millijoule.emulate.exceptions import BUS_FAULT, USAGE_FAULT, exception_name
from millijoule.errors import EmulationError

if TYPE_CHECKING:
    from millijoule.emulate.machine import Machine

__all__ = ["FaultReport", "Reason", "classify", "describe", "explain", "make_report", "refusal"]

_BITS = {
    0: "IACCVIOL, instruction fetch from a forbidden region",
    1: "DACCVIOL, access to a forbidden region",
    3: "MUNSTKERR, unstacking from a forbidden region",
    4: "MSTKERR, stacking into a forbidden region",
    7: "MMARVALID, the address is known",
    8: "IBUSERR, instruction fetch from an address without memory",
    9: "PRECISERR, access to an address that refuses it",
    11: "UNSTKERR, unstacking from an address without memory",
    12: "STKERR, stacking into an address without memory",
    15: "BFARVALID, the address is known",
    16: "UNDEFINSTR, undefined instruction",
    17: "INVSTATE, jump to an even address",
    18: "INVPC, broken return from an exception",
    19: "NOCP, coprocessor or floating point unit without access",
    24: "UNALIGNED, unaligned access",
    25: "DIVBYZERO, division by zero",
}
PRECISE, FETCH, UNDEFINED, NO_COPROCESSOR = 1 << 9 | 1 << 15, 1 << 8, 1 << 16, 1 << 19
UNALIGNED, DIVISION = 1 << 24, 1 << 25
_FRAME = ("r0", "r1", "r2", "r3", "r12", "lr", "pc", "xpsr")
_FIX = "Correct the code, or enlarge the stack if that overflowed"


_TEXTS = {
    0: "it jumps to an address that never holds code",
    11: "the exception's frame cannot be read back",
    17: "it jumps to an even address, the Arm state that this core lacks",
    18: "it returns from an exception with a value that does not fit what is active",
}


def describe(bits: int) -> str:
    """Words for the status bit of a fault without further facts."""
    return next((text for bit, text in _TEXTS.items() if bits >> bit & 1), "the core raises a fault")


@dataclass(frozen=True)
class FaultReport:
    """One fault.

    Attributes:
        exception: number of the exception that the fault raised; `taken` the one entered (HardFault after escalation).
        cfsr: configurable fault status; `hfsr` HardFault status; `address` the address accessed, None if unknown.
        frame: what was stacked: r0 to r3, r12, lr, pc, xpsr.
        function: the function that holds the instruction, "?" if unknown; `line` its source line ("file.c:12").
        reason: what happened, in words.
    """

    exception: int
    taken: int
    cfsr: int
    hfsr: int
    address: int | None
    frame: Mapping[str, int]
    function: str
    line: str | None
    reason: str

    @property
    def place(self) -> str:
        """Function, address and, when known, source line."""
        line = f" ({self.line})" if self.line else ""
        return f"{self.function} at {self.frame['pc']:#010x}{line}"

    @property
    def status(self) -> tuple[str, ...]:
        """The bits of CFSR in words, and FORCED of HFSR."""
        words = [text for bit, text in _BITS.items() if self.cfsr >> bit & 1]
        return (*words, "FORCED, escalated to HardFault") if self.hfsr >> 30 & 1 else tuple(words)

    @property
    def text(self) -> str:
        """Everything on one line, without place and reason."""
        names = "; ".join((exception_name(self.taken), *self.status))
        frame = " ".join(f"{name} {value:#010x}" for name, value in self.frame.items())
        return f"{names}; CFSR {self.cfsr:#010x}, HFSR {self.hfsr:#010x}; stacked {frame}"


@dataclass(frozen=True)
class Reason:
    """What a stop of the emulator means to the core."""

    exception: int
    bits: int
    text: str
    address: int | None = None


def classify(machine: Machine, number: int) -> Reason:
    """The fault behind an error number of the emulator library; the machine stands at the instruction."""
    unicorn: Any = importlib.import_module("unicorn")
    pc = machine.register("pc") & ~1
    if number == unicorn.UC_ERR_INSN_INVALID:
        if not machine.register("xpsr") >> 24 & 1:
            return Reason(USAGE_FAULT, 1 << 17, describe(1 << 17))
        if _is_coprocessor(machine, pc):
            return Reason(USAGE_FAULT, NO_COPROCESSOR, "the instruction needs a coprocessor that this core lacks")
        return Reason(USAGE_FAULT, UNDEFINED, "the instruction is undefined on this core")
    if number in (unicorn.UC_ERR_FETCH_UNMAPPED, unicorn.UC_ERR_FETCH_PROT):
        return Reason(BUS_FAULT, FETCH, "it jumps to an address without memory")
    access = _accessed(machine, pc)
    at = f" {access:#010x}" if access is not None else ""
    texts = {
        unicorn.UC_ERR_READ_UNMAPPED: f"it reads{at}, where there is no memory",
        unicorn.UC_ERR_WRITE_UNMAPPED: f"it writes{at}, where there is no memory",
        unicorn.UC_ERR_WRITE_PROT: f"it writes{at}, which {_read_only(machine, access)}",
    }
    text = texts.get(number, f"the emulator stopped with error {number}")
    return Reason(BUS_FAULT, PRECISE, _overflow(machine, access) or text, access)


def _read_only(machine: Machine, address: int | None) -> str:
    flash = machine.board.flash
    inside = address is None or any(
        base <= address < base + flash.size for base in (flash.base, 0 if machine.is_mapped(0, 4) else flash.base)
    )
    return "is flash" if inside else "is read-only memory"


def _overflow(machine: Machine, address: int | None) -> str | None:
    """The reason when the stack ran out of its memory."""
    if address is None:
        return None
    limit = machine.image.symbols.get("mj_stack_limit")
    low = machine.board.data_memory.base
    if limit is not None and limit.address - 0x10000 <= address < limit.address == low:
        return f"the stack of {machine.image.stack_bytes} bytes overflowed (access to {address:#010x})"
    stack = machine.register("sp")
    if abs(stack - address) <= 4096 and not machine.is_ram(stack - 8, 8):
        return f"the stack overflowed: it has run out of its memory (access to {address:#010x}, sp {stack:#010x})"
    return None


def _is_coprocessor(machine: Machine, pc: int) -> bool:
    if not machine.is_mapped(pc, 4):
        return False
    first, second = struct.unpack("<HH", machine.read(pc, 4))
    return first & 0xEC00 == 0xEC00 and second >> 8 & 15 not in (10, 11)


def _accessed(machine: Machine, pc: int) -> int | None:
    """The address the instruction at `pc` accesses, from its operands and the registers."""
    from capstone import arm

    if not machine.is_mapped(pc, 2):
        return None
    instructions = decode(machine.read(pc, 4 if machine.is_mapped(pc, 4) else 2), pc)
    if not instructions:
        return None
    first = instructions[0]
    names = {arm.ARM_REG_R0 + n: f"r{n}" for n in range(13)} | {arm.ARM_REG_SP: "sp", arm.ARM_REG_LR: "lr"}
    if first.kind in ("load_many", "store_many", "float_load_many", "float_store_many"):
        base = machine.register(names[next(iter(first.addresses))])
        down = first.name in ("push", "vpush") or first.name.endswith("db")
        start = base - (4 * first.registers if down else 0)
        words = (start + 4 * number & 0xFFFFFFFF for number in range(first.registers))
        test = machine.is_ram if "store" in first.kind else machine.is_mapped
        return next((word for word in words if not test(word, 4)), start & 0xFFFFFFFF)
    if first.offset is None or first.offset[0] not in names:
        return None
    address = machine.register(names[first.offset[0]]) + first.offset[1]
    for register in first.addresses - {first.offset[0]}:
        address += machine.register(names[register])
    return address & 0xFFFFFFFF


def make_report(machine: Machine, reason: Reason, taken: int, pc: int) -> FaultReport:
    """The report of a fault that is about to be delivered as exception `taken`."""
    values = machine.registers(*_FRAME)
    frame = dict(zip(_FRAME, values, strict=True))
    frame["pc"] = pc
    return FaultReport(
        exception=reason.exception,
        taken=taken,
        cfsr=machine.system.fault_status,
        hfsr=machine.system.forced << 30,
        address=reason.address,
        frame=frame,
        function=machine.image.function_at(pc),
        line=source_line(machine.image.elf, pc),
        reason=reason.text,
    )


def refusal(report: FaultReport, *, locked: bool = False) -> EmulationError:
    """The error that tells of a fault; `locked`: no handler could be entered any more."""
    what = f"{report.reason}, in a handler that no fault may interrupt: the core stops" if locked else report.reason
    return EmulationError(report.place, f"{what} [{report.text}]", _FIX)


def explain(machine: Machine, interrupt: int | None = None) -> EmulationError:
    """The error for a stop that is no fault: a breakpoint, or an end that was not reached.

    Args:
        machine: stopped at the instruction.
        interrupt: the number the emulator library gave, None when there was none.
    """
    pc = machine.register("pc") & ~1
    line = source_line(machine.image.elf, pc)
    place = f"{machine.image.function_at(pc)} at {pc:#010x}" + (f" ({line})" if line else "")
    if interrupt == 7:
        return EmulationError(place, "it reached a breakpoint", "Remove it, or the reason why it is reached")
    reason = "it stopped without reaching its end" if interrupt is None else f"the core raised exception {interrupt}"
    return EmulationError(place, reason, "Report it together with the firmware")
