"""The firmware around a model, executed: printing, memory functions, serial protocol, clock set-up."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import numpy as np
import pytest

from millijoule.build import build_board
from millijoule.emulate import EmulatedFirmware, Machine
from millijoule.errors import EmulationError

BOARDS = ("stm32l4r9i", "stm32h7b3i")
MODEL = Path(__file__).parents[1] / "fixtures" / "tiny_model"
PICTURE = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)

PROBE = """
#include "mj_board.h"
void *memcpy(void *, const void *, size_t);
void *memmove(void *, const void *, size_t);
void *memset(void *, int, size_t);
int memcmp(const void *, const void *, size_t);
#define PROBE __attribute__((used, retain, noinline))
PROBE void probe_float(uint32_t bits, int decimals)
{
    union { uint32_t bits; float value; } number = {bits};
    mj_print_float(number.value, decimals);
}
PROBE void probe_wide(uint32_t low, uint32_t high) { mj_print_unsigned64((uint64_t)high << 32 | low); }
PROBE void probe_integer(int32_t value) { mj_print_integer(value); }
PROBE void probe_hex(uint32_t value, int digits) { mj_print_hex(value, digits); }
PROBE void probe_copy(uint32_t to, uint32_t from, uint32_t n) { memcpy((void *)to, (const void *)from, n); }
PROBE void probe_move(uint32_t to, uint32_t from, uint32_t n) { memmove((void *)to, (const void *)from, n); }
PROBE void probe_set(uint32_t to, int value, uint32_t n) { memset((void *)to, value, n); }
PROBE int probe_compare(uint32_t a, uint32_t b, uint32_t n) { return memcmp((void *)a, (void *)b, n); }
"""


def model_files() -> dict[str, str]:
    return {path.name: path.read_text() for path in MODEL.iterdir()}


@pytest.fixture(scope="module", params=BOARDS)
def machine(request: pytest.FixtureRequest) -> Machine:
    image = build_board({**model_files(), "probe.c": PROBE}, request.param)
    made = Machine(image, request.param)
    made.run(image.symbol("mj_idle").address)
    return made


@pytest.fixture(scope="module", params=BOARDS)
def firmware(request: pytest.FixtureRequest) -> EmulatedFirmware:
    files = model_files()
    return EmulatedFirmware(build_board(files, request.param), request.param, files)


def printed(machine: Machine, function: str, *arguments: int) -> str:
    before = len(machine.console)
    machine.call(function, *arguments)
    return machine.console[before:]


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [
        (0.0, 3, "0.000"),
        (0.9996, 3, "1.000"),
        (-1.25, 1, "-1.3"),
        (123456.0, 0, "123456"),
        (3.14159274, 6, "3.141593"),
        (0.0009, 3, "0.001"),
        (float("nan"), 3, "nan"),
        (float("inf"), 2, "inf"),
        (float("-inf"), 2, "-inf"),
        (1e10, 2, "over4e9"),
    ],
)
def test_floats_are_printed(machine: Machine, value: float, decimals: int, text: str) -> None:
    assert printed(machine, "probe_float", struct.unpack("<I", struct.pack("<f", value))[0], decimals) == text


@pytest.mark.parametrize("value", [0, 7, -1, 2**31 - 1, -(2**31), 1000000000])
def test_integers_are_printed(machine: Machine, value: int) -> None:
    assert printed(machine, "probe_integer", value) == str(value)
    assert printed(machine, "probe_hex", value, 8) == f"{value & 0xFFFFFFFF:08x}"


@pytest.mark.parametrize("value", [0, 2**32 - 1, 2**32, 10**9 * 5 + 7, 123456789012345678, 2**64 - 1])
def test_wide_integers_are_printed(machine: Machine, value: int) -> None:
    assert printed(machine, "probe_wide", value & 0xFFFFFFFF, value >> 32) == str(value)


def test_memory_functions_equal_python_s(machine: Machine) -> None:
    base, chance = machine.board.memories[0].base + 0x6000, random.Random(1)
    for _ in range(60):
        content = bytearray(chance.randbytes(200))
        count, to, start = chance.randint(0, 70), chance.randint(0, 100), chance.randint(0, 100)
        machine.write(base, bytes(content))
        kind = chance.choice(["probe_move", "probe_set", "probe_copy"])
        if kind == "probe_set":
            machine.call(kind, base + to, 0x1A7, count)
            content[to : to + count] = b"\xa7" * count
        else:
            to = to if kind == "probe_move" else to % 20 + 120
            start = start if kind == "probe_move" else start % 50
            machine.call(kind, base + to, base + start, count)
            content[to : to + count] = content[start : start + count]
        assert machine.read(base, 200) == bytes(content[:200]), (kind, to, start, count)
    machine.write(base, b"abcd" + b"abce")
    results = [machine.call("probe_compare", base, base + 4, n) for n in (3, 4)]
    assert results[0] == 0 and results[1] >= 0x80000000


@pytest.mark.parametrize(
    ("board", "define", "value", "reason"),
    [
        ("stm32l4r9i", "MJ_BOARD_FLASH_WAIT_STATES", "2u", "2 flash wait states at 60000000 Hz|2 flash wait states"),
        ("stm32h7b3i", "MJ_BOARD_FLASH_WAIT_STATES", "5u", "5 flash wait states at 280000000 Hz: 6 are needed"),
    ],
)
def test_a_clock_raised_before_the_flash_is_ready_is_found(board: str, define: str, value: str, reason: str) -> None:
    files = model_files()
    from millijoule.boards import firmware_defines, load_board

    assert define in firmware_defines(load_board(board))
    firmware = EmulatedFirmware(build_board(files, board, defines={define: value}), board, files)
    with pytest.raises(EmulationError, match=reason):
        firmware.boot()
