"""Results that lie on dying inputs: no forbidden byte is shared, the bound holds, small plans are optimal."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millijoule.compile import Lifetime, MemoryPlan, Overlap, lower_bound, plan_memory
from millijoule.compile._exact import OutOfPatience, place_within
from millijoule.compile.plan import ALIGNMENT, ORDERS, _distances, _place, _walls, aligned
from millijoule.errors import PlacementError

STEPS = 8
NAMES = [f"layer {n}" for n in range(STEPS)]

Case = tuple[list[Lifetime], list[Overlap]]


@st.composite
def cases(draw: st.DrawFn, most: int = 12, largest: int = 200, simple: bool = False) -> Case:
    """Random lifetimes; every pair of a dying and a new buffer may have an overlap."""
    items = []
    for index in range(draw(st.integers(1, most))):
        first = draw(st.integers(0, STEPS - 1))
        last = draw(st.integers(first, min(STEPS - 1, first + 3)))
        size = draw(st.integers(1, largest))
        tail = None if simple else draw(st.none() | st.none() | st.integers(1, size))
        late = False if simple else draw(st.booleans())
        items.append(Lifetime(f"b{index}", size, first, last, late=late, tail_bytes=tail))
    pairs = [(a, b) for a in items for b in items if a is not b and a.first == b.last]
    chosen = draw(st.lists(st.sampled_from(pairs), max_size=8)) if pairs else []
    overlaps = [Overlap(a.name, b.name, draw(st.integers(-largest, largest))) for a, b in chosen]
    return items, overlaps


def taken(plan: MemoryPlan, half: int) -> dict[str, set[int]]:
    """The bytes of the arena that every buffer needs in half layer `half`, from the words of `Lifetime` alone."""
    layer, second = divmod(half, 2)
    needed = {}
    for buffer in plan.buffers:
        alive = buffer.first <= layer <= buffer.last and not (layer == buffer.first and buffer.late and not second)
        shrunk = buffer.tail_bytes is not None and layer == buffer.last and second
        size = (buffer.tail_bytes or 0) if shrunk else buffer.bytes
        needed[buffer.name] = set(range(buffer.offset, buffer.offset + size)) if alive else set()
    return needed


def check(items: Sequence[Lifetime], overlaps: Sequence[Overlap], plan: MemoryPlan) -> None:
    """Walks through every layer and proves that nobody shares a byte without leave."""
    assert {buffer.name for buffer in plan.buffers} == {item.name for item in items}
    assert max(buffer.end for buffer in plan.buffers) <= plan.arena_bytes
    for buffer in plan.buffers:
        assert buffer.offset >= 0 and buffer.offset % ALIGNMENT == 0
    for half in range(2 * STEPS):
        needed = taken(plan, half)
        for a in plan.buffers:
            for b in plan.buffers:
                if a.name < b.name and needed[a.name] & needed[b.name]:
                    assert any(
                        (below, above) in ((a, b), (b, a))
                        and below.first == above.last == half // 2
                        and below.offset <= above.offset + overlap.distance
                        for overlap in overlaps
                        for below in [plan.buffer(overlap.below)]
                        for above in [plan.buffer(overlap.above)]
                    ), (a, b, half)
    for step in range(STEPS):  # bytes in use, in whole words of the alignment
        used = [
            {byte // ALIGNMENT for b in taken(plan, half).values() for byte in b} for half in (2 * step, 2 * step + 1)
        ]
        assert plan.steps[step].live_bytes <= ALIGNMENT * max(map(len, used))
    assert lower_bound(items, STEPS, overlaps=overlaps) <= plan.lower_bound <= plan.arena_bytes


@settings(deadline=None, max_examples=200)
@given(cases())
def test_nobody_shares_a_byte_without_leave(case: Case) -> None:
    items, overlaps = case
    plan = plan_memory(items, NAMES, overlaps=overlaps)
    check(items, overlaps, plan)
    assert plan == plan_memory(items, NAMES, overlaps=overlaps)
    assert lower_bound(items, STEPS, overlaps=overlaps) <= lower_bound(items, STEPS)


def smallest(items: Sequence[Lifetime], overlaps: Sequence[Overlap], enough: int) -> int:
    """The smallest arena there is, at most `enough`, by trying every offset of every buffer."""
    best = enough
    order = sorted(items, key=lambda item: -item.bytes)

    def apart(a: Lifetime, at_a: int, b: Lifetime, at_b: int) -> bool:
        if a.last < b.first or b.last < a.first or at_a + aligned(a.bytes) <= at_b or at_b + aligned(b.bytes) <= at_a:
            return True
        offsets = {a.name: at_a, b.name: at_b}
        return any(
            {overlap.below, overlap.above} == set(offsets)
            and offsets[overlap.below] <= offsets[overlap.above] + overlap.distance
            for overlap in overlaps
        )

    def place(placed: list[tuple[Lifetime, int]], height: int) -> None:
        nonlocal best
        if height >= best:
            return
        if len(placed) == len(order):
            best = height
            return
        item = order[len(placed)]
        for offset in range(0, best - aligned(item.bytes), ALIGNMENT):
            if all(apart(item, offset, other, at) for other, at in placed):
                place([*placed, (item, offset)], max(height, offset + aligned(item.bytes)))

    place([], 0)
    return best


@settings(deadline=None, max_examples=120)
@given(cases(most=5, largest=72, simple=True))
def test_small_plans_are_optimal(case: Case) -> None:
    items, overlaps = case
    plan = plan_memory(items, NAMES, overlaps=overlaps)
    assert smallest(items, overlaps, plan.arena_bytes) == plan.arena_bytes == plan.lower_bound


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2**32 - 1))
def test_short_chains_are_optimal(seed: int) -> None:
    chance = random.Random(seed)
    items = [Lifetime(f"t{n}", 8 * chance.randint(1, 8), n, n + 1) for n in range(5)]
    overlaps = [Overlap(f"t{n + 1}", f"t{n}", 8 * chance.randint(-3, 3)) for n in range(4)]
    plan = plan_memory(items, NAMES, overlaps=overlaps)
    check(items, overlaps, plan)
    assert smallest(items, overlaps, plan.arena_bytes) == plan.arena_bytes == plan.lower_bound


@pytest.mark.parametrize(
    ("sizes", "distance", "arena"),
    [
        ((80, 80), 0, 80),  # the result on its input
        ((80, 80), 16, 80),
        ((80, 80), -16, 96),  # two rows in front of it
        ((80, 80), -13, 96),  # rounded down
        ((80, 80), -200, 160),  # too far: side by side
        ((80, 104), -16, 104),
        ((80, 88), -16, 96),
        ((80, 24), -16, 96),
        ((80, 24), 56, 80),
        ((80, 8), -80, 88),
    ],
)
def test_a_pair_by_hand(sizes: tuple[int, int], distance: int, arena: int) -> None:
    items = [Lifetime("x", sizes[0], 0, 1), Lifetime("y", sizes[1], 1, 2)]
    plan = plan_memory(items, NAMES, overlaps=[Overlap("y", "x", distance)])
    assert plan.arena_bytes == plan.lower_bound == arena
    assert plan.steps[1].live_bytes == arena
    check(items, [Overlap("y", "x", distance)], plan)


def test_neighbours_of_the_pair_keep_apart() -> None:
    """The scratch of the layer shares bytes with neither; a third buffer lies beside the pair."""
    items = [
        Lifetime("x", 80, 0, 1),
        Lifetime("y", 80, 1, 2),
        Lifetime("scratch", 40, 1, 1, "scratch"),
        Lifetime("shortcut", 24, 0, 4),
    ]
    overlaps = [Overlap("y", "x", -8)]
    plan = plan_memory(items, NAMES, overlaps=overlaps)
    check(items, overlaps, plan)
    assert plan.arena_bytes == plan.lower_bound == 88 + 40 + 24


def test_two_inputs_may_both_die_under_one_result() -> None:
    items = [Lifetime("left", 80, 0, 2), Lifetime("right", 80, 1, 2), Lifetime("sum", 80, 2, 3)]
    overlaps = [Overlap("sum", "left", 0), Overlap("sum", "right", 0)]
    plan = plan_memory(items, NAMES, overlaps=overlaps)
    check(items, overlaps, plan)
    assert plan.arena_bytes == plan.lower_bound == 160


def test_the_larger_distance_of_a_pair_counts() -> None:
    items = [Lifetime("x", 80, 0, 1), Lifetime("y", 80, 1, 2)]
    overlaps = [Overlap("y", "x", distance) for distance in (-40, 0, -80)]
    assert plan_memory(items, NAMES, overlaps=overlaps).arena_bytes == 80


@pytest.mark.parametrize(
    "overlap", [Overlap("z", "x", 0), Overlap("y", "z", 0), Overlap("y", "y", 0), Overlap("x", "y", 0)]
)
def test_overlaps_that_make_no_sense_are_refused(overlap: Overlap) -> None:
    items = [Lifetime("x", 80, 0, 1), Lifetime("y", 80, 1, 2)]
    with pytest.raises(PlacementError, match="overlap of"):
        plan_memory(items, NAMES, overlaps=[overlap])
    with pytest.raises(PlacementError, match="overlap of"):
        lower_bound(items, STEPS, overlaps=[overlap])


def test_rows_written_over_read_rows_keep_their_values() -> None:
    """Layers that add neighbouring rows run inside one arena, at the plan's offsets, as a row engine would."""
    rng = np.random.default_rng(1)
    heights = [12, 11, 5, 4, 3]
    widths = [16, 24, 40, 40, 8]
    strides = [1, 2, 1, 1]
    maps = [rng.integers(0, 256, (heights[0], widths[0]), dtype=np.uint8)]
    items = [Lifetime(f"t{n}", heights[n] * widths[n], n, n + 1) for n in range(5)]
    overlaps = []
    for n, stride in enumerate(strides):
        # After row r is written the layer still needs the input from row (r + 1) * stride on.
        distance = min((r + 1) * (stride * widths[n] - widths[n + 1]) for r in range(heights[n + 1]))
        overlaps.append(Overlap(f"t{n + 1}", f"t{n}", distance))
        columns = np.arange(widths[n + 1]) % widths[n]
        rows = np.arange(heights[n + 1]) * stride
        maps.append((maps[n][rows][:, columns] + maps[n][rows + 1][:, columns]).astype(np.uint8))
    plan = plan_memory(items, NAMES, overlaps=overlaps)
    check(items, overlaps, plan)
    assert plan.arena_bytes < plan_memory(items, NAMES).arena_bytes
    arena = np.zeros(plan.arena_bytes, np.uint8)
    places = [slice(plan.buffer(f"t{n}").offset, plan.buffer(f"t{n}").end) for n in range(5)]
    arena[places[0]] = maps[0].ravel()
    for n, stride in enumerate(strides):
        data = arena[places[n]].reshape(heights[n], widths[n])
        result = arena[places[n + 1]].reshape(heights[n + 1], widths[n + 1])
        columns = np.arange(widths[n + 1]) % widths[n]
        for row in range(heights[n + 1]):
            result[row] = data[row * stride][columns] + data[row * stride + 1][columns]
        np.testing.assert_array_equal(result, maps[n + 1])


