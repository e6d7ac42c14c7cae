"""Addresses -> source lines, from the DWARF line table of an ELF file that has one."""

from __future__ import annotations

import bisect
import functools
from pathlib import Path
from typing import Any

__all__ = ["source_line"]


def source_line(elf: Path, address: int) -> str | None:
    """File and line ("file.c:12") of the instruction at `address`, None when no line table names it."""
    rows = _rows(elf)
    index = bisect.bisect_right(rows, address, key=lambda row: row[0]) - 1
    return rows[index][1] if index >= 0 else None


@functools.lru_cache(maxsize=4)
def _rows(elf: Path) -> list[tuple[int, str | None]]:
    """(address, place) sorted by address; None ends a sequence."""
    try:
        from elftools.common.exceptions import DWARFError, ELFError
        from elftools.elf.elffile import ELFFile
    except ImportError:
        return []
    try:
        with elf.open("rb") as file:
            parsed = ELFFile(file)
            if not parsed.has_dwarf_info():
                return []
            rows: list[tuple[int, str | None]] = []
            dwarf = parsed.get_dwarf_info()
            for unit in dwarf.iter_CUs():
                program = dwarf.line_program_for_CU(unit)
                if program is not None:
                    rows += _program_rows(program)
            return sorted(rows, key=lambda row: (row[0], row[1] is not None))
    except (OSError, ELFError, DWARFError, ValueError, KeyError, IndexError, AttributeError):
        return []


def _program_rows(program: Any) -> list[tuple[int, str | None]]:
    version = program["version"]
    names = [_text(entry.name) for entry in program["file_entry"]]
    rows: list[tuple[int, str | None]] = []
    for entry in program.get_entries():
        state = entry.state
        if state is None:
            continue
        index = state.file - (0 if version >= 5 else 1)
        name = Path(names[index]).name if 0 <= index < len(names) else "?"
        rows.append((state.address, None if state.end_sequence else f"{name}:{state.line}"))
    return rows


def _text(name: bytes | str) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else name
