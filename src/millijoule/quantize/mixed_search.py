"""Which layers get 4 bits and which 8: a search over a simulation of the network.

Two greedy paths, one from all layers at 8 bits down to the smallest network and one from the smallest network up, each
step chosen by the change of the logits' noise per byte of flash, re-evaluated at the current choice for the most
promising candidates (the others keep their last figure, "lazy" greedy, Minoux 1978, doi:10.1007/BFb0006528). Neither
depends on the budget. Everything that was ever evaluated is remembered; a budget takes the least noise of all of it,
then fills what is left of the budget and swaps layers as long as that helps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from millijoule.files import Progress
from millijoule.quantize.layerwise import Branch, Simulation, noise

__all__ = ["Evaluator", "Layers", "MixedSearch", "Point", "SimulatedErrors"]

_LOOK = 3
"""Candidates that are evaluated again at each step."""

_SWAPS = 24
"""Most evaluations of the swaps at one budget."""


class Evaluator(Protocol):
    """What the search asks: the noise of the logits."""

    def error(self, bits: Mapping[str, int]) -> float:
        """With these bits of all layers."""

    def changed(self, bits: Mapping[str, int], layers: Sequence[str], to: int) -> dict[str, float]:
        """With one of the layers changed, for each of them."""


class SimulatedErrors:
    """An `Evaluator` of a `Simulation`."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation

    def error(self, bits: Mapping[str, int]) -> float:
        """Noise of the logits with these bits of all layers."""
        return self.simulation.error(bits)

    def changed(self, bits: Mapping[str, int], layers: Sequence[str], to: int) -> dict[str, float]:
        """The same with one layer changed, in one walk for all of them."""
        branches = self.simulation.branches(bits, dict.fromkeys(layers, (to,)))
        return {branch.layer: self._noise(branch) for branch in branches}

    def _noise(self, branch: Branch) -> float:
        return noise(self.simulation.reference, branch.logits)


@dataclass(frozen=True)
class Layers:
    """What 4 bits in each layer change.

    Attributes:
        saved: bytes of flash by layer, positive; layers that are not named keep 8 bits.
        cycles: cycles more for one picture by layer (may be empty: then no budget of cycles can be set).
        bytes_at_eight: flash with 8 bits everywhere.
        cycles_at_eight: cycles with 8 bits everywhere, None where they are unknown.
    """

    saved: Mapping[str, int]
    bytes_at_eight: int
    cycles: Mapping[str, int]
    cycles_at_eight: int | None = None


@dataclass(frozen=True)
class Point:
    """One choice of bits.

    Attributes:
        four: the layers with 4 bits.
        bytes: flash.
        cycles: for one picture; None where unknown.
        error: noise of the logits.
        step: how it was found.
    """

    four: frozenset[str]
    bytes: int
    cycles: int | None
    error: float
    step: str


