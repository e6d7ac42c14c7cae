"""Random command lines: whatever comes over the line, the firmware answers."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from millijoule.build import build_board
from millijoule.emulate import EmulatedFirmware

BOARDS = ("stm32l4r9i", "stm32h7b3i")
MODEL = Path(__file__).parents[1] / "fixtures" / "tiny_model"
PICTURE = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
WORDS = ("name", "profile", "timestamp", "db", "load", "infer", "results", "help", "mode", "energy", "print", "info")
ODD = ("999999999999", "-1", "0", "1", "192", "ff", "0g", "\x00", "\xff", "\r\n", "  ", "]", "-", "%%")


def random_line(chance: random.Random) -> str:
    """Words, odd words and bytes in any order; never an order for very many inferences, which would be obeyed."""
    parts = [chance.choice((*WORDS, *ODD, chr(chance.randint(0, 255)))) for _ in range(chance.randint(0, 12))]
    line = chance.choice(("", " ")).join(parts)
    if chance.random() < 0.02:
        line += "x" * chance.randint(50, 300)
    return line.replace("%", "").replace("infer", chance.choice(("infe", "infer 2 1")) if "9" not in line else "infe")


def talk(board: str, lines: int, seed: int) -> None:
    files = {path.name: path.read_text() for path in MODEL.iterdir()}
    firmware = EmulatedFirmware(build_board(files, board), board, files)
    firmware.boot()
    chance = random.Random(seed)
    for number in range(lines):
        line = random_line(chance)
        answer = firmware.dialogue(line + "%")
        assert answer.endswith("m-ready\r\n"), (number, line, answer)
    assert firmware.dialogue("name%").endswith(f"m-name-dut-[millijoule {firmware.board.title}]\r\nm-ready\r\n")
    fresh = EmulatedFirmware(firmware.image, board, files)
    assert np.array_equal(firmware.run(PICTURE)["logits"], fresh.run(PICTURE)["logits"])


@pytest.mark.parametrize("board", BOARDS)
def test_random_lines_are_all_answered(board: str) -> None:
    talk(board, 150, seed=11)


@pytest.mark.slow
@pytest.mark.parametrize("board", BOARDS)
def test_ten_thousand_random_lines_are_all_answered(board: str) -> None:
    talk(board, 10_000, seed=12)
