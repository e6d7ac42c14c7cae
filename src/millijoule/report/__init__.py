"""Results to one page: `report.json` in, one self-contained `report.html` out."""

from __future__ import annotations

from millijoule.report.paper import PAPER_METHODS, PAPER_TABLE_1, REMARKS
from millijoule.report.write import load_result, render_report, write_report

__all__ = ["PAPER_METHODS", "PAPER_TABLE_1", "REMARKS", "load_result", "render_report", "write_report"]
