"""General-purpose pins: output registers that agree, inputs that can be driven, edges with their time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from millijoule.emulate.peripherals._block import Block

__all__ = ["GpioEdge", "Port"]

_PINS = range(16)
_OUTPUT = 1  # mode of a pin
_PULL_UP = 1


@dataclass(frozen=True)
class GpioEdge:
    """An output pin changed: time in core cycles, port ("GPIOA"), pin 0..15, its new level."""

    cycles: int
    port: str
    pin: int
    level: int


class Port(Block):
    """One port of sixteen pins. A pin that nothing drives reads its pull resistor, low without one."""

    def reset(self) -> None:
        """See `Block.reset`."""
        self.driven: dict[int, int] = {}
        self._mode, self._out, self._in = (self.offset(name) for name in ("MODER", "ODR", "IDR"))
        self._set, self._clear = self.offset("BSRR"), self.offset("BRR")

    def drive(self, pin: int, level: int | None) -> None:
        """An outside signal sets an input pin to 0 or 1, or lets it go (None)."""
        if level is None:
            self.driven.pop(pin, None)
        else:
            self.driven[pin] = level

    def read(self, offset: int) -> int:
        """See `Block.read`."""
        if offset == self._in:
            return self._levels()
        if offset in (self._set, self._clear):
            return 0
        return super().read(offset)

    def write(self, offset: int, value: int) -> None:
        """See `Block.write`."""
        before = self.stored("ODR") & self._outputs()
        old = self.stored("ODR")
        if offset == self._set:  # the set half wins over the reset half
            self.store("ODR", (old & ~(value >> 16) | value) & 0xFFFF)
        elif offset == self._clear:
            self.store("ODR", old & ~value & 0xFFFF)
        elif offset == self._in:
            return
        else:
            super().write(offset, value & 0xFFFF if offset == self._out else value)
        changed = before ^ (self.stored("ODR") & self._outputs())
        if changed:
            levels = self.stored("ODR")
            for pin in _bits(changed):
                self.chip.record_edge(GpioEdge(self.chip.now(), self.name, pin, levels >> pin & 1))

    def _outputs(self) -> int:
        mode = self.stored("MODER")
        return sum(1 << pin for pin in _PINS if mode >> 2 * pin & 3 == _OUTPUT)

    def _levels(self) -> int:
        mode, pulls, out = (self.stored(name) for name in ("MODER", "PUPDR", "ODR"))
        word = 0
        for pin in _PINS:
            kind = mode >> 2 * pin & 3
            if kind == _OUTPUT:
                level = out >> pin & 1
            elif kind == 3:  # analog: the digital input is off
                level = 0
            else:
                level = self.driven.get(pin, int(pulls >> 2 * pin & 3 == _PULL_UP))
            word |= level << pin
        return word


def _bits(word: int) -> Iterator[int]:
    return (pin for pin in _PINS if word >> pin & 1)
