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
MODULES = (
    "environments",
    "figures",
    "inputs",
    "rows",
    "run",
    "torch_network",
    "worker",
    "baseline",
    "held_back",
    "mixed",
    "qat",
    "training",
)


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


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared set; one in 25 of its training pictures is held back."""
    from millijoule.data import open_source, prepare

    folder = tmp_path_factory.mktemp("toy")
    prepare(open_source("toy_vehicles", per_class=12, seed=3), folder, resolution=32)
    return folder


def test_training_pictures_are_those_that_the_projects_own_loop_sees(
    bench: SimpleNamespace, toy: Path, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    import training
    from held_back import HeldBack
    from qat import FINE_TUNING

    from millijoule.data import batches, open_prepared
    from millijoule.train import fit

    made = training.make_training(toy, tmp_path, reference=False)
    seen: list[tuple[np.ndarray, np.ndarray]] = []

    def recorded(split: object, *args: object, **how: object) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for batch in batches(split, *args, **how):  # type: ignore[arg-type]
            if split is data.splits["train"]:
                seen.append(batch)
            yield batch

    data = HeldBack(open_prepared(toy), training.HOLD_BACK, training.PICTURES, reference=False)
    module = torch.nn.Sequential(torch.nn.AvgPool2d(32), torch.nn.Flatten(), torch.nn.Linear(3, 10))
    fit(module, data, FINE_TUNING, tmp_path / "run", batches=recorded, test=False)
    pictures, labels = np.load(made.folder / "pictures.npy"), np.load(made.folder / "labels.npy")
    assert len(pictures) == len(labels) == len(made.rates) * made.batch_size
    assert np.array_equal(pictures, np.concatenate([batch[0] for batch in seen]))
    assert np.array_equal(labels, np.concatenate([batch[1] for batch in seen]))


def test_training_rates_are_one_warm_up_and_half_a_cosine(bench: SimpleNamespace, toy: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    import training
    from qat import FINE_TUNING

    steps = training.PICTURES // FINE_TUNING.batch_size
    assert steps == 81
    rates = training.make_training(toy, tmp_path, reference=False).rates
    count, warm = len(rates), 0.1 * len(rates)
    for step, rate in enumerate(rates, 1):
        expected = step / warm if step < warm else 0.5 + 0.5 * np.cos(np.pi * (step - warm) / (count - warm))
        assert rate == pytest.approx(1e-4 * expected, abs=1e-12)


def test_training_pictures_are_made_once(bench: SimpleNamespace, toy: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    import training

    first = training.make_training(toy, tmp_path, reference=False)
    files = {path.name: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    assert files.keys() == {"pictures.npy", "labels.npy"}
    assert training.make_training(toy, tmp_path, reference=False) == first
    assert files == {path.name: path.stat().st_mtime_ns for path in first.folder.iterdir()}


def test_training_on_another_split_than_the_references_is_refused(
    bench: SimpleNamespace, toy: Path, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    import training

    with pytest.raises(SystemExit, match="not the reference's"):
        training.make_training(toy, tmp_path, reference=True)
    assert not (tmp_path / "training").exists()


def test_a_row_that_trains_needs_pictures_and_depends_on_them(
    bench: SimpleNamespace, made: tuple[SimpleNamespace, Path]
) -> None:
    inputs, cache = made
    row = next(row for row in bench.rows.ROWS if row.name == "torchao-qat")
    assert "--training" in bench.run.measure(row, inputs, cache, 1)["error"]
    keys = {bench.run.row_key(row, inputs, None)}
    for digest, rates, size in (("a", (1e-4,), 16), ("b", (1e-4,), 16), ("a", (2e-4,), 16), ("a", (1e-4,), 8)):
        keys.add(bench.run.row_key(row, inputs, SimpleNamespace(digest=digest, rates=rates, batch_size=size)))
    assert len(keys) == 5
    other = next(row for row in bench.rows.ROWS if row.name == "torchao-x86")
    given = SimpleNamespace(digest="a", rates=(1e-4,), batch_size=16)
    assert bench.run.row_key(other, inputs, given) == bench.run.row_key(other, inputs)


def test_the_trained_model_is_a_line_beside_the_converted_one(
    bench: SimpleNamespace, made: tuple[SimpleNamespace, Path], tmp_path: Path
) -> None:
    inputs, _ = made
    row = next(row for row in bench.rows.ROWS if row.name == "torchao-qat")
    said = {"file_bytes": None}
    assert bench.run.trained_result(row, inputs, tmp_path, said) is None
    folder = tmp_path / "rows" / inputs.digest / row.name
    folder.mkdir(parents=True)
    logits = inputs.reference.astype(np.float32)
    np.save(folder / "trained.npy", logits)
    logits[:5] = np.roll(logits[:5], 1, axis=1)
    np.save(folder / "logits.npy", logits)
    before, found, counted = bench.run.trained_result(row, inputs, tmp_path, said)
    assert found["differing_after_conversion"] == 5
    assert counted.changed == 0
    converted = bench.run.row_figures(row, inputs, tmp_path, said)
    assert converted.changed == 5
    lines = bench.run.table([(before, found, counted), (row, said, converted)]).splitlines()
    assert lines[1] == "### Quantisation-aware training"
    assert "before conversion | " in lines[-2] and " | 0 (0.0 %) | " in lines[-2]
    assert " | 5 (20.8 %) | " in lines[-1]
    assert bench.run.trained_result(row, inputs, tmp_path, {"error": "it failed"}) is None


@pytest.mark.slow
def test_torchao_trains_and_converts(
    bench: SimpleNamespace, made: tuple[SimpleNamespace, Path], toy: Path, tmp_path: Path
) -> None:
    """Where torchao's environment is in the benchmark's own cache: a run of the real tool."""
    import training

    from millijoule.files import cache_folder

    cache = cache_folder("accuracy")
    folder = bench.environments.environment_folder("torchao", cache / "environments")
    if not (folder / bench.environments.READY).exists():
        pytest.skip("no environment with torchao; benchmarks/accuracy/run.py makes it")
    inputs, _ = made
    (tmp_path / "environments").symlink_to(cache / "environments")
    lesson = training.make_training(toy, tmp_path, reference=False)
    labels = lesson.folder / "labels.npy"
    np.save(labels, np.load(labels) % 4)  # the network has four classes
    row = next(row for row in bench.rows.ROWS if row.name == "torchao-qat-frozen")
    said = bench.run.measure(row, inputs, tmp_path, 1, lesson)
    assert "error" not in said
    place = tmp_path / "rows" / inputs.digest / row.name
    trained, converted = np.load(place / "trained.npy"), np.load(place / "logits.npy")
    assert trained.shape == converted.shape == inputs.reference.shape
    assert np.sum((trained - converted) ** 2) < 0.1 * np.sum(trained**2)
    assert "52 batch normalisations keep their statistics" in (place / "log.txt").read_text()
