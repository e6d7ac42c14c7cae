"""The page: self-contained, with the numbers of the JSON, refusing foreign files."""

from __future__ import annotations

import copy
import html.parser
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from millijoule import report
from millijoule.errors import FormatError
from millijoule.report import load_result, render_report, write_report


class _Checker(html.parser.HTMLParser):
    VOID = frozenset({"meta", "br", "hr", "img", "link", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []
        self.tables: list[list[list[str]]] = []
        self._cell: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "data") and value and not value.startswith("#"):
                self.outside.append(value)
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self._cell = []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()
        if tag in ("td", "th") and self._cell is not None:
            self.tables[-1][-1].append(" ".join("".join(self._cell).split()))
            self._cell = None

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell.append(data + " ")


def _parse(page: str) -> _Checker:
    checker = _Checker()
    checker.feed(page)
    return checker


def test_page_is_well_formed_and_refers_to_nothing_outside(result: dict[str, Any]) -> None:
    page = render_report(result)
    checker = _parse(page)
    assert checker.open == []
    assert checker.outside == []
    assert not re.search(r"https?://|@import|url\(", page)


def test_every_chart_is_valid_svg_inside_its_view_box(result: dict[str, Any]) -> None:
    page = render_report(result)
    charts = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(charts) == 2 + 4 + 5 + 5 + 5 + 4  # scatter, confusion, memory, timeline, cycles, curves
    for chart in charts:
        root = ET.fromstring(chart)
        _, _, width, height = map(float, root.attrib["viewBox"].split())
        for shape in root.iter("rect"):
            x, y = float(shape.attrib["x"]), float(shape.attrib["y"])
            assert -0.5 <= x <= width and -0.5 <= y <= height
            assert x + float(shape.attrib["width"]) <= width + 0.5
            assert y + float(shape.attrib["height"]) <= height + 0.5


def test_tables_hold_the_numbers_of_the_result_and_of_the_paper(result: dict[str, Any]) -> None:
    tables = _parse(render_report(result)).tables
    table_2 = next(table for table in tables if any("predictions" in " ".join(row) for row in table))
    rows = {row[0]: row for row in table_2[2:]}
    for method, paper in (("float", ("92.42", "5,323", "1,532")), ("qat", ("92.23", "1,561", "390"))):
        facts = next(item for item in result["methods"] if item["name"] == method)
        row = rows[facts["title"]]
        assert row[1].startswith(f"{facts['accuracy']:.2f}")
        assert f"{facts['flash_bytes'] / 1024:,.1f}" in row
        assert all(value in row for value in paper)
    table_3 = next(table for table in tables if any("instructions, millions" in " ".join(row) for row in table))
    text = " ".join(" ".join(row) for row in table_3)
    qat = [item for item in result["deployments"] if item["method"] == "qat"]
    assert all(f"{item['milliseconds']:,.1f}" in text for item in qat)
    assert all(value in text for value in ("57", "2,619", "87", "379", "FIXTURE model: it needs 812,000 bytes"))


def test_the_compared_network_stands_beside_ours(result: dict[str, Any]) -> None:
    tables = _parse(render_report(result)).tables
    (rows,) = (table[1:] for table in tables if "iSEC's size over it" in " ".join(table[0]))
    half = 2 * (14_714_688 + 513 * len(result["data"]["classes"]))
    assert rows[0][1:] == ["16-bit", "91.37", "29.81", "-", "1.0"]
    assert rows[1][1:] == ["16-bit float", "not measured", f"{half / 1e6:.2f}", f"{half / 2**20:.2f}", "1.0"]
    facts = next(item for item in result["methods"] if item["name"] == "qat")
    assert rows[2][0] == "this study: QAT" and rows[2][2] == f"{facts['accuracy']:.2f}"
    assert rows[2][5] == f"{29.81e6 / facts['flash_bytes']:.1f}"
    assert len(rows) == 3
    result["methods"].append(
        {**facts, "name": "half", "title": "16-bit float", "kind": "half", "flash_bytes": 7_000_000}
    )
    tables = _parse(render_report(result)).tables
    (rows,) = (table[1:] for table in tables if "iSEC's size over it" in " ".join(table[0]))
    assert rows[2][:2] == ["this study: 16-bit float", "16-bit float"] and rows[2][3:] == ["7.00", "6.68", "4.3"]


def test_the_page_states_what_the_numbers_are_not(result: dict[str, Any]) -> None:
    page = " ".join(re.sub("<[^>]+>", " ", render_report(result)).split())
    assert "without flash wait states" in page
    assert "alpha 0.75 with a 10-way head" in page
    assert "runs at 280 MHz at most" in page
    assert "toy data set" in page


def _text(result: dict[str, Any]) -> str:
    return html.unescape(" ".join(re.sub("<[^>]+>", " ", render_report(result)).split()))


def test_the_text_on_cycles_follows_what_was_modelled(result: dict[str, Any]) -> None:
    mixed = _text(result)
    assert "without flash wait states and without cache misses" in mixed and "access by access (qat" in mixed
    assert "0 MHz FIXTURE; code in a fixture; model Cortex-F f-0; expected error of the cycles: everything" in mixed
    assert "Cycles in which the core waited" in mixed
    assert "Energy is power times time" in mixed and "STM32L4R9I, QAT: power times time of a FIXTURE" in mixed
    old = copy.deepcopy(result)
    for item in old["deployments"]:
        item.pop("timing", None)
        for energy in item["energy"]:
            energy.pop("statement", None)
    assert "Energy is cycles times joules per cycle" in _text(old)
    assert "cycles follow the core's timing rules without flash wait states" in _text(old)
    assert "access by access" not in _text(old) and "in which the core waited" not in _text(old)
    result["deployments"] = [item for item in result["deployments"] if item.get("timing")]
    assert "cycles follow the core's timing rules with flash wait states and caches, access by access ." in _text(
        result
    )
    assert "a real board is slower" not in _text(result)


def test_table_3_has_the_cycles_of_the_paper_beside_ours(result: dict[str, Any]) -> None:
    table = next(
        table for table in _parse(render_report(result)).tables if any("cycles, millions" in row for row in table)
    )
    rows = [row for row in table if len(row) > 10 and row[1] == "QAT"]
    ours = [f"{item['cycles'] / 1e6:,.2f}" for item in result["deployments"] if item["method"] == "qat"]
    assert [row[6] for row in rows] == ours
    assert [row[7] for row in rows] == ["314.3", "181.9"]  # 2,619 ms at 120 MHz, 379 ms at the stated 480 MHz


def test_the_conversion_of_qat_is_reported(result: dict[str, Any]) -> None:
    page = " ".join(re.sub("<[^>]+>", " ", render_report(result)).split())
    assert "gives 256 of 256 validation pictures the very logits" in page
    assert "training steps 3 of these predictions would be different" in page
    del result["training"]["qat"]["conversion"], result["training"]["float"]["conversion"]
    assert "the very logits" not in render_report(result)  # a report.json of before


def test_photographs_are_not_called_a_toy(result: dict[str, Any]) -> None:
    result["data"]["toy"] = False
    assert "toy" not in re.sub(r"toy_vehicles", "", render_report(result))


def test_hostile_names_are_escaped(result: dict[str, Any]) -> None:
    evil = '<script>alert("x")</script>'
    result["data"]["classes"][0] = evil
    result["title"] = evil
    page = render_report(result)
    assert evil not in page
    assert page.count("<script>") == 1


def test_a_study_without_boards_or_training_still_has_a_page(result: dict[str, Any]) -> None:
    result["deployments"], result["training"] = [], {}
    assert _parse(render_report(result)).open == []


def test_page_from_file_equals_page_from_memory(result: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(json.dumps(result))
    write_report(load_result(tmp_path / "report.json"), tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == render_report(result)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": "other"}'])
def test_foreign_json_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(FormatError, match=r"report\.json"):
        load_result(tmp_path / "report.json")


def test_missing_file_and_missing_field_are_refused(result: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no such file"):
        load_result(tmp_path / "report.json")
    broken = copy.deepcopy(result)
    del broken["network"]["rows"]
    with pytest.raises(FormatError, match="missing or wrong"):
        render_report(broken)


def test_public_names() -> None:
    assert all(hasattr(report, name) for name in report.__all__)
