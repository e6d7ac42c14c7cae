"""Exceptions of the core: entry, return, priorities, masks, stacks, timers; counts stay exact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from millijoule.emulate import Machine, load_image
from millijoule.errors import EmulationError

Bare = Callable[..., Machine]
Finish = Callable[..., list[int]]
BOARDS = ("stm32l4r9i", "stm32h7b3i")

SYSTICK = """
volatile uint32_t ticks;
void SysTick_Handler(void) { ticks++; }
int main(void) {
    SYST_RVR = 999; SYST_CVR = 0; SYST_CSR = 7;
    uint32_t turns = 0;
    while (ticks < 50) turns++;
    SYST_CSR = 0;
    results[0] = ticks; results[1] = turns;
    return 0;
}
"""


@pytest.mark.parametrize("hook", ["native", "python"])
@pytest.mark.parametrize("board", BOARDS)
def test_systick_counts_at_its_rate(bare: Bare, finish: Finish, board: str, hook: str) -> None:
    machine = bare(SYSTICK, board, hook=hook)
    ticks, turns = finish(machine, 2)
    assert ticks == 50 and turns > 1000
    assert 50_000 <= machine.now < 51_500
    assert machine.interrupts.taken == {15: 50}


def test_both_hooks_agree_with_interrupts(bare: Bare, finish: Finish) -> None:
    found = []
    for hook in ("native", "python"):
        machine = bare(SYSTICK, hook=hook)
        finish(machine)
        found.append((machine.counter.edges(), machine.now, machine.counts()))
    assert found[0] == found[1]


def test_systick_value_flag_and_reference_clock(bare: Bare, finish: Finish) -> None:
    machine = bare("""
    int main(void) {
        SYST_RVR = 4999; SYST_CVR = 123; SYST_CSR = 5;
        BARRIER();
        results[0] = SYST_CVR;
        for (volatile int i = 0; i < 20; i++) { }
        results[1] = SYST_CVR;
        results[2] = SYST_CSR;
        while (!(results[3] = SYST_CSR, results[3] >> 16)) { }
        results[4] = SYST_CSR;
        SYST_CSR = 0;
        results[5] = SYST_CVR; results[6] = SYST_CVR;
        SYST_RVR = 99; SYST_CVR = 0; SYST_CSR = 1;
        while (!(SYST_CSR >> 16)) { }
        return 0;
    }""")
    values = finish(machine, 7)
    assert 4800 < values[0] <= 4999 and 0 < values[1] < values[0]
    assert values[2] == 5 and values[3] == 0x10005 and values[4] == 5
    assert values[5] == values[6] != 0
    assert machine.now > 5000 + 8 * 100 and not machine.interrupts.taken


CONTEXT_SWITCH = """
static uint32_t stacks[2][128] __attribute__((aligned(8)));
uint32_t *tasks[2];
volatile uint32_t current, switches;
static volatile float sums[2];
__attribute__((naked)) void PendSV_Handler(void) {
    __asm volatile("mrs r0, psp\\n isb\\n tst lr, #16\\n it eq\\n vstmdbeq r0!, {s16-s31}\\n"
                   "stmdb r0!, {r4-r11, lr}\\n"
                   "ldr r3, =tasks\\n ldr r2, =current\\n ldr r1, [r2]\\n str r0, [r3, r1, lsl #2]\\n"
                   "eor r1, r1, #1\\n str r1, [r2]\\n ldr r0, [r3, r1, lsl #2]\\n"
                   "ldmia r0!, {r4-r11, lr}\\n tst lr, #16\\n it eq\\n vldmiaeq r0!, {s16-s31}\\n"
                   "msr psp, r0\\n isb\\n ldr r2, =switches\\n ldr r3, [r2]\\n adds r3, #1\\n str r3, [r2]\\n bx lr\\n"
                   ".ltorg");
}
void SysTick_Handler(void) { ICSR = 1u << 28; }
void SVC_Handler(void) { results[10]++; }
static void task(uint32_t number) {
    uint32_t control;
    __asm volatile("mrs %0, control" : "=r"(control));
    results[4 + number] = control & 3u;
    for (;;) {
        results[number]++;
        sums[number] = sums[number] + (number ? 0.5f : 0.25f);
        if (number == 0 && switches >= 40) {
            results[2] = (uint32_t)(sums[0] * 4); results[3] = (uint32_t)(sums[1] * 2); finished();
        }
    }
}
static void task0(void) { task(0); }
static void task1(void) { task(1); }
int main(void) {
    SYSTEM_PRIORITY(14) = 0xF0; SYSTEM_PRIORITY(15) = 0x40;
    uint32_t *top = &stacks[1][128] - 8;
    top[6] = (uint32_t)task1 & ~1u; top[7] = 0x01000000u;
    top -= 9; top[8] = 0xFFFFFFFDu;
    tasks[1] = top;
    __asm volatile("msr psp, %0\\n mov r0, #2\\n msr control, r0\\n isb" :: "r"(&stacks[0][128]) : "r0", "memory");
    __asm volatile("svc #7" ::: "memory");
    SYST_RVR = 1999; SYST_CVR = 0; SYST_CSR = 7;
    task0();
    return 0;
}
"""


@pytest.mark.parametrize("board", BOARDS)
def test_pendsv_switches_two_tasks_with_their_own_stacks(bare: Bare, finish: Finish, board: str) -> None:
    machine = bare(CONTEXT_SWITCH, board)
    values = finish(machine, 11)
    assert values[0] > 100 and values[1] > 100
    assert values[2:4] in ([values[0], values[1]], [values[0], values[1] - 1], [values[0], values[1] + 1])
    assert values[4:6] == [2, 2] and values[10] == 1
    assert machine.interrupts.taken[14] >= 40 and machine.interrupts.taken[15] >= 40
    assert not machine.faults


def test_priorities_nest_and_decide_the_order(bare: Bare, finish: Finish) -> None:
    machine = bare("""
    static volatile uint32_t at = 1;
    static void note(uint32_t what) { results[at++] = what; }
    void Line0_Handler(void) { note(0x10); ISPR0 = 4u; BARRIER(); note(0x11); }
    void Line1_Handler(void) { note(0x20); note(IABR0); ISPR0 = 1u; BARRIER(); note(0x21); }
    void Line2_Handler(void) { note(0x30); note((ICSR >> 11 & 1u)); note(ICSR & 0x1FFu); }
    int main(void) {
        PRIORITY(0) = 0x40; PRIORITY(1) = 0x80; PRIORITY(2) = 0xC0;
        ISER0 = 7u;
        note(PRIORITY(1));
        ISPR0 = 2u; BARRIER();
        note(0x99);
        PRIORITY(0) = 0x9F; PRIORITY(1) = 0x80; AIRCR = 0x05FA0600u;   /* groups of bit 7 only: no nesting */
        ISPR0 = 2u; BARRIER();
        note(0x98);
        results[0] = at;
        results[40] = PRIORITY(0);
        return 0;
    }""")
    values = finish(machine, 41)
    first = [0x80, 0x20, 2, 0x10, 0x11, 0x21, 0x30, 1, 18, 0x99]
    assert values[1 : 1 + len(first)] == first
    second = [0x20, 2, 0x21, 0x10, 0x11, 0x30, 1, 18, 0x98]
    assert values[1 + len(first) : 1 + len(first) + len(second)] == second
    assert values[40] == 0x90, "four bits of priority"


def test_masks_hold_interrupts_back(bare: Bare, finish: Finish) -> None:
    machine = bare("""
    static volatile uint32_t seen;
    void Line0_Handler(void) { seen |= 1u; }
    void Line1_Handler(void) { seen |= 2u; }
    void HardFault_Handler(void) { for (;;) { } }
    int main(void) {
        PRIORITY(0) = 0x40; PRIORITY(1) = 0xA0; ISER0 = 3u;
        __asm volatile("msr basepri, %0" :: "r"(0x80));
        ISPR0 = 3u; BARRIER(); results[0] = seen;
        results[1] = ISPR0;
        __asm volatile("msr basepri, %0" :: "r"(0)); results[2] = seen;
        seen = 0;
        __asm volatile("cpsid i" ::: "memory");
        ISPR0 = 3u; BARRIER(); results[3] = seen;
        __asm volatile("cpsie i\\n isb\\n cpsid i" ::: "memory");
        results[4] = seen; seen = 0;
        __asm volatile("cpsie i" ::: "memory");
        __asm volatile("cpsid f" ::: "memory");
        ISPR0 = 3u; BARRIER(); results[5] = seen;
        __asm volatile("cpsie f\\n isb" ::: "memory");
        results[6] = seen;
        seen = 0; ICER0 = 2u; ISPR0 = 3u; BARRIER(); results[7] = seen; results[8] = ISPR0;
        ICPR0 = 2u; results[9] = ISPR0;
        return 0;
    }""")
    assert finish(machine, 10) == [1, 2, 3, 0, 3, 0, 3, 1, 2, 0]


def test_svc_returns_values_through_the_frame(bare: Bare, finish: Finish) -> None:
    machine = bare("""
    __attribute__((used)) void serve(uint32_t *frame) {
        frame[0] = frame[0] * 3u + ((uint8_t *)frame[6])[-2];
        results[2] = frame[7] >> 28;
    }
    __attribute__((naked)) void SVC_Handler(void) { __asm volatile("mov r0, sp\\n b serve"); }
    int main(void) {
        register uint32_t r0 __asm("r0") = 100;
        __asm volatile("cmp r0, r0\\n svc #5" : "+r"(r0) :: "memory", "cc");
        results[0] = r0;
        uint32_t sum = 0;
        for (uint32_t i = 0; i < 7; i++) {   /* an SVC inside an IT block */
            register uint32_t value __asm("r0") = i;
            __asm volatile("tst r0, #1\\n ite ne\\n svcne #1\\n addeq r0, #50" : "+r"(value) :: "memory", "cc");
            sum += value;
        }
        results[1] = sum;
        return 0;
    }""")
    assert finish(machine, 3)[:2] == [305, sum(i * 3 + 1 if i & 1 else i + 50 for i in range(7))]


@pytest.mark.parametrize("hook", ["native", "python"])
def test_a_line_stays_pending_while_it_is_high(bare: Bare, finish: Finish, hook: str) -> None:
    machine = bare(
        """
    void Line2_Handler(void) { results[0]++; if (results[0] == 3) WORD(0x50060000) = 0; }
    int main(void) { ISER0 = 4u; while (results[0] < 3) { } results[1] = ISPR0; return 0; }""",
        hook=hook,
    )
    store = machine.peripherals.write

    def write(address: int, size: int, value: int) -> None:
        if address == 0x50060000:
            machine.interrupts.set_line(2, False)
        else:
            store(address, size, value)

    machine.peripherals.write = write  # type: ignore[method-assign]
    machine.schedule(5000, lambda: machine.interrupts.set_line(2, True))
    assert finish(machine, 2) == [3, 0]
    assert machine.interrupts.taken == {18: 3} and machine.now > 5000


@pytest.mark.parametrize("board", BOARDS)
def test_floating_point_survives_interrupts_and_frames_have_the_right_size(
    bare: Bare, finish: Finish, board: str
) -> None:
    machine = bare(
        """
    __attribute__((used)) void note(uint32_t code, uint32_t stack) { results[results[0]] = code; results[8] = stack; }
    __attribute__((naked)) void Line0_Handler(void) {   /* without floating point */
        __asm volatile("push {r4, lr}\\n mov r0, lr\\n mov r1, sp\\n bl note\\n pop {r4, pc}");
    }
    void Line1_Handler(void) {
        __asm volatile("vmov.f32 s0, #3.0\\n vmov.f32 s15, #5.0\\n mov r0, #0x00C00000\\n vmsr fpscr, r0\\n"
                       "vadd.f32 s7, s0, s15" ::: "r0", "s0", "s7", "s15");
    }
    __attribute__((noinline)) static void floats(void) {
        uint32_t stack;
        __asm volatile("mov %0, sp" : "=r"(stack));
        results[13] = stack;
        __asm volatile("vmov.f32 s0, #1.5\\n vmov.f32 s7, #2.5\\n vmov.f32 s15, #0.5" ::: "s0", "s7", "s15");
        results[0] = 2; ISPR0 = 1u; BARRIER();
        results[11] = results[8];
        uint32_t before, after;
        __asm volatile("vmrs %0, fpscr" : "=r"(before));
        ISPR0 = 2u; BARRIER();
        __asm volatile("vmrs %0, fpscr" : "=r"(after));
        float a, b, c;
        __asm volatile("vmov %0, s0\\n vmov %1, s7\\n vmov %2, s15" : "=r"(a), "=r"(b), "=r"(c));
        results[12] = a == 1.5f && b == 2.5f && c == 0.5f && before == after;
    }
    int main(void) {
        uint32_t stack;
        ISER0 = 3u;
        __asm volatile("mov %0, sp" : "=r"(stack));
        results[9] = stack;
        results[0] = 1; ISPR0 = 1u; BARRIER();
        results[10] = results[8];
        floats();
        return 0;
    }""",
        board,
    )
    values = finish(machine, 14)
    assert values[1] == 0xFFFFFFF9 and values[2] == 0xFFFFFFE9, "without and with floating point registers"
    # Below the interrupted stack: the frame and the eight bytes that the handler pushed.
    assert values[9] - values[10] == 8 + 32 and values[13] - values[11] == 8 + 104
    assert values[12] == 1


def test_the_frame_is_aligned_and_unaligned_again(bare: Bare, finish: Finish) -> None:
    machine = bare("""
    __attribute__((used)) void note(uint32_t *frame) { results[0] = (uint32_t)frame; results[1] = frame[7] >> 9 & 1u; }
    __attribute__((naked)) void Line0_Handler(void) { __asm volatile("mov r0, sp\\n b note"); }
    int main(void) {
        ISER0 = 1u;
        uint32_t before, after;
        __asm volatile("push {r0}\\n mov %0, sp\\n mov r3, #0xE000E000\\n mov r2, #1\\n str r2, [r3, #0x200]\\n"
                       "dsb\\n isb\\n mov %1, sp\\n add sp, #4" : "=&r"(before), "=&r"(after) :: "r2", "r3", "memory");
        results[2] = before; results[3] = after;
        return 0;
    }""")
    frame, padded, before, after = finish(machine, 4)
    assert before % 8 == 4 and after == before
    assert frame % 8 == 0 and padded == 1 and before - frame == 36


def test_vectors_may_move_and_non_maskable_interrupts_come_through(bare: Bare, finish: Finish) -> None:
    machine = bare("""
    static uint32_t table[64] __attribute__((aligned(512)));
    static void other(void) { results[0] += 16; }
    void Line0_Handler(void) { results[0]++; }
    void NMI_Handler(void) { results[1]++; }
    int main(void) {
        ISER0 = 1u;
        WORD(0xE000EF00) = 0; BARRIER();
        for (int i = 0; i < 64; i++) table[i] = WORD(0x08000000 + 4 * i);
        table[16] = (uint32_t)other;
        WORD(0xE000ED08) = (uint32_t)table; BARRIER();
        WORD(0xE000EF00) = 0; BARRIER();
        __asm volatile("cpsid f" ::: "memory");
        ICSR = 1u << 31; BARRIER();
        results[2] = results[1];
        return 0;
    }""")
    assert finish(machine, 3) == [17, 1, 1]


def test_an_image_without_symbols_runs(bare: Bare, tmp_path: Path) -> None:
    known = bare(SYSTICK)
    path = tmp_path / "firmware.bin"
    known.image.save_binary(path)
    raw = Machine(load_image(path, "stm32l4r9i"), "stm32l4r9i")
    assert raw.image.symbols == {}
    for machine in (known, raw):
        assert machine.run(known.image.symbol("finished").address) == "address"
    assert raw.now == known.now and raw.counts() == known.counts() and raw.interrupts.taken == {15: 50}


WORK = """
__attribute__((noinline)) static uint32_t work(uint32_t n) {
    uint32_t a = 1;
    for (uint32_t i = 0; i < n; i++) { if (a & 1u) a = a * 3u + i; else a = (a >> 1) ^ i; a = (a << 3) | (a >> 29); }
    return a;
}
"""
INTERRUPTED = (
    WORK
    + """
