"""`millijoule quantize` on a small network and toy pictures."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from millijoule.cli.quantize import app
from millijoule.data import open_source, prepare
from millijoule.errors import DataError, OptionError, QuantizationError
from millijoule.graph import ROUNDINGS, WEIGHT_AXIS, load_graph, save_graph

# By path: another room has a module of the same name.
_SPEC = importlib.util.spec_from_file_location(
    "quantize_networks", Path(__file__).resolve().parent.parent / "quantize" / "networks.py"
)
assert _SPEC is not None and _SPEC.loader is not None
_NETWORKS = importlib.util.module_from_spec(_SPEC)
sys.modules["quantize_networks"] = _NETWORKS
_SPEC.loader.exec_module(_NETWORKS)
small_network = _NETWORKS.small_network

RUNNER = CliRunner()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared set in `toy` and a float model `float.mj`."""
    folder = tmp_path_factory.mktemp("quantize")
    prepare(open_source("toy_vehicles", per_class=10), folder / "toy", resolution=32)
    network = small_network(size=32, classes=10)
    save_graph(network, folder / "float.mj")
    return folder


def run(*arguments: object) -> str:
    result = RUNNER.invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_three_ways_and_their_comparison(folder: Path, tmp_path: Path) -> None:
    toy, model = folder / "toy", folder / "float.mj"
    run("dynamic", model, "--out", tmp_path / "dynamic.mj")
    run("static", model, "--data", toy, "--out", tmp_path / "static.mj", "--calibration", 20, "--observer", "min_max")
    out = tmp_path / "qat.mj"
    options = ("--epochs", 1, "--batch-size", 10, "--calibration", 20, "--no-augmentation", "--device", "cpu")
    assert "predictions changed by conversion" in run("qat", model, "--data", toy, "--out", out, *options)
    assert load_graph(out).history[-1].startswith("qat")
    assert (tmp_path / "qat.run" / "metrics.jsonl").is_file()
    models = [model, *(tmp_path / f"{name}.mj" for name in ("dynamic", "static", "qat"))]
    table = json.loads(run("compare", *models, "--data", toy, "--split", "validation", "--json"))
    assert [row["name"] for row in table["models"]] == ["float", "dynamic", "static", "qat"]
    assert table["models"][2]["flash_bytes"] < 0.5 * table["models"][0]["flash_bytes"]
    text = run("compare", *models, "--data", toy, "--limit", 8)
    assert "92.42 / 5,323 / 1,532" in text
    assert all(name in text for name in ("float", "dynamic", "static", "qat"))


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_the_rounding_rule_reaches_the_file(folder: Path, tmp_path: Path, rounding: str) -> None:
    out = tmp_path / "static.mj"
    options = ("--calibration", 10, "--rounding", rounding)
    run("static", folder / "float.mj", "--data", folder / "toy", "--out", out, *options)
    assert load_graph(out).rounding == rounding


def test_refusals(folder: Path, tmp_path: Path) -> None:
    toy, model = folder / "toy", folder / "float.mj"
    run("dynamic", model, "--out", tmp_path / "dynamic.mj")

    def refused(kind: type[Exception], *arguments: object) -> None:
        with pytest.raises(kind):
            RUNNER.invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)

    out = tmp_path / "out.mj"
    refused(QuantizationError, "static", tmp_path / "dynamic.mj", "--data", toy, "--out", out)
    refused(OptionError, "static", model, "--data", toy, "--out", out, "--observer", "magic")
    refused(OptionError, "static", model, "--data", toy, "--out", out, "--rounding", "magic")
    refused(DataError, "static", model, "--data", tmp_path / "nothing", "--out", out)
    refused(OptionError, "compare", model, model, model, "--data", toy)
    assert not out.exists()


def test_reports_of_every_decision_with_and_without_pictures(folder: Path, tmp_path: Path) -> None:
    model, out = folder / "float.mj", tmp_path / "out.mj"
    options = ("--data", folder / "toy", "--calibration", 20, "--refine", "auto", "--per-layer")
    text = run("static", model, "--out", out, *options, "--report")
    assert "kept" in text and "refused" in text and "depthwise" in text
    text = run("static", model, "--out", out, "--data-free", "--refine", "full", "--report", "--json")
    report = json.loads(text[text.index("\n{") :])
    assert report["settings"]["drawn pictures"] == 64 and len(report["decisions"]) == 6
    assert "learned rounding" in run("dynamic", model, "--out", out, "--refine", "full", "--report")
    with pytest.raises(OptionError, match="--data-free"):
        RUNNER.invoke(app, ["static", str(model), "--out", str(out)], catch_exceptions=False)


def test_qat_with_four_bits_and_learned_ranges(folder: Path, tmp_path: Path) -> None:
    toy, model, out = folder / "toy", folder / "float.mj", tmp_path / "qat.mj"
    options: tuple[object, ...] = ("--epochs", 1, "--batch-size", 10, "--calibration", 20, "--no-augmentation")
    options += ("--ranges", "learned", "--ema-decay", 0.9, "--weight-bits", "4", "--weight-bits", "*d*=8")
    run("qat", model, "--data", toy, "--out", out, "--device", "cpu", *options)
    graph = load_graph(out)
    assert "weights of 4 and 8 bits" in graph.history[-1]
    bits = {node.source: graph.quant(node.inputs[1]).bits for node in graph.nodes if node.op in WEIGHT_AXIS}
    assert bits == {"first": 4, "expand": 8, "depthwise": 8, "project": 4, "last": 4, "head": 8}
    for wrong in ("5", "nothing=4"):
        with pytest.raises(OptionError, match=wrong):
            run("qat", model, "--data", toy, "--out", out, "--weight-bits", wrong)


def test_sensitivity_and_mixed_precision(folder: Path, tmp_path: Path) -> None:
    toy, model, out = folder / "toy", folder / "float.mj", tmp_path / "mixed.mj"
    few = ("--data", toy, "--calibration", 20)
    found = json.loads(run("sensitivity", model, *few, "--limit", 4, "--accuracy", "--json"))
    names = [layer["layer"] for layer in found["layers"]]
    assert names == ["first", "expand", "depthwise", "project", "last", "head"]
    text = run("sensitivity", model, *few, "--limit", 2)
    assert all(name in text for name in names)
    text = run("mixed", model, *few, "--out", out, "--budget-share", 90, "--report")
    assert "% of" in text
    assert "depthwise  bits" in text
    assert any("mixed" in note for note in load_graph(out).history)
    with pytest.raises(OptionError, match="budget"):
        run("mixed", model, *few, "--out", out)
    with pytest.raises(OptionError, match="board"):
        run("mixed", model, *few, "--out", out, "--budget-cycles", 1000)
