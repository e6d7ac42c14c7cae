"""Dynamic and static conversion of a small network, run by the real executors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from millijoule.errors import OptionError, QuantizationError
from millijoule.graph import Graph, mode, simplify
from millijoule.graph.conversion import activation_quant
from millijoule.quantize import OBSERVERS, dynamic, report_of, static
from millijoule.quantize.compare import sqnr
from millijoule.quantize.static import calibrate, ranges_from

from .networks import pictures, real_logits, small_network


@pytest.fixture(scope="module")
def network() -> Graph:
    return small_network()


@pytest.mark.parametrize("observer", OBSERVERS)
def test_static_is_int8_throughout_and_close_to_float(network: Graph, observer: str) -> None:
    converted = static(network, pictures(64), observer=observer)
    assert {mode(converted, node) for node in converted.nodes} == {"integer"}
    fresh = pictures(32, seed=1)
    ratio = sqnr(real_logits(network, fresh), real_logits(converted, fresh))
    assert ratio is not None and ratio > (12 if observer in ("entropy", "moving_average") else 24)


def test_dynamic_keeps_float_activations_and_is_close_to_float(network: Graph) -> None:
    converted = dynamic(network, refine="bias")
    weighted = [node for node in converted.nodes if node.op in ("conv2d", "depthwise_conv2d", "dense")]
    assert {mode(converted, node) for node in weighted} == {"dynamic"}
    assert all(tensor.dtype in ("uint8", "float32") for tensor in converted.activations())
    assert all(converted.tensor(node.inputs[2]).dtype == "float32" for node in weighted)
    fresh = pictures(32, seed=1)
    ratio = sqnr(real_logits(network, fresh), real_logits(converted, fresh))
    assert ratio is not None and ratio > 28


def test_per_channel_weights_beat_one_scale_per_layer() -> None:
    network = small_network(3)
    weights = dict(network.constants)
    # channels of very different size, which the next layer brings back to one size
    spread = np.geomspace(1, 0.003, 24).astype(np.float32)
    for part in ("gamma", "beta"):
        weights[f"depthwise.norm.{part}"] = weights[f"depthwise.norm.{part}"] * spread
    weights["project.weight"] = weights["project.weight"] / spread
    network = replace(network, constants=weights)
    fresh, reference = pictures(32, seed=1), real_logits(network, pictures(32, seed=1))
    ratios = [sqnr(reference, real_logits(static(network, pictures(64), per_channel=p), fresh)) for p in (True, False)]
    assert ratios[0] > ratios[1] + 1.0


def test_ranges_are_those_of_the_clamped_tensor_and_the_picture(network: Graph) -> None:
    bright = np.full((4, 12, 12, 3), 200, np.uint8)
    converted = static(network, bright, observer="min_max")
    normalized = converted.nodes[0].output
    assert converted.quant(normalized) == activation_quant(-1.0, 1.0)
    for node in converted.nodes:
        if node.attrs.get("clamp"):
            quant = converted.quant(node.output)
            assert quant.scalar_zero_point == -128
            assert quant.scalar_scale * 255 <= 6.0 + 1e-6


def test_dead_channels_are_widened_until_the_bias_fits() -> None:
    network = small_network(dead_channel=True)
    converted = static(network, pictures(32))
    first = next(node for node in converted.nodes if node.source == "first")
    scale = converted.quant(first.inputs[1]).scale[1] * converted.quant(first.inputs[0]).scalar_scale
    float_bias = simplify(network).constant("first.bias.folded")[1]
    assert converted.constant(first.inputs[2])[1] * scale == pytest.approx(float_bias, rel=1e-6)
    assert float_bias < -0.1


def test_logits_keep_their_extremes_under_every_clipping_observer(network: Graph) -> None:
    simplified = simplify(network)
    statistics = calibrate(simplified, pictures(64))
    logits = simplified.outputs[0]
    expected = ranges_from(simplified, statistics, "min_max")[logits]
    for observer in ("percentile", "mse", "entropy"):
        assert ranges_from(simplified, statistics, observer)[logits] == expected


def test_calibration_does_not_depend_on_the_batch(network: Graph) -> None:
    simplified = simplify(network)
    one, eight = (calibrate(simplified, pictures(24), batch=size) for size in (1, 8))
    for observer in ("min_max", "percentile", "mse"):
        for name, span in ranges_from(simplified, one, observer).items():
            np.testing.assert_allclose(span, ranges_from(simplified, eight, observer)[name], rtol=1e-2, atol=1e-6)


def test_progress_reaches_the_end(network: Graph) -> None:
    seen: list[tuple[str, int, int]] = []
    static(network, pictures(20), progress=lambda *step: seen.append(step))
    assert seen[-1][1:] == (20, 20)


@pytest.mark.parametrize("rounding", ["double", "mulhi"])
def test_another_rounding_is_recorded(network: Graph, rounding: str) -> None:
    assert static(network, pictures(8), rounding=rounding).rounding == rounding


def test_empty_calibration_is_refused(network: Graph) -> None:
    with pytest.raises(QuantizationError, match="no pictures"):
        static(network, np.zeros((0, 12, 12, 3), np.uint8))


def test_pictures_of_another_size_are_refused(network: Graph) -> None:
    with pytest.raises(QuantizationError, match=r"\(8, 8, 3\), not \(12, 12, 3\)"):
        static(network, np.zeros((2, 8, 8, 3), np.uint8))


def test_a_layer_that_gives_nothing_is_refused_by_name(network: Graph) -> None:
    constants = {**network.constants}
    constants["head.weight"] = np.zeros_like(constants["head.weight"])
    constants["head.bias"] = np.zeros_like(constants["head.bias"])
    with pytest.raises(QuantizationError, match=r"layer 'head' \(dense\).*degenerate.*Calibrate"):
        static(replace(network, constants=constants), pictures(4))


def test_quantised_graphs_are_refused(network: Graph) -> None:
    converted = static(network, pictures(8))
    for convert in (dynamic, lambda graph: static(graph, pictures(8))):
        with pytest.raises(QuantizationError, match="quantised already"):
            convert(converted)


@pytest.mark.parametrize("option", [{"observer": "magic"}, {"rounding": "up"}])
def test_unknown_options_are_refused(network: Graph, option: dict[str, str]) -> None:
    with pytest.raises(OptionError, match="unknown"):
        static(network, pictures(4), **option)


def test_the_observer_is_chosen_for_each_tensor_and_reported(network: Graph) -> None:
    converted = static(network, pictures(64), observer="auto")
    report = report_of(converted)
    assert report is not None
    chosen = {decision.layer: decision for decision in report.decisions if decision.what == "observer"}
    assert {"first", "expand", "depthwise", "project", "add", "last", "pool", "head"} <= {
        layer.split(".")[0] for layer in chosen
    }
    fresh = pictures(32, seed=1)
    ratio = sqnr(real_logits(network, fresh), real_logits(converted, fresh))
    assert ratio is not None and ratio > 24
