"""Cycles -> joules, with source and stated uncertainty."""

from __future__ import annotations

from dataclasses import dataclass

from millijoule.boards import Board, load_board

__all__ = ["Energy", "energy"]


@dataclass(frozen=True)
class Energy:
    """Energy of some cycles.

    `joules` of the microcontroller alone; `uncertainty` is relative (0.05 is 5 %): the spread of the published rows
    from which the joules per cycle come. It says nothing about an error in the cycles.
    """

    joules: float
    uncertainty: float
    joules_per_cycle: float
    regulator: str
    title: str
    volts: float
    source: str

    @property
    def millijoules(self) -> float:
        """Energy in millijoules."""
        return self.joules * 1e3

    @property
    def statement(self) -> str:
        """One line that belongs under every table with this figure."""
        return (
            f"energy = cycles x {self.joules_per_cycle * 1e12:.0f} pJ ({self.title}; {self.source}; "
            f"spread over four networks {self.uncertainty:.0%})"
        )


def energy(cycles: float, board: Board | str, regulator: str | None = None) -> Energy:
    """Energy of `cycles` core cycles on a board.

    The figure is cycles x joules per cycle, where joules per cycle are the published energy of an int8 image classifier
    on the same silicon family divided by its latency and clock (MLPerf Tiny, see the board's description).

    Args:
        cycles: core cycles.
        board: the board or its name.
        regulator: which supply, the board's first by default (`Board.regulators`).

    Raises:
        BoardError: unknown board or regulator.
    """
    chosen = load_board(board) if isinstance(board, str) else board
    supply = chosen.regulator(regulator)
    return Energy(
        joules=cycles * supply.joules_per_cycle,
        uncertainty=supply.uncertainty,
        joules_per_cycle=supply.joules_per_cycle,
        regulator=supply.name,
        title=supply.title,
        volts=supply.volts,
        source=supply.source,
    )
