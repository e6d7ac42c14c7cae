"""A whole study, small: real pictures, real training, real firmware; stopped in the middle and finished."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from millijoule.emulate import energy
from millijoule.files import Progress
from millijoule.graph import load_graph
from millijoule.nets import build, mobilenet_v2
from millijoule.study import DataOptions, QatPlan, QuietReporter, Study, StudyOptions, clear_run, run_study, summary

OPTIONS = StudyOptions(
    data=DataOptions(per_class=14),
    alpha=0.35,
    resolution=32,
    train={"epochs": 1, "batch_size": 16, "learning_rate": 1e-3},
    qat=QatPlan(mode="none"),
    calibration=20,
    methods=("static",),
    boards=("stm32l4r9i",),
    verify_pictures=2,
)


class _Stop(QuietReporter):
    """Presses Ctrl-C when a stage begins."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.ran: list[str] = []

    @contextlib.contextmanager
    def stage(self, title: str) -> Iterator[Progress]:
        if title == self.title:
            raise KeyboardInterrupt
        self.ran.append(title)
        yield lambda _what, _done, _total: None


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Study, list[str]]:
    """A run that was interrupted after training and then finished."""
    folder = tmp_path_factory.mktemp("study")
    first = _Stop("quantise: static")
    with pytest.raises(KeyboardInterrupt):
        run_study(OPTIONS, folder, reporter=first)
    assert first.ran == ["prepare pictures", "train in float", "capture the float graph", "quantise: dynamic"]
    assert not (folder / "report.json").exists()
    second = _Stop("")
    return folder, run_study(OPTIONS, folder, reporter=second, command="millijoule test"), second.ran


def test_an_interrupted_study_goes_on_where_it_was(finished: tuple[Path, Study, list[str]]) -> None:
    _, study, ran = finished
    assert ran == ["quantise: static", "evaluate on the test split", "Static on STM32L4R9I"]
    assert [stage.name for stage in study.stages if stage.reused] == ["data", "train", "float", "dynamic"]


def test_a_finished_study_is_only_told_again(finished: tuple[Path, Study, list[str]]) -> None:
    folder, study, _ = finished
    again = _Stop("")
    repeated = run_study(OPTIONS, folder, reporter=again, command="millijoule test")
    assert again.ran == []
    assert all(stage.reused for stage in repeated.stages)
    assert (repeated.methods, repeated.deployments) == (study.methods, study.deployments)


def test_other_boards_do_not_train_again(finished: tuple[Path, Study, list[str]], tmp_path: Path) -> None:
    folder = shutil.copytree(finished[0], tmp_path / "copy")
    reporter = _Stop("Static on STM32H7B3I")
    with pytest.raises(KeyboardInterrupt):
        run_study(replace(OPTIONS, boards=("stm32h7b3i",)), folder, reporter=reporter)
    assert reporter.ran == []


def test_both_ways_of_qat_start_where_they_say(finished: tuple[Path, Study, list[str]], tmp_path: Path) -> None:
    folder = shutil.copytree(finished[0], tmp_path / "copy")
    plan = QatPlan(mode="both", training={"epochs": 1, "learning_rate": 1e-9}, scratch={"learning_rate": 1e-9})
    study = run_study(replace(OPTIONS, qat=plan, methods=()), folder, reporter=QuietReporter())
    assert [method.name for method in study.methods] == ["float", "dynamic", "static", "qat", "qat_scratch"]
    for name in ("qat", "qat_scratch"):
        conversion = study.training[name].conversion
        assert conversion is not None and conversion.disagreements == 0 < conversion.pictures
    assert study.training["float"].conversion is None
    random = build(mobilenet_v2(0.35, 32, 10, OPTIONS.dropout), seed=OPTIONS.seed).classifier.weight.detach().numpy()
    weights = {
        name: next(graph.constant(node.inputs[1]) for node in graph.nodes if node.source == "classifier")
        for name, graph in ((name, load_graph(folder / f"{name}.mj")) for name in ("qat", "qat_scratch", "float"))
    }
    for name, start in (("qat", weights["float"]), ("qat_scratch", random)):
        for row, first in zip(weights[name], start, strict=True):
            assert np.corrcoef(row, first)[0, 1] > 0.999  # each row has its own scale


