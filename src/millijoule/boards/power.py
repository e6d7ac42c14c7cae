"""Power of a board's supply: a model of two phases, fitted to published measurements and tested on others.

A microcontroller without sleep spends a cycle either computing or waiting for flash. The energy of a run is

    compute_watts x ((cycles - stall_cycles) + stall_factor x stall_cycles) / clock

`compute_watts` comes from `FIT_ROW`, a network that hardly ever waits for flash; `stall_factor` from `STALL_ROW`, the
only MLPerf Tiny benchmark that often does (it reads every weight once). `TEST_ROWS` take no part in the fit. One row
cannot test a parameter that it determines, so the factor is also computed from every other published round of
measurements with the same supply; where they do not even agree whether waiting costs more or less than computing, or
where there are fewer than two of them, it is not identified and taken as 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["FIT_ROW", "STALL_ROW", "TEST_ROWS", "PowerFit", "Regulator", "Round"]

FIT_ROW = "ic"
"""Fits the power of computing: the longest run, an int8 convolutional classifier like those this package compiles."""
STALL_ROW = "ad"
"""Fits the stall factor: dense layers, 264,192 weights, each read from flash once."""
TEST_ROWS = ("vww", "kws")
"""Test the fit: depthwise-separable networks, like MobileNetV2."""


@dataclass(frozen=True)
class Round:
    """One round of published measurements with one supply.

    Attributes:
        name: round, submitter and engine.
        volts: supply voltage.
        rows: (energy in microjoules, latency in milliseconds) by benchmark.
        stall_cycles: cycles spent waiting for flash by benchmark; 0 where a benchmark is missing.
    """

    name: str
    volts: float
    rows: Mapping[str, tuple[float, float]]
    stall_cycles: Mapping[str, float]

    def watts(self, benchmark: str) -> float:
        """Mean power of a benchmark."""
        microjoules, milliseconds = self.rows[benchmark]
        return microjoules / milliseconds * 1e-3

    def stall_share(self, benchmark: str, clock_hz: int) -> float:
        """Share of a benchmark's cycles spent waiting for flash, 0..1."""
        return self.stall_cycles.get(benchmark, 0.0) / (self.rows[benchmark][1] * 1e-3 * clock_hz)

    def implied_stall_factor(self, clock_hz: int, computing: Sequence[str] = ()) -> float | None:
        """Power of waiting relative to computing that explains `STALL_ROW`.

        Args:
            clock_hz: the core's clock.
            computing: the rows whose mean is the power of computing; every other row by default.

        Returns:
            The factor; None where the row, its stall cycles or a row to compare it with is missing.
        """
        others = [name for name in (computing or self.rows) if name != STALL_ROW and name in self.rows]
        if STALL_ROW not in self.rows or not self.stall_cycles.get(STALL_ROW) or not others:
            return None
        share = self.stall_share(STALL_ROW, clock_hz)
        compute = sum(self.watts(name) for name in others) / len(others)
        return 1.0 + (self.watts(STALL_ROW) / compute - 1.0) / share


@dataclass(frozen=True)
class PowerFit:
    """What the published rows say about a supply.

    Attributes:
        compute_watts: power while computing, at the rows' voltage and clock.
        stall_factor: power while waiting for flash, relative to computing; 1 where it could not be identified.
        stall_range: lowest and highest factor that a published round implies, 1 included where not identified.
        identified: whether the rounds agree on the side of 1.
        residuals: predicted / published - 1 by benchmark.
        blind_residuals: the same when stall cycles are not known and all cycles count as computing.
        rounds_error: largest such error on `STALL_ROW` of the other rounds, each with its own power of computing.
    """

    compute_watts: float
    stall_factor: float
    stall_range: tuple[float, float]
    identified: bool
    residuals: Mapping[str, float]
    blind_residuals: Mapping[str, float]
    rounds_error: float

    @property
    def fit_rows(self) -> tuple[str, ...]:
        """The benchmarks that were fitted."""
        return (FIT_ROW, STALL_ROW) if self.identified else (FIT_ROW,)

    @property
    def test_error(self) -> float:
        """Largest relative error on `TEST_ROWS` (0.05 is 5 %)."""
        return max(abs(self.residuals[name]) for name in TEST_ROWS if name in self.residuals)

    @property
    def blind_error(self) -> float:
        """Largest relative error on any row of any round when all cycles count as computing."""
        return max(self.rounds_error, *(abs(value) for value in self.blind_residuals.values()))

    def uncertainty(self, stall_share: float | None) -> float:
        """Relative uncertainty of an energy.

        Args:
            stall_share: share of the cycles that wait for flash, 0..1; None when it is not known.

        Returns:
            `blind_error` without a share; otherwise the test error and what the range of the stall factor adds, as
            independent errors (root of the sum of squares).
        """
        if stall_share is None:
            return self.blind_error
        low, high = self.stall_range
        spread = max(high - self.stall_factor, self.stall_factor - low)
        return math.hypot(self.test_error, stall_share * spread / (1.0 + stall_share * (self.stall_factor - 1.0)))


