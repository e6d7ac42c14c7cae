"""Statistics of calibration: exact histograms whatever the order of the pictures."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from millijoule.errors import QuantizationError
from millijoule.quantize.statistics import HALF_BINS, TensorStatistics

FLOATS = hnp.arrays(
    np.float32, st.integers(1, 60), elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False) | st.just(0.0)
)


def seen(*batches: np.ndarray) -> TensorStatistics:
    statistics = TensorStatistics("x")
    for batch in batches:
        statistics.update(batch)
    return statistics


@given(st.lists(FLOATS, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_histogram_does_not_depend_on_order_or_grouping(batches: list[np.ndarray], random) -> None:
    together = seen(np.concatenate(batches))
    shuffled = list(batches)
    random.shuffle(shuffled)
    apart = seen(*shuffled)
    assert apart.width == together.width
    np.testing.assert_array_equal(apart.histogram, together.histogram)
    assert (apart.low, apart.high, apart.count, apart.zeros) == (
        together.low,
        together.high,
        together.count,
        together.zeros,
    )


@given(FLOATS)
def test_histogram_counts_every_value_in_its_bin(values: np.ndarray) -> None:
    statistics = seen(values)
    if statistics.width == 0.0:
        assert not values.any()
        return
    index = np.floor(values.astype(np.float64) / statistics.width).astype(int) + HALF_BINS
    np.testing.assert_array_equal(statistics.histogram, np.bincount(index, minlength=2 * HALF_BINS))


def test_at_least_half_of_the_bins_of_the_longer_side_are_in_use() -> None:
    for largest in (0.9, 1.0, 1.1, 6.0, 1e-9, 3e7):
        statistics = seen(np.linspace(0, largest, 100_000, dtype=np.float32))
        assert HALF_BINS // 2 <= np.count_nonzero(statistics.histogram) <= HALF_BINS + 1


def test_zeros_before_the_first_value_are_kept() -> None:
    statistics = seen(np.zeros(5, np.float32), np.array([1.0, 0.0], np.float32))
    assert (statistics.zeros, statistics.count, statistics.histogram[HALF_BINS]) == (6, 7, 6)


def test_moving_average_weighs_the_past() -> None:
    statistics = seen(np.array([-1.0, 1.0], np.float32), np.array([-1.0, 11.0], np.float32))
    assert statistics.average_high == pytest.approx(0.9 * 1 + 0.1 * 11)
    assert statistics.average_low == pytest.approx(-1.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(QuantizationError, match=r"'x'.*NaN or infinite"):
        seen(np.array([0.0, bad], np.float32))
