"""Exceptions of the Armv7-M core: which is pending, which may run, how one is entered and left.

Source: Armv7-M Architecture Reference Manual, B1.5 (exception model: priorities, entry, return, tail-chaining) and B3.4
(interrupt controller). Floating point registers are stacked at once where the chip may delay it (lazy stacking): the
frame is the same, only the moment of writing differs.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from millijoule.emulate._counting import NEVER, Place
from millijoule.errors import EmulationError

if TYPE_CHECKING:
    from millijoule.emulate.machine import Machine

__all__ = ["EXCEPTION_NAMES", "ExceptionUnit", "Interrupts", "exception_name"]

RESET, NMI, HARD_FAULT, MEMORY_FAULT, BUS_FAULT, USAGE_FAULT = 1, 2, 3, 4, 5, 6
SVCALL, DEBUG_MONITOR, PENDSV, SYSTICK, FIRST_INTERRUPT = 11, 12, 14, 15, 16
EXCEPTION_NAMES = {
    NMI: "NMI", HARD_FAULT: "HardFault", MEMORY_FAULT: "MemManage", BUS_FAULT: "BusFault", USAGE_FAULT: "UsageFault",
    SVCALL: "SVCall", DEBUG_MONITOR: "DebugMonitor", PENDSV: "PendSV", SYSTICK: "SysTick",
}  # fmt: skip
_FIXED = {RESET: -3, NMI: -2, HARD_FAULT: -1}
_THREAD = 256
# Four bits of priority in both chip families: __NVIC_PRIO_BITS of the vendor's device headers.
PRIORITY_MASK = 0xF0
# Cycles from zero-wait-state memory: interrupt latency of 12 and tail-chaining of 6 (Cortex-M4 Technical Reference
# Manual, section "Exception handling"; Arm states the same 12 for the Cortex-M7); unstacking 8 words and fetching: 10.
ENTRY_CYCLES, EXIT_CYCLES, CHAIN_CYCLES = 12, 10, 6
_BASIC, _EXTENDED = 0x20, 0x68
_ALIGNED = 1 << 9  # bit of the stacked xPSR: a word was left out to align the frame
_THUMB = 1 << 24
# CONTROL: the process stack; floating point in use (FPCA, and a bit above it that the emulator library moves with it).
_PROCESS_STACK, _FLOATS = 2, 12
_EXECUTION = 0x0600FC00  # the bits of an interrupted IT or LDM
# Configurable fault status bits raised here.
UNSTACKING, STACKING = 1 << 11, 1 << 12
_FETCH_VIOLATION, _INVALID_STATE, _INVALID_RETURN = 1, 1 << 17, 1 << 18


def exception_name(number: int) -> str:
    """The name of an exception by its number: SysTick, interrupt 37, ..."""
    if number >= FIRST_INTERRUPT:
        return f"interrupt {number - FIRST_INTERRUPT}"
    return EXCEPTION_NAMES.get(number, f"exception {number}")


class Interrupts:
    """The interrupt controller's state: pending, active, enabled, priorities. Peripherals call `pend` and `set_line`.

    Args:
        lines: external interrupt lines of the chip.
        attention: called when something may have become due.

    Attributes:
        group_bits: PRIGROUP of AIRCR.
        taken: how often each exception was entered, by exception number.
    """

    def __init__(self, lines: int, attention: Callable[[], None]) -> None:
        self.lines = lines
        self._attention = attention
        self.reset()

    def reset(self) -> None:
        """After power-on or reset: nothing enabled, nothing pending, priorities zero."""
        self.pending: set[int] = set()
        self.active: set[int] = set()
        self.enabled: set[int] = set()
        self.high: set[int] = set()
        self.priority = [0] * (FIRST_INTERRUPT + self.lines)
        for number, value in _FIXED.items():
            self.priority[number] = value
        self.group_bits = 0
        self.taken: dict[int, int] = {}

    def pend(self, line: int) -> None:
        """An edge on external interrupt line `line` (0 is the first): it becomes pending."""
        self.pend_exception(FIRST_INTERRUPT + self._checked(line))

    def set_line(self, line: int, level: bool) -> None:
        """Line `line` is now high or low. While it is high the interrupt becomes pending again after its handler."""
        number = FIRST_INTERRUPT + self._checked(line)
        if level and number not in self.high:
            self.high.add(number)
            self.pend_exception(number)
        elif not level:
            self.high.discard(number)

    def pend_exception(self, number: int) -> None:
        """The exception becomes pending."""
        self.pending.add(number)
        self._attention()

    def clear(self, number: int) -> None:
        """Software clears the pending state; a line that is still high sets it again at once."""
        self.pending.discard(number)
        if number in self.high and number not in self.active:
            self.pending.add(number)

    def enable(self, number: int, on: bool) -> None:
        """Enables or disables an exception."""
        (self.enabled.add if on else self.enabled.discard)(number)
        self._attention()

    def set_priority(self, number: int, value: int) -> None:
        """Sets the priority of a configurable exception, 0 (highest) to 255; the chip keeps the upper four bits."""
        if number not in _FIXED and number < len(self.priority):
            self.priority[number] = value & PRIORITY_MASK
            self._attention()

    def is_enabled(self, number: int) -> bool:
        """Whether the exception can be taken once it is pending."""
        return number in self.enabled or number in (NMI, HARD_FAULT, SVCALL, PENDSV, SYSTICK)

    @property
    def group_mask(self) -> int:
        """The bits of a priority that decide about preemption."""
        return 0xFF & ~((2 << self.group_bits) - 1)

    def group(self, number: int) -> int:
        """The part of a priority that decides about preemption."""
        value = self.priority[number]
        return value if value < 0 else value & self.group_mask

    def running(self) -> int:
        """The priority of what runs, without PRIMASK, FAULTMASK and BASEPRI: 256 for ordinary code."""
        return min((self.group(number) for number in self.active), default=_THREAD)

    def candidate(self) -> int | None:
        """The pending exception to be taken first, None when there is none."""
        ready = [number for number in self.pending if self.is_enabled(number)]
        return min(ready, key=lambda number: (self.priority[number], number), default=None)

    def begin(self, number: int) -> None:
        """The exception is entered."""
        self.pending.discard(number)
        self.active.add(number)
        self.taken[number] = self.taken.get(number, 0) + 1

    def end(self, number: int) -> None:
        """The exception's handler has returned."""
        self.active.discard(number)
        if number in self.high:
            self.pending.add(number)

    def _checked(self, line: int) -> int:
        if not 0 <= line < self.lines:
            raise EmulationError(f"interrupt line {line}", f"the chip has {self.lines}", "Correct the number")
        return line


