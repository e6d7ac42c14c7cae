"""Which kinds of instructions were executed: six classes that add up to the instructions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from millijoule.emulate._decode import Instruction

__all__ = ["CLASSES", "class_of", "mix_of"]

CLASSES = ("multiply", "arithmetic", "load", "store", "branch", "other")
"""multiply: multiplications with or without addition, SMLAD and VFMA among them. arithmetic: all other work on
registers, moves and floating point included. load, store: however many words one instruction moves. branch: jumps,
calls, returns. other: IT, NOP and system instructions."""

_BY_KIND = {
    "multiply": "multiply",
    "float_multiply_add": "multiply",
    "alu": "arithmetic",
    "divide": "arithmetic",
    "float": "arithmetic",
    "float_divide": "arithmetic",
    "branch": "branch",
    "call": "branch",
    "indirect": "branch",
    "table": "branch",
    "nop": "other",
    "it": "other",
    "system": "other",
}


def class_of(instruction: Instruction) -> str:
    """One of `CLASSES`. A load that writes the program counter (the end of a function) is a load."""
    kind = instruction.kind
    if kind.startswith(("load", "float_load")):
        return "load"
    if kind.startswith(("store", "float_store")):
        return "store"
    if instruction.name == "hint":  # NOP and its relatives
        return "other"
    if instruction.name in ("vmul", "vnmul"):
        return "multiply"
    return _BY_KIND.get(kind, "other")


def mix_of(block: Iterable[Instruction]) -> Counter[str]:
    """How many instructions of each class a block has."""
    return Counter(class_of(instruction) for instruction in block)
