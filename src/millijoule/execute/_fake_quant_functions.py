"""Fake quantisation of activations and weights as torch functions: rounding forwards, straight through backwards.

The straight-through estimator: Bengio et al. 2013, arXiv:1308.3432; Jacob et al. 2018, arXiv:1712.05877. Learned step
sizes: Esser et al. 2020 (LSQ), arXiv:1902.08153; with an offset: Bhalgat et al. 2020 (LSQ+), arXiv:2004.09576.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "affine_parameters",
    "average_on_grid",
    "extremes_of",
    "fake_quantize",
    "fake_quantize_learned",
    "fake_quantize_weights",
    "round_half_away",
]

CHUNK = 1 << 17
"""Values per thread that the passes of a rounding go over at a time: they stay in the second-level cache."""

SAMPLED_CHUNKS = 4
"""A range's gradient is summed over at least so many chunks, evenly spread, and scaled up: a range is one number."""


def affine_parameters(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """`conversion.activation_quant` for vectors: float32 scales and int32 zero points.

    Args:
        low: smallest values, float64.
        high: largest values, float64.
    """
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    scale = ((high - low) / 255.0).float().clamp(min=1e-8)
    exact = -128.0 - low / scale.double()
    zero = round_half_away(exact).clamp(-128, 127)
    return scale, zero.int()


def round_half_away(x: Tensor) -> Tensor:
    """To the nearest integer, halves away from zero."""
    return torch.trunc(x + torch.copysign(torch.full_like(x, 0.5), x))


def _flat(x: Tensor) -> Tensor | None:
    """The values in memory order as a vector that shares `x`'s memory, None where they have gaps."""
    if x.is_contiguous():
        return x.view(-1)
    if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return x.permute(0, 2, 3, 1).view(-1)
    return None


def _chunks(x: Tensor) -> tuple[Tensor, ...]:
    """Parts of `x`, in memory order, that fit into the cache; all of it on other devices."""
    flat = _flat(x)
    if flat is None or x.device.type != "cpu":
        return (x if flat is None else flat,)
    return torch.split(flat, CHUNK * torch.get_num_threads())


class _FakeQuantize(torch.autograd.Function):
    """In place, chunk by chunk; the result is saved (the next layer saves it anyway) instead of a mask."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float, zero: int) -> Tensor:
        for part in _chunks(x):
            part.mul_(1.0 / scale).round_().clamp_(-128 - zero, 127 - zero).mul_(scale)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        ctx.low, ctx.high = (-128 - zero) * scale, (127 - zero) * scale
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (y,) = ctx.saved_tensors
        half = (ctx.high - ctx.low) / 510.0  # the ends of the grid, and nothing else, are within half a step of them
        masked: Tensor = torch.ops.aten.hardtanh_backward(gradients[0], y, ctx.low + half, ctx.high - half)
        return masked, None, None


def fake_quantize(x: Tensor, scale: float, zero: int) -> Tensor:
    """Activations rounded, in place, to their int8 grid; gradients pass where nothing was cut.

    Values at the two ends of the grid count as cut, as ReLU6 counts them.

    Args:
        x: float32, any shape; overwritten, so nothing else may need it.
        scale: of the grid.
        zero: zero point in [-128, 127].
    """
    result: Tensor = _FakeQuantize.apply(x, scale, zero)  # type: ignore[no-untyped-call]
    return result


class _FakeQuantizeLearned(torch.autograd.Function):
    """The same with gradients for the ends of the range; of the values before rounding, only a sample is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: Tensor, high: Tensor, scale: float, zero: int) -> Tensor:
        parts = _chunks(x)
        ctx.every = max(1, len(parts) // SAMPLED_CHUNKS)
        sample = [part.clone() for part in parts[:: ctx.every]]
        for part in parts:
            part.mul_(1.0 / scale).round_().clamp_(-128 - zero, 127 - zero).mul_(scale)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x, *sample)
        ctx.ends = (-128 - zero) * scale, (127 - zero) * scale
        ctx.kind = low.dtype
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        y, *sample = ctx.saved_tensors
        given = gradients[0]
        if given.stride() != y.stride():
            given = torch.empty_like(y).copy_(given)
        low, high = ctx.ends
        half = (high - low) / 510.0
        backward = torch.ops.aten.hardtanh_backward
        passed: Tensor = backward(given, y, low + half, high - half)
        chosen = (_chunks(value)[:: ctx.every] for value in (given, y, passed))
        sums, seen = torch.zeros(3, dtype=torch.float64, device=y.device), 0
        for was, g, now, result in zip(sample, *chosen, strict=True):
            error = torch.dot(result.reshape(-1), (now - was).reshape(-1))
            not_above = backward(g, now, low - half, high - half).sum()
            sums += torch.stack((error, not_above - result.sum(), g.sum() - not_above))
            seen += now.numel()
        sums *= y.numel() / seen
        # y = low + step * round((x - low) / step) inside, low or high outside; step = (high - low) / 255
        inside = sums[0] / (high - low)
        weight = 1.0 / math.sqrt(255.0 * y[0].numel())
        ends = [(weight * value).to(ctx.kind) for value in (sums[1] - inside, sums[2] + inside)]
        return passed, ends[0], ends[1], None, None


