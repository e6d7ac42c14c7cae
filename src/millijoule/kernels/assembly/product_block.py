"""Blocks of a product: the words of two to four pixels times two channels, and what becomes of their sums."""

from __future__ import annotations

from typing import Protocol

from millijoule.kernels.assembly.product_results import Results
from millijoule.kernels.assembly.schedule import scheduled
from millijoule.kernels.assembly.writer import Writer

__all__ = ["Block"]

# Pointers and data in the lower registers: their loads are 16 bits long. T0 to T4 are free once the sums are complete.
_LOOPED = {
    "x": "r0", "w": "r1", "X0": "r2", "X1": "r3", "W": "r4", "L": "r5",
    "H3": "r6", "L3": "r7", "H0": "r8", "H1": "r9", "H2": "r10", "L0": "r11", "L1": "r12", "L2": "lr",
    "T0": "r4", "T1": "r5", "T2": "r2", "T3": "r3", "T4": "r1",
}  # fmt: skip
# Weights wait in the floating point unit: W becomes its own low bytes, all four pixels are loaded at once.
_STRAIGHT = {
    "x": "r0", "X0": "r1", "X1": "r2", "X2": "r3", "X3": "r4", "W": "r5",
    "H3": "r6", "L3": "r7", "H0": "r8", "H1": "r9", "H2": "r10", "L0": "r11", "L1": "r12", "L2": "lr",
    "T0": "r5", "T1": "r1", "T2": "r2", "T3": "r3", "T4": "r4",
}  # fmt: skip
_WAITING = {
    "START_LOW": "s0", "START_HIGH": "s1",
    "MULTIPLIER_EVEN": "s2", "ADDEND_EVEN": "s3", "SHIFT_EVEN": "s4",
    "MULTIPLIER_ODD": "s5", "ADDEND_ODD": "s6", "SHIFT_ODD": "s7",
    "WEIGHTS": "s8", "WEIGHTS_END": "s9", "X_END": "s10", "OUT": "s11", "STEP": "s12",
    "DISTANCE": "s13", "ENTRY": "s14", "REST_ENTRY": "s15", "LOW": "s16", "HIGH": "s17",
    "OUT_ODD": "s18",
}  # fmt: skip
_STRAIGHT_WEIGHTS = (*(f"s{number}" for number in range(19, 32)), "s14", "s15", "s8")
_STRAIGHT_RUNS = (slice(0, 13), slice(13, 15), slice(15, 16))  # with ascending numbers


class Lines(Protocol):
    """What becomes of the sums of a block; see `Results.lines`."""

    def lines(self, pixels: int, *, shortcut: bool, constant: bool = False, apart: bool = False) -> list[str]:
        """From sums to results."""
        ...


