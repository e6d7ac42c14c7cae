"""Cortex-M7F and the memories of the STM32H7A3/B3: every rule a named number with its source.

In order, two instructions a cycle where units and operands allow it. The pipeline rules are applied twice: here, to
edges of counted blocks, where every access hits; and in c/m7.c, to every executed instruction of a full trace, together
with caches, banks and unaligned accesses. docs/cycle-model.md compares both with silicon.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from millijoule.boards import Board
from millijoule.emulate._decode import Instruction, is_shift

__all__ = ["CortexM7", "M7MemoryRules", "M7Rules"]


@dataclass(frozen=True)
class M7Rules:
    """The pipeline, in cycles.

    "LLVM" is its public scheduling model of this core (ARMScheduleM7.td; facts only), "measurements" those described at
    quinapalus.com/cm7cycles.html (STM32H730), "images" published firmware images with measured latencies.
    """

    # From images: without these rules ic, kws and vww are 6 to 11 % too fast, with either one half of that.
    taken_bubble: int = 1  # after every taken branch
    load_with_store: bool = False  # whether a load and a store may issue in one cycle
    # Whether two loads may, from different banks (address bit 2). LLVM and measurements say that the core can; but the
    # simulator that was compared with the images let one access a cycle issue, and its errors are the ones stated.
    two_loads: bool = False
    mispredict: int = 6  # LLVM: conditional branch predicted wrongly by a two-bit counter
    unaligned: int = 1  # images: a load across a word delivers one cycle later; stores are buffered
    divide: int = 7  # LLVM
    multiply: int = 2  # LLVM; an accumulator is needed one cycle later, so that SMLAD chains take one cycle each
    load_narrow: int = 2  # LLVM: bytes and halfwords one cycle after words
    system: int = 3  # LLVM
    float_latency: int = 3  # LLVM; a multiply-add takes two
    float_divide: int = 16  # LLVM: VDIV, VSQRT of single precision
    float_divide_double: int = 30


@dataclass(frozen=True)
class M7MemoryRules:
    """Caches (Arm Cortex-M7 TRM, 16 KB each on these parts) and what stands behind them, in cycles of the core.

    Latencies are from the miss to the first word (the core waits for no more), then per 64 or 128 bits.
    """

    instruction_bytes: int = 16384  # two ways of 32-byte lines; 0: cache off, nothing is waited for
    data_bytes: int = 16384  # four ways of 32-byte lines, write-back with allocation; 0: as above
    # From images: 10 + 4 is fitted on one image that streams weights (ad, STMicroelectronics); 15 + 7 was guessed
    # beforehand and is 14 % too slow there. 10 at 6 wait states; other settings shift it by their difference.
    flash_first: int = 10
    flash_second: int = 4  # the other 128 bits of the line
    axi_first: int = 9  # AXI SRAM; guessed beforehand, images hardly touch it
    axi_next: int = 1  # each further 64 bits
    ahb_first: int = 9  # SRAM behind the AHB: no source, taken as AXI SRAM
    write_back: int = 4  # a dirty line makes room for another
    # 1: the core stands still until the first word is there (as validated). 2: it goes on until the word is used, and
    # two lines may be under way (the core has two line-fill buffers); not separable with the images at hand.
    line_fill_buffers: int = 1

    @classmethod
    def of(cls, board: Board) -> M7MemoryRules:
        """Latency of flash as the board's wait states make it."""
        return cls(flash_first=4 + board.flash.wait_states)


UNITS = ("alu", "load", "store", "mac", "branch", "float", "simd", "shift")
_LIMITS = {"alu": 2, "load": 2}
_LANES = ("sadd", "ssub", "uadd", "usub", "shadd", "uhadd", "sasx", "ssax")
_LANES_SATURATING = ("qadd", "qsub", "uqadd", "uqsub", "usad", "qasx", "qsax")
_EXTENDS = ("sxtb", "sxth", "uxtb", "uxth", "sxtb16", "uxtb16", "sel")
_PACKS = ("pkhbt", "pkhtb", "sxtab", "sxtah", "uxtab", "uxtah", "sbfx", "ubfx", "bfi", "bfc")


@dataclass(frozen=True)
class M7Need:
    """What an instruction asks of the pipeline. Operands are masks of registers."""

    units: tuple[str, ...] = ()
    latency: int = 1
    occupies: int = 1
    alone: bool = False  # issues without a partner
    first: bool = False  # only in the first slot
    early: int = 0  # operands needed one cycle earlier
    late: int = 0  # operands needed one cycle later


@dataclass(frozen=True)
class State:
    """The pipeline between two blocks, relative to the cycle in which the last instruction issued.

    `slot` instructions have issued in this cycle, on the `units`; `load` is the memory operand of a load among them.
    `ready` lists registers (bit number, cycles from now) whose values are still under way; `flags` the same for flags.
    """

    slot: int = 0
    units: tuple[str, ...] = ()
    load: tuple[int, int] | None = None
    ready: tuple[tuple[int, int], ...] = ()
    flags: int = 0


