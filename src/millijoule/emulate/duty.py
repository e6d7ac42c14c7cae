"""Average power and battery life of a device that classifies, sleeps, and wakes again."""

from __future__ import annotations

import math
from dataclasses import dataclass

from millijoule.boards import SleepMode
from millijoule.emulate.energy import Energy, Phase
from millijoule.errors import OptionError

__all__ = ["Battery", "DutyCycle", "duty_cycle"]

_HOURS_PER_YEAR = 365.25 * 24.0


@dataclass(frozen=True)
class Battery:
    """A cell that feeds the microcontroller directly, or through a supply whose losses are part of its figures.

    Attributes:
        capacity_mah: rated capacity in milliampere hours, above 0.
        usable: share of it that can be drawn before the voltage is too low, above 0 up to 1.
        self_discharge: share of the rated capacity lost in a year, 0 up to below 1.
    """

    capacity_mah: float
    usable: float = 1.0
    self_discharge: float = 0.0

    def __post_init__(self) -> None:
        """Raises `OptionError` for a value out of its range."""
        good = self.capacity_mah > 0.0 and 0.0 < self.usable <= 1.0 and 0.0 <= self.self_discharge < 1.0
        if not (good and math.isfinite(self.capacity_mah)):
            raise OptionError(
                f"a cell of {self.capacity_mah:g} mAh, {self.usable:g} usable, {self.self_discharge:g} lost a year",
                "that is no cell",
                "Give a capacity above 0, a usable share above 0 up to 1, and a yearly loss of 0 up to below 1",
            )

    def hours(self, amperes: float) -> float:
        """Hours until the usable charge is gone at a mean current; self-discharge counts as a constant current."""
        lost = self.capacity_mah * 1e-3 * self.self_discharge / _HOURS_PER_YEAR
        drawn = amperes + lost
        return self.capacity_mah * 1e-3 * self.usable / drawn if drawn > 0.0 else math.inf


@dataclass(frozen=True)
class DutyCycle:
    """What a device needs on average.

    Attributes:
        per_second: inferences a second.
        phases: of one period: those of the inference, then "sleep".
        joules: energy of a period.
        watts: average power.
        amperes: average current at `volts`.
        volts: supply voltage.
        uncertainty: relative, of `watts`: that of the inference's energy, weighed by its part. The sleep current is
            taken as given.
        sleep_source: where the sleep current comes from.
        wake_source: what was assumed about waking up.
        battery: the cell, if one was given.
        battery_hours: how long it lasts.
        energy_statement: where the energy of the inference comes from.
    """

    per_second: float
    phases: tuple[Phase, ...]
    joules: float
    watts: float
    amperes: float
    volts: float
    uncertainty: float
    sleep_source: str
    wake_source: str
    battery: Battery | None
    battery_hours: float | None
    energy_statement: str

    @property
    def sleep_share(self) -> float:
        """Share of the energy that goes into sleeping, 0..1."""
        asleep = sum(phase.joules for phase in self.phases if phase.name == "sleep")
        return asleep / self.joules if self.joules else 0.0

    @property
    def statement(self) -> str:
        """One line that belongs under every figure of this kind."""
        text = (
            f"{self.per_second:g} inferences a second at {self.volts:g} V; sleep current: {self.sleep_source}; "
            f"waking up: {self.wake_source}; nothing but the microcontroller is counted (no camera, no radio)"
        )
        if self.battery is not None:
            text += "; the cell feeds it at that voltage throughout"
        return f"{text}; {self.energy_statement}"


def duty_cycle(
    inference: Energy,
    per_second: float,
    *,
    sleep_amperes: float | None = None,
    sleep_source: str = "user",
    sleep: SleepMode | None = None,
    wake_joules: float | None = None,
    battery: Battery | None = None,
) -> DutyCycle:
    """Average power when an inference is run `per_second` times a second and the rest is spent in a stop mode.

    Args:
        inference: energy of one inference (`energy`).
        per_second: inferences a second, above 0; 1/3600 is one an hour. May be below 1, not above what fits.
        sleep_amperes: current in the stop mode that is used, with RAM and clock kept as the application needs them, at
            the voltage of `inference`; from the part's datasheet or from a measurement.
        sleep_source: where that current comes from, for the statement.
        sleep: what is taken when no current is given, usually `Board.sleep`.
        wake_joules: energy of waking up once; not counted when it is not given.
        battery: computes how long it lasts.

    Raises:
        OptionError: no sleep current although the device sleeps, a rate that is not above 0, or one that leaves no
            time, or a current or energy below 0.
    """
    if not (per_second > 0.0 and math.isfinite(per_second)):
        raise OptionError(f"{per_second:g} inferences a second", "it must be above 0", "1/60 is one a minute")
    period, busy = 1.0 / per_second, inference.seconds
    if busy > period * (1.0 + 1e-9):
        raise OptionError(
            f"{per_second:g} inferences a second",
            f"one takes {busy * 1e3:,.1f} ms, so at most {1.0 / busy:.3g} fit",
            "Lower the rate, or choose a smaller network",
        )
    asleep = max(period - busy, 0.0)
    if sleep_amperes is None and sleep is not None:
        sleep_amperes, sleep_source = sleep.amperes, sleep.statement
    if sleep_amperes is None and asleep > 0.0:
        raise OptionError(
            "the sleep current",
            "it depends on stop mode, RAM that is kept, voltage and temperature; the board comes without one",
            "Give the stop-mode current of the part's datasheet, or a measured one",
        )
    current = sleep_amperes or 0.0
    if not (0.0 <= current < math.inf and 0.0 <= (wake_joules or 0.0) < math.inf):
        raise OptionError(
            f"a sleep current of {current:g} A and {wake_joules or 0.0:g} J to wake up",
            "neither can be below 0 or endless",
            "Give amperes and joules of 0 or more",
        )
    phases = (*inference.phases, Phase("sleep", asleep, current * inference.volts))
    joules = sum(phase.joules for phase in phases) + (wake_joules or 0.0)
    watts = joules * per_second
    amperes = watts / inference.volts
    return DutyCycle(
        per_second=per_second,
        phases=phases,
        joules=joules,
        watts=watts,
        amperes=amperes,
        volts=inference.volts,
        uncertainty=inference.uncertainty * inference.joules / joules if joules else 0.0,
        sleep_source=f"{current * 1e6:g} uA ({sleep_source})",
        wake_source="not modelled" if wake_joules is None else f"{wake_joules * 1e6:g} uJ each time (user)",
        battery=battery,
        battery_hours=battery.hours(amperes) if battery else None,
        energy_statement=inference.statement,
    )
