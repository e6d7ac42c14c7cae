"""Two memories: what is read again and again goes to the fastest RAM when that is too small for the whole arena.

An arena that does not fit the fastest memory (the tightly coupled one of a Cortex-M7) lies behind the data cache, and
what a row engine reads for every row, planes, groups, prepared parameters, falls out of that cache between two rows.
Those buffers are small and live for one layer. They get an arena of their own in the fast memory, next to the large one
with the feature maps, and the two are planned together: their sum may not become larger than one arena would be, or
than a budget that was given.

The algorithm, in words. The scratch memory of a block is taken apart. For each layer, the parts are chosen that leave
the fewest bytes to be fetched from the slow memory, as far as the fast arena reaches: if what a row touches there, its
weights included, is larger than the cache, each pass over it fetches all of it; if it is smaller, none (in between, a
part). What the choice leaves of the fast arena is filled with other buffers, those that are passed over most often
first. The rest is planned as one arena is (`plan`). The first size of the fast arena is what the sum leaves beside the
picture; then smaller ones are tried, next what is in use where the large arena is fullest, and the plan that leaves the
fewest bytes wins. (Choosing buffers for a scratchpad
by what they save of a cache: P. R. Panda, N. D. Dutt and A. Nicolau, Efficient utilization of scratch-pad memory in
embedded processor applications, ED&TC 1997.)

In a plan of two arenas, offsets from `MemoryPlan.fast_offset` on mean the fast one; no buffer lies across.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from millijoule.boards import Board, Memory
from millijoule.compile.plan import (
    ALIGNMENT,
    Buffer,
    Lifetime,
    MemoryPlan,
    Overlap,
    StepMemory,
    aligned,
    live_bytes,
    lower_bound,
    plan_memory,
)
from millijoule.compile.rows import RowMemory, prefix
from millijoule.compile.schedule import Schedule, Step
from millijoule.graph import Graph

__all__ = ["RESERVED_BYTES", "Demand", "Work", "fast_room", "in_two_memories", "plan_two"]

RESERVED_BYTES = 16384
"""RAM kept free for stack and variables where they share the fast memory."""
TENSOR_PASSES = 2.0
"""A feature map is written once and read once."""
KERNEL_PASSES = 16.0
"""Scratch of a kernel of its own, quantised inputs for example, is read for every output channel or so."""
SIZES = 32
"""How many sizes of the fast arena are tried."""


@dataclass(frozen=True)
class Demand:
    """A buffer, how often all its bytes are passed over in one inference, and whether it may lie in the fast memory.

    `layer` is the number of the only layer that uses it, for parts of a block's scratch memory.
    """

    lifetime: Lifetime
    passes: float
    movable: bool = True
    layer: int | None = None


@dataclass(frozen=True)
class Work:
    """What a layer touches for each row beside its scratch memory: bytes, most of all weights, and how many rows."""

    bytes: int
    rows: float


def fast_room(board: Board, reserved: int = RESERVED_BYTES) -> tuple[Memory, int] | None:
    """The fastest memory that may hold an arena and its bytes beside stack and data; None if no other one is slower."""
    fastest = min(board.arena_memories, key=lambda memory: memory.speed)
    if all(memory.speed == fastest.speed for memory in board.arena_memories):
        return None
    return fastest, fastest.size - (reserved if fastest.data else 0)


def in_two_memories(
    graph: Graph, parts: Schedule, plan: MemoryPlan, board: Board | None, budget: int | None = None
) -> tuple[Schedule, MemoryPlan]:
    """The schedule and the plan with an arena in the board's fastest memory beside the large one, where that helps.

    Both come back as they are for this computer, for boards whose memories are equally fast, and when the arena fits
    the fastest memory as a whole. Otherwise the scratch buffers of blocks are taken apart, one for each part, and the
    parts of `Step.rows` are found from the first one's offset.

    Args:
        graph: the network.
        parts: the schedule.
        plan: the plan for one arena.
        board: the target.
        budget: bytes that both arenas may have together; never less than one arena needs, which is the default.
    """
    found = fast_room(board) if board is not None else None
    if board is None or found is None or plan.arena_bytes <= found[1]:
        return parts, plan
    cache = max(memory.cache_bytes for memory in board.arena_memories)
    demands = list(_demands(parts))
    split = plan_two(
        demands,
        [step.name for step in parts.steps],
        {step.index: _work(graph, step) for step in parts.steps if step.rows},
        room=found[1],
        limit=max(plan.arena_bytes, budget or 0),
        cache=cache,
        overlaps=parts.overlaps,
    )
    if split is None:
        return parts, plan
    scratch = {index: name for index, name in parts.scratch.items() if not parts.steps[index].rows}
    scratch |= {step.index: _part_name(parts, step, 0, "state") for step in parts.steps if step.rows}
    steps = tuple(_moved(parts, step, split) if step.rows else step for step in parts.steps)
    lifetimes = tuple(demand.lifetime for demand in demands)
    return replace(parts, steps=steps, lifetimes=lifetimes, scratch=scratch), split


def _part_name(parts: Schedule, step: Step, index: int, part: str) -> str:
    return f"{prefix(index)}{part}, {parts.scratch[step.index]}"


def _moved(parts: Schedule, step: Step, plan: MemoryPlan) -> Step:
    """The layer with the parts of its blocks where the plan has them, counted from the first one."""
    origin = plan.buffer(_part_name(parts, step, 0, "state")).offset
    rows = []
    for index, memory in enumerate(step.rows):
        places = {part: plan.buffer(_part_name(parts, step, index, part)).offset for part in memory.parts}
        moved = {part: (places[part] - origin, size) for part, (_, size) in memory.parts.items()}
        rows.append(replace(memory, parts=moved))
    return replace(step, rows=tuple(rows))


def _demands(parts: Schedule) -> Iterator[Demand]:
    blocks = {parts.scratch[step.index]: step for step in parts.steps if step.rows}
    last = len(parts.steps) - 1
    for lifetime in parts.lifetimes:
        step = blocks.get(lifetime.name)
        if step is not None:
            for index, memory in enumerate(step.rows):
                for part, (_, size) in memory.parts.items():
                    name = _part_name(parts, step, index, part)
                    yield Demand(replace(lifetime, name=name, bytes=size), _passes(memory, part), layer=step.index)
        elif lifetime.kind == "scratch":
            yield Demand(lifetime, KERNEL_PASSES)
        else:
            # The caller writes the picture and reads the results: they stay where `mj_arena` is.
            yield Demand(lifetime, TENSOR_PASSES, lifetime.kind == "activation" and lifetime.last < last)


def _rows(memory: RowMemory) -> tuple[int, int]:
    """Rows that a block makes for its depthwise convolution, and rows of its result."""
    first = memory.conv.out_height if memory.conv is not None else memory.last.in_height
    return first, memory.last.out_height


def _passes(memory: RowMemory, part: str) -> float:
    """How often a block passes over a part of its scratch memory: once per row, over planes for each row that is
    written and each that is read, over the groups of a whole map for every pair of channels.
    """
    made, out = _rows(memory)
    if memory.flat and part == "groups":  # all of them for every pair of channels
        return memory.last.out_channels / 2
    return float({"conv_pairs": made, "widened": made, "planes": made + out}.get(part, out))


def _work(graph: Graph, step: Step) -> Work:
    """The weights and rows of maps that a layer of blocks touches for each row."""
    size, rows = 0, 0
    for memory in step.rows:
        rows = max(rows, *_rows(memory))
        for node in memory.block.nodes:
            result = graph.tensor(node.output)
            size += result.bytes // result.shape[1]
            if node.op.endswith("conv2d"):
                size += graph.tensor(node.inputs[1]).bytes
    return Work(size, float(rows))


def plan_two(
    demands: Sequence[Demand],
    step_names: Sequence[str],
    work: Mapping[int, Work],
    *,
    room: int,
    limit: int,
    cache: int = 0,
    overlaps: Sequence[Overlap] = (),
    alignment: int = ALIGNMENT,
) -> MemoryPlan | None:
    """A plan for two arenas whose sum is at most `limit` and that fetches little from the slow one.

    None if no buffer can lie in the fast one.

    Args:
        demands: the buffers; names are unique.
        step_names: one name per layer.
        work: layer -> what it touches beside its parts.
        room: bytes of the fast memory.
        limit: bytes that both may have together.
        cache: bytes of the cache in front of the slow memory.
        overlaps: as for `plan_memory`; they hold within the large arena only.
        alignment: every offset becomes a multiple of it.
    """
    lifetimes = [demand.lifetime for demand in demands]
    fixed = [demand.lifetime for demand in demands if not demand.movable]
    size = min(room, limit - _bound(fixed, step_names, alignment, overlaps))
    best: tuple[float, MemoryPlan] | None = None
    for _ in range(SIZES):
        fast = _fill(demands, work, size, cache, alignment)
        if not fast:
            break
        ends = {item.name: fast[item.name] + aligned(item.bytes, alignment) for item in lifetimes if item.name in fast}
        height = max(ends.values())
        rest = [item for item in lifetimes if item.name not in fast]
        live = live_bytes(rest, len(step_names), alignment, _among({item.name for item in rest}, overlaps))
        cost = sum(_fetched(demands, work, fast, cache).values())
        if max(live) + height <= limit and (best is None or cost < best[0]):
            plan = _beside(lifetimes, fast, step_names, limit, alignment, overlaps)
            if plan is not None:
                best = cost, plan
        # Where the large arena is fullest, so much of the fast one is in use. More than that only adds to the sum.
        full = [step for step, size in enumerate(live) if size == max(live)]
        used = (ends[item.name] for item in lifetimes if item.name in fast and _lives(item, full))
        size = min(max(used, default=0), height - alignment)
    return best[1] if best is not None else None


def _lives(item: Lifetime, steps: Sequence[int]) -> bool:
    return any(item.first <= step <= item.last for step in steps)


def _bound(
    lifetimes: Sequence[Lifetime], step_names: Sequence[str], alignment: int, overlaps: Sequence[Overlap]
) -> int:
    return lower_bound(lifetimes, len(step_names), alignment, _among({item.name for item in lifetimes}, overlaps))


def _among(names: Collection[str], overlaps: Sequence[Overlap]) -> list[Overlap]:
    return [overlap for overlap in overlaps if overlap.below in names and overlap.above in names]


def _by_layer(demands: Sequence[Demand]) -> dict[int, list[Demand]]:
    found: dict[int, list[Demand]] = {}
    for demand in demands:
        if demand.layer is not None:
            found.setdefault(demand.layer, []).append(demand)
    return found


def _fetched(
    demands: Sequence[Demand], work: Mapping[int, Work], fast: Collection[str], cache: int
) -> dict[int | None, float]:
    """Bytes that each layer fetches from slow memory for its parts and weights; of all other buffers under None."""
    found: dict[int | None, float] = {
        layer: _cost([demand for demand in parts if demand.lifetime.name not in fast], work.get(layer), cache)
        for layer, parts in _by_layer(demands).items()
    }
    others = [demand for demand in demands if demand.layer is None and demand.lifetime.name not in fast]
    found[None] = sum(demand.passes * demand.lifetime.bytes for demand in others)
    return found


def _cost(slow: Sequence[Demand], work: Work | None, cache: int) -> float:
    """Bytes fetched by a layer with these parts in slow memory: all of each pass over more than one and a half times
    the cache, none over less than the cache.
    """
    work = work or Work(0, 0.0)
    touched = work.bytes + sum(demand.lifetime.bytes for demand in slow)
    share = min(max((touched - cache) / (cache / 2), 0.0), 1.0) if cache else 1.0
    once = sum(demand.lifetime.bytes for demand in slow)
    again = work.bytes * work.rows + sum(demand.passes * demand.lifetime.bytes for demand in slow)
    return once + share * again


def _fill(
    demands: Sequence[Demand], work: Mapping[int, Work], height: int, cache: int, alignment: int
) -> dict[str, int]:
    """Offsets in a fast arena of `height` bytes of the buffers that are best there."""
    placed: list[tuple[Lifetime, int]] = []
    for layer, parts in _by_layer(demands).items():
        offset = 0
        for demand in _chosen(parts, work.get(layer), height, cache, alignment):
            placed.append((demand.lifetime, offset))
            offset += aligned(demand.lifetime.bytes, alignment)
    others = [demand for demand in demands if demand.layer is None and demand.movable]
    for demand in sorted(others, key=lambda item: (-item.passes, item.lifetime.bytes, item.lifetime.name)):
        item = demand.lifetime
        size, offset = aligned(item.bytes, alignment), 0
        meeting = [
            (at, at + aligned(other.bytes, alignment))
            for other, at in placed
            if other.first <= item.last and item.first <= other.last
        ]
        for start, end in sorted(meeting):
            if offset + size <= start:
                break
            offset = max(offset, end)
        if offset + size <= height:
            placed.append((item, offset))
    return {item.name: offset for item, offset in placed}


def _chosen(parts: Sequence[Demand], work: Work | None, height: int, cache: int, alignment: int) -> list[Demand]:
    """The parts of one layer that `height` bytes of fast memory hold and that save most: the best of several orders,
    in each of which another part comes first.
    """
    best: tuple[float, int, list[Demand]] | None = None
    for order in _orders([part for part in parts if part.movable]):
        taken: list[Demand] = []
        free = height
        for demand in order:
            size = aligned(demand.lifetime.bytes, alignment)
            if size <= free:
                taken.append(demand)
                free -= size
        cost = _cost([part for part in parts if part not in taken], work, cache)
        if best is None or (cost, -free) < (best[0], -best[1]):
            best = cost, free, taken
    return best[2] if best is not None else []


def _orders(movable: Sequence[Demand]) -> Iterator[list[Demand]]:
    small = sorted(movable, key=lambda item: (item.lifetime.bytes, item.lifetime.name))
    often = sorted(movable, key=lambda item: (-item.passes, item.lifetime.bytes, item.lifetime.name))
    for rest in (often, small, small[::-1]):
        yield rest
        for first in movable:
            yield [first, *(item for item in rest if item is not first)]


def _beside(
    lifetimes: Sequence[Lifetime],
    fast: Mapping[str, int],
    step_names: Sequence[str],
    limit: int,
    alignment: int,
    overlaps: Sequence[Overlap],
) -> MemoryPlan | None:
    """The plan with these buffers in the fast arena; None if the sum of both is above `limit`."""
    rest = [item for item in lifetimes if item.name not in fast]
    height = max(fast[item.name] + aligned(item.bytes, alignment) for item in lifetimes if item.name in fast)
    if _bound(rest, step_names, alignment, overlaps) + height > limit:
        return None
    slow = plan_memory(rest, step_names, alignment, _among({item.name for item in rest}, overlaps))
    if slow.arena_bytes + height > limit:
        return None
    offsets = {buffer.name: buffer.offset for buffer in slow.buffers}
    offsets |= {name: slow.arena_bytes + offset for name, offset in fast.items()}
    order = sorted(lifetimes, key=lambda item: (item.first, offsets[item.name]))
    buffers = tuple(Buffer(offset=offsets[item.name], **vars(item)) for item in order)
    live = live_bytes(lifetimes, len(step_names), alignment, overlaps)
    steps = [
        StepMemory(name, live[step], tuple(item.name for item in buffers if item.first <= step <= item.last))
        for step, name in enumerate(step_names)
    ]
    return MemoryPlan(
        slow.arena_bytes + height,
        max(live),
        f"{slow.strategy}, two memories",
        alignment,
        buffers,
        tuple(steps),
        fast_offset=slow.arena_bytes,
    )
