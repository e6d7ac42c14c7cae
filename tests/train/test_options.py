"""Training options: the paper's by default, refused when they make no sense."""

from __future__ import annotations

import math

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

import millijoule.train
from millijoule.data import Augmentation
from millijoule.errors import OptionError
from millijoule.train import TrainOptions


def test_defaults_are_the_papers() -> None:
    options = TrainOptions()
    assert (options.epochs, options.batch_size, options.learning_rate) == (150, 16, 1e-4)
    assert options.schedule == "constant"
    assert options.augmentation == Augmentation(rotation=20, shift=0.2, shear=10, zoom=0.2, flip=True)
    assert (options.mixup, options.ema_decay, options.label_smoothing, options.distillation) == (0, 0, 0, 0)
    assert options.rate(0.5) == options.rate(149.9) == 1e-4


def test_cosine_with_warmup() -> None:
    options = TrainOptions(epochs=10, learning_rate=0.1, schedule="cosine", warmup_epochs=2)
    assert options.rate(1) == pytest.approx(0.05)
    assert options.rate(2) == pytest.approx(0.1)
    assert options.rate(6) == pytest.approx(0.05)
    assert options.rate(10) == pytest.approx(0.0)


@given(st.integers(1, 50), st.floats(0, 1), st.floats(0, 1))
def test_rate_stays_between_zero_and_its_maximum(epochs: int, warmup: float, at: float) -> None:
    options = TrainOptions(epochs=epochs, learning_rate=0.01, schedule="cosine", warmup_epochs=warmup * epochs)
    rate = options.rate(at * epochs)
    assert 0 <= rate <= 0.01
    assert math.isfinite(rate)


def test_resolution_of_each_epoch() -> None:
    options = TrainOptions(epochs=10, resolutions=((0.0, 64), (0.5, 96)))
    assert [options.resolution(epoch, 128) for epoch in (0, 4, 5, 9)] == [64, 64, 96, 96]
    late = TrainOptions(epochs=10, resolutions=((0.5, 64),))
    assert [late.resolution(epoch, 128) for epoch in (0, 5)] == [128, 64]


@pytest.mark.parametrize(
    "options",
    [
        TrainOptions(),
        TrainOptions.modern(epochs=3, resolutions=((0.0, 64),)),
        TrainOptions(augmentation=None),
        TrainOptions(augmentation=Augmentation(rotation=5)),
    ],
)
def test_options_survive_a_dictionary_and_toml(options: TrainOptions) -> None:
    assert TrainOptions.from_dict(options.to_dict()) == options
    assert tomli_w.dumps(options.to_dict())


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"epochs": 0}, "epochs"),
        ({"epochs": 1.5}, "whole"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"learning_rate": -1e-3}, "learning_rate"),
        ({"batch_size": 1}, "batch_size"),
        ({"schedule": "step"}, "constant or cosine"),
        ({"device": "tpu"}, "auto or cpu"),
        ({"warmup_epochs": 200.0}, "warmup"),
        ({"resolutions": ((0.0, 8),)}, "resolutions"),
        ({"label_smoothing": "much"}, "label_smoothing"),
    ],
)
def test_values_out_of_range_are_refused(change: dict[str, object], word: str) -> None:
    with pytest.raises(OptionError, match=word):
        TrainOptions(**change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "values", [{"epoch": 3}, {"augmentation": {"tilt": 3}}, {"resolutions": [1, 2]}, {"resolutions": [["a", "b"]]}]
)
def test_wrong_dictionaries_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(OptionError):
        TrainOptions.from_dict(values)


def test_public_names_exist() -> None:
    for name in millijoule.train.__all__:
        assert getattr(millijoule.train, name) is not None
