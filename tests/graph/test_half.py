"""16-bit float constants: rounding, the rules of the verifier, the file."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from millijoule.errors import FormatError, GraphError, QuantizationError
from millijoule.graph import Graph, GraphBuilder, Quant, arithmetic, format_graph, load_graph, save_graph, verify

FINITE = st.floats(-65504, 65504, width=32)


def nearest(value: float) -> float:
    """By the definition: the nearest multiple of the unit in the last place, ties to the even multiple."""
    exponent = max(-14, math.frexp(value)[1] - 1)
    unit = 2.0 ** (exponent - 10)
    return math.copysign(round(value / unit) * unit, value)


@given(st.lists(FINITE, min_size=1, max_size=50))
def test_rounding_is_to_nearest_with_ties_to_even(values: list[float]) -> None:
    exact = np.array(values, dtype=np.float32)
    rounded = arithmetic.round_to_half(exact)
    expected = np.array([nearest(float(value)) for value in exact])
    np.testing.assert_array_equal(rounded.astype(np.float64), expected)
    np.testing.assert_array_equal(np.signbit(rounded), np.signbit(exact))
    np.testing.assert_array_equal(rounded.view(np.uint16), exact.astype(np.float16).view(np.uint16))
    normal = np.abs(exact) >= arithmetic.HALF_SMALLEST_NORMAL
    assert (np.abs(rounded[normal] - exact[normal].astype(np.float64)) <= np.abs(exact[normal]) * 2.0**-11).all()


def test_every_16_bit_number_and_every_tie_rounds_as_it_should() -> None:
    stored = np.arange(0x7C00, dtype=np.uint16)  # every finite magnitude
    values = stored.view(np.float16).astype(np.float32)
    np.testing.assert_array_equal(arithmetic.round_to_half(values).view(np.uint16), stored)
    ties = (values[:-1].astype(np.float64) + values[1:]) / 2
    assert (ties.astype(np.float32) == ties).all()
    even = np.where(stored[:-1] % 2 == 0, stored[:-1], stored[1:])
    np.testing.assert_array_equal(arithmetic.round_to_half(ties.astype(np.float32)).view(np.uint16), even)
    np.testing.assert_array_equal(arithmetic.round_to_half(-ties.astype(np.float32)).view(np.uint16), even | 0x8000)


def test_smallest_numbers() -> None:
    values = np.array([2.0**-24, 2.0**-25, 1.5 * 2.0**-25, 2.0**-149], dtype=np.float32)
    np.testing.assert_array_equal(arithmetic.round_to_half(values), np.array([2.0**-24, 0, 2.0**-24, 0]))
    assert arithmetic.round_to_half(np.zeros((0, 3), np.float32)).shape == (0, 3)


@pytest.mark.parametrize("value", [65504.0039, 1e30, -65505.0, np.inf, np.nan])
def test_too_large_numbers_are_refused(value: float) -> None:
    with pytest.raises(QuantizationError, match="beyond 65504"):
        arithmetic.round_to_half(np.array([0.0, value], dtype=np.float32))


def half_graph() -> Graph:
    rng = np.random.default_rng(0)
    b = GraphBuilder("halves")
    x = b.input("x", (1, 4, 4, 3))
    weights = b.constant("w", rng.normal(size=(5, 3, 3, 3)).astype(np.float16))
    bias = b.constant("b", rng.normal(size=5).astype(np.float16))
    attrs = {"stride": (1, 1), "padding": (1, 1, 1, 1)}
    return b.build([b.node("conv2d", [x, weights, bias], (1, 4, 4, 5), attrs=attrs, source="conv", output="y")])


def test_file_round_trip_stores_two_bytes_each(tmp_path: Path) -> None:
    graph = half_graph()
    assert "weights=16bit" in format_graph(graph)
    assert [graph.tensor(name).bytes for name in ("w", "b")] == [270, 10]
    save_graph(graph, tmp_path / "model.mj")
    again = load_graph(tmp_path / "model.mj")
    assert dict(again.tensors) == dict(graph.tensors)
    for name, value in graph.constants.items():
        assert again.constants[name].dtype == np.float16
        np.testing.assert_array_equal(again.constants[name].view(np.uint16), value.view(np.uint16))
    with safe_open(tmp_path / "model.mj", "numpy") as file:
        assert sum(file.get_tensor(name).nbytes for name in file.keys()) == 280  # noqa: SIM118 (not a mapping)


def test_verifier_takes_halves_as_weights_of_float_layers_only() -> None:
    graph = half_graph()
    scaled = replace(graph.tensor("w"), quant=Quant.per_tensor(1.0))
    infinite = graph.constant("b").copy()
    infinite[2] = np.inf
    int8 = replace(graph.tensor("y"), dtype="int8", quant=Quant.per_tensor(1.0))
    for changes, words in (
        ({"tensors": {**graph.tensors, "x": replace(graph.tensor("x"), dtype="float16")}}, "'x'.*no plain constant"),
        ({"tensors": {**graph.tensors, "w": scaled}}, "'w'.*no plain constant"),
        ({"constants": {**graph.constants, "b": infinite}}, "'b'.*NaN or infinity"),
        ({"constants": {**graph.constants, "w": graph.constant("w").astype(np.float32)}}, "declared float16"),
        ({"tensors": {**graph.tensors, "y": int8}}, "conv.*'w' is float16"),
    ):
        with pytest.raises(GraphError, match=words):
            verify(replace(graph, **changes))
    b = GraphBuilder("sum")
    x = b.input("x", (1, 3))
    y = b.node("add", [x, b.constant("w", np.ones((1, 3), np.float16))], (1, 3), source="sum")
    with pytest.raises(GraphError, match=r"sum.*'w' is float16"):
        b.build([y])


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.mj"
    for change in (
        lambda header, constants: constants.update(w=constants["w"].astype(np.float32)),
        lambda header, constants: constants.update(w=constants["w"][:, :, :, :2]),
        lambda header, constants: constants["b"].__setitem__(0, np.nan),
        lambda header, constants: header["tensors"][0].update(dtype="float16"),
        lambda header, constants: header["tensors"][1].update(dtype="bfloat16"),
    ):
        save_graph(half_graph(), path)
        with safe_open(path, "numpy") as file:
            metadata = file.metadata()
            constants = {name: file.get_tensor(name).copy() for name in file.keys()}  # noqa: SIM118 (not a mapping)
        header = json.loads(metadata["graph"])
        change(header, constants)
        save_file(constants, path, metadata={**metadata, "graph": json.dumps(header)})
        with pytest.raises(FormatError):
            load_graph(path)


@given(data=st.data())
def test_any_damage_is_refused_or_harmless(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "half.mj"
    save_graph(half_graph(), path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
    with suppress(FormatError):
        verify(load_graph(path))
