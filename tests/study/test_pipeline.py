"""A whole study, small: real pictures, real training, real firmware; stopped in the middle and finished."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from millijoule import execute
from millijoule.compile import HOST, compile_graph
from millijoule.data import calibration_set, open_prepared
from millijoule.emulate import energy
from millijoule.files import Progress
from millijoule.graph import WEIGHT_AXIS, load_graph
from millijoule.nets import build, mobilenet_v2
from millijoule.study import (
    Analysis,
    DataOptions,
    MixedPlan,
    QatPlan,
    QuietReporter,
    StaticPlan,
    Study,
    StudyOptions,
    clear_run,
    pipeline,
    run_study,
    summary,
)
from millijoule.study.analysis import _thumbnail, gallery
from millijoule.train import TrainOptions

OPTIONS = StudyOptions(
    data=DataOptions(per_class=14),
    alpha=0.35,
    resolution=32,
    train={"epochs": 1, "batch_size": 16, "learning_rate": 1e-3},
    qat=QatPlan(mode="none"),
    calibration=20,
    analysis=Analysis(calibration_curve=(20, 10, 900), pictures=16),
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
    assert ran == [
        "quantise: static",
        "evaluate on the test split",
        "plan the memory",
        "sensitivity of the layers",
        "calibration curve",
        "Static on STM32L4R9I",
    ]
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


def first_to_run(options: StudyOptions, folder: Path) -> str:
    """The title of the first stage of a study that is not reused; nothing is done."""

    class First(QuietReporter):
        title = ""

        @contextlib.contextmanager
        def stage(self, title: str) -> Iterator[Progress]:
            self.title = title
            raise KeyboardInterrupt
            yield  # a context manager yields

    reporter = First()
    with contextlib.suppress(KeyboardInterrupt):
        run_study(options, folder, reporter=reporter)
    return reporter.title


TRAIN, STATIC, DEPLOY = "train in float", "quantise: static", "Static on STM32L4R9I"
DIFFERENT = {
    "epochs": 2, "batch_size": 8, "learning_rate": 2e-3, "schedule": "cosine", "warmup_epochs": 0.5,
    "weight_decay": 0.1, "label_smoothing": 0.1, "ema_decay": 0.9, "mixup": 0.1, "distillation": 0.1,
    "temperature": 2.0, "gradient_clip": 1.0, "batch_norm_pictures": 8,
    "resolutions": [[0.0, 32]], "augmentation": {"zoom": 0.3}, "seed": 5,
    "device": "cpu", "precision": "float32", "checkpoint_steps": 3, "evaluation_batch_size": 16,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "title"),
    [
        ({}, ""),
        ({"data": DataOptions(per_class=15)}, "prepare pictures"),
        ({"seed": 1}, "prepare pictures"),
        ({"resolution": 48}, "prepare pictures"),
        ({"alpha": 0.5}, TRAIN),
        ({"dropout": 0.1}, TRAIN),
        ({"bn_momentum": 0.1}, TRAIN),
        ({"init_partial": True}, TRAIN),
        ({"init_alpha": 0.5}, TRAIN),
        ({"qat": QatPlan(mode="fine-tune")}, "train: QAT"),
        ({"qat": QatPlan(mode="scratch")}, "train: QAT from scratch"),
        ({"half": True}, "round: 16-bit float"),
        ({"calibration": 21}, STATIC),
        ({"observer": "min_max"}, STATIC),
        ({"rounding": "double"}, STATIC),
        ({"static": StaticPlan(refine="none")}, STATIC),
        ({"static": StaticPlan(weight_bits=4)}, "quantise: static, 4 bits"),
        ({"mixed": MixedPlan(budget_share=60.0)}, "quantise: 4 and 8 bits"),
        ({"qat": QatPlan(mode="none", weight_bits=4)}, "train: QAT, 4 bits"),
        ({"analysis": replace(OPTIONS.analysis, calibration_curve=(10,))}, "calibration curve"),
        ({"analysis": replace(OPTIONS.analysis, pictures=8)}, "calibration curve"),
        ({"analysis": Analysis(sensitivity=False, calibration_curve=())}, ""),
        ({"gallery": True}, ""),
        ({"methods": ("dynamic",)}, "Dynamic on STM32L4R9I"),
        ({"kernels": "plain"}, DEPLOY),
        ({"compiler": "gcc"}, DEPLOY),
        ({"verify_pictures": 1}, DEPLOY),
    ],
)
def test_every_option_runs_what_it_decides_again(
    finished: tuple[Path, Study, list[str]], tmp_path: Path, changes: dict[str, Any], title: str
) -> None:
    folder = shutil.copytree(finished[0], tmp_path / "copy")
    assert first_to_run(replace(OPTIONS, **changes), folder) == title


def test_other_code_plans_and_deploys_again_but_does_not_train(
    finished: tuple[Path, Study, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(finished[0], tmp_path / "copy")
    monkeypatch.setattr(pipeline, "_code_mark", lambda: "other code")
    assert first_to_run(OPTIONS, folder) == "plan the memory"
    (folder / "stages" / "arenas.json").write_text("{}", encoding="utf-8")
    reporter = _Stop(DEPLOY)
    with pytest.raises(KeyboardInterrupt):
        run_study(OPTIONS, folder, reporter=reporter)
    assert reporter.ran == ["plan the memory"]


def test_every_option_of_training_trains_again(finished: tuple[Path, Study, list[str]], tmp_path: Path) -> None:
    folder = shutil.copytree(finished[0], tmp_path / "copy")
    assert set(DIFFERENT) == set(TrainOptions().to_dict())
    for name, value in DIFFERENT.items():
        assert first_to_run(replace(OPTIONS, train={**OPTIONS.train, name: value}), folder) == TRAIN, name


def test_an_option_that_an_older_version_did_not_know(finished: tuple[Path, Study, list[str]], tmp_path: Path) -> None:
    folder = shutil.copytree(finished[0], tmp_path / "copy")
    path = folder / "stages" / "train.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    del stored["inputs"]["train"]["mixup"], stored["inputs"]["train"]["augmentation"]["zoom"]
    del stored["inputs"]["spec"]["bn_epsilon"]
    path.write_text(json.dumps(stored), encoding="utf-8")
    static = folder / "stages" / "static.json"
    quantised = json.loads(static.read_text(encoding="utf-8"))
    del quantised["inputs"]["refine"]
    static.write_text(json.dumps(quantised), encoding="utf-8")
    assert first_to_run(OPTIONS, folder) == ""
    assert first_to_run(replace(OPTIONS, train={**OPTIONS.train, "mixup": 0.1}), folder) == TRAIN
    del stored["inputs"]["train"]["epochs"]  # 1 here, which is not the default
    path.write_text(json.dumps(stored), encoding="utf-8")
    assert first_to_run(OPTIONS, folder) == TRAIN


def test_the_bytes_of_the_first_weights_count(finished: tuple[Path, Study, list[str]], tmp_path: Path) -> None:
    weights, folder = tmp_path / "weights.safetensors", tmp_path / "run"
    shutil.copy(finished[0] / "train" / "float" / "best.safetensors", weights)
    shutil.copytree(finished[0] / "data", folder / "data")
    options = replace(OPTIONS, init=str(weights))
    with pytest.raises(KeyboardInterrupt):
        run_study(options, folder, reporter=_Stop("capture the float graph"))
    os.utime(weights, (1, 1))
    assert first_to_run(options, folder) == "capture the float graph"
    renamed = weights.rename(tmp_path / "renamed.safetensors")
    assert first_to_run(replace(options, init=str(renamed)), folder) == "capture the float graph"
    data = bytearray(renamed.read_bytes())
    data[-1] ^= 1
    renamed.write_bytes(data)
    assert first_to_run(replace(options, init=str(renamed)), folder) == TRAIN
    assert first_to_run(replace(options, init=""), folder) == TRAIN


def test_both_ways_of_qat_start_where_they_say(finished: tuple[Path, Study, list[str]], tmp_path: Path) -> None:
    folder = shutil.copytree(finished[0], tmp_path / "copy")
    plan = QatPlan(mode="both", training={"epochs": 1, "learning_rate": 1e-9}, scratch={"learning_rate": 1e-9})
    options = replace(OPTIONS, qat=plan, methods=(), analysis=Analysis(sensitivity=False, calibration_curve=()))
    study = run_study(options, folder, reporter=QuietReporter())
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


@pytest.mark.parametrize("methods", [(), pytest.param(("half",), marks=pytest.mark.slow)], ids=["row", "deployed"])
def test_16_bit_floats_are_a_row_when_asked_for(
    finished: tuple[Path, Study, list[str]], tmp_path: Path, methods: tuple[str, ...]
) -> None:
    folder = shutil.copytree(finished[0], tmp_path / "copy")
    study = run_study(replace(OPTIONS, half=True, methods=methods), folder, reporter=QuietReporter())
    assert [method.name for method in study.methods] == ["float", "half", "dynamic", "static"]
    floats, halves = study.methods[:2]
    assert (halves.title, halves.kind, halves.file) == ("16-bit float", "half", "half.mj")
    assert halves.flash_bytes * 2 == floats.flash_bytes and halves.activation_bytes == floats.activation_bytes
    assert halves.changed is not None and halves.logits_sqnr is not None and halves.logits_sqnr > 40
    assert [(item.method, item.status) for item in study.deployments] == [(method, "ran") for method in methods]
    assert all(item.verify is not None and item.verify.equal for item in study.deployments)
    clear_run(folder)
    assert not (folder / "half.mj").exists()


def test_the_curve_ends_at_the_static_model_and_says_which_pictures_it_used(
    finished: tuple[Path, Study, list[str]],
) -> None:
    folder, study, _ = finished
    prepared = open_prepared(folder / "data")
    assert [point.count for point in study.analysis.curve] == [10, 20]  # 900 are more than there are
    assert list(study.analysis.calibration_hashes) == calibration_set(prepared, 20, OPTIONS.seed)[1]
    split = prepared.split("validation")
    chosen = np.linspace(0, len(split.labels) - 1, 16).round().astype(int)
    exact, stored = (load_graph(folder / f"{name}.mj") for name in ("float", "static"))
    real = execute.run(exact, split.pictures[chosen])[exact.outputs[0]]
    values = execute.run(stored, split.pictures[chosen])[stored.outputs[0]]
    quant = stored.tensor(stored.outputs[0]).quant
    assert quant is not None
    values = (values.astype(float) - quant.scalar_zero_point) * quant.scalar_scale
    point = study.analysis.curve[1]
    noise = 10 * np.log10(np.square(real.astype(float)).sum() / np.square(real - values).sum())
    assert point.sqnr == pytest.approx(noise, abs=1e-4) and study.analysis.curve_pictures == 16
    assert point.changed == (real.argmax(axis=-1) != values.argmax(axis=-1)).sum()


def test_sensitivity_is_in_the_result_and_bits_and_bytes_are_the_compilers(
    finished: tuple[Path, Study, list[str]],
) -> None:
    folder, study, _ = finished
    assert study.analysis.sensitivity is not None and study.analysis.mixed is None
    layers = study.analysis.sensitivity["layers"]
    weights = [node for node in load_graph(folder / "float.mj").nodes if node.op in WEIGHT_AXIS]
    assert [layer["layer"] for layer in layers] == [node.source for node in weights]
    for method, bits in zip(study.methods, (32.0, 8.0, 8.0), strict=True):
        program = compile_graph(load_graph(folder / f"{method.name}.mj"), HOST, self_test=False)
        assert (method.compiled_bytes, method.activation_bytes) == (program.weight_bytes, program.arena_bytes)
        assert method.weight_bits == bits and method.layers_by_bits == {int(bits): len(weights)}


def test_the_gallery_is_there_when_asked_for_and_shows_what_changed(
    finished: tuple[Path, Study, list[str]], tmp_path: Path
) -> None:
    assert finished[1].gallery == ()
    folder = shutil.copytree(finished[0], tmp_path / "copy")
    # a model that answers otherwise: the float one with its classes turned
    stored = json.loads((folder / "stages" / "evaluate.json").read_text(encoding="utf-8"))
    prepared = open_prepared(folder / "data")
    test = prepared.split("test")
    changes = [
        {
            "row": row,
            "label": int(test.labels[row]),
            "reference": 1,
            "models": {"static": 2} if row % 2 else {"dynamic": 3},
        }
        for row in range(len(test.labels))
    ]
    stored["result"]["changes"] = changes
    (folder / "stages" / "evaluate.json").write_text(json.dumps(stored), encoding="utf-8")
    study = run_study(replace(OPTIONS, gallery=True), folder, reporter=_Stop(""))
    assert study.changed_pictures == len(study.gallery) == len(changes)
    assert "<img" in (folder / "report.html").read_text(encoding="utf-8")
    kept = json.loads((folder / "report.json").read_text(encoding="utf-8"))["gallery"]
    for row, picture in enumerate(kept):
        assert (picture["row"], picture["models"], picture["sha256"]) == (row, changes[row]["models"], test.hashes[row])
        drawn = cv2.imdecode(np.frombuffer(base64.b64decode(picture["jpeg"]), np.uint8), cv2.IMREAD_COLOR)
        assert drawn.shape == (32, 32, 3) and picture["side"] == 32
        assert np.abs(drawn[:, :, ::-1].astype(int) - test.pictures[row]).mean() < 12  # lossy, but the same picture
    few = gallery(changes, prepared, limit=4)
    assert [picture.row for picture in few] == [0, 1, 2, 3]
    one = [{**item, "models": {"static": 2}} for item in changes[:-1]] + [{**changes[-1], "models": {"dynamic": 3}}]
    assert [picture.row for picture in gallery(one, prepared, limit=3)] == [0, 1, len(changes) - 1]


def test_thumbnails_have_at_most_96_pixels() -> None:
    side, jpeg = _thumbnail(np.full((224, 224, 3), (200, 30, 30), np.uint8))
    drawn = cv2.imdecode(np.frombuffer(base64.b64decode(jpeg), np.uint8), cv2.IMREAD_COLOR)
    assert side == 96 and drawn.shape == (96, 96, 3) and len(jpeg) < 8000
    assert np.abs(drawn.reshape(-1, 3).mean(axis=0) - (30, 30, 200)).max() < 5  # OpenCV: blue first


@pytest.mark.slow
def test_models_with_4_bits_are_quantised_evaluated_and_deployed_like_the_others(
    finished: tuple[Path, Study, list[str]], tmp_path: Path
) -> None:
    folder = shutil.copytree(finished[0], tmp_path / "copy")
    options = replace(
        OPTIONS,
        static=StaticPlan(weight_bits=4),
        mixed=MixedPlan(budget_share=80.0),
        qat=QatPlan(mode="none", weight_bits=4, training={"epochs": 1}),
        methods=("static4", "mixed", "qat4"),
    )
    study = run_study(options, folder, reporter=QuietReporter())
    methods = {method.name: method for method in study.methods}
    assert list(methods) == ["float", "dynamic", "static", "static4", "mixed", "qat4"]
    assert methods["static4"].weight_bits == methods["qat4"].weight_bits == 4.0
    assert study.analysis.mixed is not None
    size = methods["mixed"].compiled_bytes
    assert size == study.analysis.mixed["bytes"] <= 0.8 * study.analysis.mixed["bytes_at_eight"]
    assert 4.0 < (methods["mixed"].weight_bits or 0) < 8.0
    assert [item.method for item in study.deployments] == ["static4", "mixed", "qat4"]
    for item in study.deployments:
        assert item.status == "ran" and item.verify is not None and item.verify.equal and item.verify.tolerance == 0
    conversion = study.training["qat4"].conversion
    assert conversion is not None and conversion.disagreements == 0
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert all(title in page for title in ("Static, 4 bits", "Mixed 4/8 bits", "QAT, 4 bits", "chosen, reconstructed"))
    again = _Stop("")
    run_study(options, folder, reporter=again)
    assert again.ran == []


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
