"""Reads of RAM that nothing has written and misaligned accesses are found, and only those."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest

from millijoule.build import build_board
from millijoule.emulate import EmulatedFirmware, Machine
from millijoule.emulate.access import AccessCheck, _Context

from .firmwares import MISALIGNED, UNINITIALISED, build

BOARDS = ("stm32l4r9i", "stm32h7b3i")
MODEL = Path(__file__).parents[1] / "fixtures" / "tiny_model"


@pytest.mark.parametrize("board", BOARDS)
def test_unwritten_bytes_are_found_whatever_instruction_reads_them(board: str) -> None:
    image = build(UNINITIALISED, board)
    machine = Machine(image, board)
    buffer = image.symbol("buffer").address
    with AccessCheck(machine) as watch:
        assert watch._library.mj_access_size() == ctypes.sizeof(_Context)
        machine.run(image.symbol("clean").address)
        assert watch.found() == []
        machine.run(image.symbol("done").address)
        reads = watch.found()
    found = {read.function: read for read in reads}
    # The compiler may read the words in one loop or one by one.
    assert sum(read.count for read in reads if read.function == "sum_words") == 2
    assert {(read.function, read.address - buffer) for read in reads} - {("sum_words", 36)} == {
        ("sum_words", 32),
        ("read_byte", 34),
        ("copy_four", 32),
        ("read_if", 60),
    }
    assert found["read_if"].count == 1 and watch.lost == 0
    assert found["copy_four"].place == "buffer" and found["copy_four"].text.startswith("ldm")
    assert "read_byte at 0x0800" in str(found["read_byte"]) and "which nothing has written" in str(found["read_byte"])


def test_what_the_host_writes_counts_as_written() -> None:
    image = build(UNINITIALISED, "stm32l4r9i")
    machine = Machine(image, "stm32l4r9i")
    with AccessCheck(machine) as watch:
        machine.write(image.symbol("buffer").address, bytes(64))
        machine.run(image.symbol("done").address)
        assert watch.found() == []
    assert "write" not in vars(machine)


@pytest.mark.parametrize("board", BOARDS)
def test_our_own_firmware_reads_nothing_unwritten(board: str) -> None:
    files = {path.name: path.read_text() for path in MODEL.iterdir()}
    firmware = EmulatedFirmware(build_board(files, board), board, files)
    firmware.machine.reset()
    with AccessCheck(firmware.machine) as watch:
        firmware.run(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
        text = firmware.dialogue("name%db load 4%db 01020304%infer 1%results%help%")
        assert [str(read) for read in watch.found()] == []
    assert text.count("m-ready") == 6


@pytest.mark.parametrize("board", BOARDS)
def test_misaligned_accesses_that_fault_on_the_chip_are_found(board: str) -> None:
    image = build(MISALIGNED, board)
    machine = Machine(image, board)
    buffer = image.symbol("buffer").address
    with AccessCheck(machine) as check:
        machine.run(image.symbol("done").address)
        found = {item.function: item for item in check.found()}
    assert found.keys() == {"read_double", "read_many", "write_float", "touch_device"}
    assert {item.kind for item in found.values()} == {"misaligned"}
    assert found["read_many"].address == buffer + 2 and found["read_many"].place == "buffer"
    assert found["touch_device"].place == "the peripherals"
    assert "the chip raises a usage fault" in str(found["read_double"])


def test_an_alias_shares_what_is_written() -> None:
    source = """
    __attribute__((noinline, used)) uint32_t peek(uint32_t address) { return AT(address); }
    __attribute__((noinline, used)) void done(void) { __asm volatile("" ::: "memory"); }
    void Reset_Handler(void)
    {
        AT(0x20030100u) = 1u; /* SRAM2 of the STM32L4+, which also appears at 0x10000000 */
        peek(0x10000100u);
        AT(0x10000200u) = 1u;
        peek(0x20030200u);
        peek(0x10000300u);
        done();
        for (;;) {
        }
    }
    """
    image = build(source, "stm32l4r9i")
    machine = Machine(image, "stm32l4r9i")
    with AccessCheck(machine) as check:
        machine.run(image.symbol("done").address)
        assert [(item.address, item.place, item.count) for item in check.found()] == [(0x10000300, "SRAM2", 1)]
