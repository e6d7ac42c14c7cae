"""The chip around the core: facts, clocks, pins, serial ports, timers, flash controller."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from millijoule.boards import board_registers, load_board
from millijoule.emulate import Peripherals
from millijoule.emulate.peripherals._facts import FAMILIES, Family, registers_of
from millijoule.errors import OptionError

ROOT = Path(__file__).resolve().parents[2]
BOARDS = ("stm32l4r9i", "stm32h7b3i")
FACTS = {"stm32l4r9i": "stm32l4r9.json", "stm32h7b3i": "stm32h7b3.json"}


class Lines:
    """Remembers the levels of the interrupt lines."""

    def __init__(self) -> None:
        self.levels: dict[int, bool] = {}
        self.rises: list[int] = []

    def set_line(self, number: int, level: bool) -> None:
        self.levels[number] = level
        if level:
            self.rises.append(number)


class Bench:
    """A chip whose time is set by hand."""

    def __init__(self, board: str) -> None:
        self.time = 0
        self.chip = Peripherals(load_board(board), lambda: self.time)
        self.lines = Lines()
        self.chip.interrupts = self.lines

    def at(self, peripheral: str, register: str) -> int:
        kind = self.chip.blocks[peripheral].instance.kind if peripheral in self.chip.blocks else peripheral
        return self.chip.registers.bases[peripheral] + self.chip.registers.registers[f"{kind}_{register}"].offset

    def read(self, peripheral: str, register: str) -> int:
        return self.chip.read(self.at(peripheral, register), 4)

    def write(self, peripheral: str, register: str, value: int, size: int = 4) -> None:
        self.chip.write(self.at(peripheral, register), size, value)

    def pass_time(self, cycles: int) -> None:
        self.time += cycles
        self.chip.refresh()


@pytest.fixture(params=BOARDS)
def bench(request: pytest.FixtureRequest) -> Bench:
    return Bench(request.param)


def family_of(board: str) -> Family:
    return FAMILIES[board_registers(load_board(board)).bases["RCC"]]


@pytest.mark.parametrize("board", FACTS)
def test_every_fact_is_the_vendor_s(board: str) -> None:
    path = ROOT.parent / "shared" / "docs" / "registers" / FACTS[board]
    if not path.is_file():
        pytest.skip("the vendor's register facts (../shared/docs/registers) are not here")
    document = json.loads(path.read_text())
    vendor, family = document["peripherals"], family_of(board)
    kinds = {item["type"]: item["registers"] for item in vendor.values()}
    compared = 0
    for name, register in registers_of(family).items():
        known = kinds[register.peripheral].get(register.name)
        if known is None:
            assert name == "GPIO_BRR" and board == "stm32h7b3i"  # the H7 has no bit reset register
            continue
        assert register.offset == int(known["offset"], 16), name
        for field, bits in register.fields.items():
            assert [bits.position, bits.width] == known["fields"][field], f"{name}_{field}"
            compared += 1
    assert compared > 90
    for item in family.instances:
        if item.name in vendor:
            assert item.base == int(vendor[item.name]["base"], 16), item.name
        if item.name in document["interrupts"]:
            assert item.interrupt == document["interrupts"][item.name], item.name
    for name, base in family.bases.items():
        assert base == int(vendor[name]["base"], 16)


@pytest.mark.parametrize("board", BOARDS)
def test_facts_agree_with_the_headers_the_firmware_is_built_with(board: str) -> None:
    header, facts = board_registers(load_board(board)), registers_of(family_of(board))
    common = header.registers.keys() & facts.keys()
    assert len(common) > 15
    for name in common:
        assert header.registers[name].offset == facts[name].offset
        for field in header.registers[name].fields.keys() & facts[name].fields.keys():
            assert header.registers[name].fields[field] == facts[name].fields[field], f"{name}_{field}"


def test_peripherals_do_not_overlap() -> None:
    for family in FAMILIES.values():
        bases = [*family.bases.values(), *(item.base for item in family.instances)]
        assert len(set(bases)) == len(bases) and all(base % 0x400 == 0 for base in bases)
        enables = [item.enable for item in family.instances]
        assert len(set(enables)) == len(enables)
        for item in family.instances:
            register, field = item.enable
            assert field in family.layouts["RCC"][register][1]


def test_ready_follows_enable_for_every_oscillator(bench: Bench) -> None:
    for name, enable, ready in bench.chip.rules.ready:
        peripheral, register = name.split("_")
        bits = bench.chip.registers.registers[name].fields
        before = bench.read(peripheral, register)
        bench.write(peripheral, register, before | bits[enable].mask)
        assert bits[ready].get(bench.read(peripheral, register)) == 1, ready
        bench.write(peripheral, register, before & ~bits[enable].mask)
        assert bits[ready].get(bench.read(peripheral, register)) == 0, ready


def test_the_clock_switches_only_to_a_source_that_runs(bench: Bench) -> None:
    switch = bench.chip.registers.registers["RCC_CFGR"].fields
    word = bench.read("RCC", "CFGR")
    bench.write("RCC", "CFGR", switch["SW"].put(word, 3))
    assert switch["SWS"].get(bench.read("RCC", "CFGR")) == 0
    assert "switched to a source that is off" in bench.chip.problems[0]
    enable = "PLLON" if bench.chip.board.name == "stm32l4r9i" else "PLL1ON"
    bench.write("RCC", "CR", bench.read("RCC", "CR") | bench.chip.registers.field("RCC_CR", enable).mask)
    bench.write("RCC", "CFGR", switch["SW"].put(word, 3))
    assert switch["SWS"].get(bench.read("RCC", "CFGR")) == 3


@pytest.mark.parametrize(("code", "hertz"), [(0, 100_000), (6, 4_000_000), (11, 48_000_000)])
def test_the_clock_after_reset_and_its_ranges_on_l4(code: int, hertz: int) -> None:
    bench = Bench("stm32l4r9i")
    assert bench.chip.clock_hz() == 4_000_000
    bench.write("RCC", "CR", 0x0B | code << 4)  # MSIRGSEL and a range
    assert bench.chip.clock_hz() == hertz


def test_the_clock_after_reset_on_h7() -> None:
    bench = Bench("stm32h7b3i")
    assert bench.chip.clock_hz() == 64_000_000
    bench.write("RCC", "CR", bench.read("RCC", "CR") | 2 << 3)
    assert bench.chip.clock_hz() == 16_000_000


def test_an_external_oscillator_of_unknown_frequency_is_named() -> None:
    bench = Bench("stm32h7b3i")
    bench.write("RCC", "CR", bench.read("RCC", "CR") | 1 << 16)
    bench.write("RCC", "CFGR", 2)
    assert bench.chip.clock_hz() == bench.chip.board.clock_hz
    assert "external oscillator whose frequency is not known here: 280 MHz are assumed" in bench.chip.warnings[0]


def test_pins_agree_with_each_other(bench: Bench) -> None:
    bench.time = 70
    bench.write("GPIOB", "PUPDR", 0)
    bench.write("GPIOB", "MODER", 0xFFFF0000 | 1 << 4 | 1 << 2)  # 1 and 2 out, 0 and 3 in, the upper half analog
    bench.write("GPIOB", "BSRR", 1 << 1)
    bench.time = 100
    bench.write("GPIOB", "BSRR", 1 << 2 | 1 << 18 | 1 << 17)  # set wins over reset on pin 2; pin 1 falls
    assert bench.read("GPIOB", "ODR") == bench.read("GPIOB", "IDR") == 4
    bench.write("GPIOB", "ODR", 0x0008)  # pin 3 is an input: no edge
    assert bench.read("GPIOB", "IDR") == 0 and bench.read("GPIOB", "BSRR") == 0
    edges = [(edge.cycles, edge.port, edge.pin, edge.level) for edge in bench.chip.edges]
    assert edges == [(70, "GPIOB", 1, 1), (100, "GPIOB", 1, 0), (100, "GPIOB", 2, 1), (100, "GPIOB", 2, 0)]


def test_inputs_read_their_pull_or_what_drives_them(bench: Bench) -> None:
    bench.write("GPIOC", "MODER", 0)
    bench.write("GPIOC", "PUPDR", 1)
    assert bench.read("GPIOC", "IDR") == 1
    bench.chip.port("gpioc").drive(0, 0)
    bench.chip.port("GPIOC").drive(5, 1)
    assert bench.read("GPIOC", "IDR") == 1 << 5
    bench.chip.port("GPIOC").drive(5, None)
    assert bench.read("GPIOC", "IDR") == 0
    with pytest.raises(OptionError, match="Name it like GPIOA"):
        bench.chip.port("LED")


def test_a_peripheral_without_its_clock_is_reported_once(bench: Bench) -> None:
    bench.read("TIM3", "CNT")
    bench.read("TIM3", "CNT")
    assert [text for text in bench.chip.warnings if "TIM3 is used while its clock is off" in text]
    assert len(bench.chip.warnings) == 1
    register, field = bench.chip.blocks["TIM4"].instance.enable
    bench.write("RCC", register, bench.chip.registers.field(f"RCC_{register}", field).mask)
    bench.read("TIM4", "CNT")
    assert len(bench.chip.warnings) == 1


UE, RE, TE, IDLEIE, RXNEIE, TCIE, TXEIE, FIFOEN = 1, 4, 8, 16, 32, 64, 128, 1 << 29
RXNE, TC, TXE, IDLE = 32, 64, 128, 16


def serial(bench: Bench, control: int, divider: int = 100) -> tuple[str, int]:
    name = bench.chip.board.console.peripheral
    bench.write(name, "BRR", divider)
    bench.write(name, "CR1", control)
    number = bench.chip.blocks[name].instance.interrupt
    assert number is not None
    return name, number


def test_a_polled_port_receives_and_sends(bench: Bench) -> None:
    name, _ = serial(bench, UE | RE | TE)
    assert bench.read(name, "ISR") & (RXNE | TC | TXE) == TC | TXE
    bench.chip.receive(b"ab")
    assert bench.read(name, "ISR") & RXNE
    assert [bench.read(name, "RDR"), bench.read(name, "RDR"), bench.read(name, "RDR")] == [97, 98, 0]
    assert not bench.read(name, "ISR") & RXNE
    bench.write(name, "TDR", 0x41, size=1)
    assert bench.chip.transmitted == b"A"
    bench.write(name, "CR1", UE | RE)
    bench.write(name, "TDR", 0x42)
    assert bench.chip.transmitted == b"A" and "transmitter is off" in bench.chip.warnings[-1]


def test_received_bytes_interrupt_at_the_pace_of_the_line(bench: Bench) -> None:
    name, number = serial(bench, UE | RE | TE | RXNEIE)
    port = bench.chip.console
    character = port.character_cycles()
    assert character == pytest.approx(10 * bench.chip.clock_hz() / port.baud(), abs=1)
    bench.chip.receive(b"xyz")
    assert not bench.lines.levels.get(number) and bench.chip.next_event() == character
    bench.pass_time(character - 1)
    assert not bench.lines.levels.get(number)
    bench.pass_time(1)
    assert bench.lines.levels[number] and bench.read(name, "RDR") == ord("x")
    assert not bench.lines.levels[number]
    bench.pass_time(character)
    assert bench.lines.levels[number]
    bench.pass_time(3 * character)  # read too late for a real line
    assert bench.read(name, "RDR") == ord("y") and port.late == 1
    bench.pass_time(character)
    assert bench.read(name, "RDR") == ord("z") and port.late == 1
    assert bench.lines.rises == [number] * 2  # the line stayed high between the second and the third


def test_an_idle_line_interrupts_one_character_later(bench: Bench) -> None:
    name, number = serial(bench, UE | RE | IDLEIE)
    bench.chip.receive(b"q")
    bench.read(name, "RDR")
    due = bench.chip.next_event()
    assert due == bench.chip.console.character_cycles()
    bench.pass_time(due)
    assert bench.lines.levels[number] and bench.read(name, "ISR") & IDLE
    bench.write(name, "ICR", 16)
    assert not bench.lines.levels[number] and not bench.read(name, "ISR") & IDLE
    assert bench.chip.next_event() is None


def test_transmit_interrupts_follow_their_flags(bench: Bench) -> None:
    name, number = serial(bench, UE | TE)
    bench.write(name, "CR1", UE | TE | TXEIE)
    assert bench.lines.levels[number]
    bench.write(name, "CR1", UE | TE)
    assert not bench.lines.levels[number]
    bench.write(name, "ICR", 64)
    bench.write(name, "CR1", UE | TE | TCIE)
    assert not bench.lines.levels[number]
    bench.write(name, "TDR", 1)
    assert bench.lines.levels[number]


def test_the_queue_has_its_own_flags(bench: Bench) -> None:
    name, _ = serial(bench, UE | RE | TE | FIFOEN)
    bench.write(name, "CR3", 2 << 25)  # threshold: half full
    depth = bench.chip.queue_depth
    bench.chip.receive(bytes(depth // 2 - 1))
    assert not bench.read(name, "ISR") & (1 << 26)
    bench.chip.receive(b"1")
    assert bench.read(name, "ISR") & (1 << 26) and not bench.read(name, "ISR") & (1 << 24)
    bench.chip.receive(bytes(depth))
    assert bench.read(name, "ISR") & (1 << 24)
    bench.write(name, "RQR", 8)
    assert len(bench.chip.received) == depth // 2


def test_baud_rates_and_a_mismatch() -> None:
    bench = Bench("stm32l4r9i")
    serial(bench, UE | TE, divider=35)
    port = bench.chip.console
    assert port.baud() == pytest.approx(4_000_000 / 35)
    bench.chip.host_baud = 115_200
    bench.write("USART2", "TDR", 65)
    assert not [text for text in bench.chip.warnings if "baud" in text]
    bench.write("USART2", "CR1", 0)
    bench.write("USART2", "CR1", UE | TE | 1 << 15)  # eight samples a bit: the divider 34 has a fraction of 1
    assert port.baud() == pytest.approx(8_000_000 / (32 | (35 & 7) << 1))
    bench.write("USART2", "CR1", UE | TE)
    bench.write("USART2", "BRR", 417)
    bench.write("USART2", "TDR", 65)
    assert "sends at 9592 baud, the host listens at 115200" in bench.chip.warnings[-1]
    bench.write(
        "RCC", "CCIPR", 3 << 10 | 2 << 2
    )  # LPUART1 from the 32,768 Hz crystal, USART2 from the 16 MHz oscillator
    bench.write("LPUART1", "BRR", 0x369)  # RM0432, LPUART: 9,600 baud from 32,768 Hz
    low_power = bench.chip.serial["LPUART1"]
    assert low_power.baud() == pytest.approx(9600, rel=0.001)
    assert port.baud() == pytest.approx(16_000_000 / 417)


def test_the_console_may_be_any_port(bench: Bench) -> None:
    for name in ("USART3", "LPUART1"):
        bench.write(name, "BRR", 1000)
        bench.write(name, "CR1", UE | RE | TE)
    bench.write("LPUART1", "TDR", 65)
    assert not bench.chip.transmitted and bench.chip.serial["LPUART1"].sent == b"A"
    bench.chip.select_console(None)
    bench.write("LPUART1", "TDR", 66)
    bench.chip.receive(b"?")
    assert bench.chip.transmitted == b"B" and bench.read("LPUART1", "RDR") == ord("?")
    bench.chip.select_console("usart3")
    bench.write("USART3", "TDR", 67)
    assert bench.chip.transmitted == b"BC"
    with pytest.raises(OptionError, match="Choose one of: USART1"):
        bench.chip.select_console("COM1")


def timer(bench: Bench, name: str, prescaler: int, reload: int, control: int = 1) -> None:
    bench.write(name, "PSC", prescaler)
    bench.write(name, "ARR", reload)
    bench.write(name, "EGR", 1)
    bench.write(name, "SR", 0)
    bench.write(name, "CR1", control)


@pytest.mark.parametrize("name", ["TIM2", "TIM6", "TIM15", "TIM17"])
def test_a_timer_counts_flags_and_interrupts(bench: Bench, name: str) -> None:
    number = bench.chip.blocks[name].instance.interrupt
    assert number is not None
    timer(bench, name, prescaler=9, reload=99)
    bench.write(name, "DIER", 1)
    bench.pass_time(425)
    assert bench.read(name, "CNT") == 42 and bench.read(name, "SR") == 0 and bench.chip.next_event() == 1000
    bench.pass_time(574)
    assert bench.read(name, "CNT") == 99 and not bench.lines.levels.get(number)
    bench.pass_time(1)
    assert bench.read(name, "CNT") == 0 and bench.read(name, "SR") == 1 and bench.lines.levels[number]
    bench.write(name, "SR", 0xFFFE)
    assert not bench.lines.levels[number] and bench.chip.next_event() == 2000
    bench.pass_time(1_000_000_000)  # many periods at once
    assert bench.read(name, "CNT") == 0 and bench.lines.levels[number]


def test_new_prescaler_and_reload_are_taken_over_at_the_update(bench: Bench) -> None:
    timer(bench, "TIM3", prescaler=0, reload=99, control=1 | 1 << 7)
    bench.write("TIM3", "PSC", 3)
    bench.write("TIM3", "ARR", 9)
    bench.pass_time(99)
    assert bench.read("TIM3", "CNT") == 99
    bench.pass_time(1 + 4 * 9)
    assert bench.read("TIM3", "CNT") == 9
    bench.pass_time(4)
    assert bench.read("TIM3", "CNT") == 0
    bench.write("TIM3", "CR1", 1)  # without ARPE the reload value counts at once
    bench.write("TIM3", "ARR", 4)
    bench.pass_time(4 * 5)
    assert bench.read("TIM3", "CNT") == 0


def test_one_pulse_and_counting_down(bench: Bench) -> None:
    timer(bench, "TIM5", prescaler=0, reload=49, control=1 | 1 << 3)
    bench.pass_time(1000)
    assert bench.read("TIM5", "SR") == 1 and bench.read("TIM5", "CR1") & 1 == 0 and bench.read("TIM5", "CNT") == 0
    bench.write("TIM4", "ARR", 49)
    bench.write("TIM4", "CR1", 1 << 4)
    bench.write("TIM4", "EGR", 1)
    bench.write("TIM4", "SR", 0)
    bench.write("TIM4", "CR1", 1 | 1 << 4)
    bench.pass_time(9)
    assert bench.read("TIM4", "CNT") == 40 and bench.read("TIM4", "SR") == 0
    bench.pass_time(41)
    assert bench.read("TIM4", "CNT") == 49 and bench.read("TIM4", "SR") == 1
    bench.write("TIM4", "CNT", 7)
    bench.pass_time(2)
    assert bench.read("TIM4", "CNT") == 5


def test_a_timer_of_sixteen_bits_wraps_there_and_one_of_thirty_two_does_not(bench: Bench) -> None:
    for name in ("TIM2", "TIM3"):
        bench.write(name, "CR1", 1)
    bench.pass_time(70_000)
    assert bench.read("TIM2", "CNT") == 70_000 and bench.read("TIM3", "CNT") == 70_000 - 65_536


def test_a_timer_slows_down_with_its_bus() -> None:
    bench = Bench("stm32l4r9i")
    bench.write("TIM2", "CR1", 1)
    bench.pass_time(1000)
    bench.write("RCC", "CFGR", 6 << 8)  # APB1 divided by eight: timers run at a quarter of the core's clock
    bench.pass_time(400)
    assert bench.read("TIM2", "CNT") == 1100


def test_a_reset_takes_clocks_back() -> None:
    bench = Bench("stm32l4r9i")
    for divider, expected in ((6, 250), (0, 1000)):
        bench.write("RCC", "CFGR", divider << 8)
        bench.write("TIM2", "CR1", 1)
        bench.pass_time(1000)
        assert bench.read("TIM2", "CNT") == expected
        bench.chip.reset()
    bench.write("TIM2", "CR1", 1)
    bench.pass_time(1000)
    assert bench.read("TIM2", "CNT") == 1000


def test_functions_that_are_not_emulated_are_named(bench: Bench) -> None:
    bench.write("TIM15", "RCR", 3)
    bench.write("TIM2", "CR1", 1 | 1 << 5)
    bench.write("TIM3", "SMCR", 7)
    bench.write("TIM3", "CR1", 1)
    text = "\n".join(bench.chip.warnings)
    assert "TIM15 repeats its period" in text and "TIM2 counts up and down" in text and "TIM3 is driven" in text


@pytest.mark.parametrize(
    ("board", "keys", "control", "program"),
    [("stm32l4r9i", "KEYR", "CR", 1), ("stm32h7b3i", "KEYR1", "CR1", 2)],
)
def test_attempts_to_change_the_flash_are_recorded(board: str, keys: str, control: str, program: int) -> None:
    bench = Bench(board)
    locked = bench.read("FLASH", control)
    bench.write("FLASH", control, program)
    assert bench.read("FLASH", control) == locked
    bench.write("FLASH", keys, 0x45670123)
    bench.write("FLASH", keys, 0xCDEF89AB)
    bench.write("FLASH", control, program)
    assert bench.read("FLASH", control) & program
    flash = bench.chip.blocks["FLASH"]
    assert [text.split(" (")[0] for text in flash.attempts] == [
        f"FLASH_{control} was written while it is locked",
        f"FLASH_{control} was unlocked",
        "programming was switched on",
    ]
    assert "the emulated flash keeps its content" in bench.chip.warnings[0]
    bench.write("FLASH", keys, 1)
    assert "a wrong key" in flash.attempts[-1]


def test_reset_forgets_everything(bench: Bench) -> None:
    name, _ = serial(bench, UE | RE | TE)
    bench.write(name, "TDR", 65)
    bench.chip.receive(b"abc")
    bench.write("GPIOA", "MODER", 1)
    bench.write("GPIOA", "ODR", 1)
    bench.chip.read(0x5FFFFF00, 4)
    assert bench.chip.unknown and bench.chip.edges
    bench.chip.reset()
    assert not bench.chip.transmitted and not bench.chip.received and not bench.chip.edges and not bench.chip.unknown
    assert bench.read("GPIOA", "MODER") == 0xABFFFFFF and bench.read(name, "CR1") == 0
