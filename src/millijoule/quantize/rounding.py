"""Learned rounding: which of its two neighbours on the grid each weight becomes, chosen by the error of the results.

Rounding to nearest minimises the error of the weights; what matters is the error of the layer's results, which for
inputs with second moments H is ``(w - w') H (w - w')^T`` (Nagel et al. 2020, "Up or down? Adaptive rounding for
post-training quantization", arXiv:2004.10568, equation 20). AdaRound relaxes that discrete problem and descends its
gradient; here it is solved by successive rounding with error feedback (Frantar and Alistarh 2022, "Optimal brain
compression", arXiv:2208.11580; Frantar et al. 2022, "GPTQ", arXiv:2210.17323) and then by coordinate descent, which
takes milliseconds per layer and never ends worse than it began.

Shapes: G groups (1 for a convolution or a dense layer, one per channel for a depthwise convolution), O rows of weights
in each group, K weights in each row.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["learned_rounding", "nearest", "rounding_error", "search_scales"]

Float64 = npt.NDArray[np.float64]

LARGEST = 127
"""Weights are int8 in [-127, 127]; with 4 bits in [-7, 7]."""

_DAMPING = 1e-3
"""Share of the mean squared input that is added to every input's second moment, so that H can be inverted."""


def nearest(weights: Float64, scales: Float64, largest: int = LARGEST) -> Float64:
    """The nearest grid points, halves away from zero, as whole numbers in float64.

    Args:
        weights: (G, O, K).
        scales: (G, O).
        largest: the largest whole number, 127 or 7.
    """
    ratio = weights / scales[..., None]
    return np.asarray(np.clip(np.trunc(ratio + np.copysign(0.5, ratio)), -largest, largest))


def rounding_error(weights: Float64, stored: Float64, scales: Float64, moments: Float64) -> Float64:
    """Mean squared error of each row's results that the rounding causes; (G, O).

    Args:
        weights: (G, O, K).
        stored: (G, O, K) grid points.
        scales: (G, O).
        moments: (G, K, K) second moments of the inputs.
    """
    difference = stored * scales[..., None] - weights
    return np.asarray(np.maximum(((difference @ moments) * difference).sum(axis=-1), 0.0))


def learned_rounding(
    weights: Float64, scales: Float64, moments: Float64, *, sweeps: int = 4, largest: int = LARGEST
) -> Float64:
    """Grid points that make the squared error of the results small: feedback first, coordinate descent then.

    Args:
        weights: (G, O, K).
        scales: (G, O), positive.
        moments: (G, K, K) second moments of the inputs, symmetric and positive semidefinite. Where a bias follows that
            takes the mean error away, give the covariance.
        sweeps: passes of the coordinate descent; it stops early when nothing changes.
        largest: the largest whole number, 127 or 7.

    Returns:
        (G, O, K) whole numbers in [-largest, largest]; for no row is `rounding_error` larger than that of `nearest`.
    """
    start = nearest(weights, scales, largest)
    damped = _damped(moments)
    candidate = descend(weights, _feedback(weights, scales, damped, largest), scales, damped, sweeps, largest)
    plain = descend(weights, start, scales, damped, sweeps, largest)
    better = rounding_error(weights, candidate, scales, damped) <= rounding_error(weights, plain, scales, damped)
    best = np.where(better[..., None], candidate, plain)
    worse = rounding_error(weights, best, scales, moments) > rounding_error(weights, start, scales, moments)
    return np.asarray(np.where(worse[..., None], start, best))


def _damped(moments: Float64) -> Float64:
    size = moments.shape[-1]
    mean = np.trace(moments, axis1=-2, axis2=-1) / size
    return np.asarray(moments + (_DAMPING * mean + 1e-12)[:, None, None] * np.eye(size))


def _feedback(weights: Float64, scales: Float64, moments: Float64, largest: int) -> Float64:
    """Rounds one weight after another; each error is spread over the weights that are still free (GPTQ).

    The inputs with the largest moments come first, when most weights are still free to make up for them.
    """
    groups, _, size = weights.shape
    order = np.argsort(-np.diagonal(moments, axis1=-2, axis2=-1), axis=-1, kind="stable")
    rows = np.arange(groups)[:, None]
    sorted_moments = moments[rows[..., None], order[:, :, None], order[:, None, :]]
    factor = np.swapaxes(np.linalg.cholesky(np.linalg.inv(sorted_moments)), -2, -1)
    free = np.take_along_axis(weights, order[:, None, :], axis=-1).copy()
    stored = np.empty_like(free)
    for k in range(size):
        stored[..., k] = nearest(free[..., k : k + 1], scales, largest)[..., 0]
        error = (free[..., k] - stored[..., k] * scales) / factor[:, k, k][:, None]
        free[..., k + 1 :] -= error[..., None] * factor[:, None, k, k + 1 :]
    result: Float64 = np.empty_like(stored)
    np.put_along_axis(result, np.broadcast_to(order[:, None, :], stored.shape), stored, axis=-1)
    return result


def descend(
    weights: Float64, stored: Float64, scales: Float64, moments: Float64, sweeps: int, largest: int = LARGEST
) -> Float64:
    """Coordinate descent: each weight in turn moves one grid step up or down when that lowers the error of its row."""
    stored = stored.copy()
    gradient = (stored * scales[..., None] - weights) @ moments
    diagonal = np.diagonal(moments, axis1=-2, axis2=-1)
    for _ in range(sweeps):
        moved = False
        for k in range(weights.shape[-1]):
            curvature = np.maximum(diagonal[:, k], 1e-30)[:, None]
            step = np.clip(np.round(-gradient[..., k] / (curvature * scales)), -1, 1)
            step = np.clip(stored[..., k] + step, -largest, largest) - stored[..., k]
            if step.any():
                moved = True
                stored[..., k] += step
                gradient += (step * scales)[..., None] * moments[:, None, k, :]
        if not moved:
            break
    return np.asarray(stored)


def search_scales(
    weights: Float64,
    scales: Float64,
    floor: Float64,
    moments: Float64,
    *,
    steps: int = 16,
    least: float = 0.7,
    largest: int = LARGEST,
) -> Float64:
    """Optimal clipping: for each row the share of its scale with the least error of the results, rounded to nearest.

    Args:
        weights: (G, O, K).
        scales: (G, O), with which nothing is clipped.
        floor: (G, O), the smallest scales allowed (with which the bias fits into 32 bits, see
            `conversion.weight_quant`).
        moments: (G, K, K) second moments of the inputs.
        steps: shares that are tried between `least` and 1.
        least: the smallest share.
        largest: the largest whole number, 127 or 7.

    Returns:
        (G, O); a row keeps its scale unless a smaller one is strictly better.
    """
    best, lowest = scales.copy(), rounding_error(weights, nearest(weights, scales, largest), scales, moments)
    for share in np.linspace(1.0, least, steps, endpoint=False)[1:]:
        tried = np.maximum(scales * share, floor).astype(np.float32).astype(np.float64)
        error = rounding_error(weights, nearest(weights, tried, largest), tried, moments)
        better = error < lowest
        best[better], lowest[better] = tried[better], error[better]
    return np.asarray(best)