void SysTick_Handler(void) { results[1]++; }
int main(void) {   /* the host writes the reload value and the control word */
    SYST_RVR = WORD(0x20010000); SYST_CVR = 0; SYST_CSR = WORD(0x20010004);
    results[0] = work(250000);
    SYST_CSR = 0;
    return 0;
}
"""
)


@pytest.mark.parametrize("board", BOARDS)
def test_ten_thousand_interrupts_leave_the_counts_exact(bare: Bare, finish: Finish, board: str) -> None:
    """The interrupted code's edges are those of an undisturbed run; each handler adds exactly its own instructions."""
    quiet, busy = bare(INTERRUPTED, board), bare(INTERRUPTED, board)
    for machine, reload, control in ((quiet, 0, 0), (busy, 149, 7)):
        machine.write_word(0x20010000, reload)
        machine.write_word(0x20010004, control)
    result = finish(quiet, 1)[0]
    values = finish(busy, 2)
    assert values[0] == result and values[1] >= 10_000
    taken = busy.interrupts.taken[15]
    assert taken == values[1]
    handler = busy.image.symbol("SysTick_Handler")
    inside = {
        edge.target: edge.count
        for edge in busy.counter.edges()
        if handler.address <= edge.target < handler.address + handler.size
    }
    assert inside == {handler.address: taken}
    work = quiet.image.symbol("work")
    span = range(work.address, work.address + work.size)
    edges = [[edge for edge in machine.counter.edges() if edge.target in span] for machine in (quiet, busy)]
    assert edges[0] == edges[1], "counts and predictions of the interrupted code"


