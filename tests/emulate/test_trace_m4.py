"""Cortex-M4 and the flash interface, traced: sequences whose cycles follow by hand from the documented rules.

Zero wait states first, then the STM32L4+ flash: 5 wait states at 120 MHz, lines of 64 bits (dual bank) or 128 (single).
The derivations test the implementation of the rules; docs/cycle-model.md compares with silicon.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from millijoule.emulate import CortexM4, M4Rules
from millijoule.emulate.cortex_m4 import FlashInterfaceRules

from .micro import CODE, DATA, END, Bench, turn
from .test_cycle_models import M4_LOOPS

FLASH_DATA = 0x08010000
SRAM3 = 0x20040000
LINE = 8  # bytes, dual bank
ZERO = CortexM4(flash=FlashInterfaceRules(wait_states=0))
DUAL = CortexM4()
SINGLE = CortexM4(flash=FlashInterfaceRules(line_bytes=16))
STRAIGHT = 800  # 16-bit instructions

LOOPS = {
    # Armv7-M ARM A3.2.1 and Cortex-M4 TRM 3.3: unaligned loads are split. 2 cycles for the load, 3 for the loop.
    "word": "ldr r1,[r4]",
    "halfword": "ldrh r1,[r4]",
    "byte": "ldrb r1,[r4]",
    # TRM: one cycle for an instruction whose condition fails, whatever it is; CMP 1, IT folded 0.
    "skipped load": "cmp r4,r4\n it ne\n ldrne r1,[r4]",
    "skipped two of three": "cmp r4,r4\n itte ne\n ldrne r1,[r4]\n udivne r2,r2,r3\n moveq r1,r4",
    "literal": "ldr r1,=0x12345678",
    "stream of words": "ldr r1,[r4],#4\n ldr r2,[r4],#4",
    "pair of words": "ldrd r1,r2,[r4],#8",
    "store of two words": "strd r2,r3,[r4]",
    # The first instruction is 32 bits wide and begins in the middle of a word.
    "straddling target": "1: add.w r1,r1,r2\n nop\n " + END,
    "aligned target": "1: add.w r1,r1,r2\n nop\n " + END,
    "larger than the cache": "1:\n" + " nop\n" * 600 + " subs r0,#1\n bne.w 1b",
    "as large as the cache": "1:\n" + " nop\n" * 450 + " subs r0,#1\n bne.w 1b",
}
WHOLE = {"larger than the cache", "as large as the cache"}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    sequences = {f"rule {name}": turn(loop) for name, (loop, _) in M4_LOOPS.items()}
    for name, loop in LOOPS.items():
        sequences[name] = loop if name in WHOLE or "target" in name else turn(loop)
    sequences["straddling target"] = "nop\n " + sequences["straddling target"]
    sequences["aligned target"] = "nop\n nop\n " + sequences["aligned target"]
    sequences["straight line"] = " nop\n" * STRAIGHT
    sequences["wide straight line"] = " add.w r1,r1,r2\n" * (STRAIGHT // 2)
    return Bench("stm32l4r9i", sequences, tmp_path_factory.mktemp("m4"))


@pytest.mark.parametrize("name", M4_LOOPS)
def test_rules_hold_in_the_trace(bench: Bench, name: str) -> None:
    registers = {"store with register offset 2": {"r5": 0x100}, "address from the instruction before, +1": {"r6": 0x40}}
    turns = 8 if name == "post-indexed loads overlap" else 40
    assert bench.per_turn(f"rule {name}", ZERO, registers.get(name), turns=turns) == M4_LOOPS[name][1]


@pytest.mark.parametrize(
    ("name", "offset", "cycles"),
    [
        *[("word", 0, 0), ("word", 2, 1), ("word", 1, 2), ("word", 3, 2)],
        *[("halfword", 2, 0), ("halfword", 1, 1), ("byte", 1, 0)],
    ],
)
def test_unaligned_loads(bench: Bench, name: str, offset: int, cycles: int) -> None:
    registers = {"r4": DATA + offset}
    assert bench.per_turn(name, ZERO, registers) == 2 + 3 + cycles
    result = bench.traced(name, ZERO, {**registers, "r0": 10})
    assert result.stalls["unaligned"] == 10 * cycles
    free = CortexM4(M4Rules(unaligned_halfwords=0, unaligned_bytes=0), FlashInterfaceRules(wait_states=0))
    assert bench.per_turn(name, free, registers) == 2 + 3


def test_skipped_instructions_take_one_cycle(bench: Bench) -> None:
    assert bench.per_turn("skipped load", ZERO) == 1 + 0 + 1 + 3
    assert bench.per_turn("skipped two of three", ZERO) == 1 + 0 + 2 + 1 + 3
    result = bench.traced("skipped two of three", ZERO, {"r0": 10})
    assert (result.skipped, result.instructions) == (20, 10 * 7)
    counted = {item.text: (item.instructions, item.skipped) for item in result.addresses}
    assert counted["ldrne r1, [r4]"] == (10, 10) and counted["moveq r1, r4"] == (10, 0)


def test_a_32_bit_target_across_two_words_takes_one_cycle_more(bench: Bench) -> None:
    # add.w 1, nop 1, subs 1, bne 1 + refill 1; TRM table 3-1: P depends on the alignment and width of the target.
    assert bench.per_turn("aligned target", ZERO) == 5
    assert bench.per_turn("straddling target", ZERO) == 6
    assert bench.traced("straddling target", ZERO, {"r0": 10}).stalls["branch"] == 9 * 2
    assert bench.per_turn("aligned target", CortexM4(M4Rules(refill_direct=2), ZERO.flash)) == 6


def test_a_straight_line_waits_for_every_line_of_flash(bench: Bench) -> None:
    """A line takes 1 + 5 cycles of the port, which prefetch keeps busy; a 64-bit line feeds four cycles of 16-bit
    instructions, a 128-bit line eight."""
    lines = STRAIGHT * 2 // LINE
    slow = bench.traced("straight line", DUAL)
    assert slow.cycles == pytest.approx(6 * lines, abs=12)
    assert slow.stalls["flash_fetch"] == slow.cycles - STRAIGHT
    assert slow.memory["lines_from_prefetch"] == pytest.approx(lines, abs=2)
    fast = bench.traced("straight line", SINGLE)
    assert fast.cycles == pytest.approx(STRAIGHT, abs=12)
    # 32-bit instructions need a 64-bit line every two cycles, a 128-bit line every four: 6 cycles a line either way.
    assert bench.traced("wide straight line", DUAL).cycles == pytest.approx(6 * lines, abs=12)
    assert bench.traced("wide straight line", SINGLE).cycles == pytest.approx(6 * lines / 2, abs=12)


def test_without_prefetch_a_line_is_asked_for_when_its_first_word_is(bench: Bench) -> None:
    """The fetch runs three words ahead: the words of a line take a cycle each, then 5 wait states for the next line."""
    lines = STRAIGHT * 2 // LINE
    dual = CortexM4(flash=FlashInterfaceRules(prefetch=False))
    single = CortexM4(flash=FlashInterfaceRules(prefetch=False, line_bytes=16))
    assert bench.traced("straight line", dual).cycles == pytest.approx((2 + 5) * lines, abs=12)
    assert bench.traced("straight line", single).cycles == pytest.approx((4 + 5) * lines / 2, abs=12)


def test_the_instruction_cache_holds_a_kilobyte(bench: Bench) -> None:
    """450 instructions fit: no waiting after the first turn. 602 of 1206 bytes do not: the least recently used line is
    the next one needed, so that every line comes from flash, 6 cycles each; the jump back costs a miss."""
    assert bench.per_turn("as large as the cache", DUAL, turns=4) == 450 + 3
    lines = 1206 / LINE
    assert bench.per_turn("larger than the cache", DUAL, turns=4) == pytest.approx(6 * lines, abs=12)
    off = CortexM4(flash=FlashInterfaceRules(instruction_lines=0))
    assert bench.per_turn("as large as the cache", off, turns=4) == pytest.approx(6 * 906 / LINE, abs=12)


def test_data_in_flash(bench: Bench) -> None:
    """A miss of the data cache costs the 5 wait states of a line, whose other words are hits then."""
    no_cache = CortexM4(flash=FlashInterfaceRules(data_lines=0))
    assert bench.per_turn("literal", DUAL) == 2 + 3
    assert bench.per_turn("literal", no_cache) == 2 + 5 + 3
    stream = {"r4": FLASH_DATA}
    assert bench.per_turn("stream of words", ZERO, {"r4": DATA}) == 2 + 1 + 3
    assert bench.per_turn("stream of words", DUAL, stream) == 2 + 1 + 3 + 5
    assert bench.per_turn("stream of words", SINGLE, stream) == 2 + 1 + 3 + 5 / 2
    assert bench.per_turn("pair of words", DUAL, stream) == 3 + 3 + 5
    result = bench.traced("stream of words", DUAL, {**stream, "r0": 100})
    assert result.stalls["flash_data"] == pytest.approx(500, abs=6)  # the first one waits for a prefetch, too
    assert (result.memory["data_misses"], result.memory["data_hits"]) == (100, 100)


def test_the_data_cache_holds_256_bytes(bench: Bench) -> None:
    """30 turns of 8 bytes come from flash once, whether executed again at once or not."""
    again = bench.traced("stream of words", DUAL, {"r4": FLASH_DATA, "r0": 30}, warm=True)
    assert again.memory["data_misses"] == 0 and again.stalls["flash_data"] == 0
    larger = bench.traced("stream of words", DUAL, {"r4": FLASH_DATA, "r0": 64}, warm=True)
    assert larger.memory["data_misses"] == 64


def test_the_sram3_hypothesis_is_an_option(bench: Bench) -> None:
    option = CortexM4(M4Rules(sram3_wait=1), ZERO.flash)
    for name, words in (("word", 1), ("store of two words", 2)):
        plain = bench.per_turn(name, ZERO, {"r4": SRAM3})
        assert bench.per_turn(name, ZERO, {"r4": DATA}) == plain
        assert bench.per_turn(name, option, {"r4": SRAM3}) == plain + words
        assert bench.per_turn(name, option, {"r4": DATA}) == plain
    assert "SRAM3 1 cycles a word" in option.conditions and "SRAM3" not in DUAL.conditions


def test_code_in_ram_does_not_wait_for_flash(bench: Bench) -> None:
    base = 0x20008000
    bench.machine.write(base, bench.code)
    result = bench.traced("straight line", DUAL, base=base)
    assert result.cycles == STRAIGHT and result.stalls["flash_fetch"] == 0
    assert bench.traced("straight line", DUAL, base=CODE).cycles > STRAIGHT


def test_exceptions_are_traced(tmp_path: Path) -> None:
    """SysTick every 100 cycles while a loop counts down. The handler's instructions are in the trace; entries and
    returns are cycles of their own."""
    program = """ ldr r4,=0xE000E014
    movs r1,#99
    str r1,[r4]
    movs r1,#7
    str r1,[r4,#-4]
    movw r0,#1000
    1: adds r2,r2,#1
    subs r0,#1
    bne 1b
    movs r1,#0
    str r1,[r4,#-4]"""
    bench = Bench(
        "stm32l4r9i",
        {"program": program, "tick": "ldr r1,[r5]\n adds r1,#1\n str r1,[r5]\n bx lr"},
        tmp_path,
        {15: "tick"},
    )
    machine = bench.machine
    machine.write_word(DATA + 0x100, 0)
    machine.clear_counts()
    result = bench.traced("program", DUAL)
    ticks = machine.read_word(DATA + 0x100)
    counted = {item.text: item.instructions for item in result.addresses}
    assert 30 < ticks < 60 and counted["bx lr"] == ticks and counted["adds r2, r2, #1"] == 1000
    assert result.instructions == machine.counts().instructions == 8 + 3 * 1000 + 4 * ticks
    assert 15 * ticks <= result.exception_cycles <= 30 * ticks
