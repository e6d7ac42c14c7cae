"""Addresses -> source lines, from the DWARF line table of an ELF file that has one."""

from __future__ import annotations

import bisect
from pathlib import Path, PurePosixPath
from typing import Any

__all__ = ["source_line"]


def source_line(elf: Path, address: int) -> str | None:
    """File and line ("file.c:12") of the instruction at `address`, None when no line table names it."""
    try:
        from elftools.common.exceptions import DWARFError, ELFError
        from elftools.elf.elffile import ELFFile
    except ImportError:
        return None
    try:
        with elf.open("rb") as file:
            parsed = ELFFile(file)
            if not parsed.has_dwarf_info():
                return None
            dwarf = parsed.get_dwarf_info()
            for unit in dwarf.iter_CUs():
                program = dwarf.line_program_for_CU(unit) if _may_hold(dwarf, unit, address) else None
                found = None if program is None else _line_in(program, address)
                if found is not None:
                    return found
    except (OSError, ELFError, DWARFError, ValueError, KeyError, IndexError, AttributeError):
        return None  # a damaged table tells nothing
    return None


def _may_hold(dwarf: Any, unit: Any, address: int) -> bool:
    """Whether a unit's ranges hold the address, True when it has none: reading a line table takes long."""
    top = unit.get_top_DIE()
    attributes = top.attributes
    if "DW_AT_ranges" in attributes:
        lists = dwarf.range_lists()
        entries = lists.get_range_list_at_offset(attributes["DW_AT_ranges"].value, unit)
        low = attributes["DW_AT_low_pc"].value if "DW_AT_low_pc" in attributes else 0
        for entry in entries:
            if hasattr(entry, "base_address"):
                low = entry.base_address
                continue
            base = 0 if getattr(entry, "is_absolute", False) else low
            if base + entry.begin_offset <= address < base + entry.end_offset:
                return True
        return False
    if "DW_AT_low_pc" in attributes and "DW_AT_high_pc" in attributes:
        low, high = attributes["DW_AT_low_pc"].value, attributes["DW_AT_high_pc"]
        return bool(low <= address < (high.value if high.form == "DW_FORM_addr" else low + high.value))
    return True


def _line_in(program: Any, address: int) -> str | None:
    rows: list[tuple[int, tuple[int, int] | None]] = []
    for entry in program.get_entries():
        state = entry.state
        if state is not None:
            rows.append((state.address, None if state.end_sequence else (state.file, state.line)))
    rows.sort(key=lambda row: (row[0], row[1] is not None))
    index = bisect.bisect_right(rows, address, key=lambda row: row[0]) - 1
    place = rows[index][1] if index >= 0 else None
    if place is None:
        return None
    names, number = program["file_entry"], place[0] - (0 if program["version"] >= 5 else 1)
    if not 0 <= number < len(names):
        return None
    name = names[number].name
    text = name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
    return f"{PurePosixPath(text).name}:{place[1]}"