def test_the_firmware_can_reset_the_chip(bare: Bare, finish: Finish) -> None:
    machine = bare("""
    #define resets WORD(0x20010000)
    int main(void) {
        results[0] = ISER0; results[1] = resets;
        if (resets != 0x1234) { resets = 0x1234; ISER0 = 5u; AIRCR = 0x05FA0004u; for (;;) { } }
        return 0;
    }""")
    assert finish(machine, 2) == [0, 0x1234] and machine.resets == 1


def test_identification_and_cache_registers(bare: Bare, finish: Finish) -> None:
    source = """
    int main(void) {
        results[0] = WORD(0xE000ED00); results[1] = WORD(0xE000E004); results[2] = CCR;
        WORD(0xE000ED84) = 0; results[3] = WORD(0xE000ED80); WORD(0xE000ED84) = 1; results[4] = WORD(0xE000ED80);
        WORD(0xE000EF50) = 0; WORD(0xE000EF60) = 0; BARRIER();
        results[5] = WORD(0xE000EF40); results[6] = WORD(0xE000ED08);
        WORD(0xE000ED08) = 0x20000000u; results[7] = WORD(0xE000ED08);
        WORD(0xE000EDFC) |= 1u << 24; WORD(0xE0001000) |= 1u; CYCCNT = 0; results[8] = CYCCNT;
        for (volatile int i = 0; i < 100; i++) { }
        results[9] = CYCCNT; WORD(0xE0001000) = 0; results[10] = CYCCNT; results[11] = CYCCNT;
        return 0;
    }"""
    values = finish(bare(source), 12)
    assert values[:3] == [0x410FC241, 2, 0x200] and values[5] == 0x10110021
    values = finish(bare(source, "stm32h7b3i"), 12)
    assert values[:3] == [0x411FC271, 4, 0x200] and values[5] == 0x10110221
    # CCSIDR: sets x ways x line of 32 bytes; 16 KB of data in 4 ways, 16 KB of instructions in 2.
    sizes = [((word >> 13 & 0x7FFF) + 1) * ((word >> 3 & 0x3FF) + 1) * (4 << (word & 7) + 2) for word in values[3:5]]
    assert sizes == [16384, 16384]
    assert values[6:8] == [0x08000000, 0x20000000]
    assert values[8] < 50 and 400 < values[9] < 5000 and values[9] <= values[10] == values[11]


