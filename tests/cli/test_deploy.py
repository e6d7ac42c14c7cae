"""The deploy commands, end to end on a small model."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from millijoule.cli.deploy import app
from millijoule.errors import BoardError, OptionError, OutputError
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
