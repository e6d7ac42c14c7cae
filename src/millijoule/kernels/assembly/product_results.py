"""What becomes of the sums of a product: scaled, saturated, packed, stored.

Names: H0 .. H3 and L0 .. L3 hold accH and accL of the pixels (mj_rows.h); T0 .. T4 are free; what else is named waits
in registers of the floating point unit.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Results"]


@dataclass(frozen=True)
class Results:
    """Writes the code behind a block's words.

    Attributes:
        rounding: "single", "double" or "mulhi".
        form: "planes" or "pixels".
        clamped: whether results have bounds narrower than int8.
    """

    rounding: str
    form: str
    clamped: bool

    def lines(self, pixels: int, *, shortcut: bool, constant: bool = False, apart: bool = False) -> list[str]:
        """From sums to stored results.

        Args:
            pixels: 2, 3 or 4.
            shortcut: whether the constants of the pair are prepared as `product` describes.
            constant: whether planes have three rows.
            apart: whether H is 256 times the odd channel's sum already.
        """
        back = 7 if self.rounding == "double" else 8  # the rule's first step doubles sums
        lines = [] if apart else [f"sub H{pixel}, H{pixel}, L{pixel}" for pixel in range(pixels)]
        if not shortcut or self.rounding == "double":
            lines += [f"asr H{pixel}, H{pixel}, #{back}" for pixel in range(pixels)]
        for side, name in (("L", "EVEN"), ("H", "ODD")):
            sums = [f"{side}{pixel}" for pixel in range(pixels)]
            if self.rounding == "double":
                lines += [f"lsl {item}, {item}, #1" for item in sums] if side == "L" else []
                lines += self._twice_rounded(sums, name) if shortcut else self._twice_rounded_carefully(sums, name)
            else:
                lines += self._scaled(sums, name, exact=side == "L" or not shortcut)
        if self.form == "planes":
            lines += self._packed_planes(pixels, shortcut)
            return lines + (self._to_planes_of_three(pixels) if constant else self._to_planes(pixels))
        if self.clamped or not shortcut:
            return lines + self._to_pixels(pixels, shortcut)
        return lines + self._to_pixels_short(pixels)

    def _scaled(self, sums: list[str], side: str, *, exact: bool) -> list[str]:
        """Rules single and mulhi: sums -> values, in place; with rule mulhi and not exact: 256 times the values."""
        lines = [f"vmov T0, MULTIPLIER_{side}", f"vmov T1, ADDEND_{side}"]
        if self.rounding == "mulhi":
            name = "smmlar" if exact else "smmla"
            return lines + [f"{name} {item}, {item}, T0, T1" for item in sums]
        lines.append(f"vmov T2, SHIFT_{side}")
        lines += [f"smmla {item}, {item}, T0, T1" for item in sums]
        return lines + [f"asr {item}, {item}, T2" for item in sums]

    def _twice_rounded(self, sums: list[str], side: str) -> list[str]:
        """Rule double: doubled sums -> values. The addend holds half a unit and the zero point.

        Halves go away from zero: for negative numbers one less is added. The sign is the sum's; the first rounding can
        only have made a negative one zero, which the smaller addend, half a unit less one, leaves at zero.
        """
        lines = [f"vmov T0, MULTIPLIER_{side}", f"vmov T1, ADDEND_{side}", f"vmov T2, SHIFT_{side}"]
        for number, item in enumerate(sums):
            addend = f"T{3 + number % 2}"
            lines += [f"add {addend}, T1, {item}, asr #31", f"smmlar {item}, {item}, T0, {addend}"]
        return lines + [f"asr {item}, {item}, T2" for item in sums]

    def _twice_rounded_carefully(self, sums: list[str], side: str) -> list[str]:
        """The same for any shift, zero included, and with the addend as it is."""
        lines = [
            f"vmov T0, MULTIPLIER_{side}", f"vmov T2, SHIFT_{side}",
            "sub T3, T2, #1", "mov T1, #1", "lsl T1, T1, T3",  # half a unit; nothing where the shift is zero
            "rsb T4, T1, #0", "asr T4, T4, #31",  # -1 where there is half a unit
        ]  # fmt: skip
        for item in sums:
            lines += [
                f"smmulr {item}, {item}, T0", f"and T3, T4, {item}, asr #31",
                f"add {item}, {item}, T3", f"add {item}, {item}, T1", f"asr {item}, {item}, T2",
            ]  # fmt: skip
        return [*lines, f"vmov T0, ADDEND_{side}", *(f"add {item}, {item}, T0" for item in sums)]

    def _packed_planes(self, pixels: int, shortcut: bool) -> list[str]:
        """Two neighbouring pixels in one word, saturated: L0, L2, H0, H2."""
        lines, words = [], []
        for side in "LH":
            high = side == "H" and shortcut and self.rounding == "mulhi"  # values lie in bits 8 to 23
            for first in range(0, pixels, 2):
                word, other = f"{side}{first}", f"{side}{first + 1}"
                words.append(word)
                if first + 1 == pixels:
                    lines += [f"asr {word}, {word}, #8"] if high else []
                elif high:
                    lines += [f"lsl {other}, {other}, #8", f"pkhtb {word}, {other}, {word}, asr #8"]
                else:
                    lines.append(f"pkhbt {word}, {word}, {other}, lsl #16")
        return lines + self._saturated(words)

    def _saturated(self, words: list[str]) -> list[str]:
        """Pairs of values -> within int8 or the layer's bounds."""
        if not self.clamped:
            return [f"ssat16 {name}, #8, {name}" for name in words]
        lines = ["vmov T0, LOW", "vmov T1, HIGH"]
        for name in words:
            lines += [
                f"ssub16 T2, {name}, T0", f"sel {name}, {name}, T0",
                f"ssub16 T2, T1, {name}", f"sel {name}, {name}, T1",
            ]  # fmt: skip
        return lines

    def _to_planes(self, pixels: int) -> list[str]:
        lines = ["vmov T3, OUT", "vmov T0, DISTANCE", "vmov T4, STEP", "add T0, T0, T3"]
        if pixels == 2:
            return [lines[0], lines[1], lines[3], "str L0, [T3]", "str H0, [T0]"]
        lines += ["str L0, [T3]", "str L2, [T3, T4]", "str H0, [T0]", "str H2, [T0, T4]"]
        return lines + (["add T3, T3, T4, lsl #1", "vmov OUT, T3"] if pixels == 4 else [])

    def _to_planes_of_three(self, pixels: int) -> list[str]:
        """Planes with three rows: constant distances."""
        lines = []
        for side, pointer, place in (("L", "T3", "OUT"), ("H", "T4", "OUT_ODD")):
            lines += [f"vmov {pointer}, {place}", f"str {side}0, [{pointer}], #12"]
            lines += [f"str {side}2, [{pointer}], #12"] if pixels > 2 else []
            lines += [f"vmov {place}, {pointer}"] if pixels == 4 else []
        return lines

    def _to_pixels(self, pixels: int, shortcut: bool) -> list[str]:
        words = [f"L{pixel}" for pixel in range(pixels)]
        shift = 8 if shortcut and self.rounding == "mulhi" else 16
        lines = [f"pkhbt L{pixel}, L{pixel}, H{pixel}, lsl #{shift}" for pixel in range(pixels)]
        lines += self._saturated(words)
        lines += ["vmov T3, OUT", "vmov T0, DISTANCE"]
        for name in words:
            lines += [f"uxtb16 {name}, {name}", f"orr {name}, {name}, {name}, lsr #8"]
        return lines + self._bytes_out(words)

    def _to_pixels_short(self, pixels: int) -> list[str]:
        """Rules single and mulhi: H is 256 times the odd value; saturated to int16, its upper byte is the int8 one."""
        lines = ["vmov T3, OUT", "vmov T0, DISTANCE"]
        for pixel in range(pixels):
            low, high = f"L{pixel}", f"H{pixel}"
            if self.rounding == "double":
                lines += [f"ssat {low}, #8, {low}", f"ssat {high}, #8, {high}", f"bfi {low}, {high}, #8, #8"]
            else:
                lines += [f"ssat {low}, #8, {low}", f"ssat {high}, #16, {high}", f"bfi {high}, {low}, #0, #8"]
        return lines + self._bytes_out([f"{'L' if self.rounding == 'double' else 'H'}{i}" for i in range(pixels)])

    def _bytes_out(self, words: list[str]) -> list[str]:
        lines = [f"strh {words[0]}, [T3]"]
        for word in words[1:]:
            lines += ["add T3, T3, T0", f"strh {word}, [T3]"]
        return lines + (["add T3, T3, T0", "vmov OUT, T3"] if len(words) == 4 else [])
