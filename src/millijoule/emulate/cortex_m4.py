"""Timing rules of the Cortex-M4F: one instruction at a time, loads may overlap.

Source of the figures: Arm Cortex-M4 Technical Reference Manual, instruction set summary and load/store timings; the
pairing rules as reproduced in TI's CC13x2 manual (SWCU185). Checked against published firmware images of the STM32L4R5
(docs/cycle-model.md): within 6 % with these rules once flash wait states are added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from millijoule.emulate._decode import Instruction

__all__ = ["CortexM4", "M4Rules"]


@dataclass(frozen=True)
class M4Rules:
    """The parameters of the model, in cycles."""

    refill_direct: int = 1  # P of the manual (1 to 3) for branches whose target is in the instruction
    refill_indirect: int = 2  # P for bx, pop {pc}, tables
    misaligned_target: int = 1  # the target is a 32-bit instruction that straddles two words
    address_from_alu: int = 1  # an address made by the instruction just before
    divide: int = 6  # SDIV, UDIV take 2 to 12 depending on the operands
    float_dependency: int = 1  # the next floating-point instruction uses the result
    float_multiply_add: int = 3
    float_divide: int = 14
    system: int = 2
    fold_it: bool = True  # IT costs nothing behind a 16-bit instruction


_LOADS_ONE = ("load", "float_load")
_BRANCHES = ("branch", "call", "indirect")


class CortexM4:
    """Cycles of straight lines of code, zero wait states."""

    name = "Cortex-M4F"
    version = "m4-2"
    assumptions = (
        "zero wait states, no cache misses, no penalty for unaligned accesses; division 6 cycles; branch refill 1 "
        "(direct) or 2 (indirect) cycles; on published images 2 to 4 % too fast with weights in RAM, up to 26 % where "
        "weights stream from flash"
    )

    def __init__(self, rules: M4Rules | None = None) -> None:
        self.rules = rules or M4Rules()

    def missed(self, branch: Instruction) -> int:
        """Cycles of a wrong branch prediction: this core predicts nothing."""
        return 0

    def cycles(self, blocks: Sequence[Sequence[Instruction]]) -> int:
        """Cycles of the blocks executed one after the other; a gap between two blocks is a taken branch."""
        total = 0
        previous: Instruction | None = None
        for number, block in enumerate(blocks):
            follower = blocks[number + 1] if number + 1 < len(blocks) else ()
            for position, instruction in enumerate(block):
                following = follower[0] if position == len(block) - 1 and follower else None
                taken = following is not None and following.address != instruction.end
                total += self._cost(instruction, previous, following, taken)
                previous = None if taken else instruction
        return total

    def _cost(
        self, instruction: Instruction, previous: Instruction | None, following: Instruction | None, taken: bool
    ) -> int:
        rules, kind, count = self.rules, instruction.kind, instruction.registers
        late = rules.address_from_alu if _address_from_alu(instruction, previous) else 0
        overlapped = _follows_load(instruction, previous)
        if kind == "load":
            return 2 - overlapped + late + (2 + rules.refill_indirect if instruction.writes_pc else 0)
        if kind == "store":
            return (2 - overlapped if instruction.register_offset else 1) + late
        if kind in ("load_double", "store_double"):
            return 3 + late
        if kind in ("load_many", "store_many"):
            return 1 + count + late + (1 + rules.refill_indirect if instruction.writes_pc else 0)
        if kind == "float_load":
            return count + 1 - (overlapped if count == 1 else 0)
        if kind in ("float_store", "float_load_many", "float_store_many"):
            return count + 1
        if kind == "it":
            return 0 if rules.fold_it and previous is not None and previous.size == 2 else 1
        if kind in _BRANCHES or kind == "table":
            return self._branch(instruction, following, taken)
        return self._simple(instruction, previous)

    def _branch(self, instruction: Instruction, following: Instruction | None, taken: bool) -> int:
        rules = self.rules
        if instruction.kind == "table":
            return 3 + rules.refill_indirect
        if not taken and instruction.kind == "branch":
            return 1
        cost = 1 + (rules.refill_indirect if instruction.kind == "indirect" else rules.refill_direct)
        if following is not None and following.size == 4 and following.address & 2:
            cost += rules.misaligned_target
        return cost

    def _simple(self, instruction: Instruction, previous: Instruction | None) -> int:
        rules = self.rules
        if instruction.kind == "float":
            producer = previous is not None and previous.kind in ("float", "float_multiply_add")
            waits = producer and previous is not None and previous.writes & instruction.reads
            return 1 + (rules.float_dependency if waits else 0)
        fixed = {
            "float_multiply_add": rules.float_multiply_add,
            "float_divide": rules.float_divide,
            "divide": rules.divide,
            "system": rules.system,
        }
        return fixed.get(instruction.kind, 1)


def _address_from_alu(instruction: Instruction, previous: Instruction | None) -> bool:
    """The address generation unit reads its registers one cycle early."""
    return (
        previous is not None and previous.kind in ("alu", "multiply") and bool(instruction.addresses & previous.writes)
    )


def _follows_load(instruction: Instruction, previous: Instruction | None) -> int:
    """1 when the access overlaps the load before it. Only a loaded register as address prevents that: a base register
    that the load wrote back does not (measured: `ldr r0,[r6],#4; ldr r1,[r6],#4` takes 2 + 1).
    """
    if previous is None or previous.kind not in _LOADS_ONE:
        return 0
    loaded = previous.writes - previous.addresses if previous.writeback else previous.writes
    return 0 if instruction.addresses & loaded else 1
