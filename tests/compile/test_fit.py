"""A model that does not fit is refused with the bytes, the peak and remedies that really fit."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from by_hand import Net
from millijoule.boards import load_board
from millijoule.compile import compile_graph
from millijoule.compile.fit import CODE_BYTES, RESERVED_BYTES, Need, at_resolution, at_width, fits, need_of
from millijoule.errors import BoardError, PlacementError
from millijoule.graph import Graph, GraphBuilder, Quant
from millijoule.quantize import half


def network(size: int, channels: int, *, flat: bool = False, dense: int = 10) -> Graph:
    """A strided convolution, a pointwise one, pooling, which sees the whole map, and a classifier, int8."""
    builder = GraphBuilder("wide")
    scale = Quant.per_tensor(0.05)
    x = builder.input("picture", (1, size, size, 3), "uint8")
    normal = {"scale": (1 / 127.5,), "offset": (-1.0,)}
    x = builder.node("normalize", [x], (1, size, size, 3), attrs=normal, dtype="int8", quant=scale)

    def conv(name: str, x: str, kernel: int, depth: int, stride: int, side: int) -> str:
        w = builder.constant(name, np.ones((channels, kernel, kernel, depth), np.int8), Quant.per_tensor(0.05))
        after = side // stride
        padding = (0, 1, 0, 1) if kernel == 3 else (0, 0, 0, 0)
        attrs = {"stride": (stride, stride), "padding": padding}
        shape = (1, after, after, channels)
        return builder.node("conv2d", [x, w], shape, attrs=attrs, dtype="int8", quant=scale, source=name)

    x = conv("first", x, 3, 3, 2, size)
    x = conv("second", x, 1, channels, 1, size // 2)
    features = channels
    if flat:
        features = channels * (size // 2) ** 2
        x = builder.node("reshape", [x], (1, features), attrs={"shape": (1, features)}, dtype="int8", quant=scale)
    else:
        pool = {"kernel": (2, 2), "stride": (2, 2), "padding": (0, 0, 0, 0)}
        shape = (1, size // 4, size // 4, channels)
        x = builder.node("max_pool", [x], shape, attrs=pool, dtype="int8", quant=scale, source="third")
        x = builder.node("mean", [x], (1, channels), dtype="int8", quant=scale)
    w = builder.constant("fc", np.ones((dense, features), np.int8), Quant.per_tensor(0.05))
    return builder.build([builder.node("dense", [x, w], (1, dense), dtype="int8", quant=scale, source="fc")])


def refusal(graph: Graph, board: str) -> PlacementError:
    with pytest.raises(PlacementError) as caught:
        compile_graph(graph, board, self_test=False)
    return caught.value


def test_another_rounding_is_named_where_its_larger_scales_fit_the_row_engine() -> None:
    net = Net((224, 224, 3))
    graph = net.build(net.inverted(net.same(net.x, 8, stride=2), 64, 8, stride=2), pooled=False)
    assert compile_graph(graph, "stm32l4r9i", self_test=False).arena_bytes < 200_000
    tensors = dict(graph.tensors)
    widened = next(node for node in graph.nodes if node.op == "conv2d" and graph.tensor(node.output).shape[3] == 64)
    weights = tensors[widened.inputs[1]]
    tensors[widened.inputs[1]] = replace(weights, quant=Quant.per_tensor(0.3))
    coarse = replace(graph, tensors=tensors)
    error = refusal(coarse, "stm32l4r9i")
    found = re.search(r"with --rounding (\w+) \(([\d,]+) bytes\)", error.fix)
    assert found is not None
    other = compile_graph(replace(coarse, rounding=found[1]), "stm32l4r9i", self_test=False)
    assert other.arena_bytes == int(found[2].replace(",", ""))


def test_weights_of_eight_bits_are_named_where_four_have_too_large_scales() -> None:
    net = Net((224, 224, 3))
    graph = net.build(net.inverted(net.same(net.x, 8, stride=2), 64, 8, stride=2), pooled=False)
    layer = next(node for node in graph.nodes if node.op == "conv2d" and graph.tensor(node.output).shape[3] == 64)
    weights = layer.inputs[1]
    small = np.clip(graph.constant(weights), -7, 7)
    for factor, bits in ((1, 4), (127 // 7, 8)):
        quant = Quant.per_tensor(2.5 / factor, bits=bits)
        tensors = {**graph.tensors, weights: replace(graph.tensor(weights), quant=quant)}
        changed = replace(graph, tensors=tensors, constants={**graph.constants, weights: small * np.int8(factor)})
        if bits == 4:
            fix = refusal(changed, "stm32l4r9i").fix
    found = re.search(r"weights of 8 bits in '([^']*)' \(([\d,]+) bytes\)", fix)
    assert found is not None and found[1] == layer.source
    assert compile_graph(changed, "stm32l4r9i", self_test=False).arena_bytes == int(found[2].replace(",", ""))


def test_the_refusal_names_bytes_layers_and_remedies_that_fit() -> None:
    graph = network(384, 32)
    need = compile_graph(graph, self_test=False).arena_bytes
    board = load_board("stm32l4r9i")
    error = refusal(graph, "stm32l4r9i")
    assert f"{need:,} bytes" in error.reason and f"{board.arena_limit(RESERVED_BYTES):,}" in error.reason
    assert "'third'" in error.reason
    assert "STM32H7B3I" not in error.fix or fits(Need(need, 0), load_board("stm32h7b3i"))
    found = re.search(r"resolution (\d+) \(([\d,]+) bytes\)", error.fix)
    assert found is not None
    size, promised = int(found[1]), int(found[2].replace(",", ""))
    smaller = compile_graph(network(size, 32), "stm32l4r9i", self_test=False)
    assert smaller.arena_bytes == promised
    assert refusal(network(size + 32, 32), "stm32l4r9i")
    assert "times the channels" in error.fix


def test_shapes_at_another_resolution_are_those_of_the_network_built_so() -> None:
    smaller = at_resolution(network(96, 16), 64)
    assert smaller is not None
    built = network(64, 16)
    assert {name: tensor.shape for name, tensor in smaller.tensors.items()} == {
        name: tensor.shape for name, tensor in built.tensors.items()
    }


def test_a_flattened_map_allows_no_other_resolution() -> None:
    assert at_resolution(network(32, 8, flat=True), 16) is None


def test_another_width_keeps_the_classes() -> None:
    narrower = at_width(network(64, 32), 0.5)
    assert narrower is not None
    assert narrower.tensor(narrower.outputs[0]).shape == (1, 10)
    built = network(64, 16)
    assert [t.shape for t in narrower.activations()] == [t.shape for t in built.activations()]
    assert need_of(narrower, "dsp", 0).arena_bytes == need_of(built, "dsp", 0).arena_bytes


def test_constants_that_do_not_fit_flash_are_refused() -> None:
    graph = network(32, 8, flat=True, dense=1100)
    error = refusal(graph, "stm32l4r9i")
    assert "of flash" in error.reason and f"{CODE_BYTES:,} for code" in error.reason


def test_each_board_takes_what_fits() -> None:
    graph = network(256, 16)
    assert refusal(network(384, 32), "stm32h7b3i")
    program = compile_graph(graph, "stm32l4r9i", self_test=False)
    assert program.board is not None and program.target == "stm32l4r9i"
    with pytest.raises(BoardError):
        compile_graph(graph, "stm32f4", self_test=False)


def test_a_float_model_is_told_about_quantisation() -> None:
    graph = network(256, 16)
    floats = {
        name: replace(tensor, dtype="float32", quant=None) if tensor.dtype == "int8" else tensor
        for name, tensor in graph.tensors.items()
    }
    values = {name: value.astype(np.float32) for name, value in graph.constants.items()}
    assert "static quantisation" in refusal(replace(graph, tensors=floats, constants=values), "stm32l4r9i").fix


def test_floats_that_fit_with_16_bits_are_told_so() -> None:
    b = GraphBuilder("wide")
    x = b.node("normalize", [b.input("picture", (1, 1, 1, 700), "uint8")], (1, 1, 1, 700),
               attrs={"scale": (1.0,), "offset": (0.0,)}, source="normalize")  # fmt: skip
    x = b.node("reshape", [x], (1, 700), attrs={"shape": (1, 700)}, source="flat")
    weights = b.constant("w", np.random.default_rng(0).normal(size=(900, 700)).astype(np.float32))
    y = b.node("dense", [x, weights], (1, 900), source="dense", output="logits")
    graph = b.build([y])
    found = re.search(r"16-bit float weights \(([\d,]+) bytes of flash\)", refusal(graph, "stm32l4r9i").fix)
    assert found is not None
    program = compile_graph(half(graph), "stm32l4r9i", self_test=False)
    assert program.weight_bytes == int(found[1].replace(",", ""))


def test_a_budget_that_no_plan_keeps_names_sizes_that_would() -> None:
    graph = network(128, 32)
    least = compile_graph(graph, self_test=False, objective="ram").arena_bytes
    with pytest.raises(PlacementError) as caught:
        compile_graph(graph, self_test=False, ram_budget=least // 2)
    error = caught.value
    assert f"less than {least:,} bytes" in error.reason and "'third'" in error.reason
    found = re.search(r"resolution (\d+) \(([\d,]+) bytes\)", error.fix)
    assert found is not None
    need = int(found[2].replace(",", ""))
    smaller = network(int(found[1]), 32)
    assert need <= least // 2
    assert compile_graph(smaller, self_test=False, objective="ram").arena_bytes == need
    compile_graph(smaller, self_test=False, ram_budget=least // 2)
