"""Cortex-M4F and the flash interface of the STM32L4+: every rule a named number with its source.

The pipeline rules are applied twice: here, to edges of counted blocks, with zero wait states; and in c/m4.c, to every
executed instruction of a full trace, together with the flash interface. docs/cycle-model.md compares both with silicon.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from millijoule.boards import Board
from millijoule.emulate._decode import Instruction

__all__ = ["CortexM4", "FlashInterfaceRules", "M4Rules"]


@dataclass(frozen=True)
class M4Rules:
    """The pipeline, in cycles.

    "TRM" is the Arm Cortex-M4 Technical Reference Manual (100166), section 3.3: table 3-1 "Processor instruction set
    summary" and the load/store timings (also in TI's SWCU192, "Load/store timings"); "images" are published firmware
    images with measured latencies, see docs/cycle-model.md.
    """

    # TRM table 3-1: P is 1 to 3, "depending on the alignment and width of the target instruction". 1 for branches whose
    # target is in the instruction: differences between inputs of one image prefer 1 (about 1.2); 2 fits totals better.
    refill_direct: int = 1
    refill_indirect: int = 2  # bx, pop {pc}, tables: the address comes one stage later
    # TRM table 3-1 (P): a 32-bit target across two words needs a second fetch. For edges; a trace fetches the words.
    misaligned_target: int = 1
    address_from_alu: int = (
        1  # TRM, load/store timings: an address made by the instruction just before; worth < 0.4 % of any image
    )
    divide: int = (
        6  # TRM table 3-1: SDIV, UDIV take 2 to 12 depending on the operands; the middle, < 0.4 % of any image
    )
    float_dependency: int = 1  # TRM table 7-1: the next floating-point instruction uses the result
    float_multiply_add: int = 3  # TRM table 7-1: VFMA, VMLA
    float_divide: int = 14  # TRM table 7-1: VDIV, VSQRT
    system: int = 2  # TRM: MSR, MRS, barriers 1 to 4
    fold_it: bool = True  # TRM table 3-1: IT may cost nothing behind a 16-bit instruction; < 0.4 % of any image
    # TRM, load/store timings, and images (0.3 to 1.8 %): an access across a word is split. Only loads; stores are
    # buffered.
    unaligned_halfwords: int = 1  # a word at an odd halfword, or a halfword at an odd address
    unaligned_bytes: int = 2  # a word at an odd address: byte, halfword, byte
    # The core's prefetch unit holds three words: so many words the fetch runs ahead. A consumed word makes room for
    # another in the cycle after. As in the simulator that was compared with images.
    fetch_words: int = 3
    fetch_release: int = 1
    # Hypothesis, off by default: no document behind it, but it removes 2.5 to 7.2 points of error of images whose stack
    # is in SRAM3 (from 0x20040000). Cycles per word there.
    sram3_wait: int = 0


@dataclass(frozen=True)
class FlashInterfaceRules:
    """The STM32L4+ flash interface ("ART"): wait states, prefetch, 1 KB instruction and 256 B data cache, one port.

    Source of the structure: RM0440, section 3.3.4 (STM32G4, the same interface); sizes: checked against images (an
    instruction cache of 512 B is 7 to 18 % too slow, without cache and prefetch it is 70 to 91 %).
    """

    wait_states: int = 5  # 120 MHz, range 1 boost (STM32L4+ data sheet); a read of one line takes 1 + this
    line_bytes: int = 8  # dual bank (factory default) 64 bits, single bank 128; decides ad of one vendor: -0.3 or -13 %
    prefetch: bool = True  # the line behind the current one is read as soon as the port is free
    prefetch_on_hit: bool = True  # also when the current line came from the cache
    prefetch_fills_cache: bool = True  # images refute the literal text of the manual ("only misses"): +14 to +28 %
    prefetch_abort: bool = False  # whether a miss stops a prefetch that is under way
    instruction_lines: int = 32  # lines of 32 bytes, fully associative, least recently used; 0: cache off
    instruction_line_bytes: int = 32
    data_lines: int = 8  # the same for data reads
    data_line_bytes: int = 32

    @classmethod
    def of(cls, board: Board) -> FlashInterfaceRules:
        """Wait states and line width as the board's description says."""
        return cls(wait_states=board.flash.wait_states, line_bytes=board.flash.line_bits // 8)


@dataclass(frozen=True)
class M4Need:
    """What an instruction costs by itself, and what may change that."""

    cycles: int
    refill: int = 0  # more, when control goes elsewhere
    overlaps: bool = False  # one cycle less behind a load of another register than its address
    early: int = 0  # registers (mask) that must be ready a cycle earlier: those of the address


@dataclass(frozen=True)
class _After:
    """What the next instruction needs to know of the one before."""

    size: int
    loaded: int = 0  # registers a single load fetched, -1 bit 48 unused
    single_load: bool = False
    computed: int = 0  # registers the ALU or multiplier made
    floating: int = 0  # registers a floating-point instruction made


State = _After | None

_SINGLE_LOADS = ("load", "float_load")


class CortexM4:
    """Cycles of the Cortex-M4F.

    Args:
        rules: the pipeline.
        flash: the flash interface, for full traces.
        board: takes flash, clock and placement from a board's description.
    """

    name = "Cortex-M4F"
    version = "m4-3"
    assumptions = (
        "edge counts: zero wait states, no cache misses, no penalty for unaligned accesses; division 6 cycles; branch "
        "refill 1 (direct) or 2 (indirect) cycles"
    )
    expected_error = (
        "edge counts: on published images of the same silicon 2 to 4 % too fast with weights in RAM, 7 to 26 % where "
        "weights are read from flash"
    )
    traced_error = (
        "full trace: within 6 % of published images of the same silicon with data in SRAM1; up to 10 % too fast with "
        "the stack in SRAM3 and weights read from flash in the inner loop"
    )

    def __init__(
        self, rules: M4Rules | None = None, flash: FlashInterfaceRules | None = None, *, board: Board | None = None
    ) -> None:
        self.rules = rules or M4Rules()
        self.flash = flash or (FlashInterfaceRules.of(board) if board is not None else FlashInterfaceRules())
        self.clock_hz = board.clock_hz if board is not None else 120_000_000

    @property
    def conditions(self) -> str:
        """Clock, flash and placement that the figures hold for."""
        flash = self.flash
        lines = f"{flash.line_bytes * 8}-bit lines ({'dual' if flash.line_bytes == 8 else 'single'} bank)"
        prefetch = "prefetch" if flash.prefetch else "no prefetch"
        caches = (
            f"instruction cache {flash.instruction_lines * flash.instruction_line_bytes} B, data cache "
            f"{flash.data_lines * flash.data_line_bytes} B"
        )
        ram = f"SRAM3 {self.rules.sram3_wait} cycles a word" if self.rules.sram3_wait else "RAM without wait states"
        return (
            f"{self.clock_hz / 1e6:g} MHz, {flash.wait_states} flash wait states, {lines}, {prefetch}, {caches}, code "
            f"and weights in flash, data where the image has it, {ram}"
        )

    def need(self, instruction: Instruction) -> M4Need:
        """The cost of an instruction by itself."""
        rules, kind, words = self.rules, instruction.kind, instruction.registers
        early = instruction.address_mask
        if kind == "load":
            return M4Need(2, 2 + rules.refill_indirect if instruction.writes_pc else 0, overlaps=True, early=early)
        if kind == "store":
            offset = instruction.register_offset
            return M4Need(2 if offset else 1, overlaps=offset, early=early)
        if kind in ("load_double", "store_double"):
            return M4Need(3, early=early)
        if kind in ("load_many", "store_many"):
            return M4Need(1 + words, 1 + rules.refill_indirect if instruction.writes_pc else 0, early=early)
        if kind == "float_load":
            return M4Need(1 + words, overlaps=words == 1)
        if kind in ("float_store", "float_load_many", "float_store_many"):
            return M4Need(1 + words)
        if kind == "table":
            return M4Need(3, rules.refill_indirect)
        if kind in ("branch", "call", "indirect"):
            return M4Need(1, rules.refill_indirect if kind == "indirect" else rules.refill_direct)
        fixed = {
            "float_multiply_add": rules.float_multiply_add,
            "float_divide": rules.float_divide,
            "divide": rules.divide,
            "system": rules.system,
        }
        return M4Need(fixed.get(kind, 1))

    def start(self) -> State:
        """The pipeline when nothing is known of the instructions before."""
        return None

    def run(self, state: State, block: Sequence[Instruction]) -> tuple[int, State]:
        """Cycles of a block from its first to its last instruction, and the pipeline after it."""
        total = 0
        for instruction in block:
            total += self._cost(instruction, state)
            state = _after(instruction) if instruction.kind != "it" else state
        return total, state

    def leave(
        self, state: State, branch: Instruction, following: Instruction, missed: bool = False
    ) -> tuple[int, State]:
        """Cycles between a block that ends with `branch` and the one that begins with `following`.

        This core predicts nothing, so `missed` changes nothing.
        """
        if following.address == branch.end:
            return 0, state
        straddles = following.size == 4 and following.address & 2 and branch.kind in ("branch", "call", "indirect")
        return self.need(branch).refill + (self.rules.misaligned_target if straddles else 0), None

    def cycles(self, blocks: Sequence[Sequence[Instruction]]) -> int:
        """Cycles of the blocks executed one after the other; a gap between two blocks is a taken branch."""
        total, state = self.run(self.start(), blocks[0])
        for before, block in itertools.pairwise(blocks):
            seam, state = self.leave(state, before[-1], block[0])
            cost, state = self.run(state, block)
            total += seam + cost
        return total

    def _cost(self, instruction: Instruction, before: State) -> int:
        need = self.need(instruction)
        if before is None:
            return need.cycles
        if instruction.kind == "it":
            return 0 if self.rules.fold_it and before.size == 2 else 1
        cost = need.cycles
        if need.overlaps and before.single_load and not instruction.address_mask & before.loaded:
            cost -= 1
        if need.early & before.computed:
            cost += self.rules.address_from_alu
        if instruction.kind == "float" and instruction.read_mask & before.floating:
            cost += self.rules.float_dependency
        return cost


def _after(instruction: Instruction) -> _After:
    kind, written = instruction.kind, instruction.write_mask
    if kind in _SINGLE_LOADS:
        # Only a loaded register keeps the next access from overlapping: a base register that was written back does not
        # (images: `ldr r0,[r6],#4; ldr r1,[r6],#4` takes 2 + 1; worth up to 8 %).
        loaded = written & ~instruction.address_mask if instruction.writeback else written
        return _After(instruction.size, loaded=loaded, single_load=True)
    if kind in ("alu", "multiply"):
        return _After(instruction.size, computed=written)
    if kind in ("float", "float_multiply_add"):
        return _After(instruction.size, floating=written)
    return _After(instruction.size)
