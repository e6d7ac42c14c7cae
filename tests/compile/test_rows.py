"""Chains of layers that run row by row: which they are, how far a result may overlap its input, how weights are packed.

The schedule of `mj_rows_s8.c` is followed here a second time, row by row, to check what `rows` computes in closed form.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from arenas import writes_outside
from by_hand import Net
from millijoule.build.host import build_host
from millijoule.compile import compile_graph
from millijoule.compile.finder import Block, find_blocks, geometry_allows
from millijoule.compile.legal import row_layers
from millijoule.compile.rows import (
    RowMemory,
    cascade_of,
    chains,
    kept_rows,
    memory_of,
    overlap_distance,
    slack_bytes,
)
from millijoule.compile.schedule import Schedule as Schedules
from millijoule.execute import run
from millijoule.graph import ROUNDINGS, Graph
from millijoule.kernels import dims_of
from networks import BLOCKS, LAYERS, any_network, random_network, random_pictures


def blocks(graph: Graph) -> list[tuple[str, ...]]:
    found = find_blocks(graph, row_layers(graph))
    return [tuple(node.output for node in block.nodes) for block in found]


# *** which layers are a chain *****


def test_a_mobilenet_is_cut_into_its_blocks() -> None:
    net = Net()
    x = net.same(net.x, 8, stride=2)
    x = net.conv(net.same(x, None), 4)
    wide = net.same(net.conv(x, 24), None)
    x = net.add(x, net.conv(wide, 4))
    x = net.conv(net.same(net.conv(x, 12), None, 5, 2), 6)
    x = net.conv(x, 20)
    assert blocks(net.build(x)) == [
        ("normalize0", "conv2d0", "depthwise_conv2d0", "conv2d1"),
        ("conv2d2", "depthwise_conv2d1", "conv2d3", "add0"),
        ("conv2d4", "depthwise_conv2d2", "conv2d5"),
        ("conv2d6",),
    ]


def test_a_residual_network_keeps_the_shortcut_that_comes_first() -> None:
    net = Net()
    shortcut = net.conv(net.x, 6, stride=(2, 2))
    main = net.same(net.same(net.x, 5, stride=2), 6)
    graph = net.build(net.add(main, shortcut))
    assert blocks(graph) == [("conv2d0",), ("conv2d1",), ("conv2d2", "add0")]
    (block,) = (block for block in find_blocks(graph, row_layers(graph)) if block.add)
    assert block.residual == "conv2d0" and block.input == "conv2d1" and block.last_product.output == "conv2d2"
    net = Net()
    main = net.same(net.same(net.x, 5, stride=2), 6)
    graph = net.build(net.add(main, net.conv(net.x, 6, stride=(2, 2))))
    assert blocks(graph) == [("conv2d0",), ("conv2d1",), ("conv2d2", "add0")]  # the later one takes the sum


def test_a_map_with_two_readers_ends_a_chain() -> None:
    net = Net()
    wide = net.conv(net.x, 6)
    graph = net.build(net.conv(net.same(wide, None), 6), wide)
    assert blocks(graph) == [("conv2d0",), ("depthwise_conv2d0", "conv2d1", "add0")]
    net = Net()
    wide = net.conv(net.x, 6)
    filtered = net.same(wide, None)
    graph = net.build(net.conv(filtered, 6), filtered)
    assert blocks(graph) == [("conv2d0", "depthwise_conv2d0"), ("conv2d1", "add0")]


def test_a_sum_of_a_map_with_itself_and_a_sum_with_a_later_map_stay_layers() -> None:
    net = Net()
    x = net.conv(net.x, 6)
    assert blocks(net.build(net.add(x, x))) == [("conv2d0",)]
    net = Net()
    first, second = net.conv(net.x, 6), net.conv(net.x, 6)
    later = net.node("clamp", [second], net.shapes[second], {"clamp": (0.0, 1.0)})
    assert blocks(net.build(net.add(first, later))) == [("conv2d0",), ("conv2d1",)]


def test_a_normalised_picture_belongs_to_a_windowed_convolution_alone() -> None:
    net = Net()
    assert blocks(net.build(net.conv(net.x, 4)))[0] == ("conv2d0",)
    net = Net()
    assert blocks(net.build(net.conv(net.x, 4, (1, 1), (2, 2))))[0] == ("normalize0", "conv2d0")
    net = Net()
    assert blocks(net.build(net.same(net.x, None)))[0] == ("depthwise_conv2d0",)
    net = Net()
    graph = net.build(net.add(net.same(net.x, 3), net.x))
    assert blocks(graph)[0] == ("conv2d0", "add0")  # another reader of the normalised picture


@pytest.mark.parametrize(
    ("out", "kernel", "stride", "padding", "dilation", "allowed"),
    [
        (4, (3, 3), (1, 1), (2, 9, 2, 9), (1, 1), True),
        (4, (3, 3), (1, 1), (3, 0, 0, 0), (1, 1), False),
        (4, (3, 3), (1, 1), (0, 0, 3, 0), (1, 1), False),
        (4, (3, 3), (1, 1), (0, 0, 0, 0), (2, 1), False),
        (4, (3, 3), (5, 7), (0, 0, 0, 0), (1, 1), True),
        (None, (3, 3), (7, 2), (0, 0, 0, 0), (1, 1), True),
        (None, (3, 3), (1, 3), (0, 0, 0, 0), (1, 1), False),
    ],
)
def test_geometry(
    out: int | None, kernel: Any, stride: Any, padding: Any, dilation: tuple[int, int], allowed: bool
) -> None:
    net = Net()
    x = net.conv(net.x, out, kernel, stride, padding, dilation)
    graph = net.build(x)
    assert geometry_allows(graph, next(node for node in graph.nodes if node.output == x)) is allowed


names = st.lists(st.sampled_from((*LAYERS, *BLOCKS, *BLOCKS)), min_size=1, max_size=6)
networks = st.builds(
    random_network,
    names,
    st.integers(0, 2**31),
    size=st.tuples(st.integers(1, 20), st.integers(1, 23), st.integers(1, 4)),
    rounding=st.sampled_from(("single", "double", "mulhi")),
)


@settings(deadline=None, max_examples=60)
@given(networks)
def test_blocks_share_no_layer_and_leave_no_reader_outside(graph: Graph) -> None:
    able, readers = row_layers(graph), graph.consumers()
    found = find_blocks(graph, able)
    inside = [node.output for block in found for node in block.nodes]
    assert len(inside) == len(set(inside))
    for block in found:
        assert block.conv or block.filter
        for node, following in itertools.pairwise(block.nodes):
            assert readers[node.output] == [following] and node.output not in graph.outputs
        assert all(node.output in able for node in (block.conv, block.filter, block.project) if node)


# *** memory and overlap *****


@dataclass
class Schedule:
    """What `mj_rows_begin`, `_push` and `_end` do with rows, nothing else.

    `read[r]` is how many input rows have been read before row r of the result is written.
    """

    memory: RowMemory
    following: Schedule | None = None
    received: int = 0
    made: int = 0
    pushed: int = 0
    read: list[int] = field(default_factory=list)

    def run(self) -> None:
        first = self.memory.conv or self.memory.filter
        assert first is not None
        for count in range(first.in_height):
            self.push(count + 1)
        self.end()

    def out_height(self) -> int:
        return (self.memory.filter or self.memory.last).out_height

    def push(self, count: int) -> None:
        """A row of the block's input, the last one of `count` rows of the network's input that have been read."""
        self.pushed = count
        if self.memory.window:
            self.received += 1
            self.windows()
        elif self.memory.conv:
            self.convolve()
        else:
            self.made_row()

    def windows(self) -> None:
        conv = self.memory.conv
        assert conv is not None
        while True:
            done = self.made if self.memory.filter else len(self.read)
            if done >= conv.out_height or done * conv.stride[0] - conv.padding[0] + conv.kernel[0] > self.received:
                return
            self.convolve()

    def convolve(self) -> None:
        if self.memory.filter is None:
            self.deliver()
        else:
            self.made_row()

    def made_row(self) -> None:
        dims = self.memory.filter
        assert dims is not None
        self.made += 1
        while len(self.read) < dims.out_height:
            if len(self.read) * dims.stride[0] - dims.padding[0] + dims.kernel[0] > self.made:
                return
            self.deliver()

    def deliver(self) -> None:
        self.read.append(self.pushed)
        if self.following is not None:
            self.following.push(self.pushed)

    def end(self) -> None:
        conv, dims = self.memory.conv, self.memory.filter
        while conv is not None and self.memory.window:
            if (self.made if dims else len(self.read)) >= conv.out_height:
                break
            self.received += 1
            self.windows()
        while len(self.read) < self.out_height():
            self.made_row()
        if self.following is not None:
            self.following.end()


def followed(memories: Sequence[RowMemory]) -> tuple[list[int], list[int]]:
    """For each row of the result: the rows of the input that have been read, and those that have been added.

    A row is added when the first block's row of the same number is complete.
    """
    last = first = Schedule(memories[-1])
    for memory in reversed(memories[:-1]):
        first = Schedule(memory, first)
    added: list[int] = []
    deliver = last.deliver

    def noting() -> None:
        added.append(len(first.read) + (first is last))
        deliver()

    last.deliver = noting  # type: ignore[method-assign]
    first.run()
    return last.read, added


def harmless(
    graph: Graph, memories: Sequence[RowMemory], order: tuple[list[int], list[int]] | None, distance: int
) -> bool:
    """Whether no byte of the input is overwritten before it is read, the result `distance` bytes behind it.

    `order` is what `followed` tells, None where the means are written when every row has been read.
    """
    if order is None:
        return True
    block = memories[0].block
    total, size = graph.tensor(block.input).bytes, graph.tensor(memories[-1].block.output).bytes
    first = memories[0].conv or memories[0].filter
    assert first is not None
    read, added = order
    in_row, out_row = total // first.in_height, size // len(read)
    for row, count in enumerate(read):
        begin, end = distance + row * out_row, distance + (row + 1) * out_row + slack_bytes(memories[-1])
        unread = (count * in_row, total)
        if begin < unread[1] and unread[0] < min(end, total):
            return False
        if block.residual == block.input:
            waiting = (added[row] * in_row, total)  # rows that are added later
            if begin < waiting[1] and waiting[0] < min(end, total):
                return False
            own = (row * out_row, (row + 1) * out_row)  # the row's own elements are added from front to back
            if len(memories) == 1 and own[0] < begin < own[1]:
                return False
    return True


def stretches(graph: Graph) -> Iterator[tuple[Block, ...]]:
    """Every block by itself, and every row of blocks that could hand their rows on."""
    blocks = find_blocks(graph, row_layers(graph))
    yield from ((block,) for block in blocks)
    for chain in chains(graph, blocks, {block.input for block in blocks}):
        for first in range(len(chain)):
            yield from (chain[first:last] for last in range(first + 2, len(chain) + 1))


def covered(memory: RowMemory) -> bool:
    """Whether the windows of each layer of the block cover all rows of its map."""
    layers = [dims for dims in (memory.conv, memory.filter, memory.last) if dims is not None]
    return all(
        (dims.out_height - 1) * dims.stride[0] - dims.padding[0] + dims.kernel[0] >= dims.in_height for dims in layers
    )


@settings(deadline=None, max_examples=100)
@given(networks)
@example(random_network(["inverted", "dead", "conv"], 2, size=(2, 1, 2), rounding="single"))
def test_the_overlap_is_the_largest_that_harms_nobody(graph: Graph) -> None:
    for blocks in stretches(graph):
        memories = cascade_of(graph, blocks)
        distance, total = overlap_distance(graph, *memories), graph.tensor(blocks[0].input).bytes
        assert distance <= total
        order = None if memories[-1].block.mean is not None else followed(memories)
        size = graph.tensor(blocks[-1].output).bytes
        for smaller in (0, 1, 2, 7, *range(8, size + 8, max(1, size // 7))):
            assert harmless(graph, memories, order, distance - smaller), (blocks, distance, smaller)
        added = blocks[0].residual == blocks[0].input and len(blocks) == 1
        # the closed form is a little careful with bytes behind the last row where rows begin behind the input, and with
        # rows that no window covers: they have been read, too, when rows are made that reach below their map
        careful = slack_bytes(memories[-1]) or not all(map(covered, memories))
        if not added and not careful and distance < total - size:
            assert not harmless(graph, memories, order, distance + 1), (blocks, distance)


@settings(deadline=None, max_examples=60)
@given(networks)
def test_a_row_that_is_added_later_is_kept_as_long(graph: Graph) -> None:
    """In a ring of `kept_rows` rows the row to be added is never overwritten by one that was pushed before."""
    for blocks in stretches(graph):
        for block in blocks[1:]:
            if block.residual is None:
                continue
            memory = memory_of(graph, block, fed=True)
            schedule = Schedule(memory)
            schedule.run()
            rows = kept_rows(block, memory.dims)
            assert all(row <= count - 1 < row + rows for row, count in enumerate(schedule.read))
            assert memory.parts["kept"][1] == rows * graph.tensor(block.input).bytes // len(schedule.read)


@pytest.mark.parametrize(
    ("build", "distance"),
    [
        (lambda net: net.conv(net.conv(net.x, None, (3, 3), (1, 1), (1, 1, 1, 1)), 3), 24),
        (lambda net: net.conv(net.same(net.conv(net.x, 12), None), 3), 24),
        (lambda net: net.conv(net.same(net.conv(net.x, 12), None), 6), -120),
        (lambda net: net.add(net.x, net.conv(net.same(net.conv(net.x, 12), None), 3)), 0),
        (lambda net: net.same(net.x, None, 5), 48),
        (lambda net: net.same(net.x, None, 3, 2), 36),
    ],
    ids=["separable", "inverted", "widening", "residual", "5x5", "stride 2"],
)
def test_overlaps_by_hand(build: Any, distance: int) -> None:
    """Maps of 8 rows of 24 bytes: the result may begin a row late for each row below the window's middle."""
    net = Net()
    net.x = net.node("clamp", [net.x], net.shapes[net.x], {"clamp": (-9.0, 9.0)})
    graph = net.build(build(net))
    block = next(block for block in find_blocks(graph, row_layers(graph)) if block.filter)
    assert overlap_distance(graph, memory_of(graph, block)) == distance


