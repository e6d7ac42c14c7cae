"""From the statistics of a tensor to the range that its 8 bits cover.

Every observer is a pure function of `TensorStatistics`; which one is best is a matter of measurement (see
docs/results/static_baseline.md). All ranges hold zero, as affine quantisation requires.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from millijoule.errors import OptionError
from millijoule.quantize.statistics import HALF_BINS, TensorStatistics

__all__ = [
    "OBSERVERS",
    "Range",
    "choose_range",
    "entropy",
    "measured_choice",
    "min_max",
    "moving_average",
    "mse",
    "percentile",
]

Range: TypeAlias = tuple[float, float]
"""Smallest and largest real value that the stored integers stand for; holds zero."""

LEVELS = 256
_COARSE = np.linspace(0.3, 1.0, 71)


def _with_zero(low: float, high: float) -> Range:
    return min(float(low), 0.0), max(float(high), 0.0)


def min_max(statistics: TensorStatistics) -> Range:
    """Everything that was seen."""
    return _with_zero(statistics.low, statistics.high)


def moving_average(statistics: TensorStatistics) -> Range:
    """Exponential moving average of the extremes of each batch (the range tracking of Jacob et al. 2018).

    Depends on the order and the grouping of the pictures. Over single pictures it cuts off much of the range of tensors
    whose extremes differ between pictures, the logits above all.
    """
    return _with_zero(statistics.average_low, statistics.average_high)


def percentile(statistics: TensorStatistics, share: float = 99.999) -> Range:
    """The range that holds `share` per cent of the values on each side of zero's distribution.

    A small tensor, where one value is more than the excluded share, keeps its extremes.
    """
    if statistics.width == 0.0:
        return min_max(statistics)
    excluded = (100.0 - share) / 100.0 * statistics.count
    below = np.cumsum(statistics.histogram)
    above = np.cumsum(statistics.histogram[::-1])
    edges = np.arange(-HALF_BINS, HALF_BINS + 1, dtype=np.float64) * statistics.width
    low = edges[int(np.searchsorted(below, excluded, side="right"))]
    high = edges[2 * HALF_BINS - int(np.searchsorted(above, excluded, side="right"))]
    # bins are wider than the extremes they hold
    return _with_zero(max(low, statistics.low), min(high, statistics.high))


def mse(statistics: TensorStatistics) -> Range:
    """The range with the least mean squared quantisation error (Banner et al. 2019, searched instead of modelled).

    Both ends are searched in turn over 71 fractions of the extremes, twice, and the error is that of the real
    quantiser (scale and zero point nudged as they will be stored) on the histogram. The extremes themselves are among
    the candidates, so the result is never worse than `min_max` on the calibration set.
    """
    if statistics.width == 0.0:
        return min_max(statistics)
    low, high = min_max(statistics)
    bins, weights = _used_bins(statistics)
    best_low, best_high = low, high
    for _ in range(2):
        if high > 0.0:
            ends = high * _COARSE
            best_high = float(ends[_best(_errors(bins, weights, np.full_like(ends, best_low), ends))])
        if low < 0.0:
            ends = low * _COARSE
            best_low = float(ends[_best(_errors(bins, weights, ends, np.full_like(ends, best_high)))])
    return _with_zero(best_low, best_high)


def _best(errors: npt.NDArray[np.float64]) -> int:
    """Index of the smallest error; of equal ones the widest range, which comes last."""
    return len(errors) - 1 - int(np.argmin(errors[::-1]))


def _used_bins(statistics: TensorStatistics) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Middles and counts of the bins that hold something; exact zeros are left out, they cost nothing."""
    counts = statistics.histogram.astype(np.float64)
    counts[HALF_BINS] -= statistics.zeros
    used = np.flatnonzero(counts > 0)
    middles = np.clip(statistics.centres()[used], statistics.low, statistics.high)
    return middles, counts[used]


