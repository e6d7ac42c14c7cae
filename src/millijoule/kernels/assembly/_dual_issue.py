"""Straight-line code in an order in which the Cortex-M7 issues two instructions a cycle.

List scheduling by the longest path to the end. Units and latencies are those of emulate/cortex_m7.py, where their
sources are. Registers stay as they are, so that order between a use and the next definition of a register is kept (in
one cycle, the use comes first). Stores keep their order; loads are taken not to read what the code stores.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["ordered"]

_REGISTER = re.compile(r"\b(?:r\d+|lr|sp|s\d+)\b")
_FIRST_OPERAND_IS_READ = ("str", "strh", "cmp", "bx", "b")
_PACKS = ("pkhbt", "pkhtb", "bfi")
_LIMITS = {"alu": 2}
_FLAGS, _LANES = "flags", "lanes"  # what cmp and ssub16 leave behind


@dataclass(frozen=True)
class _Instruction:
    text: str
    reads: frozenset[str]
    writes: frozenset[str]
    early: frozenset[str]  # needed one cycle earlier
    late: frozenset[str]  # one cycle later
    back: frozenset[str]  # addresses written back: ready at once
    units: tuple[str, ...]
    first: bool
    latency: int
    store: bool
    branch: bool


def ordered(lines: Sequence[str]) -> list[str]:
    """The same instructions (operands are registers, a branch only at the end), reordered."""
    items = [_parse(line) for line in lines]
    edges = _edges(items)
    count = len(items)
    height = [0] * count
    for index in reversed(range(count)):
        height[index] = max([distance + height[to] for to, distance, _ in edges[index]], default=0) + 1
    waiting = [0] * count
    for targets in edges:
        for to, _, _ in targets:
            waiting[to] += 1
    earliest, issued = [0] * count, [False] * count
    result: list[str] = []
    cycle = 0
    while len(result) < count:
        chosen: list[int] = []
        for slot in range(2):
            best = _best(items, height, waiting, earliest, issued, chosen, cycle, slot)
            if best is None:
                break
            chosen.append(best)
            issued[best] = True
            result.append(lines[best])
            for to, distance, same in edges[best]:
                waiting[to] -= 1
                earliest[to] = max(earliest[to], cycle + (distance if not same else 0))
        cycle += 1
    return result


def _best(
    items: list[_Instruction],
    height: list[int],
    waiting: list[int],
    earliest: list[int],
    issued: list[bool],
    chosen: list[int],
    cycle: int,
    slot: int,
) -> int | None:
    """What issues next. In the first slot, instructions that must be there go first among about equals."""
    found = None
    best = (-1, 0)
    for index, item in enumerate(items):
        if issued[index] or waiting[index] or earliest[index] > cycle:
            continue
        if slot == 1 and (item.first or not _fits(items[chosen[0]], item)):
            continue
        rank = (height[index] + (1 if item.first and slot == 0 else 0), -index)
        if rank > best:
            best, found = rank, index
    return found


def _fits(before: _Instruction, item: _Instruction) -> bool:
    used = before.units
    if any(used.count(unit) >= _LIMITS.get(unit, 1) for unit in item.units):
        return False
    return not ({"load", "store"} <= {*used, *item.units})


def _edges(items: list[_Instruction]) -> list[list[tuple[int, int, bool]]]:
    """For each instruction: (a later one that depends on it, cycles between, whether only their order matters)."""
    edges: list[list[tuple[int, int, bool]]] = [[] for _ in items]
    for later, item in enumerate(items):
        for earlier in range(later):
            before = items[earlier]
            distance = -1
            for register in before.writes & item.reads:
                ready = 0 if register in before.back else before.latency
                ready += (register in item.early) - (register in item.late and register not in item.early)
                distance = max(distance, ready, 0)
            if before.writes & item.writes:
                distance = max(distance, 1)
            if before.reads & item.writes or (before.store and item.store) or item.branch:
                distance = max(distance, 0)
            if distance >= 0:
                edges[earlier].append((later, distance, distance == 0))
    return edges


def _parse(text: str) -> _Instruction:
    name, _, operands = text.partition(" ")
    registers = _REGISTER.findall(operands)
    address = frozenset(_REGISTER.findall(operands[operands.find("[") :])) if "[" in operands else frozenset()
    branch = name.startswith("b") and name != "bfi"
    reads = set(registers if name in _FIRST_OPERAND_IS_READ else registers[1:])
    writes = set() if name in _FIRST_OPERAND_IS_READ else set(registers[:1])
    back: set[str] = set()
    if "[" in operands and (operands.endswith("!") or not operands.endswith("]")):
        back = {registers[1]}
        writes |= back
    if name == "bfi":
        reads.add(registers[0])
    if name == "cmp":
        writes.add(_FLAGS)
    if name == "ssub16":
        writes.add(_LANES)
    if name == "sel":
        reads.add(_LANES)
    if branch:
        reads |= {_FLAGS}
    late: set[str] = set()
    early: set[str] = set(address)
    units: tuple[str, ...] = ("alu",)
    latency, first = 1, False
    if name == "vmov":
        units = ()
    elif name == "ldr":
        units = ("load",)
    elif name in ("str", "strh"):
        units, late = ("store",), set(registers[:1])
    elif name.startswith("sm"):
        units, latency, late = ("mac",), 2, set(registers[3:])
        late -= set(registers[1:3])
    elif name in ("sxtb16", "uxtb16", "sel", "ssub16"):
        units, first = ("alu", "simd"), True
    elif name.startswith("ssat"):
        units, first, latency, early = ("alu", "simd", "shift"), True, 2, set(reads)
    elif name in _PACKS:
        units, first = ("alu", "simd", "shift"), True
    elif branch:
        units = ("branch",)
    elif name in ("asr", "lsl", "lsr") or "lsl" in operands or "lsr" in operands or "asr" in operands:
        units = ("alu", "shift")
    return _Instruction(
        text, frozenset(reads), frozenset(writes), frozenset(early), frozenset(late), frozenset(back), units, first,
        latency, units == ("store",), branch,
    )  # fmt: skip
