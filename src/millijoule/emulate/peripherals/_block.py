"""What every emulated peripheral is: a window of registers that may change with time and may raise an interrupt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from millijoule.emulate.peripherals._facts import Instance

if TYPE_CHECKING:
    from millijoule.emulate.peripherals.chip import Peripherals

__all__ = ["Block", "InterruptLines"]


class InterruptLines(Protocol):
    """Takes the level of interrupt lines; the core's interrupt controller is one."""

    def set_line(self, number: int, level: bool) -> None:
        """Line `number` (0 is the first external interrupt) is now high or low."""


class Block:
    """A peripheral: reads and writes by offset; registers without a rule of their own are plain storage.

    Args:
        chip: the chip it belongs to; `chip.values` holds its stored words.
        instance: its name, base and interrupt.
    """

    def __init__(self, chip: Peripherals, instance: Instance) -> None:
        self.chip = chip
        self.instance = instance
        self.name = instance.name
        self.base = instance.base
        self._offsets = {
            register.name: register.offset
            for register in chip.registers.registers.values()
            if register.peripheral == instance.kind
        }
        self._level = False

    def offset(self, register: str) -> int:
        """Bytes from the base to a register."""
        return self._offsets[register]

    def mask(self, register: str, field: str) -> int:
        """The bits of a field."""
        return self.chip.registers.field(f"{self.instance.kind}_{register}", field).mask

    def stored(self, register: str) -> int:
        """The word kept for a register."""
        return self.chip.values.get(self.base + self._offsets[register], 0)

    def store(self, register: str, value: int) -> None:
        """Keeps a word for a register."""
        self.chip.values[self.base + self._offsets[register]] = value & 0xFFFFFFFF

    def reset(self) -> None:
        """The state after power-on; `chip.values` has been emptied."""

    def read(self, offset: int) -> int:
        """The word at `offset`, with the side effects of reading it."""
        return self.chip.values.get(self.base + offset, 0)

    def write(self, offset: int, value: int) -> None:
        """Stores a word at `offset`, with its side effects."""
        self.chip.values[self.base + offset] = value

    def advance(self) -> None:
        """Brings the state to the present time."""

    def interrupting(self) -> bool:
        """Whether the interrupt line is high now."""
        return False

    def next_event(self) -> int | None:
        """When (in core cycles) the line may rise by itself, None for never."""
        return None

    def refresh(self) -> None:
        """Brings state and interrupt line to the present time."""
        self.advance()
        lines, number = self.chip.interrupts, self.instance.interrupt
        if lines is None or number is None:
            return
        level = self.interrupting()
        if level != self._level:
            self._level = level
            lines.set_line(number, level)

    def forget_line(self) -> None:
        """After power-on the line is low."""
        self._level = False
