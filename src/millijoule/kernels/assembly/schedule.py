"""Order of instructions for the Cortex-M7: two a cycle, one of them a multiplication.

A list scheduler for straight code: in every cycle goes what is ready and has the longest path behind it.
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
    shifts = mnemonic in ("asr", "lsr", "lsl") or ", asr " in operands or ", lsl " in operands
    return _Operation(text, "shift" if shifts else "alu", rest, first)


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


def _fits(first: _Operation, second: _Operation) -> bool:
    """Whether the second one can issue in the cycle of the first."""
    units = {first.unit, second.unit}
    if second.unit == "simd" or first.unit == second.unit != "alu":
        return False
    return units != {"load", "store"} and units != {"simd", "shift"}


def _order(operations: Sequence[_Operation], by_pairs: bool) -> list[int]:
    """Cycle by cycle what is ready and has the longest path behind it: the first one first, or the best two."""
    cycle_of: dict[int, int] = {}
    left = list(range(len(operations)))
    result: list[int] = []
    cycle = 0

    def ready(number: int, beside: int = -1) -> bool:
        return all(
            (cycle if other == beside else cycle_of.get(other, 1 << 30)) + delay <= cycle
            for other, delay in operations[number].before
        )

    def best_beside(first: int) -> int | None:
        fitting = [
            number
            for number in left
            if number != first and _fits(operations[first], operations[number]) and ready(number, first)
        ]
        return max(fitting, key=lambda number: (operations[number].length, -number), default=None)

    while left:
        firsts = [number for number in left if ready(number)]
        if firsts and not by_pairs:
            longest = max(firsts, key=lambda number: (operations[number].length, -number))
            # what fits only into the first slot goes there while a multiplication can still join it
            alone = [number for number in firsts if operations[number].unit == "simd"]
            firsts = alone[:1] if alone and operations[longest].unit == "mac" else [longest]
        choices = [(first, best_beside(first)) for first in firsts]
        if choices:
            first, second = max(
                choices,
                key=lambda two: (
                    two[1] is not None,
                    operations[two[0]].length + (operations[two[1]].length if two[1] is not None else 0),
                    -two[0],
                ),
            )
            for number in (first,) if second is None else (first, second):
                cycle_of[number] = cycle
                left.remove(number)
                result.append(number)
        cycle += 1
    return result


def _cycles(operations: Sequence[_Operation]) -> int:
    """Cycles of the operations in this order."""
    ready: dict[str, int] = {}
    cycle, issued = 0, None
    full = False
    for operation in operations:
        start = max(
            (
                ready.get(register, 0)
                + (register in operation.early)
                - (register in operation.late and register not in operation.early)
                for register in operation.reads
            ),
            default=0,
        )
        if start > cycle:
            cycle, issued, full = start, None, False
        if full or (issued is not None and not _fits(issued, operation)):
            cycle, issued, full = cycle + 1, None, False
        full = issued is not None
        issued = operation
        for register in operation.writes:
            ready[register] = cycle + (0 if register in operation.back else operation.latency)
    return cycle


def scheduled(lines: Sequence[str]) -> list[str]:
    """The same instructions (registers, not names, as operands) in an order that keeps both pipelines busy.

    Of two orders the one that is faster the second time, as in a loop.
    """
    operations = [_operation(line) for line in lines]
    _link(operations)
    orders = [[operations[number] for number in _order(operations, by_pairs)] for by_pairs in (False, True)]
    best = min(orders, key=lambda order: _cycles([*order, *order]) - _cycles(order))
    return [operation.text for operation in best]
