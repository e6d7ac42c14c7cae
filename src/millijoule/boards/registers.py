"""The registers of a chip, read from the very C headers its firmware is compiled with."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from millijoule.boards.board import Board
from millijoule.errors import BoardError

__all__ = ["Field", "Register", "Registers", "board_registers", "parse_registers", "register_header"]

_C = Path(__file__).resolve().parent / "c"


@dataclass(frozen=True)
class Field:
    """Bits of a register: position of the lowest bit, number of bits."""

    position: int
    width: int

    @property
    def mask(self) -> int:
        """The field's bits as a word."""
        return ((1 << self.width) - 1) << self.position

    def get(self, word: int) -> int:
        """The field's value in `word`."""
        return (word & self.mask) >> self.position

    def put(self, word: int, value: int) -> int:
        """`word` with the field set to `value`."""
        return (word & ~self.mask) | (value << self.position & self.mask)


@dataclass(frozen=True)
class Register:
    """A register: peripheral, offset from its base, fields by name."""

    peripheral: str
    name: str
    offset: int
    fields: Mapping[str, Field]


@dataclass(frozen=True)
class Registers:
    """What a header defines: base addresses by peripheral; registers by "PERIPHERAL_REGISTER"."""

    bases: Mapping[str, int]
    registers: Mapping[str, Register]

    def address(self, name: str) -> int:
        """Address of "PERIPHERAL_REGISTER"."""
        register = self.registers[name]
        return self.bases[register.peripheral] + register.offset

    def field(self, register: str, name: str) -> Field:
        """Field `name` of "PERIPHERAL_REGISTER"."""
        return self.registers[register].fields[name]


def parse_registers(text: str) -> Registers:
    """Reads the macros of a register header.

    A base is `NAME_BASE 0x..u`, a register `NAME_REGISTER MJ_REGISTER(NAME_BASE, 0x..u)` or, for peripherals that
    exist several times, `NAME_REGISTER(base) MJ_REGISTER(base, 0x..u)`, a field `NAME_REGISTER_FIELD position, width`.
    """
    bases: dict[str, int] = {}
    registers: dict[str, Register] = {}
    fields: dict[str, dict[str, Field]] = {}
    for line in text.splitlines():
        if found := re.match(r"#define (\w+)_BASE (0x[0-9A-Fa-f]+)u", line):
            bases[found[1]] = int(found[2], 16)
        elif found := re.match(r"#define (\w+?)(\(base\))? MJ_REGISTER\((\w+), (0x[0-9A-Fa-f]+)u\)", line):
            peripheral = found[1].split("_")[0] if found[2] else found[3].removesuffix("_BASE")
            fields[found[1]] = {}
            name = found[1].removeprefix(peripheral + "_")
            registers[found[1]] = Register(peripheral, name, int(found[4], 16), fields[found[1]])
        elif found := re.match(r"#define (\w+) (\d+), (\d+)$", re.sub(r"\s*/\*.*", "", line)):
            owner = max((name for name in registers if found[1].startswith(name + "_")), key=len, default=None)
            if owner is not None:
                fields[owner][found[1].removeprefix(owner + "_")] = Field(int(found[2]), int(found[3]))
    return Registers(bases, registers)


def register_header(board: Board) -> Path:
    """The register header of the board's silicon: beside the board's description, or in the package."""
    name = f"registers_{board.silicon}.h"
    return board.folder / name if (board.folder / name).is_file() else _C / name


@functools.lru_cache(maxsize=8)
def board_registers(board: Board) -> Registers:
    """The registers that the board's firmware knows: core, common peripherals and the chip's own.

    Raises:
        BoardError: there is no register header for the board's silicon.
    """
    paths = (_C / "mj_registers.h", _C / "registers_common.h", register_header(board))
    try:
        texts = [path.read_text(encoding="utf-8") for path in paths]
    except OSError as error:
        raise BoardError(
            board.name, "it has no register header", f"Write c/registers_{board.silicon}.h, or name its silicon"
        ) from error
    parts = [parse_registers(text) for text in texts]
    bases = {name: base for part in parts for name, base in part.bases.items()}
    return Registers(bases, {name: reg for part in parts for name, reg in part.registers.items()})
