"""Weights of 4 bits in the graph: conversion, rules, the file."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from millijoule.errors import FormatError, GraphError, MillijouleError, QuantizationError
from millijoule.graph import Graph, GraphBuilder, Quant, format_graph, load_graph, prune, save_graph, transposed, verify
from millijoule.graph.conversion import integer_graph, quantize_weights, weight_quant
from millijoule.graph.nibbles import pack_nibbles, unpack_nibbles


def float_graph(channels: int = 5) -> Graph:
    rng = np.random.default_rng(channels)
    builder = GraphBuilder("two layers")
    picture = builder.input("picture", (1, 6, 5, 3), "uint8")
    scaled = builder.node("normalize", [picture], (1, 6, 5, 3), attrs={"scale": (1 / 127.5,), "offset": (-1.0,)})
    weights = builder.constant("conv.weight", rng.normal(size=(channels, 3, 3, 3)).astype(np.float32))
    bias = builder.constant("conv.bias", rng.normal(size=channels).astype(np.float32))
    attrs = {"stride": (1, 1), "padding": (1, 1, 1, 1), "clamp": (0.0, 6.0)}
    conv = builder.node("conv2d", [scaled, weights, bias], (1, 6, 5, channels), attrs=attrs, source="conv", output="c")
    mean = builder.node("mean", [conv], (1, channels), output="m")
    last = builder.constant("dense.weight", rng.normal(size=(3, channels)).astype(np.float32))
    logits = builder.node("dense", [mean, last], (1, 3), source="classifier", output="logits")
    return builder.build([logits])


def converted(weight_bits: object = 4, channels: int = 5, **more: bool) -> Graph:
    ranges = {"c": (0.0, 6.0), "m": (0.0, 4.0), "logits": (-9.0, 9.0)}
    return integer_graph(float_graph(channels), ranges, weight_bits=weight_bits, **more)  # type: ignore[arg-type]


def bits(graph: Graph) -> dict[str, int]:
    return {node.source: graph.quant(node.inputs[1]).bits for node in graph.nodes if node.op in ("conv2d", "dense")}


@given(st.lists(st.integers(-8, 7), max_size=33))
def test_packed_numbers_come_back(numbers: list[int]) -> None:
    values = np.array(numbers, np.int8)
    packed = pack_nibbles(values)
    assert packed.nbytes == -(-len(numbers) // 2)
    np.testing.assert_array_equal(unpack_nibbles(packed, values.shape), values)


@pytest.mark.parametrize("value", [-9, 8, 127])
def test_numbers_beyond_four_bits_are_refused(value: int) -> None:
    with pytest.raises(GraphError, match="reach from"):
        pack_nibbles(np.array([value]))


def test_what_does_not_hold_the_numbers_is_refused() -> None:
    for packed in (np.zeros(1, np.uint8), np.zeros(3, np.uint8), np.zeros(2, np.int8), np.zeros((2, 1), np.uint8)):
        with pytest.raises(GraphError, match="does not hold 3"):
            unpack_nibbles(packed, (3,))
    with pytest.raises(GraphError, match="behind the last"):
        unpack_nibbles(np.array([0, 16], np.uint8), (3,))


@pytest.mark.parametrize("per_channel", [True, False])
def test_weights_of_four_bits_use_their_range(per_channel: bool) -> None:
    weights = np.random.default_rng(0).normal(size=(6, 3, 3, 8)).astype(np.float32)
    quant = weight_quant(weights, 0, per_channel, bits=4)
    stored = quantize_weights(weights, quant)
    assert quant.bits == 4 and stored.min() >= -7 and np.abs(stored).max() == 7
    assert (np.abs(stored * quant.broadcast_scale(4) - weights) <= quant.broadcast_scale(4) * 0.501).all()


@pytest.mark.parametrize("per_channel", [True, False])
def test_the_layers_that_are_named_get_four_bits(per_channel: bool) -> None:
    assert bits(converted(4, per_channel=per_channel)) == {"conv": 4, "classifier": 4}
    assert bits(converted({"conv": 4}, per_channel=per_channel)) == {"conv": 4, "classifier": 8}
    assert bits(converted({"logits": 4, "conv": 8}, per_channel=per_channel)) == {"conv": 8, "classifier": 4}
    for graph in (converted(8), converted({})):
        assert bits(graph) == {"conv": 8, "classifier": 8}
        assert np.abs(graph.constant("conv.weight.int8")).max() == 127


@pytest.mark.parametrize("wrong", [3, 16, True, {"conv": 2}, {"cnov": 4}, {"normalize": 4}])
def test_other_widths_and_unknown_layers_are_refused(wrong: object) -> None:
    with pytest.raises(QuantizationError):
        converted(wrong)
    with pytest.raises(GraphError):
        Quant((1.0,), (0,), bits=5)


def test_sizes_passes_and_text_know_the_width() -> None:
    graph = converted(4)
    name = graph.nodes[1].inputs[1]
    assert graph.tensor(name).bytes == (5 * 27 + 1) // 2
    assert bits(transposed(graph)) == bits(graph)
    assert format_graph(graph).count("weights=4bit") == 2 and "4bit" not in format_graph(converted(8))
    weights = graph.constant(name).copy()
    weights[1] = 0  # a constant channel goes
    smaller, removed = prune(replace(graph, constants={**graph.constants, name: weights}))
    assert removed and bits(smaller) == bits(graph) and smaller.tensor(name).shape[0] == 4


def test_four_bits_are_for_weights() -> None:
    graph = converted(4)
    weights = graph.nodes[1].inputs[1]

    def with_tensor(name: str, **changes: object) -> Graph:
        tensor = graph.tensor(name)
        assert tensor.quant is not None
        return replace(graph, tensors={**graph.tensors, name: replace(tensor, quant=replace(tensor.quant, **changes))})

    with pytest.raises(QuantizationError, match="no symmetric int8 constant"):
        verify(with_tensor("c", bits=4))
    with pytest.raises(QuantizationError, match="no symmetric int8 constant"):
        verify(with_tensor(weights, zero_point=(1,) * 5))
    value = graph.constant(weights).copy()
    value[0, 0, 0, 0] = 8
    with pytest.raises(QuantizationError, match="reach from"):
        verify(replace(graph, constants={**graph.constants, weights: value}))
    value[0, 0, 0, 0] = -8
    verify(replace(graph, constants={**graph.constants, weights: value}))
    layer = replace(graph.nodes[1], op="add", inputs=(graph.nodes[1].inputs[0], weights), attrs={})
    with pytest.raises(MillijouleError):
        verify(replace(graph, nodes=(graph.nodes[0], layer, *graph.nodes[2:])))


def test_the_file_holds_half_a_byte_per_weight(tmp_path: Path) -> None:
    graph, path = converted({"conv": 4}), tmp_path / "model.mj"
    save_graph(graph, path)
    loaded = load_graph(path)
    assert {name: value.tolist() for name, value in loaded.constants.items()} == {
        name: value.tolist() for name, value in graph.constants.items()
    }
    assert replace(loaded, constants=graph.constants) == graph
    with safe_open(path, framework="numpy") as file:
        assert file.get_tensor(graph.nodes[1].inputs[1]).nbytes == (5 * 27 + 1) // 2
    save_graph(converted(8), path)
    assert '"bits"' not in path.read_bytes().decode("latin-1")


def rewritten(path: Path, change: object) -> None:
    """The file with other constants or another header."""
    with safe_open(path, framework="numpy") as file:
        header = dict(file.metadata())
        constants = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    graph = json.loads(header["graph"])
    change(graph, constants)  # type: ignore[operator]
    save_file(constants, path, metadata={**header, "graph": json.dumps(graph)})


def damaged_files() -> dict[str, object]:
    name = "conv.weight.int8"

    def of(graph: dict, key: str) -> dict:
        return next(item for item in graph["tensors"] if item["name"] == key)

    return {
        "too few bytes": lambda graph, constants: constants.update({name: constants[name][:-1]}),
        "too many bytes": lambda graph, constants: constants.update({name: np.append(constants[name], np.uint8(0))}),
        "not packed": lambda graph, constants: constants.update({name: np.zeros((5, 3, 3, 3), np.int8)}),
        "behind the last": lambda graph, constants: constants.update({name: constants[name] | np.uint8(0x80)}),
        "another width": lambda graph, constants: of(graph, name)["quant"].update(bits=3),
        "half a width": lambda graph, constants: of(graph, name)["quant"].update(bits=4.0),
        "no number": lambda graph, constants: of(graph, name)["quant"].update(bits="4"),
        "no width": lambda graph, constants: of(graph, name)["quant"].pop("bits"),
        "an activation": lambda graph, constants: of(graph, "c")["quant"].update(bits=4),
        "a bias": lambda graph, constants: of(graph, "conv.bias.int32")["quant"].update(bits=4),
    }


@pytest.mark.parametrize("what", damaged_files())
def test_damaged_files_are_refused(what: str, tmp_path: Path) -> None:
    path = tmp_path / "model.mj"
    save_graph(converted(4), path)
    rewritten(path, damaged_files()[what])
    with pytest.raises(FormatError):
        load_graph(path)


@given(data=st.data())
def test_any_damage_is_refused_or_harmless(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.mj"
    save_graph(converted(4), path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
    with suppress(FormatError):
        verify(load_graph(path))
