"""The int8 kernels, plain and dsp, against numpy written from the formulas of graph.arithmetic."""

from __future__ import annotations

import ctypes
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millijoule.graph import ROUNDINGS, Quant, arithmetic
from millijoule.kernels import KERNELS, Dims

KERNEL = {kernel.name: kernel for kernel in KERNELS}
rounding_rules = st.sampled_from(ROUNDINGS)
seeds = st.integers(0, 2**32 - 1)


def examples(count: int) -> Any:
    return settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck))


def int8_data(rng: np.random.Generator, shape: tuple[int, ...], weights: bool = False) -> np.ndarray:
    """Random, or one of the extremes everywhere, or a mixture of the extremes."""
    low = -127 if weights else -128
    kind = rng.integers(4)
    if kind == 0:
        return np.full(shape, rng.choice([low, 127]), dtype=np.int8)
    if kind == 1:
        return rng.choice(np.array([low, 127], dtype=np.int8), size=shape)
    return rng.integers(low, 128, shape, dtype=np.int8)


def bounds(rng: np.random.Generator) -> tuple[int, int]:
    if rng.integers(2):
        return -128, 127
    low, high = sorted(int(v) for v in rng.integers(-128, 128, 2))
    return low, high


def scaling(rng: np.random.Generator, acc: np.ndarray, rounding: str) -> tuple[np.ndarray, np.ndarray]:
    """Multiplier and shift per channel (the last axis of acc): mostly sensible results, at times the range's ends."""
    channels = acc.shape[-1]
    multiplier = rng.integers(2**30, 2**31, channels, dtype=np.int64)
    edge = rng.integers(0, 8, channels)
    multiplier[edge == 0] = 2**30
    multiplier[edge == 1] = 2**31 - 1
    largest = np.abs(acc.reshape(-1, channels)).max(axis=0) + 1
    shift = np.clip(8 - np.ceil(np.log2(largest)).astype(np.int64) + rng.integers(-3, 3, channels), -31, 30)
    if rounding == "mulhi":
        real = multiplier * 2.0 ** np.minimum(shift - 31, -3)
        multiplier, shift = (part.astype(np.int64) for part in arithmetic.multipliers(real, rounding))
    wild = rng.integers(0, 8, channels) == 0
    shift[wild] = rng.integers(0 if rounding == "mulhi" else -31, 31, int(wild.sum()))
    none = rng.integers(0, 16, channels) == 0
    multiplier[none], shift[none] = 0, 0
    return multiplier.astype(np.int32), shift.astype(np.int8)


def windows(rng: np.random.Generator, x: np.ndarray, dims: Dims, outside: int) -> np.ndarray:
    """(out_height, out_width, kernel_height, kernel_width, channels) of int64, `outside` beyond the picture."""
    rows = (dims.out_height - 1) * dims.stride[0] + (dims.kernel[0] - 1) * dims.dilation[0] + 1
    columns = (dims.out_width - 1) * dims.stride[1] + (dims.kernel[1] - 1) * dims.dilation[1] + 1
    rows, columns = max(rows, dims.padding[0] + dims.in_height), max(columns, dims.padding[2] + dims.in_width)
    canvas = np.full((rows, columns, dims.in_channels), outside)
    canvas[dims.padding[0] :, dims.padding[2] :][: dims.in_height, : dims.in_width] = x
    taken = np.empty((dims.out_height, dims.out_width, *dims.kernel, dims.in_channels), dtype=np.int64)
    for ky in range(dims.kernel[0]):
        for kx in range(dims.kernel[1]):
            y0, x0 = ky * dims.dilation[0], kx * dims.dilation[1]
            part = canvas[y0 :: dims.stride[0], x0 :: dims.stride[1]][: dims.out_height, : dims.out_width]
            taken[:, :, ky, kx] = part
    return taken


