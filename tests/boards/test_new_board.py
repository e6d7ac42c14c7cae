"""docs/new-board.md, followed to the letter."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from typer.testing import CliRunner

from millijoule.boards import board_registers, load_board
from millijoule.build import build_board
from millijoule.cli import app
from millijoule.emulate import EmulatedFirmware

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "new-board.md").read_text(encoding="utf-8")
MODEL = ROOT / "tests" / "fixtures" / "tiny_model"


def block(kind: str) -> str:
    found = re.findall(rf"^```{kind}\n(.*?)^```", DOCUMENT, flags=re.MULTILINE | re.DOTALL)
    assert len(found) == 1
    return str(found[0])


def test_the_page_makes_a_board_that_boots_and_answers(tmp_path: Path) -> None:
    path = tmp_path / "my_board.toml"
    path.write_text(block("toml"))
    (tmp_path / "console_my_board.c").write_text(block("c"))
    shown = CliRunner().invoke(app, ["boards", "show", str(path)]).output
    assert block("text").strip() in shown
    board = load_board(str(path))
    assert [item.name for item in board.regulators] == ["ldo_1v8"]
    files = {item.name: item.read_text() for item in MODEL.iterdir()}
    firmware = EmulatedFirmware(build_board(files, board, strict=True), board, files)
    picture = np.arange(192, dtype=np.uint8).reshape(1, 8, 8, 3)
    like = EmulatedFirmware(build_board(files, "stm32l4r9i"), "stm32l4r9i", files)
    assert np.array_equal(firmware.run(picture)["logits"], like.run(picture)["logits"])
    assert "board: My board" in firmware.machine.console and "start: ok" in firmware.machine.console
    assert firmware.dialogue("name%").endswith("m-ready\r\n")
    assert firmware.machine.peripherals.value("RCC_APB2ENR", "USART1EN") == 1
    assert "USART1" in board_registers(board).bases


def test_the_files_and_options_that_the_page_names_exist() -> None:
    package = ROOT / "src" / "millijoule"
    for name in re.findall(r"`((?:boards|emulate)/[\w/.]+)`", DOCUMENT):
        assert (package / name).exists() or "NAME" in name, name
    for link in re.findall(r"\]\(([\w.-]+)\)", DOCUMENT):
        assert (ROOT / "docs" / link).is_file(), link
    for macro in set(re.findall(r"\bMJ_[A-Z_]+\b", DOCUMENT)):
        texts = (
            item.read_text() for item in [*(package / "boards" / "c").iterdir(), package / "boards" / "firmware.py"]
        )
        assert any(macro in text for text in texts), macro
