"""What a board is: memories, clock, energy per cycle, start-up code, drivers and linker script."""

from millijoule.boards.board import (
    Board,
    Console,
    Flash,
    Memory,
    OutputPin,
    Paper,
    Pin,
    Probe,
    SleepMode,
    board_names,
    load_board,
    read_board,
)
from millijoule.boards.clock import Bus, ClockTree, ConsoleClock
from millijoule.boards.firmware import firmware_defines, firmware_sources, linker_script
from millijoule.boards.power import PowerFit, Regulator, Round
from millijoule.boards.registers import Field, Register, Registers, board_registers, parse_registers

__all__ = [
    "Board",
    "Bus",
    "ClockTree",
    "Console",
    "ConsoleClock",
    "Field",
    "Flash",
    "Memory",
    "OutputPin",
    "Paper",
    "Pin",
    "PowerFit",
    "Probe",
    "Register",
    "Registers",
    "Regulator",
    "Round",
    "SleepMode",
    "board_names",
    "board_registers",
    "firmware_defines",
    "firmware_sources",
    "linker_script",
    "load_board",
    "parse_registers",
    "read_board",
]
