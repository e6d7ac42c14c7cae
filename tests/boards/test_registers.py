"""Every address, offset and bit that the firmware uses is the vendor's."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest

import millijoule.boards as boards
from millijoule.boards import (
    board_names,
    board_registers,
    firmware_defines,
    firmware_sources,
    load_board,
    parse_registers,
)
from millijoule.build import build_board
from millijoule.emulate import EmulatedFirmware, Peripherals
from millijoule.emulate.system import SystemBlock

C = Path(boards.__file__).parent / "c"
ROOT = Path(__file__).resolve().parents[2]
MODEL = Path(__file__).parents[1] / "fixtures" / "tiny_model"
FACTS = {"stm32l4r9i": "stm32l4r9.json", "stm32h7b3i": "stm32h7b3.json"}


def document(silicon: str) -> dict:
    path = ROOT.parent / "shared" / "docs" / "registers" / FACTS[silicon]
    if not path.is_file():
        pytest.skip("the vendor's register facts (../shared/docs/registers) are not here")
    return json.loads(path.read_text())


def facts(silicon: str) -> dict:
    return document(silicon)["peripherals"]


def differences(text: str, vendor: dict) -> list[str]:
    """What a header says and the vendor's facts do not: bases, offsets, fields, and names that no fact knows."""
    header, found = parse_registers(text), []
    for name, base in header.bases.items():
        if name not in vendor or base != int(vendor[name]["base"], 16):
            found.append(f"{name}_BASE")
    for name, register in header.registers.items():
        known = [vendor[register.peripheral]] if register.peripheral in vendor else []
        known += [item for key, item in vendor.items() if item["type"] == register.peripheral and item not in known]
        if not known:
            found.append(name)
        for instance in known:
            # The facts have the two alternate function registers as one array of two words.
            half = {"AFR_LOW": 0, "AFR_HIGH": 4}.get(register.name)
            fact = instance["registers"].get("AFR" if half is not None else register.name)
            if fact is None or register.offset - (half or 0) != int(fact["offset"], 16):
                found.append(name)
                continue
            for field, bits in register.fields.items():
                if fact.get("fields", {}).get(field) != [bits.position, bits.width]:
                    found.append(f"{name}_{field}")
    return found


@pytest.mark.parametrize("board", FACTS)
def test_chip_headers_agree_with_the_vendor(board: str) -> None:
    vendor = facts(board)
    for name in (f"registers_{board}.h", "registers_common.h"):
        text = (C / name).read_text()
        assert len(parse_registers(text).registers) >= 9
        assert not differences(text, vendor), name


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("#define RCC_BASE 0x40021000u", "#define RCC_BASE 0x40021400u", "RCC_BASE"),
        ("MJ_REGISTER(PWR_BASE, 0x80u)", "MJ_REGISTER(PWR_BASE, 0x84u)", "PWR_CR5"),
        ("RCC_PLLCFGR_PLLN 8, 7", "RCC_PLLCFGR_PLLN 8, 8", "RCC_PLLCFGR_PLLN"),
        ("PWR_CR2_IOSV 9, 1", "PWR_CR2_IOSV 10, 1", "PWR_CR2_IOSV"),
        ("#define PWR_SR2 ", "#define PWR_SR9 ", "PWR_SR9"),
    ],
)
def test_a_wrong_header_would_be_noticed(old: str, new: str, name: str) -> None:
    text = (C / "registers_stm32l4r9i.h").read_text()
    assert old in text
    assert name in differences(text.replace(old, new), facts("stm32l4r9i"))


@pytest.mark.parametrize("name", board_names())
def test_every_register_macro_that_the_firmware_uses_is_in_a_checked_header(name: str) -> None:
    board = load_board(name)
    sources, defines = firmware_sources(board), firmware_defines(board)
    known = set(re.findall(r"^#define (\w+)", "\n".join(sources.values()), flags=re.MULTILINE))
    pattern = re.compile(r"\b(?:RCC|PWR|FLASH|GPIO|USART|LPUART|UART|TIM|SYSCFG|DBGMCU|EXTI|CORE)\d*_[A-Z0-9_]+\b")
    used: set[str] = set()
    for file, text in sources.items():
        code = re.sub(r'/\*.*?\*/|"[^"\n]*"', "", text, flags=re.DOTALL)
        if file.endswith(".c"):
            used |= set(pattern.findall(code))
        # What the build's macros are pasted to.
        for prefix in re.findall(r"MJ_JOIN\((\w+_), MJ_JOIN\(MJ_CONSOLE, EN\)\)", code):
            used.discard(prefix)
            used.add(f"{prefix}{defines['MJ_CONSOLE']}EN")
    used |= {f"{board.console.peripheral}_BASE"}
    pins = [board.console.transmit, board.console.receive, *([board.timestamp] if board.timestamp else [])]
    used |= {f"GPIO{pin.port}_BASE" for pin in pins}
    own = {"FLASH_PROGRAMMING_DELAY", "LPUART_CLOCK_HSI16"}  # enumerations of the clock and console files
    assert len(used) > 40
    assert not used - known - own


