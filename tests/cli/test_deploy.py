"""The deploy commands, end to end on a small model."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from millijoule.cli.deploy import app
from millijoule.errors import BoardError, FormatError, OptionError, OutputError, PlacementError, UnsupportedError
from millijoule.graph import Graph, GraphBuilder, Quant, save_graph

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


def saved(graph: Graph, folder: Path) -> str:
    path = folder / "limit.mj"
    save_graph(graph, path)
    return str(path)


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


def test_a_budget_that_no_plan_meets_is_refused_with_the_least_bytes_the_peak_and_what_would_do(tmp_path: Path) -> None:
    model = saved(random_network(["downsample", "inverted", "inverted"], 4, size=(72, 72, 3)), tmp_path)
    least = json.loads(call("compile", model, "--objective", "ram", "--json"))
    peak = [layer["name"] for layer in least["layers"] if layer["live_bytes"] == least["arena_bytes"]]
    with pytest.raises(PlacementError) as refused:
        call("compile", model, "--ram-budget", str(least["arena_bytes"] // 2), "--out", str(tmp_path / "c"))
    assert f"no plan needs less than {least['arena_bytes']:,} bytes" in refused.value.reason
    assert peak and all(repr(name) in refused.value.reason for name in peak)
    found = re.search(r"resolution (\d+) \(([\d,]+) bytes\)", refused.value.fix)
    assert found is not None and int(found[1]) < 72
    assert int(found[2].replace(",", "")) <= least["arena_bytes"] // 2
    assert not (tmp_path / "c").exists()


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
    rows = values["ram"]["layers"]
    assert [layer["name"] for layer in rows] == [layer["name"] for layer in facts["layers"]]
    assert all(max(row["bytes"]) <= layer["live_bytes"] for row, layer in zip(rows, facts["layers"], strict=True))
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


# *** limits *****


@pytest.mark.parametrize("size", [(1, 1, 1), (1, 1, 3), (1, 7, 1), (9, 1, 3), (5, 3, 1), (7, 13, 4)])
def test_single_pixels_odd_widths_and_one_channel(size: tuple[int, int, int], tmp_path: Path) -> None:
    model = saved(random_network(["conv", "inverted", "residual"], sum(size), size=size), tmp_path)
    assert "every bit equal" in call("verify", model, "--board", "host")
    assert "<- peak" in call("compile", model, "--board", "stm32l4r9i", "--explain")
    least = json.loads(call("compile", model, "--objective", "ram", "--json"))["arena_bytes"]
    assert json.loads(call("compile", model, "--ram-budget", str(least), "--json"))["arena_bytes"] <= least
    with pytest.raises(PlacementError, match=rf"no plan needs less than {least:,} bytes; the peak is in 'block\."):
        call("compile", model, "--ram-budget", "1")


@needs_boards
@pytest.mark.parametrize("board", ["stm32l4r9i", "stm32h7b3i"])
def test_a_picture_of_one_pixel_on_a_board(board: str, tmp_path: Path) -> None:
    model = saved(random_network(["conv", "inverted"], 3, size=(1, 1, 1)), tmp_path)
    assert "every bit equal" in call("verify", model, "--board", board, "--pictures", "2")


def test_a_bias_beyond_32_bits_is_refused_with_the_layer(tmp_path: Path) -> None:
    graph = random_network(["conv"], 1, size=(5, 5, 3))
    node = next(node for node in graph.nodes if node.op == "conv2d")
    bias = np.full_like(graph.constants[node.inputs[2]], 2**31 - 1)
    model = saved(replace(graph, constants={**graph.constants, node.inputs[2]: bias}), tmp_path)
    for command in ("compile", "verify", "export"):
        more = ["--out", str(tmp_path / "out")] if command == "export" else []
        with pytest.raises(FormatError, match=rf"layer '{re.escape(node.source)}'.*beyond 32 bits"):
            call(command, model, *more)
    assert not (tmp_path / "out").exists()


def long_sums(features: int) -> Graph:
    """A dense layer of so many inputs whose weights are as large as they can be."""
    builder, quant, shape = GraphBuilder("long"), Quant.per_tensor(1.0, 0), (1, 256, features // 256, 1)
    picture, attrs = builder.input("picture", shape, "uint8"), {"scale": (1.0,), "offset": (-90.0,)}
    x = builder.node("normalize", [picture], shape, attrs=attrs, dtype="int8", quant=quant)
    x = builder.node("reshape", [x], (1, features), attrs={"shape": (1, features)}, dtype="int8", quant=quant)
    w = builder.constant("w", np.ones((2, features), np.int8), Quant.per_tensor(0.5))
    result = Quant.per_tensor(2.0**22, 5)
    graph = builder.build([builder.node("dense", [x, w], (1, 2), dtype="int8", quant=result, source="head")])
    return replace(graph, constants={**graph.constants, w: np.full((2, features), 127, np.int8)})


def test_more_products_in_a_sum_than_32_bits_hold_are_refused_with_the_layer(tmp_path: Path) -> None:
    fits = saved(long_sums(256 * 256), tmp_path)
    assert "every bit equal" in call("verify", fits, "--board", "host", "--pictures", "1")
    with pytest.raises(FormatError, match=r"layer 'head'.*beyond 32 bits"):
        call("compile", saved(long_sums(256 * 260), tmp_path))


@pytest.mark.parametrize("size", [(70_000, 1, 1), (1, 70_000, 1)])
def test_pictures_beyond_every_kernel_are_refused_with_the_layer(size: tuple[int, int, int], tmp_path: Path) -> None:
    model = saved(random_network(["depthwise"], 1, size=size), tmp_path)
    with pytest.raises(UnsupportedError, match=r"layer 'block\.1\.depthwise_conv2d'.*beyond every kernel"):
        call("compile", model)
