"""Errors by layer: a layer that is spoilt on purpose shows up, and those before it do not."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from millijoule import execute
from millijoule.errors import DataError
from millijoule.graph import WEIGHT_AXIS, simplify
from millijoule.quantize import layer_snr, sensitivity, static

from .networks import pictures, small_network


def test_a_spoilt_layer_shows_from_there_on() -> None:
    network, batch = small_network(), pictures(16)
    right = static(network, batch)
    node = next(node for node in right.nodes if node.source == "project")
    wrong = replace(right, constants={**right.constants, node.inputs[1]: right.constant(node.inputs[1]) // 2})
    before, after = layer_snr(network, right, batch), layer_snr(network, wrong, batch)
    assert [error.layer for error in before] == [error.layer for error in after]
    names = [error.layer for error in before]
    spoilt = names.index("project")
    assert before[:spoilt] == after[:spoilt]
    assert after[spoilt].sqnr < before[spoilt].sqnr - 15
    assert all(error.sqnr is None or error.sqnr > 20 for error in before)


def test_the_float_graph_has_no_error_against_itself() -> None:
    network = small_network()
    assert all(
        error.sqnr is None and error.mean_error == 0.0 for error in layer_snr(network, simplify(network), pictures(2))
    )


def test_sensitivity_of_every_layer() -> None:
    network, batch = small_network(), pictures(24)
    labels = execute.predict(simplify(network), batch)
    calls: list[tuple[int, int]] = []
    found = sensitivity(network, batch, batch, labels, progress=lambda what, done, total: calls.append((done, total)))
    nodes = [node for node in simplify(network).nodes if node.op in WEIGHT_AXIS]
    assert [layer.layer for layer in found.layers] == [node.source for node in nodes]
    assert found.accuracy[32] == 1.0
    assert found.accuracy[8] >= found.accuracy[4]
    for layer in found.layers:
        assert layer.own[4] < layer.own[8] - 6, "4 bits make steps 18 times as wide"
        assert layer.alone[4] < layer.alone[8]
        assert layer.alone[8] > found.all_quantised[8], "one layer alone makes less noise than all"
        assert layer.without[4] < layer.without[8]
        assert layer.four_among_eight < found.all_quantised[8]
        assert set(layer.accuracy_without) == {8, 4}
        assert layer.suggested_bits in (4, 8)
        assert "dB at the logits" in layer.why
    depthwise = next(layer for layer in found.layers if layer.operator == "depthwise_conv2d")
    assert depthwise.suggested_bits == 8
    assert all(done <= total for done, total in calls)
    json.dumps(found.to_json())
    with pytest.raises(DataError, match="labels"):
        sensitivity(network, batch, batch[:3], labels)
