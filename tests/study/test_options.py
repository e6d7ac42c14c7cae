"""The options survive their file, and wrong ones are refused before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from millijoule.errors import OptionError
from millijoule.study import DataOptions, QatPlan, StudyOptions, demo_options


def test_options_survive_toml(tmp_path: Path) -> None:
    options = StudyOptions(
        data=DataOptions(kind="folder", root="photos", split=(0.6, 0.2, 0.2)),
        alpha=0.35,
        qat=QatPlan(mode="both", training={"epochs": 3}),
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
    options.save(tmp_path / "demo.toml")
    assert StudyOptions.from_toml(tmp_path / "demo.toml") == options


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"alhpa": 0.5}, "alhpa"),
        ({"data": {"kinds": "folder"}}, "data.kinds"),
        ({"qat": {"mode": "sometimes"}}, "sometimes"),
        ({"kernels": "fast"}, "fast"),
        ({"methods": ["float"]}, "float"),
        ({"calibration": 0}, "calibration"),
        ({"init": "nowhere.safetensors"}, "nowhere"),
        ({"data": {"split": [0.5, 0.5]}}, "wrong form"),
    ],
)
def test_wrong_options_are_refused_by_name(values: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        StudyOptions.from_dict(values)


@pytest.mark.parametrize("text", ["alpha = ", "\x00"])
def test_a_file_that_is_no_toml_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "study.toml").write_text(text)
    with pytest.raises(OptionError, match=r"study\.toml"):
        StudyOptions.from_toml(tmp_path / "study.toml")
    with pytest.raises(OptionError, match=r"missing\.toml"):
        StudyOptions.from_toml(tmp_path / "missing.toml")
