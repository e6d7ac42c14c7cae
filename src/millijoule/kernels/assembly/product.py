"""mj_product_* as assembler text: blocks of two channels and four pixels.

Outer loop: pairs of channels, so that the weights in use stay few; then groups of pixels, then the words of a pixel.
The first word starts the accumulators from the biases, as the multiply's third operand. What has no register waits in
registers of the floating point unit. A call takes one of these ways for all its pairs:

straight  one of a few depths: no loop over words. On Cortex-M4 the weights wait in the floating point unit, too, which
          leaves registers for all four pixels (one run of loads per word), and there is no rest of one to three pixels.
whole     no rest: a loop over words, unrolled as far as the instruction cache allows.
two       a rest of one or two pixels, which has a block of its own; unrolled less, so that all stays in the cache.
three     the same with a rest of three pixels.
any       any rest and planes of any number of rows.
split     Cortex-M4, a rest of one or two pixels: straight or whole, then the rests of all pairs in a second pass.
careful   pairs for which the shortcut below is not proven, and what the other ways leave out.

Shortcut for the odd channel: accH - accL is 256 times its sum, so scaled as it is, with addend and shift for 256 times
the result, it saves a shift by eight: floor(floor(256 s m / 2^32) + 256 a) / 2^(shift + 8)) is the same number. Nothing
overflows while shift <= 15: the product is below 2^30, 256 |a| below 2^(shift + 15). Rule double rounds twice and has
no such shortcut; it doubles sums, so they must be below 2^30.
"""

from __future__ import annotations

import functools

from millijoule.kernels.assembly import product_sizes as sizes
from millijoule.kernels.assembly.product_block import Block
from millijoule.kernels.assembly.writer import Writer

__all__ = ["product_source"]

_FIELDS = {
    name: 4 * number
    for number, name in enumerate(
        ("x", "weights", "pairs", "out", "pixels", "depth", "count", "distance", "step", "low", "high")
    )
}
# words of the frame; the first five are loaded together
_FRAME_NAMES = (
    *("x", "weights", "pairs", "out", "depth"),
    *("count", "rest", "back", "all", "call", "later", "full", "behind"),
)
_FRAME = {name: 4 * number for number, name in enumerate(_FRAME_NAMES)}
_FRAME_BYTES = 60  # with what is pushed a multiple of eight
_LARGEST_SHIFT = 15  # of the shortcut
_LARGEST_SHIFT_OF_DOUBLE = 22  # for which half a unit and the zero point fit into one addend
_SLOTS = 3  # rows in a plane; with another number, "any" is taken


@functools.cache
def product_source(name: str, core: str, rounding: str) -> str | None:
    """The text of mj_product_planes, mj_product_pixels or their clamped forms; None for an unknown rounding rule."""
    if rounding not in ("single", "double", "mulhi"):
        return None
    _, _, form, *clamped = name.split("_")
    return _Product(name, core, rounding, form, bool(clamped)).text()


