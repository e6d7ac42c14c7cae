"""Timers: the counter follows the core's time; update flag and update interrupt.

Source: reference manuals RM0432 and RM0455, chapters on general-purpose and basic timers. Compare and capture are not
emulated, nor are repetition counters, slave modes and counting up and down in turn: these three give a warning.
"""

from __future__ import annotations

from millijoule.emulate.peripherals._block import Block

__all__ = ["Timer"]


class Timer(Block):
    """One timer: prescaler and auto-reload are taken over at an update event (auto-reload at once without ARPE)."""

    def reset(self) -> None:
        """See `Block.reset`."""
        self._limit = (1 << self.instance.bits) - 1
        self.store("ARR", self._limit)
        self._prescaler = 0  # in force, PSC holds the next one
        self._reload = self._limit  # in force, ARR holds the next one
        self._steps = 0  # counter steps since the last update (from ARR downwards when it counts down)
        self._since = 0  # time in core cycles at which `_steps` was reached
        control = self.mask("CR1", "CEN")
        self._enable = control
        self._flag, self._interrupt = self.mask("SR", "UIF"), self.mask("DIER", "UIE")
        self._at = {
            name: self.offset(name) for name in ("CR1", "DIER", "SR", "EGR", "CNT", "PSC", "ARR", "SMCR", "RCR")
        }

    def read(self, offset: int) -> int:
        """See `Block.read`."""
        self.advance()
        if offset == self._at["CNT"]:
            return self._counter()
        if offset == self._at["EGR"]:
            return 0
        return super().read(offset)

    def write(self, offset: int, value: int) -> None:
        """See `Block.write`."""
        self.advance()
        at = self._at
        if offset == at["SR"]:
            value &= self.stored("SR")  # a flag is cleared by writing 0
        elif offset == at["ARR"]:
            value &= self._limit
        if offset == at["CNT"]:
            self._place(value & self._limit)
        elif offset == at["EGR"]:
            if value & self.mask("EGR", "UG"):
                self._update(flag=not self.stored("CR1") & self.mask("CR1", "URS"))
                self._steps, self._since = 0, self.chip.now()
        else:
            super().write(offset, value)
        if offset == at["CR1"]:
            self._check(value)
        elif offset == at["RCR"] and value:
            self.chip.warn(f"{self.name} repeats its period (RCR): the emulation gives an update at every overflow")
        if offset == at["ARR"] and not self.stored("CR1") & self.mask("CR1", "ARPE"):
            counter = self._counter()
            self._reload = value
            self._place(counter)
        self.refresh()

    def advance(self) -> None:
        """See `Block.advance`."""
        now = self.chip.now()
        while self._running():
            step = self._step_cycles()
            passed = (now - self._since) // step
            left = self._reload + 1 - self._steps
            if left <= 0:  # the counter stands above a lowered auto-reload value: it first runs to its limit
                left += self._limit + 1
            if passed < left:
                self._steps += passed
                self._since += passed * step
                return
            self._since += left * step
            self._steps = 0
            settled = self._prescaler == self.stored("PSC") and self._reload == self.stored("ARR")
            self._update(flag=True)
            if self.stored("CR1") & self.mask("CR1", "OPM"):
                super().write(self._at["CR1"], self.stored("CR1") & ~self._enable)
            elif settled:  # nothing changes from here on: whole periods are skipped
                period = (self._reload + 1) * step
                self._since += (now - self._since) // period * period
        self._since = now

    def interrupting(self) -> bool:
        """See `Block.interrupting`."""
        return bool(self.stored("SR") & self._flag and self.stored("DIER") & self._interrupt)

    def next_event(self) -> int | None:
        """See `Block.next_event`."""
        if not self._running() or not self.stored("DIER") & self._interrupt or self.stored("SR") & self._flag:
            return None
        if self.stored("CR1") & self.mask("CR1", "UDIS"):
            return None
        left = self._reload + 1 - self._steps
        return self._since + (left if left > 0 else left + self._limit + 1) * self._step_cycles()

    def _running(self) -> bool:
        # A counter with auto-reload 0 does not move.
        return bool(self.stored("CR1") & self._enable) and self._reload > 0

    def _step_cycles(self) -> int:
        return (self._prescaler + 1) * self.chip.timer_cycles(self)

    def _down(self) -> bool:
        return bool(self.stored("CR1") & self.mask("CR1", "DIR"))

    def _counter(self) -> int:
        return (self._reload - self._steps if self._down() else self._steps) & self._limit

    def _place(self, counter: int) -> None:
        self._steps = self._reload - counter if self._down() else counter
        self._since = self.chip.now()

    def _update(self, *, flag: bool) -> None:
        """An update event: shadow registers are taken over, the flag rises."""
        if self.stored("CR1") & self.mask("CR1", "UDIS"):
            return
        self._prescaler, self._reload = self.stored("PSC") & 0xFFFF, self.stored("ARR") & self._limit
        if flag:
            self.store("SR", self.stored("SR") | self._flag)

    def _check(self, control: int) -> None:
        if control & self._enable and control & self.mask("CR1", "CMS"):
            self.chip.warn(f"{self.name} counts up and down in turn: the emulation counts in one direction")
        if control & self._enable and self.stored("SMCR") & 7:
            self.chip.warn(f"{self.name} is driven by another signal (slave mode): the emulation counts its clock")
