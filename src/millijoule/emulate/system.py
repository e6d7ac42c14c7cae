"""The core's own registers: interrupt controller, system control block, SysTick, cycle counter, instrumentation ports.

Source: Armv7-M Architecture Reference Manual, B3.2 (system control block), B3.3 (SysTick), B3.4 (interrupt controller),
C1.8 (data watchpoint and trace); identification values from the Cortex-M4 and Cortex-M7 Technical Reference Manuals.
The memory protection unit and the breakpoint unit only store what is written to them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from millijoule.emulate.exceptions import (
    BUS_FAULT,
    FIRST_INTERRUPT,
    MEMORY_FAULT,
    NMI,
    PENDSV,
    SVCALL,
    SYSTICK,
    USAGE_FAULT,
)

if TYPE_CHECKING:
    from millijoule.emulate.machine import Machine

__all__ = ["SysTick", "SystemBlock"]

_ICSR, _VTOR, _AIRCR, _SCR, _CCR = 0xE000ED04, 0xE000ED08, 0xE000ED0C, 0xE000ED10, 0xE000ED14
_SHPR, _SHCSR, _CFSR, _HFSR, _DFSR = 0xE000ED18, 0xE000ED24, 0xE000ED28, 0xE000ED2C, 0xE000ED30
_MMFAR, _BFAR, _CCSIDR, _CSSELR, _CPACR = 0xE000ED34, 0xE000ED38, 0xE000ED80, 0xE000ED84, 0xE000ED88
_STIR, _FPCCR, _FPCAR, _DEMCR = 0xE000EF00, 0xE000EF34, 0xE000EF38, 0xE000EDFC
_DWT_CTRL, _DWT_CYCCNT = 0xE0001000, 0xE0001004
_KEY = 0x05FA  # of AIRCR
_FAULT_ENABLES = {16: MEMORY_FAULT, 17: BUS_FAULT, 18: USAGE_FAULT}
_ACTIVE_BITS = {0: MEMORY_FAULT, 1: BUS_FAULT, 3: USAGE_FAULT, 7: SVCALL, 10: PENDSV, 11: SYSTICK}
_PENDING_BITS = {12: USAGE_FAULT, 13: MEMORY_FAULT, 14: BUS_FAULT, 15: SVCALL}
# CPUID, then MVFR0, MVFR1, MVFR2 of the floating point unit: single precision (M4), double precision (M7).
_IDENTITY = {
    "cortex-m4": (0x410FC241, (0x10110021, 0x11000011, 0x00000000)),
    "cortex-m7": (0x411FC271, (0x10110221, 0x12000011, 0x00000040)),
}
# Caches of the Cortex-M7 in both chips of the family: 16 KB each; (ways, sets) of data and instructions.
_CACHES = {0: (4, 128), 1: (2, 256)}
_TENMS_ABSENT = 0xC0000000  # SysTick's calibration: no reference clock, the value is not exact


class SysTick:
    """The core's timer: counts core cycles, or eighths of them, down from the reload value.

    Args:
        now: the present time in core cycles.
        pend: makes the SysTick exception pending.
    """

    def __init__(self, now: Callable[[], int], pend: Callable[[], None]) -> None:
        self._now, self._pend = now, pend
        self.reset()

    def reset(self) -> None:
        """After power-on: off."""
        self.control = self.reload = 0
        self._value = 0  # while it is off
        self._zero_at: int | None = None
        self._wrapped = False

    @property
    def _unit(self) -> int:
        return 1 if self.control & 4 else 8

    @property
    def _period(self) -> int:
        return (self.reload + 1) * self._unit

    def advance(self) -> None:
        """Brings the timer to the present time."""
        now = self._now()
        if self._zero_at is None or now < self._zero_at:
            return
        self._wrapped = True
        if self.control & 2:
            self._pend()
        if self.reload == 0:
            self._zero_at, self._value = None, 0
        else:
            self._zero_at += ((now - self._zero_at) // self._period + 1) * self._period

    def next_event(self) -> int | None:
        """When the exception becomes pending the next time, None for never."""
        return self._zero_at if self.control & 2 else None

    def read_value(self) -> int:
        """CVR."""
        self.advance()
        if self._zero_at is None:
            return self._value
        return -(-(self._zero_at - self._now()) // self._unit) % (self.reload + 1)

    def read_control(self) -> int:
        """CSR; reading clears COUNTFLAG."""
        self.advance()
        wrapped, self._wrapped = self._wrapped, False
        return self.control | wrapped << 16

    def write_control(self, value: int) -> None:
        """CSR."""
        current = self.read_value()
        wrapped = self._wrapped
        self.control = value & 7
        self._start(current)
        self._wrapped = wrapped

    def write_reload(self, value: int) -> None:
        """RVR: taken up when the counter next reaches zero."""
        current = self.read_value()
        self.reload = value & 0xFFFFFF
        self._start(current)

    def clear(self) -> None:
        """A write to CVR of any value."""
        self.advance()
        self._start(0)
        self._wrapped = False

    def _start(self, current: int) -> None:
        self._value, self._zero_at = current, None
        if self.control & 1 and (current or self.reload):
            # From zero the next tick loads the reload value first.
            self._zero_at = self._now() + (current or self.reload + 1) * self._unit


class SystemBlock:
    """Registers at 0xE0000000 to 0xE000FFFF.

    Attributes:
        fault_status: CFSR. `forced`: whether a fault was escalated (HFSR.FORCED).
        instrumentation: bytes written to the instrumentation ports (ITM).
        reset_requested: the firmware wrote SYSRESETREQ.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.systick = SysTick(lambda: machine.now, lambda: machine.interrupts.pend_exception(SYSTICK))
        self.instrumentation = bytearray()
        self.reset()

    def reset(self) -> None:
        """After power-on or reset."""
        self.systick.reset()
        self._values: dict[int, int] = {_CCR: 0x200, _FPCCR: 0xC0000000}
        self.fault_status = 0
        self.fault_address = 0
        self.forced = self.vector_failed = False
        self.vector_base: int = self._machine.boot_address
        self.reset_requested = False
        self._cycle_offset = self._cycle_value = 0
        self.instrumentation.clear()

    # What entry and return of exceptions ask.
    @property
    def stacks_floats(self) -> bool:
        """FPCCR.ASPEN."""
        return bool(self._values[_FPCCR] >> 31)

    @property
    def aligns_stack(self) -> bool:
        """CCR.STKALIGN."""
        return bool(self._values[_CCR] & 0x200)

    @property
    def thread_base(self) -> bool:
        """CCR.NONBASETHRDENA."""
        return bool(self._values[_CCR] & 1)

    @property
    def traps_division(self) -> bool:
        """CCR.DIV_0_TRP."""
        return bool(self._values[_CCR] & 0x10)

    @property
    def traps_unaligned(self) -> bool:
        """CCR.UNALIGN_TRP."""
        return bool(self._values[_CCR] & 8)

    @property
    def sleeps_on_exit(self) -> bool:
        """SCR.SLEEPONEXIT."""
        return bool(self._values.get(_SCR, 0) & 2)

    @property
    def floats_enabled(self) -> bool:
        """CPACR gives access to the floating point unit."""
        return self._values.get(_CPACR, 0) >> 20 & 15 == 15

    def enable_floats(self) -> None:
        """Gives access to the floating point unit, as start-up code does."""
        self._values[_CPACR] = self._values.get(_CPACR, 0) | 15 << 20

    @property
    def default_float_status(self) -> int:
        """FPDSCR: modes of the floating point unit in a new context."""
        return self._values.get(0xE000EF3C, 0) & 0x07C00000

    @property
    def frame_address(self) -> int:
        """FPCAR."""
        return self._values.get(_FPCAR, 0)

    @frame_address.setter
    def frame_address(self, address: int) -> None:
        self._values[_FPCAR] = address

    def vector(self, number: int) -> int:
        """The handler's address from the vector table, the Thumb bit included."""
        address = self.vector_base + 4 * number
        return self._machine.read_word(address) if self._machine.is_mapped(address, 4) else 0

    def advance(self) -> None:
        """Brings SysTick to the present time."""
        self.systick.advance()

    def read(self, address: int, size: int) -> int:
        """A load of `size` bytes."""
        word = self._read_word(address & ~3)
        return word >> 8 * (address & 3) & ((1 << 8 * size) - 1)

    def write(self, address: int, size: int, value: int) -> None:
        """A store of `size` bytes."""
        word, shift = address & ~3, 8 * (address & 3)
        mask = ((1 << 8 * size) - 1) << shift
        self._write_word(word, value << shift & mask, mask)

    def _read_word(self, address: int) -> int:
        interrupts = self._machine.interrupts
        if 0xE000E100 <= address < 0xE000E400:
            self._machine.refresh()
            kind, first = address & ~0x7F, FIRST_INTERRUPT + (address & 0x7F) * 8
            chosen = {0xE000E100: interrupts.enabled, 0xE000E180: interrupts.enabled, 0xE000E200: interrupts.pending}
            chosen |= {0xE000E280: interrupts.pending, 0xE000E300: interrupts.active}
            return sum(1 << bit for bit in range(32) if first + bit in chosen.get(kind, ()))
        if 0xE000E400 <= address < 0xE000E800:
            return self._priorities(FIRST_INTERRUPT + address - 0xE000E400)
        if _SHPR <= address < _SHCSR:
            return self._priorities(4 + address - _SHPR)
        if address < 0xE0001000:  # ITM: stimulus ports are always ready
            return 1 if address < 0xE0000080 else self._values.get(address, 0)
        reader = _READERS.get(address)
        return reader(self) & 0xFFFFFFFF if reader else self._values.get(address, 0)

    def _priorities(self, first: int) -> int:
        known = self._machine.interrupts.priority
        return sum((known[n] & 0xFF) << 8 * (n - first) for n in range(first, min(first + 4, len(known))) if n >= 4)

    def _write_word(self, address: int, value: int, mask: int) -> None:
        interrupts = self._machine.interrupts
        if 0xE000E100 <= address < 0xE000E400:
            kind, first = address & ~0x7F, FIRST_INTERRUPT + (address & 0x7F) * 8
            for number in range(first, min(first + 32, FIRST_INTERRUPT + interrupts.lines)):
                if value >> (number - first) & 1:
                    self._change(kind, number)
        elif 0xE000E400 <= address < 0xE000E800:
            self._set_priorities(FIRST_INTERRUPT + address - 0xE000E400, value, mask)
        elif _SHPR <= address < _SHCSR:
            self._set_priorities(4 + address - _SHPR, value, mask)
        elif address < 0xE0000080:
            self.instrumentation += value.to_bytes(4, "little")[: mask.bit_length() // 8]
        else:
            writer = _WRITERS.get(address)
            merged = self._values.get(address, 0) & ~mask | value
            if writer is None:
                self._values[address] = merged
            else:
                writer(self, value if address in _WRITE_ONE else merged)

    def _change(self, kind: int, number: int) -> None:
        interrupts = self._machine.interrupts
        if kind in (0xE000E100, 0xE000E180):
            interrupts.enable(number, kind == 0xE000E100)
        elif kind == 0xE000E200:
            interrupts.pend_exception(number)
        elif kind == 0xE000E280:
            interrupts.clear(number)

    def _set_priorities(self, first: int, value: int, mask: int) -> None:
        for position in range(4):
            if mask >> 8 * position & 0xFF:
                self._machine.interrupts.set_priority(first + position, value >> 8 * position & 0xFF)

    def _read_state(self) -> int:
        """ICSR."""
        machine = self._machine
        machine.refresh()
        interrupts = machine.interrupts
        first = interrupts.candidate()
        word = (machine.register("xpsr") & 0x1FF) | (first or 0) << 12
        word |= (len(interrupts.active) <= 1) << 11
        word |= any(number >= FIRST_INTERRUPT for number in interrupts.pending) << 22
        for bit, number in ((31, NMI), (28, PENDSV), (26, SYSTICK)):
            word |= (number in interrupts.pending) << bit
        return word

    def _write_state(self, value: int) -> None:
        interrupts = self._machine.interrupts
        for bit, number in ((31, NMI), (28, PENDSV), (26, SYSTICK)):
            if value >> bit & 1:
                interrupts.pend_exception(number)
        for bit, number in ((27, PENDSV), (25, SYSTICK)):
            if value >> bit & 1:
                interrupts.clear(number)

    def _write_reset(self, value: int) -> None:
        """AIRCR."""
        if value >> 16 != _KEY:
            return
        self._machine.interrupts.group_bits = value >> 8 & 7
        if value & 4:
            self.reset_requested = True
        self._machine.counter.attention()

    def _read_handlers(self) -> int:
        """SHCSR."""
        interrupts = self._machine.interrupts
        word = sum((number in interrupts.active) << bit for bit, number in _ACTIVE_BITS.items())
        word |= sum((number in interrupts.pending) << bit for bit, number in _PENDING_BITS.items())
        return word | sum((number in interrupts.enabled) << bit for bit, number in _FAULT_ENABLES.items())

    def _write_handlers(self, value: int) -> None:
        for bit, number in _FAULT_ENABLES.items():
            self._machine.interrupts.enable(number, bool(value >> bit & 1))

    def _write_cpacr(self, value: int) -> None:
        self._values[_CPACR] = value
        self._machine.guards_changed()

    def _write_configuration(self, value: int) -> None:
        self._values[_CCR] = value
        self._machine.guards_changed()

    def _clear_status(self, value: int) -> None:
        self.fault_status &= ~value

    def _clear_hard(self, value: int) -> None:
        self.forced = self.forced and not value >> 30 & 1
        self.vector_failed = self.vector_failed and not value & 2

    def _write_vector_base(self, value: int) -> None:
        self.vector_base = value & 0xFFFFFF80

    def _write_software_trigger(self, value: int) -> None:
        if value & 0x1FF < self._machine.interrupts.lines:
            self._machine.interrupts.pend(value & 0x1FF)

    def _read_cycles(self) -> int:
        if not self._values.get(_DWT_CTRL, 0) & 1:
            return self._cycle_value
        return self._machine.measured_cycles() - self._cycle_offset

    def _write_cycles(self, value: int) -> None:
        self._cycle_value = value
        self._cycle_offset = self._machine.measured_cycles() - value

    def _write_cycle_control(self, value: int) -> None:
        self._cycle_value = self._read_cycles() & 0xFFFFFFFF
        self._values[_DWT_CTRL] = value
        self._cycle_offset = self._machine.measured_cycles() - self._cycle_value

    def _read_cache_size(self) -> int:
        """CCSIDR of the cache chosen in CSSELR: ways, sets, lines of 32 bytes, write-back and write-allocate."""
        if self._machine.board.core != "cortex-m7":
            return 0
        ways, sets = _CACHES[self._values.get(_CSSELR, 0) & 1]
        return 0xF0000000 | (sets - 1) << 13 | (ways - 1) << 3 | 1

    def _identity(self, index: int) -> int:
        identity = _IDENTITY[self._machine.board.core]
        return identity[0] if index < 0 else identity[1][index]

    def _start_timer(self, action: Callable[[], None]) -> None:
        action()
        self._machine.rearm()


_Reader = Callable[[SystemBlock], int]
_READERS: dict[int, _Reader] = {
    0xE000E004: lambda block: (block._machine.interrupts.lines + 31) // 32 - 1,
    0xE000E010: lambda block: block.systick.read_control(),
    0xE000E014: lambda block: block.systick.reload,
    0xE000E018: lambda block: block.systick.read_value(),
    0xE000E01C: lambda _: _TENMS_ABSENT,
    0xE000ED00: lambda block: block._identity(-1),
    _ICSR: SystemBlock._read_state,
    _VTOR: lambda block: block.vector_base,
    _AIRCR: lambda block: 0xFA050000 | block._machine.interrupts.group_bits << 8,
    _SHCSR: SystemBlock._read_handlers,
    _CFSR: lambda block: block.fault_status,
    _HFSR: lambda block: block.forced << 30 | block.vector_failed << 1,
    _MMFAR: lambda block: block.fault_address,
    _BFAR: lambda block: block.fault_address,
    0xE000ED78: lambda block: 0x09000003 if block._machine.board.core == "cortex-m7" else 0,  # CLIDR
    0xE000ED7C: lambda block: 0x8303C003 if block._machine.board.core == "cortex-m7" else 0,  # CTR
    _CCSIDR: SystemBlock._read_cache_size,
    0xE000ED90: lambda block: 0x1000 if block._machine.board.core == "cortex-m7" else 0x800,  # MPU_TYPE
    0xE000EF40: lambda block: block._identity(0),
    0xE000EF44: lambda block: block._identity(1),
    0xE000EF48: lambda block: block._identity(2),
    _DWT_CTRL: lambda block: 4 << 28 | block._values.get(_DWT_CTRL, 0) & 0x0FFFFFFF,
    _DWT_CYCCNT: SystemBlock._read_cycles,
}
_Writer = Callable[[SystemBlock, int], None]
_WRITERS: dict[int, _Writer] = {
    0xE000E010: lambda block, value: block._start_timer(lambda: block.systick.write_control(value)),
    0xE000E014: lambda block, value: block._start_timer(lambda: block.systick.write_reload(value)),
    0xE000E018: lambda block, _: block._start_timer(block.systick.clear),
    _ICSR: SystemBlock._write_state,
    _VTOR: SystemBlock._write_vector_base,
    _AIRCR: SystemBlock._write_reset,
    _CCR: SystemBlock._write_configuration,
    _SHCSR: SystemBlock._write_handlers,
    _CFSR: SystemBlock._clear_status,
    _HFSR: SystemBlock._clear_hard,
    _MMFAR: lambda block, value: setattr(block, "fault_address", value),
    _BFAR: lambda block, value: setattr(block, "fault_address", value),
    _CPACR: SystemBlock._write_cpacr,
    _STIR: SystemBlock._write_software_trigger,
    _DWT_CTRL: SystemBlock._write_cycle_control,
    _DWT_CYCCNT: SystemBlock._write_cycles,
    0xE0001FB0: lambda _block, _value: None,  # DWT_LAR
}
# Writing ones acts, zeros do nothing: bytes that are not written count as zeros.
_WRITE_ONE = {_ICSR, _CFSR, _HFSR, _DFSR, _STIR}
# Cache maintenance operations of the Cortex-M7 have no effect here: there is no cache that could be stale.
_MAINTENANCE = range(0xE000EF50, 0xE000EF7C, 4)
_WRITERS.update({address: lambda _block, _value: None for address in _MAINTENANCE})
