"""16-bit float weights from the float graph to every executor."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest

from millijoule.compile import compile_graph
from millijoule.deploy import compile_model
from millijoule.errors import PlacementError, QuantizationError, UnsupportedError
from millijoule.execute import Executor, run
from millijoule.graph import WEIGHT_AXIS, Graph, simplify, widen_halves
from millijoule.nets import build, vgg16
from millijoule.quantize import compare, dynamic, flash_bytes, half, report_of, static

from .networks import pictures, real_logits, small_network

needs_boards = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("ziglang", "unicorn", "elftools")),
    reason="the extra 'deploy' is not installed",
)


def widened(graph: Graph) -> Graph:
    """The same network with the rounded numbers as float32."""
    constants = {
        name: value.astype(np.float32) if value.dtype == np.float16 else value
        for name, value in graph.constants.items()
    }
    tensors = {
        name: replace(tensor, dtype="float32") if tensor.dtype == "float16" else tensor
        for name, tensor in graph.tensors.items()
    }
    return replace(graph, tensors=tensors, constants=constants)


def scaled(graph: Graph, factor: float) -> Graph:
    """Weights of the last layer times a factor."""
    node = [node for node in graph.nodes if node.op in WEIGHT_AXIS][-1]
    name = node.inputs[1]
    return replace(graph, constants={**graph.constants, name: (graph.constant(name) * factor).astype(np.float32)})


def test_weights_are_rounded_and_halved_and_nothing_else() -> None:
    graph = simplify(small_network())
    result = half(small_network())
    assert [node.op for node in result.nodes] == [node.op for node in graph.nodes]
    assert not any(tensor.dtype == "float16" for tensor in result.activations())
    for before, after in zip(graph.nodes, result.nodes, strict=True):
        for old, new in zip(before.inputs[1:], after.inputs[1:], strict=True):
            if before.op in WEIGHT_AXIS:
                np.testing.assert_array_equal(result.constant(new), graph.constant(old).astype(np.float16))
    assert 2 * flash_bytes(result) == flash_bytes(graph)
    assert result.history[-1].startswith("half: 16-bit float weights and biases, ")


def test_executors_compute_in_float32_with_the_rounded_weights() -> None:
    result, batch = half(small_network()), pictures(6)
    got = real_logits(result, batch)
    np.testing.assert_array_equal(got, real_logits(widened(result), batch))
    name = result.outputs[0]
    in_numpy = Executor(result)(batch)[name]
    assert in_numpy.dtype == run(result, batch)[name].dtype == np.float32
    np.testing.assert_array_equal(in_numpy, Executor(widened(result))(batch)[name])
    np.testing.assert_allclose(in_numpy, got, rtol=1e-4, atol=1e-4)
    exact = real_logits(simplify(small_network()), batch)
    assert 0 < np.abs(got - exact).max() < 0.01 * np.abs(exact).max()


def test_small_numbers_are_counted() -> None:
    graph = simplify(small_network())
    name = graph.nodes[1].inputs[1]
    weights = graph.constant(name).copy()
    weights.ravel()[:5] = [2.0**-15, -(2.0**-24), 2.0**-25, 1e-18, 0.0]
    weights.ravel()[5:] = np.where(np.abs(weights.ravel()[5:]) < 2.0**-14, 1.0, weights.ravel()[5:])
    rest = {
        other: np.where(np.abs(value) < 2.0**-14, np.float32(0), value)
        for other, value in graph.constants.items()
        if other != name
    }
    result = half(replace(graph, constants={**rest, name: weights}))
    report = report_of(result)
    assert report is not None
    assert (report.settings["subnormal"], report.settings["became 0"]) == (2, 2)
    assert [(item.layer, item.what) for item in report.decisions] == [(graph.nodes[1].source, "half")]
    assert "2 became subnormal and 2 became 0" in report.decisions[0].why
    assert ", 2 of " in result.history[-1] and result.history[-1].endswith("subnormal, 2 0")


def test_overflow_is_refused_with_the_name_of_the_layer() -> None:
    graph = small_network()
    last = [node for node in graph.nodes if node.op in WEIGHT_AXIS][-1]
    with pytest.raises(QuantizationError, match=rf"{last.source}.*beyond 65504"):
        half(scaled(graph, 1e9))


def test_what_is_rounded_or_quantised_already_is_refused() -> None:
    with pytest.raises(QuantizationError, match="16-bit floats already"):
        half(half(small_network()))
    with pytest.raises(QuantizationError, match="quantised already"):
        half(dynamic(small_network(), refine="none"))


def test_quantising_further_takes_the_rounded_numbers() -> None:
    result, batch = half(small_network()), pictures(4)
    wide = widen_halves(result)
    assert widen_halves(wide) is wide
    for quantised in (lambda graph: dynamic(graph, refine="none"), lambda graph: static(graph, batch, refine="none")):
        found, expected = quantised(result), quantised(widened(result))
        assert set(found.constants) == set(expected.constants)
        for name, value in expected.constants.items():
            np.testing.assert_array_equal(found.constant(name), value)
        assert any(note.startswith("half: ") for note in found.history)


def test_comparison_knows_what_it_is() -> None:
    class Split:
        pictures, labels = pictures(8), np.arange(8) % 5

    rows = compare({"half": half(small_network()), "float": small_network()}, Split())
    assert rows.reference == "float"
    assert [row.kind for row in rows.models] == ["half", "float"]
    assert rows.models[0].logits_sqnr is not None and rows.models[0].logits_sqnr > 50


def test_host_firmware_reads_halves() -> None:
    result, batch = half(small_network()), pictures(3)
    program = compile_graph(result)
    floats = compile_graph(widened(result))
    layers = [layer for layer in program.layers if layer.operator in WEIGHT_AXIS]
    assert {layer.kernel[-4:] for layer in layers} == {"_f16"}
    assert program.arena_bytes == floats.arena_bytes
    for layer, other in zip(program.layers, floats.layers, strict=True):
        if layer.operator in WEIGHT_AXIS:
            assert 0 <= 2 * layer.weight_bytes - other.weight_bytes <= 2
    firmware, expected = compile_model(result, "host"), compile_model(widened(result), "host").run(batch)
    np.testing.assert_array_equal(firmware.run(batch)["logits"], expected["logits"])
    np.testing.assert_allclose(firmware.run(batch)["logits"], real_logits(result, batch), rtol=1e-4, atol=1e-4)


def test_weights_of_16_bits_need_a_bias_of_16_bits() -> None:
    result = half(small_network())
    node = result.nodes[1]
    name = node.inputs[2]
    mixed = replace(
        result,
        tensors={**result.tensors, name: replace(result.tensor(name), dtype="float32")},
        constants={**result.constants, name: result.constant(name).astype(np.float32)},
    )
    assert np.array_equal(real_logits(mixed, pictures(2)), real_logits(result, pictures(2)))
    with pytest.raises(UnsupportedError, match="its bias is not"):
        compile_graph(mixed)


@needs_boards
@pytest.mark.parametrize("board", ["stm32l4r9i", "stm32h7b3i"])
def test_boards_give_the_same_bits(board: str) -> None:
    result, batch = half(small_network()), pictures(1)
    expected = compile_model(result, "host").run(batch)["logits"]
    np.testing.assert_array_equal(compile_model(result, board).run(batch)["logits"], expected)


def test_vgg16_is_refused_with_the_bytes_it_needs() -> None:
    """Already a third of the width has 1.8 million weights."""
    from millijoule.interchange import capture

    spec = vgg16(0.35, 32)
    result = half(capture(build(spec), spec))
    needed = flash_bytes(result) + 2 * 3 * 4  # scale and offset of the picture's channels
    with pytest.raises(PlacementError, match=f"its constants need {needed:,} bytes of flash") as caught:
        compile_graph(result, "stm32h7b3i", self_test=False)
    assert "This would fit: 0.75 times the channels" in str(caught.value)
    assert "static quantisation to int8" in str(caught.value)
    larger = vgg16(0.75, 32)
    with pytest.raises(PlacementError, match=r"Choose a smaller network|This would fit: 0\.\d+ times") as caught:
        compile_graph(half(capture(build(larger), larger)), "stm32h7b3i", self_test=False)
    assert "static quantisation" not in str(caught.value)  # 8 million weights
