"""Bias correction: exact means of what each tap reads, and biases that restore the mean result of every layer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millijoule import execute
from millijoule.graph import Graph, GraphBuilder, simplify
from millijoule.quantize import dynamic, static
from millijoule.quantize.bias_correction import assumed_means, tap_means
from millijoule.quantize.compare import sqnr
from millijoule.quantize.static import calibrate

from .networks import pictures, small_network


def convolution(
    height: int, width: int, kernel: int, stride: int, padding: tuple[int, ...], weights: np.ndarray
) -> Graph:
    builder = GraphBuilder("one")
    builder.input("x", (1, height, width, 2))
    shape = (
        1,
        (height + padding[0] + padding[1] - kernel) // stride + 1,
        (width + padding[2] + padding[3] - kernel) // stride + 1,
        1,
    )
    attrs = {"stride": (stride, stride), "padding": padding}
    return builder.build([builder.node("conv2d", ["x", builder.constant("w", weights)], shape, attrs=attrs)])


@given(
    height=st.integers(3, 9),
    width=st.integers(3, 9),
    stride=st.integers(1, 3),
    padding=st.tuples(*[st.integers(0, 2)] * 4),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=40, deadline=None)
def test_tap_means_give_the_mean_of_the_convolution(
    height: int, width: int, stride: int, padding: tuple[int, ...], seed: int
) -> None:
    random = np.random.default_rng(seed)
    weights = random.normal(size=(1, 3, 3, 2)).astype(np.float32)
    graph = convolution(height, width, 3, stride, padding, weights)
    data = random.normal(1.0, 1.0, (5, height, width, 2)).astype(np.float32)
    result = execute.run(graph, data)[graph.outputs[0]]
    taps = tap_means(graph, graph.nodes[0], data.astype(np.float64).mean(axis=0))
    assert (weights[0] * taps).sum() == pytest.approx(float(result.mean()), abs=1e-4)


def mean_errors(network: Graph, converted: Graph, batch: np.ndarray) -> float:
    """Root mean square, over the project layer's channels, of the mean error in units of the result's deviation."""
    name = next(node.output for node in simplify(network).nodes if node.source == "project")
    exact = execute.run(simplify(network), batch, keep=[name])[name]
    stored = execute.run(converted, batch, keep=[name])[name].astype(np.float64)
    quant = converted.tensor(name).quant
    real = stored if quant is None else (stored - quant.scalar_zero_point) * quant.scalar_scale
    error = (real - exact).mean(axis=(0, 1, 2)) / exact.std()
    return float(np.sqrt(np.square(error).mean()))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_static_correction_shrinks_the_mean_error(seed: int) -> None:
    network, batch = small_network(seed), pictures(64)
    # one scale per layer makes the rounding coarse enough to see the correction against the rounding of activations
    plain, corrected = (static(network, batch, per_channel=False, refine=refine) for refine in ("none", "bias"))
    assert mean_errors(network, corrected, batch) < 0.8 * mean_errors(network, plain, batch)


def test_only_biases_change() -> None:
    network, batch = small_network(), pictures(32)
    plain, corrected = (static(network, batch, refine=refine) for refine in ("none", "bias"))
    assert plain.tensors == corrected.tensors
    changed = {name for name, value in plain.constants.items() if not np.array_equal(value, corrected.constant(name))}
    biases = {node.inputs[2] for node in plain.nodes if len(node.inputs) == 3}
    assert changed
    assert changed <= biases


def test_dynamic_correction_needs_the_batch_norm_nodes() -> None:
    network = small_network()
    captured, simplified = dynamic(network, refine="bias"), dynamic(simplify(network), refine="bias")
    assert any(not np.array_equal(captured.constant(name), simplified.constant(name)) for name in captured.constants)
    plain = dynamic(network, refine="none")
    first_bias = next(node.inputs[2] for node in plain.nodes if node.source == "project")
    np.testing.assert_array_equal(plain.constant(first_bias), simplified.constant(first_bias))


def test_assumed_means_are_right_when_batch_norm_tells_the_truth() -> None:
    """batch_norm with the statistics of its own input, over nearly normal data: theory against measurement."""
    random = np.random.default_rng(5)
    builder = GraphBuilder("normal")
    builder.input("x", (1, 40, 40, 6))
    eye = np.eye(6, dtype=np.float32).reshape(6, 1, 1, 6)
    flat = {"stride": (1, 1), "padding": (0, 0, 0, 0)}
    x = builder.node("conv2d", ["x", builder.constant("w", eye)], (1, 40, 40, 6), attrs=flat)
    gamma = np.array([0.5, 1, 2, 4, -1, 1], np.float32)
    beta = np.array([0, -1, 3, 5, 1, -9], np.float32)
    parts = {"gamma": gamma, "beta": beta, "mean": np.full(6, 0.3, np.float32), "variance": np.full(6, 4, np.float32)}
    names = [builder.constant(name, value) for name, value in parts.items()]
    normal = builder.node("batch_norm", [x, *names], (1, 40, 40, 6), attrs={"epsilon": 0.0})
    clamped = builder.node("clamp", [normal], (1, 40, 40, 6), attrs={"clamp": (0.0, 6.0)})
    total = builder.node("add", [clamped, normal], (1, 40, 40, 6), attrs={"clamp": (0.0, float("inf"))})
    graph = builder.build([total])
    data = random.normal(0.3, 2.0, (20, 40, 40, 6)).astype(np.float32)
    seen = execute.run(graph, data, keep=[normal, clamped])
    means = assumed_means(graph)
    for name in (normal, clamped):
        np.testing.assert_allclose(means[name], seen[name].mean(axis=(0, 1, 2)), atol=0.05)


def test_means_come_with_the_calibration() -> None:
    network = simplify(small_network())
    batch = pictures(10)
    statistics = calibrate(network, batch, batch=4)
    name = next(node.output for node in network.nodes if node.source == "depthwise")
    values = execute.run(network, batch, keep=[name])[name]
    np.testing.assert_allclose(statistics[name].mean, values.mean(axis=0), rtol=1e-4, atol=1e-5)


def test_correction_raises_the_signal_of_per_layer_weights() -> None:
    network, batch, fresh = small_network(4), pictures(64), pictures(64, seed=9)
    exact = execute.run(simplify(network), fresh)["head"]
    ratios = []
    for refine in ("none", "bias"):
        graph = static(network, batch, per_channel=False, refine=refine)
        quant = graph.quant(graph.outputs[0])
        stored = execute.run(graph, fresh)[graph.outputs[0]].astype(np.float64)
        ratios.append(sqnr(exact, (stored - quant.scalar_zero_point) * quant.scalar_scale))
    assert ratios[1] > ratios[0]
