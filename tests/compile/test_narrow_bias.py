"""Biases of the row engine: 16 bits in flash where all of a layer fit, the same results either way."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from millijoule.build.host import build_host
from millijoule.compile import Program, compile_graph
from millijoule.compile.legal import row_numbers
from millijoule.execute import run
from millijoule.graph import Graph
from millijoule.graph.bounds import folded_bias
from networks import random_network, random_pictures, with_nibbles


def with_biases(graph: Graph, largest: int) -> Graph:
    """Every folded bias of a convolution below 16 bits, but the last channel's, which is `largest`."""
    constants, random = dict(graph.constants), np.random.default_rng(0)
    for node in graph.nodes:
        if node.op in ("conv2d", "depthwise_conv2d") and len(node.inputs) == 3:
            old = constants[node.inputs[2]]
            folded = row_numbers(graph, node).bias >> row_numbers(graph, node).up
            wanted = random.integers(-900, 900, old.shape)
            wanted[-1] = largest
            constants[node.inputs[2]] = (old + wanted - folded).astype(np.int32)
    return replace(graph, constants=constants)


def stored(program: Program) -> int:
    """Bytes of the biases that the row engine reads."""
    pattern = r"(int16_t|int32_t) \w*(?:conv|filter|project)\w*_bias\[(\d+)\]"
    found = re.findall(pattern, program.files["mj_weights.h"])
    return sum(int(kind[3:5]) // 8 * int(count) for kind, count in found)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("target", ["host", "stm32l4r9i"])
def test_flash_holds_two_bytes_less_for_every_small_bias(bits: int, target: str) -> None:
    graph = random_network(["inverted", "separable", "skip"], 7)
    graph = with_nibbles(graph, 0, share=1.0) if bits == 4 else graph
    sizes = []
    for largest in (2**15 - 1, 2**15):
        program = compile_graph(with_biases(graph, largest), target, self_test=False)
        expected = 0
        for node in program.graph.nodes:
            if node.op in ("conv2d", "depthwise_conv2d"):
                bias = folded_bias(program.graph, node)
                expected += (2 if np.abs(bias).max() < 2**15 else 4) * bias.size
        sizes.append(stored(program))
        assert sizes[-1] == expected
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize("seed", [1, 7])
@pytest.mark.parametrize("largest", [2**15 - 1, -(2**15) + 1, 2**15, -(2**15)])
def test_results_are_the_same_bits(seed: int, largest: int) -> None:
    graph = with_biases(with_nibbles(random_network(["inverted", "downsample", "dead"], seed), seed), largest)
    pictures = random_pictures(graph, 2, seed)
    expected = run(graph, pictures)[graph.outputs[0]]
    np.testing.assert_array_equal(build_host(compile_graph(graph)).run(pictures)["logits"], expected)
