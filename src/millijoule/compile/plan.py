"""Where every buffer of an inference lies in one arena, decided before the firmware is built.

The algorithm, in words. Time is the index of the running layer. A buffer is a block of bytes with the first and the
last layer that need it; two buffers whose lifetimes share a layer must not share a byte. Place the buffers one after
another, each at the lowest offset that is free during its whole life. How low the arena becomes depends on the order
only: try a few orders that are known to be good (largest first, longest lived first, largest area first, by birth),
and, if none of them reaches the lower bound, improve the best one by moving a buffer that touches the top of the arena
to another place in the order, as long as tries are left. The lower bound is the largest number of bytes alive in any
one layer: no placement can be smaller, so a plan that reaches it is optimal. For a plan that does not, an exact search
looks for a smaller one until there is none or its patience ends; a proof that there is none raises the bound.

A layer has two halves. Kernels that quantise their float input before they write anything (dynamic quantisation) need
the input only in the first half and their result only in the second; the quantised copy takes the input's own place.
`Lifetime.late` and `Lifetime.tail_bytes` say so, all other buffers need both halves.

A layer that reads its input and writes its result from front to back may write where it has read: `Overlap` says how
far behind the start of the dying input the result may begin. Closer to the front every byte is read before it is
overwritten. The bound then counts the smallest union of the two.

The problem is dynamic storage allocation (Garey and Johnson, SR2); the search follows the idea of the hill climbing
allocator described for Arm's Ethos-U compiler.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from millijoule.compile._exact import OutOfPatience, place_within
from millijoule.errors import PlacementError

__all__ = [
    "ALIGNMENT",
    "Buffer",
    "Lifetime",
    "MemoryPlan",
    "Overlap",
    "StepMemory",
    "aligned",
    "live_bytes",
    "lower_bound",
    "plan_memory",
]

ALIGNMENT = 8
"""Offsets are multiples of this many bytes: enough for every element type and for double-word loads."""
TRIES = 400
"""Moves that the hill climbing search may try; it stops sooner at the lower bound."""
WORK = 700_000
"""Pairs of neighbours that it may look at, about half a second. Large plans get fewer tries."""
PATIENCE = 200_000
"""Pairs that the exact search may look at, about half a second."""


def aligned(size: int, alignment: int = ALIGNMENT) -> int:
    """`size` rounded up to a multiple of `alignment`.

    Example:
        >>> aligned(13)
        16
    """
    return -(-size // alignment) * alignment


@dataclass(frozen=True)
class Lifetime:
    """A demand for memory.

    Attributes:
        name: unique in its plan.
        bytes: size, at least 1.
        first: the first layer that touches it.
        last: the last layer that touches it, at least `first`.
        kind: "picture", "activation" or "scratch".
        tensors: the tensors that live in it, one after another (in-place layers and reshapes share a buffer).
        late: its first layer needs it in the second half only.
        tail_bytes: in the second half of its last layer only so many of its bytes are needed; None for all.
    """

    name: str
    bytes: int
    first: int
    last: int
    kind: str = "activation"
    tensors: tuple[str, ...] = ()
    late: bool = False
    tail_bytes: int | None = None

    def spans(self, alignment: int = ALIGNMENT) -> list[tuple[int, int, int]]:
        """When how much of it is needed: (first half layer, last half layer, aligned bytes)."""
        begin, end = 2 * self.first + self.late, 2 * self.last + 1
        size = aligned(self.bytes, alignment)
        if self.tail_bytes is None:
            return [(begin, end, size)]
        spans = [(begin, end - 1, size), (end, end, aligned(self.tail_bytes, alignment))]
        return [span for span in spans if span[0] <= span[1]]


@dataclass(frozen=True)
class Overlap:
    """Leave for a result to lie partly or wholly on an input that its layer reads for the last time.

    They may share bytes as long as ``offset(below) <= offset(above) + distance``; otherwise they are disjoint.

    Attributes:
        below: the result; its first layer is the last one of `above`.
        above: the input.
        distance: bytes, negative where the result has to begin in front of the input. It is rounded down to a multiple
            of the alignment.
    """

    below: str
    above: str
    distance: int


@dataclass(frozen=True)
class Buffer:
    """A `Lifetime` with its place: `offset` bytes from the start of the arena."""

    name: str
    offset: int
    bytes: int
    first: int
    last: int
    kind: str
    tensors: tuple[str, ...]
    late: bool
    tail_bytes: int | None

    @property
    def end(self) -> int:
        """The first byte behind the buffer."""
        return self.offset + self.bytes


@dataclass(frozen=True)
class StepMemory:
    """What is alive while one layer runs."""

    name: str
    live_bytes: int
    buffers: tuple[str, ...]


@dataclass(frozen=True)
class MemoryPlan:
    """Offsets of every buffer.

    Attributes:
        arena_bytes: size of the arena.
        lower_bound: no plan for these lifetimes can be smaller than this.
        strategy: which order of placement gave the plan.
        alignment: every offset is a multiple of it.
        buffers: in order of their first layer.
        steps: what is alive in each layer, in the order of execution.
        fast_offset: what lies from here on is in the board's fastest memory, see `placement`; None: nothing is.
    """

    arena_bytes: int
    lower_bound: int
    strategy: str
    alignment: int
    buffers: tuple[Buffer, ...]
    steps: tuple[StepMemory, ...]
    fast_offset: int | None = None

    @property
    def slow_bytes(self) -> int:
        """Bytes of the arena without its fast part."""
        return self.arena_bytes if self.fast_offset is None else self.fast_offset

    @property
    def fast_bytes(self) -> int:
        """Bytes of the arena that lie in the board's fastest memory by themselves."""
        return self.arena_bytes - self.slow_bytes

    def buffer(self, name: str) -> Buffer:
        """The buffer called `name`. Raises KeyError when there is none."""
        for buffer in self.buffers:
            if buffer.name == name:
                return buffer
        raise KeyError(name)

    def peak_steps(self) -> tuple[int, ...]:
        """The layers during which the most bytes are alive."""
        most = max((step.live_bytes for step in self.steps), default=0)
        return tuple(index for index, step in enumerate(self.steps) if step.live_bytes == most)

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON values."""
        return dataclasses.asdict(self)


def lower_bound(
    lifetimes: Sequence[Lifetime], steps: int, alignment: int = ALIGNMENT, overlaps: Sequence[Overlap] = ()
) -> int:
    """The largest number of (aligned) bytes alive in any one of the `steps` layers.

    Raises:
        PlacementError: an overlap of buffers that do not exist, or not of a dying and a new one.
    """
    return max(_live_bytes(lifetimes, steps, alignment, _distances(lifetimes, alignment, overlaps)), default=0)


def live_bytes(
    lifetimes: Sequence[Lifetime], steps: int, alignment: int = ALIGNMENT, overlaps: Sequence[Overlap] = ()
) -> list[int]:
    """The bytes that each layer needs at least; the largest is `lower_bound`.

    Raises:
        PlacementError: as for `lower_bound`.
    """
    halves = _live_bytes(lifetimes, steps, alignment, _distances(lifetimes, alignment, overlaps))
    return [max(pair) for pair in zip(halves[0::2], halves[1::2], strict=True)]


def plan_memory(
    lifetimes: Sequence[Lifetime],
    step_names: Sequence[str],
    alignment: int = ALIGNMENT,
    overlaps: Sequence[Overlap] = (),
) -> MemoryPlan:
    """The smallest arena that the search of this module finds; the same input gives the same plan.

    Args:
        lifetimes: the demands; names are unique.
        step_names: one name per layer; `first` and `last` of the lifetimes index it.
        alignment: every offset becomes a multiple of it.
        overlaps: which results may lie on which inputs; where a pair is named twice, the larger distance counts.

    Raises:
        PlacementError: an overlap of buffers that do not exist, or not of a dying and a new one.
    """
    distances = _distances(lifetimes, alignment, overlaps)
    live = live_bytes(lifetimes, len(step_names), alignment, overlaps)
    bound = max(live, default=0)
    walls = _walls(lifetimes, alignment, distances)
    best, strategy = _search(lifetimes, bound, alignment, walls)
    best, height, bound, strategy = _improve(lifetimes, best, bound, alignment, walls, strategy)
    buffers = tuple(
        Buffer(offset=best[item.name], **vars(item))
        for item in sorted(lifetimes, key=lambda item: (item.first, best[item.name]))
    )
    steps = tuple(
        StepMemory(name, live[step], tuple(b.name for b in buffers if b.first <= step <= b.last))
        for step, name in enumerate(step_names)
    )
    return MemoryPlan(height, bound, strategy, alignment, buffers, steps)


Distances = Mapping[tuple[str, str], int]
"""(below, above) -> distance, a multiple of the alignment."""
Walls = Mapping[str, Sequence[tuple[str, int, int]]]
"""Buffer -> (neighbour, low, high): beside a neighbour at offset `at` it lies at most at ``at + low``, or at least at
``at + high``."""


def _distances(lifetimes: Sequence[Lifetime], alignment: int, overlaps: Sequence[Overlap]) -> Distances:
    known = {item.name: item for item in lifetimes}
    distances: dict[tuple[str, str], int] = {}
    for overlap in overlaps:
        what = f"overlap of {overlap.below!r} and {overlap.above!r}"
        below, above = known.get(overlap.below), known.get(overlap.above)
        if below is None or above is None or below is above:
            raise PlacementError(what, "these are not two of the buffers", "Name buffers of the plan")
        if below.first != above.last:
            raise PlacementError(
                what,
                f"{below.name!r} is born in layer {below.first}, {above.name!r} dies in layer {above.last}",
                "Let only the result and a dying input of one layer overlap",
            )
        pair, distance = (below.name, above.name), overlap.distance // alignment * alignment
        distances[pair] = max(distance, distances.get(pair, distance))
    return distances


def _live_bytes(lifetimes: Sequence[Lifetime], steps: int, alignment: int, distances: Distances) -> list[int]:
    """Bytes that are needed in each half of each layer, at least."""
    sizes: list[dict[str, int]] = [{} for _ in range(2 * steps)]
    for item in lifetimes:
        for first, last, size in item.spans(alignment):
            for half in range(first, last + 1):
                sizes[half][item.name] = size
    shared: list[list[tuple[str, str, int]]] = [[] for _ in sizes]
    ends = {item.name: item.last for item in lifetimes}
    for (below, above), distance in distances.items():
        for half in (2 * ends[above], 2 * ends[above] + 1):
            if below in sizes[half] and above in sizes[half]:
                shared[half].append((below, above, distance))
    return [_union(alive, pairs) for alive, pairs in zip(sizes, shared, strict=True)]


def _union(sizes: Mapping[str, int], pairs: Sequence[tuple[str, str, int]]) -> int:
    """Bytes that buffers need at least when only `pairs` may share some; exact for pairs without a common buffer."""
    total = sum(sizes.values())
    if not pairs:
        return total
    common = 0
    for below, above, distance in pairs:
        union = max(sizes[above] + max(-distance, 0), sizes[below])
        common += max(sizes[below] + sizes[above] - union, 0)
    # A union is at least the sum less what pairs have in common (Bonferroni), and at least the sum of all buffers that
    # are left when one of each pair is taken away, because those are disjoint.
    without_results = total - sum(sizes[name] for name in {pair[0] for pair in pairs})
    without_inputs = total - sum(sizes[name] for name in {pair[1] for pair in pairs})
    return max(total - common, without_results, without_inputs)


ORDERS: dict[str, Callable[[Lifetime], Any]] = {
    "largest first": lambda item: (-item.bytes, item.first, item.name),
    "longest lived first": lambda item: (item.first - item.last, -item.bytes, item.name),
    "largest area first": lambda item: (-item.bytes * (item.last - item.first + 1), item.first, item.name),
    "by birth": lambda item: (item.first, -item.bytes, item.name),
    "by birth, last first": lambda item: (-item.first, -item.bytes, item.name),
}


def _search(lifetimes: Sequence[Lifetime], bound: int, alignment: int, walls: Walls) -> tuple[dict[str, int], str]:
    candidates: list[tuple[int, int, str, list[Lifetime], dict[str, int]]] = []
    for strategy, key in ORDERS.items():
        order = sorted(lifetimes, key=key)
        offsets, height = _place(order, walls, alignment)
        if height == bound:
            return offsets, strategy
        candidates.append((height, len(candidates), strategy, order, offsets))
    height, _, strategy, order, offsets = min(candidates)
    chance = random.Random(0)
    for _ in range(min(TRIES, WORK // max(1, sum(map(len, walls.values()))))):
        top = [n for n, item in enumerate(order) if offsets[item.name] + aligned(item.bytes, alignment) == height]
        moved = list(order)
        item = moved.pop(chance.choice(top) if chance.random() < 0.5 else chance.randrange(len(order)))
        moved.insert(chance.randrange(len(order)), item)
        new_offsets, new_height = _place(moved, walls, alignment)
        if new_height <= height:
            if new_height < height:
                strategy = "hill climbing"
            order, offsets, height = moved, new_offsets, new_height
        if height == bound:
            break
    return offsets, strategy


def _improve(
    lifetimes: Sequence[Lifetime], offsets: dict[str, int], bound: int, alignment: int, walls: Walls, strategy: str
) -> tuple[dict[str, int], int, int, str]:
    """Ever smaller plans by exact search: the last one, its height, a bound that no plan is below, and its origin."""
    sizes = {item.name: aligned(item.bytes, alignment) for item in lifetimes}
    patience = [PATIENCE]
    height = max((offsets[name] + size for name, size in sizes.items()), default=0)
    while height > bound:
        try:
            found = place_within(sizes, walls, height - alignment, patience)
        except OutOfPatience:
            break
        if found is None:
            bound = height
        else:
            offsets, strategy = found, "exact search"
            height = max(offsets[name] + size for name, size in sizes.items())
    return offsets, height, bound, strategy


def _walls(lifetimes: Sequence[Lifetime], alignment: int, distances: Distances) -> Walls:
    walls: dict[str, list[tuple[str, int, int]]] = {item.name: [] for item in lifetimes}
    spans = [(item.name, item.spans(alignment)) for item in lifetimes]
    for index, (name, own) in enumerate(spans):
        for other, others in spans[:index]:
            found = {
                _free_distances(size, other_size, distances.get((name, other)), distances.get((other, name)))
                for first, last, size in own
                for other_first, other_last, other_size in others
                if other_first <= last and first <= other_last
            }
            for low, high in sorted(found):
                if low < high:
                    walls[name].append((other, low, high))
                    walls[other].append((name, -high, -low))
    return walls


def _free_distances(size: int, other_size: int, on_other: int | None, other_on: int | None) -> tuple[int, int]:
    """How far behind the start of another buffer this one may begin: at most `low`, or at least `high`.

    Args:
        size: its bytes.
        other_size: bytes of the other one.
        on_other: distance of the overlap with this buffer below, if there is one.
        other_on: distance of the overlap with the other one below.
    """
    low = -size if on_other is None else max(-size, on_other)
    high = other_size if other_on is None else min(other_size, -other_on)
    return low, high


def _place(order: Sequence[Lifetime], walls: Walls, alignment: int) -> tuple[dict[str, int], int]:
    """Each buffer at the lowest offset that is free during its whole life."""
    offsets: dict[str, int] = {}
    height = 0
    for item in order:
        offset = 0
        taken = [
            (offsets[other] + low, offsets[other] + high) for other, low, high in walls[item.name] if other in offsets
        ]
        for low, high in sorted(taken):
            if offset <= low:
                break
            offset = max(offset, high)
        offsets[item.name] = offset
        height = max(height, offset + aligned(item.bytes, alignment))
    return offsets, height
