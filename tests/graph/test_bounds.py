"""Bounds of sums and stored values: exact on small layers by trying every input, safe on random networks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millijoule.errors import GraphError, UnsupportedError
from millijoule.execute import run
from millijoule.graph import ROUNDINGS, Graph, GraphBuilder, Node, Quant, arithmetic, verify
from millijoule.graph.bounds import (
    accumulator_bounds,
    check_overflow,
    constant_channels,
    folded_bias,
    output_bounds,
    stored_bounds,
    window_patterns,
)
from networks import LAYERS, random_network, random_pictures


def sums(graph: Graph, node: Node, x: np.ndarray) -> np.ndarray:
    """The sums of one layer for one input, element by element, with x between the clamps of its producer."""
    weights = graph.constants[node.inputs[1]].astype(np.int64)
    bias = graph.constants[node.inputs[2]] if len(node.inputs) == 3 else None
    zero = graph.quant(node.inputs[0]).scalar_zero_point
    shape = graph.tensor(node.output).shape[1:]
    result = np.zeros(shape, np.int64)
    for index in np.ndindex(*shape):
        o = index[-1]
        total = int(bias[o]) if bias is not None else 0
        if node.op == "dense":
            total += sum((int(x[k]) - zero) * int(weights[o, k]) for k in range(len(x)))
        else:
            top, _, left, _ = node.attrs["padding"]
            for i, j in np.ndindex(*weights.shape[1:3]):
                row = index[0] * node.attrs["stride"][0] + i * node.attrs["dilation"][0] - top
                column = index[1] * node.attrs["stride"][1] + j * node.attrs["dilation"][1] - left
                if 0 <= row < x.shape[0] and 0 <= column < x.shape[1]:
                    for c in [o] if node.op == "depthwise_conv2d" else range(x.shape[2]):
                        weight = weights[0, i, j, o] if node.op == "depthwise_conv2d" else weights[o, i, j, c]
                        total += (int(x[row, column, c]) - zero) * int(weight)
        result[index] = total
    return result


@st.composite
def small_layers(draw: st.DrawFn) -> tuple[Graph, Node, tuple[int, int]]:
    """A clamp and one layer behind it, whose input has at most 12 elements; and the clamp's stored bounds."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    op = draw(st.sampled_from(["conv2d", "depthwise_conv2d", "dense"]))
    outputs = draw(st.integers(1, 3))
    attrs: dict[str, object] = {}
    if op == "dense":
        shape: tuple[int, ...] = (1, draw(st.integers(1, 10)))
        weight_shape: tuple[int, ...] = (outputs, shape[1])
        out_shape: tuple[int, ...] = (1, outputs)
    else:
        size = (draw(st.integers(1, 3)), draw(st.integers(1, 2)))
        channels = draw(st.integers(1, 2))
        kernel = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
        stride = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
        dilation = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
        padding = [draw(st.integers(0, 2)) for _ in range(4)]
        for axis in (0, 1):
            missing = dilation[axis] * (kernel[axis] - 1) + 1 - size[axis] - padding[2 * axis] - padding[2 * axis + 1]
            padding[2 * axis + 1] += max(0, missing)
        rows, columns = (
            (size[i] + padding[2 * i] + padding[2 * i + 1] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
            for i in (0, 1)
        )
        shape = (1, *size, channels)
        outputs = channels if op == "depthwise_conv2d" else outputs
        weight_shape = (1, *kernel, channels) if op == "depthwise_conv2d" else (outputs, *kernel, channels)
        out_shape = (1, rows, columns, outputs)
        attrs = {"stride": stride, "padding": tuple(padding), "dilation": dilation}
    builder = GraphBuilder("layer")
    quant = Quant.per_tensor(0.5, draw(st.integers(-120, 120)))
    x = builder.input("x", shape, "int8", quant)
    clamp = draw(st.sampled_from([None, (0.0, 6.0), (0.0, math.inf), (-1.0, 0.5), (2.0, 3.0), (-3.0, -2.0)]))
    if clamp is not None:
        x = builder.node("clamp", [x], shape, attrs={"clamp": clamp}, dtype="int8", quant=quant)
    weights = rng.integers(-127, 128, weight_shape) * (rng.random(weight_shape) < draw(st.sampled_from([1.0, 0.4])))
    names = [x, builder.constant("w", weights.astype(np.int8), Quant.per_tensor(0.01))]
    if draw(st.booleans()):
        names.append(builder.constant("b", rng.integers(-(10**6), 10**6, outputs).astype(np.int32)))
    result = Quant.per_tensor(float(10.0 ** rng.uniform(-9, 3)), int(rng.integers(-128, 128)))
    fused = draw(st.sampled_from([None, (0.0, 6.0), (-1.0, 0.5)]))
    attrs |= {} if fused is None else {"clamp": fused}
    y = builder.node(op, names, out_shape, attrs=attrs, dtype="int8", quant=result, source="layer")
    graph = builder.build([y], rounding=draw(st.sampled_from(ROUNDINGS)))
    return graph, graph.nodes[-1], arithmetic.clamp_bounds(clamp, quant)


@settings(deadline=None, max_examples=150)
@given(small_layers())
def test_sums_reach_their_bounds_and_never_leave_them(case: tuple[Graph, Node, tuple[int, int]]) -> None:
    graph, node, ends = case
    shape = graph.tensor(node.inputs[0]).shape[1:]
    elements = math.prod(shape)
    low, high = accumulator_bounds(graph, node)

    def at(values: Sequence[int]) -> np.ndarray:
        return sums(graph, node, np.array(values).reshape(shape)).reshape(-1, len(low))

    if elements <= 6:  # every corner of the input's box: a sum is linear, so its extremes lie there
        corners = np.concatenate([at(values) for values in itertools.product(ends, repeat=elements)])
    else:  # from one corner, each element moved to where it makes one pixel's sum smaller, or larger
        base = at([ends[0]] * elements)
        moves = [at([ends[element == moved] for element in range(elements)]) - base for moved in range(elements)]
        corners = np.concatenate([base + np.minimum(moves, 0).sum(axis=0), base + np.maximum(moves, 0).sum(axis=0)])
    np.testing.assert_array_equal(low, corners.min(axis=0))
    np.testing.assert_array_equal(high, corners.max(axis=0))


@settings(deadline=None, max_examples=150)
@given(small_layers(), st.integers(0, 2**32 - 1))
def test_results_stay_between_the_bounds(case: tuple[Graph, Node, tuple[int, int]], seed: int) -> None:
    graph, node, (low, high) = case
    x = np.random.default_rng(seed).integers(low, high + 1, (40, *graph.tensor(node.inputs[0]).shape[1:]))
    y = run(graph, x.astype(np.int8))[graph.outputs[0]]
    first, last = stored_bounds(graph)[node.output]
    assert (y >= first).all() and (y <= last).all()
    for channel, value in constant_channels(graph, node).items():
        assert (y[..., channel] == value).all()


@settings(deadline=None, max_examples=150)
@given(small_layers())
def test_a_channel_that_is_not_called_constant_takes_both_bounds(case: tuple[Graph, Node, tuple[int, int]]) -> None:
    graph, node, _ = case
    limits = arithmetic.clamp_bounds(node.attrs.get("clamp"), graph.quant(node.output))
    result, weight, data = graph.quant(node.output), graph.quant(node.inputs[1]), graph.quant(node.inputs[0])
    real = data.scalar_scale * weight.scalar_scale / result.scalar_scale
    multiplier, shift = arithmetic.quantize_multiplier(real, graph.rounding)
    before, after = accumulator_bounds(graph, node), output_bounds(graph, node)
    stored = stored_bounds(graph)[node.output]
    for end in (0, 1):
        values = arithmetic.requantize(before[end], multiplier, shift, graph.rounding) + result.scalar_zero_point
        safe = (np.abs(before[0]) * real < 2**28) & (np.abs(before[1]) * real < 2**28)
        np.testing.assert_array_equal(after[end][safe], values[safe])
        np.testing.assert_array_equal(stored[end], np.clip(after[end], *limits))
    constant = constant_channels(graph, node)
    assert set(constant) == set(np.flatnonzero(stored[0] == stored[1]))


@settings(deadline=None, max_examples=80)
@given(st.lists(st.sampled_from(LAYERS), max_size=6), st.integers(0, 2**32 - 1), st.sampled_from(ROUNDINGS))
def test_no_tensor_of_a_random_network_leaves_its_bounds(layers: list[str], seed: int, rounding: str) -> None:
    graph = random_network(layers, seed, rounding=rounding)
    stored = stored_bounds(graph)
    pictures = random_pictures(graph, 6, seed)
    pictures[0], pictures[1] = 0, 255
    names = [tensor.name for tensor in graph.activations() if tensor.dtype == "int8"]
    assert set(stored) == set(names)
    values = run(graph, pictures, keep=names)
    for name in names:
        low, high = stored[name]
        assert low.shape == high.shape == graph.tensor(name).shape[-1:]
        assert (low <= high).all()
        assert (values[name] >= low).all() and (values[name] <= high).all()
    for node in graph.nodes:
        if node.op in ("conv2d", "depthwise_conv2d", "dense"):
            given_stored, alone = accumulator_bounds(graph, node, stored), accumulator_bounds(graph, node)
            np.testing.assert_array_equal(given_stored, alone)


def dense(weights: np.ndarray, bias: np.ndarray | None = None, *, scale: float = 1.0) -> Graph:
    builder = GraphBuilder("dense")
    x = builder.input("x", (1, weights.shape[1]), "int8", Quant.per_tensor(1.0, -128))
    names = [x, builder.constant("w", weights.astype(np.int8), Quant.per_tensor(1.0))]
    if bias is not None:
        names.append(builder.constant("b", bias.astype(np.int32)))
    quant = Quant.per_tensor(scale, 3)
    y = builder.node("dense", names, (1, len(weights)), dtype="int8", quant=quant, source="classifier")
    return builder.build([y])


def test_bounds_by_hand() -> None:
    graph = dense(np.array([[2, -3], [0, 0]]), np.array([10, 7]))
    node = graph.nodes[0]
    assert folded_bias(graph, node).tolist() == [10 + 128 * -1, 7]
    low, high = accumulator_bounds(graph, node)
    assert low.tolist() == [10 - 3 * 255, 7] and high.tolist() == [10 + 2 * 255, 7]
    assert output_bounds(graph, node)[1].tolist() == [10 + 2 * 255 + 3, 10]
    assert constant_channels(graph, node) == {1: 10}


def test_sums_that_wrap_around_have_the_widest_bounds() -> None:
    graph = dense(np.array([[100, 100]]), scale=2.0**-26)
    assert [end.tolist() for end in output_bounds(graph, graph.nodes[0])] == [[-(2**31)], [2**31 - 1]]
    assert constant_channels(graph, graph.nodes[0]) == {}


def test_a_window_without_a_tap_in_the_map_has_a_value_of_its_own() -> None:
    builder = GraphBuilder("pool")
    quant = Quant.per_tensor(0.5, 0)
    x = builder.input("x", (1, 2, 2, 3), "int8", quant)
    x = builder.node("clamp", [x], (1, 2, 2, 3), attrs={"clamp": (1.0, 2.0)}, dtype="int8", quant=quant)
    attrs = {"kernel": (1, 1), "stride": (1, 1), "padding": (0, 1, 0, 0)}
    y = builder.node("max_pool", [x], (1, 3, 2, 3), attrs=attrs, dtype="int8", quant=quant)
    graph = builder.build([y])
    value = run(graph, np.zeros((1, 2, 2, 3), np.int8))[y]
    low, high = stored_bounds(graph)[y]
    assert value.min() == -128 and (low <= -128).all() and (high >= 4).all()
    assert stored_bounds(graph, x)[x][0].tolist() == [2, 2, 2]


def test_a_clamp_that_int8_cannot_hold_tells_nothing() -> None:
    graph = dense(np.array([[1, 1]]))
    clamped = replace(graph, nodes=(replace(graph.nodes[0], attrs={"clamp": (200.0, 300.0)}),))
    assert [end.tolist() for end in stored_bounds(clamped)[graph.outputs[0]]] == [[-128], [127]]


def test_arrangements_of_a_window() -> None:
    graph = random_network(["conv"], 0)
    node = next(n for n in graph.nodes if n.op == "conv2d")
    attrs = {"stride": (2, 1), "padding": (1, 1, 0, 2), "dilation": (1, 1)}
    weights = np.ones((1, 3, 3, 3), np.int8)
    name = node.inputs[1]
    tensors = {
        **graph.tensors,
        name: replace(graph.tensor(name), shape=weights.shape, quant=Quant.per_tensor(1.0)),
        node.output: replace(graph.tensor(node.output), shape=(1, 5, 7, 1)),
    }
    changed = replace(graph, tensors=tensors, constants={**graph.constants, name: weights})
    rows, columns = window_patterns(changed, replace(node, attrs=attrs))  # on a map of 9 x 7
    assert rows.tolist() == [[0, 1, 1], [1, 1, 0], [1, 1, 1]]
    assert columns.tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]


