"""The integer arithmetic of quantised networks, written down once.

Every executor (numpy here, generated C on the host, the emulated and the real board) follows these formulas bit for
bit. They are the rules of the TFLite 8-bit quantisation specification; where it leaves a choice, the choice is named.

A convolution computes ``acc = bias + sum((x - zero_x) * w)`` in 32 bits and then
``y = clamp(requantize(acc, multiplier, shift) + zero_y)`` with ``multiplier * 2**(shift - 31) ~ s_x * s_w / s_y``
(rounding "mulhi": ``2**(shift - 32)``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from millijoule.errors import QuantizationError
from millijoule.graph.tensor import INT8_MAX, INT8_MIN, Quant

__all__ = [
    "ADD_LARGEST_SHIFT",
    "ADD_LEFT_SHIFT",
    "HALF_MAX",
    "HALF_SMALLEST_NORMAL",
    "AddPlan",
    "add_int8",
    "add_plan",
    "average_int8",
    "clamp_bounds",
    "dynamic_quantize",
    "dynamic_range",
    "mean_multiplier",
    "multipliers",
    "normalize_table",
    "quantize_array",
    "quantize_multiplier",
    "requantize",
    "round_half_away",
    "round_to_half",
    "softmax_int8",
    "softmax_table",
]

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float = npt.NDArray[np.floating]

ADD_LEFT_SHIFT = 20
"""Headroom of int8 addition: inputs are scaled by 2**20 before their scales are brought together (TFLite add)."""

HALF_MAX, HALF_SMALLEST_NORMAL = 65504.0, 2.0**-14
"""Largest and smallest normal magnitude of a 16-bit float."""

ADD_LARGEST_SHIFT = 21
"""Largest shift of an addition with rounding "mulhi": sums then stay within 62 bits, results within 30."""


def round_to_half(value: npt.NDArray[np.floating]) -> npt.NDArray[np.float16]:
    """Real numbers as 16-bit floats (IEEE 754-2019 binary16): round to nearest, ties to even, gradual underflow.

    Numbers of magnitude 2**-14 to 65504 keep 11 significant bits, smaller ones are multiples of 2**-24 ("subnormal"),
    at most 2**-25 is 0.

    Args:
        value: finite float32 or float64 of any shape.

    Raises:
        QuantizationError: a magnitude is above 65504, the largest number of the format, or not finite.
    """
    largest = float(np.abs(value).max(initial=0.0))
    if not largest <= HALF_MAX:
        raise QuantizationError(
            "16-bit float",
            f"a magnitude of {largest:.6g} is beyond {HALF_MAX:.0f}, the largest there is",
            "Keep this layer in 32 bits, or train with weight decay",
        )
    return np.asarray(value).astype(np.float16)


def round_half_away(value: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Nearest integer, halves away from zero, as ``trunc(x + copysign(0.5, x))`` in the type of `value`."""
    half = np.asarray(0.5, dtype=value.dtype)
    rounded: npt.NDArray[np.floating] = np.trunc(value + np.copysign(half, value))
    return rounded


# *** fixed-point multipliers *****