class ExceptionUnit:
    """Entry and return: frames on the stacks, EXC_RETURN, priorities with the mask registers, tail-chaining.

    Attributes:
        cycles: cycles spent on entries and returns; instructions do not account for them.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.cycles = 0
        self.fault_mask: Callable[[], int] = lambda: 0
        self.clear_fault_mask: Callable[[], None] = lambda: None
        self._places: dict[int, tuple[int, Place]] = {}

    def reset(self) -> None:
        """After power-on or reset."""
        self._places.clear()

    def priority(self, *, primask: bool = True) -> int:
        """The execution priority: -3 (highest) to 256 (ordinary code), with or without the effect of PRIMASK."""
        machine, interrupts = self._machine, self._machine.interrupts
        mask, base = machine.registers("primask", "basepri")
        found = interrupts.running()
        if base & 0xFF:
            found = min(found, base & interrupts.group_mask)
        if mask & 1 and primask:
            found = min(found, 0)
        return min(found, -1) if self.fault_mask() else found

    def take(self) -> None:
        """Enters the pending exceptions that may run now, the most urgent first, and arms the hook for the others."""
        machine, interrupts = self._machine, self._machine.interrupts
        while (number := interrupts.candidate()) is not None and interrupts.group(number) < self.priority():
            self.enter(number, machine.register("pc") & ~1)
        timer = machine.next_event()
        held = None
        if number is not None and interrupts.group(number) < interrupts.running():
            held = interrupts.group(number)
            if self.fault_mask():  # only Python can read FAULTMASK: look again one block later
                timer, held = min(timer, machine.counter.clock + 1), None
        machine.counter.arm(timer, held, interrupts.group_mask)

    def enter(self, number: int, back: int) -> None:
        """Stacks a frame and goes to the handler.

        Args:
            number: the exception.
            back: the address where execution goes on afterwards.
        """
        machine = self._machine
        names = ("r0", "r1", "r2", "r3", "r12", "lr", "sp", "xpsr", "control")
        *general, stack, status, control = machine.registers(*names)
        extended = bool(control & _FLOATS) and machine.system.stacks_floats
        align = extended or machine.system.aligns_stack
        size = _EXTENDED if extended else _BASIC
        frame = (stack - size) & (~7 if align else ~3) & 0xFFFFFFFF
        stacked = status & ~_ALIGNED | (_ALIGNED if align and stack & 4 else 0)
        content = struct.pack("<8I", *general, back, stacked)
        if extended:
            *floats, fpscr = machine.registers(*(f"s{index}" for index in range(16)), "fpscr")
            content += struct.pack("<18I", *floats, fpscr, 0)
            machine.system.frame_address = frame + _BASIC
        handler_mode = bool(status & 0x1FF)
        code = 0xFFFFFFF1 if handler_mode else 0xFFFFFFFD if control & _PROCESS_STACK else 0xFFFFFFF9
        if machine.is_ram(frame, size):
            machine.write(frame, content)
        else:
            self._stacking_failed(number)
        self._places[frame] = (back, machine.counter.place())
        self._go(number, code & ~0x10 if extended else code, frame, status, control)
        self._spend(ENTRY_CYCLES)

    def chain(self, number: int, code: int) -> None:
        """Tail-chaining: goes to the next handler; the frame that EXC_RETURN describes stays where it is."""
        status, control = self._machine.registers("xpsr", "control")
        self._go(number, code | 0xF0000000, None, status, control)
        self._spend(CHAIN_CYCLES)

    def _go(self, number: int, code: int, frame: int | None, status: int, control: int) -> None:
        """The part of the entry that tail-chaining shares: handler mode, main stack, vector."""
        machine = self._machine
        vector = machine.system.vector(number)
        if frame is not None:
            machine.write_register("sp", frame)
        machine.write_registers(
            ("xpsr", "control", "lr", "pc"),
            (
                status & ~0x1FF & ~_EXECUTION | number | _THUMB,
                control & ~(_PROCESS_STACK | _FLOATS),
                code,
                vector | 1,
            ),
        )
        machine.counter.restore((None, NEVER, 0))
        machine.interrupts.begin(number)
        if not vector & 1:
            machine.fault(USAGE_FAULT, _INVALID_STATE, pc=vector)

    def _stacking_failed(self, number: int) -> None:
        """The stack has run out of its memory: a BusFault of its own, unless that is what is being entered."""
        machine = self._machine
        machine.system.fault_status |= STACKING
        if number not in (BUS_FAULT, HARD_FAULT):
            escalated = not machine.interrupts.is_enabled(BUS_FAULT)
            machine.interrupts.pending.add(HARD_FAULT if escalated else BUS_FAULT)
            machine.system.forced |= escalated

    def leave(self, code: int) -> None:
        """Returns from the active exception by an EXC_RETURN value."""
        machine, interrupts = self._machine, self._machine.interrupts
        status, control = machine.registers("xpsr", "control")
        number = status & 0x1FF
        if number == 0:  # not in a handler: an ordinary jump to an address that never holds code
            machine.fault(MEMORY_FAULT, _FETCH_VIOLATION, pc=code & ~1)
            return
        to_thread = bool(code & 8)
        others = interrupts.active - {number}
        possible = to_thread != bool(others) or (to_thread and machine.system.thread_base)
        interrupts.end(number)
        if number not in interrupts.taken or code & 0xF not in (0x1, 0x9, 0xD) or not possible:
            # The frame stays where it is, and the handler of the fault gets the bad value to return with.
            machine.fault(USAGE_FAULT, _INVALID_RETURN, pc=code & ~1, chained=code)
            return
        if number != NMI and self.fault_mask():
            self.clear_fault_mask()
        following = interrupts.candidate()
        if following is not None and interrupts.group(following) < self.priority():
            self.chain(following, code)
            return
        self._unstack(code, status, control, to_thread)
        self._spend(EXIT_CYCLES)

    def _unstack(self, code: int, status: int, control: int, to_thread: bool) -> None:
        machine = self._machine
        extended = not code & 0x10
        size = _EXTENDED if extended else _BASIC
        stack = machine.register("psp" if code & 4 else "msp")
        if not machine.is_ram(stack, size):
            machine.fault(BUS_FAULT, UNSTACKING, pc=machine.register("pc"))
            return
        content = machine.read(stack, size)
        *general, back, stacked = struct.unpack("<8I", content[:_BASIC])
        if extended:
            *floats, fpscr, _ = struct.unpack("<18I", content[_BASIC:])
            for index, value in enumerate(floats):
                machine.write_register(f"s{index}", value)
            machine.write_register("fpscr", fpscr)
        stack_bit = _PROCESS_STACK if to_thread and code & 4 else 0
        restored = stacked & ~_ALIGNED & ~0x1FF | (0 if to_thread else stacked & 0x1FF) | _THUMB
        top = stack + size
        if stacked & _ALIGNED and (extended or machine.system.aligns_stack):
            top |= 4
        machine.write_registers(
            ("control", "xpsr", "sp", "r0", "r1", "r2", "r3", "r12", "lr", "pc"),
            (
                control & ~(_PROCESS_STACK | _FLOATS) | stack_bit | _FLOATS * extended,
                restored,
                top,
                *general,
                back | 1,
            ),
        )
        interrupted, place = self._places.pop(stack, (None, (None, NEVER, 0)))
        # Back where the exception came: the edge from the block before counts as if there had been none.
        machine.counter.restore(place if interrupted == back & ~1 else (None, NEVER, place[2]))
        if to_thread == bool(stacked & 0x1FF):
            machine.fault(USAGE_FAULT, _INVALID_RETURN, pc=back & ~1)
        elif not stacked & _THUMB:
            machine.fault(USAGE_FAULT, _INVALID_STATE, pc=back & ~1)
        elif to_thread and machine.system.sleeps_on_exit:
            machine.runner.asleep = True

    def begin_floats(self) -> None:
        """A floating point instruction outside the emulator library: the first one makes a new context."""
        machine = self._machine
        control = machine.register("control")
        if not control & 4:
            machine.write_register("control", control | _FLOATS)
            machine.write_register("fpscr", machine.system.default_float_status)

    def _spend(self, cycles: int) -> None:
        self.cycles += cycles
        self._machine.counter.clock += cycles
