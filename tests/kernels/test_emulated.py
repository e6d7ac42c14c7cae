"""The same kernels on the emulated Cortex-M4 and Cortex-M7: bit for bit what the host computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from millijoule.kernels import KERNELS, Dims
from timeless import timeless

from .inner import benchmark

pytest.importorskip("unicorn")
pytest.importorskip("ziglang")

CASES = 40

bench = benchmark("kernels")
# the forms of the code: as released, and with the inline assembly that GCC gets
BUILDS = [
    ("stm32l4r9i", "single", {}),
    pytest.param(("stm32l4r9i", "double", {"MJ_DSP_ASSEMBLY": "1"}), marks=pytest.mark.slow),
    ("stm32h7b3i", "single", {"MJ_DSP_ASSEMBLY": "1"}),
    pytest.param(("stm32h7b3i", "double", {}), marks=pytest.mark.slow),
    ("stm32l4r9i", "mulhi", {"MJ_DSP_ASSEMBLY": "1"}),
    ("stm32h7b3i", "mulhi", {}),
]


@pytest.fixture(scope="module", params=BUILDS, ids=lambda build: "-".join((*build[:2], *build[2])))
def machine(request: pytest.FixtureRequest) -> Any:
    board, rounding, defines = request.param
    made = bench.KernelMachine(board, rounding, defines)
    timeless(made.machine)
    made.rounding = rounding
    return made


def random_dims(rng: np.random.Generator, operator: str, pointwise: bool) -> Dims:
    channels, out = int(rng.integers(1, 21)), int(rng.integers(1, 9))
    if operator == "dense":
        return Dims(in_channels=channels * 3, out_channels=out)
    height, width = (int(v) for v in rng.integers(1, 8, 2))
    if pointwise:
        return Dims(height, width, channels, height, width, out)
    kernel = (3, 3) if rng.integers(2) else (int(rng.integers(1, 4)), int(rng.integers(1, 4)))
    stride = (int(rng.integers(1, 3)), int(rng.integers(1, 3)))
    top, bottom, left, right = (int(v) for v in rng.integers(0, 3, 4))
    height, width = height + kernel[0] - 1, width + kernel[1] - 1
    return Dims(
        height, width, channels,
        (height + top + bottom - kernel[0]) // stride[0] + 1, (width + left + right - kernel[1]) // stride[1] + 1,
        channels if operator == "depthwise_conv2d" else out, kernel, stride, (1, 1), (top, bottom, left, right),
    )  # fmt: skip


INTEGER = [k for k in KERNELS if k.arithmetic == "integer" and k.operator in ("conv2d", "depthwise_conv2d", "dense")]


@pytest.mark.parametrize("kernel", INTEGER, ids=lambda kernel: kernel.name)
def test_int8_layers(kernel: Any, machine: Any, libraries: Any, tools: Any) -> None:
    rng = np.random.default_rng(7)
    for case in range(CASES if kernel.variant == "dsp" else CASES // 4):
        dims = random_dims(rng, kernel.operator, "pointwise" in kernel.name)
        count = dims.out_channels
        x = bench.constant(rng.integers(-128, 128, (dims.in_height, dims.in_width, dims.in_channels), dtype=np.int8))
        shape = (
            (1, *dims.kernel, count)
            if kernel.operator == "depthwise_conv2d"
            else (count, *dims.kernel, dims.in_channels)
        )
        weights = rng.choice([-127, 127], shape) if case % 4 == 0 else rng.integers(-127, 128, shape)
        weights = bench.constant(kernel.packed(weights.astype(np.int8)))
        bias = bench.constant(rng.integers(-(2**20), 2**20, count).astype(np.int32))
        multiplier = bench.constant(rng.integers(2**30, 2**31, count).astype(np.int32))
        shifts = rng.integers(-12, 2 if case % 3 == 0 else -4, count)
        if machine.rounding == "mulhi":
            shifts = np.maximum(shifts + 1, 0)
            multiplier = bench.constant(multiplier >> rng.integers(0, 12, count).astype(np.int32))
        shift = bench.constant(shifts.astype(np.int8))
        in_zero, out_zero = (int(v) for v in rng.integers(-128, 128, 2))
        low, high = (-128, 127) if case % 2 else sorted(int(v) for v in rng.integers(-128, 128, 2))
        scratch = np.zeros(kernel.scratch_bytes(dims) // 4, dtype=np.uint32)
        results = [np.full((dims.out_height, dims.out_width, count), 77, dtype=np.int8) for _ in range(2)]
        dense = (dims.in_channels, count)
        requant = bench.Struct((multiplier, shift, in_zero, out_zero, low, high))
        sizes: Any = dense if kernel.operator == "dense" else (bench.window_bytes(dims),)
        machine.call(kernel.name, x, weights, bias, results[0], *sizes, requant, scratch, offset=case % 4)
        sizes = dense if kernel.operator == "dense" else (tools.Window.of(dims),)
        native = tools.Requant(multiplier.ctypes.data, shift.ctypes.data, in_zero, out_zero, low, high)
        library = libraries[machine.rounding]
        library.call(kernel.name, x, weights, bias, results[1], *sizes, native, scratch)
        np.testing.assert_array_equal(results[0], results[1], err_msg=f"case {case}: {dims}")


@pytest.mark.parametrize("suffix", ["", "_dsp"])
def test_add_mean_softmax(suffix: str, machine: Any, libraries: Any, tools: Any) -> None:
    rng = np.random.default_rng(3)
    library = libraries[machine.rounding]
    table = bench.constant(np.floor(65536 * np.exp(-0.1 * np.arange(256)) + 0.5).astype(np.uint32))
    for case in range(16 if suffix else 4):

        def both(name: str, inputs: list[np.ndarray], size: int, emulated: list[Any], native: list[Any]) -> None:
            results = [np.full(size, 77, dtype=np.int8) for _ in range(2)]
            machine.call(name + suffix, *inputs, results[0], *emulated, offset=case % 4)  # noqa: B023
            library.call(name + suffix, *inputs, results[1], *native)
            np.testing.assert_array_equal(*results, err_msg=f"{name}{suffix}, case {case}")  # noqa: B023

        count = int(rng.integers(1, 90))
        kinds: list[Any] = [rng.integers(-128, 128, (2, count)), rng.choice([-128, 127], (2, count))]
        left, right = (bench.constant(row.astype(np.int8)) for row in kinds[case % 3 == 0])
        zeros = [int(zero) for zero in rng.choice([-128, -7, 0, 127], 3)]
        shifts = [[0, -1, -17], [-3, 0, -18], [0, 0, -22], [1, -30, -1]][int(rng.integers(4))]
        mean = [1518500250, -3]
        if machine.rounding == "mulhi":
            side = int(rng.choice([0, 1, 5, 21]))
            shifts, mean = [side, side, 0], [1518500250 >> 3, int(rng.integers(2))]
        bounds = (-128, 127) if case % 2 else (-120, 100)
        values = (*zeros, 2**30, 2**31 - 5, 1518500250, *shifts, *bounds)
        both("mj_add_s8", [left, right], count, [count, bench.Struct(values)], [count, tools.AddParams(*values)])
        both("mj_softmax_s8", [left], count, [count, table], [count, table])
        pixels, channels = (int(rng.choice([1, 12, 49, 300])), int(rng.integers(1, 14)))
        x = bench.constant(rng.integers(-128, -100 if case % 4 == 0 else 128, (pixels, channels)).astype(np.int8))
        sizes = [pixels, channels, zeros[0], zeros[1], *mean, *bounds]
        both("mj_mean_s8", [x], channels, sizes, sizes)


def test_float_kernels_give_the_bits_of_the_host(machine: Any, libraries: Any, tools: Any) -> None:
    rng = np.random.default_rng(4)
    library = libraries[machine.rounding]
    dims = Dims(5, 4, 3, 3, 2, 6, (3, 3), (2, 2), (1, 1), (1, 1, 1, 1))
    for case in range(4):
        x = bench.constant(rng.normal(size=(5, 4, 3)).astype(np.float32))
        weights = bench.constant(rng.integers(-127, 128, (6, 3, 3, 3)).astype(np.int8))
        bias = None if case == 0 else bench.constant(rng.normal(size=6).astype(np.float32))
        scale = bench.constant(rng.uniform(0.01, 0.1, 6).astype(np.float32))
        sums = bench.constant(weights.sum(axis=(1, 2, 3), dtype=np.int32))
        scratch = np.zeros(15, dtype=np.uint32)
        results = [np.zeros((3, 2, 6), dtype=np.float32) for _ in range(2)]
        emulated = bench.Struct((scale, sums, 0.0, 6.0))
        machine.call("mj_conv2d_dyn", x, weights, bias, results[0], bench.window_bytes(dims), emulated, scratch)
        native = tools.Dynamic(scale.ctypes.data, sums.ctypes.data, 0.0, 6.0)
        library.call("mj_conv2d_dyn", x, weights, bias, results[1], tools.Window.of(dims), native, scratch)
        np.testing.assert_array_equal(*results)
        logits = bench.constant((rng.normal(size=23) * 8).astype(np.float32))
        results = [np.zeros(23, dtype=np.float32) for _ in range(2)]
        for target, result in zip((machine, library), results, strict=True):
            target.call("mj_softmax_f32", logits, result, 23)
        np.testing.assert_array_equal(*results)
        real = bench.constant(rng.normal(size=(3, 3, 3)).astype(np.float32))
        results = [np.zeros((3, 2, 3), dtype=np.float32) for _ in range(2)]
        narrow = Dims(5, 4, 3, 3, 2, 3, (3, 3), (2, 2), (1, 1), (1, 1, 1, 1))
        machine.call("mj_depthwise_f32", x, real, None, results[0], bench.window_bytes(narrow), -1.0, 1.0)
        library.call("mj_depthwise_f32", x, real, None, results[1], tools.Window.of(narrow), -1.0, 1.0)
        np.testing.assert_array_equal(*results)
