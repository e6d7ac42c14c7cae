"""Observers against brute force and against what each promises."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millijoule.errors import OptionError
from millijoule.graph.arithmetic import quantize_array
from millijoule.graph.conversion import activation_quant
from millijoule.quantize import OBSERVERS
from millijoule.quantize.observers import AUTO_CANDIDATES, choose_range, measured_choice, min_max, mse, percentile
from millijoule.quantize.statistics import TensorStatistics


def seen(values: np.ndarray) -> TensorStatistics:
    statistics = TensorStatistics("x")
    for part in np.array_split(values.astype(np.float32), 4):
        statistics.update(part)
    return statistics


def error(values: np.ndarray, low: float, high: float) -> float:
    quant = activation_quant(low, high)
    stored = quantize_array(values, quant).astype(np.float64)
    return float(np.square((stored - quant.scalar_zero_point) * quant.scalar_scale - values).mean())


DISTRIBUTIONS = {
    "normal": lambda random: random.normal(0, 2, 20_000),
    "laplace": lambda random: random.laplace(0, 1, 20_000),
    "outliers": lambda random: np.concatenate([random.normal(0, 1, 20_000), [90.0, -70.0]]),
    "relu6": lambda random: np.clip(random.normal(0, 3, 20_000), 0, 6),
    "relu": lambda random: np.maximum(random.standard_t(3, 20_000), 0),
    "negative": lambda random: -np.abs(random.normal(3, 1, 20_000)),
    "shifted": lambda random: random.normal(10, 1, 20_000),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_mse_is_no_worse_than_min_max_and_near_the_best_of_a_full_search(name: str) -> None:
    values = DISTRIBUTIONS[name](np.random.default_rng(1)).astype(np.float32)
    statistics = seen(values)
    chosen = error(values, *mse(statistics))
    assert chosen <= error(values, *min_max(statistics)) * 1.02
    low, high = min_max(statistics)
    fractions = np.linspace(0.02, 1, 40)
    best = min(error(values, low * a, high * b) for a in fractions for b in fractions)
    assert chosen <= best * 1.25


@pytest.mark.parametrize("observer", OBSERVERS)
@given(seed=st.integers(0, 2**32 - 1), spread=st.floats(1e-3, 1e3), shift=st.floats(-3, 3), size=st.integers(4, 400))
@settings(max_examples=25, deadline=None)
def test_every_range_holds_zero_and_lies_within_what_was_seen(
    observer: str, seed: int, spread: float, shift: float, size: int
) -> None:
    values = (np.random.default_rng(seed).normal(shift, 1, size) * spread).astype(np.float32)
    low, high = choose_range(seen(values), observer)
    assert min(float(values.min()), 0.0) <= low <= 0.0 <= high <= max(float(values.max()), 0.0)
    assert high > low


def test_percentile_leaves_out_the_stated_share() -> None:
    values = np.random.default_rng(0).permutation(np.linspace(-1, 1, 100_001)).astype(np.float32)
    low, high = percentile(seen(values), 99.0)
    assert np.mean(values > high) == pytest.approx(0.01, abs=0.0005)
    assert np.mean(values < low) == pytest.approx(0.01, abs=0.0005)


def test_percentile_keeps_the_extremes_of_small_tensors() -> None:
    values = np.array([-3.0, 0.5, 7.0, 1.0], np.float32)
    assert percentile(seen(values)) == (-3.0, 7.0)


def test_mse_cuts_a_cheap_outlier_and_keeps_a_dear_one() -> None:
    bulk = np.random.default_rng(2).normal(0, 1, 200_000)
    for outlier, kept in ((20.0, False), (3000.0, True)):
        statistics = seen(np.append(bulk, outlier))
        assert min_max(statistics)[1] == outlier
        assert (mse(statistics)[1] > 0.8 * outlier) == kept


@pytest.mark.parametrize("observer", OBSERVERS)
def test_a_tensor_of_zeros_has_an_empty_range(observer: str) -> None:
    assert choose_range(seen(np.zeros(16)), observer) == (0.0, 0.0)


def test_unknown_observer_is_refused_with_the_list() -> None:
    with pytest.raises(OptionError, match="min_max, moving_average, percentile, mse, entropy"):
        choose_range(seen(np.ones(4)), "magic")


def test_the_measured_choice_minds_the_channels_that_are_read() -> None:
    random = np.random.default_rng(3)
    values = random.normal(0, 1, (64, 8, 8, 2)).astype(np.float32)
    values[:, ::4, ::4, 1] *= 40.0  # a few large values in channel 1
    statistics = TensorStatistics("x")
    for part in np.array_split(values, 4):
        statistics.update(part)
    assert statistics.rows.shape == (64 * 8, 2)
    for weights in ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0)):
        name, span, gain = measured_choice(statistics, np.array(weights))
        errors = {
            other: (np.square(_rounded(statistics.rows, *choose_range(statistics, other))) * weights).sum()
            for other in AUTO_CANDIDATES
        }
        assert errors[name] == min(errors.values()) and span == choose_range(statistics, name) and gain >= 0.0
    assert measured_choice(statistics, np.array([1.0, 0.0]))[1] != measured_choice(statistics, np.array([0.0, 1.0]))[1]


def _rounded(values: np.ndarray, low: float, high: float) -> np.ndarray:
    scale = (high - low) / 255
    zero = np.clip(np.round(-128 - low / scale), -128, 127)
    return (np.clip(np.round(values.astype(float) / scale) + zero, -128, 127) - zero) * scale - values
