"""Ranges that leave the kernels by rows room, from calibration to the compiler."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from millijoule import execute
from millijoule.compile import legal
from millijoule.compile.legal import row_layers
from millijoule.data import PreparedSet, open_source, prepare
from millijoule.graph import Graph, simplify
from millijoule.graph.arithmetic import quantize_multiplier
from millijoule.graph.conversion import integer_graph
from millijoule.graph.headroom import MARGIN, MOST, factor_limit, with_headroom
from millijoule.quantize import QatOptions, quantization_aware_training, report_of, static
from millijoule.quantize.compare import sqnr
from millijoule.quantize.mixed import mixed
from millijoule.quantize.qat import normalization_of
from millijoule.quantize.static import calibrate, ranges_from
from millijoule.train import TrainOptions, network_input

from .networks import pictures, real_logits, small_network


def crowded(real: float, sample: np.ndarray | None = None, classes: int = 5) -> Graph:
    """A network whose second convolution multiplies the sums of one channel by `real`, ranges from `sample`."""
    sample = pictures(64) if sample is None else sample
    network = small_network(size=sample.shape[1], classes=classes)
    weights = network.constants["expand.weight"].copy()
    weights[0, ..., 1:] = 0  # its sums times `real` have to fit 16 bits,
    weights[0, ..., 0] = abs(weights[0, ..., 0])  # and must not all be below zero
    network = replace(network, constants={**network.constants, "expand.weight": weights})
    for _ in range(6):  # the range of the result changes with the channel
        source = simplify(network)
        plain = integer_graph(source, ranges_from(source, calibrate(source, sample), "min_max"))
        node = next(node for node in plain.nodes if node.source == "expand")
        data, result = plain.quant(node.inputs[0]).scalar_scale, plain.quant(node.output).scalar_scale
        gamma = network.constants["expand.norm.gamma"].copy()
        gamma[0] *= real / (data * plain.quant(node.inputs[1]).scale[0] / result)
        network = replace(network, constants={**network.constants, "expand.norm.gamma": gamma})
    return network


def names_of(graph: Graph, results: frozenset[str]) -> set[str]:
    return {node.source for node in graph.nodes if node.output in results}


@pytest.mark.parametrize("rounding", ["single", "double", "mulhi"])
@pytest.mark.parametrize("share", [0.5, 1.1, 1.4])
def test_a_channel_with_large_weights_leaves_its_layer_to_the_kernels_by_rows(rounding: str, share: float) -> None:
    network = crowded(share * factor_limit(rounding, 8))
    source, sample = simplify(network), pictures(64)
    ranges = ranges_from(source, calibrate(source, sample), "min_max")
    plain = integer_graph(source, ranges, rounding=rounding)
    assert ("expand" in names_of(plain, row_layers(plain))) == (share < 1.0)
    found = static(network, sample, observer="min_max", rounding=rounding, refine="none")
    assert {"first", "expand", "depthwise", "project", "last"} == names_of(found, row_layers(found))
    result = next(node.output for node in found.nodes if node.source == "expand")
    widened = found.quant(result).scalar_scale / plain.quant(result).scalar_scale
    assert widened == pytest.approx(max(1.0, share * MARGIN), rel=1e-3)
    fresh = pictures(32, seed=1)
    reference = real_logits(network, fresh)
    before, after = (sqnr(reference, real_logits(graph, fresh)) for graph in (plain, found))
    assert before is not None and after is not None and after > before - 3.5
    report = report_of(found)
    decisions = [] if report is None else [item for item in report.decisions if item.what == "range"]
    assert [item.layer for item in decisions] == (["expand"] if share > 1.0 else [])


@pytest.mark.parametrize("op", ["conv2d", "depthwise_conv2d"])
@pytest.mark.parametrize("rounding", ["single", "double", "mulhi"])
def test_the_limits_are_those_of_the_compiler(rounding: str, op: str) -> None:
    doubled = rounding == "double" and op == "depthwise_conv2d"
    last = (legal.DOUBLED_SHIFTS if doubled else legal.SHIFTS[rounding])[1]
    limit = factor_limit(rounding, 8, op)
    assert quantize_multiplier(limit * 0.999, rounding)[1] <= last < quantize_multiplier(limit, rounding)[1]
    assert factor_limit("single", 4, op) == factor_limit("single", 8, op) * 2**legal.MOST_UP


def test_what_lacks_too_much_keeps_its_range() -> None:
    source, sample = simplify(crowded(0.25 * MOST)), pictures(64)
    ranges = ranges_from(source, calibrate(source, sample), "min_max")
    plain = integer_graph(source, ranges)
    found, factors = with_headroom(source, ranges, lambda given: integer_graph(source, given))
    assert factors == {}
    assert {name: tensor.quant for name, tensor in found.tensors.items()} == {
        name: tensor.quant for name, tensor in plain.tensors.items()
    }


def test_weights_of_four_bits_have_more_room() -> None:
    found = static(crowded(0.08), pictures(64), observer="min_max", refine="none", weight_bits=4)
    report = report_of(found)
    assert report is None or not any(item.what == "range" for item in report.decisions)
    assert "expand" in names_of(found, row_layers(found))


def test_mixed_precision_has_the_room_of_its_eight_bit_layers() -> None:
    found = mixed(crowded(0.3), pictures(64), observer="min_max", budget_share=90.0, held_back=8).graph
    assert {"first", "expand", "depthwise", "project", "last"} == names_of(found, row_layers(found))


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> PreparedSet:
    return prepare(open_source("toy_vehicles", per_class=10), tmp_path_factory.mktemp("toy"), resolution=32)


def expand_range(graph: Graph) -> float:
    node = next(node for node in graph.nodes if node.source == "expand")
    return graph.quant(node.output).scalar_scale * 255


@pytest.mark.usefixtures("one_thread")
def test_observed_ranges_keep_the_room(toy: PreparedSet) -> None:
    sample = toy.split("train").pictures[:32]
    network = crowded(0.3, sample, classes=10)
    module = execute.FakeQuantModule(network, averaging=0.1)
    x = network_input(sample, normalization_of(network), torch.device("cpu"))
    module.train()
    module.set_phase(observe=True, quantize=True, freeze_batch_norm=True)
    for _ in range(3):
        module(x)
    found = module.eval().to_integer()
    assert {"first", "expand", "depthwise", "project", "last"} == names_of(found, row_layers(found))
    np.testing.assert_array_equal(module(x).detach().numpy(), real_logits(found, sample).astype(np.float32))
    natural = float(execute.float_module(simplify(network)).values(x, ["expand.relu6"])["expand.relu6"].detach().max())
    assert expand_range(found) == pytest.approx(natural * 1.2 * MARGIN, rel=0.1)


@pytest.mark.parametrize("ranges", ["observed", "learned"])
@pytest.mark.usefixtures("one_thread")
def test_a_range_beyond_the_clamp_is_clamped_all_the_same(toy: PreparedSet, ranges: str) -> None:
    network, sample = small_network(size=32, classes=10), toy.split("train").pictures[:16]
    shift = network.constants["expand.norm.beta"] + np.float32(7)
    network = replace(network, constants={**network.constants, "expand.norm.beta": shift})
    source = simplify(network)
    known = ranges_from(source, calibrate(source, sample), "min_max")
    assert known["expand.relu6"][1] == 6.0
    module = execute.FakeQuantModule(network, init_ranges={**known, "expand.relu6": (0.0, 7.5)}, ranges=ranges)
    x = network_input(sample, normalization_of(network), torch.device("cpu"))
    module.train()
    module.set_phase(observe=False, quantize=True, freeze_batch_norm=True)
    values = module.values(x, ["expand.relu6"])["expand.relu6"].detach()
    step = 7.5 / 255
    assert float(values.max()) == pytest.approx(round(6 / step) * step, abs=1e-5)
    found = module.eval().to_integer()
    assert expand_range(found) == pytest.approx(7.5)
    np.testing.assert_array_equal(module(x).detach().numpy(), real_logits(found, sample).astype(np.float32))


@pytest.mark.usefixtures("one_thread")
def test_training_that_starts_from_integers_keeps_their_room(toy: PreparedSet, tmp_path: Path) -> None:
    sample = toy.split("train").pictures[:32]
    network = crowded(0.3, sample, classes=10)
    begin = static(network, sample, observer="min_max")
    training = TrainOptions(epochs=2, batch_size=10, learning_rate=1e-5, augmentation=None, device="cpu", seed=1)
    options = QatOptions(training=training, calibration=32, agreement_pictures=100)
    result = quantization_aware_training(network, toy, options, tmp_path, start=begin)
    assert result.disagreements == 0
    assert {"first", "expand", "depthwise", "project", "last"} == names_of(result.graph, row_layers(result.graph))
    assert expand_range(result.graph) == pytest.approx(expand_range(begin), rel=0.02)


def test_channels_that_are_constant_need_no_room() -> None:
    network, sample = crowded(0.3), pictures(64)
    beta = network.constants["expand.norm.beta"].copy()
    beta[0] = -500.0  # below zero for every picture, so 0 behind ReLU6
    network = replace(network, constants={**network.constants, "expand.norm.beta": beta})
    source = simplify(network)
    ranges = ranges_from(source, calibrate(source, sample), "min_max")
    assert with_headroom(source, ranges, lambda given: integer_graph(source, given))[1] == {}
