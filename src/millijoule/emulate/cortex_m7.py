"""Timing rules of the Cortex-M7: in order, two instructions a cycle where units and operands allow it.

Source of the figures: the resources and latencies of LLVM's public scheduling model of this core (ARMScheduleM7.td,
facts only) and the measurements described at quinapalus.com/cm7cycles.html. Two rules were added because published
firmware images of the STM32H7A3 run 6 to 11 % slower without them (docs/cycle-model.md): one bubble per taken branch,
and no load and store in one cycle. With them the error is within 3 % where data is in tightly coupled memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from millijoule.emulate._decode import Instruction, is_shift

__all__ = ["CortexM7", "M7Rules"]


@dataclass(frozen=True)
class M7Rules:
    """The parameters of the model, in cycles."""

    taken_bubble: int = 1  # after every taken branch (added, see above)
    load_with_store: bool = False  # a load and a store may issue together (removed, see above)
    two_loads: bool = True  # two word loads from different banks (address bit 2)
    mispredict: int = 6  # conditional branch predicted wrongly
    divide: int = 7
    float_latency: int = 3
    float_divide: int = 16
    float_divide_double: int = 30


_UNIT_LIMITS = {"alu": 2, "load": 2, "store": 1, "mac": 1, "branch": 1, "float": 1, "simd": 1, "shift": 1}
_LANES = ("sadd", "ssub", "uadd", "usub", "shadd", "uhadd", "sasx", "ssax")
_LANES_SATURATING = ("qadd", "qsub", "uqadd", "uqsub", "usad", "qasx", "qsax")
_EXTENDS = ("sxtb", "sxth", "uxtb", "uxth", "sxtb16", "uxtb16", "sel")
_PACKS = ("pkhbt", "pkhtb", "sxtab", "sxtah", "uxtab", "uxtah", "sbfx", "ubfx", "bfi", "bfc")


@dataclass(frozen=True)
class _Need:
    """What an instruction asks of the pipeline."""

    units: tuple[str, ...] = ()
    latency: int = 1
    occupies: int = 1
    alone: bool = False  # issues without a partner
    first: bool = False  # only in the first slot
    early: frozenset[int] = frozenset()  # operands needed one cycle earlier
    late: frozenset[int] = frozenset()  # operands needed one cycle later


@dataclass
class _State:
    cycle: int = 0
    slot: int = 0
    used: dict[str, int] = field(default_factory=dict)
    load: tuple[int, int] | None = None
    ready: dict[int, int] = field(default_factory=dict)
    flags: int = 0

    def advance(self, cycle: int) -> None:
        self.cycle, self.slot, self.load = cycle, 0, None
        self.used = {}


class CortexM7:
    """Cycles of straight lines of code; instructions and data always hit."""

    name = "Cortex-M7F"
    version = "m7-2"
    assumptions = (
        "zero wait states, every access hits (tightly coupled memory or first-level cache), no penalty for unaligned "
        "accesses; division 7 cycles; one bubble per taken branch, 6 cycles per misprediction; pairing across blocks "
        "is not tracked; on published images 2 to 6 % too fast with data in tightly coupled memory, up to 25 % where "
        "weights stream from flash"
    )

    def __init__(self, rules: M7Rules | None = None) -> None:
        self.rules = rules or M7Rules()

    def missed(self, branch: Instruction) -> int:
        """Cycles of a wrong prediction of `branch`, the last instruction of a block."""
        return self.rules.mispredict if branch.kind == "branch" and (branch.conditional or branch.reads) else 0

    def cycles(self, blocks: Sequence[Sequence[Instruction]]) -> int:
        """Cycles of the blocks executed one after the other; a gap between two blocks is a taken branch."""
        state = _State()
        for number, block in enumerate(blocks):
            follower = blocks[number + 1] if number + 1 < len(blocks) else ()
            for position, instruction in enumerate(block):
                following = follower[0] if position == len(block) - 1 and follower else None
                taken = following is not None and following.address != instruction.end
                self._issue(state, instruction, taken)
        return state.cycle + 1

    def _issue(self, state: _State, instruction: Instruction, taken: bool) -> None:
        need = self._need(instruction)
        start = state.cycle
        for register in instruction.reads:
            ready = state.ready.get(register, 0)
            start = max(start, ready + (register in need.early) - (register in need.late))
        if instruction.uses_flags and instruction.kind != "branch":
            start = max(start, state.flags)
        if start > state.cycle:
            state.advance(start)
        if not self._fits(state, instruction, need):
            state.advance(state.cycle + 1)
        for unit in need.units:
            state.used[unit] = state.used.get(unit, 0) + 1
        state.slot += 1
        if instruction.kind == "load":
            state.load = instruction.offset
        for register in instruction.writes:
            written_back = instruction.writeback and register in instruction.addresses
            state.ready[register] = state.cycle + (0 if written_back else need.latency)
        if instruction.sets_flags:
            state.flags = state.cycle + 1
        if need.alone or need.occupies > 1:
            state.cycle += need.occupies - 1
            state.slot = 2
        if taken or instruction.kind in ("indirect", "table") or instruction.writes_pc:
            state.slot = 2
            state.cycle += self.rules.taken_bubble

    def _fits(self, state: _State, instruction: Instruction, need: _Need) -> bool:
        if state.slot == 0:
            return True
        if state.slot >= 2 or need.alone or need.first:
            return False
        for unit in need.units:
            limit = 1 if unit == "load" and not self.rules.two_loads else _UNIT_LIMITS[unit]
            if state.used.get(unit, 0) + 1 > limit:
                return False
        memory = instruction.kind in ("load", "store", "float_load", "float_store")
        if memory and not self.rules.load_with_store:
            other = "store" if "load" in need.units else "load"
            if state.used.get(other):
                return False
        return not _same_bank(state, instruction)

    def _need(self, instruction: Instruction) -> _Need:
        rules, kind = self.rules, instruction.kind
        addresses = instruction.addresses
        values = instruction.reads - addresses
        wide = kind in ("float_load", "float_store") and instruction.registers == 2
        if kind in ("nop", "it"):
            return _Need(latency=0)
        if kind in ("load", "float_load"):
            latency = 1 if instruction.name in ("ldr", "vldr") and not wide else 2
            return _Need(("load",), latency, alone=wide, early=addresses)
        if kind in ("store", "float_store"):
            return _Need(("store",), 0, alone=wide, early=addresses, late=values)
        if kind in ("load_double", "store_double"):
            return _Need(alone=True, early=addresses, late=values if kind == "store_double" else frozenset())
        if kind in ("load_many", "store_many", "float_load_many", "float_store_many"):
            occupies = max(1, (instruction.registers + 1) // 2)
            return _Need((), occupies, occupies, alone=True, early=addresses)
        if kind == "multiply":
            return _Need(("mac",), 2, late=instruction.accumulators)
        if kind == "divide":
            return _Need((), rules.divide, rules.divide, alone=True)
        if kind in ("branch", "call", "indirect"):
            return _Need(("branch",), 0)
        if kind == "table":
            return _Need((), 1, 2, alone=True, early=addresses)
        if kind == "system":
            return _Need((), 3, 3, alone=True)
        return self._float_need(instruction) if instruction.floating else _alu_need(instruction)

    def _float_need(self, instruction: Instruction) -> _Need:
        rules = self.rules
        if instruction.name == "vmov":
            return _Need((), 1)
        if instruction.kind == "float_multiply_add":
            return _Need(("float",), 2 * rules.float_latency)
        if instruction.kind == "float_divide":
            latency = rules.float_divide_double if instruction.double else rules.float_divide
            return _Need(("float",), latency, latency - 3)
        return _Need(("float",), rules.float_latency)


def _alu_need(instruction: Instruction) -> _Need:
    name, reads = instruction.name, instruction.reads
    if name in _EXTENDS or name.startswith(_LANES):
        if instruction.shifted:
            return _Need(("alu", "simd", "shift"), 1, first=True, early=reads)
        return _Need(("alu", "simd"), 1, first=True)
    if name == "clz":
        return _Need(("alu",), 1, first=True)
    if name.startswith(_LANES_SATURATING):
        return _Need(("alu", "simd"), 2, first=True)
    if name.startswith(("ssat", "usat", "qdadd", "qdsub")):
        return _Need(("alu", "simd", "shift"), 2, first=True, early=reads)
    if name.startswith(("rbit", "rev")):
        return _Need(("alu", "simd", "shift"), 0, first=True, early=reads)
    if name.startswith(_PACKS):
        early = reads if name in ("sbfx", "ubfx") else frozenset()
        return _Need(("alu", "simd", "shift"), 1, first=True, early=early)
    return _Need(("alu", "shift") if is_shift(instruction) else ("alu",))


def _same_bank(state: _State, instruction: Instruction) -> bool:
    """Two loads of one cycle must differ in address bit 2; decided where both use the same base register."""
    if instruction.kind != "load" or not state.used.get("load") or state.load is None or instruction.offset is None:
        return False
    same_base = state.load[0] == instruction.offset[0] and not instruction.writeback
    return same_base and ((state.load[1] ^ instruction.offset[1]) & 4) == 0
