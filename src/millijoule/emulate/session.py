"""A firmware that runs until something ends it, in slices, with its serial line connected to this computer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from millijoule.emulate.cycles import Counts
from millijoule.emulate.machine import Machine
from millijoule.emulate.serial import Link
from millijoule.errors import EmulationError

__all__ = ["Outcome", "Session"]

_SHORTEST, _LONGEST = 20_000, 4_000_000  # core cycles in one slice
_POLL = 200  # fewer cycles per empty look at the line than this: the firmware only waits for a byte
_NAP_SECONDS = 0.01  # what passes at once, here and on the board, while the firmware only waits
# When the input has ended: how long on the board the firmware must only have waited, or, whatever it does, been silent.
_SETTLE_SECONDS, _SILENT_SECONDS = 0.05, 10.0


@dataclass
class Outcome:
    """How a session ended.

    Attributes:
        reason: "found" (the text that was waited for), "time", "hung up", "input ended", "interrupted", "fault", "end"
            (the program counter reached the address that was asked for).
        counts: instructions and cycles executed, by the core's timing rules.
        cycles: core cycles that passed, sleep and waiting included.
        seconds: the same as time at the core's clock.
        console: what the firmware sent, Latin-1.
        problems: rules of order that the firmware broke.
        warnings: what else a person should know.
        fault: why the firmware could not go on, None when it could.
    """

    reason: str
    counts: Counts
    cycles: int
    clock_hz: int
    console: str
    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    fault: EmulationError | None = field(default=None)

    @property
    def seconds(self) -> float:
        """Time that passed on the board."""
        return self.cycles / self.clock_hz

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        fault = self.fault
        return {
            "ended": self.reason,
            "instructions": self.counts.instructions,
            "cycles": self.counts.cycles,
            "elapsed_cycles": self.cycles,
            "clock_hz": self.clock_hz,
            "milliseconds": self.seconds * 1e3,
            "console": self.console,
            "problems": list(self.problems),
            "warnings": list(self.warnings),
            "fault": None if fault is None else {"where": fault.what, "reason": fault.reason, "fix": fault.fix},
        }


class Session:
    """Runs a machine and moves bytes between its console and a link.

    A firmware that does nothing but look at an empty line, or that sleeps, lets time pass in steps of 10 ms, so that
    waiting costs this computer nothing.

    Args:
        machine: after `reset`.
        link: the other end of the console.
        until: stop when the firmware has sent this text.
        seconds: stop after this time on the board.
        stopped: asked between slices; True ends the session ("interrupted").
    """

    def __init__(
        self,
        machine: Machine,
        link: Link,
        *,
        until: str | None = None,
        seconds: float | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self.machine = machine
        self.link = link
        self._until = until.encode("latin-1", "replace") if until else None
        self._limit = seconds
        self._stopped = stopped
        self._sent = 0
        self._start = machine.now
        self._spoke = machine.now
        self._found = False
        self._quiet_since: int | None = None

    def run(self) -> Outcome:
        """Runs until one of the ends; a fault of the firmware is part of the outcome, not raised."""
        chip = self.machine.peripherals
        chip.on_byte = self._look
        try:
            return self._run()
        finally:
            chip.on_byte = None

    def _run(self) -> Outcome:
        size = _SHORTEST
        chip = self.machine.peripherals
        while (reason := self._ended()) is None:
            data = self.link.read()
            if data:
                chip.receive(data)
                self._spoke, self._quiet_since = self.machine.now, None
            chip.host_baud = self.link.baud
            looks = chip.console.looks
            try:
                waiting = self.machine.advance(self._slice(size)) == "waiting"
            except EmulationError as error:
                self._forward()
                return self._outcome("fault", error)
            self._forward()
            if waiting or (chip.console.looks - looks) * _POLL > size:
                size = _SHORTEST
                if chip.received:
                    self._quiet_since = None
                elif self._quiet_since is None:
                    self._quiet_since = self.machine.now
                if waiting or not chip.received:
                    self._nap()
            else:
                self._quiet_since = None
                size = min(2 * size, _LONGEST)
        return self._outcome(reason, None)

    def _slice(self, size: int) -> int:
        if self._limit is None:
            return size
        left = self._limit * self.machine.peripherals.clock_hz() - (self.machine.now - self._start)
        return max(1, min(size, int(left) + 1))

    def _nap(self) -> None:
        """Nothing to do before the host speaks or an event on the chip is due: time passes on both sides."""
        machine = self.machine
        clock = machine.peripherals.clock_hz()
        before = machine.now
        machine.sleep(self._slice(int(_NAP_SECONDS * clock)))
        if not (self.link.ended or self.link.closed):
            self.link.wait((machine.now - before) / clock)

    def _forward(self) -> None:
        sent = self.machine.peripherals.transmitted
        if len(sent) > self._sent:
            self.link.write(bytes(sent[self._sent :]))
            self._sent = len(sent)
            self._spoke = self.machine.now

    def _ended(self) -> str | None:
        machine = self.machine
        clock = machine.peripherals.clock_hz()
        if self._found:
            return "found"
        if self._stopped():
            return "interrupted"
        if self._limit is not None and machine.now - self._start >= self._limit * clock:
            return "time"
        if self.link.closed:
            return "hung up"
        if self.link.ended and self._limit is None:
            quiet = self._quiet_since is not None and machine.now - self._quiet_since > _SETTLE_SECONDS * clock
            if quiet or machine.now - self._spoke > _SILENT_SECONDS * clock:
                return "input ended"
        return None

    def _look(self) -> None:
        """After every byte the firmware sends: ends the run where the text is complete, to the block."""
        if self._until is not None and self.machine.peripherals.transmitted.endswith(self._until):
            self._found = True
            self.machine.stop()

    def _outcome(self, reason: str, fault: EmulationError | None) -> Outcome:
        machine = self.machine
        chip = machine.peripherals
        warnings = list(chip.warnings)
        if chip.unknown:
            blocks = sorted({address & ~0x3FF for address in chip.unknown})
            shown = ", ".join(f"{base:#010x}" for base in blocks[:8]) + (", ..." if len(blocks) > 8 else "")
            warnings.append(f"peripherals that are not emulated were used (they only store): {shown}")
        for port in chip.serial.values():
            if port.late:
                warnings.append(f"{port.name}: {port.late} characters were read too late; a real line would lose them")
        return Outcome(
            reason=reason,
            counts=machine.counts(),
            cycles=machine.now - self._start,
            clock_hz=chip.clock_hz(),
            console=machine.console,
            problems=tuple(chip.problems),
            warnings=tuple(warnings),
            fault=fault,
        )