class _Product:
    def __init__(self, name: str, core: str, rounding: str, form: str, clamped: bool) -> None:
        self.core, self.rounding, self.form, self.clamped = core, rounding, form, clamped
        self.writer = Writer(name, {})
        self.block = Block(self.writer, core, rounding, form, clamped)
        self.block.name_registers(4)
        self._left: list[tuple[str, str]] = []
        self.ways = {way: self.writer.label(way) for way in ("whole", "two", "three", "any", "split", "careful", "end")}
        depths = sizes.straight_depths(core, form, clamped, rounding)
        self.straight = {depth: self.writer.label(f"straight{depth}") for depth in depths}

    def text(self) -> str:
        write = self.writer
        self._begin()
        for depth, label in self.straight.items():
            write.place(label)
            self._straight(depth)
        if self.core == "cortex-m4":
            for way, rests in (("whole", ()), ("two", (2,)), ("three", (3,))):
                write.place(self.ways[way])
                self._looped(way, rests=rests, constant=self.form == "planes")
        if self.core == "cortex-m7" or self.form == "planes":
            write.place(self.ways["any"])
            self._looped("any", rests=(2, 3), constant=False)
        self._careful()
        write.place(self.ways["end"])
        if self.core == "cortex-m4":
            self._later()
        write.emit(f"add sp, #{_FRAME_BYTES}")
        write.emit("vpop {d8, d9, d10, d11, d12, d13, d14, d15}")
        write.emit("pop {r4, r5, r6, r7, r8, r9, r10, r11, pc}")
        return write.text()

    def _begin(self) -> None:
        """Saves registers, fills the frame and what waits for the whole call, chooses the way."""
        write = self.writer
        write.emit("push {r4, r5, r6, r7, r8, r9, r10, r11, lr}")
        write.emit("vpush {d8, d9, d10, d11, d12, d13, d14, d15}")
        write.emit(f"sub sp, #{_FRAME_BYTES}")
        for name in ("weights", "pairs", "out", "count"):
            write.emit(f"ldr r1, [r0, #{_FIELDS[name]}]")
            write.emit(f"str r1, [sp, #{_FRAME[name]}]")
        for register, name in {"STEP": "step", "DISTANCE": "distance", "LOW": "low", "HIGH": "high"}.items():
            write.emit(f"ldr r1, [r0, #{_FIELDS[name]}]")
            write.emit(f"vmov {self.block.waiting[register]}, r1")
        # x points one word of a group before the next one to load
        write.block(f"""
            ldr r1, [r0, #{_FIELDS["x"]}]
            sub r1, r1, #16
            str r1, [sp, #{_FRAME["x"]}]
            ldr r2, [r0, #{_FIELDS["pixels"]}]
            ldr r3, [r0, #{_FIELDS["depth"]}]
            lsr r4, r2, #2
            mul r4, r4, r3
            add r4, r1, r4, lsl #4
            vmov {self.block.waiting["X_END"]}, r4
            add r5, r2, #3
            lsr r5, r5, #2
            mul r5, r5, r3
            add r5, r1, r5, lsl #4
            str r5, [sp, #{_FRAME["all"]}]
            str r0, [sp, #{_FRAME["call"]}]
            str r4, [sp, #{_FRAME["full"]}]
            mov r5, #0
            str r5, [sp, #{_FRAME["later"]}]
            and r2, r2, #3
            str r2, [sp, #{_FRAME["rest"]}]
            lsl r4, r3, #2
            str r4, [sp, #{_FRAME["depth"]}]
            ldr r7, [r0, #{_FIELDS["step"]}]""")
        if self.core == "cortex-m7":  # the loops load ahead of the second word
            write.emit("cmp r3, #1")
            write.emit(f"beq {self.ways['careful']}")
        if self.form == "planes":
            write.emit(f"cmp r7, #{4 * _SLOTS}")
            write.emit(f"bne {self.ways['any']}")
        if self.core == "cortex-m4":
            write.block(f"""
                cmp r2, #3
                beq {self.ways["three"]}
                cmp r2, #0
                bne {self.ways["split"]}""")
        else:
            self.block.name_registers(4)
            self._choose_rest((2, 3), sizes.UNROLL_M7[1])
        for depth, label in self.straight.items():
            write.emit(f"cmp r3, #{depth}")
            write.emit(f"beq {label}")
        write.emit(f"b {self.ways['whole' if self.core == 'cortex-m4' else 'any']}")
        if self.core == "cortex-m4":
            self._split()
        else:
            self._rest_of_straight()

    def _split(self) -> None:
        """Whole groups first and the rest of one or two pixels later, where this pays, or both together; r3: depth."""
        write = self.writer
        write.place(self.ways["split"])
        write.block(f"""
            ldr r6, [r0, #{_FIELDS["pixels"]}]
            lsrs r6, r6, #2
            beq {self.ways["two"]}
            ldr r4, [r0, #{_FIELDS["weights"]}]
            cmp r4, #{sizes.RAM:#x}
            blo {self.ways["two"]}
            mov r5, #1
            str r5, [sp, #{_FRAME["later"]}]""")
        if sizes.DEPTH_OF_SPLIT in self.straight:
            write.emit(f"cmp r3, #{sizes.DEPTH_OF_SPLIT}")
            write.emit(f"beq {self.straight[sizes.DEPTH_OF_SPLIT]}")
        write.block(f"""
            mul r6, r6, r3
            cmp r6, #{sizes.WORDS_OF_SPLIT}
            bhs {self.ways["whole"]}
            mov r5, #0
            str r5, [sp, #{_FRAME["later"]}]
            b {self.ways["two"]}""")

    def _later(self) -> None:
        """Behind the last pair: the rest of the row, if it was left for later."""
        write, block = self.writer, self.block
        done, pair, again = write.label("done"), write.label("pair"), write.label("again")
        write.block(f"""
            ldr r2, [sp, #{_FRAME["later"]}]
            cmp r2, #0
            beq {done}
            mov r2, #0
            str r2, [sp, #{_FRAME["later"]}]
            ldr r0, [sp, #{_FRAME["call"]}]
            ldr r1, [sp, #{_FRAME["full"]}]
            str r1, [sp, #{_FRAME["x"]}]
            ldr r3, [r0, #{_FIELDS["depth"]}]
            ldr r4, [r0, #{_FIELDS["pixels"]}]
            lsr r4, r4, #2
            ldr r5, [r0, #{_FIELDS["step" if self.form == "planes" else "distance"]}]
            mul r4, r4, r5
            ldr r6, [r0, #{_FIELDS["out"]}]
            add r6, r6, r4, lsl #{1 if self.form == "planes" else 2}
            str r6, [sp, #{_FRAME["out"]}]""")
        for name in ("weights", "pairs", "count"):
            write.emit(f"ldr r1, [r0, #{_FIELDS[name]}]")
            write.emit(f"str r1, [sp, #{_FRAME[name]}]")
        block.name_registers(2)
        block.choose_entry(2, sizes.UNROLL_LATER, "REST_ENTRY")
        write.place(pair)
        self._begin_pair(here=again, odd_out=self.form == "planes")
        block.looped(2, sizes.UNROLL_LATER, "REST_ENTRY", constant=self.form == "planes")
        write.place(again)
        write.block(f"""
            ldr r2, [sp, #{_FRAME["count"]}]
            subs r2, r2, #1
            str r2, [sp, #{_FRAME["count"]}]
            bne {pair}
            b {done}""")
        self._leave_pairs()
        block.tables()
        write.place(done)

    def _begin_pair(
        self, *, shortcut: bool = True, here: str = "", odd_out: bool = False, then: tuple[str, ...] = ()
    ) -> None:
        """Constants of the next pair of channels; where its results go. Leaves x and weights in r0 and r1.

        Args:
            shortcut: whether the constants are prepared for the shortcut.
            here: where a pair comes back to that must go the careful way.
            odd_out: whether the odd channel has a pointer of its own.
            then: code behind it.
        """
        write = self.writer
        write.block("""
            ldm sp, {r0, r1, r2, r3, r4}
            vldmia r2!, {s0, s1, s2, s3, s4, s5, s6, s7}""")
        lines = ["vmov r5, DISTANCE"] if self.form == "planes" else []
        lines += [
            "add r6, r1, r4",
            "add r7, r3, r5, lsl #1" if self.form == "planes" else "add r7, r3, #2",
            f"str r6, [sp, #{_FRAME['weights']}]",
            f"str r2, [sp, #{_FRAME['pairs']}]",
            f"str r7, [sp, #{_FRAME['out']}]",
            "vmov WEIGHTS, r1",
            "vmov WEIGHTS_END, r6",
            "vmov OUT, r3",
        ]
        lines += ["add r3, r3, r5", "vmov OUT_ODD, r3"] if odd_out else []
        if shortcut:
            lines += self._prepared_double(here) if self.rounding == "double" else self._prepared(here)
        self.block.put([*lines, *then])

    def _prepared(self, here: str) -> list[str]:
        """Constants of the odd channel for 256 times its sum."""
        addend, shift = (
            ("r2", "r7") if self.core == "cortex-m4" else ("r8", "r9")
        )  # short code, or free of what is before
        lines = [f"vmov {addend}, ADDEND_ODD", f"lsl {addend}, {addend}, #8"]
        if self.rounding == "single":
            lines += [f"vmov {shift}, SHIFT_ODD", f"cmp {shift}, #{_LARGEST_SHIFT}", f"bhi {self._leave(here)}"]
            if self.form == "planes" or self.clamped:
                lines += [f"add {shift}, {shift}, #8", f"vmov SHIFT_ODD, {shift}"]
        else:
            lines.append(f"add {addend}, {addend}, #128")
        return [*lines, f"vmov ADDEND_ODD, {addend}"]

    def _prepared_double(self, here: str) -> list[str]:
        """Half a unit and the zero point in one addend, for shifts from 1 to 22."""
        careful, lines = self._leave(here), []
        for side in ("EVEN", "ODD"):
            lines += [f"vmov r7, SHIFT_{side}", "sub r6, r7, #1"]
            lines += [f"cmp r6, #{_LARGEST_SHIFT_OF_DOUBLE - 1}", f"bhi {careful}"]
        for side in ("EVEN", "ODD"):
            lines += [
                f"vmov r7, SHIFT_{side}", f"vmov r2, ADDEND_{side}", "sub r6, r7, #1", "mov r4, #1",
                "lsl r2, r2, r7", "lsl r4, r4, r6", "add r2, r2, r4", f"vmov ADDEND_{side}, r2",
            ]  # fmt: skip
        return lines

    def _leave(self, here: str) -> str:
        """Where to jump with a pair that must go the careful way and come back."""
        self._left.append((self.writer.label("leave"), here))
        return self._left[-1][0]

    def _end_pair(self, again: str) -> None:
        write = self.writer
        write.block(f"""
            ldr r2, [sp, #{_FRAME["count"]}]
            subs r2, r2, #1
            str r2, [sp, #{_FRAME["count"]}]
            bne {again}
            b {self.ways["end"]}""")
        self._leave_pairs()

    def _leave_pairs(self) -> None:
        write = self.writer
        for label, here in self._left:
            write.place(label)
            write.block(f"""
                adr.w r7, {here}
                orr r7, r7, #1
                str r7, [sp, #{_FRAME["back"]}]
                b {self.ways["careful"]}_one""")
        self._left.clear()

    def _straight(self, depth: int) -> None:
        write, block = self.writer, self.block
        pair, again, group, second = (write.label(name) for name in ("pair", "again", "group", "second"))
        apart = self.core == "cortex-m4" and depth == sizes.DEPTH_APART
        twice = apart and not self.clamped and self.rounding != "double"  # these need more code behind each group
        block.name_registers(4)
        if self.core == "cortex-m4":  # here x points to the next word to load
            write.block("""
                vmov r2, X_END
                add r2, r2, #16
                vmov X_END, r2""")
        if twice:
            # an odd number of groups begins with the second one of the loop
            entry = write.label("entry")
            write.block(f"""
                ldr r1, [sp, #{_FRAME["x"]}]
                sub r2, r2, #16
                sub r2, r2, r1
                adr.w r4, {group}
                tst r2, #{16 * depth}
                beq {entry}
                adr.w r4, {second}""")
            write.place(entry)
            write.emit("orr r4, r4, #1")
            write.emit("vmov ENTRY, r4")
        write.place(pair)
        rest = write.label("rest")
        rest_only = ("vmov r5, X_END", "cmp r0, r5", f"beq {rest}")
        self._begin_pair(here=again, odd_out=self.form == "planes", then=rest_only if self.core == "cortex-m7" else ())
        block.begin_straight(depth, apart=apart)
        if twice:
            write.emit("vmov r2, ENTRY")
            write.emit("bx r2")
        write.align(2)
        write.place(group)
        if twice:
            block.straight(depth, "", apart=True)
            write.place(second)
        block.straight(depth, group, apart=apart)
        write.place(rest)
        if self.core == "cortex-m7":
            write.block(f"""
                ldr r2, [sp, #{_FRAME["rest"]}]
                cmp r2, #0
                beq {again}
                adr.w r3, {again}
                orr r3, r3, #1
                str r3, [sp, #{_FRAME["behind"]}]
                b {self.ways["end"]}_rest""")
        write.place(again)
        self._end_pair(pair)

    def _rest_of_straight(self) -> None:
        """Cortex-M7: one to three pixels behind the groups of a straight way."""
        write, block = self.writer, self.block
        three = write.label("three")
        write.place(f"{self.ways['end']}_rest")
        write.emit("cmp r2, #3")
        write.emit(f"beq {three}")
        for pixels in (2, 3):
            if pixels == 3:
                write.place(three)
            block.name_registers(pixels)
            block.looped(pixels, sizes.UNROLL_M7[1], "REST_ENTRY", constant=self.form == "planes")
            write.emit(f"ldr r2, [sp, #{_FRAME['behind']}]")
            write.emit("bx r2")
        block.tables()

    def _choose_rest(self, rests: tuple[int, ...], unroll: int) -> None:
        """Where the loop over words of the rest is entered; r2: its pixels, r3: depth."""
        write, chosen = self.writer, self.writer.label("chosen")
        for pixels in rests:
            other = write.label("other")
            if pixels != rests[-1]:
                write.emit(f"cmp r2, #{pixels}")
                write.emit(f"bhi {other}")
            self.block.choose_entry(pixels, unroll, "REST_ENTRY")
            write.emit(f"b {chosen}")
            write.place(other)
        write.place(chosen)

    def _looped(self, way: str, *, rests: tuple[int, ...], constant: bool) -> None:
        """Groups in a loop over words, then the rest of the row.

        Args:
            way: gives the unrolling, and whether a rest of three pixels shares the code behind the words of a group.
            rests: the numbers of pixels that a rest is taken as.
            constant: whether planes have the usual number of rows.
        """
        write, block = self.writer, self.block
        unroll, unroll_rest, shares = sizes.unrolled(self.core, self.form, self.clamped, self.rounding, way)
        pair, again, group, rest = (write.label(name) for name in ("pair", "again", "group", "rest"))
        block.name_registers(4)
        block.choose_entry(4, unroll, "ENTRY")
        self._choose_rest(rests, unroll_rest)
        write.place(pair)
        rest_only = ("vmov r5, X_END", "cmp r0, r5", f"beq {rest}")
        self._begin_pair(here=again, odd_out=constant, then=rest_only if rests else ())
        write.align(2)
        write.place(group)
        block.looped(4, unroll, "ENTRY", group=group, constant=constant, behind=again if shares else "")
        write.place(rest)
        if rests and not shares:
            write.emit(f"ldr r2, [sp, #{_FRAME['rest']}]")
        if rests and not shares and way == "any":
            write.emit("cmp r2, #0")
            write.emit(f"beq {again}")
        for pixels in rests:
            other = write.label("other")
            if pixels != rests[-1]:
                write.emit(f"cmp r2, #{pixels}")
                write.emit(f"bhi {other}")
            block.name_registers(pixels)
            block.looped(pixels, unroll_rest, "REST_ENTRY", constant=constant, shared=shares)
            if pixels != rests[-1]:
                write.emit(f"b {again}")
            write.place(other)
        write.place(again)
        self._end_pair(pair)
        block.tables()

    def _careful(self) -> None:
        """Whole groups only, and no shortcut; `_one`: a single pair for another way."""
        write, block = self.writer, self.block
        label, pair, group = self.ways["careful"], write.label("pair"), write.label("group")
        write.place(label)
        write.emit(f"adr.w r7, {pair}_end")
        write.emit("orr r7, r7, #1")
        write.emit(f"str r7, [sp, #{_FRAME['back']}]")
        write.place(pair)
        self._begin_pair(shortcut=False)
        write.place(f"{label}_one")
        block.name_registers(4)
        write.place(group)
        block.careful()
        write.block(f"""
            ldr r2, [sp, #{_FRAME["all"]}]
            cmp r0, r2
            bne {group}
            ldr r2, [sp, #{_FRAME["back"]}]
            bx r2""")
        write.align(2)
        write.place(f"{pair}_end")
        self._end_pair(pair)
