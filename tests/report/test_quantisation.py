"""The page's part on quantisation: what its charts say is what the result holds, and nothing overlaps."""

from __future__ import annotations

import base64
import copy
import itertools
import re
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millijoule.report import render_report
from millijoule.report._svg import text_width
from millijoule.report.quantisation import (
    APART,
    _apart,
    bytes_chart,
    curve_point_chart,
    front,
    frontier_chart,
    layer_chart,
    loss_chart,
    quantisation_of,
)

JPEG = base64.b64encode(b"\xff\xd8FIXTURE\xff\xd9").decode()


def detailed(result: dict[str, Any]) -> dict[str, Any]:
    """The fixture as results are since they hold bits, analysis and gallery; all figures invented."""
    result = copy.deepcopy(result)
    extra = {**result["methods"][2], "name": "mixed", "title": "Mixed 4/8 bits", "accuracy": 86.0, "interval": [80, 90]}
    result["methods"].append(extra)
    for method in result["methods"]:
        method["weight_bits"] = {"float": 32.0, "mixed": 5.25}.get(method["name"], 8.0)
        method["layers_by_bits"] = {"4": 13, "8": 40} if method["name"] == "mixed" else {"8": 53}
        method["compiled_bytes"] = 323_456 if method["name"] == "mixed" else method["flash_bytes"] + 1_144
    layers = [
        {
            "layer": f"layer_{index}",
            "operator": ("conv2d", "depthwise_conv2d", "dense")[index % 3],
            "weights": 100 * index + 1,
            "own": {"8": 40.0, "4": 20.0},
            "alone": {"8": 30.0 + index % 7, "4": None if index == 3 else 10.0 + index % 5},
            "without": {"8": 25.0, "4": 6.0},
            "four_among_eight": None if index == 5 else 24.0 - index % 6,
            "accuracy_without": {},
            "suggested_bits": 8,
            "why": f"reason {index}",
        }
        for index in range(20)
    ]
    result["analysis"] = {
        "sensitivity": {"layers": layers, "all_quantised": {"8": 24.5, "4": 5.5}, "pictures": 16, "accuracy": {}},
        "curve": [{"count": n, "sqnr": 20.0 + n / 50, "changed": 9 - n // 50} for n in (10, 25, 50, 100, 200)],
        "curve_pictures": 64,
        "calibration_hashes": ["ab" * 32, "cd" * 32],
        "mixed": {
            "bytes": 323_456,
            "bytes_at_eight": 521_144,
            "sqnr": 19.5,
            "frontier": [[300_000, 12.0, 30], [320_000, 18.0, 20], [520_000, 26.0, 0]],
        },
    }
    result["changed_pictures"] = 7
    result["gallery"] = [
        {
            "row": 3,
            "sha256": "ef" * 32,
            "label": 0,
            "reference": 0,
            "models": {"static": 8, "mixed": 0},
            "side": 96,
            "jpeg": JPEG,
        }
    ]
    return result


def boxes(svg: str) -> list[tuple[float, float, float, float, str]]:
    """The labels of a chart as rectangles."""
    found = []
    for x, y, anchor, value in re.findall(
        r'<text x="([\d.-]+)" y="([\d.-]+)" text-anchor="(\w+)"[^>]*class="halo"[^>]*>([^<]*)', svg
    ):
        left = float(x) - {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor] * text_width(value)
        found.append((left, float(y) - 11, left + text_width(value), float(y) + 4, value))
    return found


def charts_of(result: dict[str, Any]) -> dict[str, str]:
    drawn = quantisation_of(result)
    return {name: drawn[name] for name in ("bytes", "bits", "layers", "losses", "curve", "frontier")}


def test_no_label_overlaps_another_or_leaves_the_chart(result: dict[str, Any]) -> None:
    for name, svg in charts_of(detailed(result)).items():
        _, _, width, height = map(float, ET.fromstring(svg).attrib["viewBox"].split())
        found = boxes(svg)
        assert found or name == "losses"
        for a, b in itertools.combinations(found, 2):
            assert max(b[0] - a[2], a[0] - b[2], b[1] - a[3], a[1] - b[3]) >= -0.11, (name, a, b)
        assert all(left >= 0 and right <= width and top >= 0 and low <= height for left, top, right, low, _ in found)


def test_every_quantised_model_is_in_both_charts_with_its_figures(result: dict[str, Any]) -> None:
    full = detailed(result)
    drawn = charts_of(full)
    for name in ("bytes", "bits"):
        tips = re.findall(r'class="mark[^"]*"[^>]*data-tip="([^"]*)"', drawn[name])
        assert len(tips) == 4
        for method in full["methods"][1:]:
            assert any(method["title"] in tip and f"{method['compiled_bytes']:,} bytes" in tip for tip in tips)
        level = f"float {full['methods'][0]['accuracy']:.2f} %"
        assert {box[4] for box in boxes(drawn[name])} == {"Dynamic", "Static", "QAT", "Mixed 4/8 bits", level}


def test_floats_of_16_bits_are_in_the_table_and_not_in_the_charts(result: dict[str, Any]) -> None:
    full = detailed(result)
    half = {**full["methods"][1], "name": "half", "title": "16-bit float", "kind": "half", "weight_bits": 16.0}
    full["methods"].insert(1, half)
    drawn = quantisation_of(full)
    assert "16-bit float" not in drawn["bytes"] + drawn["bits"]
    assert [row["title"] for row in drawn["models"]][:3] == ["No quantisation", "16-bit float", "Dynamic"]


def test_a_mark_lies_where_its_numbers_say(result: dict[str, Any]) -> None:
    first, *methods = detailed(result)["methods"]
    for index, (method, size, accuracy) in enumerate(zip(methods, (400, 300, 350, 200), (90, 80, 85, 70), strict=True)):
        method.update(
            compiled_bytes=1024 * size, accuracy=accuracy, interval=[accuracy - 2, accuracy + 2], name=f"m{index}"
        )
    svg = bytes_chart(methods, first)
    marks = [tuple(map(float, pair)) for pair in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)" r="5.5"', svg)]
    (ax, ay), (bx, by), (cx, cy), (dx, _) = marks
    assert cx == pytest.approx((ax + bx) / 2, abs=0.11) and cy == pytest.approx((ay + by) / 2, abs=0.11)
    assert bx - dx == pytest.approx(ax - bx, abs=0.11)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=12))
