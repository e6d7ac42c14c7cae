"""The dynamic and float kernels: the first bit for bit, the second within float rounding."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millijoule.graph import arithmetic
from millijoule.kernels import KERNELS, Dims

SCRATCH = {kernel.name: kernel.scratch_bytes for kernel in KERNELS}
INFINITY = float("inf")
seeds = st.integers(0, 2**32 - 1)
channel_counts = st.integers(1, 7)


def examples(count: int) -> Any:
    return settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck))


@st.composite
def window_dims(draw: st.DrawFn) -> Dims:
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 4)))
    stride = draw(st.tuples(st.integers(1, 2), st.integers(1, 3)))
    dilation = draw(st.sampled_from([(1, 1), (2, 1), (1, 2)]))
    top, bottom, left, right = draw(st.tuples(*[st.integers(0, 2)] * 4))
    height = draw(st.integers(1, 6)) + dilation[0] * (kernel[0] - 1)
    width = draw(st.integers(1, 6)) + dilation[1] * (kernel[1] - 1)
    out_height = (height + top + bottom - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1
    out_width = (width + left + right - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1
    channels, out = draw(channel_counts), draw(channel_counts)
    return Dims(
        height, width, channels, out_height, out_width, out, kernel, stride, dilation, (top, bottom, left, right)
    )


def windows(x: np.ndarray, dims: Dims, outside: float) -> np.ndarray:
    """(out_height, out_width, kernel_height, kernel_width, channels), `outside` beyond the picture."""
    top, bottom, left, right = dims.padding
    padded = np.pad(x, ((top, bottom), (left, right), (0, 0)), constant_values=outside)
    rows = np.arange(dims.out_height)[:, None] * dims.stride[0] + np.arange(dims.kernel[0]) * dims.dilation[0]
    columns = np.arange(dims.out_width)[:, None] * dims.stride[1] + np.arange(dims.kernel[1]) * dims.dilation[1]
    return padded[rows[:, None, :, None], columns[None, :, None, :]]


def float_data(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Of one sign or both, or all zero, at some scale."""
    x = rng.normal(size=shape) * 2.0 ** rng.uniform(-10, 10)
    x = [x, np.abs(x), -np.abs(x), np.zeros(shape)][int(rng.choice(4, p=[0.5, 0.3, 0.15, 0.05]))]
    return x.astype(np.float32)


def quantized(x: np.ndarray) -> tuple[np.ndarray, np.float32, int]:
    scale, zero = arithmetic.dynamic_range(np.array([x.min()]), np.array([x.max()]))
    return arithmetic.dynamic_quantize(x[None], scale, zero)[0], scale[0], int(zero[0])


def finished(acc: np.ndarray, scale: np.float32, real: Any, bias: Any, low: float, high: float) -> np.ndarray:
    """float32 in the kernels' order: acc * (x_scale * weight_scale) + bias."""
    y = acc.astype(np.float32) * (scale * real)
    y = y if bias is None else y + bias
    return np.clip(y, np.float32(low), np.float32(high)).astype(np.float32)


