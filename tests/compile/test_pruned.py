"""Dead and constant channels are removed before a network is compiled: less work, the same bits."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from millijoule.build.host import build_host
from millijoule.compile import compile_graph
from millijoule.execute import run
from millijoule.graph import Graph, macs
from networks import random_network, random_pictures


def with_dead_channels(graph: Graph, channels: tuple[int, ...]) -> Graph:
    """The network with these filters of its first convolution all zero, their biases kept."""
    node = next(node for node in graph.nodes if node.op == "conv2d")
    weights = graph.constants[node.inputs[1]].copy()
    weights[list(channels)] = 0
    return replace(graph, constants={**graph.constants, node.inputs[1]: weights})


@pytest.mark.parametrize("rounding", ["single", "double", "mulhi"])
def test_dead_channels_cost_nothing(rounding: str) -> None:
    graph = random_network(["pointwise", "depthwise", "pointwise", "residual"], 11, size=(8, 9, 3), rounding=rounding)
    count = graph.tensor(next(node.output for node in graph.nodes if node.op == "conv2d")).shape[-1]
    assert count > 8
    dead = with_dead_channels(graph, tuple(range(1, count - 4)))
    program, whole = compile_graph(dead), compile_graph(graph)
    (removed,) = program.removed
    assert removed.layer == "block.1.conv2d" and set(removed.channels) <= set(range(1, count - 4))
    assert (count - len(removed.channels)) % 4 == 0
    assert program.macs == whole.macs - removed.macs == sum(macs(program.graph, node) for node in program.graph.nodes)
    assert removed.macs > 0 and program.weight_bytes < whole.weight_bytes
    summary = json.loads(json.dumps(program.summary()))
    assert summary["removed"] == [
        {
            "layer": removed.layer,
            "channels": list(removed.channels),
            "bytes": removed.bytes,
            "macs": removed.macs,
        }
    ]
    pictures = random_pictures(graph, 4)
    found, expected = build_host(program).run(pictures), run(dead, pictures)
    np.testing.assert_array_equal(found["logits"], expected[dead.outputs[0]])
    np.testing.assert_array_equal(found["probabilities"], expected[dead.outputs[1]])


def test_a_network_without_dead_channels_is_compiled_as_it_is() -> None:
    graph = random_network(["pointwise", "depthwise", "pointwise"], 11, size=(8, 9, 3))
    program = compile_graph(graph)
    assert program.removed == () and program.summary()["removed"] == []
    assert program.macs == sum(macs(graph, node) for node in graph.nodes)


@pytest.mark.parametrize("kind", ["dynamic", "float"])
def test_networks_of_other_arithmetic_keep_their_channels(kind: str) -> None:
    assert compile_graph(with_dead_channels(random_network(["pointwise"], 1, kind), (0, 1, 2, 3))).removed == ()