@pytest.mark.parametrize("name", board_names())
def test_every_address_that_the_running_firmware_touches_is_the_vendor_s(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = load_board(name)
    peripherals = facts(board.silicon)
    known = {
        int(item["base"], 16) + int(register["offset"], 16) + (4 if second else 0)
        for item in peripherals.values()
        for key, register in item["registers"].items()
        for second in ((False, True) if key == "AFR" else (False,))
    }
    touched: set[int] = set()
    for block, way in itertools.product((Peripherals, SystemBlock), ("read", "write")):
        inner = getattr(block, way)

        def spy(self: object, address: int, *rest: int, inner=inner) -> object:
            touched.add(address & ~3)
            return inner(self, address, *rest)

        monkeypatch.setattr(block, way, spy)
    files = {path.name: path.read_text() for path in MODEL.iterdir()}
    firmware = EmulatedFirmware(build_board(files, board), board, files)
    assert "m-ready" in firmware.dialogue("name%db load 2%db 0102%infer 1%timestamp%")
    chip = {address for address in touched if address < 0xE0000000}
    assert len(chip) > 15 and not chip - known, sorted(map(hex, chip - known))
    core = {board_registers(board).address(key) for key in board_registers(board).registers if key.startswith("CORE_")}
    assert touched - chip and not touched - chip - core


@pytest.mark.parametrize("name", board_names())
def test_pins_ports_memories_and_interrupts_are_the_vendor_s(name: str) -> None:
    board = load_board(name)
    known = document(board.silicon)
    vendor = known["peripherals"]
    gate = {"stm32l4r9i": "AHB2ENR", "stm32h7b3i": "AHB4ENR"}[board.silicon]
    pins = [board.console.transmit, board.console.receive, *([board.timestamp] if board.timestamp else [])]
    for pin in pins:
        # usart.c and timestamp.c shift by the pin's number, MJ_BOARD_PORTS by the port's letter.
        fields = {
            key: vendor[f"GPIO{pin.port}"]["registers"][key]["fields"] for key in ("MODER", "OSPEEDR", "PUPDR", "BSRR")
        }
        assert fields["MODER"][f"MODE{pin.pin}"] == [2 * pin.pin, 2]
        assert fields["OSPEEDR"][f"OSPEED{pin.pin}"] == [2 * pin.pin, 2]
        assert fields["PUPDR"][f"PUPD{pin.pin}"] == [2 * pin.pin, 2]
        assert fields["BSRR"][f"BS{pin.pin}"] == [pin.pin, 1] and fields["BSRR"][f"BR{pin.pin}"] == [16 + pin.pin, 1]
        index = ord(pin.port) - ord("A")
        assert vendor["RCC"]["registers"][gate]["fields"][f"GPIO{pin.port}EN"] == [index, 1]
        assert int(firmware_defines(board)["MJ_BOARD_PORTS"].removesuffix("u"), 16) >> index & 1
    bases = {key: int(value, 16) for key, value in known["memory_bases"].items()}
    memories = {memory.name: memory for memory in board.memories}
    if board.silicon == "stm32l4r9i":
        assert board.flash.base == bases["FLASH_BASE"] and memories["SRAM"].base == bases["SRAM1_BASE"]
        assert memories["SRAM"].base + (192 + 64) * 1024 == bases["SRAM3_BASE"]
        assert vendor["RCC"]["registers"]["PLLCFGR"]["fields"]["PLLSRC_HSI"] == [1, 1]  # code 2, as in the clock file
    else:
        assert memories["AXI"].base == bases["CD_AXISRAM1_BASE"] and memories["AHB"].base == bases["CD_AHBSRAM1_BASE"]
        assert memories["AXI"].base < bases["CD_AXISRAM3_BASE"] < memories["AXI"].end
        assert memories["AHB"].base < bases["CD_AHBSRAM2_BASE"] < memories["AHB"].end
    assert board.interrupts > max(known["interrupts"].values())


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
    # The same manual, B3.2.8 (CCR), B3.2.13 (SHCSR), B3.2.20 (CPACR), C1.6.5 (DEMCR), C1.8.7 (DWT_CTRL).
    fields = {
        "CORE_SCB_CCR": {"DIV_0_TRP": (4, 1), "DC": (16, 1), "IC": (17, 1)},
        "CORE_SCB_SHCSR": {"MEMFAULTENA": (16, 1), "BUSFAULTENA": (17, 1), "USGFAULTENA": (18, 1)},
        "CORE_SCB_CPACR": {"FPU": (20, 4)},
        "CORE_DEBUG_DEMCR": {"TRCENA": (24, 1)},
        "CORE_DWT_CTRL": {"CYCCNTENA": (0, 1)},
    }
    for name in expected:
        known = {key: (bits.position, bits.width) for key, bits in registers.registers[name].fields.items()}
        assert known == fields.get(name, {}), name


def test_the_fault_report_names_the_bits_of_the_architecture() -> None:
    # Armv7-M Architecture Reference Manual, B3.2.15: MMFSR in bits 0..7, BFSR in 8..15, UFSR in 16..31.
    words = {0: "fetch", 1: "forbidden", 8: "fetch", 9: "without memory", 10: "late", 16: "undefined", 17: "even"}
    words |= {4: "stack", 12: "stack", 18: "return", 19: "floating", 24: "unaligned", 25: "zero"}
    table = dict(re.findall(r'\{(\d+), "([^"]+)"\}', (C / "startup.c").read_text()))
    assert {int(bit) for bit in table} == set(words)
    assert all(word in table[str(bit)] for bit, word in words.items())


def test_fields_are_read_and_written() -> None:
    field = parse_registers("#define A_BASE 0x10u\n#define A_R MJ_REGISTER(A_BASE, 0x4u)\n#define A_R_F 3, 2\n")
    bits = field.field("A_R", "F")
    assert field.address("A_R") == 0x14 and bits.mask == 0x18
    assert bits.put(0xFFFF, 1) == 0xFFEF and bits.get(0xFFEF) == 1
