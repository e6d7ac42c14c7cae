"""The profile of one inference as rows for a terminal and as a page of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from millijoule import __version__
from millijoule.errors import FormatError
from millijoule.files import atomic_write_text
from millijoule.report._page import environment, missing_field, page_part
from millijoule.report.charts import GROUPS, group_of
from millijoule.report.ram import USES, ram_of
from millijoule.report.timeline import CAUSES, causes_of, timeline_chart

__all__ = ["conditions_line", "instruction_row", "profile_rows", "render_profile", "whole_row", "write_profile"]

Values = Mapping[str, Any]


def profile_rows(profile: Values, layers: Sequence[Values]) -> list[dict[str, Any]]:
    """The cells of a table of layers or blocks, as text.

    Args:
        profile: what `Profile.to_json` gives.
        layers: rows of it: `profile["layers"]`, `profile["blocks"]`, or one of its own.

    Returns:
        For each row: name, fused, cycles (int), share (0..1), and as text per_mac, mix (one per class), lost (one per
        cause, empty when the model knows none), ram (KiB), energy (microjoules with the first regulator).
    """
    regulator = profile["energies"][0]["regulator"]
    return [_cells(row, regulator) for row in layers]


def _cells(row: Values, regulator: str) -> dict[str, Any]:
    instructions, cycles = row["instructions"] or 1, row["cycles"] or 1
    lost = causes_of(row["stalls"]) if row["stalls"] else {}
    return {
        "name": row["name"],
        "fused": " + " in row["operator"],
        "cycles": row["cycles"],
        "share": row["share"],
        "per_mac": f"{row['cycles_per_mac']:.2f}" if row["macs"] else "-",
        "mix": [f"{100 * value / instructions:.0f}" for value in row["mix"].values()],
        "lost": [f"{100 * lost.get(name, 0) / cycles:.1f}" for name in CAUSES] if row["stalls"] is not None else [],
        "ram": f"{row['live_bytes'] / 1024:,.1f}" if row["live_bytes"] else "-",
        "energy": f"{1e3 * row['millijoules'][regulator]:,.1f}",
    }


def instruction_row(item: Values) -> dict[str, Any]:
    """An item of `profile["hottest"]` with lost (per cent of its cycles) and cause (the largest), as text."""
    lost = causes_of(item["stalls"])
    share = f"{100 * sum(lost.values()) / (item['cycles'] or 1):.0f}"
    cause = "-" if share == "0" else max(lost, key=lambda name: lost[name])
    return {**item, "lost": share, "cause": cause}


def whole_row(profile: Values) -> dict[str, Any]:
    """The row of the whole inference, in the form of `profile["layers"]`."""
    macs = sum(layer["macs"] for layer in profile["layers"])
    return {
        "name": "all",
        "operator": "",
        "instructions": profile["instructions"],
        "cycles": profile["cycles"],
        "share": 1.0,
        "macs": macs,
        "cycles_per_mac": profile["cycles"] / macs if macs else 0.0,
        "mix": profile["mix"],
        "stalls": profile["stalls"],
        "live_bytes": profile["arena_bytes"],
        "millijoules": {item["regulator"]: item["millijoules"] for item in profile["energies"]},
    }


def conditions_line(profile: Values) -> str:
    """What must stand under every table of a profile: clock, flash, placement, model, expected error."""
    conditions = "; ".join(profile["conditions"].values())
    model = f"model {profile['core']} {profile['model_version']}, {profile['method']}"
    return f"{conditions}; {model}; expected error: {profile['expected_error']}"


def render_profile(profile: Values, title: str) -> str:
    """The page as text: HTML with everything inside, no reference to any other file or address.

    Args:
        profile: what `Profile.to_json` gives; with `millijoule.compile.row_timeline` as "ram", the arena is drawn, too.
        title: its heading.

    Raises:
        FormatError: `profile` lacks a field.
        ToolchainError: jinja2 is not installed.
    """
    profile = json.loads(json.dumps(profile))
    template = environment().from_string(page_part("ram.html") + page_part("profile.html"))
    try:
        chart = timeline_chart(profile["layers"], profile["blocks"], profile["clock_hz"], profile["arena_bytes"], title)
        page: str = template.render(
            title=title,
            version=__version__,
            style=page_part("style.css"),
            script=page_part("script.js"),
            p=profile,
            timeline=chart,
            layers=profile_rows(profile, [*profile["layers"], profile["outside"], whole_row(profile)]),
            blocks=profile_rows(profile, profile["blocks"]),
            classes=list(profile["mix"]),
            causes=list(CAUSES),
            seen=[name for name, cycles in causes_of(profile["stalls"] or {}).items() if cycles],
            groups=[group for group in GROUPS if any(group_of(layer) == group for layer in profile["layers"])],
            hottest=[instruction_row(item) for item in profile.get("hottest", ())[:20]],
            conditions=conditions_line(profile),
            ram=ram_of(profile.get("ram"), f"{title}: the arena row by row"),
            uses=USES,
        )
    except missing_field() as error:
        raise FormatError(
            "the profile", f"a field is missing or wrong ({error!r})", "Make the profile again"
        ) from error
    return page


def write_profile(profile: Values, title: str, path: Path) -> None:
    """Writes `render_profile` to `path`, whole or not at all. Raises what it raises, and OutputError."""
    atomic_write_text(Path(path), render_profile(profile, title))
