"""Time: sleep and what ends it, scheduled actions, runs that end."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from millijoule.emulate import Machine
from millijoule.errors import EmulationError

Bare = Callable[..., Machine]
Finish = Callable[..., list[int]]


def test_scheduled_actions_come_in_the_order_of_time(bare: Bare, finish: Finish) -> None:
    machine = bare("int main(void) { for (volatile int i = 0; i < 2000; i++) { } results[0] = 1; return 0; }")
    order: list[tuple[str, int]] = []
    for name, when in (("c", 3000), ("a", 1000), ("b", 1000)):
        machine.schedule(when, lambda name=name: order.append((name, machine.now)))
    finish(machine)
    assert [name for name, _ in order] == ["a", "b", "c"]
    assert all(0 <= now - when < 40 for (_, now), when in zip(order, (1000, 1000, 3000), strict=True))


def test_wfi_sleeps_until_the_next_event(bare: Bare, finish: Finish) -> None:
    machine = bare("""
    volatile uint32_t ticks;
    void SysTick_Handler(void) { ticks++; }
    int main(void) {
        SYST_RVR = 99999; SYST_CVR = 0; SYST_CSR = 7;
        while (ticks < 10) { __asm volatile("wfi"); results[0]++; }
        __asm volatile("cpsid i\\n wfi" ::: "memory");
        results[1] = ticks;
        __asm volatile("cpsie i\\n isb" ::: "memory");
        results[2] = ticks;
        while (ticks < 12) __asm volatile("wfe");
        return 0;
    }""")
    values = finish(machine, 3)
    assert values == [10, 10, 11]
    assert machine.now == pytest.approx(12 * 100_000, rel=1e-3)
    assert machine.slept > 0.99 * machine.now and machine.counts().cycles < 5000


def test_sleep_on_exit(bare: Bare) -> None:
    machine = bare("""
    void SysTick_Handler(void) { if (++results[0] == 5) finished(); }
    int main(void) {
        SYST_RVR = 9999; SYST_CVR = 0; SYST_CSR = 7; SCR = 2u; __asm volatile("wfi"); results[1] = 1; return 0;
    }""")
    assert machine.run(machine.image.symbol("finished").address) == "address"
    assert machine.read_word(machine.image.symbol("results").address + 4) == 0 and machine.interrupts.taken == {15: 5}


def test_a_sleep_that_nothing_ends_is_an_error_unless_the_host_helps(bare: Bare, finish: Finish) -> None:
    source = """
    void Line1_Handler(void) { results[0]++; }
    int main(void) { ISER0 = 2u; while (results[0] < 3) __asm volatile("wfi"); return 0; }"""
    machine = bare(source)
    with pytest.raises(EmulationError, match="no interrupt can wake it"):
        finish(machine)
    machine = bare(source)
    calls = []

    def idle() -> bool:
        calls.append(machine.now)
        machine.interrupts.pend(1)
        return True

    machine.on_idle = idle
    assert finish(machine, 1) == [3] and len(calls) == 3


def test_runs_end_in_time_and_on_request(bare: Bare) -> None:
    machine = bare('int main(void) { for (;;) { __asm volatile(""); } }')
    assert machine.run(until_cycle=100_000) == "time" and 100_000 <= machine.now < 100_050
    machine.schedule(150_000, machine.stop)
    assert machine.run(until_cycle=10_000_000) == "request" and 150_000 <= machine.now < 150_050
    assert machine.run(until_cycle=200_000) == "time" and 200_000 <= machine.now < 200_050


def test_a_sleeping_core_sleeps_on_in_the_next_run(bare: Bare, finish: Finish) -> None:
    machine = bare("""
    void SysTick_Handler(void) { results[0]++; }
    int main(void) {
        SYST_RVR = 99999; SYST_CVR = 0; SYST_CSR = 7; __asm volatile("wfi"); results[1] = results[0]; return 0;
    }""")
    assert machine.run(until_cycle=50_000) == "time"
    assert machine.now == 50_000
    assert finish(machine, 2) == [1, 1] and machine.now > 100_000


def test_a_host_advances_a_sleeping_core_in_steps(bare: Bare) -> None:
    machine = bare("""
    void Line1_Handler(void) { results[0]++; }
    int main(void) { ISER0 = 2u; while (results[0] < 2) __asm volatile("wfi"); for (;;) { } }""")
    assert machine.advance(10_000) == "waiting" and machine.waiting and machine.now < 2000
    machine.sleep(5_000)
    assert 5_000 <= machine.now == machine.slept + machine.counts().cycles < 7_000
    machine.interrupts.pend(1)
    assert machine.advance(10_000) == "waiting"
    machine.schedule(machine.now + 500, lambda: machine.interrupts.pend(1))
    assert machine.advance(10_000) == "time" and not machine.waiting
