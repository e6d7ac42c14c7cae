"""`millijoule bench kernels`, end to end on small networks."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from millijoule.cli import bench
from millijoule.compile import Layer
from millijoule.errors import BoardError, DataError, FormatError, MillijouleError, OptionError, PlacementError
from millijoule.execute import run
from millijoule.graph import save_graph
from millijoule.nets import layer_table, mobilenet_v2

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from calling import call_app, needs_boards

from networks import random_network


def saved(folder: Path, kind: str = "integer") -> str:
    path = folder / f"{kind}.mj"
    layers = ["conv", "depthwise", "pointwise", "residual", "conv", "max_pool"]
    save_graph(random_network(layers, 7, kind), path)
    return str(path)


def call(*arguments: str, code: int = 0) -> str:
    return call_app(bench.app, "kernels", *arguments, code=code)


def cells(text: str, board: str, figure: str) -> list[str]:
    """The cells of a line of the table behind its board and figure."""
    line = next(line for line in text.splitlines() if line.split("  ")[0] == board and f"  {figure} " in line)
    return line.split(f"  {figure} ")[1].split()


def test_a_network_with_weights_of_four_bits() -> None:
    rng = np.random.default_rng(0)
    graph = random_network(["conv", "depthwise", "pointwise"], 3)
    narrow = bench.narrowed(graph, 4)
    for node, other in zip(graph.nodes, narrow.nodes, strict=True):
        if node.op in ("conv2d", "dense"):
            wide, quant = graph.quant(node.inputs[1]), narrow.quant(other.inputs[1])
            assert quant.bits == 4 and np.abs(narrow.constant(other.inputs[1])).max() == 7
            before = graph.constant(node.inputs[1]) * wide.broadcast_scale(graph.constant(node.inputs[1]).ndim)
            after = narrow.constant(other.inputs[1]) * quant.broadcast_scale(before.ndim)
            assert (np.abs(after - before) <= 0.51 * quant.broadcast_scale(before.ndim)).all()
        elif node.op == "depthwise_conv2d":
            assert narrow.quant(other.inputs[1]) == graph.quant(node.inputs[1])
    pictures = rng.integers(0, 256, (8, *graph.tensor(graph.inputs[0]).shape[1:])).astype(np.uint8)
    logits = [run(item, pictures)[item.outputs[0]].astype(int) for item in (graph, narrow)]
    assert np.abs(logits[0] - logits[1]).mean() < 40
    with pytest.raises(OptionError, match="weight-bits"):
        bench.narrowed(graph, 3)


def check(values: dict[str, Any], text: str) -> None:
    """The table says what the JSON says, and the kinds sum to the whole."""
    assert (
        len({len(line) for line in text.splitlines() if line.startswith(("board", "stm32")) and ":" not in line}) <= 3
    )
    for row in values["boards"]:
        board = row["board"]
        assert cells(text, board, "cycles")[:2] == [f"{row['cycles']:,}", f"{row['cycles_per_mac']:.3f}"]
        assert cells(text, board, "milliseconds")[0] == f"{row['milliseconds']:,.2f}"
        for figure in ("instructions", "arena bytes", "flash bytes"):
            assert cells(text, board, figure)[0] == f"{row[figure.replace(' ', '_')]:,}"
        for kind in row["kinds"]:
            ratio = "-" if kind["cycles_per_mac"] is None else f"{kind['cycles_per_mac']:.3f}"
            shown = cells(text, board, f"{kind['name']}, cycles")
            assert shown == [f"{kind['cycles']:,}", ratio, f"{100 * kind['share']:.1f}", "%"]
        for figure in ("cycles", "instructions", "macs"):
            assert sum(kind[figure] for kind in row["kinds"]) == row[figure] > 0
        assert sum(kind["share"] for kind in row["kinds"]) == pytest.approx(1.0)
        assert sum(row["flash"].values()) == row["flash_bytes"] and min(row["flash"].values()) > 0
        assert f"{board}: expected error of the cycles: {row['expected_error']}" in text
        assert all(text.count(condition) for condition in row["conditions"].values())


@pytest.mark.slow
@needs_boards
def test_the_table_of_a_model_says_what_the_json_says(tmp_path: Path) -> None:
    model = saved(tmp_path)
    text, values = call("--model", model), json.loads(call("--model", model, "--board", "stm32h7b3i", "--json"))
    assert [line.split()[0] for line in text.splitlines() if " milliseconds " in line] == list(bench.BOARDS)
    assert values["network"] == {"name": "integer", "rounding": "single"}
    assert all(row["reference"] is None for row in values["boards"]) and "TinyEngine" not in text
    check(values, text)


@needs_boards
def test_one_network_stands_beside_goals_and_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(bench, "DEFAULTS", {**bench.DEFAULTS, "alpha": 0.1, "resolution": 32})
    shown: list[dict[str, Any]] = []
    real = bench._text
    monkeypatch.setattr(bench, "_text", lambda values: shown.append(values) or real(values))
    text = call("--board", "STM32L4R9I", "--alpha", "0.1", "--resolution", "32")
    (values,) = shown
    check(values, text)
    (row,) = values["boards"]
    network = sum(layer.macs for layer in layer_table(mobilenet_v2(alpha=0.1, resolution=32, classes=10)))
    assert 0.98 * network < row["macs"] <= network  # a few channels of random weights are dead and not compiled
    assert all(kind["layers"] > 0 for kind in row["kinds"] if kind["name"] in ("pointwise", "other"))
    must_to_tflite = ["158,000,000", "125,000,000", "396,400,000", "333,400,000", "404,400,000"]
    assert cells(text, "stm32l4r9i", "cycles")[2:] == must_to_tflite
    assert cells(text, "stm32l4r9i", "instructions")[1:] == ["341,600,000", "266,300,000", "347,500,000"]
    assert cells(text, "stm32l4r9i", "arena bytes")[1:] == ["190,000", "170,000", "752,640", "729,320", "887,188"]
    assert bench.PEERS in text


@needs_boards
def test_every_family_can_be_timed() -> None:
    pytest.importorskip("torch")
    values = json.loads(call("--net", "autoencoder", "--board", "stm32l4r9i", "--json"))
    assert values["network"] == {"name": "autoencoder", "rounding": "single"}
    (row,) = values["boards"]
    assert row["reference"] is None and row["macs"] == 264_192
    assert {kind["name"]: kind["layers"] for kind in row["kinds"]} == {"dense": 10, "other": 2}
    assert row["kinds"][0]["cycles_per_mac"] == pytest.approx(row["cycles_per_mac"], rel=0.2)


@needs_boards
def test_every_layer_in_text_and_json(tmp_path: Path) -> None:
    model = saved(tmp_path)
    arguments = ("--model", model, "--board", "stm32l4r9i", "--layers", "--objective", "ram")
    text, values = call(*arguments), json.loads(call(*arguments, "--json"))
    (row,) = values["boards"]
    for figure in ("cycles", "instructions", "macs"):
        assert sum(layer[figure] for layer in row["layers"]) == row[figure]
    assert sum(layer["share"] for layer in row["layers"]) == pytest.approx(1.0)
    assert all(layer["kernels"] for layer in row["layers"][:-1]) and not row["layers"][-1]["kernels"]
    for layer in row["layers"]:
        line = next(line for line in text.splitlines() if f"  {layer['name']}  " in line)
        assert f"{layer['cycles']:,}" in line
        assert all(name.removeprefix("mj_") in line for name in layer["kernels"])
    with pytest.raises(PlacementError):
        call("--model", model, "--board", "stm32l4r9i", "--ram-budget", "8")


def test_kinds_of_layers() -> None:
    rows = [
        ("normalize", 0, (1, 8, 8, 3), (1, 8, 8, 3), "other"),
        ("conv2d", 27 * 128, (1, 8, 8, 3), (1, 4, 8, 4), "first convolution"),
        ("depthwise_conv2d", 1152, (1, 4, 8, 4), (1, 4, 8, 4), "depthwise"),
        ("conv2d", 640, (1, 4, 8, 4), (1, 4, 8, 5), "pointwise"),
        ("conv2d", 320, (1, 4, 8, 5), (1, 2, 4, 8), "pointwise"),
        ("conv2d", 9 * 512, (1, 2, 4, 8), (1, 2, 4, 8), "convolution"),
        ("conv2d + depthwise_conv2d", 1000, (1, 2, 4, 8), (1, 2, 4, 8), "fused"),
        ("add", 0, (1, 2, 4, 8), (1, 2, 4, 8), "add"),
        ("dense", 64, (1, 8), (1, 8), "dense"),
        ("softmax", 0, (1, 8), (1, 8), "other"),
    ]
    layers = [
        Layer(index, "", operator, "integer", "", f"s{index}", macs, before, after, 0, 0, 0, "")
        for index, (operator, macs, before, after, _) in enumerate(rows)
    ]
    assert list(bench._kinds(layers).values()) == [row[-1] for row in rows]
    assert bench._kinds(layers[6:7] + layers[1:2])["s1"] == "convolution"  # not the first any more


def test_goals_and_peers_are_for_one_configuration() -> None:
    network = {"name": "mobilenet_v2", **bench.DEFAULTS}
    found = bench._reference("stm32h7b3i", network)
    assert found is not None and found["goals"]["cycles"] == (93e6, 70e6)
    assert found["peers"]["CMSIS-NN"]["cycles"] == 231.4e6
    double = bench._reference("stm32h7b3i", {**network, "rounding": "double"})
    assert double is not None and set(double["goals"]) == {"arena_bytes", "flash_bytes"}
    for other in ({"alpha": 0.35}, {"resolution": 128}, {"classes": 11}, {"name": "static"}):
        assert bench._reference("stm32h7b3i", {**network, **other}) is None
    assert bench._reference("nucleo_l4r5zi", network) is None


@pytest.mark.slow
def test_the_same_random_network_every_time() -> None:
    torch = pytest.importorskip("torch")
    before = torch.random.get_rng_state()
    spec = mobilenet_v2(0.1, 32, 3)
    first, second = (bench.random_model(spec, rounding) for rounding in ("single", "double"))
    assert torch.equal(before, torch.random.get_rng_state())
    assert (first.rounding, second.rounding) == ("single", "double")
    assert first.constants.keys() == second.constants.keys()
    assert all((first.constants[name] == second.constants[name]).all() for name in first.constants)


def test_refusals(tmp_path: Path) -> None:
    broken = tmp_path / "broken.mj"
    broken.write_bytes(b"\x10\0\0\0\0\0\0\0{")
    expected: list[tuple[type[MillijouleError], list[str], str]] = [
        (BoardError, ["--board", "stm32f4"], "stm32l4r9i"),
        (BoardError, ["--board", "host"], "host"),
        (FormatError, ["--model", str(broken)], "broken.mj"),
        (FormatError, ["--model", str(tmp_path / "none.mj")], "no such file"),
        (DataError, ["--model", saved(tmp_path, "float")], "Quantise it first"),
        (OptionError, ["--model", str(broken), "--alpha", "0.5"], "--alpha"),
        (OptionError, ["--model", str(broken), "--net", "resnet8"], "--net"),
        (OptionError, ["--net", "resnet9"], "autoencoder, ds_cnn, mobilenet_v1, mobilenet_v2, resnet8"),
        (OptionError, ["--net", "resnet8", "--alpha", "0.5"], "resnet8 does not have it: it has one width"),
        (OptionError, ["--net", "ds_cnn", "--resolution", "96"], "its input is always 49x10x1"),
        (OptionError, ["--net", "autoencoder", "--classes", "5"], "as many as its inputs"),
        (OptionError, ["--rounding", "up"], "single, double, mulhi"),
        (OptionError, ["--alpha", "0"], "alpha"),
        (OptionError, ["--resolution", "5"], "resolution"),
    ]
    for error, arguments, words in expected:
        with pytest.raises(error, match=words):
            call(*arguments)
