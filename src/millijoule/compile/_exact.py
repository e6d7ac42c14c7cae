"""Is there a memory plan below a given height? An exact search that may run out of patience.

Every pair of buffers that meet is a choice: one begins at most so far behind the other, or at least so far. The search
keeps an interval of offsets for every buffer. A choice of which one side has become impossible is made at once and
narrows both intervals; where nothing is forced, the pair of the largest buffers is tried both ways. When every choice
is made, the lower ends of the intervals are a plan, since each of them is the smallest offset that the others allow.
(Disjunctive constraints with bounds propagation, as in job-shop scheduling: J. Carlier and E. Pinson, An algorithm for
solving the job-shop problem, Management Science 35, 1989.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["OutOfPatience", "place_within"]

Choice = tuple[int, int, int, int]
"""(i, j, low, high): ``offset[i] - offset[j]`` is at most `low`, or at least `high`."""


class OutOfPatience(Exception):  # noqa: N818 - an answer, not a fault
    """Neither a plan nor a proof was found with the work that was allowed."""


def place_within(
    sizes: Mapping[str, int], walls: Mapping[str, Sequence[tuple[str, int, int]]], height: int, patience: list[int]
) -> dict[str, int] | None:
    """Offsets with which no buffer ends above `height`, or None when there are none.

    Args:
        sizes: buffer -> aligned bytes.
        walls: buffer -> (neighbour, low, high), see `plan.Walls`; every pair of neighbours is named from both sides.
        height: bytes of the arena.
        patience: how many choices may be looked at, in a list of one number, which is counted down.

    Raises:
        OutOfPatience: the search was cut off.
    """
    names = sorted(sizes, key=lambda name: (-sizes[name], name))
    number = {name: index for index, name in enumerate(names)}
    choices = [
        (index, number[other], low, high)
        for index, name in enumerate(names)
        for other, low, high in walls[name]
        if index < number[other]
    ]
    # The pairs of the largest buffers come first.
    choices.sort(key=lambda choice: -(sizes[names[choice[0]]] + sizes[names[choice[1]]]))
    touching: list[list[int]] = [[] for _ in names]
    for place, choice in enumerate(choices):
        touching[choice[0]].append(place)
        touching[choice[1]].append(place)
    if any(size > height for size in sizes.values()):
        return None
    state = _State([0] * len(names), [height - sizes[name] for name in names], [OPEN] * len(choices))
    stack = [(state, list(range(len(choices))))]
    while stack:
        state, changed = stack.pop()
        if not _narrow(choices, touching, state, changed, patience):
            continue
        if OPEN not in state.sides:
            return {name: state.lowest[index] for index, name in enumerate(names)}
        place = state.sides.index(OPEN)
        for side in (AFTER, BEFORE):
            tried = _State(list(state.lowest), list(state.highest), list(state.sides))
            tried.sides[place] = side
            stack.append((tried, [place]))
    return None


OPEN, BEFORE, AFTER, EITHER = range(4)


@dataclass
class _State:
    """Intervals of offsets, and for each choice the side that was taken; EITHER where none has to be."""

    lowest: list[int]
    highest: list[int]
    sides: list[int]


def _narrow(
    choices: Sequence[Choice],
    touching: Sequence[Sequence[int]],
    state: _State,
    changed: Sequence[int],
    patience: list[int],
) -> bool:
    """Makes every forced choice and narrows the intervals; False when a choice or a buffer has no place left."""
    lowest, highest, sides = state.lowest, state.highest, state.sides
    queue, waiting = deque(changed), set(changed)
    while queue:
        place = queue.popleft()
        waiting.discard(place)
        patience[0] -= 1
        if patience[0] < 0:
            raise OutOfPatience
        i, j, low, high = choices[place]
        if sides[place] == OPEN:
            before, after = lowest[i] - highest[j] <= low, highest[i] - lowest[j] >= high
            if not before and not after:
                return False
            if highest[i] - lowest[j] <= low or lowest[i] - highest[j] >= high:
                sides[place] = EITHER  # one side holds wherever the two end up
            elif not after:
                sides[place] = BEFORE
            elif not before:
                sides[place] = AFTER
        if sides[place] == BEFORE:
            moved = [j] * (lowest[i] - low > lowest[j]) + [i] * (highest[j] + low < highest[i])
            lowest[j], highest[i] = max(lowest[j], lowest[i] - low), min(highest[i], highest[j] + low)
        elif sides[place] == AFTER:
            moved = [i] * (lowest[j] + high > lowest[i]) + [j] * (highest[i] - high < highest[j])
            lowest[i], highest[j] = max(lowest[i], lowest[j] + high), min(highest[j], highest[i] - high)
        else:
            continue
        for buffer in moved:
            if lowest[buffer] > highest[buffer]:
                return False
            for other in touching[buffer]:
                if other not in waiting:
                    waiting.add(other)
                    queue.append(other)
    return True
