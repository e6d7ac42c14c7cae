"""Edge counts -> cycles per layer and per function."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from millijoule.boards import Board
from millijoule.emulate._counting import BlockCounter, Edge
from millijoule.emulate._decode import Instruction, decode
from millijoule.emulate.cortex_m4 import CortexM4
from millijoule.emulate.cortex_m7 import CortexM7
from millijoule.errors import BoardError

__all__ = ["Counts", "CycleModel", "EdgeCosts", "EdgeTotal", "cycle_model"]


class CycleModel(Protocol):
    """Timing rules of a core. `assumptions` belongs under every table made with it."""

    name: str
    version: str
    assumptions: str

    def cycles(self, blocks: Sequence[Sequence[Instruction]]) -> int:
        """Cycles of the blocks one after the other."""

    def missed(self, branch: Instruction) -> int:
        """Cycles of a wrong prediction of `branch`."""


def cycle_model(board: Board) -> CycleModel:
    """The timing rules of the board's core. Raises `BoardError` for a core without rules."""
    if board.core == "cortex-m4":
        return CortexM4()
    if board.core == "cortex-m7":
        return CortexM7()
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


class EdgeCosts:
    """Costs of edges, each computed once.

    The cost of going from block p to block b is T(p, b) - T(p), where T is the model's time of straight execution: so
    that a branch's refill, an overlapped load or a late operand at the seam is seen.
    """

    def __init__(self, model: CycleModel, read: Callable[[int, int], bytes]) -> None:
        self.model = model
        self._read = read
        self._blocks: dict[tuple[int, int], tuple[Instruction, ...]] = {}
        self._alone: dict[int, int] = {}
        self._costs: dict[tuple[int | None, int], tuple[int, int]] = {}
        self._quick: dict[Hashable, tuple[int, int, int]] = {}

    def block(self, address: int, size: int) -> tuple[Instruction, ...]:
        """The instructions of a block."""
        key = (address, size)
        if key not in self._blocks:
            self._blocks[key] = decode(self._read(address, size), address)
        return self._blocks[key]

    def totals(self, edges: Iterable[Edge], sizes: Mapping[int, int]) -> list[EdgeTotal]:
        """Instructions and cycles of every edge."""
        found = []
        for edge in edges:
            block = self.block(edge.target, sizes[edge.target])
            cost, penalty = self._cost(edge.source, edge.target, block, sizes)
            cycles = edge.count * cost + edge.missed * penalty
            found.append(EdgeTotal(edge.layer, edge.target, edge.count, edge.count * len(block), cycles))
        return found

    def counts(self, counter: BlockCounter) -> Counts:
        """Sums over all edges; quick, because firmware may read its cycle counter often."""
        instructions = cycles = 0
        sizes: Mapping[int, int] | None = None
        for pair, count, missed in counter.pairs():
            cost = self._quick.get(pair)
            if cost is None:
                sizes = sizes or counter.sizes()
                source, target = counter.ends(pair)
                block = self.block(target, sizes[target])
                cost = self._quick[pair] = (len(block), *self._cost(source, target, block, sizes))
            instructions += count * cost[0]
            cycles += count * cost[1] + missed * cost[2]
        return Counts(instructions, cycles)

    def _cost(
        self, source: int | None, target: int, block: tuple[Instruction, ...], sizes: Mapping[int, int]
    ) -> tuple[int, int]:
        key = (source, target)
        if key not in self._costs:
            if source is None:
                self._costs[key] = (self.model.cycles([block]), 0)
            else:
                before = self.block(source, sizes[source])
                if source not in self._alone:
                    self._alone[source] = self.model.cycles([before])
                both = self.model.cycles([before, block])
                self._costs[key] = (both - self._alone[source], self.model.missed(before[-1]))
        return self._costs[key]
