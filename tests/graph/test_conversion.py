from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millijoule.errors import QuantizationError
from millijoule.graph import GraphBuilder, Quant, verify
from millijoule.graph.conversion import activation_quant, integer_graph, quantize_weights, weight_quant

FINITE = st.floats(-1e6, 1e6, width=32)


@given(FINITE, FINITE)
def test_activation_quant_represents_zero_and_covers_the_range(a: float, b: float) -> None:
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    if high - low < 1e-6:
        with pytest.raises(QuantizationError):
            activation_quant(low, high)
        return
    quant = activation_quant(low, high)
    scale, zero = quant.scalar_scale, quant.scalar_zero_point
    assert -128 <= zero <= 127
    assert math.isclose(scale, (high - low) / 255, rel_tol=1e-6)
    assert scale * (-128 - zero) <= low + scale * 0.5001
    assert scale * (127 - zero) >= high - scale * 0.5001


def test_activation_quant_known_values() -> None:
    assert activation_quant(0.0, 6.0) == Quant.per_tensor(6 / 255, -128)
    assert activation_quant(-1.0, 1.0) == Quant.per_tensor(2 / 255, -1)
    assert activation_quant(0.5, 6.0) == activation_quant(0.0, 6.0)
    assert activation_quant(-6.0, 0.0).zero_point == (127,)


@pytest.mark.parametrize("bounds", [(0.0, 0.0), (1e-12, 2e-12), (float("nan"), 1.0), (0.0, math.inf), (1.0, -1.0)])
def test_degenerate_ranges_are_refused(bounds: tuple[float, float]) -> None:
    with pytest.raises(QuantizationError):
        activation_quant(*bounds)


def test_weights_use_the_whole_range_per_channel() -> None:
    weights = np.random.default_rng(0).normal(size=(1, 3, 3, 8)).astype(np.float32) * 10.0 ** np.arange(8)
    quant = weight_quant(weights, 3)
    stored = quantize_weights(weights, quant)
    assert quant.axis == 3
    assert (np.abs(stored).reshape(-1, 8).max(axis=0) == 127).all()
    assert stored.min() >= -127
    error = np.abs(stored * quant.broadcast_scale(4) - weights)
    assert (error <= quant.broadcast_scale(4) * 0.501).all()
    assert weight_quant(weights, 3, per_channel=False).axis is None


def test_dead_channel_with_a_bias_keeps_the_bias() -> None:
    weights = np.ones((2, 4), np.float32)
    weights[1] = 1e-18
    bias = np.array([0.5, -2.1], np.float32)
    quant = weight_quant(weights, 0, True, bias, 0.02)
    assert abs(bias[1] / (0.02 * quant.scale[1])) <= 2**30 * 1.000001
    graph = _dense(weights, bias)
    converted = integer_graph(graph, {"picture": (-1.0, 1.0), "fc": (-3.0, 3.0)})
    node = converted.nodes[-1]
    real = converted.constants[node.inputs[2]] * np.asarray(converted.quant(node.inputs[2]).scale)
    np.testing.assert_allclose(real, bias, rtol=1e-6, atol=1e-3)


def test_all_zero_weights_have_a_scale() -> None:
    quant = weight_quant(np.zeros((3, 5), np.float32), 0)
    assert all(scale > 0 for scale in quant.scale)


def test_a_missing_range_names_the_layer() -> None:
    graph = _dense(np.ones((2, 4), np.float32), np.zeros(2, np.float32))
    with pytest.raises(QuantizationError, match="fc"):
        integer_graph(graph, {"picture": (-1.0, 1.0)})
    with pytest.raises(QuantizationError, match=r"fc.*degenerate"):
        integer_graph(graph, {"picture": (-1.0, 1.0), "fc": (0.0, 0.0)})


def test_operators_that_keep_the_scale() -> None:
    builder = GraphBuilder("ties")
    builder.input("picture", (1, 8, 8, 3), "uint8")
    y = builder.node("normalize", ["picture"], (1, 8, 8, 3), attrs={"scale": (1 / 127.5,), "offset": (-1.0,)})
    y = builder.node("pad", [y], (1, 10, 10, 3), attrs={"padding": (1, 1, 1, 1)})
    window = {"kernel": (2, 2), "stride": (2, 2), "padding": (0, 0, 0, 0)}
    y = builder.node("max_pool", [y], (1, 5, 5, 3), attrs=window)
    mean = builder.node("mean", [y], (1, 3))
    p = builder.node("softmax", [mean], (1, 3))
    graph = integer_graph(builder.build([mean, p]), {"mean": (-0.5, 0.75)}, rounding="double")
    assert verify(graph).rounding == "double"
    assert graph.quant("max_pool") == graph.quant("normalize") == activation_quant(-1.0, 1.0)
    assert graph.quant("mean") == activation_quant(-0.5, 0.75)
    assert graph.quant(p).scale == (1 / 256,)
    assert {t.dtype for t in graph.activations()} == {"uint8", "int8"}


def _dense(weights: np.ndarray, bias: np.ndarray):
    builder = GraphBuilder("dense")
    x = builder.input("picture", (1, weights.shape[1]))
    y = builder.node(
        "dense",
        [x, builder.constant("w", weights), builder.constant("b", bias)],
        (1, weights.shape[0]),
        source="fc",
    )
    return builder.build([y])
