"""Edge counts with what memory adds, taken from one full trace of the same firmware.

Flash and caches cost what they cost because of where code and weights lie, hardly because of what the picture shows. So
one trace tells, layer by layer, how much slower the memories make the core than the zero wait states that edge counts
assume; every further inference then needs its edges only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from millijoule.emulate.cycles import EdgeTotal
from millijoule.emulate.trace import TraceResult
from millijoule.errors import EmulationError

__all__ = ["MemoryEstimate"]


@dataclass(frozen=True)
class MemoryEstimate:
    """Traced cycles divided by edge cycles, by layer number (0 outside, 1 mj_run, 2 and up the layers).

    Holds for the firmware, board and placement of the trace. How far estimates were from traces of the same pictures is
    in docs/cycle-model.md.
    """

    factors: Mapping[int, float]
    conditions: str

    @classmethod
    def of(cls, edges: Iterable[EdgeTotal], trace: TraceResult) -> MemoryEstimate:
        """From the edges and the full trace of one inference.

        Args:
            edges: `Machine.totals()` after the inference.
            trace: the trace of the same, or of an equal, inference.

        Raises:
            EmulationError: edges and trace executed different instructions.
        """
        cycles, instructions = _sums(edges)
        factors = {}
        for layer in trace.layers:
            if layer.number == 0 or not layer.instructions:
                continue
            if instructions.get(layer.number) != layer.instructions:
                raise EmulationError(
                    f"the trace of {layer.symbol}",
                    f"it has {layer.instructions:,} instructions, the edges {instructions.get(layer.number, 0):,}",
                    "Take both from the same inference",
                )
            factors[layer.number] = layer.cycles / cycles[layer.number]
        return cls(factors, trace.conditions)

    def layers(self, edges: Iterable[EdgeTotal]) -> dict[int, int]:
        """Estimated cycles by layer number of an inference of which only the edges are known.

        Layers that the trace did not execute keep their edge cycles.
        """
        cycles, _ = _sums(edges)
        return {number: round(count * self.factors.get(number, 1.0)) for number, count in cycles.items() if number}


def _sums(edges: Iterable[EdgeTotal]) -> tuple[dict[int, int], dict[int, int]]:
    cycles: dict[int, int] = {}
    instructions: dict[int, int] = {}
    for edge in edges:
        cycles[edge.layer] = cycles.get(edge.layer, 0) + edge.cycles
        instructions[edge.layer] = instructions.get(edge.layer, 0) + edge.instructions
    return cycles, instructions