def test_files_hold_what_the_result_says(finished: tuple[Path, Study, list[str]]) -> None:
    folder, study, _ = finished
    stored = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert stored["methods"] == json.loads(json.dumps(study.to_json()))["methods"]
    assert StudyOptions.from_toml(folder / "study.toml") == OPTIONS
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert all(f"{method.accuracy:.2f}" in page for method in study.methods)
    assert load_graph(folder / "static.mj").classes == study.data.classes


def test_accuracies_are_counts_of_the_confusion_matrix(finished: tuple[Path, Study, list[str]]) -> None:
    _, study, _ = finished
    assert [method.name for method in study.methods] == ["float", "dynamic", "static"]
    for method in study.methods:
        right = sum(row[index] for index, row in enumerate(method.confusion))
        assert method.correct == right
        assert method.pictures == study.data.counts["test"] == sum(map(sum, method.confusion))
        assert method.accuracy == pytest.approx(100 * right / method.pictures)
        assert method.interval[0] <= method.accuracy <= method.interval[1]


def test_firmware_is_bit_exact_and_its_figures_add_up(finished: tuple[Path, Study, list[str]]) -> None:
    _, study, _ = finished
    (deployment,) = study.deployments
    assert deployment.status == "ran"
    assert deployment.verify is not None and deployment.verify.equal and deployment.verify.tolerance == 0
    assert deployment.milliseconds == pytest.approx(deployment.cycles / 120e6 * 1e3)
    timing = deployment.timing
    assert timing is not None and timing.method == "trace" and timing.memory == "modelled" and timing.stalls is not None
    waiting = timing.stalls["flash_fetch"] + timing.stalls["flash_data"]
    expected = energy(deployment.cycles, "stm32l4r9i", stall_cycles=waiting)
    assert deployment.energy[0].millijoules == pytest.approx(expected.millijoules)
    assert 0 < sum(timing.stalls.values()) < deployment.cycles
    for layer in deployment.layers:
        assert sum(layer.mix.values()) == layer.instructions and layer.stalls is not None
        assert sum(layer.stalls.values()) < layer.cycles and layer.live_bytes > 0 and layer.block
    assert 0 < sum(layer.cycles for layer in deployment.layers) <= deployment.cycles
    # a few channels of random weights are dead and not compiled
    assert 0.99 * study.network.macs < sum(layer.macs for layer in deployment.layers) <= study.network.macs
    assert deployment.plan is not None
    assert max(buffer.offset + buffer.bytes for buffer in deployment.plan.buffers) <= deployment.arena_bytes
    assert max(deployment.plan.live_bytes) <= deployment.lower_bound_bytes <= deployment.arena_bytes
    assert deployment.ram is not None
    for rows, layer in zip(deployment.ram["layers"], deployment.layers, strict=True):
        assert rows["name"] == layer.name and max(rows["bytes"]) <= layer.live_bytes


def test_summary_names_the_report_and_every_method(finished: tuple[Path, Study, list[str]]) -> None:
    folder, study, _ = finished
    text = summary(study, folder / "report.html")
    assert text.splitlines()[-1].endswith("report.html")
    assert all(method.title in text for method in study.methods)
    order = [text.index(word) for word in ("assumed", "accuracy and memory", "work and time")]
    assert order == sorted(order)
    assert "toy" in text and "with flash wait states and caches, access by access" in text


def test_clearing_a_run_keeps_what_is_not_ours(tmp_path: Path) -> None:
    for name in ("stages", "train", "data"):
        (tmp_path / name).mkdir()
    (tmp_path / "qat.mj").write_text("x")
    (tmp_path / "notes.txt").write_text("mine")
    clear_run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
