"""The arena row by row: its chart, its table and its place in both pages."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from millijoule.compile import compile_graph, row_timeline
from millijoule.graph import Graph
from millijoule.report import MOMENTS, render_report
from millijoule.report.ram import USES, ram_chart, ram_of, ram_rows, ram_statement, ram_uses
from networks import any_dynamic, random_network


@pytest.fixture
def ram() -> dict[str, Any]:
    """A map of 4 rows of 1 KiB that becomes one of 2 rows of 1 KiB over it, then a layer of one operation."""
    block = {
        "index": 0,
        "name": "conv + <add>",
        "operator": "conv2d + add",
        "way": "rows",
        "rows": 4,
        "result_rows": 2,
        "passes": [],
        "read": [0, 1, 2, 3, 4],
        "written": [0, 0, 1, 1, 2],
        "bytes": [6144, 5120, 5120, 4096, 4096],
        "parts": [
            {"name": "x", "kind": "input", "offset": [0, 1024, 2048, 3072, 4096], "bytes": [4096, 3072, 2048, 1024, 0]},
            {"name": "y", "kind": "result", "offset": 0, "bytes": [0, 0, 1024, 1024, 2048]},
            {"name": "planes", "kind": "rings", "offset": 4096, "bytes": 2048},
            {"name": "weights", "kind": "staged", "offset": 6144, "bytes": 512},
        ],
    }
    mean = {**block, "index": 1, "name": "mean", "operator": "mean", "way": "whole", "rows": 0, "result_rows": 0}
    mean |= {"read": [0], "written": [0], "bytes": [2060]}
    mean["parts"] = [
        {"name": "y", "kind": "input", "offset": 0, "bytes": 2048},
        {"name": "z", "kind": "result", "offset": 2048, "bytes": 12},
    ]
    return {
        "arena_bytes": 7168,
        "lower_bound_bytes": 6144,
        "fast_offset": None,
        "peak": {"layer": 0, "moment": 0, "bytes": 6144},
        "layers": [block, mean],
    }


def edges(path: str) -> list[tuple[int, int]]:
    """The corners of a path of absolute and relative steps."""
    x = y = 0
    found = []
    for letter, numbers in re.findall(r"([MHVhv])([-\d. ]+)", path):
        values = [int(float(value)) for value in numbers.split()]
        if letter == "M":
            x, y = values
        elif letter in "Hh":
            x = values[0] if letter == "H" else x + values[0]
        else:
            y = values[0] if letter == "V" else y + values[0]
        found.append((x, y))
    return found


def drawn(svg: str) -> list[dict[str, Any]]:
    """Every layer: its background, and its parts by name."""
    root = ET.fromstring(svg)
    layers = []
    for group in root.iter("g"):
        step, *parts = list(group)
        names = {part.attrib["data-tip"].split(",")[0].split(":")[0]: edges(part.attrib["d"]) for part in parts}
        layers.append({"step": edges(step.attrib["d"]), "parts": names, **group.attrib})
    return layers


def test_parts_lie_where_they_are(ram: dict[str, Any]) -> None:
    block, mean = drawn(ram_chart(ram, "t"))
    left, top = block["step"][0]
    right, bottom = block["step"][2]
    kib = (bottom - top) / 7  # the arena has 7 KiB
    assert mean["step"][0][0] == right
    xs = sorted({x for x, _ in block["parts"]["x"]})
    assert xs[0] == left and xs[-1] == pytest.approx(left + 4 / 5 * (right - left), abs=1)  # nothing waits in the end
    heights = sorted({round((bottom - y) / kib, 1) for _, y in block["parts"]["y"]})
    assert heights == [0.0, 1.0, 2.0]
    assert {round((bottom - y) / kib, 1) for _, y in block["parts"]["planes"]} == {4.0, 6.0}
    assert {x for x, _ in block["parts"]["planes"]} == {left, right}
    assert block["data-rows"] == "4 2" and block["data-layer"] == "0 conv + <add>"
    assert block["data-moments"].split(";")[2] == "2 1 5120"


def test_levels_and_peak(ram: dict[str, Any]) -> None:
    svg = ram_chart(ram, "t")
    assert "arena 7,168 bytes" in svg and "lower bound 6,144 bytes" in svg and "peak 6,144 bytes" in svg
    assert "fast memory" not in svg
    assert "arena = lower bound 6,144 bytes" in ram_chart({**ram, "arena_bytes": 6144}, "t")
    assert "fast memory" in ram_chart({**ram, "fast_offset": 4096}, "t")
    statement = ram_statement(ram)
    assert "6,144, in layer 0" in statement and "0 of 4 rows read, 0 of 2 rows written" in statement


def test_the_table_adds_up(ram: dict[str, Any]) -> None:
    assert ram_uses(ram) == ["input", "result", "rings", "staged"]
    first, second = ram_rows(ram)
    assert (first["first"], first["most"], first["last"], first["when"]) == (6144, 6144, 4096, "0 read, 0 written")
    assert first["uses"] == [4096, 0, 2048, 512] and sum(first["uses"]) - 512 == first["most"]
    assert (second["rows"], second["when"], second["uses"]) == (0, "all at once", [2048, 12, 0, 0])
    assert ram_of(None, "t") is None and ram_of({}, "t") is None


@pytest.mark.parametrize("graph", [random_network(["strided", "inverted"], 5, size=(40, 30, 3)), any_dynamic(3)])
def test_a_compiled_program(graph: Graph) -> None:
    values = json.loads(json.dumps(row_timeline(compile_graph(graph, self_test=False), MOMENTS)))
    page = ram_of(values, "t")
    assert page is not None and set(page["uses"]) <= set(USES)
    layers = drawn(page["chart"])
    assert [layer["data-layer"].split()[0] for layer in layers] == [str(row["index"]) for row in page["rows"]]
    for layer, facts in zip(layers, values["layers"], strict=True):
        assert ("data-wide" in layer) == bool(facts["passes"])
        assert len(layer["data-moments"].split(";")) == len(facts["bytes"])
    for row in page["rows"]:
        copies = row["uses"][page["uses"].index("staged")] if "staged" in page["uses"] else 0
        assert sum(row["uses"]) - copies == row["most"] <= values["peak"]["bytes"]


def test_the_report_draws_each_arena_once(result: dict[str, Any], ram: dict[str, Any]) -> None:
    without = render_report(result)
    assert "RAM, row by row" not in without
    for item in result["deployments"]:
        item["ram"] = ram if item["status"] == "ran" else None
    page = render_report(result)
    ran = [item for item in result["deployments"] if item["status"] == "ran"]
    main = [item for item in ran if item["method"] == "qat"]
    assert 0 < len(main) < len(ran)
    assert page.count('<g data-layer="0 conv + &lt;add&gt;"') == len(main)
    assert page.count("As many bytes in use, row by row, as QAT on") == len(ran) - len(main)
    assert page.count("Most bytes in use: 6,144") >= len(main) and USES["rings"] in page and USES["groups"] not in page
