"""The arena row by row: no byte has two uses, nothing goes while it is needed, the fullest moment is the plan's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millijoule.boards import Board, load_board
from millijoule.compile import Program, compile_graph
from millijoule.compile.options import DEFAULTS, PlanOptions
from millijoule.compile.row_timeline import KINDS, LayerMoments, layer_moments, row_timeline
from millijoule.compile.rows_dynamic import DynamicMemory
from millijoule.compile.schedule import joints
from millijoule.errors import UnsupportedError
from millijoule.graph import Graph, GraphBuilder, Quant
from millijoule.kernels import Dims
from networks import BLOCKS, any_dynamic, any_network, random_network

CHAIN = ["strided", "depthwise", "pointwise", "depthwise", "pointwise", "residual"]
LINKS = ("depthwise", "pointwise", "strided", "inverted", "shortcut", "downsample", "max_pool", "residual")


def first_complete(layers: Sequence[Dims], row: int) -> int:
    """How many rows of the input a row of the result needs, by going back through the windows."""
    for dims in reversed(layers):
        top = row * dims.stride[0] - dims.padding[0]
        row = min(max(top + dims.kernel[0] - 1, 0), dims.in_height - 1)
    return row + 1


def check(program: Program) -> tuple[LayerMoments, ...]:
    """What holds for every program."""
    layers = layer_moments(program)
    assert [layer.name for layer in layers] == [step.name for step in program.schedule.steps]
    for layer, step in zip(layers, program.schedule.steps, strict=True):
        for moment in layer.moments:
            end = 0
            for part in moment.parts:
                assert part.kind in KINDS and part.bytes > 0
                assert part.offset >= end, (layer.name, moment)  # disjoint: no waiting row is overwritten
                end = part.offset + part.bytes
            assert end <= program.arena_bytes
        live = program.plan.steps[step.index].live_bytes
        most = max(moment.bytes for moment in layer.moments)
        alive = [buffer for buffer in program.plan.buffers if buffer.first <= step.index <= buffer.last]
        parts = sum(len(memory.parts) for memory in step.rows)
        # sizes are rounded up to 8, the input's buffer may have bytes behind its last row, and the plan keeps a copy as
        # int8 in a place of its own until the end, while its rows go one by one here
        behind = sum(
            max(0, buffer.bytes - max(program.graph.tensor(name).bytes for name in buffer.tensors))
            for buffer in alive
            if buffer.tensors
        )
        copy = program.schedule.quantized.get(step.index)
        behind += program.plan.buffer(copy).bytes if copy is not None and copy.startswith("quantised") else 0
        # row by row, the result grows while its inputs go; at the first moment all but the result is there
        behind += program.plan.buffer(program.schedule.home[step.node.output]).bytes if step.rows else 0
        assert live - 8 * (len(alive) + parts) - behind <= most <= live, (layer.name, live, most)
        if step.rows:
            check_rows(program, layer)
    return layers


def check_rows(program: Program, layer: LayerMoments) -> None:
    """Rows are written as soon as their windows are complete, and inputs stay until they are read and added."""
    step = program.schedule.steps[layer.index]
    memories = step.rows
    windows = [dims for memory in memories for dims in (memory.conv, memory.filter) if dims is not None]
    needs = [first_complete(windows, row) for row in range(layer.result_rows)]
    if memories[-1].block.mean is not None:
        needs = [layer.rows + (memories[-1].block.dense is not None)]  # by a dense layer behind the rows
    first, home, graph = memories[0].block, program.schedule.home, program.graph
    dynamic = isinstance(memories[0], DynamicMemory)
    moments = [moment for moment in layer.moments if moment.label in ("", "result")]
    assert [moment.read for moment in moments] == list(range(layer.rows + 1))
    for moment in moments:
        assert moment.written == sum(need <= moment.read for need in needs)
        if first.input not in home or dynamic:
            continue
        place = program.plan.buffer(home[first.input])
        dies, row = place.last == layer.index, graph.tensor(first.input).bytes // layer.rows
        waiting = [index for index in range(layer.rows) if index >= moment.read]
        if first.residual == first.input:
            own = [dims for dims in (memories[0].conv, memories[0].filter) if dims is not None]
            added = sum(first_complete(own, row) <= moment.read for row in range(layer.rows))
            waiting = [index for index in range(layer.rows) if index >= min(moment.read, added)]
        if not dies:
            waiting = list(range(layer.rows))
        used = [part for part in moment.parts if part.kind == "input" and part.name in (first.input, place.name)]
        for index in waiting:
            begin = place.offset + index * row
            assert any(part.offset <= begin and begin + row <= part.offset + part.bytes for part in used)
        if dies:
            assert sum(part.bytes for part in used) == len(waiting) * row
    assert [moment.label for moment in layer.moments].count("dense") == int(memories[-1].block.dense is not None)
    result = [part for part in layer.moments[-1].parts if part.kind == "result"]
    assert layer.moments[-1].written == layer.result_rows
    assert sum(part.bytes for part in result) >= graph.tensor(step.node.output).bytes


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31))
def test_any_integer_network(seed: int) -> None:
    check(compile_graph(any_network(seed), self_test=False))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31))
def test_any_dynamic_network(seed: int) -> None:
    try:
        program = compile_graph(any_dynamic(seed), self_test=False)
    except UnsupportedError:
        return
    check(program)


def joined(seed: int, links: Sequence[str] = CHAIN) -> Program:
    """A network whose blocks hand their rows to each other wherever they can."""
    apart = compile_graph(random_network(links, seed, size=(17, 13, 3)), self_test=False, transpose=False)
    blocks = [memory.block for step in apart.schedule.steps for memory in step.rows]
    options = PlanOptions(unstored=joints(apart.graph, blocks, DEFAULTS))
    return compile_graph(apart.graph, options=options, self_test=False, transpose=False)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.lists(st.sampled_from(LINKS), max_size=5))
def test_blocks_that_hand_rows_on(seed: int, links: list[str]) -> None:
    check(joined(seed, links))


@pytest.mark.parametrize("links", [CHAIN, ["max_pool", "residual", "depthwise"]])
def test_some_of_them_do(links: list[str]) -> None:
    """Also one that adds its own input, in front."""
    program = joined(3, links)
    long = [step.rows[0].block for step in program.schedule.steps if len(step.rows) > 1]
    assert [block.residual == block.input for block in long] == [links is not CHAIN]
    check(program)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31))
def test_a_picture_that_is_stored_nowhere(seed: int) -> None:
    graph = random_network(CHAIN, seed, size=(17, 13, 3))
    try:
        program = compile_graph(graph, options=PlanOptions(stream=True), self_test=False)
    except UnsupportedError:
        return
    first = check(program)[0]
    assert first.rows == 17 and all(part.kind != "input" for moment in first.moments for part in moment.parts)


def small(fast: int = 24576) -> Board:
    """A board whose fast memory is too small for the whole arena."""
    full = load_board("stm32h7b3i")
    first, *others = full.memories
    return replace(full, name=f"{full.name}_{fast}", memories=(replace(first, size=fast), *others))


@pytest.mark.parametrize("seed", [1, 3])
def test_two_memories(seed: int) -> None:
    program = compile_graph(random_network(BLOCKS, seed, size=(64, 64, 3)), small())
    fast = program.plan.fast_offset
    assert fast is not None
    layers = check(program)
    parts = [part for layer in layers for moment in layer.moments for part in moment.parts]
    assert any(part.kind in ("rings", "prepared") and part.offset >= fast for part in parts)
    assert all(part.offset >= fast or part.offset + part.bytes <= fast for part in parts)


def one_block(rows: int = 8) -> Graph:
    """A picture of 24 bytes a row and a 3x3 convolution of stride 2 with 16 bytes a result row; pooling; a mean."""
    builder, quant = GraphBuilder("net"), Quant.per_tensor(0.05, 3)
    builder.input("picture", (1, rows, 8, 3), "uint8")

    def node(op: str, inputs: list[str], shape: tuple[int, ...], attrs: dict[str, Any]) -> str:
        return builder.node(op, inputs, shape, attrs=attrs, dtype="int8", quant=quant, source=op, output=op)

    node("normalize", ["picture"], (1, rows, 8, 3), {"scale": (0.02,), "offset": (-1.0,)})
    rng = np.random.default_rng(0)
    weights = builder.constant("w", rng.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8), Quant.per_tensor(0.01))
    attrs = {"stride": (2, 2), "padding": (0, 1, 0, 1), "dilation": (1, 1)}
    node("conv2d", ["normalize", weights], (1, rows // 2, 4, 4), attrs)
    pool = {"kernel": (2, 2), "stride": (2, 2), "padding": (0, 0, 0, 0)}
    node("max_pool", ["conv2d"], (1, rows // 4, 2, 4), pool)
    node("mean", ["max_pool"], (1, 4), {})
    return builder.build(["mean"])


def test_one_block_by_hand() -> None:
    """Rows 2r to 2r + 2 give row r, the last one with a row of padding: after 3, 5, 7 and 8 rows."""
    program = compile_graph(one_block(), transpose=False, self_test=False)
    layer = check(program)[0]
    assert (layer.way, layer.rows, layer.result_rows) == ("rows", 8, 4)
    assert [moment.written for moment in layer.moments] == [0, 0, 0, 1, 1, 2, 2, 3, 4]
    by_kind = [
        [sum(part.bytes for part in moment.parts if part.kind == kind) for moment in layer.moments]
        for kind in ("input", "result")
    ]
    assert by_kind[0] == [24 * (8 - read) for read in range(9)]
    assert by_kind[1] == [16 * written for written in (0, 0, 0, 1, 1, 2, 2, 3, 4)]
    scratch = layer.moments[0].bytes - 192
    assert scratch == sum(size for _, size in program.schedule.steps[0].rows[0].parts.values())
    assert layer.moments[0].bytes <= program.plan.steps[0].live_bytes < layer.moments[0].bytes + 48


def test_json_says_the_same_in_lists() -> None:
    program = compile_graph(one_block(64), transpose=False, self_test=False)
    values = json.loads(json.dumps(row_timeline(program)))
    assert (values["arena_bytes"], values["lower_bound_bytes"]) == (program.arena_bytes, program.plan.lower_bound)
    for layer, facts in zip(layer_moments(program), values["layers"], strict=True):
        assert facts["bytes"] == [moment.bytes for moment in layer.moments]
        for at, moment in enumerate(layer.moments):
            told = [
                [value[at] if isinstance(value, list) else value for value in (part["offset"], part["bytes"])]
                for part in facts["parts"]
            ]
            assert sorted(place for place in told if place[1]) == [[part.offset, part.bytes] for part in moment.parts]
    peak = values["peak"]
    assert peak["bytes"] == values["layers"][peak["layer"]]["bytes"][peak["moment"]]
    assert peak["bytes"] == max(size for layer in values["layers"] for size in layer["bytes"])


def test_few_moments_keep_ends_and_peak() -> None:
    program = compile_graph(any_dynamic(3), self_test=False)
    every, few = row_timeline(program), row_timeline(program, 4)
    assert [layer["name"] for layer in few["layers"]] == [layer["name"] for layer in every["layers"]]
    assert few["peak"]["bytes"] == every["peak"]["bytes"]
    for all_moments, some in zip(every["layers"], few["layers"], strict=True):
        assert len(some["read"]) <= 4 + 1 + 4
        for name in ("read", "written", "bytes"):
            assert (some[name][0], some[name][-1]) == (all_moments[name][0], all_moments[name][-1])
        assert max(some["bytes"]) == max(all_moments["bytes"])
        assert list(dict.fromkeys(some["passes"])) == list(dict.fromkeys(all_moments["passes"]))
        rows = set(zip(all_moments["read"], all_moments["written"], all_moments["bytes"], strict=True))
        assert set(zip(some["read"], some["written"], some["bytes"], strict=True)) <= rows
    assert any(
        len(some["read"]) < len(everything["read"])
        for some, everything in zip(few["layers"], every["layers"], strict=True)
    )
