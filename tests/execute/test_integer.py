"""The integer executor against loops over single elements that follow the arithmetic module word for word."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millijoule.execute import Executor, predict, run
from millijoule.execute._requantize import Requantizer
from millijoule.graph import ROUNDINGS, Graph, GraphBuilder, Node, Quant, arithmetic

ROUNDING = st.sampled_from(ROUNDINGS)


def plain(graph: Graph, node: Node, x: np.ndarray) -> np.ndarray:
    """One windowed or dense int8 layer for one picture, element by element, in Python integers."""
    weights = graph.constants[node.inputs[1]]
    bias = graph.constants[node.inputs[2]] if len(node.inputs) == 3 else None
    data, w_quant, result = graph.quant(node.inputs[0]), graph.quant(node.inputs[1]), graph.quant(node.output)
    zero = data.zero_point[0]
    low, high = arithmetic.clamp_bounds(node.attrs.get("clamp"), result)
    shape = graph.tensor(node.output).shape[1:]
    y = np.zeros(shape, np.int8)
    for index in np.ndindex(*shape):
        o = index[-1]
        acc = int(bias[o]) if bias is not None else 0
        if node.op == "dense":
            acc += sum((int(x[k]) - zero) * int(weights[o, k]) for k in range(len(x)))
        else:
            top, _, left, _ = node.attrs["padding"]
            dilation = node.attrs.get("dilation", (1, 1))
            for i, j in np.ndindex(*weights.shape[1:3]):
                row = index[0] * node.attrs["stride"][0] + i * dilation[0] - top
                column = index[1] * node.attrs["stride"][1] + j * dilation[1] - left
                if 0 <= row < x.shape[0] and 0 <= column < x.shape[1]:
                    for c in [o] if node.op == "depthwise_conv2d" else range(x.shape[2]):
                        weight = weights[0, i, j, o] if node.op == "depthwise_conv2d" else weights[o, i, j, c]
                        acc += (int(x[row, column, c]) - zero) * int(weight)
        scale = w_quant.scale[o] if w_quant.axis is not None else w_quant.scale[0]
        multiplier, shift = arithmetic.quantize_multiplier(data.scale[0] * scale / result.scale[0], graph.rounding)
        value = int(arithmetic.requantize(acc, multiplier, shift, graph.rounding)) + result.zero_point[0]
        y[index] = max(low, min(high, value))
    return y


@st.composite
def layers(draw: st.DrawFn) -> tuple[Graph, np.ndarray]:
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    op = draw(st.sampled_from(["conv2d", "depthwise_conv2d", "dense"]))
    zero_x, zero_y = draw(st.integers(-128, 127)), draw(st.integers(-128, 127))
    channels, outputs = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    attrs: dict[str, object] = {}
    if op == "dense":
        shape: tuple[int, ...] = (1, draw(st.integers(1, 40)))
        weight_shape: tuple[int, ...] = (outputs, shape[1])
        out_shape: tuple[int, ...] = (1, outputs)
        axis = 0
    else:
        kernel = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
        stride = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
        dilation = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
        padding = tuple(draw(st.integers(0, 2)) for _ in range(4))
        size = (draw(st.integers(5, 9)), draw(st.integers(5, 9)))
        shape = (1, *size, channels)
        if op == "depthwise_conv2d":
            outputs = channels
        rows, columns = (
            (size[i] + padding[2 * i] + padding[2 * i + 1] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
            for i in (0, 1)
        )
        weight_shape = (1, *kernel, channels) if op == "depthwise_conv2d" else (outputs, *kernel, channels)
        axis = 3 if op == "depthwise_conv2d" else 0
        out_shape = (1, rows, columns, outputs)
        attrs = {"stride": stride, "padding": padding, "dilation": dilation}
    if draw(st.booleans()):
        attrs["clamp"] = draw(st.sampled_from([(0.0, 6.0), (0.0, float("inf")), (-1.0, 1.0)]))
    builder = GraphBuilder("layer")
    x_quant = Quant.per_tensor(float(rng.uniform(1e-3, 0.1)), zero_x)
    x_name = builder.input("x", shape, "int8", x_quant)
    # scales over twelve decades: dead channels, left shifts and everything between
    spread = draw(st.sampled_from([0.0, 1.0, 6.0]))
    if draw(st.booleans()):
        w_quant = Quant.per_channel(10.0 ** rng.uniform(-3 - spread, -2 + spread / 3, outputs), axis)
    else:
        w_quant = Quant.per_tensor(10.0 ** float(rng.uniform(-3 - spread, -2 + spread / 3)))
    weights = rng.integers(-127, 128, weight_shape).astype(np.int8)
    names = [x_name, builder.constant("w", weights, w_quant)]
    if draw(st.booleans()):
        reach = int(10 ** rng.uniform(0, 8))
        bias = rng.integers(-reach, reach + 1, outputs).astype(np.int32)
        names.append(builder.constant("b", bias))
    y_quant = Quant.per_tensor(float(10.0 ** rng.uniform(-3, 0)), zero_y)
    y = builder.node(op, names, out_shape, attrs=attrs, dtype="int8", quant=y_quant, source="layer")
    graph = builder.build([y], rounding=draw(ROUNDING))
    return graph, rng.integers(-128, 128, (2, *shape[1:])).astype(np.int8)


@settings(max_examples=250, deadline=None)
@given(layers())
def test_layers_with_weights_equal_the_plain_loops(case: tuple[Graph, np.ndarray]) -> None:
    graph, x = case
    got = Executor(graph)(x)[graph.outputs[0]]
    for picture, result in zip(x, got, strict=True):
        np.testing.assert_array_equal(result, plain(graph, graph.nodes[0], picture))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    ROUNDING,
    st.floats(1e-4, 1.0),
    st.floats(1e-4, 1.0),
    st.floats(1e-4, 1.0),
    st.sampled_from([None, (0.0, 6.0)]),
)
def test_add_equals_the_definition(
    seed: int, rounding: str, left: float, right: float, result: float, clamp: tuple[float, float] | None
) -> None:
    rng = np.random.default_rng(seed)
    quants = [Quant.per_tensor(s, int(rng.integers(-128, 128))) for s in (left, right, result)]
    builder = GraphBuilder("add")
    x = builder.input("x", (1, 3, 4, 5), "int8", quants[0])
    pool = {"kernel": (1, 1), "stride": (1, 1), "padding": (0, 0, 0, 0)}
    first = builder.node("max_pool", [x], (1, 3, 4, 5), attrs=pool, dtype="int8", quant=quants[0])
    one = np.ones((1, 1, 1, 5), np.int8)
    w = builder.constant("w", one * 127, Quant.per_tensor(1 / 127))
    second = builder.node(
        "depthwise_conv2d", [x, w], (1, 3, 4, 5), dtype="int8", quant=quants[1],
        attrs={"stride": (1, 1), "padding": (0, 0, 0, 0)},
    )  # fmt: skip
    y = builder.node(
        "add", [first, second], (1, 3, 4, 5), dtype="int8", quant=quants[2], attrs={"clamp": clamp} if clamp else {}
    )
    graph = builder.build([y, first, second], rounding=rounding)
    got = Executor(graph)(rng.integers(-128, 128, (3, 3, 4, 5)).astype(np.int8))
    expected = arithmetic.add_int8(
        got[first],
        got[second],
        tuple(q.zero_point[0] for q in quants),
        arithmetic.add_plan(*quants, rounding),
        arithmetic.clamp_bounds(clamp, quants[2]),
        rounding,
    )
    np.testing.assert_array_equal(got[y], expected)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["avg_pool", "max_pool"]),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(*[st.integers(0, 1)] * 4),
)
def test_pooling_looks_only_inside_the_picture(seed, op, kernel, stride, padding) -> None:
    if any(p >= k for p, k in zip(padding, (kernel[0], kernel[0], kernel[1], kernel[1]), strict=True)):
        padding = (0, 0, 0, 0)
    rng = np.random.default_rng(seed)
    x = rng.integers(-128, 128, (1, 6, 7, 2)).astype(np.int8)
    rows, columns = (
        (x.shape[1 + i] + padding[2 * i] + padding[2 * i + 1] - kernel[i]) // stride[i] + 1 for i in (0, 1)
    )
    quant = Quant.per_tensor(0.05, 3)
    builder = GraphBuilder("pool")
    name = builder.input("x", x.shape, "int8", quant)
    attrs = {"kernel": kernel, "stride": stride, "padding": padding}
    y = builder.node(op, [name], (1, rows, columns, 2), attrs=attrs, dtype="int8", quant=quant)
    got = Executor(builder.build([y]))(x)[y]
    for r, c, k in np.ndindex(rows, columns, 2):
        top, left = r * stride[0] - padding[0], c * stride[1] - padding[2]
        inside = [
            int(x[0, i, j, k])
            for i in range(max(top, 0), min(top + kernel[0], 6))
            for j in range(max(left, 0), min(left + kernel[1], 7))
        ]
        if op == "max_pool":
            assert got[0, r, c, k] == max(inside)
        else:
            total, n = sum(inside), len(inside)
            half_away = (abs(total) * 2 + n) // (2 * n) * (1 if total >= 0 else -1)
            assert got[0, r, c, k] == half_away


def small_network(rounding: str = "single") -> Graph:
    rng = np.random.default_rng(5)
    builder = GraphBuilder("small")
    quant = [Quant.per_tensor(0.0078431377, -1), Quant.per_tensor(0.02, -128), Quant.per_tensor(0.01, 5)]
    x = builder.input("picture", (1, 12, 10, 3), "uint8")
    attrs = {"scale": (1 / 127.5, 1 / 128, 1 / 120), "offset": (-1.0, -0.9, -1.1)}
    x = builder.node("normalize", [x], (1, 12, 10, 3), attrs=attrs, dtype="int8", quant=quant[0])
    w = builder.constant(
        "w", rng.integers(-127, 128, (8, 3, 3, 3)).astype(np.int8), Quant.per_channel(np.full(8, 0.004), 0)
    )
    x = builder.node(
        "conv2d", [x, w], (1, 6, 5, 8), dtype="int8", quant=quant[1],
        attrs={"stride": (2, 2), "padding": (0, 1, 0, 1), "clamp": (0.0, 6.0)},
    )  # fmt: skip
    x = builder.node("pad", [x], (1, 8, 7, 8), attrs={"padding": (1, 1, 1, 1)}, dtype="int8", quant=quant[1])
    x = builder.node("mean", [x], (1, 8), dtype="int8", quant=quant[2])
    d = builder.constant("d", rng.integers(-127, 128, (4, 8)).astype(np.int8), Quant.per_tensor(0.01))
    logits = builder.node("dense", [x, d], (1, 4), dtype="int8", quant=quant[2], output="logits")
    p = builder.node("softmax", [logits], (1, 4), dtype="int8", quant=Quant((1 / 256,), (-128,)))
    return builder.build([logits, p], rounding=rounding)


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_results_do_not_depend_on_batch_or_threads(rounding: str) -> None:
    graph = small_network(rounding)
    pictures = np.random.default_rng(0).integers(0, 256, (23, 12, 10, 3), dtype=np.uint8)
    whole = run(graph, pictures, keep=["mean", "pad"])
    assert whole["pad"].shape == (23, 8, 7, 8)
    for batch in (1, 4, 23):
        parts = run(graph, pictures, batch=batch, keep=["mean", "pad"])
        for name, value in whole.items():
            np.testing.assert_array_equal(parts[name], value)
    single = Executor(graph)(pictures[7:8])
    np.testing.assert_array_equal(single["logits"][0], whole["logits"][7])
    np.testing.assert_array_equal(predict(graph, pictures), whole["logits"].argmax(axis=1))
    count = whole["mean"].shape[0]
    total = whole["pad"].reshape(count, -1, 8).astype(int).sum(axis=1) + 56 * 128
    multiplier, shift = arithmetic.quantize_multiplier(float(np.float32(0.02)) / float(np.float32(0.01)))
    multiplier, shift = (multiplier << 5) // 56, shift - 5  # 2**5 <= 56 < 2**6
    if rounding == "mulhi":
        multiplier, shift = round(2**32 * float(np.float32(0.02)) / (float(np.float32(0.01)) * 56)), 0
    expected = arithmetic.requantize(total, multiplier, shift, rounding) + 5
    np.testing.assert_array_equal(whole["mean"], np.clip(expected, -128, 127))


def test_large_layers_stay_exact_beyond_float32() -> None:
    """2,048 inputs of full magnitude: partial sums pass 2**24, where float32 would round."""
    rng = np.random.default_rng(1)
    builder = GraphBuilder("wide")
    x = builder.input("x", (1, 2048), "int8", Quant.per_tensor(0.01, 127))
    weights = rng.choice(np.array([-127, 126, 127, 125], np.int8), (6, 2048))
    weights[0] = 127
    w = builder.constant("w", weights, Quant.per_tensor(0.00001))
    y = builder.node("dense", [x, w], (1, 6), dtype="int8", quant=Quant.per_tensor(0.05, 100))
    graph = builder.build([y])
    data = rng.integers(-128, -100, (3, 2048)).astype(np.int8)
    got = Executor(graph)(data)[y]
    for picture, result in zip(data, got, strict=True):
        np.testing.assert_array_equal(result, plain(graph, graph.nodes[0], picture))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.one_of(st.integers(-20, 2).map(lambda k: 2.0**k), st.floats(1e-7, 4.0)), min_size=1, max_size=6),
    ROUNDING,
    st.integers(-128, 127),
    st.integers(0, 2**32 - 1),
)
def test_vectorised_requantisation_is_the_definition(reals: list[float], rounding: str, zero: int, seed: int) -> None:
    """Powers of two make every second value a tie."""
    rng = np.random.default_rng(seed)
    count = len(reals)
    sums = np.concatenate(
        [rng.integers(-(2**b), 2**b, (40, count)) for b in (4, 10, 16, 23)]
        + [np.arange(-64, 64)[:, None] + [0] * count]
    )
    offset = rng.integers(-1000, 1000, count)
    bound = np.full(count, 2**23 + 1000)
    finish = Requantizer(np.array(reals), offset, bound, zero, (-128, 127), rounding)
    exact = arithmetic.requantize(sums + offset, *arithmetic.multipliers(reals, rounding), rounding)
    np.testing.assert_array_equal(finish(sums.astype(np.float32)), np.clip(exact + zero, -128, 127))


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_results_beyond_32_bits_lose_their_upper_bits_as_in_the_kernels(rounding: str) -> None:
    rng = np.random.default_rng(3)
    reals = 2.0 ** rng.uniform(-4, 28, 40)
    sums, offset = rng.integers(-(2**23), 2**23, (64, 40)), rng.integers(-(2**28), 2**28, 40)
    finish = Requantizer(reals, offset, np.abs(offset) + 2**23, -98, (-128, 127), rounding)
    exact = arithmetic.requantize(sums + offset, *arithmetic.multipliers(reals, rounding), rounding).astype(np.int64)
    assert (np.abs((sums + offset) * reals) > 2.0**31).any()
    np.testing.assert_array_equal(finish(sums.astype(np.float32)), np.clip(exact - 98, -128, 127))
