"""Faults of the core: each class raised by a real firmware, reported with frame, status, symbol and source line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from millijoule.boards import linker_script, load_board
from millijoule.build import compiler_flags, read_image
from millijoule.build._toolchain import cross_compiler, run
from millijoule.emulate import Machine, MemoryWindow
from millijoule.errors import EmulationError

Bare = Callable[..., Machine]
Finish = Callable[..., list[int]]
START = Path(__file__).parents[1] / "fixtures" / "bare"
BOARDS = ("stm32l4r9i", "stm32h7b3i")
# The handlers note what the core tells them and go on behind the instruction (four bytes long in these firmwares).
HANDLERS = """
__attribute__((used)) void note(uint32_t *frame, uint32_t number) {
    uint32_t *at = (uint32_t *)&results[8];
    at[0]++; at[1] = number; at[2] = CFSR; at[3] = HFSR; at[4] = BFAR; at[5] = frame[6]; at[6] = frame[7] >> 24 & 1u;
    for (int i = 0; i < 6; i++) at[7 + i] = frame[i];
    CFSR = CFSR; HFSR = HFSR;
    frame[6] = SKIP;
    frame[7] |= 0x01000000u;
}
#define ENTRY __attribute__((naked)) void
#define NOTE "tst lr, #4\\n ite eq\\n mrseq r0, msp\\n mrsne r0, psp\\n mrs r1, ipsr\\n b note"
ENTRY HardFault_Handler(void) { __asm volatile(NOTE); }
ENTRY MemManage_Handler(void) { __asm volatile(NOTE); }
ENTRY BusFault_Handler(void) { __asm volatile(NOTE); }
ENTRY UsageFault_Handler(void) { __asm volatile(NOTE); }
"""
BEGIN = """
#ifndef SKIP
#define SKIP (frame[6] + 4u)
#endif
#define ENABLE_FAULTS() (SHCSR |= 7u << 16)
"""


def firmware(body: str, before: str = "") -> str:
    return before + BEGIN + HANDLERS + "int main(void) {\n" + body + "\nreturn 0; }\n"


AWAY = '__asm volatile("mov r1, #0x60000000\\n %s" ::: "r0", "r1");'
FLASH = '__asm volatile("mov r1, #0x08000000\\n str.w r0, [r1, #8]" ::: "r1");'
DIVIDE = 'CCR |= 16u; BARRIER(); __asm volatile("movs r1, #0\\n %s r0, r0, r1" ::: "r0", "r1");'
# What the firmware does, the exception, CFSR, BFAR.
CASES = {
    "read of nothing": (AWAY % "ldr.w r0, [r1, #16]", 5, 0x8200, 0x60000010),
    "write to nothing": (AWAY % "str.w r0, [r1]", 5, 0x8200, 0x60000000),
    "write to flash": (FLASH, 5, 0x8200, 0x08000008),
    "undefined": ('__asm volatile(".inst.w 0xF7F0A000");', 6, 0x10000, None),
    "no coprocessor": ('__asm volatile(".inst.w 0xEE110F10" ::: "r0");', 6, 0x80000, None),
    "floats off": ('CPACR &= ~0xF00000u; BARRIER(); __asm volatile("vmov.f32 s0, s1");', 6, 0x80000, None),
    "division": (DIVIDE % "udiv", 6, 1 << 25, None),
    "signed division": (DIVIDE % "sdiv", 6, 1 << 25, None),
}


@pytest.mark.parametrize(
    ("board", "hook"), [("stm32l4r9i", "native"), ("stm32h7b3i", "native"), ("stm32l4r9i", "python")]
)
@pytest.mark.parametrize("case", CASES)
def test_the_handler_sees_the_fault_and_goes_on(bare: Bare, finish: Finish, case: str, board: str, hook: str) -> None:
    body, number, status, address = CASES[case]
    machine = bare(firmware("ENABLE_FAULTS();" + body + " results[0] = 77;"), board, on_fault="deliver", hook=hook)
    values = finish(machine, 16)
    assert values[0] == 77 and values[8] == 1, "one fault, and the next instruction ran"
    assert (values[9], values[10], values[11]) == (number, status, 0)
    if address is not None:
        assert values[12] == address
    report = machine.faults[0]
    assert report.frame["pc"] == values[13] and report.function == "main" and report.cfsr == status
    assert report.exception == report.taken == number and len(machine.faults) == 1


@pytest.mark.parametrize("case", CASES)
def test_faults_escalate_when_their_handler_is_off(bare: Bare, finish: Finish, case: str) -> None:
    body, _, status, _ = CASES[case]
    machine = bare(firmware(body + " results[0] = 77;"), on_fault="deliver")
    values = finish(machine, 16)
    assert values[0] == 77 and (values[9], values[10], values[11]) == (3, status, 1 << 30)


def test_without_the_trap_a_division_by_zero_gives_zero(bare: Bare, finish: Finish) -> None:
    machine = bare(
        firmware("""
        uint32_t quotient = 5, zero = 0, ten = 10;
        CCR |= 16u; BARRIER();
        __asm volatile("udiv %0, %1, %2" : "=r"(quotient) : "r"(ten), "r"(ten));
        results[0] = quotient;
        CCR &= ~16u; BARRIER();
        for (int turn = 0; turn < 3; turn++) {
            __asm volatile("udiv %0, %1, %2" : "=r"(quotient) : "r"(ten), "r"(zero));
            results[1] += quotient + 1u;
            zero = turn;
        }""")
    )
    assert finish(machine, 9) == [1, 1 + 1 + 11, 0, 0, 0, 0, 0, 0, 0] and not machine.faults


def test_the_stacked_frame_and_the_text_of_the_error(bare: Bare) -> None:
    machine = bare("""
    int main(void) {
        __asm volatile("mov r0, #10\\n mov r1, #0x60000000\\n mov r2, #12\\n mov r3, #13\\n mov r12, #22\\n"
                       "mov lr, #33\\n cmp r0, r0\\n str.w r0, [r1, r2]" ::: "r0", "r1", "r2", "r3", "r12", "lr", "cc");
        return 0;
    }""")
    with pytest.raises(EmulationError) as caught:
        machine.run(machine.image.symbol("finished").address)
    report = machine.faults[0]
    expected = {"r0": 10, "r1": 0x60000000, "r2": 12, "r3": 13, "r12": 22, "lr": 33, "xpsr": 0x61000000}
    assert {name: report.frame[name] for name in expected} == expected
    text = str(caught.value)
    assert "it writes 0x6000000c, where there is no memory" in text and "main at 0x0800" in text
    assert "HardFault; PRECISERR, access to an address that refuses it; BFARVALID, the address is known; FORCED" in text
    assert "CFSR 0x00008200, HFSR 0x40000000" in text and "r12 0x00000016 lr 0x00000021" in text


def test_source_lines_come_from_the_line_table(tmp_path: Path) -> None:
    board = load_board("stm32l4r9i")
    for path in START.iterdir():
        (tmp_path / path.name).write_text(path.read_text())
    body = "int main(void)\n{\n    results[0] = 1;\n    WORD(0x60000000) = 5;\n    return 0;\n}\n"
    (tmp_path / "test.c").write_text('#include "core.h"\n' + body)
    (tmp_path / "firmware.ld").write_text(linker_script(board, board.data_memory, stack_bytes=8192))
    flags = [flag for flag in compiler_flags(board, optimize="-O1") if flag != "-g0"]
    link = ["-g", "-nostdlib", "-Wl,-T,firmware.ld", "-Wl,-e,Reset_Handler", "start.c", "test.c", "-o", "fw.elf"]
    run([*cross_compiler("zig").command, *flags, *link], what="the firmware", folder=tmp_path)
    image = read_image(tmp_path / "fw.elf", board.name)
    machine = Machine(image, board)
    with pytest.raises(EmulationError, match=r"main at 0x0800\w+ \(test.c:5\): it writes 0x60000000"):
        machine.run(image.symbol("finished").address)
    assert machine.faults[0].line == "test.c:5"


def test_jumps_that_go_wrong(bare: Bare, finish: Finish) -> None:
    skip = "#define SKIP ((uint32_t)back & ~1u)\nvoid back(void);\n"
    back = "__attribute__((noinline, used)) void back(void) { results[0]++; finished(); }\n"
    for target, number, status in (("0x60000001", 5, 0x100), ("0x08000000", 6, 0x20000), ("0x40000001", 4, 1)):
        body = f"ENABLE_FAULTS(); volatile uint32_t where = {target}; ((void (*)(void))where)();"
        machine = bare(firmware(body, skip).replace("int main", back + "int main"), on_fault="deliver")
        values = finish(machine, 16)
        assert values[0] == 1 and (values[9], values[10]) == (number, status), target
        assert values[13] == int(target, 16) & ~1


MISALIGNED = {
    "ldrd": '__asm volatile("ldrd r2, r3, [%0, #4]" :: "r"((uint8_t *)words + 2) : "r2", "r3", "memory");',
    "strd": '__asm volatile("strd r2, r3, [%0]" :: "r"((uint8_t *)words + 2) : "memory");',
    "ldm": '__asm volatile("ldmia.w %0, {r2, r3}" :: "r"((uint8_t *)words + 1) : "r2", "r3", "memory");',
    "vldr": '__asm volatile("vldr s0, [%0]" :: "r"((uint8_t *)words + 2) : "s0", "memory");',
    "ldrex": '__asm volatile("ldrex r2, [%0]" :: "r"((uint8_t *)words + 2) : "r2", "memory");',
    "device": '__asm volatile("ldr.w r2, [%0]" :: "r"(0xE000ED01) : "r2", "memory");',
}


@pytest.mark.parametrize("case", MISALIGNED)
def test_misaligned_accesses_fault_in_strict_runs(bare: Bare, finish: Finish, case: str) -> None:
    body = f"static uint32_t words[8]; ENABLE_FAULTS(); {MISALIGNED[case]} results[0] = 77;"
    machine = bare(firmware(body), on_fault="deliver", strict=True)
    values = finish(machine, 16)
    assert values[0] == 77 and (values[8], values[9], values[10]) == (1, 6, 1 << 24)


@pytest.mark.parametrize("board", BOARDS)
def test_the_unaligned_trap_catches_every_access(bare: Bare, finish: Finish, board: str) -> None:
    load = '__asm volatile("ldr.w r2, [%0]" :: "r"((uint8_t *)words + 1) : "r2", "memory"); results[0]++;'
    aligned = '__asm volatile("ldr.w r2, [%0]" :: "r"(words) : "r2", "memory"); results[0]++;'
    body = f"static uint32_t words[8]; ENABLE_FAULTS(); {load} CCR |= 8u; BARRIER(); {load} {aligned}"
    body += f"CCR &= ~8u; BARRIER(); {load}"
    machine = bare(firmware(body), board, on_fault="deliver")
    values = finish(machine, 16)
    assert values[0] == 4 and (values[8], values[9], values[10]) == (1, 6, 1 << 24)
    machine = bare(firmware(body), board)
    with pytest.raises(EmulationError, match="its access is not aligned"):
        finish(machine)


def test_stack_overflow_is_found_and_named(bare: Bare) -> None:
    source = """
    __attribute__((noinline)) static uint32_t deep(volatile uint32_t *above) {
        volatile uint32_t here[32]; here[0] = *above; return deep(here) + here[1];
    }
    int main(void) { volatile uint32_t first = 1; return (int)deep(&first); }"""
    machine = bare(source)
    with pytest.raises(EmulationError, match="the stack of 8192 bytes overflowed"):
        machine.run()
    assert machine.faults[0].cfsr & 0x1200 == 0x1200, "the handler's frame found no room either"


def test_a_fault_in_the_fault_handler_stops_the_core(bare: Bare) -> None:
    machine = bare(
        """
    void HardFault_Handler(void) { WORD(0x60000004) = 1; }
    int main(void) { WORD(0x60000000) = 1; return 0; }""",
        on_fault="deliver",
    )
    with pytest.raises(EmulationError, match=r"HardFault_Handler at .* in a handler that no fault may interrupt"):
        machine.run()
    assert [report.taken for report in machine.faults] == [3, 3]


def test_supervisor_calls_that_cannot_run_become_hard_faults(bare: Bare, finish: Finish) -> None:
    skip = "#define SKIP frame[6]\n"
    machine = bare(firmware('__asm volatile("cpsid i\\n svc #1"); results[0] = 5;', skip), on_fault="deliver")
    values = finish(machine, 12)
    assert values[0] == 5 and values[9] == 3 and values[11] == 1 << 30


def test_broken_returns_from_exceptions(bare: Bare, finish: Finish) -> None:
    source = """
    static void number(void) { results[2] = ICSR & 0x1FFu; finished(); }
    __attribute__((used)) void look(uint32_t code) { results[0] = code; results[1] = CFSR; number(); }
    __attribute__((naked)) void UsageFault_Handler(void) { __asm volatile("mov r0, lr\\n b look"); }
    __attribute__((naked)) void SVC_Handler(void) { __asm volatile("ldr r0, =0xFFFFFFF1\\n bx r0\\n .ltorg"); }
    int main(void) { SHCSR |= 7u << 16; __asm volatile("svc #1"); return 0; }"""
    machine = bare(source, on_fault="deliver")
    assert finish(machine, 3) == [0xFFFFFFF1, 1 << 18, 6]
    assert "does not fit what is active" in machine.faults[0].reason


def test_the_cortex_m4_lacks_the_instructions_of_fpv5(bare: Bare, finish: Finish) -> None:
    """VMAXNM, VSEL, VRINTZ, VRINTX, VCVTA: the emulator library would execute them on the Cortex-M4, too."""
    words = ("0xFE800A81", "0xFE200A81", "0xEEB60AE0", "0xEEB70A60", "0xFEBC0AE0")
    body = "ENABLE_FAULTS(); " + " ".join(f'__asm volatile(".inst.w {word}"); results[0]++;' for word in words)
    machine = bare(firmware(body), on_fault="deliver")
    values = finish(machine, 12)
    assert values[0] == values[8] == len(words) and values[10] == 0x10000
    machine = bare(firmware(body), "stm32h7b3i", on_fault="deliver")
    values = finish(machine, 12)
    assert values[0] == len(words) and values[8] == 0 and not machine.faults
    machine = bare(firmware(body))
    with pytest.raises(EmulationError, match="it came with FPv5, this is FPv4"):
        finish(machine)


def test_faults_leave_the_counts_exact(bare: Bare, finish: Finish) -> None:
    machine = bare(
        firmware(
            "ENABLE_FAULTS();"
            '__asm volatile("mov r1, #0x60000000\\n nop\\n ldr.w r0, [r1]\\n nop\\n nop\\n bl finished"'
            ' ::: "r0", "r1", "lr");'
        ),
        on_fault="deliver",
    )
    finish(machine)
    place = (
        machine.image.symbols["place"].address if "place" in machine.image.symbols else machine.faults[0].frame["pc"]
    )
    sizes = machine.counter.sizes()
    executed = 0
    for total in machine.totals():
        block = machine.costs.block(total.target, sizes[total.target])
        if any(instruction.address == place for instruction in block):
            executed += total.instructions - total.count * sum(instruction.address < place for instruction in block)
    assert executed == 0, "neither the instruction nor what stands behind it in its block"


@pytest.mark.parametrize("board", BOARDS)
def test_further_memories_and_aliases(bare: Bare, finish: Finish, board: str) -> None:
    machine = bare(
        """
    int main(void) {
        results[0] = WORD(ALIAS); results[1] = WORD(ORIGIN);
        WORD(SPARE) = 0x12345678; results[2] = WORD(SECOND); results[3] = WORD(SPARE);
        results[4] = WORD(FACT) & 0xFFFFu;
        return 0;
    }""".replace("ALIAS", "0" if board == "stm32l4r9i" else "0x08000000")
        .replace("ORIGIN", "0x08000000")
        .replace("SPARE", "0x20030010" if board == "stm32l4r9i" else "0x38000010")
        .replace("SECOND", "0x10000010" if board == "stm32l4r9i" else "0x38000010")
        .replace("FACT", "0x1FFF75E0" if board == "stm32l4r9i" else "0x08FFF80C"),
        board,
    )
    values = finish(machine, 5)
    assert values[0] == values[1] and values[2:5] == [0x12345678, 0x12345678, 2048]


def test_single_bits_have_words_of_their_own_on_the_m4(bare: Bare, finish: Finish) -> None:
    machine = bare("""
    #define BIT(address, bit) WORD(((address) & 0xF0000000u) + 0x02000000u + ((address) & 0xFFFFFu) * 32u + (bit) * 4u)
    int main(void) {
        WORD(0x20010000) = 0x80u;
        BIT(0x20010000, 3) = 1u; BIT(0x20010000, 7) = 0xFEu; BIT(0x20010002, 4) = 5u;
        results[0] = WORD(0x20010000); results[1] = BIT(0x20010000, 3); results[2] = BIT(0x20010000, 4);
        WORD(0x40002810) = 0x100u;
        BIT(0x40002811, 7) = 1u; BIT(0x40002811, 0) = 0u;
        results[3] = WORD(0x40002810); results[4] = BIT(0x40002811, 7);
        return 0;
    }""")
    assert finish(machine, 5) == [1 << 20 | 8, 1, 0, 0x8000, 1]


def test_windows_are_checked(bare: Bare) -> None:
    source = "int main(void) { results[0] = WORD(0x60000000); WORD(0x60000000) = 1; return 0; }"
    machine = bare(source, windows=[MemoryWindow("device", 0x60000000, 4096, content=b"\x01\x02\x03\x04")])
    with pytest.raises(EmulationError, match="which is read-only memory"):
        machine.run()
    assert machine.read_word(machine.image.symbol("results").address) == 0x04030201
    with pytest.raises(EmulationError, match="there is no memory at 0x70000000"):
        bare(source, windows=[MemoryWindow("lost", 0x60000000, 4096, alias=0x70000000)])
    with pytest.raises(EmulationError, match="cannot be mapped"):
        bare(source, windows=[MemoryWindow("twice", 0x20000000, 4096)])