class Block:
    """Writes the parts of a product kernel that depend on the block of pixels.

    Args:
        writer: where the text goes.
        core: "cortex-m4" or "cortex-m7".
        rounding: "single", "double" or "mulhi".
        form: "planes" or "pixels".
        clamped: whether results have bounds narrower than int8.
    """

    waiting = _WAITING

    def __init__(self, writer: Writer, core: str, rounding: str, form: str, clamped: bool) -> None:
        self.writer, self.core = writer, core
        self._results: Lines = Results(rounding, form, clamped)
        self._tables: list[tuple[str, list[str]]] = []
        self._entries: dict[int, list[str]] = {}

    def use(self, results: Lines) -> None:
        """Other code behind the words of a block."""
        self._results = results

    def name_registers(self, pixels: int) -> None:
        """Registers of a block with a loop over words."""
        self.writer.name(**_LOOPED, **_WAITING)
        if pixels == 3:
            self.writer.name(X2=_LOOPED["H3"])

    def tables(self) -> None:
        """Where the loops are entered, relative to the table."""
        for label, targets in self._tables:
            self.writer.align(1)
            self.writer.place(label)
            for target in targets:
                self.writer.emit(f".short {target} - {label}")
        self._tables.clear()
        self.writer.align(2)

    def choose_entry(self, pixels: int, unroll: int, register: str) -> None:
        """Where the loop over words is entered behind the first one; r3: depth, r2 stays."""
        write = self.writer
        table, skip = write.label("entries"), write.label("chosen")
        self._entries[pixels] = [write.label(f"word{number}") for number in range(unroll + 1)]
        self._tables.append((table, self._entries[pixels]))
        write.block(f"""
            mov r5, #{unroll}
            subs r4, r3, #1
            beq {skip}
            udiv r6, r4, r5
            mls r5, r6, r5, r4""")
        write.place(skip)
        write.block(f"""
            adr.w r6, {table}
            ldrsh r5, [r6, r5, lsl #1]
            add r5, r5, r6
            orr r5, r5, #1
            vmov {register}, r5""")

    def looped(
        self,
        pixels: int,
        unroll: int,
        entry: str,
        *,
        group: str = "",
        constant: bool = False,
        behind: str = "",
        shared: bool = False,
    ) -> None:
        """All words of so many pixels and two channels, and their results.

        Args:
            pixels: 4, 3 or 2.
            unroll: words in a round of the loop.
            entry: name of the register that says where the loop is entered.
            group: where the next group begins, "" for a rest.
            constant: whether planes have three rows.
            behind: where to go after a rest that shares the code for results, "" when none does.
            shared: this is such a rest.
        """
        write = self.writer
        words = self._entries[pixels]
        top = write.label("top")
        last = pixels - 1
        ahead = self.core == "cortex-m7"
        start = ["vmov w, WEIGHTS", f"vmov H{last}, START_HIGH", f"vmov L{last}, START_LOW"]
        start += self._word(pixels, f"H{last}", f"L{last}")
        start += [*self._ahead(pixels), f"vmov L, {entry}", "bx L"] if ahead else [f"vmov W, {entry}", "bx W"]
        self.put(start)
        write.align(2)
        write.place(top)
        if ahead:
            self.put(self._ahead(pixels), as_is=True)
        for number in range(unroll):
            write.place(words[0 if number == 0 else unroll - number])
            if ahead:
                self.put(self._word_ahead(pixels, top if number == unroll - 1 else ""), as_is=True)
            else:
                self.put(self._word(pixels))
        if not ahead:
            self.put(["vmov W, WEIGHTS_END", "cmp w, W", f"bne {top}"])
        write.place(words[unroll])
        if shared:
            write.emit(f"b {self._entries[4][-1]}")
            return
        self.put(self._results.lines(pixels, shortcut=True, constant=constant) + self._next_group(group))
        if behind:
            write.emit(f"bhi {behind}")

    def _next_group(self, group: str) -> list[str]:
        return ["vmov W, X_END", "cmp x, W", f"blo {group}"] if group else []

    def careful(self) -> None:
        """As `looped` for four pixels, small and without the shortcut."""
        write = self.writer
        more, done = write.label("more"), write.label("done")
        self.put(["vmov w, WEIGHTS", "vmov H3, START_HIGH", "vmov L3, START_LOW"])
        self.put(self._word(4, "H3", "L3"))
        write.place(more)
        self.put(["vmov W, WEIGHTS_END", "cmp w, W", f"beq {done}"])
        self.put(self._word(4))
        write.emit(f"b {more}")
        write.place(done)
        self.put(self._results.lines(4, shortcut=False))

    def begin_straight(self, depth: int, *, apart: bool = False) -> None:
        """Behind the constants of a pair; r0: x, r1: its weights. `apart`: for four words whose channels come apart."""
        write = self.writer
        write.name(**(_LOOPED if self.core == "cortex-m7" else _STRAIGHT), **_WAITING)
        if apart:
            self._begin_apart()
        elif self.core == "cortex-m4":
            for run in _STRAIGHT_RUNS:
                if group := _STRAIGHT_WEIGHTS[:depth][run]:
                    write.emit(f"vldmia r1!, {{{', '.join(group)}}}")
        if self.core == "cortex-m4":
            write.emit("add r0, r0, #16")

    def _begin_apart(self) -> None:
        """Weights of the even channel and 256 times those of the odd one; biases likewise."""
        write = self.writer
        write.emit("ldm r1, {r2, r3, r4, r5}")
        for number, word in enumerate(("r2", "r3", "r4", "r5")):
            even, odd = _STRAIGHT_WEIGHTS[2 * number : 2 * number + 2]
            write.block(f"""
                sxtb16 r6, {word}
                ssub16 r7, {word}, r6
                vmov {even}, r6
                vmov {odd}, r7""")
        write.block("""
            vmov r6, START_LOW
            vmov r7, START_HIGH
            sub r7, r7, r6
            vmov START_HIGH, r7""")

    def straight(self, depth: int, group: str, *, apart: bool = False) -> None:
        """A group of four pixels, without a loop over its words; `group`: where the next one is, "" right behind."""
        lines = ["vmov H3, START_HIGH", "vmov L3, START_LOW"]
        for number in range(depth):
            starts = ("H3", "L3") if number == 0 else ("", "")
            if self.core == "cortex-m7":
                lines += [f"ldr W, [w, #{4 * number}]", "sxtb16 L, W"]
                for pixel in range(4):
                    lines.append(f"ldr X{pixel % 2}, [x, #{16 * (number + 1) + 4 * pixel}]")
                    lines += self._multiplied(pixel, f"X{pixel % 2}", "L", *starts)
                continue
            products = [self._multiplied(pixel, f"X{pixel}", "W", *starts) for pixel in range(4)]
            first = _STRAIGHT_WEIGHTS[2 * number + 1 if apart else number]
            lines += [f"vmov W, {first}", "ldmia x!, {X0, X1, X2, X3}"]
            lines += [product[0] for product in products]
            lines.append(f"vmov W, {_STRAIGHT_WEIGHTS[2 * number]}" if apart else "sxtb16 W, W")
            lines += [product[1] for product in products]
        if self.core == "cortex-m7":
            lines = ["vmov w, WEIGHTS", *lines, f"add x, x, #{16 * depth}"]
        results = self._results.lines(4, shortcut=True, constant=True, apart=apart)
        self.put(lines + results + self._next_group(group))

    def _multiplied(self, pixel: int, data: str, low: str, start_high: str = "", start_low: str = "") -> list[str]:
        """One word of a pixel times the two weights of both channels; `low`: the register of the low bytes."""
        high_sum, low_sum = f"H{pixel}", f"L{pixel}"
        return [
            f"smlad {high_sum}, {data}, W, {start_high or high_sum}",
            f"smlad {low_sum}, {data}, {low}, {start_low or low_sum}",
        ]

    def put(self, lines: list[str], *, as_is: bool = False) -> None:
        """Writes code; for Cortex-M7, whose order decides, in pairs up to each branch, unless it is good as it is."""
        if self.core == "cortex-m4" or as_is:
            for line in lines:
                self.writer.emit(line)
            return
        part: list[str] = []
        for line in lines:
            part.append(self.writer.resolved(line))
            if line.startswith("b") and not line.startswith("bfi"):
                self._put_in_pairs(part)
                part = []
        self._put_in_pairs(part)

    def _put_in_pairs(self, lines: list[str]) -> None:
        for line in scheduled(lines):
            self.writer.emit(line)

    def _ahead(self, pixels: int) -> list[str]:
        """Cortex-M7: what a word's code finds loaded."""
        loads = ["ldr W, [w], #4", "ldr X0, [x, #16]!", "ldr X1, [x, #4]"]
        return loads + (["ldr X2, [x, #8]"] if pixels == 3 else [])

    def _word_ahead(self, pixels: int, top: str) -> list[str]:
        """Cortex-M7: one word, its multiplications beside the loads of the next one, a cycle each.

        With `top`, the last word of a round: nothing is loaded ahead, the loop goes on or ends.
        """
        if top:
            # the first X is free where the loads of the next word would begin
            beside = {"L2" if pixels == 4 else "L0": "vmov X0, WEIGHTS_END"}
            beside |= {f"H{pixels - 1}": "cmp w, X0", f"L{pixels - 1}": f"bne {top}"}
        else:
            first, second = ("L2", f"L{pixels - 1}") if pixels == 4 else ("L0", "L1")
            beside = {first: "ldr X0, [x, #16]!", second: "ldr X1, [x, #4]", f"H{pixels - 1}": "ldr W, [w], #4"}
            if pixels == 3:
                beside["L2"] = "ldr X2, [x, #8]"
        if pixels == 4:
            beside |= {"L0": "ldr X0, [x, #8]", "L1": "ldr X1, [x, #12]"}
        lines = ["sxtb16 L, W"]
        for pixel in range(pixels):
            products = self._multiplied(pixel, f"X{pixel % 2 if pixels == 4 else pixel}", "L")
            for name, product in zip((f"H{pixel}", f"L{pixel}"), products, strict=True):
                lines += [product, beside[name]] if name in beside else [product]
        return lines

    def _word(self, pixels: int, start_high: str = "", start_low: str = "") -> list[str]:
        """One word of every pixel, multiplied with that of the weights; loads in runs."""
        lines = ["ldr W, [w], #4", "ldr X0, [x, #16]!", "ldr X1, [x, #4]"]
        if pixels == 3:
            lines.append("ldr X2, [x, #8]")
        lines.append("sxtb16 L, W")
        for pixel in range(pixels):
            if pixel == 2 and pixels == 4:
                lines += ["ldr X0, [x, #8]", "ldr X1, [x, #12]"]
            lines += self._multiplied(pixel, f"X{pixel % 2 if pixels == 4 else pixel}", "L", start_high, start_low)
        return lines