@pytest.mark.parametrize("seed", range(4))
def test_a_long_network_gets_a_plan_that_is_proved_to_be_the_smallest(seed: int) -> None:
    """A chain with rows of distance between its maps, every fourth of which is kept for an addition."""
    chance, layers = random.Random(seed), 40
    items = [
        Lifetime(f"t{n}", chance.randint(1, 50_000), n, min(n + (3 if n % 4 == 0 else 1), layers))
        for n in range(layers)
    ]
    ends = {item.name: item.last for item in items}
    overlaps = [
        Overlap(f"t{n}", f"t{n - 1}", -chance.randint(0, 4000)) for n in range(1, layers) if ends[f"t{n - 1}"] == n
    ]
    plan = plan_memory(items, [str(n) for n in range(layers + 1)], overlaps=overlaps)
    assert plan.arena_bytes == plan.lower_bound
    assert plan.arena_bytes <= plan_memory(items, [str(n) for n in range(layers + 1)]).arena_bytes


def test_the_exact_search_beats_greedy_orders_and_says_so() -> None:
    chance = random.Random(40)
    items = [Lifetime(f"t{n}", chance.randint(1, 100_000), n, n + 1) for n in range(40)]
    overlaps = [Overlap(f"t{n + 1}", f"t{n}", chance.randint(-5000, 0)) for n in range(39)]
    walls = _walls(items, ALIGNMENT, _distances(items, ALIGNMENT, overlaps))
    greedy = min(_place(sorted(items, key=key), walls, ALIGNMENT)[1] for key in ORDERS.values())
    plan = plan_memory(items, [str(n) for n in range(41)], overlaps=overlaps)
    assert plan.arena_bytes == plan.lower_bound < greedy