@pytest.mark.parametrize("operator", ["conv2d", "depthwise", "dense"])
@examples(150)
@given(dims=window_dims(), seed=seeds, clamp=st.sampled_from([(-INFINITY, INFINITY), (0.0, 6.0), (0.0, INFINITY)]))
def test_dynamic(operator: str, dims: Dims, seed: int, clamp: tuple[float, float], libraries: Any, tools: Any) -> None:
    rng = np.random.default_rng(seed)
    if operator == "dense":
        dims = Dims(in_channels=dims.in_channels * 5, out_channels=dims.out_channels)
    elif operator == "depthwise":
        dims = Dims(**{**dims.__dict__, "out_channels": dims.in_channels})
    x = float_data(rng, (dims.in_height, dims.in_width, dims.in_channels))
    stored, scale, zero = quantized(x)
    taps = windows(stored.astype(np.int64), dims, zero) - zero
    if operator == "depthwise":
        weights = rng.integers(-127, 128, (*dims.kernel, dims.in_channels), dtype=np.int8)
        acc = (taps * weights).sum(axis=(2, 3))
        sums = weights.sum(axis=(0, 1), dtype=np.int32)
    else:
        weights = rng.integers(-127, 128, (dims.out_channels, *dims.kernel, dims.in_channels), dtype=np.int8)
        acc = np.einsum("yxhwi,ohwi->yxo", taps, weights.astype(np.int64))
        sums = weights.sum(axis=(1, 2, 3), dtype=np.int32)
    real = (2.0 ** rng.uniform(-12, -4, dims.out_channels)).astype(np.float32)
    bias = rng.normal(size=dims.out_channels).astype(np.float32) if seed % 4 else None
    expected = finished(acc, scale, real, bias, *clamp)
    parameters = tools.Dynamic(real.ctypes.data, sums.ctypes.data, *clamp)
    name = f"mj_{operator}_dyn"
    scratch = np.zeros(SCRATCH[name](dims) // 4, dtype=np.uint32)
    y = np.zeros_like(expected)
    sizes = (dims.in_channels, dims.out_channels) if operator == "dense" else (tools.Window.of(dims),)
    libraries["single"].call(name, x, weights, bias, y, *sizes, parameters, scratch, at_end=bool(seed % 3))
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(scratch.view(np.int8)[: x.size], stored.ravel())


@examples(150)
@given(dims=window_dims(), seed=seeds, clamp=st.sampled_from([(-INFINITY, INFINITY), (0.0, 6.0)]))
def test_float_windows(dims: Dims, seed: int, clamp: tuple[float, float], libraries: Any, tools: Any) -> None:
    rng = np.random.default_rng(seed)
    library, window = libraries["single"], tools.Window.of(dims)
    x = rng.normal(size=(dims.in_height, dims.in_width, dims.in_channels)).astype(np.float32)
    taps = windows(x.astype(np.float64), dims, 0.0)

    weights = rng.normal(size=(dims.out_channels, *dims.kernel, dims.in_channels)).astype(np.float32)
    bias = rng.normal(size=dims.out_channels).astype(np.float32) if seed % 4 else None
    expected = np.einsum("yxhwi,ohwi->yxo", taps, weights) + (0.0 if bias is None else bias)
    y = np.zeros(expected.shape, dtype=np.float32)
    library.call("mj_conv2d_f32", x, weights, bias, y, window, *clamp)
    np.testing.assert_allclose(y, np.clip(expected, *clamp), rtol=1e-5, atol=1e-4)

    window.out_channels = dims.in_channels
    kernel = rng.normal(size=(*dims.kernel, dims.in_channels)).astype(np.float32)
    bias = rng.normal(size=dims.in_channels).astype(np.float32) if seed % 4 else None
    expected = (taps * kernel).sum(axis=(2, 3)) + (0.0 if bias is None else bias)
    y = np.zeros(expected.shape, dtype=np.float32)
    library.call("mj_depthwise_f32", x, kernel, bias, y, window, *clamp)
    np.testing.assert_allclose(y, np.clip(expected, *clamp), rtol=1e-5, atol=1e-4)

    inside = windows(np.ones_like(x), dims, 0.0)
    count = np.maximum(inside.sum(axis=(2, 3)), 1)
    library.call("mj_avg_pool_f32", x, y, window)
    np.testing.assert_allclose(y, taps.sum(axis=(2, 3)) / count, rtol=1e-5, atol=1e-5)
    largest = np.where(inside > 0, taps, -np.inf).max(axis=(2, 3))
    library.call("mj_max_pool_f32", x, y, window)
    np.testing.assert_array_equal(y, np.where(np.isinf(largest), 0, largest).astype(np.float32))


def test_every_16_bit_float_is_widened_exactly(libraries: Any) -> None:
    stored = np.arange(1 << 16, dtype=np.uint16)
    stored = stored[np.isfinite(stored.view(np.float16))]
    y = np.zeros(len(stored), dtype=np.float32)
    x, zero = (
        np.ones(1, dtype=np.float32),
        np.full(len(stored), 0x8000, dtype=np.uint16),
    )  # a bias of -0 changes nothing
    libraries["single"].call("mj_dense_f16", x, stored, zero, y, 1, len(stored), -INFINITY, INFINITY)
    np.testing.assert_array_equal(y.view(np.uint32), stored.view(np.float16).astype(np.float32).view(np.uint32))


@examples(50)
@given(dims=window_dims(), seed=seeds, clamp=st.sampled_from([(-INFINITY, INFINITY), (0.0, 6.0)]))
def test_16_bit_weights_give_the_bits_of_the_same_weights_in_32(
    dims: Dims, seed: int, clamp: tuple[float, float], libraries: Any, tools: Any
) -> None:
    rng = np.random.default_rng(seed)
    library, window = libraries["single"], tools.Window.of(dims)
    x = rng.normal(size=(dims.in_height, dims.in_width, dims.in_channels)).astype(np.float32)
    for operator in ("conv2d", "depthwise", "dense"):
        shape: tuple[int, ...] = (dims.out_channels, *dims.kernel, dims.in_channels)
        window.out_channels, outputs = dims.out_channels, (dims.out_height, dims.out_width, dims.out_channels)
        sizes: tuple[Any, ...] = (window,)
        if operator == "depthwise":
            window.out_channels, shape = dims.in_channels, (*dims.kernel, dims.in_channels)
            outputs = (dims.out_height, dims.out_width, dims.in_channels)
        elif operator == "dense":
            shape, outputs, sizes = (dims.out_channels, x.size), (dims.out_channels,), (x.size, dims.out_channels)
        weights, bias = (rng.normal(size=size).astype(np.float16) for size in (shape, outputs[-1]))
        y, expected = (np.zeros(outputs, dtype=np.float32) for _ in range(2))
        given = bias if seed % 4 else None
        wide = None if given is None else given.astype(np.float32)
        library.call(f"mj_{operator}_f32", x, weights.astype(np.float32), wide, expected, *sizes, *clamp)
        half = None if given is None else given.view(np.uint16)
        library.call(f"mj_{operator}_f16", x, weights.view(np.uint16), half, y, *sizes, *clamp)
        np.testing.assert_array_equal(y.view(np.uint32), expected.view(np.uint32))


@examples(100)
@given(rows=st.integers(1, 20), columns=st.integers(1, 9), seed=seeds)
def test_float_rest(rows: int, columns: int, seed: int, libraries: Any) -> None:
    rng = np.random.default_rng(seed)
    library = libraries["single"]
    x, other = (rng.normal(size=(rows, columns)).astype(np.float32) for _ in range(2))
    y = np.zeros_like(x)
    library.call("mj_add_f32", x, other, y, x.size, -1.0, 0.5)
    np.testing.assert_array_equal(y, np.clip(x + other, np.float32(-1), np.float32(0.5)))
    library.call("mj_clamp_f32", x, y, x.size, 0.0, INFINITY)
    np.testing.assert_array_equal(y, np.maximum(x, 0))

    weights = rng.normal(size=(3, columns)).astype(np.float32)
    bias = rng.normal(size=3).astype(np.float32)
    out = np.zeros(3, dtype=np.float32)
    library.call("mj_dense_f32", x[0].copy(), weights, bias, out, columns, 3, -INFINITY, INFINITY)
    np.testing.assert_allclose(out, weights.astype(np.float64) @ x[0] + bias, rtol=1e-5, atol=1e-5)

    mean = np.zeros(columns, dtype=np.float32)
    library.call("mj_mean_f32", x, mean, rows, columns)
    np.testing.assert_allclose(mean, x.mean(axis=0, dtype=np.float64), rtol=1e-5, atol=1e-5)

    padded = np.zeros((rows + 3, columns + 1, 1), dtype=np.float32)
    library.call("mj_pad_f32", x, padded, rows, columns, 1, 1, 2, 0, 1)
    np.testing.assert_array_equal(padded, np.pad(x[..., None], ((1, 2), (0, 1), (0, 0))))

    turned = np.zeros((columns, rows, 1), dtype=np.float32)
    library.call("mj_transpose_f32", x, turned, rows, columns, 1)
    np.testing.assert_array_equal(turned[..., 0], x.T)

    picture = rng.integers(0, 256, (rows, columns), dtype=np.uint8)
    scale, offset = (rng.normal(size=columns).astype(np.float32) for _ in range(2))
    library.call("mj_normalize_f32", picture, y, rows, columns, scale, offset)
    np.testing.assert_array_equal(y, picture.astype(np.float32) * scale + offset)


@examples(200)
@given(classes=st.integers(1, 1000), spread=st.floats(0.0, 60.0), seed=seeds)
def test_softmax(classes: int, spread: float, seed: int, libraries: Any) -> None:
    x = (np.random.default_rng(seed).normal(size=classes) * spread).astype(np.float32)
    y = np.zeros_like(x)
    libraries["single"].call("mj_softmax_f32", x, y, classes)
    distance = (x - x.max()).astype(np.float64)
    exact = np.exp(distance)
    exact /= exact.sum()
    # the exponential, and one rounding for each term of the sum
    assert np.all(np.abs(y - exact) <= exact * (2e-6 + classes * 2.0**-25) + 1e-37)
    assert abs(float(y.astype(np.float64).sum()) - 1) < 1e-5


def test_exponential_is_within_two_units_in_the_last_place(libraries: Any) -> None:
    """Two classes (0, x): the ratio of their probabilities is exp(x), but for the two divisions."""
    worst = 0.0
    for x in np.linspace(-86.9, -1e-4, 3001, dtype=np.float32):
        y = np.zeros(2, dtype=np.float32)
        libraries["single"].call("mj_softmax_f32", np.array([0.0, x], dtype=np.float32), y, 2)
        ratio = float(y[1]) / float(y[0])
        exact = float(np.exp(np.float64(x)))
        worst = max(worst, abs(ratio - exact) / exact)
    assert worst < 2 * 2.0**-23 + 2 * 2.0**-24


def test_dynamic_may_quantize_over_its_input(libraries: Any, tools: Any) -> None:
    rng = np.random.default_rng(1)
    dims = Dims(6, 5, 4, 6, 5, 4, (3, 3), padding=(1, 1, 1, 1))
    x = rng.normal(size=(6, 5, 4)).astype(np.float32)
    weights = rng.integers(-127, 128, (3, 3, 4), dtype=np.int8)
    real, sums = np.full(4, 0.01, dtype=np.float32), weights.sum(axis=(0, 1), dtype=np.int32)
    parameters = tools.Dynamic(real.ctypes.data, sums.ctypes.data, -INFINITY, INFINITY)
    apart, over = np.zeros_like(x), np.zeros_like(x)
    scratch = np.zeros(x.size // 4, dtype=np.uint32)
    arguments = (tools.Window.of(dims), parameters)
    libraries["single"].call("mj_depthwise_dyn", x, weights, None, apart, *arguments, scratch)
    function = libraries["single"].library.mj_depthwise_dyn
    pointers = [ctypes.c_void_p(a.ctypes.data) if a is not None else None for a in (x, weights, None, over)]
    window, dynamic = arguments
    function(*pointers, ctypes.byref(window), ctypes.byref(dynamic), pointers[0])
    np.testing.assert_array_equal(over, apart)