def test_the_front_is_what_nothing_beats(points: list[tuple[float, float]]) -> None:
    kept = front(points)
    for index, (cost, value) in enumerate(points):
        beaten = any((c <= cost and v >= value and (c, v) != (cost, value)) for c, v in points)
        assert (points[index] in [points[k] for k in kept]) == (not beaten)
    assert [points[k][0] for k in kept] == sorted({points[k][0] for k in kept})


@given(st.lists(st.floats(64, 430), min_size=1, max_size=10))
def test_marks_are_drawn_apart_in_their_order(places: list[float]) -> None:
    moved = _apart(places, 64.0, 430.0)
    order = sorted(range(len(places)), key=lambda index: places[index])
    for a, b in itertools.pairwise(order):
        assert moved[b] - moved[a] >= APART - 1e-6
    if all(places[b] - places[a] >= APART for a, b in itertools.pairwise(order)):
        assert moved == pytest.approx(places)


def test_sensitivity_charts_hold_every_figure(result: dict[str, Any]) -> None:
    found = detailed(result)["analysis"]["sensitivity"]
    dots = re.findall(r'class="dot bits-(\d)"[^>]*data-tip="(layer_\d+) [^"]*: ([\d.]+) dB', layer_chart(found))
    expected = {
        (bits, layer["layer"], f"{layer['alone'][bits]:.1f}")
        for layer in found["layers"]
        for bits in ("8", "4")
        if layer["alone"][bits] is not None
    }
    assert set(dots) == expected and len(dots) == 39
    bars = re.findall(r'class="bar g-(\w+)"[^>]*height="([\d.]+)" data-tip="(layer_\d+) ', loss_chart(found))
    heights = {name: float(height) for _, height, name in bars}
    assert len(bars) == 19 and {kind for kind, _, _ in bars} == {"convolution", "depthwise", "dense"}
    assert heights["layer_4"] == pytest.approx(heights["layer_0"] * (24.5 - 20) / (24.5 - 24), rel=0.03)
    for name in ("8", "4"):
        found["all_quantised"][name] = None
        for layer in found["layers"]:
            layer["alone"][name] = None
    assert layer_chart(found) == loss_chart(found) == ""


def test_curves_without_any_error_are_left_out(result: dict[str, Any]) -> None:
    analysis = detailed(result)["analysis"]
    assert len(re.findall(r'class="dot', curve_point_chart(analysis["curve"]))) == 5
    assert curve_point_chart([{"count": 10, "sqnr": None, "changed": 0}]) == ""
    assert 'class="mark' not in frontier_chart({**analysis["mixed"], "sqnr": None})
    assert frontier_chart({**analysis["mixed"], "frontier": [[1, None, 0]]}) == ""


def test_the_page_holds_it_all_and_the_gallery_only_when_there_is_one(result: dict[str, Any]) -> None:
    page = render_report(detailed(result))
    words = " ".join(re.sub("<[^>]+>", " ", page).split())
    assert f'<img src="data:image/jpeg;base64,{JPEG}" width="96" height="96"' in page
    assert "1 of 7 test pictures" in words
    assert re.search(r"sedan\W+test picture 3 float: sedan\W+Static: pickup crew cab Mixed 4/8 bits: sedan", words)
    assert "5.25: 4 in 13 of 53 layers 323,456" in words and "reason 19" in words and "ab" * 32 in words
    assert "9 with 10, 9 with 25, 8 with 50, 7 with 100, 5 with 200." in words
    assert not re.search(r"https?://|@import|url\(", page)
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ET.fromstring(svg)
    plain = render_report(result)
    assert "<img" not in plain and 'id="gallery"' not in plain and 'id="sensitivity"' not in plain


def test_a_hostile_thumbnail_cannot_leave_its_attribute(result: dict[str, Any]) -> None:
    full = detailed(result)
    full["gallery"][0]["jpeg"] = '"><script>alert(1)</script>'
    assert "<script>alert" not in render_report(full)
