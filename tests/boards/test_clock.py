"""The clock tree: computed in Python, compiled into the start-up code, read back from the registers it wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import millijoule.boards as boards
from millijoule.boards import Board, Bus, board_names, load_board, read_board
from millijoule.boards.clock import clock_defines, prescaler_bits
from millijoule.build import build_board
from millijoule.emulate import EmulatedFirmware

MODEL = Path(__file__).parents[1] / "fixtures" / "tiny_model"
PICTURE = np.arange(192, dtype=np.uint8).reshape(1, 8, 8, 3)
SOURCE = Path(boards.__file__).parent


def model_files() -> dict[str, str]:
    return {path.name: path.read_text() for path in MODEL.iterdir()}


def boot(board: Board) -> EmulatedFirmware:
    files = model_files()
    firmware = EmulatedFirmware(build_board(files, board, strict=True), board, files)
    firmware.boot()
    return firmware


def divided(code: int, *, bits: int) -> int:
    """What a prescaler's field means, from the reference manuals: written here a second time on purpose."""
    if bits == 3:
        return {0: 1, 4: 2, 5: 4, 6: 8, 7: 16}[code]
    return {0: 1, 8: 2, 9: 4, 10: 8, 11: 16, 12: 64, 13: 128, 14: 256, 15: 512}[code]


def check(firmware: EmulatedFirmware) -> None:
    """Every number of the tree stands in the register that the firmware wrote."""
    board, chip = firmware.board, firmware.machine.peripherals
    tree, value = board.clock, chip.value
    assert chip.clock_hz() == tree.core_hz == board.clock_hz
    assert not chip.problems
    if board.silicon == "stm32l4r9i":
        assert value("RCC_PLLCFGR", "PLLSRC") == 2 and tree.oscillator == "HSI16" and tree.oscillator_hz == 16_000_000
        found = (value("RCC_PLLCFGR", "PLLM") + 1, value("RCC_PLLCFGR", "PLLN"), 2 * (value("RCC_PLLCFGR", "PLLR") + 1))
        prescalers = {
            "AHB": divided(value("RCC_CFGR", "HPRE"), bits=4),
            "APB1": divided(value("RCC_CFGR", "PPRE1"), bits=3),
            "APB2": divided(value("RCC_CFGR", "PPRE2"), bits=3),
        }
        assert value("PWR_CR1", "VOS") == tree.voltage_scale == 1 and value("PWR_CR5", "R1MODE") == 0
        assert tree.voltage == "range 1 boost"
    else:
        assert value("RCC_PLLCKSELR", "PLLSRC") == 0 and value("RCC_CR", "HSIDIV") == 0
        assert tree.oscillator == "HSI64" and tree.oscillator_hz == 64_000_000
        found = (
            value("RCC_PLLCKSELR", "DIVM1"),
            value("RCC_PLL1DIVR", "N1") + 1,
            value("RCC_PLL1DIVR", "P1") + 1,
        )
        prescalers = {
            "CPU": divided(value("RCC_CDCFGR1", "CDCPRE"), bits=4),
            "AHB": divided(value("RCC_CDCFGR1", "HPRE"), bits=4),
            "APB1": divided(value("RCC_CDCFGR2", "CDPPRE1"), bits=3),
            "APB2": divided(value("RCC_CDCFGR2", "CDPPRE2"), bits=3),
            "APB3": divided(value("RCC_CDCFGR1", "CDPPRE"), bits=3),
            "APB4": divided(value("RCC_SRDCFGR", "SRDPPRE"), bits=3),
        }
        assert value("PWR_SRDCR", "VOS") == tree.voltage_scale == 3 and tree.voltage == "VOS0"
    assert found == (tree.input_divider, tree.multiplier, tree.output_divider)
    assert prescalers == {bus.name: bus.divider for bus in tree.buses}
    assert value("FLASH_ACR", "LATENCY") == board.flash.wait_states
    console = tree.console(board.console.peripheral, board.console.baud)
    base = chip.registers.bases[board.console.peripheral]
    assert chip.values[base + chip.registers.registers["USART_BRR"].offset] == console.divider
    assert abs(console.error) < 0.005