@settings(deadline=None, max_examples=60)
@given(networks)
def test_parts_of_the_scratch_memory_lie_side_by_side(graph: Graph) -> None:
    for blocks in stretches(graph):
        memories = cascade_of(graph, blocks)
        spans = sorted((offset, offset + size) for memory in memories for offset, size in memory.parts.values())
        assert spans[0][0] == 0 and spans[-1][1] == memories[-1].bytes
        assert all(end <= start < end + 8 and start % 8 == 0 for (_, end), (start, _) in itertools.pairwise(spans))


def everything_joined(parts: Schedules) -> tuple[int, frozenset[str]]:
    """In the place of `schedule.peak`: fewer layers are better, whatever memory they need."""
    return len(parts.steps), frozenset(item.name for item in parts.lifetimes)


@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(4, 8))])
def test_blocks_joined_wherever_they_can_be_are_exact(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("millijoule.compile.schedule.peak", everything_joined)
    names = ["inverted", "separable", "shortcut", "inverted", "downsample", "inverted", "pointwise"]
    graph = random_network(names, seed, size=(13, 11, 3), rounding=ROUNDINGS[seed % 3])
    program = compile_graph(graph)
    firmware = build_host(program)
    pictures = random_pictures(graph, 3, seed)
    np.testing.assert_array_equal(firmware.run(pictures)["logits"], run(graph, pictures)[graph.outputs[0]])
    assert writes_outside(firmware, seed) == []
    assert any("part1_" in text for text in program.files.values())


@pytest.mark.parametrize("width", [63, 65, 130])
def test_wide_rows_that_are_made_in_parts_are_exact(width: int) -> None:
    """More pixels than a convolution with a window (28) and a depthwise one (64) make at a time."""
    graph = random_network(["conv", "inverted", "separable", "shortcut", "inverted"], width, size=(3, width, 2))
    firmware = build_host(compile_graph(graph))
    pictures = random_pictures(graph, 2, width)
    np.testing.assert_array_equal(firmware.run(pictures)["logits"], run(graph, pictures)[graph.outputs[0]])
    assert writes_outside(firmware) == []


@pytest.mark.parametrize("seed", [*range(6), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(6, 12))])
def test_a_layer_writes_nothing_but_its_result_and_its_scratch(seed: int) -> None:
    """Every byte of the arena is compared before and after each layer, on this computer."""
    graph = any_network(seed + 500, largest=13, layers=4)
    for kernels in ("dsp", "plain"):
        assert writes_outside(build_host(compile_graph(graph, kernels=kernels)), seed) == []


def test_memory_names_its_sizes() -> None:
    net = Net((9, 7, 3))
    graph = net.build(net.conv(net.same(net.conv(net.x, 5), None), 3))
    (block,) = find_blocks(graph, row_layers(graph))
    assert isinstance(block, Block)
    memory = memory_of(graph, block)
    assert set(memory.parts) == {"state", "conv_pairs", "filters", "planes", "project_pairs", "groups", "row"}
    assert memory.parts["conv_pairs"][1] == 3 * 32 and memory.parts["project_pairs"][1] == 2 * 32
    assert memory.parts["filters"][1] == 5 * (16 + 3 * 8)
    assert memory.conv == dims_of(graph, block.nodes[0]) and memory.last.out_channels == 3
    assert memory.parts["groups"][1] == 4 * 3 * 8  # five channels, seven pixels rounded up
    assert memory.parts["row"][1] == 4 * 8
