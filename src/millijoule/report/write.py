"""From a study's JSON to the page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from millijoule.errors import FormatError
from millijoule.files import atomic_write_text
from millijoule.report import charts, paper
from millijoule.report._page import environment, missing_field, page_part
from millijoule.report.quantisation import quantisation_of
from millijoule.report.ram import USES
from millijoule.report.tables import (
    board_of,
    charts_of,
    cycles_statement,
    energy_statements,
    headline,
    layer_groups,
    main_method,
    method_rows,
    stall_rows,
    table_3_rows,
    timing_statements,
)
from millijoule.report.timeline import CAUSES
from millijoule.report.vgg16 import vgg16_rows

__all__ = ["load_result", "render_report", "write_report"]

SCHEMA = "millijoule study 1"


def load_result(path: Path) -> dict[str, Any]:
    """Reads a `report.json`.

    Raises:
        FormatError: it is missing, damaged or of another version.
    """
    path = Path(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FormatError(
            str(path), "there is no such file", "Finish the study first; it writes report.json"
        ) from error
    except (OSError, ValueError) as error:
        raise FormatError(str(path), f"it is not valid JSON ({error})", "Run the study again") from error
    _check(value, str(path))
    return dict(value)


def _check(value: Any, name: str) -> None:
    found = value.get("schema") if isinstance(value, Mapping) else None
    if found != SCHEMA:
        raise FormatError(name, f"it is not a '{SCHEMA}' result (found: {found})", "Run the study again")


def render_report(result: Mapping[str, Any]) -> str:
    """The page as text: HTML with everything inside, no reference to any other file or address.

    Args:
        result: what `millijoule.study.Study.to_json` gives.

    Raises:
        FormatError: `result` has another schema or lacks a field.
        ToolchainError: jinja2 is not installed.
    """
    _check(result, "report.json")
    engine = environment()
    result = json.loads(json.dumps(result))  # the same values whether they come from memory or from the file
    template = engine.from_string(page_part("ram.html") + page_part("quantisation.html") + page_part("report.html"))
    try:
        drawn = charts_of(result)
        seen = {kind for ram in drawn["ram"].values() for kind in ram["uses"]}
        page: str = template.render(
            r=result,
            style=page_part("style.css"),
            script=page_part("script.js"),
            charts=drawn,
            quantisation=quantisation_of(result),
            headline=headline(result),
            main=main_method(result),
            titles={method["name"]: method["title"] for method in result["methods"]},
            methods=method_rows(result),
            vgg16=vgg16_rows(result, main_method(result)),
            table_3=table_3_rows(result),
            board_of=lambda name: board_of(result, name),
            layer_groups=layer_groups,
            groups=charts.GROUPS,
            cycles_are=cycles_statement(result["deployments"]),
            timing=timing_statements(result),
            energies=energy_statements(result),
            stalls=stall_rows(result),
            causes=list(CAUSES),
            uses=USES,
            ram_uses=[kind for kind in USES if kind in seen],
            paper=paper,
        )
    except missing_field() as error:
        raise FormatError("report.json", f"a field is missing or wrong ({error!r})", "Run the study again") from error
    return page


def write_report(result: Mapping[str, Any], path: Path) -> None:
    """Writes the page to `path`, whole or not at all.

    Args:
        result: what `millijoule.study.Study.to_json` gives.
        path: usually `report.html` beside `report.json`.

    Raises:
        FormatError: `result` has another schema or lacks a field.
        ToolchainError: jinja2 is not installed.
        OutputError: the place cannot be written.
    """
    atomic_write_text(Path(path), render_report(result))
