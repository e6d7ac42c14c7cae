"""Cycles -> joules: power x time, phase by phase, with source and stated uncertainty."""

from __future__ import annotations

from dataclasses import dataclass

from millijoule.boards import Board, Regulator, load_board
from millijoule.errors import BoardError, OptionError

__all__ = ["Energy", "Phase", "energy"]


@dataclass(frozen=True)
class Phase:
    """A part of a run with one power: "compute", "flash stall" or "sleep"."""

    name: str
    seconds: float
    watts: float

    @property
    def joules(self) -> float:
        """Power times time."""
        return self.seconds * self.watts


@dataclass(frozen=True)
class Energy:
    """Energy of some cycles of the microcontroller alone.

    Attributes:
        joules: sum over `phases`.
        uncertainty: relative (0.05 is 5 %), from rows that took no part in the fit; says nothing about an error in the
            cycles.
        joules_per_cycle: of a cycle that computes, at `volts`.
        regulator: name of the supply.
        title: the supply in words.
        volts: supply voltage.
        source: the published rows.
        phases: what was summed.
        test_error: largest relative error on the rows that test the fit.
        assumption: what was assumed about the cycles.
    """

    joules: float
    uncertainty: float
    joules_per_cycle: float
    regulator: str
    title: str
    volts: float
    source: str
    phases: tuple[Phase, ...] = ()
    test_error: float = 0.0
    assumption: str = ""

    @property
    def millijoules(self) -> float:
        """Energy in millijoules."""
        return self.joules * 1e3

    @property
    def seconds(self) -> float:
        """Duration of all phases."""
        return sum(phase.seconds for phase in self.phases)

    @property
    def watts(self) -> float:
        """Mean power over the run; 0 for a run of no cycles."""
        return self.joules / self.seconds if self.seconds else 0.0

    @property
    def statement(self) -> str:
        """One line that belongs under every table with this figure."""
        return (
            f"energy = {self.joules_per_cycle * 1e12:.0f} pJ per computing cycle ({self.title}; {self.source}; "
            f"{self.assumption}; error {self.test_error:.1%} on the benchmarks left out of the fit, "
            f"stated here {self.uncertainty:.0%})"
        )


def energy(
    cycles: float,
    board: Board | str,
    regulator: str | None = None,
    *,
    stall_cycles: float | None = None,
    volts: float | None = None,
) -> Energy:
    """Energy of `cycles` core cycles on a board: computing and waiting for flash, each power x time.

    The two powers are fitted to MLPerf Tiny measurements of the same silicon family (`boards.Regulator.fit`).

    Args:
        cycles: core cycles, 0 or more.
        board: the board or its name.
        regulator: which supply, the board's first by default (`Board.regulators`).
        stall_cycles: how many of them wait for flash, 0..cycles; None when that is not known: then all count as
            computing, and the uncertainty is the largest error that this makes on any published row.
        volts: supply voltage, that of the measurements by default. A linear regulator draws the same current at any
            voltage, so its power is proportional to it; measured at both ends of `Regulator.volts_range`.

    Raises:
        BoardError: unknown board or regulator, or a voltage without measurements.
        OptionError: negative cycles, or more stall cycles than cycles.
    """
    chosen = load_board(board) if isinstance(board, str) else board
    supply = chosen.regulator(regulator)
    if cycles < 0 or not 0 <= (stall_cycles or 0.0) <= cycles:
        raise OptionError(
            f"{cycles:g} cycles, {stall_cycles or 0.0:g} of them waiting for flash",
            "that is no number of cycles and a part of them",
            "Give cycles >= 0 and 0 <= stall cycles <= cycles",
        )
    fit = supply.fit
    used, scale = _voltage(supply, volts)
    # The rows were measured at the supply's clock; at another one a cycle is taken to cost the same.
    watts = supply.joules_per_cycle * chosen.clock_hz * scale
    waiting = 0.0 if stall_cycles is None else stall_cycles
    phases = [Phase("compute", (cycles - waiting) / chosen.clock_hz, watts)]
    if stall_cycles is not None:
        phases.append(Phase("flash stall", waiting / chosen.clock_hz, watts * fit.stall_factor))
    share = None if stall_cycles is None else waiting / cycles if cycles else 0.0
    return Energy(
        joules=sum(phase.joules for phase in phases),
        uncertainty=fit.uncertainty(share),
        joules_per_cycle=supply.joules_per_cycle * scale,
        regulator=supply.name,
        title=supply.title,
        volts=used,
        source=supply.source,
        phases=tuple(phases),
        test_error=fit.test_error,
        assumption=_assumption(supply, chosen, share, used),
    )


def _voltage(supply: Regulator, volts: float | None) -> tuple[float, float]:
    """The voltage, and power there relative to that of the measurements."""
    if volts is None or volts == supply.volts:
        return supply.volts, 1.0
    low, high = supply.volts_range
    if not low <= volts <= high:
        known = f"{low:g} V" if low == high else f"{low:g} to {high:g} V"
        raise BoardError(
            f"{volts:g} V with {supply.title}",
            f"published measurements exist for {known} only",
            f"Use a voltage of {known}, or add measured rows to a copy of the board's description",
        )
    return volts, volts / supply.volts


def _assumption(supply: Regulator, board: Board, share: float | None, volts: float) -> str:
    fit = supply.fit
    if share is None:
        parts = ["all cycles count as computing"]
    elif fit.identified:
        parts = [f"{share:.1%} of the cycles wait for flash at {fit.stall_factor:.2f} of the power"]
    else:
        low, high = fit.stall_range
        parts = [
            f"{share:.1%} of the cycles wait for flash, at the power of computing: published rounds disagree "
            f"({low:.2f} to {high:.2f} of it)"
            if low < 1.0 < high
            else f"{share:.1%} of the cycles wait for flash, at the power of computing: one published round only"
        ]
    if volts != supply.volts:
        parts.append(f"at {volts:g} V with the current of {supply.volts:g} V")
    if board.clock_hz != supply.clock_hz:
        parts.append(
            f"measured at {supply.clock_hz / 1e6:g} MHz, a cycle taken to cost the same at {board.clock_hz / 1e6:g} MHz"
        )
    return "; ".join(parts)
