"""Maps that are made again, by slices of channels or patches of columns, and means whose map is never stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arenas import writes_outside
from by_hand import Net
from millijoule.build.host import build_host, run_sanitized
from millijoule.compile import Program, compile_graph
from millijoule.compile.finder import find_blocks
from millijoule.compile.legal import row_layers
from millijoule.compile.options import PlanOptions, RowOptions
from millijoule.compile.rows import MEAN_CHANNELS, PATCHES, RowMemory, patch_columns
from millijoule.execute import run
from millijoule.graph import ROUNDINGS, Graph
from networks import random_network, random_pictures
from timeless import timeless


def mobilenet(sides: tuple[int, int] = (24, 20), *, rounding: str = "single", last: int = 130) -> Graph:
    """A convolution and four inverted residual blocks, one of them added, the last convolution and the mean."""
    net = Net((*sides, 3))
    x = net.conv(net.same(net.same(net.x, 8, stride=2), None), 6)
    x = net.inverted(x, 18, 8, stride=2)
    x = net.add(x, net.inverted(x, 24, 8))
    x = net.inverted(x, 21, 7, size=5)
    return net.build(net.conv(x, last), pooled=False, rounding=rounding)


def memories(program: Program) -> list[RowMemory]:
    return [memory for step in program.schedule.steps for memory in step.rows]


def sliced(size: int) -> PlanOptions:
    return PlanOptions(RowOptions(slice_channels=size))


def patched(size: int, chunk: int = 28) -> PlanOptions:
    return PlanOptions(RowOptions(patch_pixels=size, chunk_pixels=chunk))


def same_bits(graph: Graph, program: Program, count: int = 3) -> None:
    pictures = random_pictures(graph, count)
    firmware = build_host(program)
    np.testing.assert_array_equal(firmware.run(pictures)["logits"], run(graph, pictures)[graph.outputs[0]])
    assert writes_outside(firmware) == []


@settings(deadline=None, max_examples=15)
@given(
    st.lists(st.sampled_from(["inverted", "shortcut", "downsample", "pointwise", "depthwise"]), min_size=1, max_size=4),
    st.integers(0, 999),
    st.sampled_from([2, 4, 6, 16]),
    st.sampled_from(ROUNDINGS),
    st.tuples(st.integers(1, 14), st.integers(1, 14)),
)
def test_no_size_of_a_slice_changes_a_bit(
    names: list[str], seed: int, size: int, rounding: str, sides: tuple[int, int]
) -> None:
    graph = random_network(["inverted", *names], seed, size=(*sides, 3), rounding=rounding)
    same_bits(graph, compile_graph(graph, self_test=False, options=sliced(size)))


def test_slices_hold_fewer_channels_and_keep_rows_of_the_input_instead() -> None:
    graph = mobilenet()
    whole = {memory.block.output: memory for memory in memories(compile_graph(graph, self_test=False))}
    program = compile_graph(graph, self_test=False, options=sliced(4))
    found = [memory for memory in memories(program) if memory.again]
    assert len(found) >= 3
    for memory in found:
        before = whole[memory.block.output]
        assert memory.conv is not None and memory.filter is not None and memory.slice == 4 < memory.conv.out_channels
        assert memory.parts["planes"][1] * memory.conv.out_channels <= before.parts["planes"][1] * 4
        pixels = -(-memory.conv.out_width // 4) * 4
        words = -(-memory.conv.in_channels // 2) * pixels
        assert memory.parts["conv_groups"][1] == memory.filter.kernel[0] * 4 * words
    same_bits(graph, program)


def test_a_block_without_a_pointwise_convolution_in_front_is_not_sliced() -> None:
    graph = random_network(["conv", "depthwise", "pointwise"], 1, size=(9, 9, 3))
    assert not any(memory.again for memory in memories(compile_graph(graph, self_test=False, options=sliced(2))))


@pytest.mark.parametrize("way", [sliced, patched])
@pytest.mark.parametrize("seed", (0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)))
def test_sanitizers_find_nothing(seed: int, way: Callable[[int], PlanOptions]) -> None:
    graph = mobilenet((11 + seed, 13 + 8 * seed), rounding=ROUNDINGS[seed])
    pictures = random_pictures(graph, 2, seed)
    program = compile_graph(graph, options=way(4 + 4 * (seed == 2)))
    assert any(memory.again for memory in memories(program))
    found = run_sanitized(program, pictures)
    np.testing.assert_array_equal(found["logits"], run(graph, pictures)[graph.outputs[0]])


# *** patches *****


@settings(deadline=None, max_examples=15)
@given(
    st.tuples(st.sampled_from([1, 3, 5]), st.sampled_from([1, 2])),
    st.tuples(st.sampled_from([1, 3, 5, 7]), st.sampled_from([1, 2])),
    st.tuples(st.integers(7, 24), st.integers(7, 48)),
    st.sampled_from([4, 8, 16]),
    st.sampled_from([4, 8, 28]),
    st.booleans(),
    st.sampled_from(ROUNDINGS),
)
def test_no_size_of_a_patch_changes_a_bit(
    first: tuple[int, int],
    second: tuple[int, int],
    sides: tuple[int, int],
    size: int,
    chunk: int,
    stream: bool,
    rounding: str,
) -> None:
    net = Net((*sides, 3))
    x = net.conv(net.same(net.same(net.x, 7, first[0], stride=first[1]), None, second[0], stride=second[1]), 6)
    x = net.add(x, net.inverted(x, 9, 6, size=3))
    graph = net.build(net.inverted(x, 8, 5, stride=2), pooled=False, rounding=rounding)
    options = replace(patched(size, chunk), stream=stream and first != (1, 1))  # which leaves the picture to a layer
    program = compile_graph(graph, self_test=False, options=options)
    wide = [memory for memory in memories(program) if memory.conv and memory.filter and memory.filter.out_width > size]
    assert all(memory.again == PATCHES and memory.patch == size for memory in wide)
    pictures = random_pictures(graph, 2)
    firmware = build_host(program)
    np.testing.assert_array_equal(firmware.run(pictures)["logits"], run(graph, pictures)[graph.outputs[0]])
    assert writes_outside(firmware) == []


def test_patches_hold_few_columns_and_keep_rows_of_the_picture_instead() -> None:
    graph = mobilenet((40, 72))
    whole = {memory.block.output: memory for memory in memories(compile_graph(graph, self_test=False))}
    program = compile_graph(graph, self_test=False, options=patched(4))
    found = [memory for memory in memories(program) if memory.again]
    assert len(found) == 4 and found[0].window and not any(memory.window for memory in found[1:])
    for memory in found:
        before = whole[memory.block.output]
        assert memory.conv is not None and memory.filter is not None
        assert memory.parts["planes"][1] < before.parts["planes"][1]
        assert memory.parts["groups"][1] <= before.parts["groups"][1]
    picture = found[0]
    assert picture.conv is not None
    below = 2 * picture.conv.stride[0]  # rows of the picture under three rows of the first map, not under one
    assert picture.parts["widened"][1] == whole[picture.block.output].parts["widened"][1] // 3 * (3 + below)
    same_bits(graph, program)


def test_the_first_block_is_computed_again_where_it_decides_the_memory() -> None:
    net = Net((64, 96, 3))
    x = net.conv(net.same(net.same(net.x, 32, stride=2), None), 8)
    graph = net.build(net.inverted(x, 16, 8, stride=2), pooled=False)
    least = compile_graph(graph, self_test=False, options=PlanOptions(stream=True), objective="ram")
    assert memories(least)[0].again == PATCHES and memories(least)[0].window
    blocks = {memory.block.output: replace(memory.options, patch_pixels=0) for memory in memories(least)}
    without = replace(least.options, blocks=blocks)
    assert least.arena_bytes < 0.75 * compile_graph(graph, self_test=False, options=without).arena_bytes
    same_bits(graph, least, 2)


def test_little_memory_is_paid_for_by_computing_again_only_where_it_must() -> None:
    graph, stream = mobilenet((96, 96)), PlanOptions(stream=True)
    usual = compile_graph(graph, self_test=False, options=stream)
    least = compile_graph(graph, self_test=False, options=stream, objective="ram")
    assert not any(memory.again for memory in memories(usual))
    assert any(memory.again for memory in memories(least))
    small = RowOptions(chunk_pixels=4, filter_pixels=4, flat_bytes=0)
    without = PlanOptions(small, unstored=least.options.unstored, stream=True)
    assert least.arena_bytes < 0.9 * compile_graph(graph, self_test=False, options=without).arena_bytes
    work = []
    for share in (0.0, 0.4, 1.0):
        budget = round(least.arena_bytes + share * (usual.arena_bytes - least.arena_bytes))
        program = compile_graph(graph, self_test=False, options=stream, ram_budget=budget)
        assert program.arena_bytes <= budget
        work.append(sum(computed_again(memory) for memory in memories(program)))
    assert work[0] > 0 == work[2] and work[0] >= work[1]


def computed_again(memory: RowMemory) -> int:
    """Numbers of the map in front of the depthwise convolution that are computed more than once."""
    if not memory.again or memory.conv is None or memory.filter is None:
        return 0
    columns = memory.conv.out_width
    if memory.again == PATCHES:
        columns = -(-memory.filter.out_width // memory.patch) * patch_columns(memory.block, memory.dims, memory.patch)
    rows = memory.filter.out_height * memory.filter.kernel[0]
    return (rows * columns - memory.conv.out_height * memory.conv.out_width) * memory.conv.out_channels


# *** means *****


KINDS = {
    "inverted": (lambda net: net.inverted(net.x, 9, 5), ["conv2d", "depthwise_conv2d", "conv2d", "mean"]),
    "separable": (lambda net: net.conv(net.same(net.x, None), 5), ["depthwise_conv2d", "conv2d", "mean"]),
    "depthwise": (lambda net: net.same(net.conv(net.x, 6), None, 5), ["conv2d", "depthwise_conv2d", "mean"]),
    "window": (lambda net: net.same(net.x, 9), ["conv2d", "mean"]),
    "residual": (
        lambda net: net.add(net.conv(net.x, 7), net.inverted(net.x, 9, 7)),
        ["conv2d", "depthwise_conv2d", "conv2d", "add", "mean"],
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_the_mean_of_a_result_is_part_of_its_block(kind: str, rounding: str) -> None:
    build, operators = KINDS[kind]
    net = Net((17, 19, 3))
    graph = net.build(build(net), pooled=False, rounding=rounding)
    block = find_blocks(graph, row_layers(graph))[-1]
    assert [node.op for node in block.nodes if node.op != "normalize"] == [*operators, "dense"]
    assert block.mean is not None and block.dense is not None and block.output == block.dense.output
    same_bits(graph, compile_graph(graph, self_test=False))


@pytest.mark.parametrize(("channels", "sides"), [(66, (7, 7)), (131, (5, 9)), (200, (8, 3))])
@pytest.mark.parametrize("flat_bytes", [0, 1 << 20])
def test_a_wide_last_convolution_is_made_a_slice_at_a_time(
    channels: int, sides: tuple[int, int], flat_bytes: int
) -> None:
    graph = mobilenet((4 * sides[0], 4 * sides[1]), last=channels)
    options = PlanOptions(RowOptions(flat_bytes=flat_bytes))
    program = compile_graph(graph, self_test=False, options=options)
    memory = memories(program)[-1]
    assert memory.block.mean is not None and memory.flat == (flat_bytes > 0)
    assert memory.slice == MEAN_CHANNELS and memory.parts["sums"][1] == 4 * channels
    same_bits(graph, program)
    pictures = random_pictures(graph, 2)
    found = run_sanitized(compile_graph(graph, options=options), pictures)
    np.testing.assert_array_equal(found["logits"], run(graph, pictures)[graph.outputs[0]])


def test_more_than_256_pixels_do_not_overflow_sixteen_bits() -> None:
    net = Net((4, 700, 2))
    graph = net.build(net.conv(net.x, 9), pooled=False)
    assert memories(compile_graph(graph, self_test=False))[-1].block.mean is not None
    same_bits(graph, compile_graph(graph, self_test=False))


def test_a_map_that_lies_over_its_input_is_stored() -> None:
    net = Net((17, 19, 3))
    graph = net.build(net.add(net.x, net.inverted(net.x, 9, 3)), pooled=False)
    assert find_blocks(graph, row_layers(graph))[-1].mean is None


def test_the_mean_of_few_pixels_stays_a_layer() -> None:
    net = Net((2, 2, 3))
    graph = net.build(net.conv(net.x, 9), pooled=False)
    assert find_blocks(graph, row_layers(graph))[-1].mean is None


@pytest.mark.parametrize("board", ["stm32l4r9i", "stm32h7b3i"])
@pytest.mark.parametrize(
    "rounding", ["single", *(pytest.param(rule, marks=pytest.mark.slow) for rule in ROUNDINGS[1:])]
)
@pytest.mark.parametrize("way", [sliced(6), patched(4)], ids=["slices", "patches"])
def test_on_the_boards(board: str, rounding: str, way: PlanOptions) -> None:
    pytest.importorskip("unicorn")
    from millijoule.build import build_board
    from millijoule.emulate import EmulatedFirmware

    graph = mobilenet((14, 18), rounding=rounding)
    program = compile_graph(graph, board, options=way)
    assert any(memory.again for memory in memories(program)) and any(memory.block.mean for memory in memories(program))
    firmware = EmulatedFirmware(build_board(program.files, program.target), program.target, program)
    timeless(firmware.machine)
    pictures = random_pictures(graph, 2)
    np.testing.assert_array_equal(firmware.run(pictures)["logits"], run(graph, pictures)[graph.outputs[0]])
