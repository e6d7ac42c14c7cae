"""docs/energy.md holds the figures that the code computes."""

from __future__ import annotations

import re
from pathlib import Path

from millijoule.boards import load_board
from millijoule.emulate import energy

DOCUMENT = (Path(__file__).parents[2] / "docs" / "energy.md").read_text(encoding="utf-8")


def test_the_table_of_residuals_is_the_computed_one() -> None:
    rows = re.findall(r"^\| (stm32\w+) (\w+) \|(.*)\|$", DOCUMENT, flags=re.MULTILINE)
    assert [(board, name) for board, name, _ in rows] == [
        (board, item.name) for board in ("stm32l4r9i", "stm32h7b3i") for item in load_board(board).regulators
    ]
    for board, name, text in rows:
        supply = load_board(board).regulator(name)
        fit = supply.fit
        expected = [
            f"{fit.compute_watts * 1e3:.1f}",
            f"{supply.joules_per_cycle * 1e12:.0f}",
            f"{fit.stall_factor:.2f}, identified" if fit.identified else "1, not identified",
            f"{fit.stall_range[0]:.2f} to {fit.stall_range[1]:.2f}",
            *("fit" if row in fit.fit_rows else f"{fit.residuals[row]:+.1%}" for row in ("ic", "vww", "kws", "ad")),
            f"{fit.test_error:.1%}",
        ]
        assert [cell.strip() for cell in text.split("|")] == expected


def test_the_uncertainties_in_the_text_are_the_computed_ones() -> None:
    def percent(text: str) -> list[int]:
        return [int(found) for found in re.findall(r"(\d+) %", text)]

    known = re.search(r"At 10 % waiting: (.*?)\n\* Not known", DOCUMENT, flags=re.DOTALL)
    unknown = re.search(r"any published row is stated: (.*?)\.\n", DOCUMENT, flags=re.DOTALL)
    assert known and unknown
    supplies = [("stm32l4r9i", "ldo_1v8"), ("stm32l4r9i", "smps_3v0"), ("stm32h7b3i", "smps_3v0")]
    for text, stalls in ((known[1], 0.1), (unknown[1], None)):
        assert percent(text) == [
            round(energy(1.0, board, name, stall_cycles=stalls).uncertainty * 100) for board, name in supplies
        ]
