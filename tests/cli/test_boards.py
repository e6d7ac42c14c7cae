"""`millijoule boards`: clock tree, energy, duty cycle, as text and as JSON."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from millijoule.boards import board_names, load_board
from millijoule.cli import app

RUNNER = CliRunner()


def call(*arguments: str) -> str:
    done = RUNNER.invoke(app, ["boards", *arguments])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "stm32l4r9i",
            (
                "HSI16 16 MHz / 2 = 8 MHz, x 30 = 240 MHz, / 2 = 120 MHz; range 1 boost",
                "core from AHB: 120 MHz",
                "USART2 on PA2/PA3, APB1 7.5 MHz / 65 = 115,385 baud",
                "5 wait states",
                "tested on vww -4.3%, kws -0.6%",
                "2,619 ms",
            ),
        ),
        ("stm32h7b3i", ("x 35 = 560 MHz", "APB4 17.5 MHz", "VOS0", "vww +0.0%, kws +2.5%", "ad, which often waits")),
        ("nucleo_l4r5zi", ("LPUART1 on PG7/PG8, HSI16 16 MHz x 256 / 35556 = 115,199 baud",)),
    ],
)
def test_show_tells_how_the_board_is_clocked_and_what_energy_is_worth(name: str, words: tuple[str, ...]) -> None:
    text = call("show", name)
    assert all(word in text for word in words), text


@pytest.mark.parametrize("name", board_names())
def test_show_as_json(name: str) -> None:
    values = json.loads(call("show", name, "--json"))
    board = load_board(name)
    assert values["clock"]["core_hz"] == values["clock_hz"] == board.clock_hz
    assert values["console"]["peripheral"] == board.console.peripheral and abs(values["console"]["error"]) < 0.005
    assert [item["bytes"] for item in values["memories"]] == [memory.size for memory in board.memories]
    assert all(item["test_error"] < 0.05 for item in values["energy"])


def test_energy_of_an_inference_and_of_a_duty_cycle() -> None:
    text = call("energy", "stm32l4r9i", "--cycles", "2e7", "--stall-cycles", "1e6")
    assert "energy   6.8 mJ +-4.5% in 167 ms" in text and "flash stall" in text and "MLPerf" in text
    options = ("--rate", "0.001", "--sleep-current", "3", "--sleep-source", "data sheet")
    text = call("energy", "stm32l4r9i", "--cycles", "2e7", *options, "--battery", "220", "--usable", "0.9")
    assert "asleep" in text and "battery" in text and "3 uA (data sheet)" in text and "999.8 s" not in text
    values = json.loads(call("energy", "stm32l4r9i", "--cycles", "2e7", *options, "--battery", "220", "--json"))
    assert values["duty"]["amperes"] == pytest.approx(values["duty"]["watts"] / 1.8)
    assert values["duty"]["battery_hours"] == pytest.approx(0.220 / values["duty"]["amperes"])
    own = json.loads(call("energy", "stm32l4r9i", "--cycles", "2e7", "--rate", "0.001", "--json"))["duty"]
    assert "2.8 uA (Stop 2" in own["statement"] and own["watts"] < values["duty"]["watts"]
    assert "duty" not in json.loads(call("energy", "stm32h7b3i", "--cycles", "1e7", "--json"))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("stm32l4r9i", "--cycles", "2e7", "--battery", "220"), "Add --rate"),
        (("stm32l4r9i", "--cycles", "2e9", "--rate", "1", "--sleep-current", "1"), "so at most 0.06 fit"),
        (("stm32h7b3i", "--cycles", "2e7", "--volts", "1.8"), "published measurements exist for 3 V only"),
        (("stm32h7b3i", "--cycles", "-1"), "no number of cycles"),
    ],
)
def test_what_cannot_be_said_is_refused(arguments: tuple[str, ...], reason: str) -> None:
    done = RUNNER.invoke(app, ["boards", "energy", *arguments])
    assert done.exit_code == 2 and reason in done.output
