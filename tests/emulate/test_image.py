"""Firmware files of any origin are read, nonsense is refused."""

from __future__ import annotations

import itertools
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millijoule.boards import load_board
from millijoule.build import Image, Segment, build_board, intel_hex
from millijoule.emulate import Machine
from millijoule.emulate.image import RawImage, load_image, parse_intel_hex
from millijoule.errors import BoardError, FormatError, OptionError

from .firmwares import POLLED_ECHO, build

BOARDS = ("stm32l4r9i", "stm32h7b3i")
MODEL = Path(__file__).parents[1] / "fixtures" / "tiny_model"


@pytest.fixture(scope="module", params=BOARDS)
def echo(request: pytest.FixtureRequest) -> Image:
    return build(POLLED_ECHO, request.param)


def flat(image: Image) -> dict[int, int]:
    return {s.address + at: byte for s in image.segments for at, byte in enumerate(s.data)}


def test_elf_binary_and_hex_give_the_same_bytes(echo: Image, tmp_path: Path) -> None:
    echo.save_binary(tmp_path / "fw.bin")
    echo.save_hexadecimal(tmp_path / "fw.hex")
    elf = load_image(echo.elf, echo.board)
    raw = [load_image(tmp_path / name, echo.board) for name in ("fw.bin", "fw.hex")]
    assert flat(elf) == flat(echo) == flat(raw[1])
    assert {a: b for a, b in flat(raw[0]).items() if a in flat(echo)} == flat(echo)
    assert [image.form for image in (elf, *raw) if isinstance(image, RawImage)] == ["elf", "bin", "hex"]
    assert elf.function_at(elf.symbols["Reset_Handler"].address) == "Reset_Handler"
    assert raw[0].function_at(0x08000100) == "?" and raw[1].entry == echo.entry
    for image in (elf, *raw):
        machine = Machine(image, echo.board)
        assert machine.register("sp") == struct.unpack_from("<I", raw[0].binary())[0]


def test_our_own_elf_keeps_its_symbols(tmp_path: Path) -> None:
    files = {path.name: path.read_text() for path in MODEL.iterdir()}
    built = build_board(files, "stm32l4r9i")
    loaded = load_image(built.elf, "stm32l4r9i")
    assert not isinstance(loaded, RawImage) and loaded.symbols == built.symbols
    assert loaded.stack_bytes == built.stack_bytes
    built.save_hexadecimal(tmp_path / "fw.hex")
    for path in (built.elf, tmp_path / "fw.hex"):
        with pytest.raises(BoardError, match=r"it was built for STM32L4R9I. Choose --board stm32l4r9i"):
            load_image(path, "stm32h7b3i")


def test_a_binary_behind_a_boot_loader(echo: Image, tmp_path: Path) -> None:
    address = load_board(echo.board).flash.base + 0x4000
    (tmp_path / "app.bin").write_bytes(struct.pack("<II", 0x20001000, address + 9) + b"\xfe\xe7" * 8)
    image = load_image(tmp_path / "app.bin", echo.board, address)
    assert isinstance(image, RawImage) and image.vector_table == address
    assert image.segments[0].address == address
    machine = Machine(image, echo.board)
    assert machine.register("pc") == address + 8 and machine.register("sp") == 0x20001000


@pytest.mark.parametrize(
    ("board", "stack"),
    [("stm32l4r9i", 0x10010000), ("stm32l4r9i", 0x200A0000), ("stm32h7b3i", 0x38008000), ("stm32h7b3i", 0x20020000)],
)
def test_the_stack_may_start_at_the_end_of_any_ram(board: str, stack: int, tmp_path: Path) -> None:
    path = tmp_path / "fw.bin"
    path.write_bytes(struct.pack("<II", stack, 0x08000009) + b"\xfe\xe7")
    machine = Machine(load_image(path, board), board)
    assert machine.register("sp") == stack
    path.write_bytes(struct.pack("<II", stack + 4, 0x08000009) + b"\xfe\xe7")
    with pytest.raises(BoardError, match="is in no RAM"):
        load_image(path, board)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"hello", "there is no vector table at 0x08000000"),
        (struct.pack("<II", 0x20001000, 0x08000009) + b"\xfe\xe7", None),
        (
            struct.pack("<II", 0x20001000, 0x08000008) + b"\xfe\xe7",
            r"reset vector 0x08000008 is even \(no Thumb code\)",
        ),
        (struct.pack("<II", 0x20001000, 0x08001001) + b"\xfe\xe7", "reset vector 0x08001001 points to no byte of it"),
        (struct.pack("<II", 0x20001000, 0x20000001) + b"\xfe\xe7", "reset vector 0x20000001 points to no byte of it"),
        (b"\x7fELF" + bytes(80), "it is no intact ELF file|it is no linked ELF"),
        (b"\x7fELF", "it is no intact ELF file"),
    ],
)
def test_what_is_no_firmware_is_refused(tmp_path: Path, content: bytes, reason: str | None) -> None:
    path = tmp_path / "fw.bin"
    path.write_bytes(content)
    if reason is None:
        assert load_image(path, "stm32l4r9i").binary() == content
    else:
        with pytest.raises(FormatError, match=reason):
            load_image(path, "stm32l4r9i")


