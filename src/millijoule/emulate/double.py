"""Double precision of the Cortex-M7's FPv5-D16 unit, which the emulator library takes for undefined instructions.

Encodings: Armv7-M Architecture Reference Manual, A6.4 (floating point data-processing instructions).
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Protocol

from millijoule.emulate._float64 import AWAY, DOUBLE, DOWN, HALF, NEAREST, SINGLE, UP, ZERO, Arithmetic

__all__ = ["Registers", "execute_double", "is_double"]

_SIGN = DOUBLE.sign
_MODES = (AWAY, NEAREST, UP, DOWN)  # of VRINTA/N/P/M and VCVTA/N/P/M


class Registers(Protocol):
    """Access to the registers of a core by name: "d0" to "d15", "s0" to "s31", "fpscr", "xpsr"."""

    def register(self, name: str) -> int:
        """Reads one."""

    def write_register(self, name: str, value: int) -> None:
        """Changes one."""


def is_double(first: int, second: int) -> bool:
    """Whether the two halfwords are a data-processing instruction that needs double precision."""
    if first & 0xEF00 != 0xEE00 or second & 0x0E10 != 0x0A00:
        return False
    # Conversion from single precision carries the bit of single precision.
    return bool(second & 0x100) or (first & 0xFFBF == 0xEEB7 and second & 0xD0 == 0xC0)


def execute_double(core: Registers, first: int, second: int) -> bool:
    """Executes one instruction; the caller moves the program counter. False when it is not double precision.

    Args:
        core: the registers.
        first: first halfword of the instruction.
        second: second halfword.
    """
    if not is_double(first, second):
        return False
    unit = _Unit(core, first, second)
    operation = unit.decode()
    if operation is None:
        return False
    operation()
    unit.finish()
    return True


class _Unit:
    """Operands of one instruction."""

    def __init__(self, core: Registers, first: int, second: int) -> None:
        self.core = core
        self.first, self.second = first, second
        self.control = core.register("fpscr")
        self.arithmetic = Arithmetic(self.control)
        self.opcode = first & 15
        self.high = bool(second & 0x80)
        self.low = bool(second & 0x40)
        # (D, Vd), (N, Vn), (M, Vm): the single bit is the upper one of a double, the lowest of a single.
        self.to = (first >> 6 & 1, second >> 12 & 15)
        self.left = (second >> 7 & 1, first & 15)
        self.right = (second >> 5 & 1, second & 15)

    def decode(self) -> Callable[[], None] | None:
        if self.first & 0x1000:
            return self._decode_newer()
        kind = (self.first >> 7 & 1, self.first >> 4 & 3)
        if kind == (1, 3):
            return self._decode_unary() if self.low else self._checked(self._constant, self.to)
        if kind == (1, 0) and self.low:
            return None
        return self._checked(lambda: self._arithmetic(kind), self.to, self.left, self.right)

    def _decode_newer(self) -> Callable[[], None] | None:
        """Instructions that came with FPv5."""
        if not self.first & 0x80:
            return None if self.low else self._checked(self._select, self.to, self.left, self.right)
        if self.first & 0x30 == 0:
            return self._checked(self._extreme, self.to, self.left, self.right)
        if self.first & 0x30 == 0x30 and self.low and self.opcode & 8:
            mode = _MODES[self.opcode & 3]
            if self.opcode & 4:
                return self._checked(lambda: self._to_integer(self.high, mode), self.right)
            return None if self.high else self._checked(lambda: self._whole(mode), self.to, self.right)
        return None

    def _decode_unary(self) -> Callable[[], None] | None:
        opcode, high = self.opcode, self.high
        if opcode == 0:
            return self._checked(lambda: self._sign(~_SIGN if high else -1, 0), self.to, self.right)
        if opcode == 1:
            if high:
                return self._checked(
                    lambda: self._put(self.arithmetic.root(self._get(self.right))), self.to, self.right
                )
            return self._checked(lambda: self._sign(-1, _SIGN), self.to, self.right)
        if opcode == 2:
            return self._checked(self._from_half, self.to)
        if opcode == 3:
            return self._checked(self._to_half, self.right)
        if opcode == 4:
            return self._checked(lambda: self._compare(self._get(self.right)), self.to, self.right)
        if opcode == 5:
            return self._checked(lambda: self._compare(0), self.to)
        if opcode == 6:
            return self._checked(lambda: self._whole(ZERO if high else None), self.to, self.right)
        if opcode == 7:
            if not high:
                return self._checked(lambda: self._whole(None, exact=True), self.to, self.right)
            return (
                self._checked(self._to_single, self.right)
                if self.second & 0x100
                else self._checked(self._from_single, self.to)
            )
        if opcode == 8:
            return self._checked(self._from_integer, self.to)
        if opcode in (12, 13):
            return self._checked(lambda: self._to_integer(bool(opcode & 1), ZERO if high else None), self.right)
        return self._checked(self._fixed, self.to) if opcode & 10 == 10 else None

    def _checked(self, operation: Callable[[], None], *doubles: tuple[int, int]) -> Callable[[], None] | None:
        """There are sixteen double registers only."""
        return None if any(upper for upper, _ in doubles) else operation

    def finish(self) -> None:
        control = self.control | self.arithmetic.flags
        if control != self.core.register("fpscr"):
            self.core.write_register("fpscr", control)

    def _get(self, operand: tuple[int, int]) -> int:
        return self.core.register(f"d{operand[1]}")

    def _put(self, bits: int) -> None:
        self.core.write_register(f"d{self.to[1]}", bits)

    def _get_single(self, operand: tuple[int, int]) -> int:
        return self.core.register(f"s{operand[1] << 1 | operand[0]}") & 0xFFFFFFFF

    def _put_single(self, bits: int) -> None:
        self.core.write_register(f"s{self.to[1] << 1 | self.to[0]}", bits & 0xFFFFFFFF)

    def _arithmetic(self, kind: tuple[int, int]) -> None:
        unit, low = self.arithmetic, self.low
        a, b = self._get(self.left), self._get(self.right)
        if kind == (0, 0):  # VMLA, VMLS: two roundings
            self._put(unit.add(self._get(self.to), _negated(unit.multiply(a, b), low)))
        elif kind == (0, 1):  # VNMLS, VNMLA
            self._put(unit.add(_negated(self._get(self.to), True), _negated(unit.multiply(a, b), low)))
        elif kind == (0, 2):
            self._put(_negated(unit.multiply(a, b), low))
        elif kind == (0, 3):
            self._put(unit.add(a, _negated(b, low)))
        elif kind == (1, 0):
            self._put(unit.divide(a, b))
        else:  # VFNMS, VFNMA; VFMA, VFMS
            self._put(unit.fused(_negated(self._get(self.to), kind == (1, 1)), _negated(a, low), b))

    def _root(self) -> None:
        self._put(self.arithmetic.root(self._get(self.right)))

    def _constant(self) -> None:
        code = (self.first & 15) << 4 | self.second & 15
        exponent = (0x3FC if code & 0x40 else 0x400) | code >> 4 & 3
        self._put((code & 0x80) << 56 | exponent << 52 | (code & 15) << 48)

    def _sign(self, keep: int, flip: int) -> None:
        self._put(self._get(self.right) & keep ^ flip)

    def _select(self) -> None:
        negative, zero, overflow = (self.core.register("xpsr") >> bit & 1 for bit in (31, 30, 28))
        holds = (zero, overflow, negative == overflow, not zero and negative == overflow)[self.first >> 4 & 3]
        self._put(self._get(self.left if holds else self.right))

    def _extreme(self) -> None:
        a, b = self._get(self.left), self._get(self.right)
        self._put(self.arithmetic.extreme(a, b, largest=not self.low))

    def _whole(self, mode: int | None, *, exact: bool = False) -> None:
        self._put(self.arithmetic.whole(self._get(self.right), mode, exact=exact))

    def _compare(self, other: int) -> None:
        flags = self.arithmetic.compare(self._get(self.to), other, signal=self.high)
        self.control = self.control & 0x0FFFFFFF | flags << 28

    def _to_integer(self, signed: bool, mode: int | None) -> None:
        self._put_single(self.arithmetic.to_fixed(self._get(self.right), signed=signed, mode=mode))

    def _from_integer(self) -> None:
        value = self._get_single(self.right)
        if self.high and value >> 31:
            value -= 1 << 32
        self._put(self.arithmetic.round(Fraction(value), 0))

    def _fixed(self) -> None:
        width = 32 if self.high else 16
        fraction = width - ((self.second & 15) << 1 | self.second >> 5 & 1)
        unsigned = bool(self.opcode & 1)
        if self.opcode & 4:
            value = self.arithmetic.to_fixed(
                self._get(self.to), signed=not unsigned, width=width, fraction=fraction, mode=ZERO
            )
            self._put(value & 0xFFFFFFFFFFFFFFFF)
            return
        value = self._get(self.to) & ((1 << width) - 1)
        if not unsigned and value >> (width - 1):
            value -= 1 << width
        self._put(self.arithmetic.round(Fraction(value, 1 << fraction), 0))

    def _to_single(self) -> None:
        self._put_single(self.arithmetic.convert(self._get(self.right), DOUBLE, SINGLE))

    def _from_single(self) -> None:
        self._put(self.arithmetic.convert(self._get_single(self.right), SINGLE, DOUBLE))

    def _from_half(self) -> None:
        word = self._get_single(self.right) >> (16 if self.high else 0)
        self._put(self.arithmetic.convert(word & 0xFFFF, HALF, DOUBLE))

    def _to_half(self) -> None:
        half = self.arithmetic.convert(self._get(self.right), DOUBLE, HALF)
        number = self.to[1] << 1 | self.to[0]
        word = self.core.register(f"s{number}")
        shift = 16 if self.high else 0
        self.core.write_register(f"s{number}", word & ~(0xFFFF << shift) & 0xFFFFFFFF | half << shift)


def _negated(bits: int, negate: bool) -> int:
    return bits ^ _SIGN if negate else bits