@st.composite
def window_dims(draw: st.DrawFn, depthwise: bool, most_channels: int = 11) -> Dims:
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    dilation = draw(st.sampled_from([(1, 1), (1, 1), (2, 1), (1, 3)]))
    size = [draw(st.integers(1, 9)), draw(st.integers(1, 9))]
    padding = list(draw(st.tuples(*[st.integers(0, 3)] * 4)))
    for axis in range(2):
        missing = dilation[axis] * (kernel[axis] - 1) + 1 - size[axis] - padding[2 * axis] - padding[2 * axis + 1]
        size[axis] += max(0, missing)
    out = [
        (size[axis] + padding[2 * axis] + padding[2 * axis + 1] - dilation[axis] * (kernel[axis] - 1) - 1)
        // stride[axis]
        + 1
        for axis in range(2)
    ]
    channels = draw(st.integers(1, most_channels))
    out_channels = channels if depthwise else draw(st.integers(1, 9))
    top, bottom, left, right = padding
    return Dims(*size, channels, *out, out_channels, kernel, stride, dilation, (top, bottom, left, right))


class Layer:
    """A random int8 layer and its expected result."""

    def __init__(self, operator: str, dims: Dims, seed: int, rounding: str) -> None:
        rng = np.random.default_rng(seed)
        self.dims, self.rounding = dims, rounding
        self.in_zero, self.out_zero = (int(v) for v in rng.choice([-128, -3, 0, 127], 2))
        self.x = int8_data(rng, (dims.in_height, dims.in_width, dims.in_channels))
        taps = windows(rng, self.x, dims, self.in_zero)
        if operator == "depthwise_conv2d":
            self.weights = int8_data(rng, (1, *dims.kernel, dims.in_channels), weights=True)
            kernel = self.weights[0].astype(np.int64)
            products = ((taps - self.in_zero) * kernel).sum(axis=(2, 3))
            sums = kernel.sum(axis=(0, 1))
        else:
            self.weights = int8_data(rng, (dims.out_channels, *dims.kernel, dims.in_channels), weights=True)
            kernel = self.weights.reshape(dims.out_channels, -1).astype(np.int64)
            products = (taps - self.in_zero).reshape(dims.out_height, dims.out_width, -1) @ kernel.T
            sums = kernel.sum(axis=1)
        bias = rng.integers(-(2 ** int(rng.integers(1, 28))), 2 ** int(rng.integers(1, 28)), dims.out_channels)
        acc = products + bias
        self.multiplier, self.shift = scaling(rng, acc, rounding)
        self.folded = (bias - self.in_zero * sums).astype(np.int32)
        self.low, self.high = bounds(rng)
        self.acc = acc

    def expected(self, tools: Any) -> np.ndarray:
        return tools.rounded(self.acc, self.multiplier, self.shift, self.out_zero, self.low, self.high, self.rounding)

    def requant(self, tools: Any) -> Any:
        return tools.Requant(
            self.multiplier.ctypes.data, self.shift.ctypes.data, self.in_zero, self.out_zero, self.low, self.high
        )

    def run(self, library: Any, tools: Any, name: str, at_end: bool) -> np.ndarray:
        kernel = KERNEL[name]
        result = np.full(self.acc.shape, 99, dtype=np.int8)
        scratch = np.full((kernel.scratch_bytes(self.dims) + 7) // 8, 0xA5A5A5A5A5A5A5A5, dtype=np.uint64)
        scratch = scratch.view(np.uint32)[: kernel.scratch_bytes(self.dims) // 4].copy()
        weights = np.ascontiguousarray(kernel.packed(self.weights))
        for constant in (self.x, weights, self.folded):
            constant.flags.writeable = False
        if kernel.operator == "dense":
            shape: tuple[Any, ...] = (self.dims.in_channels, self.dims.out_channels)
        else:
            shape = (tools.Window.of(self.dims),)
        library.call(name, self.x, weights, self.folded, result, *shape, self.requant(tools), scratch, at_end=at_end)
        return result


def check(operator: str, dims: Dims, seed: int, rounding: str, names: list[str], libraries: Any, tools: Any) -> None:
    layer = Layer(operator, dims, seed, rounding)
    expected = layer.expected(tools)
    for name in names:
        if name in KERNEL:
            result = layer.run(libraries[rounding], tools, name, at_end=bool(seed % 3))
            np.testing.assert_array_equal(result, expected, err_msg=name)


@examples(550)
@given(dims=window_dims(depthwise=False), seed=seeds, rounding=rounding_rules)
def test_conv2d(dims: Dims, seed: int, rounding: str, libraries: Any, tools: Any) -> None:
    check("conv2d", dims, seed, rounding, ["mj_conv2d_s8", "mj_conv2d_s8_dsp"], libraries, tools)


@examples(550)
@given(
    height=st.integers(1, 5), width=st.integers(1, 5), channels=st.integers(1, 40), out_channels=st.integers(1, 10),
    seed=seeds, rounding=rounding_rules,
)  # fmt: skip
def test_pointwise(
    height: int, width: int, channels: int, out_channels: int, seed: int, rounding: str, libraries: Any, tools: Any
) -> None:
    dims = Dims(height, width, channels, height, width, out_channels)
    names = ["mj_pointwise_s8", "mj_pointwise_s8_dsp", "mj_conv2d_s8", "mj_conv2d_s8_dsp"]
    check("conv2d", dims, seed, rounding, names, libraries, tools)


@examples(550)
@given(dims=window_dims(depthwise=True), seed=seeds, rounding=rounding_rules)
def test_depthwise(dims: Dims, seed: int, rounding: str, libraries: Any, tools: Any) -> None:
    names = ["mj_depthwise_s8", "mj_depthwise_s8_dsp"]
    check("depthwise_conv2d", dims, seed, rounding, names, libraries, tools)


@examples(400)
@given(features=st.integers(1, 70), out_features=st.integers(1, 12), seed=seeds, rounding=rounding_rules)
def test_dense(features: int, out_features: int, seed: int, rounding: str, libraries: Any, tools: Any) -> None:
    dims = Dims(in_channels=features, out_channels=out_features)
    check("dense", dims, seed, rounding, ["mj_dense_s8", "mj_dense_s8_dsp"], libraries, tools)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("channels", [960, 1001])
def test_pointwise_with_many_channels(channels: int, rounding: str, libraries: Any, tools: Any) -> None:
    names = ["mj_pointwise_s8", "mj_pointwise_s8_dsp"]
    for seed in range(6):
        check("conv2d", Dims(2, 3, channels, 2, 3, 3), seed, rounding, names, libraries, tools)


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_requantize(rounding: str, libraries: Any) -> None:
    rng = np.random.default_rng(5)
    edges = np.array([0, 1, -1, 2, -2, 3, 255, -256, 2**30, -(2**30), 2**31 - 1, -(2**31), 2**31 - 2, 1 - 2**31])
    multipliers = np.array([0, 2**30, 2**30 + 1, 3 * 2**29, 2**31 - 2, 2**31 - 1])
    grid = np.meshgrid(edges, multipliers, np.arange(-31, 31), indexing="ij")
    acc, multiplier, shift = (part.ravel() for part in grid)
    count = 200_000
    sizes = rng.integers(0, 32, count)
    acc = np.concatenate([acc, rng.integers(-(2**sizes), 2**sizes)]).astype(np.int32)
    multiplier = np.concatenate([multiplier, rng.integers(2**30, 2**31, count)]).astype(np.int32)
    shift = np.concatenate([shift, rng.integers(-31, 31, count)]).astype(np.int32)
    # exact halves: acc * 2**30 * 2**(shift - 31) = k + 1/2
    halves = np.arange(-2000, 2000, dtype=np.int64) * 2 + 1
    for down in range(0, 18):
        acc = np.concatenate([acc, (halves << down).astype(np.int32)])
        multiplier = np.concatenate([multiplier, np.full(len(halves), 2**30, np.int32)])
        shift = np.concatenate([shift, np.full(len(halves), -down, np.int32)])
    if rounding == "mulhi":
        shift = np.abs(shift) % 31
        multiplier[::7] >>= rng.integers(0, 31, len(multiplier[::7]), dtype=np.int32)
    result = np.zeros_like(acc)
    pointer = [ctypes.c_void_p(a.ctypes.data) for a in (acc, multiplier, shift, result)]
    libraries[rounding].library.requantize_many(*pointer, len(acc))
    np.testing.assert_array_equal(result, arithmetic.requantize(acc, multiplier, shift, rounding))


@examples(300)
@given(count=st.integers(1, 80), seed=seeds, rounding=rounding_rules, in_place=st.sampled_from(["", "left", "right"]))
def test_add(count: int, seed: int, rounding: str, in_place: str, libraries: Any, tools: Any) -> None:
    rng = np.random.default_rng(seed)
    left, right = int8_data(rng, (count,)), int8_data(rng, (count,))
    quants = [
        Quant.per_tensor(float(2.0 ** rng.uniform(-12, 4)), int(rng.choice([-128, -7, 0, 127]))) for _ in range(3)
    ]
    plan = arithmetic.add_plan(*quants, rounding)
    zeros = tuple(q.scalar_zero_point for q in quants)
    low, high = bounds(rng)
    expected = arithmetic.add_int8(left, right, zeros, plan, (low, high), rounding)
    params = tools.AddParams(
        *zeros, plan.left[0], plan.right[0], plan.result[0], plan.left[1], plan.right[1], plan.result[1], low, high
    )
    for name in ("mj_add_s8", "mj_add_s8_dsp"):
        result = np.zeros(count, dtype=np.int8)
        given_left, given_right = left.copy(), right.copy()
        given_left.flags.writeable = given_right.flags.writeable = False
        libraries[rounding].call(name, given_left, given_right, result, count, params, at_end=bool(seed % 3))
        np.testing.assert_array_equal(result, expected)
        if in_place:
            over, pair = (left.copy(), right.copy()), (ctypes.c_void_p * 2)()
            pair[0], pair[1] = over[0].ctypes.data, over[1].ctypes.data
            target = over[in_place == "right"]
            function = getattr(libraries[rounding].library, name)
            function(
                ctypes.c_void_p(pair[0]), ctypes.c_void_p(pair[1]), ctypes.c_void_p(target.ctypes.data), count,
                ctypes.byref(params),
            )  # fmt: skip
            np.testing.assert_array_equal(target, expected)


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_add_of_every_pair_of_values_at_the_limits_of_the_fast_way(rounding: str, libraries: Any, tools: Any) -> None:
    rng = np.random.default_rng(11)
    values = np.arange(-128, 128, dtype=np.int8)
    left, right = (np.ascontiguousarray(v.ravel()) for v in np.meshgrid(values, values))
    # 2**30 with shifts 0 and -19: the right side moves a half of the left one by the least step there is
    grid = itertools.product([1, 0, -19, -29, -30], [1, 0, -19, -31], [-1, -2, -19, -22, -23], [True, False])
    if rounding == "mulhi":
        grid = ([shift, shift, 0, powers] for shift in (0, 1, 7, 20, 21) for powers in (True, False))
    for *shifts, powers_of_two in grid:
        multipliers = [2**30] * 3 if powers_of_two else [int(m) for m in rng.integers(2**30, 2**31, 3)]
        zeros = [int(z) for z in rng.choice([-128, -7, 0, 127], 3)]
        params = tools.AddParams(*zeros, *multipliers, *shifts, *(bounds(rng) if shifts[2] > -19 else (-128, 127)))
        results = [np.zeros(left.size, dtype=np.int8) for _ in range(2)]
        for name, result in zip(("mj_add_s8", "mj_add_s8_dsp"), results, strict=True):
            libraries[rounding].call(name, left, right, result, left.size, params)
        np.testing.assert_array_equal(*results, err_msg=f"{multipliers} {shifts} {zeros}")


@examples(200)
@given(
    pixels=st.one_of(st.integers(1, 60), st.integers(250, 800)), channels=st.integers(1, 21), seed=seeds,
    rounding=rounding_rules,
)  # fmt: skip
def test_mean(pixels: int, channels: int, seed: int, rounding: str, libraries: Any, tools: Any) -> None:
    rng = np.random.default_rng(seed)
    x = int8_data(rng, (pixels, channels))
    in_zero, out_zero = (int(v) for v in rng.choice([-128, -3, 0, 127], 2))
    data, result = (Quant.per_tensor(float(2.0 ** rng.uniform(-8, 2))) for _ in range(2))
    multiplier, shift = arithmetic.mean_multiplier(data, result, pixels, rounding)
    low, high = bounds(rng)
    acc = x.astype(np.int64).sum(axis=0) - in_zero * pixels
    expected = tools.rounded(acc, multiplier, shift, out_zero, low, high, rounding)
    x.flags.writeable = False
    for name in ("mj_mean_s8", "mj_mean_s8_dsp"):
        y = np.zeros(channels, dtype=np.int8)
        arguments = (pixels, channels, in_zero, out_zero, multiplier, shift, low, high)
        libraries[rounding].call(name, x, y, *arguments, at_end=bool(seed % 3))
        np.testing.assert_array_equal(y, expected, err_msg=name)


@examples(200)
@given(dims=window_dims(depthwise=True), seed=seeds)
def test_pools(dims: Dims, seed: int, libraries: Any, tools: Any) -> None:
    rng = np.random.default_rng(seed)
    x = int8_data(rng, (dims.in_height, dims.in_width, dims.in_channels))
    taps = windows(rng, x, dims, 1000)
    inside = taps != 1000
    count = inside.sum(axis=(2, 3))
    low, high = bounds(rng)
    total = np.where(inside, taps, 0).sum(axis=(2, 3))
    average = arithmetic.average_int8(total.astype(np.int32), np.maximum(count, 1), (low, high))
    largest = np.clip(np.where(inside, taps, -128).max(axis=(2, 3)), low, high).astype(np.int8)
    for name, expected in (("mj_avg_pool_s8", average), ("mj_max_pool_s8", largest)):
        y = np.zeros(expected.shape, dtype=np.int8)
        libraries["single"].call(name, x, y, tools.Window.of(dims), low, high, at_end=bool(seed % 3))
        np.testing.assert_array_equal(y, expected, err_msg=name)


@examples(100)
@given(pixels=st.integers(1, 30), channels=st.integers(1, 4), one=st.booleans(), seed=seeds, in_place=st.booleans())
def test_normalize(pixels: int, channels: int, one: bool, seed: int, in_place: bool, libraries: Any) -> None:
    rng = np.random.default_rng(seed)
    rows = 1 if one else channels
    scale, offset = rng.uniform(0.001, 0.1, rows), rng.uniform(-3, 3, rows)
    quant = Quant.per_tensor(0.02, -5)
    table = arithmetic.normalize_table(tuple(scale), tuple(offset), quant)
    x = rng.integers(0, 256, (pixels, channels), dtype=np.uint8)
    y = x.view(np.int8).copy() if in_place else np.zeros((pixels, channels), dtype=np.int8)
    expected = np.stack([table[c if rows > 1 else 0][x[:, c]] for c in range(channels)], axis=1)
    if in_place:
        pointer, where = ctypes.c_void_p(y.ctypes.data), ctypes.c_void_p(table.ctypes.data)
        libraries["single"].library.mj_normalize_s8(pointer, pointer, pixels, channels, where, rows)
    else:
        libraries["single"].call("mj_normalize_s8", x, y, pixels, channels, table, rows)
    np.testing.assert_array_equal(y, expected)


@examples(200)
@given(classes=st.integers(1, 300), scale=st.floats(1e-4, 3.0), seed=seeds)
def test_softmax(classes: int, scale: float, seed: int, libraries: Any) -> None:
    rng = np.random.default_rng(seed)
    x = int8_data(rng, (classes,))
    table = arithmetic.softmax_table(scale)
    for name in ("mj_softmax_s8", "mj_softmax_s8_dsp"):
        y = np.zeros(classes, dtype=np.int8)
        libraries["single"].call(name, x, y, classes, table, at_end=bool(seed % 3))
        np.testing.assert_array_equal(y, arithmetic.softmax_int8(x[None], table)[0], err_msg=name)


@examples(100)
@given(
    size=st.tuples(*[st.integers(1, 5)] * 3), padding=st.tuples(*[st.integers(0, 3)] * 4), seed=seeds,
    zero=st.integers(-128, 127),
)  # fmt: skip
def test_pad_and_clamp(size: tuple[int, ...], padding: tuple[int, ...], seed: int, zero: int, libraries: Any) -> None:
    rng = np.random.default_rng(seed)
    x = int8_data(rng, size)
    top, bottom, left, right = padding
    expected = np.pad(x, ((top, bottom), (left, right), (0, 0)), constant_values=zero)
    y = np.zeros(expected.shape, dtype=np.int8)
    libraries["single"].call("mj_pad_s8", x, y, *size, *padding, zero)
    np.testing.assert_array_equal(y, expected)
    low, high = bounds(rng)
    cut = np.zeros(size, dtype=np.int8)
    libraries["single"].call("mj_clamp_s8", x, cut, x.size, low, high)
    np.testing.assert_array_equal(cut, np.clip(x, low, high))


@examples(50)
@given(size=st.tuples(*[st.integers(1, 7)] * 3), seed=seeds)
def test_transpose(size: tuple[int, int, int], seed: int, libraries: Any) -> None:
    x = int8_data(np.random.default_rng(seed), size)
    y = np.zeros((size[1], size[0], size[2]), dtype=np.int8)
    libraries["single"].call("mj_transpose_s8", x, y, *size)
    np.testing.assert_array_equal(y, x.transpose(1, 0, 2))


@examples(100)
@given(count=st.integers(1, 60), scale=st.floats(1e-3, 2.0), zero=st.integers(-128, 127), seed=seeds)
def test_quantize_and_dequantize(count: int, scale: float, zero: int, seed: int, libraries: Any) -> None:
    rng = np.random.default_rng(seed)
    quant = Quant.per_tensor(scale, zero)
    x = (rng.uniform(-200, 200, count) * quant.scalar_scale).astype(np.float32)
    x[0] = rng.choice([0.0, np.inf, -np.inf, 1e30])
    y = np.zeros(count, dtype=np.int8)
    libraries["single"].call("mj_quantize_s8", x, y, count, quant.scalar_scale, zero)
    with np.errstate(invalid="ignore"):
        expected = arithmetic.quantize_array(x, quant).astype(np.int32)
    # single and double precision may differ where the quotient is half a step, and nowhere else
    distance = np.abs(np.abs(np.nan_to_num(x).astype(np.float64) / quant.scalar_scale) % 1 - 0.5)
    differs = y != expected
    assert np.all(distance[differs] < 2e-5)
    assert np.abs(y - expected).max() <= 1
    back = np.zeros(count, dtype=np.float32)
    libraries["single"].call("mj_dequantize_s8", y, back, count, quant.scalar_scale, zero)
    np.testing.assert_array_equal(back, np.float32(quant.scalar_scale) * (y.astype(np.int32) - zero).astype(np.float32))
