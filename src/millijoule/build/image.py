"""A built firmware: the ELF, what it takes of each memory, its symbols, and its .bin and .hex forms."""

from __future__ import annotations

import bisect
import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from millijoule.errors import FormatError, ToolchainError
from millijoule.files import atomic_write_bytes

__all__ = ["Image", "Section", "Segment", "Symbol", "intel_hex", "read_image"]


@dataclass(frozen=True)
class Section:
    """One section of the linked firmware. `loaded` sections take flash, `address` is where they live at run time."""

    name: str
    address: int
    size: int
    loaded: bool


@dataclass(frozen=True)
class Segment:
    """Bytes to be programmed at `address` (the load address)."""

    address: int
    data: bytes


@dataclass(frozen=True)
class Symbol:
    """A function or variable: address without the Thumb bit, size in bytes, whether it is code."""

    name: str
    address: int
    size: int
    code: bool


@dataclass(frozen=True)
class Image:
    """A linked firmware.

    `flash_bytes` is what is programmed, `ram_bytes` what is reserved at link time: stack, data, arena and its fences.
    `flags` are the compiler's arguments, `compiler` its name and version. `fp_architecture` is the ELF attribute
    Tag_FP_arch (6: VFPv4-D16, 8: FPv5-D16), 0 when there is none. `arena_memory` and `fast_memory` name the memories of
    the arena and of a second one. `functions` are all functions by address: static ones
    of several files may share a name, of which `symbols` has one.
    """

    elf: Path
    board: str
    sections: tuple[Section, ...]
    segments: tuple[Segment, ...] = field(repr=False)
    symbols: Mapping[str, Symbol] = field(repr=False)
    entry: int
    fp_architecture: int
    compiler: str = ""
    flags: tuple[str, ...] = ()
    arena_memory: str = ""
    fast_memory: str = ""
    stack_bytes: int = 0
    functions: tuple[Symbol, ...] = field(default=(), repr=False)

    def __hash__(self) -> int:
        return hash((self.elf, self.board))

    @property
    def flash_bytes(self) -> int:
        """Bytes programmed into flash."""
        return sum(len(segment.data) for segment in self.segments)

    @property
    def ram_bytes(self) -> int:
        """Bytes of RAM reserved at link time: stack, data, arena, fences."""
        return sum(s.size for s in self.sections if s.name in (".stack", ".data", ".bss", ".mj_arena", ".mj_fast"))

    @property
    def section_bytes(self) -> dict[str, int]:
        """Size in bytes of every section that takes memory."""
        return {section.name: section.size for section in self.sections}

    def symbol(self, name: str) -> Symbol:
        """The symbol called `name`. Raises `FormatError` when the firmware has none."""
        try:
            return self.symbols[name]
        except KeyError:
            raise FormatError(
                self.elf.name, f"the firmware has no symbol {name}", "Build it with millijoule's own start-up"
            ) from None

    @functools.cached_property
    def _functions(self) -> list[Symbol]:
        known = self.functions or (symbol for symbol in self.symbols.values() if symbol.code)
        return sorted(known, key=lambda symbol: symbol.address)

    def function_at(self, address: int) -> str:
        """The function that holds `address`, or "?"."""
        found = self._around(address)
        return found.name if found else "?"

    def begins_function(self, address: int) -> bool:
        """Whether a function's first instruction is at `address`."""
        found = self._around(address)
        return found is not None and found.address == address

    def _around(self, address: int) -> Symbol | None:
        functions = self._functions
        index = bisect.bisect_right(functions, address, key=lambda symbol: symbol.address) - 1
        if index < 0:
            return None
        found = functions[index]
        return found if address < found.address + max(found.size, 2) else None

    def binary(self) -> bytes:
        """The flash content from its lowest to its highest address, gaps filled with 0xFF (erased flash)."""
        if not self.segments:
            return b""
        start = min(segment.address for segment in self.segments)
        end = max(segment.address + len(segment.data) for segment in self.segments)
        content = bytearray(b"\xff" * (end - start))
        for segment in self.segments:
            content[segment.address - start : segment.address - start + len(segment.data)] = segment.data
        return bytes(content)

    def hexadecimal(self) -> str:
        """The flash content as Intel hex text."""
        return intel_hex(self.segments, entry=self.entry)

    def save_binary(self, path: Path) -> None:
        """Writes `binary()` to `path`. Raises `OutputError`."""
        atomic_write_bytes(path, self.binary())

    def save_hexadecimal(self, path: Path) -> None:
        """Writes `hexadecimal()` to `path`. Raises `OutputError`."""
        atomic_write_bytes(path, self.hexadecimal().encode("ascii"))


