"""Board descriptions: figures from their sources, refusals of broken files."""

from __future__ import annotations

from pathlib import Path

import pytest

import millijoule.boards as boards
from millijoule.boards import board_names, linker_script, load_board, read_board
from millijoule.errors import BoardError

SOURCE = Path(boards.__file__).parent


def test_exports_exist() -> None:
    assert all(hasattr(boards, name) for name in boards.__all__)
    assert boards.__all__ == sorted(boards.__all__)


def test_the_boards_are_there() -> None:
    assert board_names() == ("nucleo_h7a3zi_q", "nucleo_l4r5zi", "stm32h7b3i", "stm32l4r9i")
    l4, h7 = load_board("STM32L4R9I"), load_board("stm32h7b3i")
    assert (l4.clock_hz, h7.clock_hz) == (120_000_000, 280_000_000)
    assert l4.data_memory.size == 640 * 1024
    assert [m.name for m in h7.arena_memories] == ["DTCM", "AXI"]
    assert h7.ram_bytes == (64 + 128 + 1024 + 128) * 1024


@pytest.mark.parametrize(
    ("board", "regulator", "picojoules"),
    [("stm32l4r9i", "ldo_1v8", 349), ("stm32l4r9i", "smps_3v0", 276), ("stm32h7b3i", "smps_3v0", 445)],
)
def test_joules_per_cycle_follow_from_the_published_rows(board: str, regulator: str, picojoules: int) -> None:
    found = load_board(board).regulator(regulator)
    assert round(found.joules_per_cycle * 1e12) == picojoules
    spread = [e * 1e-6 / (t * 1e-3 * found.clock_hz) for e, t in found.rows.values()]
    worst = max(abs(value / found.joules_per_cycle - 1) for value in spread)
    assert found.uncertainty == pytest.approx(worst) and 0.01 < worst < 0.1


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(BoardError, match="stm32h7b3i, stm32l4r9i"):
        load_board("stm32f103")
    with pytest.raises(BoardError, match="ldo_1v8, smps_3v0"):
        load_board("stm32l4r9i").regulator("battery")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("clock_hz = 120_000_000\n", "", "clock_hz"),
        ("size = 0xA0000", "size = 12", "whole numbers"),
        ("size = 0xA0000", 'size = "many"', "whole numbers"),
        ("base = 0x20000000", "base = 0x08100000", "overlap"),
        ("data = true", "data = false", "exactly one memory"),
        ("arena = true", "arena = false", "no memory has arena"),
        ("ic =", "other =", "'ic' row"),
        ("[console]", "[console", "cannot be read"),
    ],
)
def test_broken_descriptions_are_refused(tmp_path: Path, old: str, new: str, reason: str) -> None:
    text = (SOURCE / "stm32l4r9i.toml").read_text()
    assert old in text
    path = tmp_path / "board.toml"
    path.write_text(text.replace(old, new))
    with pytest.raises(BoardError, match=reason):
        read_board(path)


def test_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BoardError, match="cannot be read"):
        read_board(tmp_path / "none.toml")
    (tmp_path / "picture.toml").write_bytes(b"\xff\xd8\xff\x00")
    with pytest.raises(BoardError, match="cannot be read"):
        load_board(str(tmp_path / "picture.toml"))


def test_linker_script_names_every_memory_and_checks_the_stack() -> None:
    board = load_board("stm32h7b3i")
    text = linker_script(board, board.memories[1], stack_bytes=4096)
    assert all(f"{memory.name} (rwx) : ORIGIN = {memory.base:#010x}" in text for memory in board.memories)
    assert "> AXI" in text and "mj_stack_bytes = 4096;" in text
    for wrong in (0, -8, 12, 1 << 20):
        with pytest.raises(BoardError, match="stack of"):
            linker_script(board, board.memories[0], stack_bytes=wrong)
