"""Weights of 4 bits in generated code: packed in flash, unpacked whole, in part or by tiles, exact on this computer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from by_hand import Net
from millijoule.boards import load_board
from millijoule.build.host import build_host, run_sanitized
from millijoule.compile import Program, compile_graph, rows, staging
from millijoule.compile.explain import explain_program
from millijoule.compile.fit import at_width
from millijoule.compile.legal import refusal, row_numbers
from millijoule.compile.options import PlanOptions, RowOptions
from millijoule.execute import run
from millijoule.graph import Graph, mode, verify
from millijoule.quantize import flash_bytes
from networks import any_dynamic, any_network, random_network, random_pictures, with_nibbles

SMALL = (4, 40, 100)
"""Bytes of a tile that even small layers do not fit."""


def exact(program: Program, graph: Graph, count: int = 2) -> None:
    pictures = random_pictures(graph, count, 1)
    np.testing.assert_array_equal(build_host(program).run(pictures)["logits"], run(graph, pictures)[graph.outputs[0]])


def small_tiles(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(rows, "TILE_BYTES", size)
    monkeypatch.setattr(staging, "MINIMUM_TILE", 1)


@pytest.mark.parametrize("seed", [2, 3])
def test_random_networks_are_clean_under_sanitizers(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    small_tiles(monkeypatch, SMALL[seed % 3])
    graph = with_nibbles(any_network(seed + 40), seed, share=0.9)
    program = compile_graph(graph, kernels="plain" if seed == 3 else "dsp", objective="ram" if seed == 2 else "cycles")
    assert "mj_unpack_lanes.c" in program.files
    pictures = random_pictures(graph, 2, seed)
    np.testing.assert_array_equal(run_sanitized(program, pictures)["logits"], run(graph, pictures)[graph.outputs[0]])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 160))
def test_many_random_networks(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    small_tiles(monkeypatch, (*SMALL, 2048)[seed % 4])
    graph = with_nibbles(any_network(seed), seed)
    exact(compile_graph(graph, objective=("cycles", "ram")[seed % 2]), graph)


def wide(bits: int = 4, rounding: str = "double") -> Graph:
    """Blocks whose weights are larger than a tile, and a layer that runs by itself; the same weights with 8 bits."""
    net = Net((24, 20, 3))
    x = net.inverted(net.conv(net.same(net.same(net.x, 8, stride=2), None), 6), 18, 8, stride=2)
    x = net.add(x, net.inverted(x, 24, 8))
    graph = with_nibbles(net.build(net.conv(x, 40), pooled=False, rounding=rounding), 0, share=1.0)
    tensors = dict(graph.tensors)
    for name, tensor in graph.tensors.items():
        if tensor.quant is not None and tensor.quant.bits == 4:
            tensors[name] = replace(tensor, quant=replace(tensor.quant, bits=bits))
    return replace(graph, tensors=tensors)


def words_saved(shape: tuple[int, ...]) -> int:
    """Words of two lanes less the packed ones: two words become one, a word that is left over stays."""
    depth = -(-shape[1] // 8) * 4 if len(shape) == 2 else shape[1] * -(-shape[2] * shape[3] // 2)
    return -(-shape[0] // 2) * (depth // 2)


@pytest.mark.parametrize("tile", [16, 4096])
@pytest.mark.parametrize("target", ["host", "stm32l4r9i"])
def test_flash_holds_half_of_every_weight_that_is_packed(
    target: str, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_tiles(monkeypatch, tile)
    programs = {bits: compile_graph(wide(bits), target, self_test=False) for bits in (8, 4)}
    facts = explain_program(programs[4])["four_bits"]
    graph = programs[4].graph
    for item in facts:
        node = next(node for node in graph.nodes if node.source == item["layer"])
        filters = node.op == "depthwise_conv2d"
        assert item["stored_bits"] == (8 if filters else 4) and (item["reason"] is not None) == filters
    for layer, other in zip(programs[8].layers, programs[4].layers, strict=True):
        nodes = programs[4].schedule.steps[layer.index].nodes
        saved = sum(words_saved(graph.tensor(node.inputs[1]).shape) for node in nodes if node.op in ("conv2d", "dense"))
        assert layer.weight_bytes - other.weight_bytes == 4 * saved
    assert {"conv_tile", "project_tile"} <= {
        part for step in programs[4].schedule.steps for memory in step.rows for part in memory.parts
    }
    ways = {copy.way for copies in programs[4].staged.values() for copy in copies.values()}
    assert ("unpacked" in ways) == (tile == 16) and (target != "host" or ways <= {"unpacked"})
    if target == "host":
        exact(programs[4], wide())


def test_without_staging_every_row_unpacks_its_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    small_tiles(monkeypatch, 16)
    options = PlanOptions(RowOptions(stage=False))
    program = compile_graph(wide(), options=options)
    assert not program.staged
    exact(program, wide())


def test_where_a_hole_is_small_some_channels_are_unpacked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    small_tiles(monkeypatch, 16)
    real = staging._holes
    monkeypatch.setattr(staging, "_holes", lambda *args: [(start, min(room, 200)) for start, room in real(*args)])
    program = compile_graph(wide())
    held = [copy.bytes for copies in program.staged.values() for copy in copies.values()]
    assert held and max(held) <= 200
    exact(program, wide())


def test_channels_made_again_are_unpacked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    small_tiles(monkeypatch, 16)
    program = compile_graph(wide(), options=PlanOptions(RowOptions(slice_channels=4, stage=False)))
    assert any(memory.again for step in program.schedule.steps for memory in step.rows)
    exact(program, wide())


def test_plain_kernels_give_the_same() -> None:
    graph = wide()
    program = compile_graph(graph, kernels="plain")
    assert {"mj_unpack_lanes.c", "mj_dense_s4_lanes.c"} <= set(program.files)
    exact(program, graph)


def test_a_dynamic_network_keeps_whole_bytes() -> None:
    graph = any_dynamic(2)
    tensors, constants, changed = dict(graph.tensors), dict(graph.constants), 0
    for node in graph.nodes:
        if mode(graph, node) == "dynamic":
            name = node.inputs[1]
            tensors[name] = replace(tensors[name], quant=replace(graph.quant(name), bits=4))
            constants[name] = constants[name] >> 4
            changed += 1
    graph = verify(replace(graph, tensors=tensors, constants=constants))
    program = compile_graph(graph)
    facts = explain_program(program)["four_bits"]
    assert changed and {item["stored_bits"] for item in facts} == {8}
    assert all("dynamic" in item["reason"] for item in facts)
    pictures = random_pictures(graph, 2, 0)
    ours, expected = build_host(program).run(pictures)["logits"], run(graph, pictures)[graph.outputs[0]]
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4 * max(1.0, float(np.abs(expected).max())))


@pytest.mark.parametrize(
    ("kind", "factor", "up"),
    [
        ("pointwise", 0.2, 0),
        ("pointwise", 0.3, 1),
        ("pointwise", 3.0, None),
        ("depthwise", 0.7, 2),
        ("dense", 1.5, 3),
    ],
)
def test_few_bits_make_large_multipliers(kind: str, factor: float, up: int | None) -> None:
    """The rule "single" ends at a quarter; weights of 4 bits are taken times two, four or eight instead."""
    graph = with_nibbles(random_network(["pointwise", "depthwise"], 3, probabilities=False), share=1.0)
    operator = {"pointwise": "conv2d", "depthwise": "depthwise_conv2d"}.get(kind, kind)
    node = next(node for node in graph.nodes if node.op == operator)
    name = node.inputs[1]
    scale = factor * graph.quant(node.output).scalar_scale / graph.quant(node.inputs[0]).scalar_scale
    quant = replace(graph.quant(name), scale=(float(np.float32(scale)),), zero_point=(0,), axis=None)
    graph = verify(replace(graph, tensors={**graph.tensors, name: replace(graph.tensor(name), quant=quant)}))
    node = next(node for node in graph.nodes if node.op == operator)
    assert row_numbers(graph, node).up == (up or 0)
    reason = refusal(graph, node)
    assert (reason is None) == (up is not None), reason
    exact(compile_graph(graph), graph, 4)
    assert row_numbers(replace(graph, rounding="double"), node).up == 0


def test_sizes_that_people_read_count_half_a_byte() -> None:
    saved = flash_bytes(wide(8)) - flash_bytes(wide())
    elements = [wide().tensor(node.inputs[1]).elements for node in wide().nodes if node.op in ("conv2d", "dense")]
    assert saved == sum(size // 2 for size in elements)


def test_what_would_fit_is_asked_with_four_bits() -> None:
    graph = wide()
    narrower = at_width(graph, 0.5)
    assert narrower is not None
    weights = [node.inputs[1] for node in graph.nodes if node.op in ("conv2d", "dense")]
    assert all(narrower.tensor(name).bytes == -(-narrower.tensor(name).elements // 2) for name in weights)
    board = load_board("stm32l4r9i")
    assert compile_graph(graph, board).arena_bytes <= compile_graph(wide(8), board).arena_bytes + 2 * rows.TILE_BYTES