def intel_hex(segments: Iterable[Segment], *, entry: int | None = None) -> str:
    """Intel hex text of the segments: records of up to 16 bytes, extended linear addresses, start address.

    Source of the format: Intel, "Hexadecimal Object File Format Specification", revision A, 1988.
    """

    def record(kind: int, address: int, data: bytes) -> str:
        body = bytes([len(data), address >> 8 & 0xFF, address & 0xFF, kind]) + data
        return ":" + (body + bytes([-sum(body) & 0xFF])).hex().upper()

    lines: list[str] = []
    upper = 0
    for segment in segments:
        position = 0
        while position < len(segment.data):
            address = segment.address + position
            if address >> 16 != upper:
                upper = address >> 16
                lines.append(record(4, 0, upper.to_bytes(2, "big")))
            count = min(16, len(segment.data) - position, 0x10000 - (address & 0xFFFF))
            lines.append(record(0, address & 0xFFFF, segment.data[position : position + count]))
            position += count
    if entry is not None:
        lines.append(record(5, 0, entry.to_bytes(4, "big")))
    lines.append(record(1, 0, b""))
    return "\n".join(lines) + "\n"


def read_image(
    elf: Path,
    board: str,
    *,
    compiler: str = "",
    flags: tuple[str, ...] = (),
    arena_memory: str = "",
    fast_memory: str = "",
) -> Image:
    """Reads a linked ELF file for Arm.

    Raises:
        FormatError: the file is missing, truncated, or no ELF for Arm.
        ToolchainError: pyelftools is not installed.
    """
    try:
        from elftools.common.exceptions import ELFError
        from elftools.elf.elffile import ELFFile
    except ImportError as error:
        raise ToolchainError(
            "pyelftools", "it is not installed", "Install the extra: pip install 'millijoule[deploy]'"
        ) from error
    try:
        with elf.open("rb") as file:
            parsed = ELFFile(file)
            if parsed.get_machine_arch() != "ARM" or parsed.header["e_type"] != "ET_EXEC":
                raise FormatError(str(elf), "it is no linked ELF for Arm", "Give the firmware's .elf file")
            sections = tuple(
                Section(s.name, int(s["sh_addr"]), int(s["sh_size"]), s["sh_type"] != "SHT_NOBITS")
                for s in parsed.iter_sections()
                if int(s["sh_flags"]) & 2 and int(s["sh_size"]) > 0
            )
            segments = tuple(
                Segment(int(s["p_paddr"]), bytes(s.data()))
                for s in parsed.iter_segments()
                if s["p_type"] == "PT_LOAD" and int(s["p_filesz"]) > 0
            )
            symbols: dict[str, Symbol] = {}
            functions: list[Symbol] = []
            table: Any = parsed.get_section_by_name(".symtab")
            for item in table.iter_symbols() if table is not None else ():
                kind = item["st_info"]["type"]
                if item.name and kind in ("STT_FUNC", "STT_OBJECT", "STT_NOTYPE") and not item.name.startswith("$"):
                    code = kind == "STT_FUNC"
                    address = int(item["st_value"]) & ~1 if code else int(item["st_value"])
                    known = symbols.get(item.name)
                    found = Symbol(item.name, address, int(item["st_size"]), code)
                    if code:
                        functions.append(found)
                    if known is None or (code and not known.code):
                        symbols[item.name] = found
            stack = next((s.size for s in sections if s.name == ".stack"), 0)
            return Image(
                elf=elf,
                board=board,
                sections=sections,
                segments=segments,
                symbols=symbols,
                entry=int(parsed.header["e_entry"]),
                fp_architecture=_fp_architecture(parsed),
                compiler=compiler,
                flags=flags,
                arena_memory=arena_memory,
                fast_memory=fast_memory,
                stack_bytes=stack,
                functions=tuple(functions),
            )
    except OSError as error:
        raise FormatError(str(elf), f"it cannot be read ({error.strerror})", "Build the firmware again") from error
    except (ELFError, ValueError, KeyError, IndexError) as error:
        raise FormatError(str(elf), f"it is no intact ELF file ({error})", "Build the firmware again") from error


def _fp_architecture(parsed: Any) -> int:
    section = parsed.get_section_by_name(".ARM.attributes")
    if section is None:
        return 0
    for subsection in section.iter_subsections():
        for part in subsection.iter_subsubsections():
            for attribute in part.iter_attributes():
                if attribute.tag == "TAG_FP_ARCH":
                    return int(attribute.value)
    return 0
