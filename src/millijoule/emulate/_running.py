"""The loop around the emulator library: why it stopped, what the core does then, and on it goes."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from millijoule.emulate._counting import NEVER
from millijoule.emulate._double_native import DoubleHook
from millijoule.emulate._faults import FaultReport, Reason, classify, describe, explain, make_report, refusal
from millijoule.emulate.double import execute_double, is_double
from millijoule.emulate.exceptions import BUS_FAULT, HARD_FAULT, MEMORY_FAULT, STACKING, SVCALL, USAGE_FAULT
from millijoule.errors import EmulationError, ToolchainError

if TYPE_CHECKING:
    from millijoule.emulate.machine import Machine

__all__ = ["Runner"]

# What the emulator library reports by number: SVC, a jump to where code must not be, a jump to an EXC_RETURN
# value, an instruction of a coprocessor that is not there, a jump to an even address.
_SVC, _NO_CODE, _RETURN, _NO_COPROCESSOR, _EVEN = 2, 3, 8, 17, 18
_NOWHERE = 0xF0000000  # no code can be there
_HANDLER_BLOCKS = 1_000_000
_WFE, _YIELD, _WFI = 0xBF20, 0xBF10, 0xBF30
_WIDE_WFI = 0xF3AF | 0x8003 << 16
# Stubs for the one register that the library's interface lacks: MRS r0, FAULTMASK; MSR FAULTMASK, r0; NOP.
_READ_FAULT_MASK, _WRITE_FAULT_MASK = bytes.fromhex("eff3138000bf"), bytes.fromhex("80f3138800bf")
_STUB = 0x1F000000  # reserved in both chip families


class Runner:
    """Runs one machine.

    Attributes:
        until_cycle: the time at which the run ends, None for never.
        armed: the time of the next event that the hook waits for.
        asleep: whether the core waits in WFI.
        stop_requested: whether the run is to end at the next boundary of a block.
        guards_stale: whether hooks at single instructions must be brought up to date.
        stop_reasons: further checks that may stop the emulator before an instruction: each gives its reason, or None.
    """

    def __init__(self, machine: Machine) -> None:
        import unicorn

        self._machine = machine
        self._unicorn: Any = unicorn
        self.until_cycle: int | None = None
        self.stop_requested = False
        self.armed = NEVER
        self.stop_reasons: list[Callable[[], Reason | None]] = []
        self._interrupt: int | None = None
        self._problem: Exception | None = None
        self.reset()
        machine.exceptions.fault_mask = self._fault_mask
        machine.exceptions.clear_fault_mask = self._clear_fault_mask
        machine.emulator.hook_add(unicorn.UC_HOOK_INTR, self._on_interrupt)
        self.doubles: DoubleHook | None = None
        if machine.board.core == "cortex-m7":
            # Hooks are asked in the order in which they were added.
            if machine.counter.name == "native":
                with contextlib.suppress(ToolchainError):
                    self.doubles = DoubleHook(machine.emulator)
            machine.emulator.hook_add(unicorn.UC_HOOK_INSN_INVALID, self._on_invalid)

    def reset(self) -> None:
        """After power-on or reset."""
        self.asleep = False
        self.guards_stale = False
        self._started = False
        self._report: FaultReport | None = None

    def examine(self, address: int, size: int) -> bool:
        """What the hook asks about a new block."""
        try:
            stop = self._machine.guards.examine(address, size)
            self.guards_stale |= stop
            return stop
        except Exception as error:
            return self._keep(error)

    def price(self, source: int | None, source_size: int, target: int, size: int) -> tuple[int, int]:
        """What the hook asks about a new edge."""
        try:
            return self._machine.price(source, source_size, target, size)
        except Exception as error:
            self._keep(error)
            return 1, 0

    def enable_doubles(self) -> None:
        """CPACR may have changed."""
        if self.doubles is not None:
            self.doubles.enable(self._machine.system.floats_enabled)

    def _keep(self, error: Exception) -> bool:
        """Exceptions cannot pass through the emulator library."""
        self._problem = self._problem or error
        self._machine.emulator.emu_stop()
        return True

    def run(self, until: int | None, limit: int, until_cycle: int | None, *, waits: bool = True) -> str:
        """See `Machine.run`; without `waits` it ends where the core sleeps and nothing will wake it before its end."""
        machine = self._machine
        end = _NOWHERE if until is None else until & ~1
        self.stop_requested = False
        self.until_cycle = until_cycle
        if machine.hooks_gone:
            machine.translate_again()
        if not self._started:
            self._started = True
            if machine.register("pc") & ~1 != machine.read_word(machine.boot_address + 4) & ~1:
                machine.system.enable_floats()  # a debugger starts in the middle: start-up code will not do it
        machine.write_registers(("pc",), (machine.register("pc") | 1,))
        machine.counter.begin(limit)
        self.enable_doubles()
        if self._is_busy():
            machine.counter.attention()
        try:
            while True:
                if self.asleep and not self._sleep(waits):
                    return "request" if self.stop_requested else "time" if self._is_over() else "waiting"
                ended = self._step(end, limit)
                if ended is not None:
                    return ended
                if self._report is not None and machine.on_fault == "report":
                    raise self._finish_report()
        finally:
            self.until_cycle = None

    def _is_busy(self) -> bool:
        """Whether anything but the firmware's own code can come: without it the hook never stops."""
        machine = self._machine
        return bool(machine.interrupts.pending) or machine.next_event() != NEVER or self.guards_stale

    def _step(self, end: int, limit: int) -> str | None:
        """Runs to the next stop and deals with it; returns why the run ends, None when it goes on."""
        machine = self._machine
        self._interrupt = None
        pc, status = machine.registers("pc", "xpsr")
        if not status >> 24 & 1:
            self.raise_fault(Reason(USAGE_FAULT, 1 << 17, describe(1 << 17)), pc & ~1)
            return None
        try:
            machine.emulator.emu_start(pc | 1, end)
        except self._unicorn.UcError as error:
            self._raise_problem()
            self._on_error(int(error.errno))
            return None
        self._raise_problem()
        if machine.counter.limited():
            where = machine.image.function_at(machine.register("pc"))
            raise EmulationError(
                f"the firmware in {where}",
                f"it did not end within {limit} blocks of code",
                "Look for an endless loop, or raise block_limit",
            )
        return self._after_stop(end)

    def _after_stop(self, end: int) -> str | None:
        machine = self._machine
        pc = machine.register("pc") & ~1
        if self._interrupt is not None:
            self._on_exception(self._interrupt, pc)
            return None
        paused, trapped = machine.counter.paused(), machine.counter.trapped()
        if pc == end:
            return "address"
        if paused:
            return self.attend()
        reason, machine.guards.reason = machine.guards.reason, None
        for source in self.stop_reasons:
            reason = source() or reason
        if trapped:
            reason = machine.guards.division(trapped)
            if reason is None:
                self._skip_division(pc)
                return None
        if reason is not None:
            self.raise_fault(reason, pc)
        elif self._is_wait(pc):
            self.asleep = True
        else:
            raise explain(machine)
        return None

    def _raise_problem(self) -> None:
        problem, self._problem = self._problem, None
        if problem is not None:
            raise problem

    def attend(self) -> str | None:
        """At the boundary of a block: lets time-driven things happen, takes exceptions; returns why the run ends."""
        machine = self._machine
        if self.guards_stale:
            self.guards_stale = False
            self.enable_doubles()
            machine.guards.install()
            machine.watch_alignment()
        machine.refresh()
        if machine.system.reset_requested:
            machine.resets += 1
            machine.restart()
        machine.exceptions.take()
        self.armed = machine.next_event()
        if self.stop_requested:
            return "request"
        return "time" if self._is_over() else None

    def _is_over(self) -> bool:
        return self.until_cycle is not None and self._machine.now >= self.until_cycle

    def _sleep(self, waits: bool) -> bool:
        """WFI: lets time pass until an exception wakes the core; False when the run is to end before."""
        machine = self._machine
        while True:
            machine.refresh()
            number = machine.interrupts.candidate()
            # PRIMASK does not keep the core asleep.
            if number is not None and machine.interrupts.group(number) < machine.exceptions.priority(primask=False):
                break
            if self.stop_requested or self._is_over():
                return False
            if not waits and machine.next_event() == self.until_cycle:
                return False
            if not self._pass_time():
                raise EmulationError(
                    f"{machine.image.function_at(machine.register('pc'))} at {machine.register('pc'):#010x}",
                    "the core sleeps (WFI) and no interrupt can wake it",
                    "Enable the interrupt that it waits for",
                )
        self.asleep = False
        machine.exceptions.take()
        self.armed = machine.next_event()
        return True

    def _pass_time(self) -> bool:
        """Advances to the next event; without one the host may have something."""
        machine = self._machine
        event = machine.next_event()
        if event == NEVER:
            return machine.on_idle is not None and machine.on_idle()
        skipped = max(0, event - machine.now)
        machine.slept += skipped
        machine.counter.clock += skipped
        return True

    def _is_wait(self, pc: int) -> bool:
        machine = self._machine
        if not machine.is_mapped(pc - 4, 4):
            return False
        word = machine.read_word(pc - 4)
        return word >> 16 == _WFI or word == _WIDE_WFI

    def _on_interrupt(self, emulator: Any, number: int, _: Any) -> None:
        self._interrupt = number
        emulator.emu_stop()

    def _on_exception(self, number: int, pc: int) -> None:
        machine = self._machine
        if number == _RETURN:
            machine.exceptions.leave(machine.register("pc") | 1)
        elif number == _SVC:
            if machine.interrupts.group(SVCALL) < machine.exceptions.priority():
                machine.exceptions.enter(SVCALL, pc)
            else:
                self.raise_fault(Reason(HARD_FAULT, 0, "it calls the supervisor (SVC) where no exception may run"), pc)
        elif number == _NO_CODE:
            self.raise_fault(Reason(MEMORY_FAULT, 1, describe(1)), pc)
        elif number == _NO_COPROCESSOR:
            reason = Reason(USAGE_FAULT, 1 << 19, "the instruction needs a coprocessor that this core lacks")
            self.raise_fault(reason, pc)
        elif number == _EVEN:
            self.raise_fault(Reason(USAGE_FAULT, 1 << 17, describe(1 << 17)), pc)
        else:
            raise explain(machine, number)
        machine.exceptions.take()
        self.armed = machine.next_event()

    def _on_invalid(self, emulator: Any, _: Any) -> bool:
        """Double precision on the Cortex-M7; False leaves the instruction undefined."""
        machine = self._machine
        try:
            pc = machine.register("pc") & ~1
            if not machine.register("xpsr") >> 24 & 1 or not machine.is_mapped(pc, 4):
                return False
            word = machine.read_word(pc)
            if not machine.system.floats_enabled or not is_double(word & 0xFFFF, word >> 16):
                return False
            machine.exceptions.begin_floats()
            if not execute_double(machine, word & 0xFFFF, word >> 16):
                return False
            self._advance(pc + 4)
        except Exception as error:
            return not self._keep(error)
        return True

    def _advance(self, pc: int) -> None:
        """Goes to the next instruction, which may be in the same IT block."""
        machine = self._machine
        status = machine.register("xpsr")
        state = status >> 8 & 0xFC | status >> 25 & 3
        if state:
            state = state & 0xE0 | state << 1 & 0x1F if state & 7 else 0
            machine.write_register("xpsr", status & ~0x0600FC00 | (state & 0xFC) << 8 | (state & 3) << 25)
        machine.write_register("pc", pc | 1)

    def _skip_division(self, pc: int) -> None:
        """A division by zero that is not trapped gives zero."""
        machine = self._machine
        machine.write_register(f"r{machine.read_word(pc) >> 24 & 15}", 0)
        self._advance(pc + 4)

    def _on_error(self, number: int) -> None:
        machine = self._machine
        pc = machine.register("pc") & ~1
        if number == self._unicorn.UC_ERR_INSN_INVALID and machine.counter.place()[1] == pc:
            # WFE and YIELD end their block; the library has no other word for them.
            hint = int.from_bytes(machine.read(pc - 2, 2), "little")
            if hint in (_WFE, _YIELD):
                if hint == _WFE and not machine.interrupts.pending:
                    self._wait_for_event()
                return
        self.raise_fault(classify(machine, number), pc)

    def _wait_for_event(self) -> None:
        """WFE: until the next event, if one is known; the architecture lets it end at any time."""
        machine = self._machine
        if machine.next_event() != NEVER:
            self._pass_time()
            machine.counter.attention()
        elif machine.on_idle is not None and machine.on_idle():
            machine.counter.attention()

    def raise_fault(self, reason: Reason, pc: int, chained: int | None = None) -> None:
        """See `Machine.fault`."""
        machine = self._machine
        system, interrupts = machine.system, machine.interrupts
        machine.cut_block(pc)
        system.fault_status |= reason.bits
        if reason.address is not None:
            system.fault_address = reason.address
        priority = machine.exceptions.priority()
        taken = reason.exception
        configurable = taken in (MEMORY_FAULT, BUS_FAULT, USAGE_FAULT)
        if not configurable or not interrupts.is_enabled(taken) or interrupts.group(taken) >= priority:
            taken = HARD_FAULT
            system.forced = True
        report = make_report(machine, reason, taken, pc)
        place = len(machine.faults)
        machine.faults.append(report)
        if taken == HARD_FAULT and priority <= -1:
            raise refusal(report, locked=True)
        if chained is None:
            machine.exceptions.enter(taken, pc)
        else:
            machine.exceptions.chain(taken, chained)
        machine.counter.attention()
        # Stacking may have added to the status.
        report = dataclasses.replace(report, cfsr=report.cfsr | system.fault_status & STACKING)
        machine.faults[place] = report
        if self._report is None:
            self._report = report
        if machine.on_fault == "deliver":
            self._report = None

    def _finish_report(self) -> EmulationError:
        """Lets the firmware's fault handler run, so that it can print; then the error."""
        machine, report = self._machine, self._report
        assert report is not None
        self._report = None
        halt = machine.image.symbols.get("mj_halt")
        end = _NOWHERE if halt is None else halt.address
        machine.on_fault = "deliver"
        machine.counter.begin(_HANDLER_BLOCKS)
        try:
            with contextlib.suppress(EmulationError):
                while not machine.system.reset_requested and not self.asleep:
                    if self._step(end, _HANDLER_BLOCKS) is not None:
                        break
        finally:
            machine.on_fault = "report"
        return refusal(report)

    def _fault_mask(self) -> int:
        """FAULTMASK, which only code can read."""
        machine = self._machine
        if not machine.guards.masks_faults:
            return 0
        return self._stub(_READ_FAULT_MASK, None) & 1

    def _clear_fault_mask(self) -> None:
        self._stub(_WRITE_FAULT_MASK, 0)

    def _stub(self, code: bytes, value: int | None) -> int:
        """Executes one instruction outside the firmware; r0 in, r0 out; everything else stays."""
        machine, emulator = self._machine, self._machine.emulator
        names = ("r0", "pc", "xpsr")
        saved = machine.registers(*names)
        place, clock = machine.counter.place(), machine.counter.clock
        emulator.mem_map(_STUB, 4096)
        emulator.mem_write(_STUB, code)
        machine.write_register("xpsr", saved[2] & ~0x0600FC00)
        if value is not None:
            machine.write_register("r0", value)
        machine.counter.arm(NEVER)
        machine.counter.ignore(lambda: emulator.emu_start(_STUB | 1, _STUB + 4))
        result = machine.register("r0")
        emulator.mem_unmap(_STUB, 4096)
        machine.counter.restore(place)
        machine.counter.clock = clock
        for name, word in zip(names, saved, strict=True):
            machine.write_register(name, word | (name == "pc"))
        return result
