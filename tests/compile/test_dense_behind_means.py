"""A dense layer behind means as part of their block: where it is, what memory it takes, same bits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arenas import writes_outside
from by_hand import Net
from millijoule.build.host import build_host, run_sanitized
from millijoule.compile import Program, compile_graph
from millijoule.compile import finder as finder_module
from millijoule.compile.explain import explain_program
from millijoule.compile.finder import Block, dense_fits, find_blocks
from millijoule.compile.legal import row_layers
from millijoule.compile.options import PlanOptions, RowOptions
from millijoule.compile.recorded import shape_key
from millijoule.compile.row_timeline import layer_moments
from millijoule.compile.rows import RowMemory
from millijoule.execute import run
from millijoule.graph import ROUNDINGS, Graph, Quant, macs
from millijoule.kernels import Dims, dims_of
from networks import random_pictures, with_nibbles

BOARDS = ("stm32l4r9i", "stm32h7b3i")


def tail(
    channels: int = 19,
    classes: int = 4,
    *,
    sides: tuple[int, int] = (11, 13),
    rounding: str = "single",
    outputs: tuple[str, ...] = (),
    readers: int = 1,
    clamp: bool = False,
    lowest: bool = False,
) -> Graph:
    """Picture, a 3x3 and a pointwise convolution, mean, dense; `outputs` names tensors that are wanted beside it, and
    further dense layers read the means where there are more readers.
    """
    net = Net((*sides, 3))
    value = net.conv(net.same(net.x, 5, stride=2), channels)
    net.node("mean", [value], (1, channels), {})
    found = []
    for _ in range(readers):
        weights = net.rng.integers(-127, 128, (classes, channels)).astype(np.int8)
        weights[0, 0] = -128 if lowest else weights[0, 0]
        name = net.builder.constant("w", weights, Quant.per_tensor(0.004))
        attrs = {"clamp": (-1.0, 2.0)} if clamp else {}
        found.append(net.node("dense", ["mean0", name], (1, classes), attrs))
    last = found[0] if readers == 1 else net.add(*found)
    return replace(net.builder.build([last, *outputs]), rounding=rounding)


def last_block(graph: Graph) -> Block:
    return find_blocks(graph, row_layers(graph))[-1]


def last_memory(program: Program) -> RowMemory:
    return next(memory for step in program.schedule.steps for memory in step.rows if memory.block.dense is not None)


def same_bits(graph: Graph, program: Program) -> None:
    pictures = random_pictures(graph, 3)
    firmware = build_host(program)
    np.testing.assert_array_equal(firmware.run(pictures)["logits"], run(graph, pictures)[graph.outputs[0]])
    assert writes_outside(firmware) == []


# *** where it is part of the block *****


def test_a_dense_layer_that_alone_reads_the_means_is_part_of_the_block() -> None:
    graph = tail()
    block = last_block(graph)
    assert [node.op for node in block.nodes] == ["conv2d", "mean", "dense"] and block.alone
    assert block.dense is not None and block.output == block.dense.output == graph.outputs[0]


def test_means_with_two_readers_keep_their_memory() -> None:
    graph = tail(readers=2)
    assert last_block(graph).mean is not None and last_block(graph).dense is None
    same_bits(graph, compile_graph(graph, self_test=False))


def test_means_that_are_an_output_keep_their_memory() -> None:
    graph = tail(outputs=("mean0",))
    assert last_block(graph).mean is not None and last_block(graph).dense is None
    program = compile_graph(graph, self_test=False)
    assert [layer.operator for layer in program.layers][-2:] == ["conv2d + mean", "dense"]
    same_bits(graph, program)


def test_the_mean_of_a_map_of_one_pixel_and_its_dense_layer_stay_layers() -> None:
    graph = tail(sides=(1, 1))
    program = compile_graph(graph, self_test=False)
    assert [layer.operator for layer in program.layers][-2:] == ["mean", "dense"]
    same_bits(graph, program)


@pytest.mark.parametrize(
    ("dims", "fits"),
    [
        (Dims(in_channels=64, out_channels=64), True),
        (Dims(in_channels=64, out_channels=65), False),  # its result would live longer than the means
        (Dims(in_channels=1, out_channels=8), True),  # eight bytes are the least anyway
        (Dims(in_channels=1, out_channels=9), False),
        (Dims(in_channels=64, out_channels=14, weight_bits=4), True),
        (Dims(in_channels=64, out_channels=15, weight_bits=4), False),  # no room to unpack into
        (Dims(in_channels=1280, out_channels=1000, weight_bits=4), True),
    ],
)
def test_it_must_find_room_in_memory_that_the_block_is_done_with(dims: Dims, fits: bool) -> None:
    assert dense_fits(dims) is fits


def test_more_classes_than_channels_stay_a_layer() -> None:
    graph = tail(channels=8, classes=17)
    assert last_block(graph).mean is not None and last_block(graph).dense is None
    same_bits(graph, compile_graph(graph, self_test=False))


# *** memory *****


def unfused(graph: Graph, monkeypatch: pytest.MonkeyPatch, **how: object) -> Program:
    with monkeypatch.context() as patch:
        patch.setattr(finder_module, "dense_fits", lambda dims, arithmetic: False)
        program = compile_graph(graph, self_test=False, **how)  # type: ignore[arg-type]
    assert program.layers[-1].operator == "dense"
    return program


@pytest.mark.parametrize("objective", ["cycles", "ram"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("channels", "classes"), [(5, 8), (19, 4), (66, 66), (131, 11)])
def test_no_arena_grows_by_it(
    channels: int, classes: int, stream: bool, objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, options = tail(channels, classes), PlanOptions(stream=stream)
    program = compile_graph(graph, self_test=False, options=options, objective=objective)
    before = unfused(graph, monkeypatch, options=options, objective=objective)
    assert program.arena_bytes <= before.arena_bytes and program.plan.lower_bound <= before.plan.lower_bound
    assert program.weight_bytes <= before.weight_bytes + 8 and program.macs == before.macs
    same_bits(graph, program)


def test_means_lie_over_their_sums_and_scratch_over_prepared_parameters() -> None:
    program = compile_graph(tail(131, 7), self_test=False, options=PlanOptions(unstored=frozenset()))
    (fused,) = (layer for layer in layer_moments(program) if layer.operator.endswith("mean + dense"))
    *rows, dense = fused.moments
    assert dense.label == "dense" and dense.written == 1 and not any(moment.written or moment.label for moment in rows)
    sizes = {part.name: part for part in dense.parts}
    assert set(sizes) == {"mean0", "scratch of dense0", "dense0"}
    assert (sizes["mean0"].bytes, sizes["dense0"].bytes) == (131, 7)
    before = {part.name: part for part in rows[-1].parts}
    for name, over in (("mean0", "sums"), ("scratch of dense0", "conv_pairs")):
        place, room = sizes[name], before[over]
        assert room.offset <= place.offset and place.offset + place.bytes <= room.offset + room.bytes


# *** bits *****


@settings(deadline=None, max_examples=12)
@given(
    st.integers(1, 70),
    st.integers(1, 12),
    st.tuples(st.integers(1, 15), st.integers(1, 15)),
    st.sampled_from(ROUNDINGS),
    st.sampled_from(["dsp", "plain"]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0, 20480]),
)
def test_any_sizes(
    channels: int,
    classes: int,
    sides: tuple[int, int],
    rounding: str,
    kernels: str,
    nibbles: bool,
    stream: bool,
    clamp: bool,
    flat_bytes: int,
) -> None:
    graph = tail(channels, classes, sides=sides, rounding=rounding, clamp=clamp)
    graph = with_nibbles(graph, 1, 1.0) if nibbles else graph
    options = PlanOptions(RowOptions(flat_bytes=flat_bytes), stream=stream)
    same_bits(graph, compile_graph(graph, kernels=kernels, options=options))


@pytest.mark.parametrize("stream", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("how", "kernel"),
    [
        ({}, "mj_dense_s8_lanes"),
        ({"nibbles": True}, "mj_dense_s4_lanes"),
        ({"lowest": True}, "mj_dense_s8_dsp"),
        ({"kernels": "plain"}, "mj_dense_s8"),
    ],
)
def test_it_runs_with_the_kernel_that_it_would_have_by_itself(
    how: dict[str, object], kernel: str, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = tail(33, 5, lowest="lowest" in how)
    graph = with_nibbles(graph, 1, 1.0) if "nibbles" in how else graph
    kernels, options = str(how.get("kernels", "dsp")), PlanOptions(stream=stream)
    assert unfused(graph, monkeypatch, kernels=kernels).layers[-1].kernel == kernel
    program = compile_graph(graph, kernels=kernels, options=options)
    assert program.layers[-1].kernel == f"mj_rows_s8 + {kernel}" and kernel in program.layers[-1].sources
    pictures = random_pictures(graph, 2)
    found = run_sanitized(program, pictures)
    np.testing.assert_array_equal(found["logits"], run(graph, pictures)[graph.outputs[0]])


@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("channels", "classes", "nibbles"),
    [pytest.param(9, 1, False, marks=pytest.mark.slow), (19, 3, False), (67, 10, True)],
)
def test_on_the_boards(board: str, stream: bool, channels: int, classes: int, nibbles: bool) -> None:
    pytest.importorskip("unicorn")
    from millijoule.build import build_board
    from millijoule.emulate import EmulatedFirmware

    graph = tail(channels, classes, rounding=ROUNDINGS[classes % 3])
    graph = with_nibbles(graph, 1, 1.0) if nibbles else graph
    program = compile_graph(graph, board, options=PlanOptions(stream=stream))
    assert last_memory(program).block.dense is not None
    firmware = EmulatedFirmware(build_board(program.files, program.target), program.target, program)
    pictures = random_pictures(graph, 2)
    np.testing.assert_array_equal(firmware.run(pictures)["logits"], run(graph, pictures)[graph.outputs[0]])
    profile = firmware.profile(pictures[0])
    assert len(profile.layers) == len(program.layers)
    assert [layer.operator for layer in profile.layers] == [layer.operator for layer in program.layers]


# *** reports *****


def test_the_plan_names_it() -> None:
    graph = tail(131, 7)
    program = compile_graph(graph, "stm32l4r9i", self_test=False)
    layer = program.layers[-1]
    assert layer.operator.endswith("conv2d + mean + dense") and layer.name.endswith("mean0 + dense0")
    assert layer.macs == sum(macs(program.graph, node) for node in program.schedule.steps[-1].nodes)
    assert layer.out_shape == (1, 7)
    values = explain_program(program)["layers"][-1]
    assert values["operations"][-2:] == ["mean0", "dense0"]
    assert {"name": "mj_dense_lanes", "assembly": True} in values["kernels"]
    dense = values["blocks"][-1]["dense"]
    channels = dims_of(program.graph, program.schedule.steps[-1].node).in_channels
    expected = {"layer": "dense0", "means": channels, "features": 7, "kernel": "mj_dense_s8_lanes"}
    assert dense == expected | {"scratch_over": "conv_pairs"}


def test_recorded_options_of_a_block_do_not_ask_for_the_dense_layer() -> None:
    with_dense, without = tail(), tail(outputs=("mean0",))
    assert shape_key(with_dense, last_block(with_dense)) == shape_key(without, last_block(without))
