"""The deploy commands, end to end on a small model."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from millijoule.cli.deploy import app
from millijoule.errors import BoardError, OptionError, OutputError, PlacementError
from millijoule.graph import save_graph

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from calling import call_app, needs_boards

from networks import random_network


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "small.mj"
    save_graph(random_network(["conv", "depthwise", "residual"], 7), path)
    return str(path)


def call(*arguments: str, code: int = 0) -> str:
    return call_app(app, *arguments, code=code)


def test_compile_prints_the_plan_and_writes_the_files(model: str, tmp_path: Path) -> None:
    out = tmp_path / "c"
    text = call("compile", model, "--board", "stm32l4r9i", "--out", str(out))
    assert "no plan can be smaller" in text and "block.1.conv2d" in text
    assert (out / "mj_model.c").is_file()
    values = json.loads(call("compile", model, "--json"))
    assert values["target"] == "host" and values["arena_bytes"] == values["plan"]["arena_bytes"]
    with pytest.raises(OutputError):
        call("compile", model, "--out", str(out))
    call("compile", model, "--out", str(out), "--overwrite")


def test_verify_on_this_computer(model: str) -> None:
    assert "every bit equal" in call("verify", model, "--board", "host")
    report = json.loads(call("verify", model, "--board", "host", "--pictures", "2", "--json"))
    assert report["equal"] is True and report["pictures"] == 2


@needs_boards
def test_emulate_tells_cycles_and_energy(model: str) -> None:
    text = call("emulate", model, "--board", "stm32h7b3i")
    assert "cycles/MAC" in text and "mJ" in text and "latency" in text
    values = json.loads(call("emulate", model, "--board", "stm32h7b3i", "--pictures", "2", "--json"))
    assert len(values["classes"]) == 2 and values["profile"]["cycles"] > 0


@needs_boards
def test_export_writes_a_project(model: str, tmp_path: Path) -> None:
    call("export", model, "--out", str(tmp_path / "project"))
    assert (tmp_path / "project" / "firmware.bin").is_file()


def test_refusals(model: str) -> None:
    with pytest.raises(BoardError):
        call("compile", model, "--board", "stm32f4")
    with pytest.raises(OptionError):
        call("emulate", model, "--board", "host")


@pytest.fixture
def chain(tmp_path: Path) -> str:
    path = tmp_path / "chain.mj"
    save_graph(random_network(["inverted"] * 3, 7, size=(40, 40, 3)), path)
    return str(path)


def test_objectives_and_budgets(chain: str) -> None:
    usual = json.loads(call("compile", chain, "--json"))["arena_bytes"]
    least = json.loads(call("compile", chain, "--objective", "ram", "--json"))["arena_bytes"]
    assert json.loads(call("compile", chain, "--objective", "energy", "--json"))["arena_bytes"] == usual
    middle = (least + usual) // 2
    within = json.loads(call("compile", chain, "--ram-budget", str(middle), "--json"))
    assert least < usual and within["arena_bytes"] <= middle
    with pytest.raises(PlacementError, match=f"less than {least:,} bytes"):
        call("compile", chain, "--ram-budget", str(least - 1))
    with pytest.raises(OptionError, match="objective 'speed'"):
        call("compile", chain, "--objective", "speed")
    for wrong in ("0", "-5"):
        with pytest.raises(OptionError, match="RAM budget"):
            call("compile", chain, "--ram-budget", wrong)
    call("compile", chain, "--ram-budget", "many", code=2)


def test_explain_says_in_text_and_json_what_the_plan_is(chain: str) -> None:
    text = call("compile", chain, "--board", "stm32l4r9i", "--explain")
    values = json.loads(call("compile", chain, "--board", "stm32l4r9i", "--explain", "--json"))
    facts = values["explanation"]
    assert facts["arena_bytes"] == values["arena_bytes"] and len(facts["layers"]) == len(values["layers"])
    for layer in facts["layers"]:
        assert layer["live_bytes"] <= facts["arena_bytes"] and f"{layer['live_bytes']:,} bytes alive" in text
        for item in layer["memory"]:
            assert item["offset"] >= 0 and item["offset"] + item["bytes"] <= facts["arena_bytes"]
        for block in layer["blocks"]:
            assert sum(block["parts"].values()) <= layer["scratch_bytes"]
        for kernel in layer["kernels"]:
            assert kernel["name"] in text
    assert max(layer["live_bytes"] for layer in facts["layers"]) <= facts["arena_bytes"]
    assert any("(assembly)" in line for line in text.splitlines())
    assert any(layer["staged"] for layer in facts["layers"])
    assert {item["what"] for item in facts["lower"]} >= {"the objective ram"}
    least = json.loads(call("compile", chain, "--board", "stm32l4r9i", "--objective", "ram", "--json"))["arena_bytes"]
    assert next(item for item in facts["lower"] if item["what"] == "the objective ram")["arena_bytes"] == least
    assert f"the objective ram: {least:,} bytes" in text and "<- peak" in text


def test_explain_names_layers_that_the_row_engine_does_not_take(tmp_path: Path) -> None:
    path = tmp_path / "odd.mj"
    save_graph(random_network(["conv", "extreme", "extreme", "extreme", "dead"], 4, size=(12, 12, 3)), path)
    facts = json.loads(call("compile", str(path), "--explain", "--json"))["explanation"]
    for layer in facts["layers"]:
        by_itself = not layer["blocks"] and layer["operator"] in ("conv2d", "depthwise_conv2d")
        assert (layer["fallback"] is not None) == by_itself
    assert any(layer["fallback"] for layer in facts["layers"])


def test_a_streamed_picture_has_no_memory(tmp_path: Path) -> None:
    model = str(tmp_path / "rows.mj")
    save_graph(random_network(["strided", "depthwise", "pointwise"], 3, size=(20, 20, 3)), Path(model))
    whole, rows = (json.loads(call("compile", model, "--json", *more)) for more in ((), ("--stream",)))
    assert any(buffer["kind"] == "picture" for buffer in whole["plan"]["buffers"])
    assert not any(buffer["kind"] == "picture" for buffer in rows["plan"]["buffers"])
    call("compile", model, "--stream", "--out", str(tmp_path / "rows"))
    assert (tmp_path / "rows" / "mj_frame.c").exists()


def test_tuning_refuses_what_it_cannot_do(model: str) -> None:
    with pytest.raises(OptionError, match="no cycles"):
        call("compile", model, "--tune")
    with pytest.raises(OptionError, match="objective ram"):
        call("compile", model, "--board", "stm32l4r9i", "--tune", "--objective", "ram")


@needs_boards
def test_tuning_says_what_it_found(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("millijoule.deploy.tuning.CANDIDATES", {"stage": (False,)})
    values = json.loads(call("compile", model, "--board", "stm32l4r9i", "--tune", "--json"))["tuning"]
    assert values["tried"] >= 1 and values["cycles_after"] <= values["cycles_before"]
    text = call("compile", model, "--board", "stm32l4r9i", "--tune")
    assert f"{values['cycles_before']:,} cycles with the defaults" in text and "0 timed now" in text