def test_overflow_is_refused_with_the_name_of_the_layer() -> None:
    graph = dense(np.array([[1, 1], [2, 1]]), np.array([0, 0]))
    check_overflow(graph)
    low, high = np.array([[1, 1], [2, 1]]), np.array([5, 2**31 - 1 - 3 * 255])
    check_overflow(replace(graph, constants={"w": low.astype(np.int8), "b": high.astype(np.int32)}))
    with pytest.raises(GraphError, match=r"layer 'classifier' \(dense\): the sum of output channel 1 .* 2147483648,"):
        check_overflow(replace(graph, constants={"w": low.astype(np.int8), "b": (high + 1).astype(np.int32)}))


def test_overflow_on_the_way_is_refused_even_where_the_whole_sum_fits() -> None:
    graph = dense(np.array([[100, -100]]), np.array([0]))
    clamp = Node("clamp", ("x",), ("narrow",), {"clamp": (200.0, 200.0)})
    node = replace(graph.nodes[0], inputs=("narrow", "w", "b"))
    tensors = {**graph.tensors, "narrow": replace(graph.tensor("x"), name="narrow")}
    constants = {**graph.constants, "b": np.array([2**31 - 5000], np.int32)}
    graph = replace(graph, nodes=(clamp, node), tensors=tensors, constants=constants)
    assert accumulator_bounds(graph, node)[1].tolist() == [2**31 - 5000]
    with pytest.raises(GraphError, match="beyond 32 bits"):
        check_overflow(graph)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.sampled_from(LAYERS), max_size=4), st.integers(0, 2**32 - 1))
def test_what_the_verifier_accepts_does_not_overflow(layers: list[str], seed: int) -> None:
    check_overflow(verify(random_network(layers, seed)))


@pytest.mark.parametrize("kind", ["float", "dynamic"])
def test_other_arithmetic_is_refused(kind: str) -> None:
    graph = random_network(["conv"], 1, kind)
    node = next(n for n in graph.nodes if n.op == "conv2d")
    check_overflow(graph)
    assert stored_bounds(graph) == {}
    for question in (accumulator_bounds, output_bounds, constant_channels):
        with pytest.raises(UnsupportedError, match="conv2d"):
            question(graph, node)
