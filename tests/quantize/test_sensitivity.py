"""Errors by layer: a layer that is spoilt on purpose shows up, and those before it do not."""

from __future__ import annotations

from dataclasses import replace

from millijoule.graph import simplify
from millijoule.quantize import layer_snr, static

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
