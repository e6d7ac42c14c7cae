"""`millijoule profile`, end to end on a small model."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from millijoule.cli.profile import app
from millijoule.errors import BoardError, DataError, FormatError, MillijouleError, OptionError
from millijoule.graph import save_graph

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from calling import call_app, needs_boards

from networks import random_network


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "small.mj"
    save_graph(random_network(["conv", "depthwise", "residual", "max_pool"], 7), path)
    return str(path)


def call(*arguments: str, code: int = 0) -> str:
    return call_app(app, *arguments, code=code)


def cells(text: str, name: str) -> list[str]:
    """The numbers of the first line of a table that begins with `name`."""
    line = next(line for line in text.splitlines() if line.strip().startswith(name + " "))
    return line.strip().removeprefix(name).split()


@needs_boards
@pytest.mark.parametrize("method", ["--edges", "--trace"])
def test_the_table_says_what_the_json_says(model: str, method: str) -> None:
    text = call(model, "--board", "stm32h7b3i", method, "--functions")
    values = json.loads(call(model, "--board", "stm32h7b3i", method, "--functions", "--json"))
    regulator = values["energies"][0]["regulator"]
    lost = 6 if method == "--trace" else 0
    for layer in [*values["layers"], values["outside"]]:
        found = cells(text, layer["name"])
        assert found[0] == f"{layer['cycles']:,}" and found[1] == f"{100 * layer['share']:.1f}"
        assert found[2] == (f"{layer['cycles_per_mac']:.2f}" if layer["macs"] else "-")
        assert found[4] == f"{1e3 * layer['millijoules'][regulator]:,.1f}"
        assert found[5:11] == [f"{100 * n / layer['instructions']:.0f}" for n in layer["mix"].values()]
        assert len(found) == 11 + lost
    for function in values["functions"]:
        assert cells(text, function["name"])[:3] == [
            f"{function[key]:,}" for key in ("calls", "instructions", "cycles")
        ]
    assert cells(text, "all")[0] == f"{values['cycles']:,}"
    assert f"({values['cycles']:,} cycles, {values['instructions']:,} instructions)" in text
    flat = " ".join(text.split())
    tables = flat.count("expected error: ")
    assert tables == 3 == flat.count(f"model {values['core']} {values['model_version']}, {values['method']}")


@needs_boards
def test_top_shows_the_slowest_layers(model: str) -> None:
    values = json.loads(call(model, "--board", "stm32l4r9i", "--edges", "--json"))
    text = call(model, "--board", "stm32l4r9i", "--edges", "--top", "2").split("blocks of the network")[0]
    slowest = sorted(values["layers"], key=lambda layer: -layer["cycles"])
    assert all(re.search(rf"^ ?{re.escape(layer['name'])} ", text, re.MULTILINE) for layer in slowest[:2])
    assert not any(re.search(rf"^ ?{re.escape(layer['name'])} ", text, re.MULTILINE) for layer in slowest[2:])


@needs_boards
def test_page_power_and_battery(model: str, tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    out = tmp_path / "page.html"
    arguments = (
        model,
        "--board",
        "stm32l4r9i",
        "--edges",
        "--out",
        str(out),
        "--sleep-current",
        "3",
        "--battery",
        "100",
    )
    values = json.loads(call(*arguments, "--json"))
    page = out.read_text(encoding="utf-8")
    assert page.count("<svg") == 2 and f"peak {values['ram']['peak']['bytes']:,} bytes" in page
    assert [layer["name"] for layer in values["ram"]["layers"]] == [layer["name"] for layer in values["layers"]]
    for rows, layer in zip(values["ram"]["layers"], values["layers"], strict=True):
        assert max(rows["bytes"]) <= layer["live_bytes"] <= values["ram"]["arena_bytes"] == values["arena_bytes"]
    for duty, energy in zip(values["duty"], values["energies"], strict=True):
        asleep = 1.0 - values["milliseconds"] / 1e3
        assert duty["watts"] == pytest.approx(energy["joules"] + 3e-6 * energy["volts"] * asleep)
        assert duty["battery_hours"] == pytest.approx(0.1 / duty["amperes"])
    assert "100 mAh last" in call(*arguments)


@needs_boards
def test_hot_instructions_and_names_in_brackets(tmp_path: Path) -> None:
    network = random_network(["conv", "depthwise"], 7)
    nodes = tuple(replace(node, source=f"part[{index}].x") for index, node in enumerate(network.nodes))
    path = tmp_path / "brackets.mj"
    save_graph(replace(network, nodes=nodes), path)
    values = json.loads(call(str(path), "--board", "stm32l4r9i", "--json"))
    text = call(str(path), "--board", "stm32l4r9i", "--hot", "5")
    assert all(layer["name"].startswith("part[") and layer["name"].split()[0] in text for layer in values["layers"])
    hottest = values["hottest"]
    assert [item["cycles"] for item in hottest] == sorted((item["cycles"] for item in hottest), reverse=True)
    assert sum(item["cycles"] for item in hottest) <= values["cycles"]
    assert all(sum(item["stalls"].values()) <= item["cycles"] for item in hottest)
    for item in hottest[:5]:
        assert re.search(
            rf"{item['address']:08x}  {re.escape(item['text'])} +{item['count']:,} +{item['cycles']:,} ", text
        )
    with pytest.raises(OptionError, match="Leave out --edges"):
        call(str(path), "--board", "stm32l4r9i", "--edges", "--hot", "5")


def _float_model(folder: Path) -> str:
    path = folder / "float.mj"
    save_graph(random_network(["conv"], 7, "float"), path)
    return str(path)


def test_refusals(model: str, tmp_path: Path) -> None:
    expected: list[tuple[type[MillijouleError], list[str], dict[str, Any]]] = [
        (BoardError, [model, "--board", "stm32f4"], {"match": "stm32l4r9i"}),
        (OptionError, [model, "--board", "host"], {"match": "cycle model"}),
        (FormatError, [str(tmp_path / "none.mj"), "--board", "stm32l4r9i"], {}),
        (DataError, [_float_model(tmp_path), "--board", "stm32l4r9i"], {"match": "Quantise it first"}),
    ]
    for error, arguments, match in expected:
        with pytest.raises(error, **match):
            call(*arguments)


@needs_boards
def test_battery_life_with_the_sleep_current_of_the_board(model: str) -> None:
    values = json.loads(call(model, "--board", "stm32l4r9i", "--edges", "--battery", "100", "--json"))
    assert all(duty["per_second"] == 1.0 and "Stop 2" in duty["statement"] for duty in values["duty"])
    assert json.loads(call(model, "--board", "stm32l4r9i", "--edges", "--json"))["duty"] == []
