"""The transposed network computes the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.networks import BLOCKS, KINDS, LAYERS, any_network, random_network, random_pictures

from millijoule.execute import run
from millijoule.graph import Graph, GraphBuilder, Quant, transposed


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1))
def test_every_result_of_integer_networks_is_equal(seed: int) -> None:
    graph = any_network(seed, largest=14, layers=5)
    turned = transposed(graph)
    maps = [node.output for node in graph.nodes if node.op not in ("normalize", "reshape")]
    pictures = random_pictures(graph, 3, seed)
    wanted, found = run(graph, pictures, keep=maps), run(turned, pictures, keep=maps)
    for name in maps:
        value = found[name].swapaxes(1, 2) if found[name].ndim == 4 else found[name]
        np.testing.assert_array_equal(value, wanted[name], err_msg=name)
    assert [node.source for node in turned.nodes if node.op != "transpose"] == [node.source for node in graph.nodes]
    assert (turned.inputs, turned.outputs) == (graph.inputs, graph.outputs)


@settings(max_examples=20)
@given(
    st.lists(st.sampled_from((*LAYERS, *BLOCKS)), min_size=1, max_size=4),
    st.integers(0, 2**32 - 1),
    st.sampled_from(KINDS),
)
def test_logits_in_all_arithmetics(layers: list[str], seed: int, kind: str) -> None:
    graph = random_network(layers, seed, kind, size=(11, 4, 2))
    pictures = random_pictures(graph, 2, seed)
    logits = graph.outputs[0]
    wanted, found = run(graph, pictures)[logits], run(transposed(graph), pictures)[logits]
    if kind == "integer":
        np.testing.assert_array_equal(found, wanted)
    elif kind == "float":
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())
    else:  # a value may be rounded to the neighbouring step
        np.testing.assert_allclose(found, wanted, rtol=0, atol=0.05 * max(1.0, float(np.abs(wanted).max())))


def test_twice_gives_the_weights_back() -> None:
    graph = random_network(["conv", "depthwise", "max_pool"], 5)
    again = transposed(transposed(graph))
    for name, value in graph.constants.items():
        np.testing.assert_array_equal(again.constant(name), value, err_msg=name)
    assert [again.tensor(node.output).shape for node in graph.nodes[1:]] == [
        graph.tensor(node.output).shape for node in graph.nodes[1:]
    ]


def odd_ends(output: str) -> Graph:
    """Reshapes in the middle, a flattened map with two readers, a map as output."""
    rng, builder = np.random.default_rng(3), GraphBuilder("odd")
    quant = Quant.per_tensor(0.02, 3)
    picture = builder.input("picture", (1, 4, 6, 2), "uint8")

    def node(op: str, data: str, size: tuple[int, ...], **attrs: object) -> str:
        return builder.node(op, [data], size, attrs=attrs, dtype="int8", quant=quant, source=f"{op} {len(size)}")

    def weights(shape: tuple[int, ...]) -> str:
        value = rng.integers(-127, 128, shape).astype(np.int8)
        return builder.constant("weights", value, Quant.per_tensor(0.01))

    x = node("normalize", picture, (1, 4, 6, 2), scale=(0.02,), offset=(-1.0,))
    x = node("transpose", x, (1, 6, 4, 2))
    x = node("reshape", x, (1, 3, 4, 4), shape=(1, 3, 4, 4))
    layer = [x, weights((3, 2, 1, 4))]
    attrs = {"stride": (1, 2), "padding": (1, 0, 0, 0), "dilation": (2, 1)}
    x = builder.node("conv2d", layer, (1, 2, 2, 3), attrs=attrs, dtype="int8", quant=quant, source="window")
    flat = node("reshape", x, (1, 12), shape=(1, 12))
    sizes = (5, 7) if output != "clamped" else (5,)
    heads = [
        builder.node("dense", [flat, weights((size, 12))], (1, size), dtype="int8", quant=quant, source=f"head {size}")
        for size in sizes
    ]
    clamped = node("clamp", flat, (1, 12), clamp=(0.0, 1.0)) if output == "clamped" else flat
    line = node("reshape", heads[0], (1, 1, 5, 1), shape=(1, 1, 5, 1))
    line = node("pad", line, (1, 2, 5, 1), padding=(1, 0, 0, 0))
    ends = {"map": [heads[0], x], "line": [heads[-1], line], "flat": [heads[0], flat], "clamped": [heads[0], clamped]}
    return builder.build(ends[output])


@pytest.mark.parametrize("output", ["map", "line", "flat", "clamped"])
def test_what_depends_on_the_order_of_pixels(output: str) -> None:
    graph = odd_ends(output)
    turned = transposed(graph)
    pictures = random_pictures(graph, 4)
    wanted, found = run(graph, pictures), run(turned, pictures)
    for name in graph.outputs:
        assert turned.tensor(name) == graph.tensor(name)
        np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)


def test_weights_of_dense_layers_are_permuted_instead_of_the_map() -> None:
    graph = odd_ends("line")
    turned = transposed(graph)
    between = [node for node in turned.nodes if node.op == "transpose" and turned.tensor(node.output).shape[-1] == 3]
    assert not between
    changed = [n for n in graph.constants if not np.array_equal(graph.constant(n), turned.constant(n))]
    assert len(changed) == 3