def test_interrupt_lines_are_checked(bare: Bare) -> None:
    machine = bare("int main(void) { return 0; }")
    with pytest.raises(EmulationError, match="the chip has"):
        machine.interrupts.pend(500)
    with pytest.raises(EmulationError, match="no such policy"):
        bare("int main(void) { return 0; }", on_fault="ignore")


def test_two_runs_are_equal(bare: Bare, finish: Finish) -> None:
    found = []
    for _ in range(2):
        machine = bare(CONTEXT_SWITCH)
        values = finish(machine, 11)
        found.append((values, machine.now, machine.counts(), machine.counter.edges(), dict(machine.interrupts.taken)))
    machine.reset()
    values = finish(machine, 11)
    found.append((values, machine.now, machine.counts(), machine.counter.edges(), dict(machine.interrupts.taken)))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("hook", ["native", "python"])
def test_slices_change_nothing(bare: Bare, hook: str) -> None:
    found = []
    for slices in ([60_000], [1, 17, 1000, 1001, 1002, 20_000, 20_001, 59_999, 60_000]):
        machine = bare(CONTEXT_SWITCH, hook=hook)
        for end in slices:
            assert machine.run(until_cycle=end) == "time"
        found.append((machine.now, machine.counts(), machine.counter.edges(), dict(machine.interrupts.taken)))
    assert found[0] == found[1]