class _Pipeline:
    """A `State` while instructions go through it."""

    def __init__(self, state: State) -> None:
        self.cycle = 0
        self.slot = state.slot
        self.units = list(state.units)
        self.load = state.load
        self.ready = dict(state.ready)
        self.flags = state.flags

    def advance(self, cycle: int) -> None:
        self.cycle, self.slot, self.load = cycle, 0, None
        self.units = []

    def state(self) -> State:
        now = self.cycle
        # An address needs its registers one cycle early: a value that is ready in this cycle still delays it.
        least = now + (self.slot >= 2)
        waiting = tuple(sorted((register, at - now) for register, at in self.ready.items() if at >= least))
        if self.slot >= 2:
            return State(2, (), None, waiting, max(0, self.flags - now))
        return State(self.slot, tuple(sorted(self.units)), self.load, waiting, max(0, self.flags - now))


class CortexM7:
    """Cycles of the Cortex-M7F.

    Args:
        rules: the pipeline.
        memory: caches and latencies, for full traces.
        board: takes flash, clock and placement from a board's description.
    """

    name = "Cortex-M7F"
    version = "m7-3"
    assumptions = (
        "edge counts: zero wait states, every access hits (tightly coupled memory or first-level cache), no penalty "
        "for unaligned accesses; division 7 cycles; one bubble per taken branch, 6 cycles per misprediction"
    )
    expected_error = (
        "edge counts: on published images of the same silicon 2 to 6 % too fast with data in tightly coupled memory, "
        "up to 25 % where weights stream from flash"
    )
    traced_error = (
        "full trace: within 3 % of published images of the same silicon with data in tightly coupled memory; 15 % "
        "where many accesses miss the data cache"
    )

    def __init__(
        self, rules: M7Rules | None = None, memory: M7MemoryRules | None = None, *, board: Board | None = None
    ) -> None:
        self.rules = rules or M7Rules()
        self.memory = memory or (M7MemoryRules.of(board) if board is not None else M7MemoryRules())
        self.clock_hz = board.clock_hz if board is not None else 280_000_000
        self.wait_states = board.flash.wait_states if board is not None else 6
        self._needs: dict[Instruction, M7Need] = {}

    @property
    def conditions(self) -> str:
        """Clock, memories and placement that the figures hold for."""
        memory = self.memory
        fills = "one line fill at a time" if memory.line_fill_buffers == 1 else "two line fills at a time"
        return (
            f"{self.clock_hz / 1e6:g} MHz, {self.wait_states} flash wait states ({memory.flash_first} + "
            f"{memory.flash_second} cycles a line), instruction cache {memory.instruction_bytes} B, data cache "
            f"{memory.data_bytes} B, {fills}, AXI SRAM {memory.axi_first} cycles, code and weights in flash, data "
            "where the image has it"
        )

    def start(self) -> State:
        """The pipeline when nothing is known of the instructions before."""
        return State()

    def run(self, state: State, block: Sequence[Instruction]) -> tuple[int, State]:
        """Cycles of a block up to the issue of its last instruction, and the pipeline then."""
        pipeline = _Pipeline(state)
        for instruction in block:
            self._issue(pipeline, instruction)
        return pipeline.cycle, pipeline.state()

    def leave(
        self, state: State, branch: Instruction, following: Instruction, missed: bool = False
    ) -> tuple[int, State]:
        """Cycles between a block that ends with `branch` and the one that begins with `following`."""
        cost = 0
        if missed and branch.kind == "branch" and (branch.conditional or branch.read_mask):
            cost = self.rules.mispredict
        taken = following.address != branch.end
        if taken:
            cost += self.rules.taken_bubble
        if not cost and not taken:
            return 0, state
        ready = tuple((register, left - cost) for register, left in state.ready if left > cost)
        return cost, State(2, (), None, ready, max(0, state.flags - cost))

    def cycles(self, blocks: Sequence[Sequence[Instruction]]) -> int:
        """Cycles of the blocks executed one after the other; a gap between two blocks is a taken branch."""
        total, state = self.run(self.start(), blocks[0])
        for before, block in itertools.pairwise(blocks):
            seam, state = self.leave(state, before[-1], block[0])
            cost, state = self.run(state, block)
            total += seam + cost
        return total + 1

    def need(self, instruction: Instruction) -> M7Need:
        """What the instruction asks of the pipeline."""
        if instruction not in self._needs:
            self._needs[instruction] = self._make_need(instruction)
        return self._needs[instruction]

    def _issue(self, pipeline: _Pipeline, instruction: Instruction) -> None:
        need = self.need(instruction)
        start = pipeline.cycle
        if pipeline.ready:
            for register, ready in pipeline.ready.items():
                bit = 1 << register
                if instruction.read_mask & bit:
                    start = max(start, ready + bool(need.early & bit) - bool(need.late & bit))
        if instruction.uses_flags and instruction.kind != "branch":
            start = max(start, pipeline.flags)
        if start > pipeline.cycle:
            pipeline.advance(start)
        if not self._fits(pipeline, instruction, need):
            pipeline.advance(pipeline.cycle + 1)
        pipeline.units += need.units
        pipeline.slot += 1
        if instruction.kind == "load":
            pipeline.load = _place(instruction)
        mask = instruction.write_mask
        while mask:
            bit = mask & -mask
            back = instruction.writeback and instruction.address_mask & bit
            pipeline.ready[bit.bit_length() - 1] = pipeline.cycle + (0 if back else need.latency)
            mask ^= bit
        if instruction.sets_flags:
            pipeline.flags = pipeline.cycle + 1
        if need.alone or need.occupies > 1:
            pipeline.cycle += need.occupies - 1
            pipeline.slot = 2

    def _fits(self, pipeline: _Pipeline, instruction: Instruction, need: M7Need) -> bool:
        if pipeline.slot == 0:
            return True
        if pipeline.slot >= 2 or need.alone or need.first:
            return False
        for unit in need.units:
            limit = 1 if unit == "load" and not self.rules.two_loads else _LIMITS.get(unit, 1)
            if pipeline.units.count(unit) >= limit:
                return False
        if not self.rules.load_with_store:
            if "load" in need.units and "store" in pipeline.units:
                return False
            if "store" in need.units and "load" in pipeline.units:
                return False
        return not (instruction.kind == "load" and "load" in pipeline.units and _same_bank(pipeline.load, instruction))

    def _make_need(self, instruction: Instruction) -> M7Need:
        rules, kind = self.rules, instruction.kind
        addresses = instruction.address_mask
        values = instruction.read_mask & ~addresses
        wide = kind in ("float_load", "float_store") and instruction.registers == 2
        if kind in ("nop", "it"):
            return M7Need(latency=0)
        if kind in ("load", "float_load"):
            latency = 1 if instruction.access is not None and instruction.access.element == 4 else rules.load_narrow
            return M7Need(("load",), 2 if wide else latency, alone=wide, early=addresses)
        if kind in ("store", "float_store"):
            return M7Need(("store",), 0, alone=wide, early=addresses, late=values)
        if kind in ("load_double", "store_double"):
            return M7Need(alone=True, early=addresses, late=values if kind == "store_double" else 0)
        if kind in ("load_many", "store_many", "float_load_many", "float_store_many"):
            occupies = max(1, (instruction.registers + 1) // 2)
            return M7Need((), occupies, occupies, alone=True, early=addresses)
        if kind == "multiply":
            return M7Need(("mac",), rules.multiply, late=instruction.accumulator_mask)
        if kind == "divide":
            return M7Need((), rules.divide, rules.divide, alone=True)
        if kind in ("branch", "call", "indirect"):
            return M7Need(("branch",), 0)
        if kind == "table":
            return M7Need((), 1, 2, alone=True, early=addresses)
        if kind == "system":
            return M7Need((), rules.system, rules.system, alone=True)
        return self._float_need(instruction) if instruction.floating else _alu_need(instruction)

    def _float_need(self, instruction: Instruction) -> M7Need:
        rules = self.rules
        if instruction.name == "vmov":
            return M7Need((), 1)
        if instruction.kind == "float_multiply_add":
            return M7Need(("float",), 2 * rules.float_latency)
        if instruction.kind == "float_divide":
            latency = rules.float_divide_double if instruction.double else rules.float_divide
            return M7Need(("float",), latency, latency - 3)
        return M7Need(("float",), rules.float_latency)


def _alu_need(instruction: Instruction) -> M7Need:
    name, reads = instruction.name, instruction.read_mask
    if name in _EXTENDS or name.startswith(_LANES):
        if instruction.shifted:
            return M7Need(("alu", "simd", "shift"), 1, first=True, early=reads)
        return M7Need(("alu", "simd"), 1, first=True)
    if name == "clz":
        return M7Need(("alu",), 1, first=True)
    if name.startswith(_LANES_SATURATING):
        return M7Need(("alu", "simd"), 2, first=True)
    if name.startswith(("ssat", "usat", "qdadd", "qdsub")):
        return M7Need(("alu", "simd", "shift"), 2, first=True, early=reads)
    if name.startswith(("rbit", "rev")):
        return M7Need(("alu", "simd", "shift"), 0, first=True, early=reads)
    if name.startswith(_PACKS):
        early = reads if name in ("sbfx", "ubfx") else 0
        return M7Need(("alu", "simd", "shift"), 1, first=True, early=early)
    return M7Need(("alu", "shift") if is_shift(instruction) else ("alu",))


def _place(instruction: Instruction) -> tuple[int, int] | None:
    """(base register, displacement) of a load with neither index nor write-back, whose address is comparable."""
    access = instruction.access
    if access is None or access.index is not None or instruction.writeback:
        return None
    return access.base, access.displacement


def _same_bank(before: tuple[int, int] | None, instruction: Instruction) -> bool:
    """Two loads of one cycle must differ in address bit 2; decided where both use the same base register.

    Two loads of the very same word do not conflict.
    """
    place = _place(instruction)
    if before is None or place is None or before[0] != place[0]:
        return False
    return (before[1] ^ place[1]) & 4 == 0 and (before[1] ^ place[1]) & ~3 != 0