def quantize_multiplier(real: float, rounding: str = "single") -> tuple[int, int]:
    """A positive real as a multiplier and a shift for `requantize`.

    Args:
        real: what sums are to be multiplied by.
        rounding: "single", "double": ``multiplier * 2**(shift - 31)`` with multiplier in [2**30, 2**31), TFLite
            `QuantizeMultiplier`; values below 2**-32 become (0, 0). "mulhi": ``multiplier * 2**(shift - 32)`` with
            ``multiplier = floor(real * 2**(32 - shift) + 1/2)``, shift the smallest one from 0 on that keeps the
            multiplier below 2**31; it is 0 for every real below 1/2, so that small reals have fewer than 31 bits.

    Example:
        >>> quantize_multiplier(0.25)
        (1073741824, -1)
        >>> quantize_multiplier(0.25, "mulhi"), quantize_multiplier(0.5, "mulhi")
        ((1073741824, 0), (1073741824, 1))

    Raises:
        QuantizationError: the value is not finite, negative, or 2**30 ("mulhi": 2**29 - 1/8) and above.
    """
    limit = 2.0**29 - 0.125 if rounding == "mulhi" else 2.0**30
    if not math.isfinite(real) or real < 0.0 or real >= limit:
        raise QuantizationError(
            "a requantisation multiplier", f"{real!r} is outside [0, {limit})", "Check the scales of the layer"
        )
    if rounding == "mulhi":
        return _mulhi_multiplier(real, _mulhi_shift(real))
    if real == 0.0:
        return 0, 0
    fraction, shift = math.frexp(real)
    multiplier = math.floor(fraction * 2.0**31 + 0.5)
    if multiplier == 1 << 31:
        multiplier, shift = 1 << 30, shift + 1
    if shift < -31:
        return 0, 0
    return multiplier, shift


def _mulhi_multiplier(real: float, shift: int) -> tuple[int, int]:
    return math.floor(math.ldexp(real, 32 - shift) + 0.5), shift


def _mulhi_shift(real: float) -> int:
    """The smallest shift from 0 on with which the multiplier of "mulhi" is below 2**31."""
    shift = max(math.frexp(real)[1] + 1, 0) if real >= 0.25 else 0
    return shift + (_mulhi_multiplier(real, shift)[0] >= 1 << 31)


def multipliers(reals: npt.ArrayLike, rounding: str = "single") -> tuple[Int32, npt.NDArray[np.int8]]:
    """`quantize_multiplier` of each value: int32 multipliers and int8 shifts."""
    pairs = [quantize_multiplier(float(value), rounding) for value in np.asarray(reals, dtype=np.float64).ravel()]
    return (
        np.array([pair[0] for pair in pairs], dtype=np.int32),
        np.array([pair[1] for pair in pairs], dtype=np.int8),
    )


def requantize(acc: npt.ArrayLike, multiplier: npt.ArrayLike, shift: npt.ArrayLike, rounding: str) -> Int32:
    """``round(acc * multiplier * 2**(shift - 31))``, the one place where sums become small again.

    Rounding "mulhi" keeps an absolute instead of a relative precision of the multiplier: before it is rounded, its
    result is off by ``abs(acc) * 2**(shift - 33)`` at most. That is below 2**-10 of a step for shift 0 and sums below
    2**23, and a quarter of a step for any sum whose left shift stays within 32 bits.

    Args:
        acc: int32 values of any shape.
        multiplier: int32 in {0} or [2**29, 2**31), "mulhi": [0, 2**31); broadcasts against `acc`.
        shift: in [-31, 30], "mulhi": [0, 30]; broadcasts against `acc`.
        rounding: "single": one rounding, halves up: ``(acc * m + 2**(30-shift)) >> (31-shift)`` (TFLite built with
            TFLITE_SINGLE_ROUNDING). "double": gemmlowp's two steps, a saturating rounding doubling high multiply and
            then a rounding right shift with halves away from zero (LiteRT's reference convolutions; its dense layers
            round once).
            "mulhi": one multiplication that keeps the high word, rounded with halves up,
            ``((acc << shift) * m + 2**31) >> 32`` (SMMULR of the Cortex-M4 and M7).
            A left shift wraps to 32 bits as it does in C ("double", "mulhi").

    Returns:
        int32 of the broadcast shape.
    """
    a = np.asarray(acc, dtype=np.int64)
    m = np.asarray(multiplier, dtype=np.int64)
    s = np.asarray(shift, dtype=np.int64)
    if rounding == "single":
        total = 31 - s
        result = (a * m + (np.int64(1) << (total - 1))) >> total
    elif rounding == "double":
        left, right = np.maximum(s, 0), np.maximum(-s, 0)
        shifted = (a << left).astype(np.int32).astype(np.int64)
        product = shifted * m
        nudge = np.where(product >= 0, np.int64(1 << 30), np.int64(1 - (1 << 30)))
        high = _truncating_divide(product + nudge, 31)
        mask = (np.int64(1) << right) - 1
        remainder = high & mask
        threshold = (mask >> 1) + (high < 0)
        result = (high >> right) + (remainder > threshold)
    elif rounding == "mulhi":
        result = ((a << s).astype(np.int32).astype(np.int64) * m + (np.int64(1) << 31)) >> 32
    else:
        raise QuantizationError("rounding", f"{rounding!r} is not a rounding rule", "Use single, double or mulhi")
    narrowed: Int32 = result.astype(np.int32)
    return narrowed


