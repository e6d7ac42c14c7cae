"""Order of instructions for the Cortex-M7: two a cycle, one of them a multiplication.

A list scheduler for straight code: in every cycle the ready instruction with the longest path behind it goes first.
The pipeline is that of `millijoule.emulate.cortex_m7` (sources there), as far as the kernels need it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["scheduled"]

_REGISTER = re.compile(r"\b(?:r\d+|s\d+|lr|sp)\b")
_STACK = re.compile(r"\[sp.*\]")
_MULTIPLIES = ("sml", "smm", "smu", "mul", "mla")


@dataclass
class _Operation:
    text: str
    unit: str  # "mac", "load", "store", "simd" (first slot only), "alu"
    reads: frozenset[str]
    writes: frozenset[str]
    early: frozenset[str] = frozenset()  # needed one cycle earlier
    late: frozenset[str] = frozenset()  # needed one cycle later
    back: frozenset[str] = frozenset()  # written back: there at once
    latency: int = 1
    before: list[tuple[int, int]] = field(default_factory=list)  # (operation, cycles from its issue to this one's)
    length: int = 0  # cycles from here to the end on the longest path


def _operation(text: str) -> _Operation:
    """Reads and writes of one instruction, from its text."""
    mnemonic, _, operands = text.strip().partition(" ")
    found = _REGISTER.findall(operands)
    first, rest = frozenset(found[:1]), frozenset(found[1:])
    slot = frozenset(_STACK.findall(operands))  # a word of the stack is as good as a register
    if mnemonic.startswith("ldr"):
        back = rest if operands.rstrip().endswith("!") or "]," in operands else frozenset()
        return _Operation(text, "load", rest | slot, first | back, early=rest, back=back)
    if mnemonic.startswith("str"):
        return _Operation(text, "store", first | rest, slot, early=rest, late=first)
    if mnemonic == "cmp":
        return _Operation(text, "alu", first | rest, frozenset(["flags"]))
    if mnemonic == "sel":
        return _Operation(text, "simd", rest | {"ge"}, first)
    if mnemonic.startswith(_MULTIPLIES):
        return _Operation(text, "mac", rest, first, late=frozenset(found[3:]) - set(found[1:3]), latency=2)
    if mnemonic in ("ssat", "usat"):
        return _Operation(text, "simd", rest, first, early=rest, latency=2)
    if mnemonic == "ssub16":
        return _Operation(text, "simd", rest, first | {"ge"})
    if mnemonic == "lsrs":
        return _Operation(text, "shift", rest, first | {"flags"})
    return _Operation(text, "shift" if mnemonic in ("asr", "lsr", "lsl") else "alu", rest, first)


def _link(operations: Sequence[_Operation]) -> None:
    """Dependences between operations, and the longest paths."""
    for number, operation in enumerate(operations):
        for earlier in range(number):
            other = operations[earlier]
            needed = operation.reads & other.writes
            if needed:
                delay = max(
                    (0 if register in other.back else other.latency)
                    + (register in operation.early)
                    - (register in operation.late and register not in operation.early)
                    for register in needed
                )
                operation.before.append((earlier, max(delay, 0)))
            elif operation.writes & (other.reads | other.writes):
                operation.before.append((earlier, 0))
    for number in range(len(operations) - 1, -1, -1):
        operation = operations[number]
        operation.length += operation.latency
        for earlier, delay in operation.before:
            operations[earlier].length = max(operations[earlier].length, operation.length - operation.latency + delay)


def _fits(issued: Sequence[_Operation], operation: _Operation) -> bool:
    if not issued:
        return True
    units = {issued[0].unit, operation.unit}
    if operation.unit == "simd" or issued[0].unit == operation.unit != "alu":
        return False
    return not (units == {"load", "store"} or units == {"simd", "shift"})


def scheduled(lines: Sequence[str]) -> list[str]:
    """The same instructions (registers, not names, as operands) in an order that keeps both pipelines busy."""
    operations = [_operation(line) for line in lines]
    _link(operations)
    cycle_of: dict[int, int] = {}
    left = list(range(len(operations)))
    result: list[str] = []
    cycle = 0
    while left:
        issued: list[_Operation] = []
        while len(issued) < 2:
            ready = [
                number
                for number in left
                if _fits(issued, operations[number])
                and all(cycle_of.get(other, 1 << 30) + delay <= cycle for other, delay in operations[number].before)
            ]
            if not ready:
                break
            best = max(ready, key=lambda number: (operations[number].length, -number))
            # what fits only into the first slot goes there while a multiplication can still join it
            if not issued:
                firsts = [number for number in ready if operations[number].unit == "simd"]
                best = firsts[0] if firsts and operations[best].unit == "mac" else best
            cycle_of[best] = cycle
            left.remove(best)
            issued.append(operations[best])
            result.append(operations[best].text)
        cycle += 1
    return result