def test_firmware_for_another_board_is_refused_with_the_one_it_fits(tmp_path: Path) -> None:
    path = tmp_path / "fw.bin"
    path.write_bytes(struct.pack("<II", 0x24010000, 0x08000009) + b"\xfe\xe7")
    with pytest.raises(BoardError, match=r"0x24010000 is in no RAM. It fits --board .*stm32h7b3i"):
        load_image(path, "stm32l4r9i")
    path.write_bytes(struct.pack("<II", 0x20000002, 0x08000009) + b"\xfe\xe7")
    with pytest.raises(BoardError, match=r"0x20000002 is in no RAM"):
        load_image(path, "stm32l4r9i")
    path.write_text(intel_hex([Segment(0x00200000, b"1234")]))
    with pytest.raises(BoardError, match="bytes at 0x00200000 to 0x00200003, outside the flash of STM32L4R9I"):
        load_image(path, "stm32l4r9i")
    with pytest.raises(BoardError, match=r"floating-point instructions are FPv5.*It fits --board .*stm32h7b3i"):
        load_image(build(POLLED_ECHO, "stm32h7b3i").elf, "stm32l4r9i")


def test_missing_files_and_wrong_addresses_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="cannot be read"):
        load_image(tmp_path / "none.bin", "stm32l4r9i")
    with pytest.raises(FormatError, match="cannot be read"):
        load_image(tmp_path, "stm32l4r9i")
    with pytest.raises(BoardError, match="there is no board of that name"):
        load_image(tmp_path / "none.bin", "stm32f103")
    for address in (0x20000000, 0x08000002, 0x08200000, -4):
        with pytest.raises(OptionError, match="the flash of STM32L4R9I"):
            load_image(tmp_path / "none.bin", "stm32l4r9i", address)


@given(st.lists(st.tuples(st.integers(0, 0x7FFF), st.binary(min_size=1, max_size=300)), max_size=6))
def test_hex_files_return_what_was_written(pieces: list[tuple[int, bytes]]) -> None:
    memory: dict[int, int] = {}
    segments = []
    for page, data in pieces:
        start = 0x08000000 + page * 0x100
        if not any(address in memory for address in range(start, start + len(data))):
            segments.append(Segment(start, data))
            memory.update({start + at: byte for at, byte in enumerate(data)})
    parsed, start_address = parse_intel_hex(intel_hex(segments, entry=0x08000123).encode())
    assert {s.address + at: byte for s in parsed for at, byte in enumerate(s.data)} == memory
    assert start_address == 0x08000123
    assert all(a.address + len(a.data) < b.address for a, b in itertools.pairwise(parsed))


def record(kind: int, address: int, data: bytes) -> str:
    body = bytes([len(data), address >> 8, address & 0xFF, kind]) + data
    return ":" + (body + bytes([-sum(body) & 0xFF])).hex()


END = ":00000001FF"


def test_hex_with_segments_and_small_letters() -> None:
    text = "\r\n".join([record(2, 0, b"\x12\x34"), record(0, 0x10, b"ab"), record(3, 0, bytes(4)), "", END, ""])
    segments, start = parse_intel_hex(text.encode())
    assert segments == (Segment(0x12350, b"ab"),) and start is None


@pytest.mark.parametrize(
    ("lines", "line", "reason"),
    [
        ([record(0, 0, b"ab")[:-2] + "00", END], 1, "the checksum is 00, it should be 3B"),
        ([record(0, 0, b"ab"), "rubbish", END], 2, "it is no record of Intel hex"),
        ([":0", END], 1, "it is no record of Intel hex"),
        ([record(0, 0, b"ab"), record(0, 1, b"c"), END], None, "the bytes at 0x00000001 are there twice"),
        ([record(0, 0, b"ab"), record(0, 0, b"c"), END], 2, "the bytes at 0x00000000 are there already"),
        ([record(0, 0, b"ab")], 1, "the end-of-file record is missing"),
        ([], 0, "the end-of-file record is missing"),
        ([END, record(0, 0, b"ab")], 2, "behind the end-of-file record"),
        ([record(6, 0, b""), END], 1, "there is no record type 06"),
        ([record(4, 0, b"1"), END], 1, "a record of type 04 has 2 bytes, not 1"),
        ([":05000000616239", END], 1, "it announces 5 bytes and has 2"),
    ],
)
def test_damaged_hex_is_refused_with_its_line(lines: list[str], line: int | None, reason: str) -> None:
    place = "" if line is None else rf", line {line}: "
    with pytest.raises(FormatError, match=f"fw.hex{place}.*{reason}"):
        parse_intel_hex("\n".join(lines).encode(), "fw.hex")


@given(st.binary(max_size=200))
def test_no_bytes_break_the_hex_reader(content: bytes) -> None:
    try:
        parse_intel_hex(content)
    except FormatError as error:
        assert "line" in error.what
