"""Every address, offset and bit that the firmware uses is the vendor's."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import millijoule.boards as boards
from millijoule.boards import board_registers, load_board, parse_registers

C = Path(boards.__file__).parent / "c"
ROOT = Path(__file__).resolve().parents[2]
FACTS = {"stm32l4r9i": "stm32l4r9.json", "stm32h7b3i": "stm32h7b3.json"}


def facts(board: str) -> dict:
    path = ROOT.parent / "shared" / "docs" / "registers" / FACTS[board]
    if not path.is_file():
        pytest.skip("the vendor's register facts (../shared/docs/registers) are not here")
    return json.loads(path.read_text())["peripherals"]


@pytest.mark.parametrize("board", FACTS)
def test_chip_headers_agree_with_the_vendor(board: str) -> None:
    vendor = facts(board)
    header = parse_registers((C / f"registers_{board}.h").read_text())
    assert len(header.registers) >= 9
    for name, base in header.bases.items():
        assert base == int(vendor[name]["base"], 16), name
    for name, register in header.registers.items():
        known = vendor[register.peripheral]["registers"][register.name]
        assert register.offset == int(known["offset"], 16), name
        for field, bits in register.fields.items():
            assert [bits.position, bits.width] == known["fields"][field], f"{name}_{field}"


@pytest.mark.parametrize("board", FACTS)
def test_common_header_agrees_with_the_vendor(board: str) -> None:
    vendor = facts(board)
    header = parse_registers((C / "registers_common.h").read_text())
    for name, register in header.registers.items():
        instances = [peripheral for peripheral in vendor if vendor[peripheral]["type"] == register.peripheral]
        assert instances, name
        for instance in instances:
            registers = vendor[instance]["registers"]
            if register.name in ("AFR_LOW", "AFR_HIGH"):
                known = registers.get("AFR[2]") or registers.get("AFR") or registers.get("AFRL")
                assert register.offset - int(known["offset"], 16) in (0, 4), name
                continue
            assert register.offset == int(registers[register.name]["offset"], 16), f"{instance} {name}"
            for field, bits in register.fields.items():
                assert [bits.position, bits.width] == registers[register.name]["fields"][field], f"{name}_{field}"


def test_every_macro_of_the_headers_was_read() -> None:
    for path in C.glob("*registers*.h"):
        text = path.read_text()
        header = parse_registers(text)
        names = [
            name
            for name in re.findall(r"^#define (\w+)", text, flags=re.MULTILINE)
            if not name.startswith("MJ_") and not name.endswith("_H")
        ]
        fields = sum(len(register.fields) for register in header.registers.values())
        assert len(names) == len(header.bases) + len(header.registers) + fields, path.name


def test_sources_hold_no_address_of_their_own() -> None:
    for path in C.glob("*.c"):
        code = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)
        assert not re.findall(r"0x[4-5][0-9A-Fa-f]{7}u", code), f"{path.name}: an address belongs into a header"


def test_core_registers_are_where_the_architecture_puts_them() -> None:
    # Armv7-M Architecture Reference Manual: table B3-4 (system control block), C1.6.2 and C1.8 (debug, DWT).
    registers = board_registers(load_board("stm32l4r9i"))
    expected = {
        "CORE_SCB_CCR": 0xE000ED14,
        "CORE_SCB_SHCSR": 0xE000ED24,
        "CORE_SCB_CFSR": 0xE000ED28,
        "CORE_SCB_HFSR": 0xE000ED2C,
        "CORE_SCB_MMFAR": 0xE000ED34,
        "CORE_SCB_BFAR": 0xE000ED38,
        "CORE_SCB_CCSIDR": 0xE000ED80,
        "CORE_SCB_CSSELR": 0xE000ED84,
        "CORE_SCB_CPACR": 0xE000ED88,
        "CORE_CACHE_ICIALLU": 0xE000EF50,
        "CORE_CACHE_DCISW": 0xE000EF60,
        "CORE_DEBUG_DEMCR": 0xE000EDFC,
        "CORE_DWT_CTRL": 0xE0001000,
        "CORE_DWT_CYCCNT": 0xE0001004,
        "CORE_DWT_LAR": 0xE0001FB0,
    }
    found = {name: registers.address(name) for name in registers.registers if name.startswith("CORE_")}
    assert found == expected


def test_fields_are_read_and_written() -> None:
    field = parse_registers("#define A_BASE 0x10u\n#define A_R MJ_REGISTER(A_BASE, 0x4u)\n#define A_R_F 3, 2\n")
    bits = field.field("A_R", "F")
    assert field.address("A_R") == 0x14 and bits.mask == 0x18
    assert bits.put(0xFFFF, 1) == 0xFFEF and bits.get(0xFFEF) == 1
