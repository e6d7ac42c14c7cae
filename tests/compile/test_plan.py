"""The memory planner: no overlap ever, never below the bound, as good as an exhaustive search on small cases."""

from __future__ import annotations

import itertools
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millijoule.compile import Buffer, Lifetime, MemoryPlan, lower_bound, plan_memory
from millijoule.compile.plan import ALIGNMENT, ORDERS, _place, _walls, aligned

STEPS = 12


@st.composite
def lifetimes(draw: st.DrawFn, most: int = 16) -> list[Lifetime]:
    count = draw(st.integers(1, most))
    items = []
    for index in range(count):
        first = draw(st.integers(0, STEPS - 1))
        last = draw(st.integers(first, STEPS - 1))
        size = draw(st.integers(1, 300))
        tail = draw(st.none() | st.integers(1, size))
        items.append(Lifetime(f"b{index}", size, first, last, late=draw(st.booleans()), tail_bytes=tail))
    return items


def bytes_at(buffer: Buffer, half: int) -> int:
    """How much of a buffer is needed in half layer `half`, straight from the words of `Lifetime`."""
    layer, second = divmod(half, 2)
    if not buffer.first <= layer <= buffer.last or (layer == buffer.first and buffer.late and not second):
        return 0
    return buffer.bytes if buffer.tail_bytes is None or layer < buffer.last or not second else buffer.tail_bytes


def check(items: list[Lifetime], plan: MemoryPlan) -> None:
    assert {b.name for b in plan.buffers} == {item.name for item in items}
    for a, b in itertools.combinations(plan.buffers, 2):
        for half in range(2 * STEPS):
            ends = (a.offset + bytes_at(a, half), b.offset + bytes_at(b, half))
            assert ends[0] <= b.offset or ends[1] <= a.offset or a.offset == ends[0] or b.offset == ends[1], (
                a,
                b,
                half,
            )
    assert all(b.offset % ALIGNMENT == 0 and b.offset >= 0 for b in plan.buffers)
    assert max(b.end for b in plan.buffers) <= plan.arena_bytes
    assert plan.lower_bound <= plan.arena_bytes <= sum(aligned(item.bytes) for item in items)


@settings(deadline=None)
@given(lifetimes())
def test_live_buffers_never_overlap_and_the_bound_holds(items: list[Lifetime]) -> None:
    check(items, plan_memory(items, [f"layer {n}" for n in range(STEPS)]))


@settings(deadline=None, max_examples=20)
@given(lifetimes())
def test_the_same_demands_give_the_same_plan(items: list[Lifetime]) -> None:
    names = [str(n) for n in range(STEPS)]
    assert plan_memory(items, names) == plan_memory(items, names)


@settings(deadline=None, max_examples=50)
@given(lifetimes(most=5))
def test_few_buffers_are_placed_as_well_as_by_trying_every_order(items: list[Lifetime]) -> None:
    walls = _walls(items, ALIGNMENT, {})
    best = min(_place(order, walls, ALIGNMENT)[1] for order in itertools.permutations(items))
    assert plan_memory(items, [str(n) for n in range(STEPS)]).arena_bytes == best


def test_a_chain_needs_its_two_largest_neighbours() -> None:
    sizes = [100, 400, 300, 50]
    items = [Lifetime(f"t{n}", size, n, n + 1) for n, size in enumerate(sizes)]
    plan = plan_memory(items, [str(n) for n in range(5)])
    assert plan.arena_bytes == plan.lower_bound == aligned(400) + aligned(300)
    assert plan.peak_steps() == (2,)


def test_a_result_may_begin_behind_the_quantised_copy_of_its_input() -> None:
    data = Lifetime("x", 400, 0, 1, tail_bytes=100)
    result = Lifetime("y", 500, 1, 2, late=True)
    plan = plan_memory([data, result], ["make x", "x to y", "use y"])
    assert plan.arena_bytes == plan.lower_bound == aligned(100) + aligned(500)
    assert [step.live_bytes for step in plan.steps] == [400, 608, 504]


def test_hill_climbing_finds_what_greedy_orders_miss() -> None:
    items = find_hard_case()
    plan = plan_memory(items, [str(n) for n in range(STEPS)])
    assert plan.strategy == "hill climbing"
    check(items, plan)


def find_hard_case() -> list[Lifetime]:
    chance = random.Random(5)
    for _ in range(2000):
        items = []
        for index in range(9):
            first = chance.randrange(STEPS)
            items.append(Lifetime(f"b{index}", 8 * chance.randint(1, 9), first, chance.randint(first, STEPS - 1)))
        greedy = min(
            _place(sorted(items, key=key), _walls(items, ALIGNMENT, {}), ALIGNMENT)[1] for key in ORDERS.values()
        )
        if greedy > lower_bound(items, STEPS) and plan_memory(items, ["s"] * STEPS).arena_bytes < greedy:
            return items
    pytest.fail("no case found in which greedy placement is beaten")


def test_a_plan_is_json() -> None:
    plan = plan_memory([Lifetime("a", 5, 0, 1), Lifetime("b", 9, 1, 1)], ["one", "two"])
    text = json.loads(json.dumps(plan.as_dict()))
    assert text["steps"][1]["live_bytes"] == 24 and set(text["steps"][1]["buffers"]) == {"a", "b"}
    assert text["arena_bytes"] == 24
    assert plan.buffer("b").bytes == 9
    with pytest.raises(KeyError):
        plan.buffer("c")
