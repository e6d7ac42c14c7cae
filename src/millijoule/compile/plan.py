"""Where every buffer of an inference lies in one arena, decided before the firmware is built.

The algorithm, in words. Time is the index of the running layer. A buffer is a block of bytes with the first and the
last layer that need it; two buffers whose lifetimes share a layer must not share a byte. Place the buffers one after
another, each at the lowest offset that is free during its whole life. How low the arena becomes depends on the order
only: try a few orders that are known to be good (largest first, longest lived first, largest area first, by birth),
and, if none of them reaches the lower bound, improve the best one by moving a buffer that touches the top of the arena
to another place in the order, as long as tries are left. The lower bound is the largest number of bytes alive in any
one layer: no placement can be smaller, so a plan that reaches it is optimal.

A layer has two halves. Kernels that quantise their float input before they write anything (dynamic quantisation) need
the input only in the first half and their result only in the second; the quantised copy takes the input's own place.
`Lifetime.late` and `Lifetime.tail_bytes` say so, all other buffers need both halves.

The problem is dynamic storage allocation (Garey and Johnson, SR2); the search follows the idea of the hill climbing
allocator described for Arm's Ethos-U compiler.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["ALIGNMENT", "Buffer", "Lifetime", "MemoryPlan", "StepMemory", "aligned", "lower_bound", "plan_memory"]

ALIGNMENT = 8
"""Offsets are multiples of this many bytes: enough for every element type and for double-word loads."""
TRIES = 400
"""Moves that the hill climbing search may try; it stops sooner at the lower bound."""


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
    """

    arena_bytes: int
    lower_bound: int
    strategy: str
    alignment: int
    buffers: tuple[Buffer, ...]
    steps: tuple[StepMemory, ...]

    def buffer(self, name: str) -> Buffer:
        """The buffer called `name`. Raises KeyError when there is none."""
        for buffer in self.buffers:
            if buffer.name == name:
                return buffer
        raise KeyError(name)

    def peak_steps(self) -> tuple[int, ...]:
        """The layers during which `lower_bound` bytes are alive."""
        most = max((step.live_bytes for step in self.steps), default=0)
        return tuple(index for index, step in enumerate(self.steps) if step.live_bytes == most)

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON values."""
        return dataclasses.asdict(self)


def lower_bound(lifetimes: Sequence[Lifetime], steps: int, alignment: int = ALIGNMENT) -> int:
    """The largest number of (aligned) bytes alive in any one of the `steps` layers."""
    return max(_live_bytes(lifetimes, steps, alignment), default=0)


def plan_memory(lifetimes: Sequence[Lifetime], step_names: Sequence[str], alignment: int = ALIGNMENT) -> MemoryPlan:
    """The smallest arena that the search of this module finds; the same input gives the same plan.

    Args:
        lifetimes: the demands; names are unique.
        step_names: one name per layer; `first` and `last` of the lifetimes index it.
        alignment: every offset becomes a multiple of it.
    """
    halves = _live_bytes(lifetimes, len(step_names), alignment)
    live = [max(pair) for pair in zip(halves[0::2], halves[1::2], strict=True)]
    bound = max(live, default=0)
    best, strategy = _search(lifetimes, bound, alignment)
    height = max((best[item.name] + aligned(item.bytes, alignment) for item in lifetimes), default=0)
    buffers = tuple(
        Buffer(offset=best[item.name], **vars(item))
        for item in sorted(lifetimes, key=lambda item: (item.first, best[item.name]))
    )
    steps = tuple(
        StepMemory(name, live[step], tuple(b.name for b in buffers if b.first <= step <= b.last))
        for step, name in enumerate(step_names)
    )
    return MemoryPlan(height, bound, strategy, alignment, buffers, steps)


def _live_bytes(lifetimes: Sequence[Lifetime], steps: int, alignment: int) -> list[int]:
    """Bytes alive in each half of each layer."""
    live = [0] * (2 * steps)
    for item in lifetimes:
        for first, last, size in item.spans(alignment):
            for half in range(first, last + 1):
                live[half] += size
    return live


ORDERS: dict[str, Callable[[Lifetime], Any]] = {
    "largest first": lambda item: (-item.bytes, item.first, item.name),
    "longest lived first": lambda item: (item.first - item.last, -item.bytes, item.name),
    "largest area first": lambda item: (-item.bytes * (item.last - item.first + 1), item.first, item.name),
    "by birth": lambda item: (item.first, -item.bytes, item.name),
}


def _search(lifetimes: Sequence[Lifetime], bound: int, alignment: int) -> tuple[dict[str, int], str]:
    candidates: list[tuple[int, int, str, list[Lifetime], dict[str, int]]] = []
    for strategy, key in ORDERS.items():
        order = sorted(lifetimes, key=key)
        offsets, height = _place(order, alignment)
        if height == bound:
            return offsets, strategy
        candidates.append((height, len(candidates), strategy, order, offsets))
    height, _, strategy, order, offsets = min(candidates)
    chance = random.Random(0)
    for _ in range(TRIES):
        top = [n for n, item in enumerate(order) if offsets[item.name] + aligned(item.bytes, alignment) == height]
        moved = list(order)
        item = moved.pop(chance.choice(top) if chance.random() < 0.5 else chance.randrange(len(order)))
        moved.insert(chance.randrange(len(order)), item)
        new_offsets, new_height = _place(moved, alignment)
        if new_height <= height:
            if new_height < height:
                strategy = "hill climbing"
            order, offsets, height = moved, new_offsets, new_height
        if height == bound:
            break
    return offsets, strategy


def _place(order: Sequence[Lifetime], alignment: int) -> tuple[dict[str, int], int]:
    """Each buffer at the lowest offset that is free during its whole life."""
    placed: list[tuple[int, list[tuple[int, int, int]]]] = []
    offsets: dict[str, int] = {}
    height = 0
    for item in order:
        spans, offset = item.spans(alignment), 0
        # Beside another span that is alive at the same time: at most `low`, or at least `high`.
        walls = [
            (at - size, at + other_size)
            for at, others in placed
            for other_first, other_last, other_size in others
            for first, last, size in spans
            if other_first <= last and first <= other_last
        ]
        for low, high in sorted(walls):
            if offset <= low:
                break
            offset = max(offset, high)
        placed.append((offset, spans))
        offsets[item.name] = offset
        height = max(height, offset + aligned(item.bytes, alignment))
    return offsets, height