def _errors(
    values: npt.NDArray[np.float64],
    weights: npt.NDArray[np.float64],
    low: npt.NDArray[np.float64],
    high: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Summed squared error of quantising `values` (each `weights` times) for every candidate range."""
    scale = np.maximum((high - low) / (LEVELS - 1), np.finfo(np.float32).tiny)[:, None]
    zero = np.clip(np.round(-128.0 - low[:, None] / scale), -128, 127)
    stored = np.clip(np.round(values[None, :] / scale) + zero, -128, 127)
    difference = (stored - zero) * scale - values[None, :]
    errors: npt.NDArray[np.float64] = (difference * difference) @ weights
    return errors


def entropy(statistics: TensorStatistics) -> Range:
    """The range whose quantised histogram is nearest in relative entropy to the float one (TensorRT's calibration).

    Migacz, "8-bit inference with TensorRT", GTC 2017. The distribution cut off at the range (with the outliers added to
    the last bins) is compared with the same merged into 256 levels and spread out again over the non-empty bins.
    """
    if statistics.width == 0.0:
        return min_max(statistics)
    low, high = min_max(statistics)
    counts = statistics.histogram.astype(np.float64)
    counts[HALF_BINS] -= statistics.zeros
    counts = np.maximum(counts, 0.0)
    best, best_range = np.inf, (low, high)
    for fraction in _COARSE[::-1]:
        first = HALF_BINS + int(np.floor(low * fraction / statistics.width))
        last = HALF_BINS + max(int(np.ceil(high * fraction / statistics.width)), 1)
        if last - first < LEVELS:
            break
        divergence = _relative_entropy(counts, first, last)
        if divergence < best:
            best, best_range = divergence, (low * float(fraction), high * float(fraction))
    return _with_zero(*best_range)


def _relative_entropy(counts: npt.NDArray[np.float64], first: int, last: int) -> float:
    reference = counts[first:last].copy()
    filled = reference > 0
    level = (np.arange(last - first) * LEVELS) // (last - first)
    sums = np.bincount(level, weights=reference, minlength=LEVELS)
    members = np.bincount(level, weights=filled.astype(np.float64), minlength=LEVELS)
    spread = np.divide(sums, members, out=np.zeros_like(sums), where=members > 0)[level] * filled
    reference[0] += counts[:first].sum()
    reference[-1] += counts[last:].sum()
    total, spread_total = reference.sum(), spread.sum()
    if total == 0.0 or spread_total == 0.0:
        return float("inf")
    p, q = reference / total, np.maximum(spread / spread_total, 1e-12)
    held = p > 0
    return float((p[held] * np.log(p[held] / q[held])).sum())


OBSERVERS: Mapping[str, Callable[[TensorStatistics], Range]] = {
    "min_max": min_max,
    "moving_average": moving_average,
    "percentile": percentile,
    "mse": mse,
    "entropy": entropy,
}
"""The observers by the name that options and the command line use."""


AUTO_CANDIDATES = ("mse", "percentile", "min_max", "entropy")
"""What `measured_choice` compares, the usual choice first: it stays where nothing is better."""


def measured_choice(statistics: TensorStatistics, weights: npt.NDArray[np.float64]) -> tuple[str, Range, float]:
    """The observer whose range costs the layers that read this tensor least, measured on the kept rows.

    Args:
        statistics: of the tensor.
        weights: (C,) how much a squared error of each channel costs its readers.

    Returns:
        The observer, its range, and how many dB less error it has than the first of `AUTO_CANDIDATES`.
    """
    rows = statistics.rows.astype(np.float64)
    ranges = {name: OBSERVERS[name](statistics) for name in AUTO_CANDIDATES}
    errors = {}
    for name, (low, high) in ranges.items():
        scale = max((high - low) / (LEVELS - 1), float(np.finfo(np.float32).tiny))
        zero = np.clip(np.round(-128.0 - low / scale), -128, 127)
        stored = np.clip(np.round(rows / scale) + zero, -128, 127)
        errors[name] = float((np.square((stored - zero) * scale - rows) * weights).sum())
    usual = AUTO_CANDIDATES[0]
    best = min(AUTO_CANDIDATES, key=lambda name: errors[name])
    gain = 10.0 * math.log10(errors[usual] / errors[best]) if errors[best] > 0.0 else 0.0
    return best, ranges[best], gain


def choose_range(statistics: TensorStatistics, observer: str) -> Range:
    """The range of one tensor. Raises OptionError for an unknown observer."""
    try:
        return OBSERVERS[observer](statistics)
    except KeyError:
        raise OptionError("observer", f"{observer!r} is unknown", f"Use one of: {', '.join(OBSERVERS)}") from None
