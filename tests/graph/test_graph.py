"""Verifier, file, printer and simplification."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from millijoule.errors import FormatError, GraphError, QuantizationError, UnsupportedError
from millijoule.graph import (
    ROUNDINGS,
    Graph,
    GraphBuilder,
    Node,
    Quant,
    Tensor,
    describe_graph,
    format_graph,
    load_graph,
    macs,
    mode,
    save_graph,
    verify,
)
from millijoule.graph import simplify as simplify_graph


def float_graph() -> Graph:
    """normalize, pad, conv, batch norm, relu6, mean, dense, softmax."""
    rng = np.random.default_rng(0)
    b = GraphBuilder("small")
    x = b.input("picture", (1, 8, 8, 3), "uint8")
    x = b.node("normalize", [x], (1, 8, 8, 3), attrs={"scale": (1 / 127.5,), "offset": (-1.0,)})
    x = b.node("pad", [x], (1, 9, 9, 3), attrs={"padding": (0, 1, 0, 1)}, source="Conv1_pad")
    w = b.constant("Conv1.weight", rng.normal(size=(4, 3, 3, 3)).astype(np.float32))
    attrs = {"stride": (2, 2), "padding": (0, 0, 0, 0), "dilation": (1, 1)}
    x = b.node("conv2d", [x, w], (1, 4, 4, 4), attrs=attrs, source="Conv1")
    norm = [b.constant(f"bn.{n}", rng.uniform(0.5, 2, 4).astype(np.float32)) for n in ("gamma", "beta", "mean", "var")]
    x = b.node("batch_norm", [x, *norm], (1, 4, 4, 4), attrs={"epsilon": 1e-3}, source="bn_Conv1")
    x = b.node("clamp", [x], (1, 4, 4, 4), attrs={"clamp": (0.0, 6.0)}, source="Conv1_relu")
    x = b.node("mean", [x], (1, 4), source="pool")
    w = b.constant("fc.weight", rng.normal(size=(5, 4)).astype(np.float32))
    bias = b.constant("fc.bias", rng.normal(size=5).astype(np.float32))
    logits = b.node("dense", [x, w, bias], (1, 5), source="fc", output="logits")
    probabilities = b.node("softmax", [logits], (1, 5), output="probabilities")
    return b.build([logits, probabilities], classes=list("abcde"))


def int8_graph(bias: int = 0, weight_quant: Quant | None = None, output_scale: float = 0.1) -> Graph:
    b = GraphBuilder("int8")
    x = b.input("x", (1, 4), "int8", Quant.per_tensor(0.05, 3))
    w = b.constant("w", np.full((2, 4), 7, np.int8), weight_quant or Quant.per_channel([0.01, 0.02], 0))
    c = b.constant("b", np.full(2, bias, np.int32))
    y = b.node("dense", [x, w, c], (1, 2), dtype="int8", quant=Quant.per_tensor(output_scale, -4), source="fc")
    return b.build([y])


def test_simplify_leaves_one_node_per_layer_and_the_same_function() -> None:
    graph = float_graph()
    folded = simplify_graph(graph)
    assert [node.op for node in folded.nodes] == ["normalize", "conv2d", "mean", "dense", "softmax"]
    conv = folded.nodes[1]
    assert conv.attrs["clamp"] == (0.0, 6.0) and conv.attrs["padding"] == (0, 1, 0, 1) and conv.source == "Conv1"
    # a single tap: folded weights times x plus folded bias equals batch_norm(conv(x))
    gamma, beta, mean, variance = (graph.constant(f"bn.{n}") for n in ("gamma", "beta", "mean", "var"))
    w = graph.constant("Conv1.weight")
    x = np.random.default_rng(1).normal(size=(3, 3, 3))
    before = (np.tensordot(w, x, 3) - mean) / np.sqrt(variance + 1e-3) * gamma + beta
    after = np.tensordot(folded.constant(conv.inputs[1]), x, 3) + folded.constant(conv.inputs[2])
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)
    assert not any(name.startswith("bn.") for name in folded.constants)


def test_simplify_does_not_fuse_what_others_read() -> None:
    b = GraphBuilder("shared")
    x = b.input("x", (1, 4))
    w = b.constant("w", np.eye(4, dtype=np.float32))
    y = b.node("dense", [x, w], (1, 4), source="fc")
    z = b.node("clamp", [y], (1, 4), attrs={"clamp": (0.0, math.inf)})
    total = b.node("add", [y, z], (1, 4))
    assert [n.op for n in simplify_graph(b.build([total])).nodes] == ["dense", "clamp", "add"]


INT8_GRAPHS = [replace(int8_graph(), rounding=rounding) for rounding in ROUNDINGS]


@pytest.mark.parametrize("graph", [float_graph(), simplify_graph(float_graph()), *INT8_GRAPHS])
def test_file_round_trip(graph: Graph, tmp_path: Path) -> None:
    graph = graph.with_note("made for a test")
    save_graph(graph, tmp_path / "m.mj")
    back = load_graph(tmp_path / "m.mj")
    assert (back.nodes, back.tensors, back.outputs) == (graph.nodes, dict(graph.tensors), graph.outputs)
    assert (back.classes, back.history, back.rounding) == (graph.classes, graph.history, graph.rounding)
    assert all(np.array_equal(back.constants[k], v) for k, v in graph.constants.items())
    assert [p.name for p in tmp_path.iterdir()] == ["m.mj"]


def test_infinite_clamp_survives_the_file(tmp_path: Path) -> None:
    b = GraphBuilder("relu")
    y = b.node("clamp", [b.input("x", (1, 4))], (1, 4), attrs={"clamp": (0.0, math.inf)})
    save_graph(b.build([y]), tmp_path / "m.mj")
    assert load_graph(tmp_path / "m.mj").nodes[0].attrs["clamp"] == (0.0, math.inf)


@pytest.mark.parametrize("cut", [0, 5, 100, 900, -1])
def test_truncated_files_are_refused(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "m.mj"
    save_graph(float_graph(), path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(FormatError, match=r"m\.mj"):
        load_graph(path)


def test_foreign_and_missing_files_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save

    with pytest.raises(FormatError, match="no such file"):
        load_graph(tmp_path / "none.mj")
    (tmp_path / "w.mj").write_bytes(save({"w": np.zeros(3, np.float32)}))
    with pytest.raises(FormatError, match="not a 'millijoule graph 1' file"):
        load_graph(tmp_path / "w.mj")
    (tmp_path / "h.mj").write_bytes(
        save({"w": np.zeros(3, np.float32)}, metadata={"format": "millijoule graph 1", "graph": '{"nodes": 3}'})
    )
    with pytest.raises(FormatError, match="damaged"):
        load_graph(tmp_path / "h.mj")


def test_verifier_names_layer_reason_and_fix() -> None:
    graph = float_graph()
    bad = replace(graph, tensors={**graph.tensors, "logits": Tensor("logits", (1, 6), "float32")})
    with pytest.raises(GraphError, match=r"layer 'fc' \(dense\).*declared \(1, 6\) but is \(1, 5\)"):
        verify(bad)
    with pytest.raises(UnsupportedError, match="'lstm'"):
        state = {**graph.tensors, "state": Tensor("state", (1, 5), "float32")}
        verify(replace(graph, tensors=state, nodes=(*graph.nodes, Node("lstm", ("logits",), ("state",), source="rnn"))))
    with pytest.raises(GraphError, match="another writer"):
        verify(replace(graph, nodes=(*graph.nodes, graph.nodes[-1])))
    with pytest.raises(GraphError, match="not written before"):
        verify(replace(graph, nodes=graph.nodes[::-1]))
    with pytest.raises(GraphError, match="no node writes"):
        verify(replace(graph, outputs=("nothing",)))
    with pytest.raises(GraphError, match="rounding"):
        verify(replace(graph, rounding="bankers"))


def test_not_a_number_in_weights_is_refused() -> None:
    graph = float_graph()
    broken = graph.constant("fc.weight").copy()
    broken[0, 0] = np.nan
    with pytest.raises(GraphError, match="NaN"):
        verify(replace(graph, constants={**graph.constants, "fc.weight": broken}))


def test_integer_rules() -> None:
    assert mode(int8_graph(), int8_graph().nodes[0]) == "integer"
    int8_graph(bias=2**31 - 1 - 2 * 128 * 28 - 5000)  # the largest bias that still fits
    with pytest.raises(QuantizationError, match=r"layer 'fc'.*beyond 32 bits"):
        int8_graph(bias=2**31 - 1)
    with pytest.raises(QuantizationError, match="degenerate"):
        int8_graph(output_scale=0.0)
    with pytest.raises(QuantizationError, match="axis 1"):
        int8_graph(weight_quant=Quant.per_channel([0.1] * 4, 1))
    with pytest.raises(QuantizationError, match="not symmetric"):
        int8_graph(weight_quant=Quant((0.25,), (3,)))


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_scales_of_additions_and_means_are_checked(rounding: str) -> None:
    tiny = 2.0**-100
    for wide, scale in (("add", tiny), ("mean", tiny), ("add", 0.5), ("mean", 0.5)):
        b = GraphBuilder(wide)
        x = b.input("x", (1, 2, 2, 3), "int8", Quant.per_tensor(0.5))
        inputs, shape = ([x, x], (1, 2, 2, 3)) if wide == "add" else ([x], (1, 3))
        y = b.node(wide, inputs, shape, dtype="int8", quant=Quant.per_tensor(scale))
        if scale == tiny:
            with pytest.raises(QuantizationError, match="scales"):
                b.build([y], rounding=rounding)
        else:
            assert b.build([y], rounding=rounding).rounding == rounding


@pytest.mark.parametrize("graph", INT8_GRAPHS)
def test_printer_shows_the_rounding_rule(graph: Graph) -> None:
    assert f"rounding {graph.rounding}," in format_graph(graph)


def test_printer_shows_every_layer() -> None:
    text = format_graph(float_graph())
    assert all(node.source in text for node in float_graph().nodes)
    assert len({line.index("<-") for line in text.splitlines() if "<-" in line}) == 1


def test_printed_history_is_short_and_the_description_is_whole() -> None:
    note = "layer by layer " * 100
    graph = replace(float_graph(), history=("captured", note))
    last, text = format_graph(graph).splitlines()[-1], json.dumps(describe_graph(graph))
    assert len(last) < 260 and last.endswith(f"and {len(note.strip()) - 200:,} more characters")
    assert json.loads(text)["history"] == ["captured", note]


@pytest.mark.parametrize("graph", [float_graph(), *INT8_GRAPHS])
def test_the_description_says_what_the_printed_lines_say(graph: Graph) -> None:
    described = json.loads(json.dumps(describe_graph(graph)))
    assert [node["layer"] for node in described["nodes"]] == [node.source for node in graph.nodes]
    assert [node["macs"] for node in described["nodes"]] == [macs(graph, node) for node in graph.nodes]
    for described_node, node in zip(described["nodes"], graph.nodes, strict=True):
        tensor = graph.tensor(node.output)
        assert described_node["result"]["shape"] == list(tensor.shape)
        assert ("scale" in described_node["result"]) == (tensor.quant is not None)


def test_macs_of_known_layers() -> None:
    graph = float_graph()
    assert [macs(graph, node) for node in graph.nodes if macs(graph, node)] == [4 * 4 * 4 * 27, 20]