def fit_power(latest: Round, clock_hz: int, rounds: Sequence[Round]) -> PowerFit:
    """Fits the model to `latest`.

    Args:
        latest: the round to fit; needs `FIT_ROW`.
        clock_hz: the clock of the measurements.
        rounds: other rounds with the same supply, which decide whether the stall factor is identified.
    """
    fitted = latest.implied_stall_factor(clock_hz, (FIT_ROW,))
    known = [] if fitted is None else [fitted]
    rounds_error = 0.0
    for one in rounds:
        implied = one.implied_stall_factor(clock_hz)
        if implied is not None:
            known.append(implied)
            share = one.stall_share(STALL_ROW, clock_hz)
            rounds_error = max(rounds_error, abs(1.0 / (1.0 + share * (implied - 1.0)) - 1.0))
    identified = fitted is not None and len(known) >= 3 and (max(known) < 1.0 or min(known) > 1.0)
    factor, compute, share = 1.0, latest.watts(FIT_ROW), latest.stall_share(FIT_ROW, clock_hz)
    if identified:
        # Two rows, two unknowns: power grows linearly with the share of waiting, from compute_watts at 0.
        other = latest.stall_share(STALL_ROW, clock_hz)
        slope = (latest.watts(STALL_ROW) - compute) / (other - share)
        compute -= slope * share
        factor = 1.0 + slope / compute
    known.append(factor)
    residuals, blind = {}, {}
    for name in latest.rows:
        waiting = latest.stall_share(name, clock_hz)
        residuals[name] = compute * (1.0 + waiting * (factor - 1.0)) / latest.watts(name) - 1.0
        blind[name] = compute / latest.watts(name) - 1.0
    return PowerFit(compute, factor, (min(known), max(known)), identified, residuals, blind, rounds_error)


@dataclass(frozen=True)
class Regulator:
    """A way of supplying the chip, with the measurements from which its energy figures come.

    Attributes:
        name: short name.
        title: in words.
        kind: "linear" (the current does not depend on the supply's voltage) or "switching".
        volts: supply voltage of `rows`.
        clock_hz: core clock of all rows.
        source: who published `rows`.
        rows: (energy in microjoules, latency in milliseconds) by benchmark, the newest round.
        stall_cycles: cycles of `rows` spent waiting for flash.
        rounds: other rounds with this supply.
    """

    name: str
    title: str
    kind: str
    volts: float
    clock_hz: int
    source: str
    rows: Mapping[str, tuple[float, float]]
    stall_cycles: Mapping[str, float] = field(default_factory=dict)
    rounds: tuple[Round, ...] = ()

    @property
    def latest(self) -> Round:
        """The rows that are fitted."""
        return Round(self.source, self.volts, self.rows, self.stall_cycles)

    @property
    def fit(self) -> PowerFit:
        """The model of this supply, fitted to the published rows."""
        return fit_power(self.latest, self.clock_hz, self.rounds)

    @property
    def joules_per_cycle(self) -> float:
        """Joules of a core cycle that computes, at `volts`."""
        return self.fit.compute_watts / self.clock_hz

    @property
    def uncertainty(self) -> float:
        """Relative uncertainty of an energy when the cycles that wait for flash are not known."""
        return self.fit.uncertainty(None)

    @property
    def volts_range(self) -> tuple[float, float]:
        """Lowest and highest supply voltage for which there are measurements; one value for a switching supply."""
        if self.kind != "linear":
            return (self.volts, self.volts)
        known = [self.volts, *(one.volts for one in self.rounds)]
        return (min(known), max(known))
