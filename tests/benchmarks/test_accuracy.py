from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "accuracy"
MODULES = ("environments", "figures", "inputs", "rows", "run", "torch_network", "worker", "baseline", "mixed")


@pytest.fixture(scope="module")
def bench() -> Iterator[SimpleNamespace]:
    """The modules of the benchmark, imported as its scripts import one another."""
    sys.path.insert(0, str(FOLDER))
    try:
        import environments
        import figures
        import inputs
        import rows
        import run
        import torch_network
        import worker

        yield SimpleNamespace(
            environments=environments,
            figures=figures,
            inputs=inputs,
            rows=rows,
            run=run,
            torch_network=torch_network,
            worker=worker,
        )
    finally:
        sys.path.remove(str(FOLDER))
        for name in MODULES:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def made(bench: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> tuple[SimpleNamespace, Path]:
    """A small MobileNetV2 with random weights and batch normalisation, 24 random pictures, 8 for calibration."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnx")
    from millijoule.interchange import capture
    from millijoule.nets import build, mobilenet_v2

    torch.manual_seed(3)
    spec = mobilenet_v2(alpha=0.35, resolution=32, classes=4)
    module = build(spec).eval()
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.3)
            layer.running_var.uniform_(0.5, 1.5)
    graph = bench.inputs.logits_only(capture(module, spec))
    rng = np.random.default_rng(1)
    pictures = rng.integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)
    labels = rng.integers(0, 4, 24)
    cache = tmp_path_factory.mktemp("cache")
    return bench.inputs.store_inputs(graph, pictures, labels, pictures[:8], cache), cache


def test_figures_by_hand(bench: SimpleNamespace) -> None:
    reference = np.array([[2.0, 1.0], [2.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    logits = np.array([[2.0, 1.0], [1.0, 2.0], [1.0, 1.0], [0.0, 1.0]])
    labels = np.array([0, 0, 0, 0])
    found = bench.figures.figures(reference, logits, labels)
    assert (found.right, found.lost, found.won, found.changed) == (2, 1, 1, 2)  # a tie goes to the lower class
    assert found.difference == 0.0
    assert found.half_interval == pytest.approx(1.959963984540054 * 100 * (2 / 4 / 4) ** 0.5)
    assert found.sqnr == pytest.approx(10 * np.log10(12 / 3))
    assert "| x | 50.00 | +0.00 ±" in found.line("x", "7")


def test_rows_have_their_scripts_and_environments(bench: SimpleNamespace) -> None:
    names = [row.name for row in bench.rows.ROWS]
    assert len(set(names)) == len(names)
    for row in bench.rows.ROWS:
        assert (FOLDER / row.script).exists()
        assert row.environment == bench.rows.OURS or (FOLDER / f"requirements_{row.environment}.txt").exists()
        assert row.group in bench.rows.GROUPS


def test_rows_are_chosen_by_name_or_beginning(bench: SimpleNamespace) -> None:
    chosen = bench.run.chosen_rows
    assert [row.name for row in chosen(["ours-dynamic"])] == ["ours-dynamic"]
    assert {row.name for row in chosen(["nncf"])} > {"nncf-mixed", "nncf-performance"}
    assert chosen([]) == list(bench.rows.ROWS)
    with pytest.raises(SystemExit, match="nobody"):
        chosen(["nobody"])


def test_requirements_are_pinned(bench: SimpleNamespace) -> None:
    for path in FOLDER.glob("requirements_*.txt"):
        lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
        assert lines
        assert all("==" in line for line in lines), path.name


@pytest.mark.slow
def test_torch_network_gives_the_float_logits(bench: SimpleNamespace, made: tuple[SimpleNamespace, Path]) -> None:
    import torch

    inputs, _ = made
    job = replace_job(inputs, inputs.folder)
    (inputs.folder / "job.json").write_text(json.dumps(job))
    work = bench.worker.Job(inputs.folder)
    network = bench.torch_network.TorchNetwork(work.layers, work.parameters).eval()
    with torch.no_grad():
        logits = work.evaluate(lambda x: network(torch.from_numpy(x)).numpy(), batch=7, channels_first=True)
    assert np.abs(logits - inputs.reference).max() < 1e-4 * np.abs(inputs.reference).max()


def replace_job(inputs: SimpleNamespace, folder: Path) -> dict[str, object]:
    return {**inputs.paths(), "scale": inputs.scale, "offset": inputs.offset, "settings": {}, "threads": 1}


def test_onnx_export_gives_the_float_logits(bench: SimpleNamespace, made: tuple[SimpleNamespace, Path]) -> None:
    pytest.importorskip("onnxruntime")
    inputs, _ = made
    (inputs.folder / "job.json").write_text(json.dumps(replace_job(inputs, inputs.folder)))
    work = bench.worker.Job(inputs.folder)
    logits = bench.worker.run_onnx(work, work.onnx)
    assert np.abs(logits - inputs.reference).max() < 1e-4 * np.abs(inputs.reference).max()


def test_a_row_is_run_once_and_again_when_its_settings_change(
    bench: SimpleNamespace, made: tuple[SimpleNamespace, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    inputs, cache = made
    row = next(row for row in bench.rows.ROWS if row.name == "ours-dynamic")
    said = bench.run.measure(row, inputs, cache, 1)
    assert said["file_bytes"] > 0
    assert "# runs ours-dynamic" in capsys.readouterr().out
    found = bench.run.row_figures(row, inputs, cache, said)
    assert found.photographs == 24
    assert found.sqnr is not None and found.sqnr > 5
    assert bench.run.measure(row, inputs, cache, 1) == said
    assert "# runs" not in capsys.readouterr().out
    other = replace(row, settings={**row.settings, "refine": "none"})
    bench.run.measure(other, inputs, cache, 1)
    assert "# runs ours-dynamic" in capsys.readouterr().out


def test_a_row_that_fails_is_a_line_with_its_error(bench: SimpleNamespace, made: tuple[SimpleNamespace, Path]) -> None:
    inputs, cache = made
    row = next(row for row in bench.rows.ROWS if row.name == "ours-dynamic")
    broken = replace(row, name="broken", settings={**row.settings, "refine": "nonsense"})
    said = bench.run.measure(broken, inputs, cache, 1)
    found = bench.run.row_figures(broken, inputs, cache, said)
    assert "nonsense" in found["error"]
    assert "nonsense" in bench.run.table([(broken, said, found)])


def test_inputs_are_kept_and_told_apart(bench: SimpleNamespace, made: tuple[SimpleNamespace, Path]) -> None:
    from millijoule.graph import load_graph

    inputs, cache = made
    graph = load_graph(inputs.folder / "float.mj")
    pictures, calibration = np.load(inputs.folder / "pictures.npy"), np.load(inputs.folder / "calibration.npy")
    again = bench.inputs.store_inputs(graph, pictures, inputs.labels, calibration, cache)
    assert again.digest == inputs.digest
    changed = calibration.copy()
    changed[0, 0, 0, 0] ^= 1
    assert bench.inputs.store_inputs(graph, pictures, inputs.labels, changed, cache).digest != inputs.digest
