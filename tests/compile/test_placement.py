"""Two memories: what goes to the fast one, and that nothing else changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millijoule.boards import Board, load_board
from millijoule.compile import Program, compile_graph
from millijoule.compile.placement import Demand, Work, fast_room, plan_two
from millijoule.compile.plan import Lifetime, MemoryPlan, Overlap, aligned, plan_memory
from millijoule.emulate import EmulatedFirmware
from millijoule.errors import EmulationError
from networks import any_network, random_network, random_pictures

STEPS = 5
NAMES = [f"layer {n}" for n in range(STEPS)]
BLOCKS = ["strided", "strided", "pointwise", "depthwise", "pointwise"]


@st.composite
def demands(draw: st.DrawFn) -> list[Demand]:
    found = []
    for number in range(draw(st.integers(1, 14))):
        size, passes = draw(st.integers(1, 900)), draw(st.integers(1, 40))
        first = draw(st.integers(0, STEPS - 1))
        if draw(st.booleans()):
            item = Lifetime(f"b{number}", size, first, first, "scratch")
            found.append(Demand(item, passes, layer=first))
        else:
            last = draw(st.integers(first, STEPS - 1))
            found.append(Demand(Lifetime(f"b{number}", size, first, last), passes, draw(st.booleans())))
    return found


def in_fast(plan: MemoryPlan) -> list[str]:
    assert plan.fast_offset is not None
    return [buffer.name for buffer in plan.buffers if buffer.offset >= plan.fast_offset]


@given(demands(), st.integers(0, 2000), st.integers(0, 600), st.sampled_from((0, 256, 1024)))
def test_two_arenas_hold_everything_once_within_the_sum(
    items: list[Demand], room: int, growth: int, cache: int
) -> None:
    lifetimes = [item.lifetime for item in items]
    one = plan_memory(lifetimes, NAMES)
    work = {step: Work(64, 3.0) for step in range(STEPS)}
    limit = one.arena_bytes + growth
    plan = plan_two(items, NAMES, work, room=room, limit=limit, cache=cache)
    if plan is None:
        return
    assert plan.fast_offset is not None and 0 < plan.fast_bytes <= room
    assert plan.arena_bytes <= limit and plan.lower_bound == one.lower_bound
    assert sorted(buffer.name for buffer in plan.buffers) == sorted(item.name for item in lifetimes)
    movable = {item.lifetime.name for item in items if item.movable}
    assert set(in_fast(plan)) <= movable and in_fast(plan)
    for index, buffer in enumerate(plan.buffers):
        assert buffer.offset % plan.alignment == 0 and buffer.end <= plan.arena_bytes
        assert buffer.end <= plan.fast_offset or buffer.offset >= plan.fast_offset
        for other in plan.buffers[:index]:
            if buffer.first <= other.last and other.first <= buffer.last:
                assert buffer.end <= other.offset or other.end <= buffer.offset
    for number, step in enumerate(plan.steps):
        alive = [buffer for buffer in plan.buffers if buffer.first <= number <= buffer.last]
        assert set(step.buffers) == {buffer.name for buffer in alive}
        assert step.live_bytes == sum(aligned(buffer.bytes) for buffer in alive)


def test_a_result_lies_over_its_input_in_the_large_arena_still() -> None:
    picture = Demand(Lifetime("picture", 1000, 0, 0, "picture"), 2.0, movable=False)
    result = Demand(Lifetime("result", 800, 0, 1), 2.0, movable=False)
    scratch = Demand(Lifetime("scratch", 96, 0, 0, "scratch"), 50.0, layer=0)
    overlaps = [Overlap("result", "picture", 0)]
    plan = plan_two([picture, result, scratch], ["a", "b"], {}, room=500, limit=1096, overlaps=overlaps)
    assert plan is not None
    assert (plan.arena_bytes, plan.slow_bytes, in_fast(plan)) == (1096, 1000, ["scratch"])


def test_what_exceeds_the_cache_goes_first() -> None:
    """30 KB of planes and 12 KB of parameters behind 16 KB of cache: without the planes the rest stays in the cache."""
    picture = Demand(Lifetime("picture", 80_000, 0, 0, "picture"), 2.0, movable=False)
    planes = Demand(Lifetime("planes", 30_000, 1, 1, "scratch"), 20.0, layer=1)
    parameters = Demand(Lifetime("parameters", 12_000, 1, 1, "scratch"), 20.0, layer=1)
    items = [picture, planes, parameters]
    wide = plan_two(items, ["a", "b"], {}, room=32_000, limit=112_000, cache=16_384)
    narrow = plan_two(items, ["a", "b"], {}, room=16_000, limit=112_000, cache=16_384)
    assert wide is not None and in_fast(wide) == ["planes"]
    assert narrow is not None and in_fast(narrow) == ["parameters"]
    assert plan_two(items, ["a", "b"], {}, room=32_000, limit=80_000, cache=16_384) is None


def small(board: str = "stm32h7b3i", fast: int = 24 * 1024) -> Board:
    """A board of two memories whose fast one is too small for the arena of a test network."""
    full = load_board(board)
    first, *others = full.memories
    return replace(full, name=f"{full.name}_{fast}", memories=(replace(first, size=fast), *others))


def two(seed: int, size: tuple[int, int, int] = (64, 64, 3)) -> tuple[Program, Program]:
    """The same network in two memories and in one."""
    graph = random_network(BLOCKS, seed, size=size)
    return compile_graph(graph, small()), compile_graph(graph, "stm32h7b3i")


@pytest.mark.parametrize("seed", (1, pytest.param(3, marks=pytest.mark.slow)))
def test_results_and_ram_are_those_of_one_memory(seed: int) -> None:
    from millijoule.deploy import build_program

    split, whole = two(seed)
    assert split.plan.fast_bytes > 0 and whole.plan.fast_offset is None
    assert split.arena_bytes <= whole.arena_bytes
    pictures = random_pictures(split.graph, 2, seed)
    results = []
    for program in (split, whole):
        firmware = build_program(program)
        results.append(firmware.run(pictures))
        assert firmware.image is not None
        symbols, board = firmware.image.symbols, program.board
        assert board is not None
        if program is split:
            memory = board.memories[0]
            assert firmware.image.arena_memory == "AXI" and firmware.image.fast_memory == memory.name == "DTCM"
            assert symbols["mj_arena"].size + symbols["mj_fast"].size == program.arena_bytes
            assert memory.base <= symbols["mj_fast"].address < memory.end - symbols["mj_fast"].size
            assert firmware.image.ram_bytes >= program.arena_bytes
        else:
            assert "mj_fast" not in symbols and firmware.image.fast_memory == ""
    for name, values in results[0].items():
        np.testing.assert_array_equal(values, results[1][name], err_msg=name)


def test_a_budget_lets_the_fast_arena_grow() -> None:
    graph = random_network(BLOCKS, 1, size=(64, 64, 3))
    least = compile_graph(graph, small(), transpose=False)
    budget = least.arena_bytes + 3000
    more = compile_graph(graph, small(), ram_budget=budget, transpose=False)
    assert least.arena_bytes < more.arena_bytes <= budget
    assert more.plan.fast_bytes > least.plan.fast_bytes
    same = compile_graph(graph, small(), ram_budget=least.arena_bytes, transpose=False)
    assert same.plan == least.plan


def test_the_fast_memory_saves_cycles() -> None:
    from millijoule.deploy import build_program

    graph = random_network(BLOCKS, 3, size=(64, 64, 3))
    board = small()
    slow = replace(board, memories=tuple(replace(memory, speed=1) for memory in board.memories))
    picture = random_pictures(graph, 1)[0]
    cycles = [build_program(compile_graph(graph, item)).profile(picture, method="trace") for item in (board, slow)]
    assert "second arena in DTCM" in cycles[0].conditions["timing"]
    assert cycles[0].cycles < cycles[1].cycles


def test_each_fence_is_watched() -> None:
    from millijoule.build import build_board

    split, _ = two(1)
    assert split.board is not None
    image = build_board(split.files, split.board)
    symbols = image.symbols
    for low in ("mj_fence_low", "mj_fence_high", "mj_fast_low", "mj_fast_high"):
        assert symbols[f"{low}_end"].address - symbols[low].address == 64
        firmware = EmulatedFirmware(image, split.board, split)
        firmware.boot()
        firmware.machine.write(symbols[low].address + 12, b"\0")
        with pytest.raises(EmulationError):
            firmware.run(random_pictures(split.graph, 1))
    assert symbols["mj_fast_low_end"].address <= symbols["mj_fast"].address
    assert symbols["mj_fast"].address + symbols["mj_fast"].size <= symbols["mj_fast_high"].address


@pytest.mark.parametrize("seed", range(4))
def test_any_network_in_two_memories_stays_within_its_plan(seed: int) -> None:
    graph = any_network(seed)
    program = compile_graph(graph, small(fast=17 * 1024))
    plan = program.plan
    assert program.arena_bytes <= compile_graph(graph, "stm32h7b3i").arena_bytes
    if plan.fast_offset is not None:
        names = {buffer.name: buffer for buffer in plan.buffers}
        assert names[graph.inputs[0]].end <= plan.fast_offset


def test_boards_without_a_faster_memory_stay_as_they_are() -> None:
    graph = random_network(BLOCKS, 1, size=(40, 40, 3))
    board = load_board("stm32l4r9i")
    assert fast_room(board) is None
    program = compile_graph(graph, board)
    assert program.plan.fast_offset is None and "mj_fast" not in "".join(program.files.values())
    fast = fast_room(load_board("stm32h7b3i"))
    assert fast is not None and (fast[0].name, fast[1]) == ("DTCM", 0x20000 - 16384)
    small_enough = compile_graph(graph, "stm32h7b3i")
    assert small_enough.plan.fast_offset is None and small_enough.arena_bytes <= fast[1]
