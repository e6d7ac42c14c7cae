"""Decoding keeps what it knows of an instruction, whatever its address: the same as the disassembler says there."""

from __future__ import annotations

from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
from elftools.elf.elffile import ELFFile

pytest.importorskip("unicorn")
pytest.importorskip("capstone")
pytest.importorskip("ziglang")

from millijoule.build import build_board
from millijoule.emulate._decode import Instruction, _disassembled, decode

STAND_IN = Path(__file__).parents[1] / "fixtures" / "tiny_model"


def same(found: tuple[Instruction, ...], expected: list[Instruction]) -> bool:
    return [astuple(item) for item in found] == [astuple(item) for item in expected]


def program(path: Path) -> bytes:
    with path.open("rb") as file:
        sections = ELFFile(file).iter_sections()
        return b"".join(part.data() for part in sections if part["sh_flags"] & 4 and part["sh_type"] == "SHT_PROGBITS")


def test_code_and_noise_are_what_the_disassembler_says() -> None:
    rng = np.random.default_rng(1)
    code = program(build_board({path.name: path.read_text() for path in STAND_IN.iterdir()}, "stm32l4r9i").elf)
    for text in (code, rng.bytes(20000)):
        start = 0
        while start < len(text):
            size, address = 2 * int(rng.integers(1, 20)), 0x08000000 + 2 * int(rng.integers(1 << 16))
            block = text[start : start + size]
            assert same(decode(block, address), _disassembled(block, address)), block.hex()
            start += size


def test_an_it_block_stays_together() -> None:
    block = bytes.fromhex("15bf08680968521800240868")  # itete ne, and what it rules
    found = decode(block, 0x08000100)
    assert same(found, _disassembled(block, 0x08000100))
    assert [item.in_it for item in found] == [False, True, True, True, True, False]
    assert decode(b"", 0) == ()


def test_branches_name_where_they_go() -> None:
    texts = {decode(bytes.fromhex("fee7"), address)[0].text for address in (0x08000000, 0x08000100)}
    assert texts == {"b #0x8000000", "b #0x8000100"}
