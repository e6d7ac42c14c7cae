"""Charts: round ticks that cover the data, labels that do not overlap, marks where the numbers are."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millijoule.report import charts
from millijoule.report._svg import Labels, Plot, text_width, ticks


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 8))
def test_ticks_cover_the_range_evenly(low: float, span: float, count: int) -> None:
    values = ticks(low, low + span, count)
    steps = [b - a for a, b in itertools.pairwise(values)]
    assert values[0] <= low + 1e-6 * span and values[-1] >= low + span - 1e-6 * (span + abs(low))
    assert len(values) <= 2 * count + 2
    assert all(step == pytest.approx(steps[0], rel=1e-6, abs=1e-9) for step in steps)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=8))
def test_labels_overlap_neither_each_other_nor_the_points(places: list[tuple[float, float]]) -> None:
    plot = Plot([0.0, 1.0], [0.0, 1.0], "x", "y")
    labels, before = Labels(plot), len(plot.parts)
    points = [(plot.x(x), plot.y(y)) for x, y in places]
    for x, y in points:
        labels.point(x, y)
    for x, y in points:
        labels.place(x, y, "Dynamic H7")
    boxes = []
    for part in plot.parts[before:]:
        found = re.search(r'x="([\d.-]+)" y="([\d.-]+)" text-anchor="(\w+)"', part)
        assert found is not None
        x, y = float(found[1]), float(found[2])
        x -= {"start": 0.0, "middle": 0.5, "end": 1.0}[found[3]] * text_width("Dynamic H7")
        boxes.append((x, y - 11, x + text_width("Dynamic H7"), y + 4))
        assert x >= plot.left and boxes[-1][2] <= plot.width
    for index, a in enumerate(boxes):
        for b in boxes[index + 1 :]:
            apart = max(b[0] - a[2], a[0] - b[2], b[1] - a[3], a[1] - b[3])
            assert apart >= -0.11  # positions are written with one decimal
        for x, y in points:
            assert not (a[0] < x < a[2] and a[1] < y < a[3])


def test_a_point_lies_where_its_numbers_say() -> None:
    def point(x: float, accuracy: float) -> dict[str, Any]:
        interval = [accuracy - 2, accuracy + 2]
        return {
            "x": x,
            "accuracy": accuracy,
            "interval": interval,
            "method": "qat",
            "label": "",
            "shape": "circle",
            "tip": "",
        }

    svg = charts.accuracy_chart([point(100, 90), point(200, 80), point(150, 85)], "x", "t")
    marks = [tuple(map(float, pair)) for pair in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', svg)]
    (ax, ay), (bx, by), (cx, cy) = marks
    assert ax < cx < bx and ay < cy < by
    assert cx == pytest.approx((ax + bx) / 2, abs=0.11) and cy == pytest.approx((ay + by) / 2, abs=0.11)


def test_bars_are_as_high_as_their_cycles() -> None:
    layers = [
        {"name": f"l{index}", "operator": "conv2d", "macs": 10, "cycles": cycles}
        for index, cycles in enumerate((1_000_000, 500_000, 250_000))
    ]
    heights = [
        float(value) for value in re.findall(r'class="bar[^>]*height="([\d.]+)"', charts.cycles_chart(layers, "t"))
    ]
    assert heights[0] / heights[1] == pytest.approx(2, rel=0.01)
    assert heights[1] / heights[2] == pytest.approx(2, rel=0.02)


def test_buffers_lie_at_their_offsets() -> None:
    plan = {
        "steps": ["a", "b"],
        "live_bytes": [3072, 2048],
        "buffers": [
            {"name": "p", "offset": 0, "bytes": 1024, "first": 0, "last": 0, "kind": "picture"},
            {"name": "q", "offset": 1024, "bytes": 2048, "first": 0, "last": 1, "kind": "activation"},
        ],
    }
    svg = charts.memory_chart(plan, 3072, 3072, "t")
    found = re.findall(r'class="buffer[^>]*x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', svg)
    (px, py, pw, ph), (qx, qy, qw, qh) = [tuple(map(float, item)) for item in found]
    assert px == qx and qw == pytest.approx(2 * pw, rel=0.02)
    assert qh == pytest.approx(2 * ph, rel=0.03)
    assert py == pytest.approx(qy + qh, abs=0.5)


@pytest.mark.parametrize(
    ("operator", "group"),
    [
        ("depthwise_conv2d", "depthwise"),
        ("pointwise", "pointwise"),
        ("conv2d", "convolution"),
        ("dense", "dense"),
        ("add", "other"),
        ("softmax", "other"),
    ],
)
def test_layers_are_grouped_by_kind(operator: str, group: str) -> None:
    assert charts.group_of({"operator": operator}) == group
    assert group in charts.GROUPS


def test_one_epoch_and_equal_accuracies_still_make_charts() -> None:
    series = [{"name": "qat", "label": "validation", "values": [50.0], "dashed": False}]
    assert "<circle" in charts.curve_chart(series, "accuracy, %", "t")
    same = {"x": 1.0, "accuracy": 100.0, "interval": [100.0, 100.0], "method": "qat", "label": "QAT"}
    assert charts.accuracy_chart([{**same, "shape": "circle", "tip": ""}] * 3, "x", "t").startswith("<svg")