@pytest.mark.parametrize("name", board_names())
def test_the_firmware_programs_the_tree_that_is_printed(name: str) -> None:
    check(boot(load_board(name)))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        (
            "stm32l4r9i",
            {
                "\nclock_hz = 120_000_000": "\nclock_hz = 60_000_000",
                "input_divider = 2": "input_divider = 4",
                "multiplier = 30": "multiplier = 60",
                "output_divider = 2": "output_divider = 4",
                'name = "APB1", feed = "AHB", divider = 16': 'name = "APB1", feed = "AHB", divider = 4',
            },
        ),
        (
            "stm32h7b3i",
            {
                "\nclock_hz = 280_000_000": "\nclock_hz = 140_000_000",
                'name = "CPU", feed = "system", divider = 1': 'name = "CPU", feed = "system", divider = 2',
                'name = "APB4", feed = "AHB", divider = 16': 'name = "APB4", feed = "AHB", divider = 2',
            },
        ),
    ],
)
def test_another_clock_needs_no_other_code(name: str, changes: dict[str, str], tmp_path: Path) -> None:
    text = (SOURCE / f"{name}.toml").read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new, 1)
    path = tmp_path / "board.toml"
    path.write_text(text)
    check(boot(read_board(path)))


@pytest.mark.parametrize(("name", "like"), [("nucleo_l4r5zi", "stm32l4r9i"), ("nucleo_h7a3zi_q", "stm32h7b3i")])
def test_boards_of_the_same_silicon_run_the_model_alike(name: str, like: str) -> None:
    files, results = model_files(), {}
    for board in (name, like):
        firmware = EmulatedFirmware(build_board(files, board), board, files)
        results[board] = firmware.run(PICTURE)
        if board == name:
            assert f"board: {load_board(name).title}" in firmware.machine.console
            assert "start: ok" in firmware.machine.console  # the golden vector of the self-test
            text = firmware.dialogue("name%profile%")
            assert f"m-name-dut-[millijoule {load_board(name).title}]" in text and text.endswith("m-ready\r\n")
        cycles = firmware.profile(PICTURE[0]).cycles
        assert results.setdefault("cycles", cycles) == cycles
    assert all(np.array_equal(results[name][key], results[like][key]) for key in results[like])


def test_the_console_of_the_nucleo_has_its_clock_and_its_supply() -> None:
    value = boot(load_board("nucleo_l4r5zi")).machine.peripherals.value
    assert value("PWR_CR2", "IOSV") == 1 and value("RCC_APB1ENR1", "PWREN") == 1  # PG2..PG15 are dead without
    assert value("RCC_APB1ENR2", "LPUART1EN") == 1 and value("RCC_CCIPR", "LPUART1SEL") == 2
    assert value("RCC_AHB2ENR") >> (ord("G") - ord("A")) & 1


def test_both_standard_baud_rates_are_met() -> None:
    for name in board_names():
        board = load_board(name)
        for baud in (9600, 115200):
            console = board.clock.console(board.console.peripheral, baud)
            assert abs(console.error) < 0.005 and console.divider < (
                1 << 20 if "LP" in board.console.peripheral else 1 << 16
            )
            if board.console.peripheral.startswith("LPUART"):
                assert 3 * baud <= console.hertz <= 4096 * baud


@given(st.sampled_from([1, 2, 4, 8, 16, 64, 128, 256, 512]), st.sampled_from(["APB1", "AHB", "CPU"]))
def test_prescalers_are_encoded_as_the_manuals_say(divider: int, name: str) -> None:
    if name != "APB1" or divider <= 16:
        assert divided(prescaler_bits(Bus(name, "AHB", divider)), bits=3 if name == "APB1" else 4) == divider


def test_every_number_reaches_the_compiler() -> None:
    defines = clock_defines(load_board("nucleo_l4r5zi").clock)
    assert defines["MJ_CLOCK_MULTIPLIER"] == "30u" and defines["MJ_CONSOLE_CLOCK_HZ"] == "16000000u"
    assert defines["MJ_CLOCK_APB2_BITS"] == "7u" and defines["MJ_CLOCK_AHB_BITS"] == "0u"
