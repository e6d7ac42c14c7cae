"""Graph -> C -> shared library: equal to the executor that defines the arithmetic, whatever the network."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millijoule.build.host import build_host, run_sanitized
from millijoule.compile import compile_graph
from millijoule.errors import OptionError, UnsupportedError
from millijoule.execute import run
from millijoule.graph import ROUNDINGS, Graph, GraphBuilder, Node
from networks import KINDS, LAYERS, random_network, random_pictures

VARIANTS = ("plain", "dsp")

networks = st.builds(
    random_network,
    st.lists(st.sampled_from(LAYERS), min_size=1, max_size=7),
    st.integers(0, 2**31),
    st.just("integer"),
    size=st.tuples(st.integers(1, 11), st.integers(1, 11), st.integers(1, 5)),
    rounding=st.sampled_from(ROUNDINGS),
    probabilities=st.booleans(),
)


def agree(graph: Graph, kernels: str, tolerance: float = 0.0) -> None:
    program = compile_graph(graph, kernels=kernels)
    firmware = build_host(program)
    assert firmware.initialize() == 0
    pictures = random_pictures(graph, 3)
    ours, expected = firmware.run(pictures), run(graph, pictures)
    for name, tensor in zip(("logits", "probabilities"), graph.outputs, strict=False):
        assert ours[name].dtype == expected[tensor].dtype and ours[name].shape == expected[tensor].shape
        if tolerance:
            np.testing.assert_allclose(ours[name], expected[tensor], atol=tolerance, rtol=tolerance)
        else:
            np.testing.assert_array_equal(ours[name], expected[tensor])
    np.testing.assert_array_equal(ours["class"], ours["logits"].argmax(axis=1))


@settings(max_examples=12, deadline=None)
@given(networks, st.sampled_from(VARIANTS))
def test_any_integer_network_gives_the_bits_of_the_executor(graph: Graph, kernels: str) -> None:
    agree(graph, kernels)


@settings(max_examples=5, deadline=None)
@given(st.lists(st.sampled_from(LAYERS), min_size=1, max_size=7), st.integers(0, 2**31))
def test_any_dynamic_network_agrees_though_inputs_are_quantised_in_place(layers: list[str], seed: int) -> None:
    agree(random_network(layers, seed, "dynamic"), "dsp", tolerance=1e-5)


@pytest.mark.parametrize("kind", ["dynamic", "float"])
@pytest.mark.parametrize("seed", range(2))
def test_dynamic_and_float_networks_agree_within_float_rounding(kind: str, seed: int) -> None:
    agree(random_network(LAYERS, seed, kind), "dsp", tolerance=1e-5)


def readers_of(graph: Graph, node: Node) -> list[Node]:
    return graph.consumers()[node.output] or [node]


@given(networks)
@settings(max_examples=30, deadline=None)
def test_tensors_that_are_needed_together_never_share_bytes(graph: Graph) -> None:
    """Follows every tensor through time: from its writer to its last reader nobody else writes over it."""
    program = compile_graph(graph, self_test=False)
    graph = program.graph
    nodes = [node for node in graph.nodes if node.op != "reshape"]
    alias = {node.output: node.inputs[0] for node in graph.nodes if node.op == "reshape"}

    def root(name: str) -> str:
        return root(alias[name]) if name in alias else name

    place = {name: (b.offset, b.offset + graph.tensor(name).bytes) for b in program.plan.buffers for name in b.tensors}
    stored = {layer.output: layer.index for layer in program.layers}

    def layer_of(node: Node) -> int:
        """A node without a stored result works inside the layer of its reader."""
        if node.output in stored:
            return stored[node.output]
        (layer,) = {layer_of(reader) for reader in readers_of(graph, node)}
        return layer

    when = {node.output: layer_of(node) for node in nodes}
    written = dict.fromkeys(graph.inputs, -1) | stored
    last: dict[str, int] = {}
    for node in nodes:
        for name in map(root, node.inputs):
            if name in written:
                last[name] = max(last.get(name, -1), when[node.output])
    last |= {root(name): len(nodes) for name in graph.outputs}
    assert set(place) == set(written)
    for a, b in itertools.permutations(written, 2):
        # b is written while a is still needed by a later layer: their bytes must be apart.
        if written[a] < written[b] < last.get(a, -1) and place[a][0] < place[b][1] and place[b][0] < place[a][1]:
            pytest.fail(f"{b} overwrites {a}")
        # b is written by the last reader of a: apart, exactly in place, or row by row (test_rows.py says how far).
        if written[b] == last.get(a) and place[a][0] < place[b][1] and place[b][0] < place[a][1]:
            layer = program.layers[written[b]]
            in_place = place[a] == place[b] and layer.operator in ("normalize", "add", "clamp")
            assert in_place or layer.kernel.startswith("mj_rows_s8")


@pytest.mark.parametrize("kind", KINDS)
def test_generated_code_is_clean_under_sanitizers(kind: str) -> None:
    graph = random_network(LAYERS, 3, kind)
    pictures = random_pictures(graph, 2)
    for kernels in VARIANTS:
        checked = run_sanitized(compile_graph(graph, kernels=kernels), pictures)
        expected = run(graph, pictures)[graph.outputs[0]]
        np.testing.assert_allclose(checked["logits"], expected, atol=0 if kind == "integer" else 1e-5)


def test_files_are_complete_and_name_the_source_layers() -> None:
    program = compile_graph(random_network(["conv", "residual"], 1), kernels="plain", name="shed")
    model = program.files["mj_model.c"]
    assert '#define MJ_MODEL_NAME       "shed"' in program.files["mj_model.h"]
    assert {"mj_model.c", "mj_model.h", "mj_weights.c", "mj_weights.h", "mj_kernels.h"} <= set(program.files)
    assert "mj_max_pool_s8.c" not in program.files
    for layer in program.layers:
        assert f"{layer.symbol}(void)" in model and layer.name in model
        assert f"{layer.kernel}.c" in program.files
    assert program.arena_bytes == program.plan.arena_bytes
    assert f"MJ_WEIGHT_BYTES     {program.weight_bytes}\n" in program.files["mj_model.h"]
    assert len(program.summary()["layers"]) == len(program.layers)


def test_the_same_graph_gives_the_same_text() -> None:
    graph = random_network(LAYERS, 4)
    assert compile_graph(graph).files == compile_graph(graph).files


def test_names_that_would_break_c_are_harmless() -> None:
    graph = random_network(["conv"], 2)
    nodes = tuple(replace(node, source='a */ "b" ??/ é\n\\') for node in graph.nodes)
    graph = replace(graph, nodes=nodes, classes=tuple('"\\??/\n é%s'[: 1 + n % 9] for n in range(len(graph.classes))))
    assert build_host(compile_graph(graph, name='"x" */')).initialize() == 0


def test_the_self_test_fails_when_a_weight_is_broken() -> None:
    program = compile_graph(random_network(["pointwise"], 5), kernels="plain")
    text = program.files["mj_model.c"]
    start = text.index("expected[MJ_CLASSES] = {\n") + len("expected[MJ_CLASSES] = {\n")
    first = text[start : text.index(",", start)]
    other = "5" if first.strip() != "5" else "6"
    broken = {**program.files, "mj_model.c": text[:start] + other + text[start + len(first) :]}
    assert build_host(replace(program, files=broken)).initialize() == 1


def test_a_trace_holds_the_checksum_of_every_layer() -> None:
    graph = random_network(LAYERS, 6)
    program = compile_graph(graph, trace=True)
    picture = random_pictures(graph, 1)
    sums = build_host(program).checksums(picture[0])
    results = [layer.output for layer in program.layers]
    values = run(program.graph, picture, keep=results)
    for name, found in zip(results, sums, strict=True):
        data = np.frombuffer(values[name].tobytes(), dtype=np.uint8).astype(np.uint32)
        running = np.cumsum(data, dtype=np.uint32)
        assert found == np.uint32((int(running.sum(dtype=np.uint32)) * 65599 + int(running[-1])) & 0xFFFFFFFF)


def test_refusals() -> None:
    graph = random_network(["conv"], 0)
    with pytest.raises(OptionError, match="no such variant"):
        compile_graph(graph, kernels="fast")
    builder = GraphBuilder("no picture")
    x = builder.input("x", (1, 4))
    y = builder.node("softmax", [x], (1, 4))
    with pytest.raises(UnsupportedError, match="one uint8 picture"):
        compile_graph(builder.build([y]))
