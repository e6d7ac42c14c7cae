"""Cortex-M7 and its caches, traced: sequences whose cycles follow by hand from the documented rules.

First every access hits (no caches in the model), then the memories of the STM32H7B3: lines of 32 bytes, flash 10 cycles
to the first half and 4 more to the second, AXI SRAM 9. The derivations test the implementation of the rules;
docs/cycle-model.md compares with silicon.
"""

from __future__ import annotations

import pytest

from millijoule.emulate import CortexM7, M7Rules
from millijoule.emulate.cortex_m7 import M7MemoryRules

from .micro import DATA, Bench, turn
from .test_cycle_models import M7_LOOPS

AXI = 0x24000000
FLASH_DATA = 0x08010000
ITCM = 0x1000
HITS = M7MemoryRules(instruction_bytes=0, data_bytes=0)
ZERO = CortexM7(memory=HITS)
CACHES = CortexM7()
PAIRS = M7Rules(two_loads=True)
STRAIGHT = 1024  # 32-bit instructions, eight in a line

LOOPS = {
    "load": "ldr r1,[r4]",
    "load and use": "ldr r1,[r4]\n adds r2,r2,r1",
    "two loads": "ldr r1,[r4]\n ldr r3,[r5]",
    "alternating branch": "tst r0,#1\n beq 2f\n mov r8,r8\n 2:",
    "skipped load": "cmp r4,r4\n it ne\n ldrne r1,[r4]",
    "line by line": "ldr r1,[r4],#32",
    "two lines": "ldr r1,[r4],#32\n ldr r3,[r5],#32",
    "word by word": "\n ".join(["ldr r1,[r4],#4"] * 8),
    "stores line by line": "str r1,[r4],#32",
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    sequences = {f"rule {name}": turn(loop) for name, (loop, _) in M7_LOOPS.items()}
    sequences |= {name: turn(loop) for name, loop in LOOPS.items()}
    sequences["straight line"] = " add.w r1,r1,r2\n" * STRAIGHT
    return Bench("stm32h7b3i", sequences, tmp_path_factory.mktemp("m7"))


@pytest.mark.parametrize("name", M7_LOOPS)
def test_rules_hold_in_the_trace(bench: Bench, name: str) -> None:
    registers = {"r1": DATA} if name == "pointer chase" else {}
    assert bench.per_turn(f"rule {name}", ZERO, registers) == M7_LOOPS[name][1]


def test_banks_are_told_apart_by_address(bench: Bench) -> None:
    """With the option of two loads a cycle: ldr, ldr; subs, bne; bubble. Of one bank: ldr; ldr, subs; bne; bubble."""
    model = CortexM7(PAIRS, HITS)
    near = {"r4": DATA}
    assert bench.per_turn("two loads", model, {**near, "r5": DATA + 0x104}) == 2 + 1
    assert bench.per_turn("two loads", model, {**near, "r5": DATA + 0x108}) == 3 + 1
    assert bench.per_turn("two loads", model, {**near, "r5": DATA}) == 2 + 1  # the same word
    assert bench.per_turn("two loads", ZERO, {**near, "r5": DATA + 0x104}) == 3 + 1  # without the option
    result = bench.traced("two loads", model, {**near, "r5": DATA + 0x108, "r0": 10})
    assert result.stalls["bank"] == result.memory["bank_conflicts"] == 10


def test_an_unaligned_load_delivers_a_cycle_later(bench: Bench) -> None:
    # ldr; adds, subs; bne; bubble. Unaligned: one cycle between ldr and adds.
    assert bench.per_turn("load and use", ZERO) == 3 + 1
    for offset in (1, 2, 3):
        assert bench.per_turn("load and use", ZERO, {"r4": DATA + offset}) == 4 + 1
        assert bench.per_turn("load", ZERO, {"r4": DATA + offset}) == bench.per_turn("load", ZERO)
    assert bench.traced("load and use", ZERO, {"r4": DATA + 1, "r0": 10}).stalls["unaligned"] == 10


def test_an_alternating_branch_is_always_predicted_wrongly(bench: Bench) -> None:
    """The two-bit counter goes 1, 2, 1, 2: on the wrong side every time. Each miss costs the rule's cycles."""
    result = bench.traced("alternating branch", ZERO, {"r0": 40})
    assert result.memory["mispredicted"] == 40 + 2  # and the loop's own branch in the first and the last turn
    more = CortexM7(M7Rules(mispredict=9), HITS)
    assert bench.per_turn("alternating branch", more) - bench.per_turn("alternating branch", ZERO) == 3


def test_skipped_instructions_take_a_slot(bench: Bench) -> None:
    result = bench.traced("skipped load", ZERO, {"r0": 20})
    assert (result.skipped, result.instructions) == (20, 20 * 5)
    # cmp; it (waits for the flags), ldrne; subs, bne; bubble.
    assert bench.per_turn("skipped load", ZERO) == 3 + 1


def test_a_miss_waits_for_the_first_word(bench: Bench) -> None:
    """ldr, subs; bne; bubble: 3 cycles a turn when all hits. AXI SRAM: 9 more a line. Flash: the bus is busy for 5 more
    cycles with the other half of the line, so that a line takes 10 + 5."""
    assert bench.per_turn("line by line", ZERO, {"r4": AXI}) == 3
    assert bench.per_turn("line by line", CACHES, {"r4": AXI}) == 3 + 9
    assert bench.per_turn("line by line", CACHES, {"r4": FLASH_DATA}) == 10 + 5
    axi = bench.traced("line by line", CACHES, {"r4": AXI, "r0": 50})
    flash = bench.traced("line by line", CACHES, {"r4": FLASH_DATA, "r0": 50})
    assert axi.memory["data_lines"] == flash.memory["data_lines"] == 50
    # The first one also waits for the bus, which fetches instructions.
    assert axi.stalls["data_cache"] == pytest.approx(9 * 50, abs=10) and axi.stalls["flash_data"] == 0
    assert flash.stalls["flash_data"] > 10 * 50 and flash.stalls["data_cache"] == 0
    tightly_coupled = bench.traced("line by line", CACHES, {"r4": DATA, "r0": 50})
    assert tightly_coupled.memory["data_lines"] == tightly_coupled.memory["data_hits"] == 0


def test_the_words_of_a_line_come_in_time_for_a_load_a_cycle(bench: Bench) -> None:
    """Eight loads (subs with the last), bne, bubble: 10 cycles; the fourth load after the first half finds the second
    half there, 4 cycles after the first."""
    assert bench.per_turn("word by word", ZERO, {"r4": AXI}) == 10
    assert bench.per_turn("word by word", CACHES, {"r4": AXI}) == 10 + 9
    assert bench.per_turn("word by word", CACHES, {"r4": FLASH_DATA}) == 10 + 10
    slow = CortexM7(memory=M7MemoryRules(flash_second=7))
    assert bench.per_turn("word by word", slow, {"r4": FLASH_DATA}) == 10 + 10 + 3


def test_the_data_cache_holds_16_kilobytes(bench: Bench) -> None:
    again = bench.traced("line by line", CACHES, {"r4": AXI, "r0": 512}, warm=True)
    assert again.memory["data_lines"] == 0 and again.memory["data_hits"] == 512 and again.stalls["data_cache"] == 0
    larger = bench.traced("line by line", CACHES, {"r4": AXI, "r0": 640}, warm=True)
    assert larger.memory["data_lines"] == 640  # four ways, least recently used: the next line needed has just gone


def test_stores_do_not_wait_but_lines_are_written_back(bench: Bench) -> None:
    result = bench.traced("stores line by line", CACHES, {"r4": AXI, "r0": 600})
    assert (result.memory["data_lines"], result.memory["data_lines_written_back"]) == (600, 600 - 512)
    assert result.stalls["data_cache"] == 0


def test_two_line_fill_buffers_are_an_option(bench: Bench) -> None:
    """Blocking: lines of 9 + 3 cycles one after the other. With two buffers the latency of one hides behind the other:
    each buffer is busy for 9 + 3 cycles, and both at once."""
    registers = {"r4": AXI, "r5": AXI + 0x8000}
    assert bench.per_turn("two lines", CACHES, registers) == 24
    option = CortexM7(memory=M7MemoryRules(line_fill_buffers=2))
    assert bench.per_turn("two lines", option, registers) == 12
    assert "two line fills" in option.conditions and "one line fill" in CACHES.conditions


def test_code_is_fetched_in_lines(bench: Bench) -> None:
    """A chain of additions, one a cycle, 8 a line. A line that is missing is asked for in the cycle of the instruction
    before it: 10 cycles from flash, 9 from AXI SRAM; ITCM is never waited for."""
    lines = STRAIGHT // 8
    for base, wait, cause in ((None, 10, "flash_fetch"), (AXI, 9, "instruction_cache"), (ITCM, 0, "instruction_cache")):
        if base is not None:
            bench.machine.write(base, bench.code)
        result = bench.traced("straight line", CACHES, base=0x08000200 if base is None else base)
        assert result.cycles == pytest.approx((7 + wait if wait else 8) * lines, abs=2)
        assert result.stalls[cause] == wait * lines
        assert result.memory["instruction_lines"] == (lines if wait else 0)
    again = bench.traced("straight line", CACHES, warm=True)
    assert again.memory["instruction_lines"] == 0 and again.cycles == pytest.approx(STRAIGHT, abs=2)
