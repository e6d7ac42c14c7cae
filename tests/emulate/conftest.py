"""Small firmwares for the tests of the emulated core."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from millijoule.boards import Board, load_board
from millijoule.build import Image, build_elf
from millijoule.emulate import Machine

START = Path(__file__).parents[1] / "fixtures" / "bare"


@pytest.fixture
def bare_image() -> Callable[..., Image]:
    """Builds one C file with the start-up of tests/fixtures/bare: `bare_image(source, board)`."""

    def build(source: str, board: str | Board = "stm32l4r9i", **options: Any) -> Image:
        target = load_board(board) if isinstance(board, str) else board
        files = {path.name: path.read_text() for path in START.iterdir()}
        return build_elf({**files, "test.c": '#include "core.h"\n' + source}, target, **options)

    return build


@pytest.fixture
def bare(bare_image: Callable[..., Image]) -> Callable[..., Machine]:
    """A machine that stands at the start of one C file: `bare(source, board, **options of Machine)`."""

    def build(source: str, board: str | Board = "stm32l4r9i", **options: Any) -> Machine:
        return Machine(bare_image(source, board), board, **options)

    return build


@pytest.fixture
def finish() -> Callable[..., list[int]]:
    """Runs a machine until the firmware calls finished() and gives its first results: `finish(machine, count)`."""

    def run(machine: Machine, count: int = 16, **options: Any) -> list[int]:
        limits = {"block_limit": 20_000_000, **options}
        assert machine.run(machine.image.symbol("finished").address, **limits) == "address"
        first = machine.image.symbol("results").address
        return [machine.read_word(first + 4 * index) for index in range(count)]

    return run
