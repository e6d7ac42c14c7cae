"""Dense layers on packed lanes: taken where the weights allow it, equal to the executor."""

from __future__ import annotations

import numpy as np
import pytest

from millijoule.build.host import build_host
from millijoule.compile import compile_graph
from millijoule.execute import run
from millijoule.graph import Graph, GraphBuilder, Quant


def network(features: int, classes: int, rounding: str, weight: int, scale: float = 0.05) -> Graph:
    """A picture of `features` bytes and a dense layer whose weights are at most `weight`."""
    rng = np.random.default_rng(features + classes)
    builder, quant = GraphBuilder("flat"), Quant.per_tensor(0.02, -11)
    shape = (1, 1, features, 1)
    attrs = {"scale": (0.02,), "offset": (-2.0,)}
    x = builder.node(
        "normalize", [builder.input("picture", shape, "uint8")], shape, attrs=attrs, dtype="int8", quant=quant
    )
    x = builder.node("reshape", [x], (1, features), attrs={"shape": (1, features)}, dtype="int8", quant=quant)
    weights = rng.integers(-weight, weight + 1, (classes, features)).astype(np.int8)
    w = builder.constant("w", weights, Quant.per_channel(rng.uniform(0.001, 0.004, classes), 0))
    b = builder.constant("b", rng.integers(-3000, 3000, classes).astype(np.int32))
    y = builder.node("dense", [x, w, b], (1, classes), dtype="int8", quant=Quant.per_tensor(scale, 5), source="head")
    return builder.build([y], rounding=rounding)


def exact(graph: Graph, kernels: str) -> tuple[str, ...]:
    """Compiles, compares with the executor, returns the files."""
    program = compile_graph(graph, kernels=kernels)
    shape = graph.tensor(graph.inputs[0]).shape
    pictures = np.random.default_rng(3).integers(0, 256, (8, *shape[1:])).astype(np.uint8)
    pictures[0], pictures[1] = 0, 255
    got, expected = build_host(program).run(pictures)["logits"], run(graph, pictures)[graph.outputs[0]]
    np.testing.assert_array_equal(got, expected)
    return tuple(program.files)


@pytest.mark.parametrize("rounding", ["single", "double", "mulhi"])
def test_equal_to_the_executor(rounding: str) -> None:
    for features, classes in ((40, 9), (333, 2), (7, 1)):
        graph = network(features, classes, rounding, 127)
        assert "mj_dense_lanes.c" in exact(graph, "dsp")
    assert "mj_dense_lanes.c" not in exact(graph, "plain")


def test_sums_beyond_the_limit_go_the_other_way() -> None:
    assert "mj_dense_lanes.c" in exact(network(900, 3, "single", 127), "dsp")
    files = exact(network(1400, 3, "single", 127), "dsp")
    assert "mj_dense_lanes.c" not in files
    assert "mj_dense_s8_dsp.c" in files