def fake_quantize_learned(x: Tensor, low: Tensor, high: Tensor, scale: float, zero: int) -> Tensor:
    """`fake_quantize`, in place as well, with LSQ's gradients for the ends of the range.

    ``step = (high - low) / 255``: a value inside contributes its rounding error in steps to the gradient of the step,
    a value that was cut contributes to the end that cut it. Both are weighted by ``1 / sqrt(255 * features)`` (section
    2.2 of the paper).

    Args:
        x: float32, any shape, the first dimension counts pictures; overwritten.
        low: the range's lower end, a number.
        high: its upper end.
        scale: `affine_parameters` of the range.
        zero: zero point in [-128, 127].
    """
    result: Tensor = _FakeQuantizeLearned.apply(x, low, high, scale, zero)  # type: ignore[no-untyped-call]
    return result


class _FakeQuantizeWeights(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, step: Tensor, low: int, high: int) -> Tensor:
        wide = step.reshape(-1, *[1] * (weight.ndim - 1))
        real = weight / wide
        rounded = real.round().clamp_(low, high)
        ctx.learned = step.requires_grad
        if ctx.learned:
            ctx.save_for_backward(real, rounded)
            ctx.limits = low, high
        return rounded * wide

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        if not ctx.learned:
            return gradients[0], None, None, None
        real, rounded = ctx.saved_tensors
        low, high = ctx.limits
        inside = (real >= low - 0.5) & (real <= high + 0.5)
        passed = gradients[0] * inside
        slope = torch.where(inside, rounded - real, rounded)
        weight = 1.0 / math.sqrt(high * real[0].numel())
        return passed, (gradients[0] * slope).flatten(1).sum(1) * weight, None, None


def fake_quantize_weights(weight: Tensor, step: Tensor, low: int, high: int) -> Tensor:
    """Weights rounded to multiples of their channel's step; with LSQ's gradient for steps that want one.

    Steps that want none hold every weight (or nearly: see `conversion.weight_quant`), so all gradients pass.

    Args:
        weight: float32, output channels first.
        step: float32, one per output channel.
        low: smallest multiple.
        high: largest multiple.
    """
    result: Tensor = _FakeQuantizeWeights.apply(weight, step, low, high)  # type: ignore[no-untyped-call]
    return result


def extremes_of(x: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest value; channels_last maps are read in memory order, without a copy."""
    x = x.detach()
    flat = _flat(x)
    low, high = torch.aminmax(x if flat is None else flat)
    return low, high


def average_on_grid(x: Tensor, scale: float, zero: int, kernel: tuple[int, int]) -> Tensor:
    """Averages of int8 values rounded as `arithmetic.average_int8` does: the stored value, halves away from zero.

    Averages over small windows are ties as often as not, so the rounding of `fake_quantize` (halves to even) would
    differ. The gradient is passed straight through: an average cannot leave the range of its inputs.

    Args:
        x: averages of values on the grid.
        scale: the grid's scale.
        zero: the grid's zero point.
        kernel: height and width of the window.
    """
    with torch.no_grad():
        parts = math.lcm(*range(1, kernel[0] + 1)) * math.lcm(*range(1, kernel[1] + 1))
        stored = torch.round((x.double() / scale + zero) * parts) / parts
        rounded = (round_half_away(stored).clamp(-128, 127) - zero) * scale
        correction = rounded.to(x.dtype) - x
    return x + correction
