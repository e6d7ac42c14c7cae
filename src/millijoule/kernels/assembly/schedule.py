"""Order of instructions for the Cortex-M7: straight code, two instructions a cycle, one of them a multiplication.

List schedulers: in every cycle goes what is ready and has the longest path behind it. They differ in what they prefer
among that, and whether stores keep their order where their addresses do not ask for it; which one is best differs from
block to block, so that all are tried. Units and latencies are those of `millijoule.emulate.cortex_m7` (sources there),
as far as the kernels need them. Registers stay as they are, so that order between a use and the next definition of a
register is kept (in one cycle, the use comes first). Loads are taken not to read what the code stores, except from the
stack.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

__all__ = ["scheduled"]

_REGISTER = re.compile(r"\b(?:r\d+|s\d+|lr|sp)\b")
_STACK = re.compile(r"\[sp.*\]")
_PLACE = re.compile(r"\[(\w+)(?:, #(-?\d+))?\]$")
_SHIFTED = re.compile(r", (?:asr|lsl|lsr|ror) ")
_SHIFTS = ("asr", "lsl", "lsr", "lsrs")
_MULTIPLIES = ("smla", "smmla", "smmul", "smul", "mul", "mla")
_LANES = ("sxtb16", "uxtb16", "sel", "ssub16")
_PACKS = ("pkhbt", "pkhtb", "bfi")
_PLAIN = ("add", "and", "bic", "cmp", "mov", "orr", "rsb", "sub")
_BRANCHES = ("b", "beq", "bhi", "bhs", "blo", "bne", "bx")
_NOTHING: frozenset[str] = frozenset()


@dataclass
class _Operation:
    text: str
    units: tuple[str, ...]
    reads: frozenset[str]
    writes: frozenset[str]
    early: frozenset[str] = _NOTHING  # needed one cycle earlier
    late: frozenset[str] = _NOTHING  # needed one cycle later
    back: frozenset[str] = _NOTHING  # addresses written back: there at once
    latency: int = 1
    place: tuple[str, int] | None = None  # of a store: base and offset
    waits: int = 0  # for so many operations
    behind: list[tuple[int, int]] = field(default_factory=list)  # (operation that waits, cycles from issue to issue)
    height: int = 0  # of the longest path to the end: cycles, and one for every operation
    length: int = 0  # the same, but latencies count instead of operations

    def __post_init__(self) -> None:
        self.first = "simd" in self.units  # whether it only issues as the first of a cycle


def _place(operands: str) -> tuple[str, int] | None:
    """Base and offset of a constant address."""
    found = _PLACE.search(operands)
    return (found[1], int(found[2] or 0)) if found else None


def _operation(text: str) -> _Operation:
    """What one instruction is, from its text."""
    mnemonic, _, operands = text.strip().partition(" ")
    registers = _REGISTER.findall(operands)
    result, reads = frozenset(registers[:1]), frozenset(registers[1:])
    slot = frozenset(_STACK.findall(operands))  # a word of the stack is as good as a register
    back = frozenset(registers[1:2]) if operands.endswith("!") or "]," in operands else _NOTHING
    if mnemonic == "ldr":
        return _Operation(text, ("load",), reads | slot, result | back, early=reads, back=back)
    if mnemonic in ("str", "strh"):
        place = _place(operands)
        return _Operation(
            text, ("store",), result | reads, slot | back, early=reads, late=result, back=back, place=place
        )
    if mnemonic.startswith(_MULTIPLIES):
        late = frozenset(registers[3:]) - set(registers[1:3])
        return _Operation(text, ("mac",), reads, result, late=late, latency=2)
    if mnemonic == "vmov":
        return _Operation(text, (), reads, result)
    if mnemonic in ("ssat", "ssat16", "usat", "usat16"):
        return _Operation(text, ("alu", "simd", "shift"), reads, result, early=reads, latency=2)
    if mnemonic in _PACKS:
        kept = result if mnemonic == "bfi" else _NOTHING
        return _Operation(text, ("alu", "simd", "shift"), reads | kept, result)
    if mnemonic in _LANES:
        reads |= {"lanes"} if mnemonic == "sel" else set()
        return _Operation(text, ("alu", "simd"), reads, result | ({"lanes"} if mnemonic == "ssub16" else set()))
    if mnemonic in _BRANCHES:
        return _Operation(text, ("branch",), result | {"flags"}, _NOTHING)
    if mnemonic not in (*_PLAIN, *_SHIFTS):
        raise ValueError(f"the scheduler does not know {text!r}")
    units = ("alu", "shift") if mnemonic in _SHIFTS or _SHIFTED.search(operands) else ("alu",)
    if mnemonic == "cmp":
        return _Operation(text, units, result | reads, frozenset(["flags"]))
    return _Operation(text, units, reads, result | ({"flags"} if mnemonic == "lsrs" else set()))


def _delay(before: _Operation, operation: _Operation, register: str) -> int:
    """Cycles from the issue of an operation that writes the register to one that reads it."""
    ready = 0 if register in before.back else before.latency
    return max(0, ready + (register in operation.early) - (register in operation.late - operation.early))


def _stores_overlap(before: _Operation, operation: _Operation) -> bool:
    """Whether two stores may write the same bytes.

    They do not with one base and words apart; where the base changes in between, registers keep their order.
    """
    one, other = before.place, operation.place
    return one is None or other is None or one[0] != other[0] or abs(one[1] - other[1]) < 4


def _link(operations: Sequence[_Operation], stores_in_order: bool) -> None:
    """Dependences between operations, and the longest paths."""
    writer: dict[str, int] = {}
    readers: dict[str, list[int]] = {}
    stores: list[int] = []
    for number, operation in enumerate(operations):
        delays: dict[int, int] = {}
        for register in operation.reads:
            if register in writer:
                earlier = writer[register]
                delays[earlier] = max(delays.get(earlier, 0), _delay(operations[earlier], operation, register))
        for register in operation.writes:
            for earlier in readers.pop(register, []) + ([writer[register]] if register in writer else []):
                delays.setdefault(earlier, 0)
            writer[register] = number
        for register in operation.reads - operation.writes:
            readers.setdefault(register, []).append(number)
        if operation.units == ("store",):
            for earlier in stores:
                if stores_in_order or _stores_overlap(operations[earlier], operation):
                    delays.setdefault(earlier, 0)
            stores.append(number)
        if operation.units == ("branch",):
            delays = dict.fromkeys(range(number), 0) | delays
        operation.waits, operation.behind = len(delays), []
        for earlier, delay in delays.items():
            operations[earlier].behind.append((number, delay))
    for operation in reversed(operations):
        operation.height = 1 + max((operations[other].height + delay for other, delay in operation.behind), default=0)
        operation.length = operation.latency + max(
            (operations[other].length - operations[other].latency + delay for other, delay in operation.behind),
            default=0,
        )


def _fits(first: _Operation, second: _Operation) -> bool:
    """Whether the second one can issue in the cycle of the first."""
    shared = set(first.units) & set(second.units)
    return not second.first and shared <= {"alu"} and {*first.units, *second.units} != {"load", "store"}


class _Queue:
    """What can issue, cycle by cycle."""

    def __init__(self, operations: Sequence[_Operation]) -> None:
        self.operations = operations
        self.cycle = 0
        self.order: list[int] = []
        self._waiting = [operation.waits for operation in operations]
        self._earliest = [0] * len(operations)
        self._left = list(range(len(operations)))

    def firsts(self) -> list[int]:
        """What can issue now."""
        return [number for number in self._left if not self._waiting[number] and self._earliest[number] <= self.cycle]

    def beside(self, first: int, firsts: Sequence[int]) -> list[int]:
        """What of these, or of what waits for it, can issue in the cycle of the first one."""
        found = [*firsts]
        for number, delay in self.operations[first].behind:
            if not delay and self._waiting[number] == 1 and self._earliest[number] <= self.cycle:
                found.append(number)
        operation = self.operations[first]
        return [number for number in found if number != first and _fits(operation, self.operations[number])]

    def issue(self, numbers: Iterable[int]) -> None:
        """In this cycle."""
        for number in numbers:
            self.order.append(number)
            self._left.remove(number)
            for other, delay in self.operations[number].behind:
                self._waiting[other] -= 1
                self._earliest[other] = max(self._earliest[other], self.cycle + delay)


def _slot_by_slot(queue: _Queue, firsts: Sequence[int]) -> Sequence[int]:
    """The highest one; a little higher counts what only issues first."""
    of = queue.operations
    first = max(firsts, key=lambda number: (of[number].height + of[number].first, -number))
    seconds = queue.beside(first, firsts)
    return [first, *([max(seconds, key=lambda number: (of[number].height, -number))] if seconds else [])]


def _longest(queue: _Queue, firsts: Sequence[int]) -> Sequence[int]:
    """The longest one; beside a multiplication what only issues first comes first."""
    of = queue.operations
    first = max(firsts, key=lambda number: (of[number].length, -number))
    alone = [number for number in firsts if of[number].first]
    if alone and of[first].units == ("mac",):
        first = alone[0]
    return _with_longest(queue, first, firsts)


def _best_pair(queue: _Queue, firsts: Sequence[int]) -> Sequence[int]:
    """The longest two."""
    of = queue.operations
    pairs = [_with_longest(queue, first, firsts) for first in firsts]
    return max(pairs, key=lambda pair: (len(pair), sum(of[number].length for number in pair), -pair[0]))


def _with_longest(queue: _Queue, first: int, firsts: Sequence[int]) -> list[int]:
    of = queue.operations
    seconds = queue.beside(first, firsts)
    return [first, *([max(seconds, key=lambda number: (of[number].length, -number))] if seconds else [])]


_CHOICES = (_slot_by_slot, _longest, _best_pair)


def _order(
    operations: Sequence[_Operation], choice: Callable[[_Queue, Sequence[int]], Sequence[int]]
) -> list[_Operation]:
    queue = _Queue(operations)
    while len(queue.order) < len(operations):
        if firsts := queue.firsts():
            queue.issue(choice(queue, firsts))
        queue.cycle += 1
    return [operations[number] for number in queue.order]


def _cycles(operations: Sequence[_Operation]) -> int:
    """Cycles of the operations in this order."""
    ready: dict[str, int] = {}
    cycle, issued, full = 0, None, False
    for operation in operations:
        start = max(
            (
                ready.get(register, 0) + (register in operation.early) - (register in operation.late - operation.early)
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
    """The same instructions in an order that keeps both pipelines busy.

    Of all orders that were tried the one that is fastest the second time, as in a loop.

    Args:
        lines: their operands are registers, not names; a branch only at the end.
    """
    operations = [_operation(line) for line in lines]
    orders = []
    for stores_in_order in (True, False):
        _link(operations, stores_in_order)
        orders += [_order(operations, choice) for choice in _CHOICES]
    best = min(orders, key=lambda order: _cycles([*order, *order]) - _cycles(order))
    return [operation.text for operation in best]
