"""Learned rounding and searched scales against brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millijoule.quantize.rounding import learned_rounding, nearest, rounding_error, search_scales


def problem(seed: int, groups: int, rows: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    weights = random.normal(size=(groups, rows, size))
    scales = np.abs(weights).max(axis=-1) / 127 * random.uniform(1, 20)
    # neighbouring inputs are alike, as pixels are
    inputs = random.normal(size=(groups, 50, 1)) * 2 + random.normal(size=(groups, 50, size))
    return weights, scales, np.swapaxes(inputs, 1, 2) @ inputs / 50


@given(seed=st.integers(0, 2**32 - 1), groups=st.integers(1, 3), rows=st.integers(1, 4), size=st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_learned_rounding_is_never_worse_than_nearest_and_stays_on_the_grid(
    seed: int, groups: int, rows: int, size: int
) -> None:
    weights, scales, moments = problem(seed, groups, rows, size)
    stored = learned_rounding(weights, scales, moments)
    assert np.array_equal(stored, np.round(stored)) and np.abs(stored).max() <= 127
    usual = rounding_error(weights, nearest(weights, scales), scales, moments)
    assert (rounding_error(weights, stored, scales, moments) <= usual + 1e-15).all()


def test_learned_rounding_comes_near_the_best_of_all_roundings() -> None:
    learned, best, usual = 0.0, 0.0, 0.0
    for seed in range(20):
        weights, scales, moments = problem(seed, 1, 1, 9)
        ratio = weights / scales[..., None]
        choices = np.array(list(itertools.product((0, 1), repeat=9)))
        every = np.clip(np.floor(ratio[0, 0]) + choices, -127, 127)[:, None, None]
        best += min(rounding_error(weights, stored, scales, moments).item() for stored in every)
        learned += rounding_error(weights, learned_rounding(weights, scales, moments), scales, moments).item()
        usual += rounding_error(weights, nearest(weights, scales), scales, moments).item()
    assert best <= learned <= 1.3 * best
    assert learned < 0.5 * usual


def test_independent_inputs_are_rounded_to_nearest() -> None:
    weights, scales, _ = problem(1, 2, 3, 7)
    moments = np.stack([np.diag(np.arange(1.0, 8.0))] * 2)
    assert np.array_equal(learned_rounding(weights, scales, moments), nearest(weights, scales))


def test_inputs_that_are_always_zero_do_no_harm() -> None:
    weights, scales, _ = problem(1, 1, 3, 5)
    stored = learned_rounding(weights, scales, np.zeros((1, 5, 5)))
    assert np.array_equal(stored, nearest(weights, scales))


def test_searched_scales_cut_off_a_weight_that_reads_next_to_nothing() -> None:
    random = np.random.default_rng(0)
    weights = random.uniform(-1, 1, (1, 2, 16))
    weights[0, 0, 3] = 1.4
    moments = np.eye(16)[None].copy()
    moments[0, 3, 3] = 1e-9
    scales = np.abs(weights).max(axis=-1) / 127
    found = search_scales(weights, scales, np.zeros_like(scales), moments)
    assert found[0, 0] < 0.8 * scales[0, 0]
    assert found[0, 1] > 0.9 * scales[0, 1]
    errors = [rounding_error(weights, nearest(weights, s), s, moments) for s in (found, scales)]
    assert (errors[0] <= errors[1]).all()


def test_searched_scales_respect_the_bias() -> None:
    weights = np.array([[[1.4, 0.1, -0.2, 0.15]]])
    moments = np.diag([1e-9, 1.0, 1.0, 1.0])[None]
    scales = np.abs(weights).max(axis=-1) / 127
    assert search_scales(weights, scales, scales * 0.95, moments) >= scales * 0.95 * (1 - 1e-6)
    assert search_scales(weights, scales, scales, moments) == pytest.approx(scales, rel=1e-6)