class MixedSearch:
    """All choices found so far; the best one for a budget.

    Args:
        evaluator: gives the noise of a choice.
        every: all layers with weights, in execution order.
        layers: bytes and cycles of the layers that may have 4 bits.
        progress: called after each step of the paths.

    Attributes:
        points: everything evaluated, in that order.
    """

    def __init__(
        self, evaluator: Evaluator, every: Sequence[str], layers: Layers, progress: Progress | None = None
    ) -> None:
        self._evaluator, self._every, self._layers = evaluator, tuple(every), layers
        self._candidates = tuple(name for name in every if layers.saved.get(name, 0) > 0)
        self._known: dict[frozenset[str], Point] = {}
        total = 2 * len(self._candidates)
        self._path(frozenset(), 4, progress, 0, total)
        self._path(frozenset(self._candidates), 8, progress, total // 2, total)

    @property
    def points(self) -> tuple[Point, ...]:
        """Every choice that was evaluated."""
        return tuple(self._known.values())

    @property
    def least_bytes(self) -> int:
        """Flash with 4 bits wherever they save anything."""
        return self._bytes(frozenset(self._candidates))

    @property
    def frontier(self) -> tuple[Point, ...]:
        """The choices that no other one beats in both bytes and noise, smallest first."""
        best: list[Point] = []
        for point in sorted(self._known.values(), key=_order):
            if not best or point.error < best[-1].error:
                best.append(point)
        return tuple(best)

    def best(self, budget_bytes: int | None = None, budget_cycles: int | None = None) -> Point | None:
        """The choice with the least noise within the budgets; None when none of those known keeps them.

        Within one search a larger budget asked later never gives more noise: what was found for the smaller one is
        among its choices.
        """
        point = self._choose(budget_bytes, budget_cycles) or self._repaired(budget_bytes, budget_cycles)
        if point is None:
            return None
        for _ in range(4):
            self._neighbours(point, budget_bytes, budget_cycles)
            better = self._choose(budget_bytes, budget_cycles)
            if better is None or better is point:
                break
            point = better
        return point

    # *** evaluation *****

    def _bytes(self, four: frozenset[str]) -> int:
        return self._layers.bytes_at_eight - sum(self._layers.saved[name] for name in four)

    def _cycles(self, four: frozenset[str]) -> int | None:
        eight = self._layers.cycles_at_eight
        return None if eight is None else eight + sum(self._layers.cycles.get(name, 0) for name in four)

    def _bits(self, four: frozenset[str]) -> dict[str, int]:
        return {name: 4 if name in four else 8 for name in self._every}

    def _add(self, four: frozenset[str], error: float, step: str) -> Point:
        if four not in self._known:
            self._known[four] = Point(four, self._bytes(four), self._cycles(four), error, step)
        return self._known[four]

    def _fits(self, four: frozenset[str], budget_bytes: int | None, budget_cycles: int | None) -> bool:
        cycles = self._cycles(four)
        small = budget_bytes is None or self._bytes(four) <= budget_bytes
        return small and (budget_cycles is None or (cycles is not None and cycles <= budget_cycles))

    def _choose(self, budget_bytes: int | None, budget_cycles: int | None) -> Point | None:
        allowed = [point for point in self._known.values() if self._fits(point.four, budget_bytes, budget_cycles)]
        return min(allowed, key=lambda point: (point.error, *_order(point)), default=None)

    def _try(self, four: frozenset[str], layers: Sequence[str], to: int, step: str) -> dict[str, float]:
        """Noise with one of the layers changed; everything is remembered."""
        fresh = [name for name in layers if four ^ {name} not in self._known]
        if fresh:
            for name, error in self._evaluator.changed(self._bits(four), fresh, to).items():
                self._add(four ^ {name}, error, step)
        return {name: self._known[four ^ {name}].error for name in layers}

    # *** paths *****

    def _path(self, four: frozenset[str], to: int, progress: Progress | None, done: int, total: int) -> None:
        """Changes one layer after another to `to` bits, the one with the least noise per byte first."""
        step = "down from 8 bits" if to == 4 else "up from 4 bits"
        current = self._add(four, self._evaluator.error(self._bits(four)), step)
        stale: dict[str, float] = {}
        remaining = list(self._candidates)

        def rank(name: str) -> tuple[float, int]:
            return stale[name] / self._layers.saved[name], self._every.index(name)

        while remaining:
            look = remaining if not stale else sorted(remaining, key=rank)[:_LOOK]
            found = self._try(current.four, look, to, step)
            stale.update({name: error - current.error for name, error in found.items()})
            chosen = min(look, key=rank)
            remaining.remove(chosen)
            current = self._known[current.four ^ {chosen}]
            done += 1
            if progress is not None:
                progress("mixed precision", done, total)

    # *** local search *****

    def _excess(self, four: frozenset[str], budget_bytes: int | None, budget_cycles: int | None) -> float:
        """How far a choice is beyond the budgets, as a share of them; 0 within them."""
        cycles = self._cycles(four)
        excess = 0.0 if budget_bytes is None else max(0, self._bytes(four) - budget_bytes) / max(1, budget_bytes)
        if budget_cycles is not None and cycles is not None:
            excess += max(0, cycles - budget_cycles) / max(1, budget_cycles)
        return excess

    def _repaired(self, budget_bytes: int | None, budget_cycles: int | None) -> Point | None:
        """A choice between two budgets that both paths missed: flips and swaps from the nearest ones."""
        known = self._known.values()

        def excess(four: frozenset[str]) -> float:
            return self._excess(four, budget_bytes, budget_cycles)

        for start in sorted(known, key=lambda p: (excess(p.four), p.error, *_order(p)))[:_LOOK]:
            four = start.four
            while excess(four) > 0.0:
                flips = [four ^ {name} for name in self._candidates]
                swaps = [
                    four ^ {a, b} for a in self._candidates if a in four for b in self._candidates if b not in four
                ]
                nearest = min(flips + swaps, key=lambda other: (excess(other), sorted(other)), default=four)
                if excess(nearest) >= excess(four):
                    break
                four = nearest
            if self._fits(four, budget_bytes, budget_cycles):
                return self._add(four, self._evaluator.error(self._bits(four)), "between the budgets")
        return None

    def _neighbours(self, point: Point, budget_bytes: int | None, budget_cycles: int | None) -> None:
        """Evaluates what the rest of the budget allows, and swaps of one layer for another."""

        def fits(four: frozenset[str]) -> bool:
            return self._fits(four, budget_bytes, budget_cycles)

        eights = [name for name in self._candidates if name in point.four and fits(point.four - {name})]
        gains = self._gains()
        self._try(point.four, sorted(eights, key=lambda n: (-gains.get(n, 0.0), n))[:_LOOK], 8, "rest of the budget")
        pairs = [
            (gains.get(up, 0.0) - gains.get(down, 0.0), up, down)
            for up in self._candidates
            if up in point.four
            for down in self._candidates
            if down not in point.four and fits((point.four - {up}) | {down})
        ]
        pairs.sort(key=lambda pair: (-pair[0], pair[1], pair[2]))
        chosen = [pair for pair in pairs[:_SWAPS] if pair[0] > 0.0]
        for down in dict.fromkeys(pair[2] for pair in chosen):
            ups = [pair[1] for pair in chosen if pair[2] == down]
            self._try(point.four | {down}, ups, 8, "swap")

    def _gains(self) -> dict[str, float]:
        """How much noise 4 bits in a layer were last seen to add."""
        gains = {}
        for four, point in self._known.items():
            for name in self._candidates:
                other = self._known.get(four ^ {name})
                if other is not None:
                    gains[name] = abs(other.error - point.error) if math.isfinite(point.error) else 0.0
        return gains


def _order(point: Point) -> tuple[int, float, tuple[str, ...]]:
    return point.bytes, point.error, tuple(sorted(point.four))
