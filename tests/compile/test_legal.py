"""Limits of the arithmetic: what row kernels refuse falls back and is exact; what 32 bits cannot hold is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from millijoule.build.host import build_host
from millijoule.compile import Program, compile_graph
from millijoule.compile.legal import refusal, row_layers, row_numbers, row_sums
from millijoule.errors import QuantizationError, UnsupportedError
from millijoule.execute import run
from millijoule.graph import ROUNDINGS, Graph, GraphBuilder, Quant
from networks import random_pictures

Change = Callable[[np.ndarray, np.ndarray, np.ndarray], None]
"""Writes into weights, bias and weight scales of the layer in the middle."""


def network(
    change: Change | None = None,
    *,
    size: tuple[int, int, int] = (5, 6, 3),
    channels: int = 6,
    kernel: tuple[int, int] = (3, 3),
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int, int, int] = (1, 1, 1, 1),
    depthwise: bool = False,
    rounding: str = "single",
    clamp: tuple[float, float] | None = None,
) -> Graph:
    """Picture, a pointwise layer, the layer "middle", another pointwise layer, mean, dense."""
    rng = np.random.default_rng(1)
    builder = GraphBuilder("limits")
    quant = Quant.per_tensor(0.05, -7)

    def node(op: str, inputs: list[str], shape: tuple[int, ...], attrs: dict[str, Any], source: str) -> str:
        return builder.node(op, inputs, shape, attrs=attrs, dtype="int8", quant=quant, source=source)

    def pointwise(x: str, shape: tuple[int, ...], out: int, source: str) -> str:
        w = builder.constant(
            "w", rng.integers(-127, 128, (out, 1, 1, shape[3])).astype(np.int8), Quant.per_tensor(0.005)
        )
        return node("conv2d", [x, w], (*shape[:3], out), {"stride": (1, 1), "padding": (0, 0, 0, 0)}, source)

    shape: tuple[int, ...] = (1, *size)
    x = node(
        "normalize", [builder.input("picture", shape, "uint8")], shape, {"scale": (0.04,), "offset": (-4.0,)}, "first"
    )
    x = pointwise(x, shape, channels, "before")
    height, width = (
        (n + padding[2 * i] + padding[2 * i + 1] - kernel[i]) // stride[i] + 1 for i, n in enumerate(size[:2])
    )
    weight_shape = (1, *kernel, channels) if depthwise else (channels, *kernel, channels)
    weights = rng.integers(-127, 128, weight_shape).astype(np.int8)
    bias, scales = rng.integers(-500, 500, channels).astype(np.int32), np.full(channels, 0.003)
    if change is not None:
        change(weights, bias, scales)
    inputs = [
        x,
        builder.constant("middle.w", weights, Quant.per_channel(scales, 3 if depthwise else 0)),
        builder.constant("middle.b", bias),
    ]
    attrs: dict[str, Any] = {"stride": stride, "padding": padding}
    if clamp is not None:
        attrs["clamp"] = clamp
    shape = (1, height, width, channels)
    x = node("depthwise_conv2d" if depthwise else "conv2d", inputs, shape, attrs, "middle")
    x = pointwise(x, shape, 5, "behind")
    x = node("mean", [x], (1, 5), {}, "mean")
    w = builder.constant("w", rng.integers(-127, 128, (3, 5)).astype(np.int8), Quant.per_tensor(0.004))
    return builder.build([node("dense", [x, w], (1, 3), {}, "dense")], rounding=rounding)


def exact(graph: Graph, kernels: str = "dsp") -> Program:
    """Compiles and compares with the executor."""
    program = compile_graph(graph, kernels=kernels)
    firmware = build_host(program)
    assert firmware.initialize() == 0
    pictures = random_pictures(graph, 4)
    pictures[0], pictures[1] = 0, 255
    np.testing.assert_array_equal(firmware.run(pictures)["logits"], run(graph, pictures)[graph.outputs[0]])
    return program


def middle(graph: Graph) -> Any:
    return next(node for node in graph.nodes if node.source == "middle")


def kernel_of(program: Program, source: str) -> str:
    return next(layer.kernel for layer in program.layers if source in layer.name.split(" + "))


def lowest(weights: np.ndarray, bias: np.ndarray, scales: np.ndarray) -> None:
    weights[0] = -128


def largest(weights: np.ndarray, bias: np.ndarray, scales: np.ndarray) -> None:
    weights[...] = 127
    scales[...] = 1e-5


def biased(weights: np.ndarray, bias: np.ndarray, scales: np.ndarray) -> None:
    bias[1] = 1 << 23
    scales[1] = 1e-5


def coarse(weights: np.ndarray, bias: np.ndarray, scales: np.ndarray) -> None:
    scales[2] = 0.7


def fine(weights: np.ndarray, bias: np.ndarray, scales: np.ndarray) -> None:
    scales[3] = 2.0**-30


def tall(weights: np.ndarray, bias: np.ndarray, scales: np.ndarray) -> None:
    scales[...] = 0.11
    weights[...] = 127
    bias[...] = 600_000


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize(
    ("change", "options", "reason", "rules"),
    [
        (lowest, {}, "a weight is -128", ROUNDINGS),
        (largest, {"channels": 90}, "beyond 2^23", ROUNDINGS),
        (biased, {}, "beyond 2^23", ROUNDINGS),
        (coarse, {}, "its scales ask for shifts", ("single", "mulhi")),
        (coarse, {}, "beyond 16 bits", ("double",)),
        (fine, {}, "its scales ask for shifts", ("single",)),
        (tall, {}, "beyond 16 bits", ROUNDINGS),
    ],
)
def test_what_the_row_kernels_cannot_do_falls_back_and_is_exact(
    change: Change, options: Any, reason: str, rules: tuple[str, ...], rounding: str
) -> None:
    graph = network(change, rounding=rounding, **options)
    why = refusal(graph, middle(graph))
    if rounding in rules:
        assert why is not None and reason in why
        assert middle(graph).output not in row_layers(graph)
    program = exact(graph)
    assert (kernel_of(program, "middle") == "mj_rows_s8") is (why is None)
    assert kernel_of(program, "before") == "mj_rows_s8"
    assert kernel_of(program, "behind").startswith("mj_rows_s8")
    exact(graph, "plain")


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("change", [lowest, largest, biased, coarse, fine, tall])
def test_depthwise_layers_with_the_same_numbers_are_exact(change: Change, rounding: str) -> None:
    graph = network(change, depthwise=True, rounding=rounding)
    if change in (lowest, largest, biased):
        assert refusal(graph, middle(graph)) is None  # one channel per sum: no limit of 2^23, and -128 is a weight
    exact(graph)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("depthwise", [False, True])
def test_a_channel_without_weights_is_a_constant_whatever_its_scale(depthwise: bool, rounding: str) -> None:
    def dead(weights: np.ndarray, bias: np.ndarray, scales: np.ndarray) -> None:
        parts = np.moveaxis(weights, 3 if depthwise else 0, 0)
        parts[[0, 2, 3, 5]] = 0
        bias[[0, 2, 3, 5]] = [2**31 - 1, -(2**30), 0, 77]
        scales[[0, 2, 3, 5]] = [2.0**-38, 3.0, 2.0**20, 0.4]

    graph = network(dead, depthwise=depthwise, rounding=rounding, clamp=(-2.0, 3.0))
    assert refusal(graph, middle(graph)) is None
    numbers = row_numbers(graph, middle(graph))
    low, high = row_sums(graph, middle(graph), numbers)
    assert (low == high)[[0, 2, 3, 5]].all() and not (low == high)[[1, 4]].any()
    assert kernel_of(exact(graph), "middle") == "mj_rows_s8"


# *** 32 bits *****


def test_a_sum_that_could_leave_32_bits_is_refused_with_the_layer() -> None:
    graph = network()
    weights, bias = middle(graph).inputs[1:]
    most = 2 * 134 * 127 * 54  # inputs lie up to 134 from their zero point, and twice that is kept free
    for value, fits in ((2**31 - 1 - most, True), (2**31 - most, False)):
        for sign in (1, -1):
            constants = {
                **graph.constants,
                weights: np.full_like(graph.constants[weights], 127),
                bias: np.full_like(graph.constants[bias], sign * value),
            }
            changed = replace(graph, constants=constants)
            if fits:
                exact(changed)
                continue
            with pytest.raises(QuantizationError, match=r"'middle'.*output channel 0 could reach .* beyond 32 bits"):
                compile_graph(changed)


@pytest.mark.parametrize(("features", "fits"), [(256 * 256, True), (256 * 260, False)])
def test_a_dense_layer_at_the_limit_of_32_bits(features: int, fits: bool) -> None:
    builder, quant = GraphBuilder("wide"), Quant.per_tensor(1.0, 0)
    shape = (1, 256, features // 256, 1)
    x = builder.node(
        "normalize",
        [builder.input("picture", shape, "uint8")],
        shape,
        attrs={"scale": (1.0,), "offset": (-90.0,)},
        dtype="int8",
        quant=quant,
    )
    x = builder.node("reshape", [x], (1, features), attrs={"shape": (1, features)}, dtype="int8", quant=quant)
    weights = np.full((3, features), 127, np.int8)
    weights[1], weights[2, ::2] = -127, -127
    w = builder.constant("w", weights, Quant.per_tensor(0.5))
    y = builder.node("dense", [x, w], (1, 3), dtype="int8", quant=Quant.per_tensor(2.0**22, 5), source="head")
    if not fits:
        with pytest.raises(QuantizationError, match=r"'head'.*beyond 32 bits"):
            builder.build([y])
        return
    graph = builder.build([y])
    for kernels in ("dsp", "plain"):
        exact(graph, kernels)


def test_a_mean_over_more_than_32_bits_is_refused_with_the_layer() -> None:
    def graph(height: int, width: int) -> Graph:
        builder, quant = GraphBuilder("large"), Quant.per_tensor(0.02, -128)
        x = builder.input("picture", (1, height, width, 1), "uint8")
        attrs = {"scale": (0.02,), "offset": (0.0,)}
        x = builder.node("normalize", [x], (1, height, width, 1), attrs=attrs, dtype="int8", quant=quant)
        return builder.build([builder.node("mean", [x], (1, 1), dtype="int8", quant=quant, source="pool")])

    graph(2900, 2900)
    with pytest.raises(QuantizationError, match=r"'pool'.*beyond 32 bits"):
        graph(2903, 2901)


# *** sizes *****


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("channels", [1, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"),
    [
        ((1, 1), (1, 1), (1, 1), (0, 0, 0, 0)),
        ((1, 1), (3, 3), (1, 1), (1, 1, 1, 1)),
        ((1, 1), (3, 3), (2, 2), (2, 0, 0, 2)),
        ((1, 1), (7, 7), (1, 1), (6, 6, 6, 6)),
        ((2, 3), (7, 7), (2, 2), (3, 3, 3, 3)),
        ((1, 2), (5, 5), (1, 2), (2, 2, 2, 2)),
        ((3, 1), (3, 3), (1, 1), (1, 1, 1, 1)),
        ((1, 23), (1, 5), (1, 2), (0, 0, 2, 2)),
        ((23, 1), (5, 1), (2, 1), (4, 0, 0, 0)),
        ((2, 2), (3, 3), (1, 1), (4, 4, 4, 4)),  # windows that see nothing but padding
        ((3, 2), (2, 2), (1, 1), (0, 5, 0, 7)),
        ((5, 3), (9, 9), (1, 1), (4, 4, 4, 4)),
        ((4, 3), (2, 2), (5, 2), (0, 1, 0, 0)),
    ],
)
def test_small_maps_and_windows_larger_than_they(
    size: tuple[int, int], kernel: Any, stride: Any, padding: Any, channels: int, depthwise: bool
) -> None:
    graph = network(
        size=(*size, 1), channels=channels, kernel=kernel, stride=stride, padding=padding, depthwise=depthwise
    )
    exact(graph)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"size": (300, 2, 1), "channels": 1, "kernel": (260, 1), "padding": (0, 0, 0, 0)}, "below 256"),
        ({"size": (70_000, 1, 1), "channels": 1, "kernel": (1, 1), "padding": (0, 0, 0, 0)}, "below 65,536"),
        ({"size": (900, 2, 1), "channels": 1, "kernel": (3, 1), "padding": (300, 0, 0, 0)}, "below 256"),
    ],
)
@pytest.mark.parametrize("depthwise", [False, True])
def test_sizes_beyond_every_kernel_are_refused_with_the_layer(options: Any, reason: str, depthwise: bool) -> None:
    graph = network(depthwise=depthwise, **options)
    with pytest.raises(UnsupportedError, match=r"layer '(middle|before)'.*beyond every kernel") as raised:
        compile_graph(graph)
    assert reason in str(raised.value)


def wide(channels: int) -> Graph:
    """A picture of one pixel, a pointwise layer "wide" with so many channels, another one that adds them up."""
    rng, builder, quant = np.random.default_rng(2), GraphBuilder("wide"), Quant.per_tensor(0.05, -7)
    x, shape = builder.input("picture", (1, 1, 1, 1), "uint8"), (1, 1, 1, 1)
    attrs: dict[str, Any] = {"scale": (0.04,), "offset": (-4.0,)}
    x = builder.node("normalize", [x], shape, attrs=attrs, dtype="int8", quant=quant)
    for out, scale, name in ((channels, 0.005, "wide"), (3, 0.00005, "sum")):
        # without zeros, that no channel is removed
        weights = rng.integers(1, 128, (out, 1, 1, shape[3])) * rng.choice([-1, 1], (out, 1, 1, shape[3]))
        w = builder.constant("w", weights.astype(np.int8), Quant.per_tensor(scale))
        attrs, shape = {"stride": (1, 1), "padding": (0, 0, 0, 0)}, (1, 1, 1, out)
        x = builder.node("conv2d", [x, w], shape, attrs=attrs, dtype="int8", quant=quant, source=name)
    return builder.build([builder.node("mean", [x], (1, 3), dtype="int8", quant=quant)])


def test_channels_at_the_limit_of_sizes() -> None:
    for kernels in ("dsp", "plain"):
        program = exact(wide(65_535), kernels)
        assert 65_535 in {layer.out_shape[-1] for layer in program.layers}
    with pytest.raises(UnsupportedError, match=r"layer 'wide'.*beyond every kernel.*below 65,536"):
        compile_graph(wide(65_536))


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "name"),
    [
        ((1, 5), (1, 1), (0, 0, 2, 2), "mj_filter_row_1x5_s1_p0"),
        ((5, 1), (2, 2), (2, 2, 0, 0), "mj_filter_row_5x1_s2_p0"),
        ((3, 5), (1, 1), (1, 1, 1, 2), "mj_filter_row_3x5_s1_p1"),
        ((4, 2), (2, 2), (1, 1, 0, 1), "mj_filter_row_4x2_s2_p0"),
        ((1, 8), (1, 1), (0, 0, 3, 4), "mj_filter_row_any"),
    ],
)
def test_every_window_has_a_row_kernel(
    kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int, int, int], name: str
) -> None:
    program = exact(network(kernel=kernel, stride=stride, padding=padding, depthwise=True))
    found = {file for file in program.files if file.startswith("mj_filter_row_") and file.endswith(".c")}
    assert found == {f"{name}.c"}
