"""IEEE 754 double precision on bit patterns, as the Cortex-M7's floating point unit computes it.

Results are exact rationals rounded once, so all four rounding modes, flush-to-zero and the sticky exception flags come
out as the Armv7-M Architecture Reference Manual says (A2.5, pseudocode FPRound, FPProcessNaN, FPMulAdd, FPToFixed).
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from fractions import Fraction

__all__ = ["DOUBLE", "HALF", "SINGLE", "Arithmetic", "Format", "bits_of", "float_of"]

NEAREST, UP, DOWN, ZERO, AWAY = range(5)  # FPSCR.RMode, and ties away from zero
INVALID, DIVISION, OVERFLOW, UNDERFLOW, INEXACT, DENORMAL = 1, 2, 4, 8, 16, 128
_FLUSH, _DEFAULT_NAN, _ALTERNATIVE_HALF = 1 << 24, 1 << 25, 1 << 26


@dataclass(frozen=True)
class Format:
    """A binary format: bits of the exponent, bits of the fraction."""

    exponent: int
    fraction: int

    @property
    def lowest(self) -> int:
        """Exponent of the smallest normal number."""
        return 2 - (1 << (self.exponent - 1))

    @property
    def sign(self) -> int:
        """The sign bit."""
        return 1 << (self.exponent + self.fraction)

    @property
    def infinity(self) -> int:
        """Plus infinity."""
        return ((1 << self.exponent) - 1) << self.fraction

    @property
    def quiet(self) -> int:
        """The bit that makes a NaN quiet."""
        return 1 << (self.fraction - 1)

    def is_nan(self, bits: int) -> bool:
        """Whether the pattern is not a number."""
        return bits & ~self.sign > self.infinity

    def is_signalling(self, bits: int) -> bool:
        """Whether the pattern is a signalling NaN."""
        return self.is_nan(bits) and not bits & self.quiet

    def is_infinite(self, bits: int) -> bool:
        """Whether the pattern is an infinity."""
        return bits & ~self.sign == self.infinity

    def exact(self, bits: int) -> Fraction:
        """The value of a finite pattern."""
        exponent = (bits & self.infinity) >> self.fraction
        mantissa = bits & ((1 << self.fraction) - 1)
        if exponent:
            mantissa |= 1 << self.fraction
        power = max(exponent, 1) - 1 + self.lowest - self.fraction
        value = Fraction(mantissa << power) if power >= 0 else Fraction(mantissa, 1 << -power)
        return -value if bits & self.sign else value


DOUBLE, SINGLE, HALF = Format(11, 52), Format(8, 23), Format(5, 10)


def float_of(bits: int) -> float:
    """The double with these bits."""
    return float(struct.unpack("<d", struct.pack("<Q", bits))[0])


def bits_of(value: float) -> int:
    """The bits of a double."""
    return int(struct.unpack("<Q", struct.pack("<d", value))[0])


class Arithmetic:
    """One instruction's arithmetic.

    Args:
        control: FPSCR.

    Attributes:
        flags: the sticky exception flags that were raised, as bits of FPSCR.
    """

    def __init__(self, control: int) -> None:
        self._mode = control >> 22 & 3
        self._flush = bool(control & _FLUSH)
        self._default_nan = bool(control & _DEFAULT_NAN)
        self._alternative_half = bool(control & _ALTERNATIVE_HALF)
        # The host's arithmetic serves where it cannot differ and need not report that a result is inexact.
        self._quick = not self._mode and not self._flush and bool(control & INEXACT)
        self.flags = 0

    def add(self, a: int, b: int) -> int:
        """A + b."""
        if self._quick:
            result = float_of(a) + float_of(b)
            if 1e-290 < abs(result) < 1e308:
                return bits_of(result)
        a, b = self._input(a), self._input(b)
        nan = self._nan(a, b)
        if nan is not None:
            return nan
        if DOUBLE.is_infinite(a) or DOUBLE.is_infinite(b):
            if DOUBLE.is_infinite(a) and DOUBLE.is_infinite(b) and a != b:
                return self._invalid()
            return a if DOUBLE.is_infinite(a) else b
        return self._sum(DOUBLE.exact(a) + DOUBLE.exact(b), a & DOUBLE.sign, b & DOUBLE.sign)

    def multiply(self, a: int, b: int) -> int:
        """A * b."""
        if self._quick:
            result = float_of(a) * float_of(b)
            if 1e-290 < abs(result) < 1e308:
                return bits_of(result)
        a, b = self._input(a), self._input(b)
        nan = self._nan(a, b)
        if nan is not None:
            return nan
        sign = (a ^ b) & DOUBLE.sign
        if DOUBLE.is_infinite(a) or DOUBLE.is_infinite(b):
            zero = not a & ~DOUBLE.sign or not b & ~DOUBLE.sign
            return self._invalid() if zero else sign | DOUBLE.infinity
        return self.round(DOUBLE.exact(a) * DOUBLE.exact(b), sign)

    def divide(self, a: int, b: int) -> int:
        """A / b."""
        a, b = self._input(a), self._input(b)
        nan = self._nan(a, b)
        if nan is not None:
            return nan
        sign = (a ^ b) & DOUBLE.sign
        if DOUBLE.is_infinite(a):
            return self._invalid() if DOUBLE.is_infinite(b) else sign | DOUBLE.infinity
        if DOUBLE.is_infinite(b):
            return sign
        if not b & ~DOUBLE.sign:
            if not a & ~DOUBLE.sign:
                return self._invalid()
            self.flags |= DIVISION
            return sign | DOUBLE.infinity
        return self.round(DOUBLE.exact(a) / DOUBLE.exact(b), sign)

    def root(self, a: int) -> int:
        """The square root of a."""
        a = self._input(a)
        nan = self._nan(a)
        if nan is not None:
            return nan
        if not a & ~DOUBLE.sign or a == DOUBLE.infinity:
            return a
        if a & DOUBLE.sign:
            return self._invalid()
        value = DOUBLE.exact(a)
        # 120 bits of the root and a sticky bit round like the root itself.
        shift = 240 + 2 * max(0, value.denominator.bit_length() // 2)
        whole = math.isqrt((value.numerator << shift) // value.denominator)
        exact = Fraction(whole * whole, 1 << shift) == value
        return self.round(Fraction(2 * whole + (not exact), 2 << (shift // 2)), 0)

    def fused(self, addend: int, a: int, b: int) -> int:
        """Addend + a * b, rounded once."""
        addend, a, b = self._input(addend), self._input(a), self._input(b)
        infinite = DOUBLE.is_infinite(a) or DOUBLE.is_infinite(b)
        undefined = infinite and (not a & ~DOUBLE.sign or not b & ~DOUBLE.sign)
        if undefined and DOUBLE.is_nan(addend) and not DOUBLE.is_signalling(addend):
            return self._invalid()
        nan = self._nan(addend, a, b)
        if nan is not None:
            return nan
        sign = (a ^ b) & DOUBLE.sign
        if undefined or (infinite and DOUBLE.is_infinite(addend) and addend & DOUBLE.sign != sign):
            return self._invalid()
        if infinite:
            return sign | DOUBLE.infinity
        if DOUBLE.is_infinite(addend):
            return addend
        return self._sum(DOUBLE.exact(addend) + DOUBLE.exact(a) * DOUBLE.exact(b), addend & DOUBLE.sign, sign)

    def compare(self, a: int, b: int, *, signal: bool) -> int:
        """NZCV in the lowest four bits; `signal`: a quiet NaN is invalid, too."""
        a, b = self._input(a), self._input(b)
        if DOUBLE.is_nan(a) or DOUBLE.is_nan(b):
            if signal or DOUBLE.is_signalling(a) or DOUBLE.is_signalling(b):
                self.flags |= INVALID
            return 0b0011
        left, right = float_of(a), float_of(b)
        return 0b0110 if left == right else 0b1000 if left < right else 0b0010

    def extreme(self, a: int, b: int, *, largest: bool) -> int:
        """VMAXNM and VMINNM: a number wins over a quiet NaN."""
        a, b = self._input(a), self._input(b)
        quiet = [DOUBLE.is_nan(x) and not DOUBLE.is_signalling(x) for x in (a, b)]
        if quiet[0] and not DOUBLE.is_nan(b):
            return b
        if quiet[1] and not DOUBLE.is_nan(a):
            return a
        nan = self._nan(a, b)
        if nan is not None:
            return nan
        if float_of(a) == float_of(b):  # zeros of both signs
            return (a & b) if largest else (a | b)
        return a if (float_of(a) > float_of(b)) == largest else b

    def whole(self, a: int, mode: int | None, *, exact: bool = False) -> int:
        """Rounded to an integral double; `mode` None: as FPSCR says; `exact`: report that it was inexact."""
        a = self._input(a)
        nan = self._nan(a)
        if nan is not None:
            return nan
        if DOUBLE.is_infinite(a) or not a & ~DOUBLE.sign:
            return a
        value = DOUBLE.exact(a)
        rounded = _integral(value, self._mode if mode is None else mode)
        if exact and rounded != value:
            self.flags |= INEXACT
        return a & DOUBLE.sign | bits_of(float(abs(rounded)))

    def to_fixed(self, a: int, *, signed: bool, width: int = 32, fraction: int = 0, mode: int | None = None) -> int:
        """A whole number of 2**-fraction, saturated to `width` bits; `mode` None: as FPSCR says."""
        a = self._input(a)
        low, high = (-(1 << (width - 1)), (1 << (width - 1)) - 1) if signed else (0, (1 << width) - 1)
        if DOUBLE.is_nan(a):
            self.flags |= INVALID
            return 0
        if DOUBLE.is_infinite(a):
            self.flags |= INVALID
            return low if a & DOUBLE.sign else high
        value = DOUBLE.exact(a) * (1 << fraction)
        rounded = _integral(value, self._mode if mode is None else mode)
        if not low <= rounded <= high:
            self.flags |= INVALID
            return min(max(rounded, low), high)
        if rounded != value:
            self.flags |= INEXACT
        return rounded

    def convert(self, bits: int, source: Format, target: Format) -> int:
        """A value in another format."""
        if source is not HALF:
            bits = self._input(bits, source)
        sign = target.sign if bits & source.sign else 0
        alternative = self._alternative_half
        if source is HALF and alternative:  # no infinities, no NaNs
            value = Fraction(bits & 0x3FF | (0x400 if bits & 0x7C00 else 0)) * Fraction(2) ** (
                max(bits >> 10 & 31, 1) - 25
            )
            return self.round(-value if sign else value, sign, target)
        if source.is_nan(bits):
            if source.is_signalling(bits):
                self.flags |= INVALID
            if target is HALF and alternative:
                self.flags |= INVALID
                return sign
            if self._default_nan:
                return target.infinity | target.quiet
            payload = bits & (source.quiet - 1)
            shift = target.fraction - source.fraction
            return sign | target.infinity | target.quiet | (payload << shift if shift >= 0 else payload >> -shift)
        if source.is_infinite(bits):
            if target is HALF and alternative:
                self.flags |= INVALID
                return sign | 0x7FFF
            return sign | target.infinity
        return self.round(source.exact(bits), sign, target)

    def round(self, value: Fraction, sign: int, target: Format = DOUBLE) -> int:
        """The bits nearest to an exact value; `sign` is that of a zero."""
        if not value:
            return sign
        sign = target.sign if value < 0 else 0
        value = abs(value)
        power = value.numerator.bit_length() - value.denominator.bit_length()
        if value < Fraction(2) ** power:
            power -= 1
        tiny = power < target.lowest
        if tiny and self._flush and target is not HALF:
            self.flags |= UNDERFLOW
            return sign
        power = max(power, target.lowest)
        scaled = value * Fraction(2) ** (target.fraction - power)
        mode = self._mode
        if sign and mode in (UP, DOWN):
            mode = UP + DOWN - mode
        mantissa = _integral(scaled, mode)
        if mantissa != scaled:
            self.flags |= INEXACT | (UNDERFLOW if tiny else 0)
        if mantissa >> (target.fraction + 1):
            mantissa >>= 1
            power += 1
        if mantissa >> target.fraction == 0:
            return sign | mantissa
        exponent = power - target.lowest + 1
        highest = (1 << target.exponent) - 1
        if exponent >= highest + (target is HALF and self._alternative_half):
            if target is HALF and self._alternative_half:
                self.flags = self.flags & ~INEXACT | INVALID
                return sign | 0x7FFF
            self.flags |= OVERFLOW | INEXACT
            return sign | (target.infinity if mode in (NEAREST, UP) else target.infinity - 1)
        return sign | exponent << target.fraction | mantissa & ((1 << target.fraction) - 1)

    def _sum(self, value: Fraction, first: int, second: int) -> int:
        """Rounds a sum; an exact zero is positive, but negative when both are or when rounding down."""
        zero = first if first == second else DOUBLE.sign if self._mode == DOWN else 0
        return self.round(value, zero)

    def _input(self, bits: int, kind: Format = DOUBLE) -> int:
        if self._flush and bits & ~kind.sign and not bits & kind.infinity:
            self.flags |= DENORMAL
            return bits & kind.sign
        return bits

    def _nan(self, *operands: int) -> int | None:
        nans = [bits for bits in operands if DOUBLE.is_nan(bits)]
        if not nans:
            return None
        signalling = [bits for bits in nans if DOUBLE.is_signalling(bits)]
        if signalling:
            self.flags |= INVALID
        if self._default_nan:
            return DOUBLE.infinity | DOUBLE.quiet
        return (signalling or nans)[0] | DOUBLE.quiet

    def _invalid(self) -> int:
        self.flags |= INVALID
        return DOUBLE.infinity | DOUBLE.quiet


def _integral(value: Fraction, mode: int) -> int:
    if mode == NEAREST:
        return round(value)
    if mode == UP:
        return math.ceil(value)
    if mode == DOWN:
        return math.floor(value)
    if mode == ZERO:
        return math.trunc(value)
    whole = math.floor(abs(value) + Fraction(1, 2))
    return whole if value >= 0 else -whole
