"""A linked ELF file without debug information: the compiler's own library brings paths of the machine that built it.

Source: Tool Interface Standard, "Executable and Linking Format Specification", version 1.2, 1995.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

__all__ = ["without_debug"]

_HEADER = struct.Struct("<16sHHIIIIIHHHHHH")
_SEGMENT = struct.Struct("<8I")
_SECTION = struct.Struct("<10I")
_SYMBOL = struct.Struct("<IIIBBH")
_RESERVED = 0xFF00
_SYMBOL_TABLE, _NO_BITS, _ALLOCATED, _LOAD = 2, 8, 2, 1


@dataclass(frozen=True)
class _Section:
    name: int
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int
    entry: int

    def packed(self) -> bytes:
        return _SECTION.pack(*vars(self).values())


def without_debug(elf: bytes) -> bytes:
    """The same program: segments stay where they are, sections called `.debug...` and their symbols go.

    Args:
        elf: a 32-bit little-endian executable.
    """
    header = list(_HEADER.unpack_from(elf))
    segments_at, sections_at = header[5], header[6]
    segment_count, section_count, names_index = header[10], header[12], header[13]
    sections = [_Section(*_SECTION.unpack_from(elf, sections_at + index * 40)) for index in range(section_count)]
    names = elf[sections[names_index].offset :]
    kept = [i for i, item in enumerate(sections) if names[item.name : item.name + 6] != b".debug"]
    place = {old: new for new, old in enumerate(kept)}
    segments = [_SEGMENT.unpack_from(elf, segments_at + index * 32) for index in range(segment_count)]
    loaded = [segment[1] + segment[4] for segment in segments if segment[0] == _LOAD]
    result = bytearray(elf[: max([segments_at + 32 * segment_count, *loaded])])
    table: list[_Section] = []
    for index in kept:
        item = sections[index]
        item = replace(item, link=place.get(item.link, 0))
        if not item.flags & _ALLOCATED and item.kind not in (0, _NO_BITS):
            content = elf[item.offset : item.offset + item.size]
            if item.kind == _SYMBOL_TABLE:
                content, first_global = _symbols(content, item.info, place)
                item = replace(item, info=first_global)
            result += bytes(-len(result) % max(item.alignment, 1))
            item = replace(item, offset=len(result), size=len(content))
            result += content
        table.append(item)
    result += bytes(-len(result) % 4)
    header[6], header[12], header[13] = len(result), len(table), place[names_index]
    result += b"".join(item.packed() for item in table)
    result[: _HEADER.size] = _HEADER.pack(*header)
    return bytes(result)


def _symbols(content: bytes, first_global: int, place: dict[int, int]) -> tuple[bytes, int]:
    """The symbols of the sections that stay, and the number of the first that is not local."""
    kept, first = bytearray(), 0
    for index, symbol in enumerate(_SYMBOL.iter_unpack(content)):
        section = symbol[5]
        if 0 < section < _RESERVED and section not in place:
            continue
        kept += _SYMBOL.pack(*symbol[:5], place[section] if 0 < section < _RESERVED else section)
        first += index < first_global
    return bytes(kept), first
