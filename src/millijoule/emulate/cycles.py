"""Edge counts -> cycles per layer and per function."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from millijoule.boards import Board
from millijoule.emulate._counting import BlockCounter, Edge
from millijoule.emulate._decode import Instruction, decode
from millijoule.emulate.cortex_m4 import CortexM4
from millijoule.emulate.cortex_m7 import CortexM7
from millijoule.errors import BoardError

__all__ = ["Counts", "CycleModel", "EdgeCosts", "EdgeTotal", "cycle_model"]


class CycleModel(Protocol):
    """Timing rules of a core.

    `assumptions` and `expected_error` belong under every table of edge counts, `traced_error` under those of full
    traces, `conditions` (clock, flash, caches, placement) under both.
    """

    name: str
    version: str
    assumptions: str
    expected_error: str
    traced_error: str

    @property
    def conditions(self) -> str:
        """Clock, wait states, bank mode and placement."""

    def start(self) -> Hashable:
        """The pipeline's state when nothing is known of the past."""

    def run(self, state: Any, block: Sequence[Instruction]) -> tuple[int, Hashable]:
        """Cycles of a block, and the state at its end."""

    def leave(
        self, state: Any, branch: Instruction, following: Instruction, missed: bool = False
    ) -> tuple[int, Hashable]:
        """Cycles of going from a block that ends with `branch` to `following`, and the state there."""

    def cycles(self, blocks: Sequence[Sequence[Instruction]]) -> int:
        """Cycles of the blocks one after the other."""


def cycle_model(board: Board) -> CycleModel:
    """The timing rules of the board's core. Raises `BoardError` for a core without rules."""
    if board.core == "cortex-m4":
        return CortexM4(board=board)
    if board.core == "cortex-m7":
        return CortexM7(board=board)
    raise BoardError(board.title, f"there is no cycle model for {board.core}", "Use cortex-m4 or cortex-m7")


@dataclass(frozen=True)
class Counts:
    """Instructions and cycles of a run or a part of it."""

    instructions: int
    cycles: int


@dataclass(frozen=True)
class EdgeTotal:
    """What one edge contributes: the layer, the block it leads to, executions, instructions, cycles."""

    layer: int
    target: int
    count: int
    instructions: int
    cycles: int


_STATES = 12  # of a block's entry states, the most frequent ones are followed
_ROUNDS = 12
_SETTLED = 1e-3


@dataclass(frozen=True)
class _Way:
    """An edge while costs are solved."""

    source: int | None
    count: int
    missed: float  # share of executions whose branch was predicted wrongly


