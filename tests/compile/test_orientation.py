"""Networks with narrow maps are computed on the transposed picture, and nobody can tell from their results."""

from __future__ import annotations

import numpy as np
import pytest
from tests.networks import random_network, random_pictures

from millijoule.build import build_host
from millijoule.compile import compile_graph
from millijoule.compile.options import PlanOptions
from millijoule.compile.orientation import computed_macs, oriented
from millijoule.deploy import first_difference
from millijoule.execute import run
from millijoule.graph import transposed

NARROW = (14, 5, 1)
LAYERS = ["conv", "separable", "separable", "inverted"]


@pytest.mark.parametrize("kernels", ["dsp", "plain"])
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_results_of_the_compiled_network_stay(kernels: str, seed: int) -> None:
    graph = random_network(LAYERS, seed, size=NARROW, rounding=("single", "double", "mulhi", "single")[seed - 1])
    pictures = random_pictures(graph, 3)
    expected = run(graph, pictures)
    found = build_host(compile_graph(transposed(graph), kernels=kernels)).run(pictures)
    np.testing.assert_array_equal(found["logits"], expected[graph.outputs[0]])


def test_a_narrow_network_is_transposed() -> None:
    graph = random_network(LAYERS, 2, size=NARROW)
    turned = oriented(graph)
    assert turned is not None
    assert computed_macs(turned) < 0.92 * computed_macs(graph)
    program = compile_graph(graph, trace=True)
    assert "transpose" in [layer.operator for layer in program.layers]
    assert "transpose" not in [layer.operator for layer in compile_graph(graph, transpose=False).layers]
    pictures = random_pictures(graph, 3)
    found = build_host(program).run(pictures)
    np.testing.assert_array_equal(found["logits"], run(graph, pictures)[graph.outputs[0]])
    assert first_difference(program, pictures) is None


def test_a_picture_that_comes_row_by_row_stays_upright() -> None:
    graph = random_network(LAYERS, 0, size=NARROW)
    assert oriented(graph) is not None
    streamed = compile_graph(graph, options=PlanOptions(stream=True))
    assert "transpose" not in [layer.operator for layer in streamed.layers]


@pytest.mark.parametrize(("size", "kind"), [((12, 12, 3), "integer"), ((5, 14, 1), "integer"), (NARROW, "float")])
def test_others_stay(size: tuple[int, int, int], kind: str) -> None:
    graph = random_network(LAYERS, 2, kind, size=size)
    assert oriented(graph) is None
    assert "transpose" not in [layer.operator for layer in compile_graph(graph).layers]