def test_the_exact_search_ends_with_an_answer_or_without_patience() -> None:
    sizes = {"a": 8, "b": 16, "c": 24}
    walls = {
        "a": [("b", -8, 16), ("c", -8, 24)],
        "b": [("a", -16, 8), ("c", -16, 24)],
        "c": [("a", -24, 8), ("b", -24, 16)],
    }
    found = place_within(sizes, walls, 48, [1000])
    assert found is not None and sorted(found[name] for name in sizes)[0] == 0
    spans = sorted((found[name], found[name] + size) for name, size in sizes.items())
    assert [end for _, end in spans[:-1]] == [start for start, _ in spans[1:]] and spans[-1][1] == 48
    assert place_within(sizes, walls, 40, [1000]) is None
    assert place_within(sizes, walls, 16, [0]) is None  # the largest one alone does not fit
    with pytest.raises(OutOfPatience):
        place_within(sizes, walls, 48, [2])


def test_two_hundred_buffers_get_a_checked_plan() -> None:
    chance = random.Random(3)
    items = [
        Lifetime(f"t{n}", chance.randint(1, 900), n // 25, min(n // 25 + chance.randint(0, 2), 7)) for n in range(200)
    ]
    overlaps = [
        Overlap(a.name, b.name, chance.randint(-100, 100))
        for a in items
        for b in items
        if a is not b and a.first == b.last and chance.random() < 0.02
    ]
    check(items, overlaps, plan_memory(items, NAMES, overlaps=overlaps))