def _truncating_divide(value: Int64, bits: int) -> Int64:
    """``value / 2**bits`` towards zero, as C divides."""
    divisor = np.int64(1 << bits)
    return np.where(value >= 0, value >> bits, -((-value) // divisor))


# *** scales, zero points, ranges *****


def clamp_bounds(clamp: tuple[float, float] | None, quant: Quant) -> tuple[int, int]:
    """The stored integers between which an int8 result is clamped.

    TFLite `CalculateActivationRangeQuantized`: the bounds of a fused activation are quantised and cut to int8.

    Args:
        clamp: real bounds of the fused activation ((0, 6) for ReLU6, (0, inf) for ReLU), None for none.
        quant: the per-tensor quantisation of the result.
    """
    low, high = INT8_MIN, INT8_MAX
    if clamp is not None:
        scale, zero = np.float32(quant.scalar_scale), quant.scalar_zero_point
        if math.isfinite(clamp[0]):
            low = max(low, zero + int(round_half_away(np.asarray(np.float32(clamp[0]) / scale))))
        if math.isfinite(clamp[1]):
            high = min(high, zero + int(round_half_away(np.asarray(np.float32(clamp[1]) / scale))))
    return low, max(low, high)


def quantize_array(value: Float, quant: Quant, dtype: str = "int8", low: int = INT8_MIN) -> npt.NDArray[np.integer]:
    """Real numbers to stored integers: ``clamp(round_half_away(value / scale) + zero_point)`` in float64.

    Args:
        value: any shape; per-channel scales run along `quant.axis`.
        quant: the quantisation.
        dtype: "int8" (clamped to [low, 127]) or "int32" (clamped to 32 bits).
        low: smallest int8 value; -127 for weights.
    """
    scaled = round_half_away(np.asarray(value, dtype=np.float64) / quant.broadcast_scale(np.ndim(value)))
    zero = np.asarray(quant.zero_point, dtype=np.float64).reshape(quant.broadcast_scale(np.ndim(value)).shape)
    if dtype == "int8":
        return np.clip(scaled + zero, low, INT8_MAX).astype(np.int8)
    return np.clip(scaled + zero, -(2.0**31), 2.0**31 - 1).astype(np.int32)


def normalize_table(scale: tuple[float, ...], offset: tuple[float, ...], quant: Quant) -> npt.NDArray[np.int8]:
    """The int8 value of every possible picture byte: shape (channels or 1, 256).

    ``table[c][p] = clamp(round_half_away((p * scale[c] + offset[c]) / s_out) + zero_out)`` in float64, so that picture
    normalisation and input quantisation together are one table look-up.
    """
    pixels = np.arange(256, dtype=np.float64)[None, :]
    real = pixels * np.asarray(scale, dtype=np.float64)[:, None] + np.asarray(offset, dtype=np.float64)[:, None]
    return quantize_array(real, quant).astype(np.int8)


# *** operators *****


@dataclass(frozen=True)
class AddPlan:
    """Multipliers and shifts of an int8 addition; see `add_int8`. `result` is (0, 0) with rounding "mulhi"."""

    left: tuple[int, int]
    right: tuple[int, int]
    result: tuple[int, int]


def add_plan(left: Quant, right: Quant, result: Quant, rounding: str = "single") -> AddPlan:
    """The fixed-point constants of ``result = left + right``.

    Rounding "single", "double" (TFLite add): both inputs are brought to half of the larger input scale, in 2**-20
    steps, added, and requantised. Rounding "mulhi": both inputs are multiplied by the ratio of their scale to the
    result's; the multipliers share one shift, the smallest that keeps both below 2**31.

    Raises:
        QuantizationError: a ratio of the scales is out of range; with "mulhi" the shift is limited to
            `ADD_LARGEST_SHIFT`, a scale about a million times the result's.
    """
    if rounding == "mulhi":
        reals = [side.scalar_scale / result.scalar_scale for side in (left, right)]
        shift = max(_mulhi_shift(real) for real in reals)
        if shift > ADD_LARGEST_SHIFT:
            raise QuantizationError(
                "an addition", f"a scale is {max(reals):.3g} times that of the result", "Check the scales of the layer"
            )
        return AddPlan(_mulhi_multiplier(reals[0], shift), _mulhi_multiplier(reals[1], shift), (0, 0))
    twice = 2.0 * max(left.scalar_scale, right.scalar_scale)
    return AddPlan(
        quantize_multiplier(left.scalar_scale / twice),
        quantize_multiplier(right.scalar_scale / twice),
        quantize_multiplier(twice / ((1 << ADD_LEFT_SHIFT) * result.scalar_scale)),
    )


def add_int8(
    left: npt.NDArray[np.int8],
    right: npt.NDArray[np.int8],
    zeros: tuple[int, int, int],
    plan: AddPlan,
    bounds: tuple[int, int],
    rounding: str,
) -> npt.NDArray[np.int8]:
    """The int8 sum of two equally shaped tensors.

    Rounding "mulhi" rounds once: ``(((left - zero_l) * m_l + (right - zero_r) * m_r) * 2**shift + 2**31) >> 32``, all
    of it in 64 bits (SMULL, SMLAL). The two multipliers put the sum off by at most 255 * 2**(shift - 32) of a step.

    Args:
        left: first tensor.
        right: second tensor.
        zeros: zero points of left, right and result.
        plan: from `add_plan`.
        bounds: from `clamp_bounds`.
        rounding: as in `requantize`.
    """
    if rounding == "mulhi":
        products = [
            (data.astype(np.int64) - zero) * multiplier << shift
            for data, zero, (multiplier, shift) in ((left, zeros[0], plan.left), (right, zeros[1], plan.right))
        ]
        high = (products[0] + products[1] + (np.int64(1) << 31)) >> 32
        once: npt.NDArray[np.int8] = np.clip(high + zeros[2], *bounds).astype(np.int8)
        return once
    a = (left.astype(np.int32) - zeros[0]) << ADD_LEFT_SHIFT
    b = (right.astype(np.int32) - zeros[1]) << ADD_LEFT_SHIFT
    total = requantize(a, *plan.left, rounding) + requantize(b, *plan.right, rounding)
    result = requantize(total, *plan.result, rounding) + zeros[2]
    return np.clip(result, *bounds).astype(np.int8)


def mean_multiplier(data: Quant, result: Quant, count: int, rounding: str = "single") -> tuple[int, int]:
    """Multiplier and shift that turn ``sum(x - zero_x)`` over `count` values into their mean at the result's scale.

    Rounding "single", "double" (TFLite's integer mean): the multiplier of s_x / s_y is shifted left by
    floor(log2(count)) and divided by `count`, rounding down, so it may be as small as 2**29. Rounding "mulhi": that of
    ``s_x / (s_y * count)``, as for any other sum.
    """
    if rounding == "mulhi":
        return quantize_multiplier(data.scalar_scale / (result.scalar_scale * count), rounding)
    multiplier, shift = quantize_multiplier(data.scalar_scale / result.scalar_scale)
    bits = min(count.bit_length() - 1, 32, 31 + shift)
    return (multiplier << bits) // count, shift - bits


def average_int8(total: Int32, count: npt.ArrayLike, bounds: tuple[int, int]) -> npt.NDArray[np.int8]:
    """Pooling average of int8 values at unchanged scale: halves away from zero (TFLite average_pool_2d).

    Args:
        total: sums of the stored values (zero point included) under each window.
        count: how many values each window holds; taps outside the picture do not count.
        bounds: from `clamp_bounds`.
    """
    n = np.asarray(count, dtype=np.int64)
    t = total.astype(np.int64)
    magnitude = (np.abs(t) + n // 2) // n
    average: npt.NDArray[np.int8] = np.clip(np.where(t >= 0, magnitude, -magnitude), *bounds).astype(np.int8)
    return average


def softmax_table(scale: float) -> npt.NDArray[np.uint32]:
    """``round(65536 * exp(-scale * d))`` for the distance d = 0..255 of a logit below the largest one."""
    distance = np.arange(256, dtype=np.float64)
    return np.floor(65536.0 * np.exp(-float(scale) * distance) + 0.5).astype(np.uint32)


def softmax_int8(logits: npt.NDArray[np.int8], table: npt.NDArray[np.uint32]) -> npt.NDArray[np.int8]:
    """Probabilities as int8 with scale 1/256 and zero point -128, from integers only.

    ``y = min(127, (256 * e + sum // 2) // sum - 128)`` with e from `softmax_table`; 32-bit unsigned arithmetic suffices
    up to 32,767 classes. The output scale is the one TFLite prescribes.

    Args:
        logits: (N, classes).
        table: from `softmax_table`.
    """
    distance = logits.max(axis=-1, keepdims=True).astype(np.int32) - logits.astype(np.int32)
    exponentials = table[distance].astype(np.uint32)
    total = exponentials.sum(axis=-1, keepdims=True, dtype=np.uint32)
    scaled = (exponentials * np.uint32(256) + total // np.uint32(2)) // total
    probabilities: npt.NDArray[np.int8] = np.minimum(scaled.astype(np.int32) - 128, INT8_MAX).astype(np.int8)
    return probabilities


def dynamic_range(
    low: npt.NDArray[np.float32], high: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Scale and zero point of activations from their own range at run time, all steps in float32.

    The range is widened to hold zero; ``scale = (high - low) / 255`` (1 when that is 1e-30 or less: all zero),
    ``zero_point = clamp(round_half_away(-128 - low / scale))``.

    Args:
        low: smallest value of each picture.
        high: largest value of each picture.
    """
    low = np.minimum(low.astype(np.float32), np.float32(0))
    high = np.maximum(high.astype(np.float32), np.float32(0))
    scale = (high - low) / np.float32(255)
    scale = np.where(scale > np.float32(1e-30), scale, np.float32(1)).astype(np.float32)
    zero = round_half_away((np.float32(-128) - low / scale).astype(np.float32))
    return scale, np.clip(zero, INT8_MIN, INT8_MAX).astype(np.int32)


def dynamic_quantize(
    value: npt.NDArray[np.float32], scale: npt.NDArray[np.float32], zero: npt.NDArray[np.int32]
) -> npt.NDArray[np.int8]:
    """Float activations to int8 at run time: ``clamp(trunc(x * (1 / scale) + copysign(0.5, x)) + zero)``, in float32.

    Args:
        value: (N, ...) float32.
        scale: (N,) from `dynamic_range`.
        zero: (N,) from `dynamic_range`.
    """
    shape = (-1, *([1] * (value.ndim - 1)))
    inverse = (np.float32(1) / scale).astype(np.float32).reshape(shape)
    rounded = round_half_away((value * inverse).astype(np.float32)).astype(np.int32)
    stored: npt.NDArray[np.int8] = np.clip(rounded + zero.reshape(shape), INT8_MIN, INT8_MAX).astype(np.int8)
    return stored
