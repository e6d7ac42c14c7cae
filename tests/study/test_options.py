"""The options survive their file, and wrong ones are refused before any work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from millijoule.errors import OptionError
from millijoule.study import (
    Analysis,
    DataOptions,
    MixedPlan,
    QatPlan,
    StaticPlan,
    StudyOptions,
    demo_options,
)


def test_options_survive_toml(tmp_path: Path) -> None:
    options = StudyOptions(
        data=DataOptions(kind="folder", root="photos", split=(0.6, 0.2, 0.2)),
        alpha=0.35,
        qat=QatPlan(mode="both", training={"epochs": 3}, weight_bits=4),
        static=StaticPlan(refine="full", weight_bits=4),
        mixed=MixedPlan(budget_share=60.0),
        analysis=Analysis(sensitivity=False, calibration_curve=(5, 9)),
        gallery=True,
        train={"epochs": 2, "resolutions": [[0.0, 64], [0.5, 96]]},
        boards=("stm32h7b3i",),
    )
    options.save(tmp_path / "study.toml")
    assert StudyOptions.from_toml(tmp_path / "study.toml") == options


def test_the_demo_is_within_the_rules_of_every_room(tmp_path: Path) -> None:
    from millijoule.study.stages import qat_options, train_options

    options = demo_options(seed=3)
    assert train_options(options).seed == 3
    assert qat_options(options).training.epochs < train_options(options).epochs
    tuned, scratch = qat_options(options).training, qat_options(options, scratch=True).training
    assert (tuned.distillation, tuned.batch_norm_pictures) == (0.5, 1280)
    assert (scratch.distillation, scratch.batch_norm_pictures) == (0.0, 1280)
    chosen = replace(options, train={**options.train, "batch_norm_pictures": 64})
    assert qat_options(chosen).training.batch_norm_pictures == 64
    options.save(tmp_path / "demo.toml")
    assert StudyOptions.from_toml(tmp_path / "demo.toml") == options


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"alhpa": 0.5}, "alhpa"),
        ({"data": {"kinds": "folder"}}, "data.kinds"),
        ({"qat": {"mode": "sometimes"}}, "sometimes"),
        ({"kernels": "fast"}, "fast"),
        ({"static": {"weight_bits": 5}}, r"static\.weight_bits = 5"),
        ({"qat": {"weight_bits": 2}}, r"qat\.weight_bits = 2"),
        ({"static": {"bits": 4}}, r"static\.bits"),
        ({"mixed": {"budget_share": 101.0}}, "budget_share"),
        ({"mixed": {"budget_bytes": -1}}, "budget_bytes"),
        ({"mixed": {"held_back": 0}}, "held_back"),
        ({"analysis": {"calibration_curve": [10, 0]}}, "calibration_curve"),
        ({"analysis": {"calibration_curve": 10}}, "wrong form"),
        ({"analysis": {"pictures": 0}}, "pictures"),
        ({"analysis": {"calibration_curve": ["10"]}}, "no list of whole numbers"),
        ({"analysis": {"sensitivity": "no"}}, "analysis.sensitivity = 'no': it must be true or false"),
        ({"gallery": "yes"}, "gallery = 'yes': it must be true or false"),
        ({"static": 4}, r"static = 4: it is a table. Write .static."),
        ({"static": {"weight_bits": "4"}}, "static.weight_bits = '4': it must be a whole number"),
        ({"mixed": {"budget_share": True}}, "mixed.budget_share = True: it must be a number"),
        ({"alpha": "half"}, "alpha = 'half': it must be a number"),
        ({"methods": ["float"]}, "float"),
        ({"calibration": 0}, "calibration"),
        ({"init": "nowhere.safetensors"}, "nowhere"),
        ({"data": {"split": [0.5, 0.5]}}, "wrong form"),
    ],
)
def test_wrong_options_are_refused_by_name(values: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        StudyOptions.from_dict(values)


def test_what_the_rooms_would_refuse_after_training_is_refused_before() -> None:
    from millijoule.study.stages import check_options

    check_options(StudyOptions(static=StaticPlan(refine="auto")))
    with pytest.raises(OptionError, match="magic"):
        check_options(StudyOptions(static=StaticPlan(refine="magic")))
    with pytest.raises(OptionError, match="at least 8 pictures"):
        check_options(StudyOptions(mixed=MixedPlan(budget_bytes=9), calibration=7))


@pytest.mark.parametrize("text", ["alpha = ", "\x00"])
def test_a_file_that_is_no_toml_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "study.toml").write_text(text)
    with pytest.raises(OptionError, match=r"study\.toml"):
        StudyOptions.from_toml(tmp_path / "study.toml")
    with pytest.raises(OptionError, match=r"missing\.toml"):
        StudyOptions.from_toml(tmp_path / "missing.toml")
