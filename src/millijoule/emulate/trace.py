"""What a full trace of an inference found: cycles and the causes of stalls, per layer and per instruction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["STALLS", "AddressTrace", "LayerTrace", "TraceResult"]

# Why a core waited, in cycles:
#   load_use           the second cycle of a load that no other load hides (M4); an operand still being loaded (M7)
#   dependency         an operand another instruction has not finished (addresses from the ALU, floating point)
#   branch             refill of the pipeline after taken branches, bubbles, wrong predictions
#   flash_fetch        instructions that flash had not delivered, whatever cache stands before it
#   flash_data         data that flash had not delivered, whatever cache stands before it
#   instruction_cache  lines of the instruction cache filled from other memories than flash
#   data_cache         lines of the data cache filled from other memories than flash
#   bank               two loads to one bank of the memory (M7); wait states of RAM (M4, the SRAM3 option)
#   unaligned          accesses across a word
STALLS = (
    "load_use",
    "dependency",
    "branch",
    "flash_fetch",
    "flash_data",
    "instruction_cache",
    "data_cache",
    "bank",
    "unaligned",
)


@dataclass(frozen=True)
class LayerTrace:
    """One layer: what executed between its function's first instruction and its return.

    `number` and `symbol` are those of the block counter: 0 is everything outside, 1 mj_run itself, 2 and up the layers.
    `instructions` includes the `skipped` ones, whose condition failed: the core issues them, too. `stalls` are cycles
    by cause (`STALLS`), part of `cycles`. `kinds` counts instructions by kind ("load", "multiply", "branch", ...).
    """

    number: int
    symbol: str
    instructions: int
    skipped: int
    cycles: int
    stalls: Mapping[str, int]
    kinds: Mapping[str, int]


@dataclass(frozen=True)
class AddressTrace:
    """One instruction: its disassembly, how often it was issued, its cycles and stalls (cycles by cause)."""

    address: int
    text: str
    instructions: int
    skipped: int
    cycles: int
    stalls: Mapping[str, int]


@dataclass(frozen=True)
class TraceResult:
    """A full trace. The totals are sums over `layers`; `addresses` are sorted by address.

    `conditions` names clock, wait states, bank mode and placement; `expected_error` says how far boards of the same
    silicon were from this model. `memory` counts cache and flash events (names depend on the core).
    """

    core: str
    model_version: str
    clock_hz: int
    conditions: str
    expected_error: str
    instructions: int
    skipped: int
    cycles: int
    stalls: Mapping[str, int]
    memory: Mapping[str, int]
    layers: tuple[LayerTrace, ...]
    addresses: tuple[AddressTrace, ...]

    @property
    def milliseconds(self) -> float:
        """Time at the board's clock."""
        return self.cycles / self.clock_hz * 1e3

    def to_json(self, *, addresses: bool = True) -> dict[str, Any]:
        """The result as plain values for a JSON file.

        Args:
            addresses: whether to keep the list of instructions, by far the largest part.
        """
        values = asdict(self)
        if not addresses:
            del values["addresses"]
        values["milliseconds"] = self.milliseconds
        return values
