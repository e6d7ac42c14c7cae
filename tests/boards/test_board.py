"""Board descriptions: figures from their sources, refusals of broken files."""

from __future__ import annotations

from pathlib import Path

import pytest

import millijoule.boards as boards
from millijoule.boards import board_names, firmware_sources, linker_script, load_board, read_board
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
        ("rows = { ic =", "rows = { other =", "'ic' row"),
        ('kind = "linear"', 'kind = "magic"', "kind is unknown"),
        ("ic = [6919.375, 165.1255]", "ic = [6919.375, 0]", "not positive"),
        ("multiplier = 30", "multiplier = 31", "its clock tree gives 124000000 Hz, clock_hz says 120000000"),
        ("multiplier = 30", "multiplier = 3000", "multiplier 3000 is not in 4..512"),
        ("divider = 1 }", "divider = 3 }", "no bus can be divided by 3"),
        ('clock = "APB1"', 'clock = "APB7"', "APB7"),
        ("[console]", "[console", "cannot be read"),
        ('port = "A"\npin = 4', 'port = "Z"\npin = 4', "there is no pin PZ4"),
        ('port = "A"\npin = 4', 'port = "A"\npin = 16', "there is no pin PA16"),
        ('port = "A", pin = 2', 'port = "A", pin = "2x"', "there is no pin PA2x"),
        ('port = "A"\npin = 4', 'port = "A"', "OutputPin"),
        ("openocd = [", "other = [", "openocd"),
    ],
)
def test_broken_descriptions_are_refused(tmp_path: Path, old: str, new: str, reason: str) -> None:
    text = (SOURCE / "stm32l4r9i.toml").read_text()
    assert old in text
    path = tmp_path / "board.toml"
    path.write_text(text.replace(old, new))
    with pytest.raises(BoardError, match=reason):
        read_board(path)


def test_a_regulator_with_nothing_to_test_its_fit_is_refused(tmp_path: Path) -> None:
    text = (SOURCE / "stm32l4r9i.toml").read_text()
    path = tmp_path / "board.toml"
    path.write_text(text.replace("vww = [3894.566, 88.9284], kws = [1820.454, 43.1872], ", ""))
    with pytest.raises(BoardError, match="no error of its energy can be stated"):
        read_board(path)


def test_a_board_takes_over_what_its_silicon_says(tmp_path: Path) -> None:
    for name, silicon in (("nucleo_l4r5zi", "stm32l4r9i"), ("nucleo_h7a3zi_q", "stm32h7b3i")):
        board, other = load_board(name), load_board(silicon)
        assert board.silicon == silicon and board.name == name
        assert (board.memories, board.flash, board.clock_hz) == (other.memories, other.flash, other.clock_hz)
        assert board.paper is None  # the study's figures belong to its own boards
    assert [item.name for item in load_board("nucleo_l4r5zi").regulators] == ["ldo_1v8"]
    path = tmp_path / "mine.toml"
    path.write_text((SOURCE / "nucleo_l4r5zi.toml").read_text().replace('"stm32l4r9i"', '"stm32f103"'))
    with pytest.raises(BoardError, match=r"'stm32f103'.*stm32h7b3i, stm32l4r9i"):
        read_board(path)


def test_c_files_beside_a_description_come_first(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    text = (SOURCE / "nucleo_l4r5zi.toml").read_text()
    path.write_text(text.replace('name = "nucleo_l4r5zi"', 'name = "mine"'))
    assert "console_stm32l4r9i.c" in firmware_sources(read_board(path))
    (tmp_path / "console_mine.c").write_text("/* my own */")
    sources = firmware_sources(read_board(path))
    assert sources["console_mine.c"] == "/* my own */" and "console_stm32l4r9i.c" not in sources


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
