"""Assembler text of one function: registers by name, labels of its own, prologue and epilogue."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping

__all__ = ["Writer"]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Writer:
    """Collects the instructions of one function; GNU as and clang's assembler both read the text.

    Args:
        symbol: the function's name.
        registers: name -> register ("r0"); operands may use the names, each as a word of its own.
    """

    def __init__(self, symbol: str, registers: Mapping[str, str]) -> None:
        self.symbol = symbol
        self._registers = dict(registers)
        self._lines: list[str] = []
        self._numbers = itertools.count()

    def name(self, **registers: str) -> None:
        """Gives further names, or other registers to names that exist."""
        self._registers.update(registers)

    def resolved(self, instruction: str) -> str:
        """The instruction with registers in place of their names."""
        mnemonic, _, operands = instruction.partition(" ")
        operands = _NAME.sub(lambda found: self._registers.get(found[0], found[0]), operands)
        return f"{mnemonic} {operands}".rstrip()

    def emit(self, instruction: str) -> None:
        """One instruction: mnemonic, operands with names of registers in them."""
        self._lines.append(f"    {self.resolved(instruction)}")

    def block(self, text: str) -> None:
        """Instructions one a line; empty lines are left out."""
        for line in text.splitlines():
            if line.strip():
                self.emit(line.strip())

    def comment(self, text: str) -> None:
        """A line of its own."""
        self._lines.append(f"    /* {text} */")

    def label(self, purpose: str) -> str:
        """A new label of this function; `place` puts it down."""
        return f".L_{self.symbol}_{purpose}_{next(self._numbers)}"

    def place(self, label: str) -> None:
        """The label stands here."""
        self._lines.append(f"{label}:")

    def align(self, power: int) -> None:
        """The next instruction lies at a multiple of 2^power bytes."""
        self._lines.append(f"    .balign {1 << power}")

    def text(self) -> str:
        """The whole `.S` file: the function in a section of its own, aligned to a line of the instruction cache."""
        head = [
            ".syntax unified",
            ".thumb",
            f'.section .text.{self.symbol},"ax",%progbits',
            ".balign 32",
            f".global {self.symbol}",
            f".type {self.symbol}, %function",
            ".thumb_func",
            f"{self.symbol}:",
        ]
        return "\n".join([*head, *self._lines, f".size {self.symbol}, . - {self.symbol}", ""])
