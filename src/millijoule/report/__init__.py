"""Results to one page: `report.json` in, one self-contained `report.html` out; a profile likewise."""

from __future__ import annotations

from millijoule.report.paper import PAPER_METHODS, PAPER_TABLE_1, REMARKS
from millijoule.report.profile import (
    conditions_line,
    instruction_row,
    profile_rows,
    render_profile,
    whole_row,
    write_profile,
)
from millijoule.report.ram import MOMENTS
from millijoule.report.tables import cycles_statement
from millijoule.report.timeline import CAUSES
from millijoule.report.write import load_result, render_report, write_report

__all__ = [
    "CAUSES",
    "MOMENTS",
    "PAPER_METHODS",
    "PAPER_TABLE_1",
    "REMARKS",
    "conditions_line",
    "cycles_statement",
    "instruction_row",
    "load_result",
    "profile_rows",
    "render_profile",
    "render_report",
    "whole_row",
    "write_profile",
    "write_report",
]