class EdgeCosts:
    """Costs of edges, from the state in which the pipeline reaches them.

    How a block's instructions pair, and what they wait for, depends on the state in which the block is entered, and so
    on blocks before. A run's edge counts say how often each predecessor came; so the distribution of entry states of
    every block is solved from them by iteration (a Markov chain whose steps are the edges), and an edge costs the mean
    over the states in which it is taken. Cores whose state is only the instruction before (M4) have one state per edge
    and exact costs.
    """

    def __init__(self, model: CycleModel, read: Callable[[int, int], bytes]) -> None:
        self.model = model
        self._read = read
        self._blocks: dict[tuple[int, int], tuple[Instruction, ...]] = {}
        self._runs: dict[tuple[int, int, Hashable], tuple[int, Hashable]] = {}
        self._seams: dict[tuple[int, int, Hashable, bool], tuple[int, Hashable]] = {}
        self._quick: dict[Hashable, tuple[int, float]] = {}

    def block(self, address: int, size: int) -> tuple[Instruction, ...]:
        """The instructions of a block."""
        key = (address, size)
        if key not in self._blocks:
            self._blocks[key] = decode(self._read(address, size), address)
        return self._blocks[key]

    def totals(self, edges: Iterable[Edge], sizes: Mapping[int, int]) -> list[EdgeTotal]:
        """Instructions and cycles of every edge."""
        edges = list(edges)
        joined: dict[tuple[int | None, int], list[int]] = {}
        for edge in edges:
            cell = joined.setdefault((edge.source, edge.target), [0, 0])
            cell[0] += edge.count
            cell[1] += edge.missed
        costs = self._solve({pair: (count, missed) for pair, (count, missed) in joined.items()}, sizes)
        found = []
        for edge in edges:
            length = len(self.block(edge.target, sizes[edge.target]))
            cycles = round(edge.count * costs[edge.source, edge.target])
            found.append(EdgeTotal(edge.layer, edge.target, edge.count, edge.count * length, cycles))
        return found

    def counts(self, counter: BlockCounter) -> Counts:
        """Sums over all edges; quick, because firmware may read its cycle counter often.

        Costs are solved again only when control has gone a new way, so the sum can differ from that of `totals` by
        what the frequencies of known edges change.
        """
        pairs = list(counter.pairs())
        if any(pair not in self._quick for pair, _, _ in pairs):
            sizes = counter.sizes()
            joined: dict[tuple[int | None, int], list[int]] = {}
            for pair, count, missed in pairs:
                cell = joined.setdefault(counter.ends(pair), [0, 0])
                cell[0] += count
                cell[1] += missed
            costs = self._solve({ends: (count, missed) for ends, (count, missed) in joined.items()}, sizes)
            for pair, _, _ in pairs:
                source, target = counter.ends(pair)
                self._quick[pair] = (len(self.block(target, sizes[target])), costs[source, target])
        instructions, cycles = 0, 0.0
        for pair, count, _ in pairs:
            length, cost = self._quick[pair]
            instructions += count * length
            cycles += count * cost
        return Counts(instructions, round(cycles))

    def _solve(
        self, joined: Mapping[tuple[int | None, int], tuple[int, int]], sizes: Mapping[int, int]
    ) -> dict[tuple[int | None, int], float]:
        """Mean cycles of every edge (source, target) -> (count, missed)."""
        entering: dict[int, list[_Way]] = {}
        for (source, target), (count, missed) in sorted(joined.items(), key=lambda item: (item[0][1], item[0][0] or 0)):
            entering.setdefault(target, []).append(_Way(source, count, missed / count))
        start = self.model.start()
        leaving: dict[int | None, dict[Hashable, float]] = {}
        for _ in range(_ROUNDS):
            change = 0.0
            for target, ways in entering.items():
                mixed: dict[Hashable, float] = {}
                total = sum(way.count for way in ways)
                for way in ways:
                    for state, share in self._entry(way, target, sizes, leaving.get(way.source), start)[1].items():
                        mixed[state] = mixed.get(state, 0.0) + share * way.count / total
                left: dict[Hashable, float] = {}
                for state, share in _most(mixed).items():
                    after = self._run(target, sizes[target], state)[1]
                    left[after] = left.get(after, 0.0) + share
                before = leaving.get(target, {})
                change = max(change, max(abs(share - before.get(state, 0.0)) for state, share in left.items()))
                leaving[target] = left
            if change < _SETTLED:
                break
        costs = {}
        for target, ways in entering.items():
            for way in ways:
                seam, states = self._entry(way, target, sizes, leaving.get(way.source), start)
                inside = sum(share * self._run(target, sizes[target], state)[0] for state, share in states.items())
                costs[way.source, target] = seam + inside
        return costs

    def _entry(
        self,
        way: _Way,
        target: int,
        sizes: Mapping[int, int],
        leaving: Mapping[Hashable, float] | None,
        start: Hashable,
    ) -> tuple[float, dict[Hashable, float]]:
        """Mean cycles of the seam, and the states in which the target is entered on this way."""
        if way.source is None:
            return 0.0, {start: 1.0}
        if leaving is None:  # the source comes later in the first round
            leaving = {self._run(way.source, sizes[way.source], start)[1]: 1.0}
        cost = 0.0
        states: dict[Hashable, float] = {}
        for state, share in leaving.items():
            for missed, part in ((False, 1.0 - way.missed), (True, way.missed)):
                if part:
                    seam, entered = self._seam(way.source, target, sizes, state, missed)
                    cost += share * part * seam
                    states[entered] = states.get(entered, 0.0) + share * part
        return cost, states

    def _run(self, address: int, size: int, state: Hashable) -> tuple[int, Hashable]:
        key = (address, size, state)
        if key not in self._runs:
            self._runs[key] = self.model.run(state, self.block(address, size))
        return self._runs[key]

    def _seam(
        self, source: int, target: int, sizes: Mapping[int, int], state: Hashable, missed: bool
    ) -> tuple[int, Hashable]:
        key = (source, target, state, missed)
        if key not in self._seams:
            branch, following = self.block(source, sizes[source])[-1], self.block(target, sizes[target])[0]
            self._seams[key] = self.model.leave(state, branch, following, missed)
        return self._seams[key]


def _most(states: dict[Hashable, float]) -> dict[Hashable, float]:
    """The most frequent states, their shares scaled to one."""
    if len(states) <= _STATES:
        return states
    kept = sorted(states.items(), key=lambda item: -item[1])[:_STATES]
    total = sum(share for _, share in kept)
    return {state: share / total for state, share in kept}
