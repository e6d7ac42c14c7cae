"""Firmware files of any origin: linked ELF, raw binary at an address, Intel hex; nonsense is refused before it runs."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path

from millijoule.boards import Board, board_names, load_board
from millijoule.build import Image, Segment, read_image
from millijoule.emulate.memories import default_windows
from millijoule.errors import BoardError, FormatError, OptionError

__all__ = ["RawImage", "load_image", "parse_intel_hex"]

_ELF_MAGIC = b"\x7fELF"
_FPV5 = 8  # Tag_FP_arch of FPv5-D16: instructions that a Cortex-M4 lacks
_BANNER = re.compile(rb"board: ([ -~]{1,60})\r\n")
_VECTORS = 16  # words the core itself defines


@dataclass(frozen=True)
class RawImage(Image):
    """A firmware of which only the bytes are known: no symbols, no sections.

    Attributes:
        form: "elf", "bin" or "hex".
        vector_table: address of the initial stack pointer, followed by the reset vector.
    """

    form: str = "bin"
    vector_table: int = 0

    def __hash__(self) -> int:
        return hash((self.elf, self.board, self.vector_table))


def load_image(path: Path, board: Board | str, address: int | None = None) -> Image:
    """Reads a firmware file and checks that it can run on the board.

    The content decides what it is: an ELF file by its magic number, Intel hex by its first character ":" (or the name
    .hex, .ihex), everything else is a raw binary.

    Args:
        path: the file.
        board: the board or its name.
        address: where a raw binary begins; for ELF and hex where the vector table lies. The start of flash by default.

    Returns:
        A `RawImage`; for an ELF file of this project's own start-up an `Image` with symbols and sections, for another
        ELF file a `RawImage` that has them too.

    Raises:
        FormatError: missing, empty or damaged file (for Intel hex with the line), or no vector table.
        BoardError: unknown board, or a firmware for another one.
        OptionError: `address` lies outside the flash.
    """
    target = load_board(board) if isinstance(board, str) else board
    flash = target.flash
    if address is not None and not (flash.base <= address < flash.base + flash.size and address % 4 == 0):
        raise OptionError(
            f"address {address:#x}",
            f"the flash of {target.title} is {flash.base:#010x} to {flash.base + flash.size - 1:#010x}",
            "Give a multiple of 4 in it",
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FormatError(str(path), f"it cannot be read ({error.strerror})", "Check the path") from error
    if not content:
        raise FormatError(str(path), "it is empty", "Build the firmware again")
    table = flash.base if address is None else address
    if content.startswith(_ELF_MAGIC):
        image = _from_elf(path, target, table)
    else:
        image = _from_bytes(path, content, target, table)
    _check_place(image, target)
    _check_vectors(image, target, table)
    _check_owner(image, target)
    return image


def _from_elf(path: Path, board: Board, table: int) -> Image:
    image = read_image(path, board.name)
    if image.fp_architecture == _FPV5 and board.fpu.startswith("fpv4"):
        raise BoardError(
            str(path),
            f"its floating-point instructions are FPv5, which the {board.core} lacks",
            _for_others(image, board),
        )
    if "mj_mail" in image.symbols and table == board.flash.base:
        return image
    return RawImage(
        **{name: getattr(image, name) for name in Image.__dataclass_fields__}, form="elf", vector_table=table
    )


def _from_bytes(path: Path, content: bytes, board: Board, table: int) -> RawImage:
    form = "hex" if content.lstrip().startswith(b":") or path.suffix.lower() in (".hex", ".ihex") else "bin"
    entry = 0
    if form == "hex":
        segments, start = parse_intel_hex(content, str(path))
        entry = start or 0
    else:
        segments = (Segment(table, content),)
    return RawImage(
        elf=path,
        board=board.name,
        sections=(),
        segments=segments,
        symbols={},
        entry=entry,
        fp_architecture=0,
        form=form,
        vector_table=table,
    )


def parse_intel_hex(content: bytes, name: str = "the file") -> tuple[tuple[Segment, ...], int | None]:
    """Reads Intel hex: data, end of file, extended segment and linear addresses, start addresses (records 00 to 05).

    Source of the format: Intel, "Hexadecimal Object File Format Specification", revision A, 1988.

    Returns:
        Contiguous pieces in ascending order, and the start address of the file if it states a linear one.

    Raises:
        FormatError: what is wrong, with the number of the line.
    """

    def refuse(line: int, reason: str) -> FormatError:
        return FormatError(f"{name}, line {line}", reason, "Write the file again")

    memory: dict[int, bytes] = {}
    base, start, number = 0, None, 0
    ended = False
    for number, text in enumerate(content.splitlines(), start=1):
        line = text.strip()
        if not line:
            continue
        if ended:
            raise refuse(number, "there is a record behind the end-of-file record")
        if not re.fullmatch(rb":(?:[0-9A-Fa-f]{2}){5,}", line):
            raise refuse(number, "it is no record of Intel hex")
        record = bytes.fromhex(line[1:].decode("ascii"))
        length, offset, kind, data = record[0], int.from_bytes(record[1:3], "big"), record[3], record[4:-1]
        if length != len(data):
            raise refuse(number, f"it announces {length} bytes and has {len(data)}")
        if sum(record) & 0xFF:
            raise refuse(number, f"the checksum is {record[-1]:02X}, it should be {-sum(record[:-1]) & 0xFF:02X}")
        if kind == 0:
            if data and (address := base + offset) in memory:
                raise refuse(number, f"the bytes at {address:#010x} are there already")
            if data:
                memory[base + offset] = data
            continue
        expected = {1: 0, 2: 2, 3: 4, 4: 2, 5: 4}.get(kind)
        if expected is None:
            raise refuse(number, f"there is no record type {kind:02X}")
        if length != expected:
            raise refuse(number, f"a record of type {kind:02X} has {expected} bytes, not {length}")
        if kind == 1:
            ended = True
        elif kind in (2, 4):
            base = int.from_bytes(data, "big") << (4 if kind == 2 else 16)
        elif kind == 5:
            start = int.from_bytes(data, "big")
    if not ended:
        raise refuse(number, "the end-of-file record is missing: the file is cut off")
    return _joined(memory, name), start


def _joined(memory: dict[int, bytes], name: str) -> tuple[Segment, ...]:
    pieces: list[tuple[int, bytearray]] = []
    for address in sorted(memory):
        end = pieces[-1][0] + len(pieces[-1][1]) if pieces else -1
        if address < end:
            raise FormatError(name, f"the bytes at {address:#010x} are there twice", "Write the file again")
        if address == end:
            pieces[-1][1].extend(memory[address])
        else:
            pieces.append((address, bytearray(memory[address])))
    return tuple(Segment(address, bytes(data)) for address, data in pieces)


def _check_place(image: Image, board: Board) -> None:
    flash = board.flash
    if not image.segments:
        raise FormatError(str(image.elf), "there are no bytes for the flash in it", "Build the firmware again")
    for segment in image.segments:
        last = segment.address + len(segment.data)
        if not flash.base <= segment.address <= last <= flash.base + flash.size:
            raise BoardError(
                str(image.elf),
                f"it has bytes at {segment.address:#010x} to {last - 1:#010x}, outside the flash of {board.title}",
                _for_others(image, board),
            )


def _check_vectors(image: Image, board: Board, table: int) -> None:
    head = _bytes_at(image, table, 8)
    if head is None:
        raise FormatError(
            str(image.elf),
            f"there is no vector table at {table:#010x}",
            "Give the address where it lies with --address",
        )
    stack, reset = struct.unpack("<II", head)
    if not (stack % 4 == 0 and _in_ram(stack, board)):
        reason = f"it is no firmware for {board.title}: its initial stack pointer {stack:#010x} is in no RAM"
        raise BoardError(str(image.elf), reason, _for_others(image, board))
    code = _bytes_at(image, reset & ~1, 2)
    if not reset & 1 or code is None:
        where = "is even (no Thumb code)" if code is not None else "points to no byte of it"
        raise FormatError(
            str(image.elf), f"it is no firmware: its reset vector {reset:#010x} {where}", "Give a linked firmware image"
        )


def _check_owner(image: Image, board: Board) -> None:
    """Firmware of this project says in its banner which board it was built for."""
    for segment in image.segments:
        if b"millijoule firmware" not in segment.data:
            continue
        for title in {found.decode("ascii") for found in _BANNER.findall(segment.data)}:
            if title != board.title:
                raise BoardError(str(image.elf), f"it was built for {title}", _matching(title))


def _matching(title: str) -> str:
    names = [name for name in board_names() if load_board(name).title == title]
    return f"Choose --board {names[0]}" if names else f"Build it for this board, or describe {title} in a TOML file"


def _for_others(image: Image, board: Board) -> str:
    """The advice for a firmware that cannot run here: the boards whose memories it fits."""
    fitting = []
    for name in board_names():
        other = load_board(name)
        if other.name == board.name:
            continue
        flash, head = other.flash, _bytes_at(image, other.flash.base, 8)
        inside = all(
            flash.base <= s.address and s.address + len(s.data) <= flash.base + flash.size for s in image.segments
        )
        stack = struct.unpack("<I", head[:4])[0] if head else 0
        fast = image.fp_architecture != _FPV5 or not other.fpu.startswith("fpv4")
        if inside and fast and _in_ram(stack, other):
            fitting.append(name)
    return f"It fits --board {' or '.join(fitting)}" if fitting else "Build it for this board"


def _in_ram(stack: int, board: Board) -> bool:
    """Whether a full stack that starts at `stack` would lie in RAM (aliases and small RAMs included)."""
    spans = [(memory.base, memory.size) for memory in board.memories]
    for window in default_windows(board):
        origin = window.alias
        alias = origin is not None and any(base <= origin < base + size for base, size in spans)
        if window.writable or alias:
            spans.append((window.base, window.size))
    return any(base < stack <= base + size for base, size in spans)


def _bytes_at(image: Image, address: int, count: int) -> bytes | None:
    for segment in image.segments:
        start = address - segment.address
        if start >= 0 and start + count <= len(segment.data):
            return segment.data[start : start + count]
    return None
