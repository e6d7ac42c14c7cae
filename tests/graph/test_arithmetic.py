"""The arithmetic against exact rational arithmetic and the published C formulas, transcribed with Python integers."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millijoule.errors import QuantizationError
from millijoule.graph import ROUNDINGS, Quant, arithmetic

INT32 = st.integers(-(2**31), 2**31 - 1)
MULTIPLIER = st.one_of(st.integers(2**30, 2**31 - 1), st.sampled_from([2**30, 2**31 - 1]))


def wrap(value: int) -> int:
    return (value + 2**31) % 2**32 - 2**31


def double_rounding(acc: int, multiplier: int, shift: int) -> int:
    """gemmlowp: SaturatingRoundingDoublingHighMul, then RoundingDivideByPOT."""
    product = wrap(acc << max(shift, 0)) * multiplier
    nudged = product + (2**30 if product >= 0 else 1 - 2**30)
    high = abs(nudged) // 2**31 * (1 if nudged >= 0 else -1)
    exponent = max(-shift, 0)
    remainder = high & (2**exponent - 1)
    threshold = (2**exponent - 1 >> 1) + (high < 0)
    return (high >> exponent) + (remainder > threshold)


@given(INT32, MULTIPLIER, st.integers(-31, 7))
def test_single_rounding_is_one_exact_rounding_with_halves_up(acc: int, multiplier: int, shift: int) -> None:
    exact = Fraction(acc * multiplier, 2 ** (31 - shift))
    expected = math.floor(exact + Fraction(1, 2))
    if -(2**31) <= expected < 2**31:
        assert int(arithmetic.requantize(acc, multiplier, shift, "single")) == expected


@given(INT32, MULTIPLIER, st.integers(-31, 7))
def test_double_rounding_follows_gemmlowp(acc: int, multiplier: int, shift: int) -> None:
    assert int(arithmetic.requantize(acc, multiplier, shift, "double")) == wrap(double_rounding(acc, multiplier, shift))


def test_the_two_rules_differ_where_they_are_known_to_differ() -> None:
    # 0.5 - 2^-32 of a step: the high multiply rounds it up to one half, the shift then rounds the half up again
    acc, multiplier, shift = 1, 2**30, -1
    assert int(arithmetic.requantize(acc, multiplier, shift, "single")) == 0
    assert int(arithmetic.requantize(acc, multiplier, shift, "double")) == 1


def test_unknown_rounding_is_refused() -> None:
    with pytest.raises(QuantizationError, match="banker"):
        arithmetic.requantize(1, 2**30, 0, "banker")


@given(INT32, st.integers(0, 2**31 - 1), st.integers(0, 30))
def test_mulhi_is_one_exact_rounding_of_the_wrapped_left_shift(acc: int, multiplier: int, shift: int) -> None:
    expected = math.floor(Fraction(wrap(acc << shift) * multiplier, 2**32) + Fraction(1, 2))
    assert int(arithmetic.requantize(acc, multiplier, shift, "mulhi")) == expected


@given(st.floats(2.0**-40, 2.0**28))
def test_mulhi_multiplier_is_the_nearest_with_the_smallest_shift(real: float) -> None:
    multiplier, shift = arithmetic.quantize_multiplier(real, "mulhi")
    assert 0 <= multiplier < 2**31 and 0 <= shift <= 30
    assert abs(Fraction(multiplier, 2 ** (32 - shift)) - Fraction(real)) <= Fraction(2) ** (shift - 33)
    assert shift == 0 or math.floor(Fraction(real) * 2 ** (33 - shift) + Fraction(1, 2)) >= 2**31


def test_mulhi_multipliers_at_the_edges() -> None:
    assert arithmetic.quantize_multiplier(0.0, "mulhi") == (0, 0)
    assert arithmetic.quantize_multiplier(2.0**-34, "mulhi") == (0, 0)
    assert arithmetic.quantize_multiplier(2.0**-33, "mulhi") == (1, 0)
    assert arithmetic.quantize_multiplier(0.5 - 2.0**-32, "mulhi") == (2**31 - 1, 0)
    assert arithmetic.quantize_multiplier(0.5 - 2.0**-34, "mulhi") == (2**30, 1)  # would round up to 2**31
    assert arithmetic.quantize_multiplier(0.5, "mulhi") == (2**30, 1)
    assert arithmetic.quantize_multiplier(2.0**29 - 0.25, "mulhi") == (2**31 - 1, 30)
    for real in (2.0**29 - 0.125, 2.0**29, -1.0, math.inf, math.nan):
        with pytest.raises(QuantizationError):
            arithmetic.quantize_multiplier(real, "mulhi")


def nearest(acc: np.ndarray, numerator: int, bits: int) -> np.ndarray:
    """``floor(acc * numerator / 2**bits + 1/2)``, exact for sums below 2**24 and numerators below 2**53."""
    product = acc * (numerator >> 20) + (acc * (numerator & (1 << 20) - 1) >> 20)  # floor(acc * numerator / 2**20)
    rounded: np.ndarray = product + (1 << bits - 21) >> bits - 20
    return rounded


@pytest.mark.parametrize("seed", range(12))
def test_mulhi_leaves_exact_rounding_only_where_a_tie_is_near(seed: int) -> None:
    """Every sum of a window of 2**20 around a tie, for random real multipliers: at most 2**-10 of a step away."""
    rng = np.random.default_rng(seed)
    numerator = int(rng.integers(2**52, 2**53))
    exponent = int(rng.integers(1, 13))
    real = math.ldexp(numerator, -53 - exponent)
    multiplier, shift = arithmetic.quantize_multiplier(real, "mulhi")
    tie = math.floor(Fraction(2 * int(rng.integers(-127, 127)) + 1, 2) / Fraction(real))
    start = min(max(tie, -(2**23) + 2**19), 2**23 - 2**19)
    acc = np.arange(start - 2**19, start + 2**19, dtype=np.int64)
    found = arithmetic.requantize(acc, multiplier, shift, "mulhi").astype(np.int64)
    exact = nearest(acc, numerator, 53 + exponent)
    for index in rng.integers(0, len(acc), 200):  # the vectorised reference against rational arithmetic
        assert exact[index] == math.floor(Fraction(int(acc[index])) * Fraction(real) + Fraction(1, 2))
    differing = acc[found != exact]
    assert np.abs(found - exact).max() <= 1
    assert len(differing) <= len(acc) * 2**-9
    for value in differing:
        product = Fraction(int(value)) * Fraction(real)
        distance = abs(product - math.floor(product) - Fraction(1, 2))
        assert distance <= abs(int(value)) * Fraction(2) ** (shift - 33) <= Fraction(1, 2**10) * 2**shift


@given(INT32, st.floats(2.0**-20, 2.0**6))
def test_mulhi_is_off_by_no_more_than_its_bound(acc: int, real: float) -> None:
    multiplier, shift = arithmetic.quantize_multiplier(real, "mulhi")
    acc >>= shift  # no left shift overflows
    found = int(arithmetic.requantize(acc, multiplier, shift, "mulhi"))
    off = abs(acc) * Fraction(2) ** (shift - 33)
    assert abs(found - acc * Fraction(real)) <= Fraction(1, 2) + off and off <= Fraction(1, 4)


@given(*[st.integers(-128, 127)] * 5, *[st.floats(2.0**-12, 2.0**4)] * 3)
def test_mulhi_addition_rounds_once(
    a: int, b: int, zero_left: int, zero_right: int, zero: int, left: float, right: float, result: float
) -> None:
    quants = [Quant.per_tensor(s, z) for s, z in ((left, zero_left), (right, zero_right), (result, zero))]
    plan = arithmetic.add_plan(*quants, "mulhi")
    assert (plan.left[1] == plan.right[1] and max(plan.left[0], plan.right[0]) >= 2**30) or plan.left[1] == 0
    arrays = [np.array([value], dtype=np.int8) for value in (a, b)]
    got = int(arithmetic.add_int8(*arrays, (zero_left, zero_right, zero), plan, (-128, 127), "mulhi")[0])
    total = ((a - zero_left) * plan.left[0] + (b - zero_right) * plan.right[0]) * 2 ** plan.left[1]
    assert got == max(-128, min(127, math.floor(Fraction(total, 2**32) + Fraction(1, 2)) + zero))
    scales = [Fraction(quant.scalar_scale) for quant in quants]
    real = ((a - zero_left) * scales[0] + (b - zero_right) * scales[1]) / scales[2] + zero
    bound = Fraction(1, 2) + Fraction(255) * Fraction(2) ** (plan.left[1] - 32)
    assert abs(got - max(Fraction(-128), min(Fraction(127), real))) <= bound


def test_mulhi_addition_of_absurd_scales_is_refused() -> None:
    tiny, one = Quant.per_tensor(2.0**-22, 0), Quant.per_tensor(1.0, 0)
    with pytest.raises(QuantizationError, match="addition"):
        arithmetic.add_plan(one, one, tiny, "mulhi")
    assert arithmetic.add_plan(tiny, one, one, "mulhi").left == (2**8, 2)


@given(st.integers(1, 5000), st.floats(1e-3, 1.0), st.floats(1e-3, 1.0), st.data())
def test_mean_is_within_half_a_step_of_the_real_one(count: int, one: float, other: float, data: st.DataObject) -> None:
    rounding = data.draw(st.sampled_from(ROUNDINGS))
    total = data.draw(st.integers(-255 * count, 255 * count))
    source, result = Quant.per_tensor(one), Quant.per_tensor(other)
    found = int(arithmetic.requantize(total, *arithmetic.mean_multiplier(source, result, count, rounding), rounding))
    real = Fraction(total, count) * Fraction(source.scalar_scale) / Fraction(result.scalar_scale)
    slack = abs(real) * Fraction(1, 2**28) + (255 * count * Fraction(1, 2**32) if rounding == "mulhi" else 0)
    assert abs(found - real) <= Fraction(1, 2) + slack + (Fraction(1, 2) if rounding == "double" else 0)


@given(st.floats(2.0**-31, 2.0**29))
def test_quantized_multiplier_is_within_half_a_step(real: float) -> None:
    multiplier, shift = arithmetic.quantize_multiplier(real)
    assert 2**30 <= multiplier < 2**31
    assert abs(Fraction(multiplier) * Fraction(2) ** (shift - 31) - Fraction(real)) <= Fraction(2) ** (shift - 32)


@pytest.mark.parametrize("real", [-1.0, math.nan, math.inf, 2.0**30])
def test_impossible_multipliers_are_refused(real: float) -> None:
    with pytest.raises(QuantizationError):
        arithmetic.quantize_multiplier(real)


def test_tiny_and_carrying_multipliers() -> None:
    assert arithmetic.quantize_multiplier(0.0) == (0, 0)
    assert arithmetic.quantize_multiplier(2.0**-40) == (0, 0)
    assert arithmetic.quantize_multiplier(1.0 - 2.0**-40) == (2**30, 1)


def test_relu6_bounds() -> None:
    quant = Quant.per_tensor(6 / 255, -128)
    assert arithmetic.clamp_bounds((0.0, 6.0), quant) == (-128, 127)
    assert arithmetic.clamp_bounds((0.0, 6.0), Quant.per_tensor(0.1, -20)) == (-20, 40)
    assert arithmetic.clamp_bounds((0.0, math.inf), Quant.per_tensor(0.1, 3)) == (3, 127)
    assert arithmetic.clamp_bounds(None, Quant.per_tensor(0.1, 3)) == (-128, 127)


@given(
    st.lists(st.tuples(st.integers(-128, 127), st.integers(-128, 127)), min_size=1, max_size=64),
    st.floats(1e-3, 1.0),
    st.floats(1e-3, 1.0),
    st.integers(-128, 127),
    st.integers(-128, 127),
    st.sampled_from(ROUNDINGS),
)
def test_addition_is_within_one_step_of_the_real_sum(
    values: list[tuple[int, int]], left: float, right: float, zero_left: int, zero_right: int, rounding: str
) -> None:
    a, b = (np.array(column, dtype=np.int8) for column in zip(*values, strict=True))
    ql, qr = Quant.per_tensor(left, zero_left), Quant.per_tensor(right, zero_right)
    real = (a.astype(float) - zero_left) * ql.scalar_scale + (b.astype(float) - zero_right) * qr.scalar_scale
    qo = Quant.per_tensor(max(float(np.abs(real).max()) / 100, 1e-3), 5)
    plan = arithmetic.add_plan(ql, qr, qo, rounding)
    got = arithmetic.add_int8(a, b, (zero_left, zero_right, 5), plan, (-128, 127), rounding)
    ideal = np.clip(real / qo.scalar_scale + 5, -128, 127)
    assert np.abs(got - ideal).max() <= 0.5 + 1e-3


@given(st.lists(st.integers(-128, 127), min_size=2, max_size=200), st.floats(0.01, 0.5))
def test_softmax_is_close_to_the_real_one_and_keeps_the_order(logits: list[int], scale: float) -> None:
    stored = np.array([logits], dtype=np.int8)
    got = (arithmetic.softmax_int8(stored, arithmetic.softmax_table(scale)).astype(float) + 128) / 256
    exponentials = np.exp((stored.astype(float) - stored.max()) * scale)
    expected = np.minimum(exponentials / exponentials.sum(), 255 / 256)
    assert np.abs(got - expected).max() <= 0.5 / 256 + 1e-3
    assert got[0, int(stored.argmax())] == got.max()


@given(st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=50))
def test_dynamic_quantisation_error_is_at_most_half_a_step(values: list[float]) -> None:
    x = np.array([values], dtype=np.float32)
    scale, zero = arithmetic.dynamic_range(x.min(axis=1), x.max(axis=1))
    stored = arithmetic.dynamic_quantize(x, scale, zero)
    back = (stored.astype(np.float64) - zero[:, None]) * scale[:, None]
    # the zero point itself is rounded, which shifts the representable range by up to half a step
    assert np.abs(back - x).max() <= scale[0] * 1.001
    zero_back = (arithmetic.dynamic_quantize(np.zeros((1, 1), np.float32), scale, zero) - zero)[0, 0]
    assert zero_back == 0


def test_average_rounds_halves_away_from_zero() -> None:
    totals = np.array([3, -3, 5, -5], dtype=np.int32)
    assert arithmetic.average_int8(totals, 2, (-128, 127)).tolist() == [2, -2, 3, -3]


def test_picture_table_covers_every_byte() -> None:
    quant = Quant.per_tensor(1 / 127.5, -1)
    table = arithmetic.normalize_table((1 / 127.5,), (-1.0,), quant)
    assert table.shape == (1, 256)
    assert table[0, 0] == -128 and table[0, 255] >= 126 and (np.diff(table[0].astype(int)) >= 0).all()
