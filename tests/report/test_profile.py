"""The profile's rows, its page and the chart over time."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from millijoule.errors import FormatError
from millijoule.report import CAUSES, instruction_row, profile_rows, render_profile, whole_row, write_profile
from millijoule.report.timeline import causes_of, timeline_chart

CLASSES = ("multiply", "arithmetic", "load", "store", "branch", "other")


def _row(name: str, cycles: int, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "operator": "conv2d",
        "kernel": "mj_pointwise_s8",
        "macs": cycles // 2,
        "cycles": cycles,
        "share": cycles / 10_000,
        "cycles_per_mac": 2.0,
        "instructions": cycles // 2,
        "mix": dict.fromkeys(CLASSES, cycles // 12),
        "stalls": {"load_use": cycles // 10, "flash_fetch": cycles // 20, "flash_data": cycles // 20, "bank": 0},
        "live_bytes": 2048,
        "millijoules": {"ldo": cycles * 1e-6},
        "members": [],
        **more,
    }


@pytest.fixture
def profile() -> dict[str, Any]:
    """Invented figures: 10,000 cycles in three layers and what is between them."""
    layers = [
        _row("conv", 1_200),
        _row("block_1_a", 2_400),
        _row("block_1_b + block_1_c", 6_000, operator="conv2d + add"),
    ]
    block = _row("block_1", 8_400, operator="block", members=["block_1_a", "block_1_b + block_1_c"])
    return {
        "clock_hz": 1_000_000,
        "cycles": 10_000,
        "instructions": 5_000,
        "milliseconds": 10.0,
        "layers": layers,
        "blocks": [layers[0], block],
        "outside": _row("between the layers", 400, macs=0, live_bytes=0, operator="", kernel=""),
        "functions": [{"name": "f", "calls": 3, "instructions": 5_000, "cycles": 10_000}],
        "mix": dict.fromkeys(CLASSES, 833),
        "stalls": {"load_use": 1_000, "flash_fetch": 500, "flash_data": 500, "bank": 0},
        "energies": [{"regulator": "ldo", "title": "LDO", "millijoules": 0.01, "uncertainty": 0.05}],
        "arena_bytes": 3_072,
        "peak_stack_bytes": 100,
        "core": "core",
        "model_version": "v",
        "method": "trace",
        "conditions": {"clock": "1 MHz", "placement": "here"},
        "expected_error": "FIXTURE",
        "statements": ["clock: 1 MHz"],
    }


def test_rows_say_what_the_values_say(profile: dict[str, Any]) -> None:
    rows = profile_rows(profile, [*profile["layers"], profile["outside"], whole_row(profile)])
    assert [row["cycles"] for row in rows] == [1_200, 2_400, 6_000, 400, 10_000]
    assert sum(row["cycles"] for row in rows[:-1]) == rows[-1]["cycles"]
    assert [row["fused"] for row in rows] == [False, False, True, False, False]
    assert rows[0]["per_mac"] == "2.00" and rows[3]["per_mac"] == "-" and rows[3]["ram"] == "-"
    assert rows[1]["energy"] == "2.4" and rows[1]["ram"] == "2.0"
    assert rows[4]["lost"] == ["10.0", "0.0", "0.0", "10.0", "0.0", "0.0"]
    profile["layers"][0]["stalls"] = None
    assert profile_rows(profile, profile["layers"])[0]["lost"] == []


def test_causes_keep_every_lost_cycle(profile: dict[str, Any]) -> None:
    stalls = {key: 10**index for index, keys in enumerate(CAUSES.values()) for key in keys}
    assert sum(causes_of(stalls).values()) == sum(stalls.values())
    assert causes_of({"branch": 3}) == {"branch": 3}


def test_the_page_is_whole_and_names_nothing_outside(profile: dict[str, Any], tmp_path: Path) -> None:
    page = render_profile(profile, "a <b> title")
    assert "a &lt;b&gt; title" in page and "<b> title" not in page
    assert not re.search(r"https?://|@import|url\(|src=|href=", page)
    assert page.count("1 MHz; here; model core v, trace; expected error: FIXTURE") == 3, "under each of three tables"
    for value in ("1,200", "6,000", "10,000", "10.00", "one fused group", "between the layers"):
        assert value in page
    write_profile(profile, "a <b> title", tmp_path / "p.html")
    assert (tmp_path / "p.html").read_text(encoding="utf-8") == page
    del profile["blocks"]
    with pytest.raises(FormatError, match="missing or wrong"):
        render_profile(profile, "t")


def _boxes(svg: str, kind: str) -> list[tuple[float, float, float, float]]:
    root = ET.fromstring(svg)
    found = [item for item in root.iter("rect") if item.attrib["class"].split()[0] == kind]
    return [tuple(float(item.attrib[name]) for name in ("x", "y", "width", "height")) for item in found]  # type: ignore[misc]


def test_layers_are_as_wide_as_their_time_and_memory_as_high(profile: dict[str, Any]) -> None:
    layers = [dict(layer, live_bytes=size) for layer, size in zip(profile["layers"], (1024, 2048, 3072), strict=True)]
    svg = timeline_chart(layers, profile["blocks"], 1_000_000, 3_072, "t")
    bars, ram = _boxes(svg, "bar"), _boxes(svg, "ram")
    assert bars[1][2] / bars[0][2] == pytest.approx(2, rel=0.01) and bars[2][2] / bars[0][2] == pytest.approx(
        5, rel=0.01
    )
    assert bars[1][0] == pytest.approx(bars[0][0] + bars[0][2], abs=1)
    assert ram[1][3] / ram[0][3] == pytest.approx(2, rel=0.02) and ram[2][3] / ram[0][3] == pytest.approx(3, rel=0.02)
    assert _boxes(svg, "block")[1][0] == pytest.approx(bars[1][0], abs=0.1)
    lost = _boxes(svg, "s-load-use")
    assert len(lost) == 3 and lost[0][3] == pytest.approx(_boxes(svg, "s-flash")[0][3], rel=0.05)


def test_without_causes_there_is_no_row_of_losses(profile: dict[str, Any]) -> None:
    layers = [dict(layer, stalls=None) for layer in profile["layers"]]
    svg = timeline_chart(layers, profile["blocks"], 1_000_000, 3_072, "t")
    assert "lost, %" not in svg and 'class="s-' not in svg
    page = render_profile({**profile, "layers": layers, "stalls": None, "blocks": layers}, "t")
    assert "cycles lost" not in page


def test_hot_instructions_name_their_largest_cause(profile: dict[str, Any]) -> None:
    item = {"address": 16, "function": "f", "text": "ldr r0, [r1]", "count": 10, "cycles": 100}
    row = instruction_row({**item, "stalls": {"flash_data": 20, "flash_fetch": 10, "load_use": 25}})
    assert (row["lost"], row["cause"]) == ("55", "flash")
    assert instruction_row({**item, "stalls": {}})["cause"] == "-"
    page = render_profile({**profile, "hottest": [{**item, "stalls": {"branch": 50}}]}, "t")
    assert "<code>ldr r0, [r1]</code>" in page and "The hottest instructions" in page
    assert "The hottest instructions" not in render_profile(profile, "t")


def test_the_arena_is_drawn_where_it_is_known(profile: dict[str, Any]) -> None:
    assert "RAM, row by row" not in render_profile(profile, "t")
    part = {"name": "x", "kind": "map", "offset": 0, "bytes": 64}
    layer = {"index": 0, "name": "conv", "rows": 0, "result_rows": 0, "passes": [], "parts": [part]}
    layer |= {"read": [0], "written": [0], "bytes": [64]}
    ram = {"arena_bytes": 64, "lower_bound_bytes": 64, "fast_offset": None, "layers": [layer]}
    page = render_profile({**profile, "ram": {**ram, "peak": {"layer": 0, "moment": 0, "bytes": 64}}}, "t")
    assert "RAM, row by row" in page and "Most bytes in use: 64, in layer 0 (conv)" in page
    del layer["bytes"]
    with pytest.raises(FormatError, match="missing or wrong"):
        render_profile({**profile, "ram": ram}, "t")


def test_json_from_a_file_gives_the_same_page(profile: dict[str, Any]) -> None:
    assert render_profile(json.loads(json.dumps(profile)), "t") == render_profile(profile, "t")
