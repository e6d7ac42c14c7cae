"""`millijoule quantize` on a small network and toy pictures."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from millijoule.cli._compare import compiler
from millijoule.cli.quantize import app
from millijoule.compile import HOST, compile_graph
from millijoule.data import open_prepared, open_source, prepare
from millijoule.errors import BoardError, DataError, FormatError, OptionError, OutputError, QuantizationError
from millijoule.graph import ROUNDINGS, WEIGHT_AXIS, load_graph, save_graph, simplify
from millijoule.nets import build, mobilenet_v2, save_weights

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
    prepared = prepare(open_source("toy_vehicles", per_class=10), folder / "toy", resolution=32)
    network = small_network(size=32, classes=10)
    save_graph(replace(network, classes=prepared.classes), folder / "float.mj")
    return folder


def run(*arguments: object) -> str:
    result = RUNNER.invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_16_bit_floats(folder: Path, tmp_path: Path) -> None:
    model, out = folder / "float.mj", tmp_path / "half.mj"
    told = run("half", model, "--out", out, "--report")
    assert "half: 16-bit float weights and biases" in told and "quantisation: 16-bit float weights" in told
    table = json.loads(run("compare", model, out, "--data", folder / "toy", "--limit", 8, "--json"))
    floats, halves = table["models"]
    assert (floats["kind"], halves["kind"]) == ("float", "half")
    assert halves["flash_bytes"] < 0.51 * floats["flash_bytes"]
    assert halves["tflite_bytes"] < floats["tflite_bytes"]
    assert halves["weight_bits"] == 16 and halves["compiled"]["flash_bytes"] < 0.55 * floats["compiled"]["flash_bytes"]
    with pytest.raises(QuantizationError, match="16-bit floats already"):
        run("half", out, "--out", tmp_path / "never.mj")
    assert not (tmp_path / "never.mj").exists()


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
    text = run("compare", *models, "--data", toy, "--limit", 8, "--layers")
    assert "92.42 / 5,323 / 1,532" in text
    assert all(name in text for name in ("float", "dynamic", "static", "qat", "depthwise"))


def test_comparison_shows_what_the_compiler_and_the_executors_give(folder: Path, tmp_path: Path) -> None:
    toy, model = folder / "toy", folder / "float.mj"
    run("static", model, "--data", toy, "--out", tmp_path / "static.mj", "--calibration", 10)
    arguments = ("compare", model, tmp_path / "static.mj", "--data", toy, "--split", "train")
    found = json.loads(run(*arguments, "--limit", 40, "--layers", "--json"))
    reference, row = found["models"]
    assert found["reference"] == "float" and found["pictures"] == 40 and found["layer_pictures"] == 10
    program = compile_graph(load_graph(tmp_path / "static.mj"), HOST)
    assert row["compiled"] == {
        "flash_bytes": program.weight_bytes,
        "arena_bytes": program.arena_bytes,
        "refusal": "",
    }
    assert (reference["weight_bits"], row["weight_bits"]) == (32.0, 8.0)
    assert len(found["changes"]) == row["changed"]
    layers = {item["layer"]: item["sqnr"] for item in found["layers"]["static"]}
    text = run(*arguments, "--limit", 40, "--layers")
    line = next(line for line in text.splitlines() if line.startswith("static"))
    assert all(
        cell in line.split()
        for cell in (
            f"{row['accuracy']:.2f}",
            f"{row['difference']:+.2f}",
            f"{row['lost']}/{row['won']}",
            f"{program.weight_bytes:,}",
            f"{program.arena_bytes:,}",
        )
    )
    assert f"{layers['depthwise']:.1f}" in next(part for part in text.splitlines() if part.startswith("depthwise"))


def test_a_model_that_fits_no_board_keeps_the_reason_instead_of_its_sizes() -> None:
    large = small_network(size=1024, classes=10)
    sizes = compiler("stm32l4r9i")(large)
    assert sizes.flash_bytes is None and sizes.arena_bytes is None and "bytes" in sizes.refusal
    assert compiler("host")(large).refusal == ""


def test_comparisons_that_are_refused(folder: Path, tmp_path: Path) -> None:
    toy, model = folder / "toy", folder / "float.mj"
    small, other, broken = (tmp_path / f"{name}.mj" for name in ("small", "other", "broken"))
    save_graph(small_network(size=16, classes=10), small)
    save_graph(replace(small_network(size=32, classes=10), classes=tuple("abcdefghij")), other)
    broken.write_bytes(model.read_bytes()[:1000])
    run("static", model, "--data", toy, "--out", tmp_path / "static.mj", "--calibration", 10)
    for words, kind, *arguments in (
        ("its classes .class 0, class 1, class 2 and 7 more. are not those of", DataError, model, small),
        ("its classes .a, b, c and 7 more. are not those of", DataError, model, other),
        (r"broken\.mj: it is truncated", FormatError, model, broken),
        ("no such file", FormatError, tmp_path / "absent.mj"),
        ("no such split", OptionError, model, "--split", "all"),
        ("no board of that name", BoardError, model, "--board", "nothing"),
        ("the reference static is not a float model", OptionError, tmp_path / "static.mj", model, "--layers"),
    ):
        with pytest.raises(kind, match=words):
            run("compare", *arguments, "--data", toy)
    with pytest.raises(DataError, match="no prepared data set"):
        run("compare", model, "--data", tmp_path)


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
    run("static", model, "--data", toy, "--out", out, "--calibration", 10, "--weight-bits", "last=4", "--report")
    assert "weights of 4 bits in 1 layers" in load_graph(out).history[-1]
    assert "adjust+clip+round" in load_graph(out).history[-1]
    again = tmp_path / "again.mj"
    begin = ("--epochs", 1, "--batch-size", 10, "--no-augmentation", "--start", out)
    run("qat", model, "--data", toy, "--out", again, "--device", "cpu", *begin)
    last = next(node for node in load_graph(again).nodes if node.source == "last")
    assert load_graph(again).quant(last.inputs[1]).bits == 4
    with pytest.raises(OptionError, match="has its own"):
        run("qat", model, "--data", toy, "--out", again, "--start", out, "--weight-bits", "4")
    for wrong in ("5", "nothing=4"):
        with pytest.raises(OptionError, match=wrong):
            run("qat", model, "--data", toy, "--out", out, "--weight-bits", wrong)


def test_qat_taught_by_another_network(folder: Path, tmp_path: Path) -> None:
    toy, model, out, teacher = (
        folder / "toy",
        folder / "float.mj",
        tmp_path / "qat.mj",
        tmp_path / "teacher.safetensors",
    )
    spec = mobilenet_v2(alpha=0.35, resolution=32, classes=10)
    save_weights(build(spec), teacher, classes=open_prepared(toy).classes)
    options = ("--data", toy, "--epochs", 1, "--batch-size", 10, "--calibration", 20, "--no-augmentation")
    options += ("--device", "cpu", "--batch-norm-pictures", 20, "--teacher", teacher)
    with pytest.raises(OptionError, match="distillation is 0"):
        run("qat", model, "--out", out, *options, "--distillation", 0.0)
    assert not out.exists()
    run("qat", model, "--out", out, *options, "--distillation", 1.0)
    result = json.loads((tmp_path / "qat.run" / "result.json").read_text())
    assert result["batch_norm"]["pictures"] == 20
    run("qat", model, "--out", tmp_path / "own.mj", *options[:-2], "--distillation", 1.0)
    taught, own = load_graph(out), load_graph(tmp_path / "own.mj")
    assert any((value != own.constants[name]).any() for name, value in taught.constants.items())


def test_qat_is_taught_by_the_float_network_unless_from_scratch(folder: Path, tmp_path: Path) -> None:
    options = ("--data", folder / "toy", "--epochs", 1, "--batch-size", 10, "--calibration", 20, "--device", "cpu")
    models = {}
    for name, more in {
        "default": (),
        "half": ("--distillation", 0.5, "--temperature", 2.0),
        "labels": ("--distillation", 0.0),
        "scratch": ("--from-scratch",),
        "scratch_labels": ("--from-scratch", "--distillation", 0.0),
    }.items():
        run("qat", folder / "float.mj", "--out", tmp_path / f"{name}.mj", *options, *more)
        models[name] = load_graph(tmp_path / f"{name}.mj").constants

    def same(one: str, other: str) -> bool:
        return all(np.array_equal(value, models[other][name]) for name, value in models[one].items())

    assert same("default", "half")
    assert not same("default", "labels")
    assert same("scratch", "scratch_labels")
    for name in ("default", "scratch"):
        measured = json.loads((tmp_path / f"{name}.run" / "result.json").read_text())["batch_norm"]
        assert measured["pictures"] == 1280
    refused = tmp_path / "refused.mj"
    with pytest.raises(OptionError, match="no float network to imitate"):
        run("qat", folder / "float.mj", "--out", refused, *options, "--from-scratch", "--distillation", 0.5)
    assert not refused.exists()


def test_an_output_that_cannot_be_written_is_refused_before_training(folder: Path, tmp_path: Path) -> None:
    taken, run_folder = tmp_path / "taken.mj", tmp_path / "run"
    taken.mkdir()
    with pytest.raises(OutputError, match="it is a folder"):
        run("qat", folder / "float.mj", "--data", folder / "toy", "--out", taken, "--run", run_folder)
    assert not run_folder.exists()
    with pytest.raises(OutputError, match="it is a folder"):
        run("mixed", folder / "float.mj", "--data", folder / "toy", "--out", taken, "--budget-share", 70)


def test_qat_of_a_network_without_batch_normalisation(folder: Path, tmp_path: Path) -> None:
    folded, out = tmp_path / "folded.mj", tmp_path / "qat.mj"
    save_graph(simplify(load_graph(folder / "float.mj")), folded)
    options = ("--data", folder / "toy", "--epochs", 1, "--batch-size", 10, "--calibration", 20, "--device", "cpu")
    with pytest.raises(OptionError, match=r"folded\.mj has no batch normalisation"):
        run("qat", folded, "--out", out, *options, "--batch-norm-pictures", 100)
    assert not out.exists()
    run("qat", folded, "--out", out, *options)
    assert json.loads((tmp_path / "qat.run" / "result.json").read_text()).get("batch_norm") is None


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
