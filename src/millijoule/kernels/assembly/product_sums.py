"""mj_product_range, mj_product_floats, mj_product_planes_relu as assembler text: blocks of two channels, four pixels.

The loops over words are those of `product_block`. A rest of one to three pixels is computed as a whole group: for the
range, the group is filled up with the last pixel first; of floats, only as many are stored as there are pixels.
Converting the odd channel's sum to float divides it by 256, which is exact. Multiplication and addition are not fused.
"""

from __future__ import annotations

import functools

from millijoule.kernels.assembly.product_block import Block
from millijoule.kernels.assembly.writer import Writer

__all__ = ["sums_source"]

_X, _WEIGHTS, _PAIRS, _OUT, _PIXELS, _DEPTH, _COUNT, _DISTANCE, _STEP = range(0, 36, 4)
# words of the frame; the first five are loaded together
_FRAME = {name: 4 * number for number, name in enumerate(("x", "weights", "pairs", "out", "depth", "count"))}
_FRAME_BYTES = 24
# words in a round of the loop: what stays in the instruction cache of the STM32L4+, measured
_UNROLL = {
    "cortex-m4": {"range": 7, "floats": 9, "planes": 7},
    "cortex-m7": {"range": 24, "floats": 24, "planes": 24},
}
_LIMITS = {"LOWEST_EVEN": "s2", "HIGHEST_EVEN": "s3", "LOWEST_ODD": "s4", "HIGHEST_ODD": "s5"}
_FLOATS = {"SCALE_EVEN": "s2", "BIAS_EVEN": "s3", "SCALE_ODD": "s4", "BIAS_ODD": "s5", "INVERSE": "s24", "HALF": "s25"}


@functools.cache
def sums_source(name: str, core: str, rounding: str) -> str | None:
    """The text of one of the three; no rounding rule takes part in them."""
    return _Sums(name, core).text()


class _Results:
    """What becomes of the sums of a group."""

    def __init__(self, writer: Writer, core: str, form: str) -> None:
        self.writer, self.core, self.form = writer, core, form
        self.group = ""

    def lines(self, pixels: int, *, shortcut: bool, constant: bool = False, apart: bool = False) -> list[str]:
        """From sums to limits or stored floats, of a whole group."""
        lines = [f"sub H{pixel}, H{pixel}, L{pixel}" for pixel in range(4)]
        if self.form == "floats":
            return lines + self._reals() + self._floats()
        if self.form == "planes":
            return lines + self._reals() + self._planes()
        lines += [f"asr H{pixel}, H{pixel}, #8" for pixel in range(4)]
        return lines + (self._limits() if self.core == "cortex-m4" else self._limits_in_pairs())

    def _limits(self) -> list[str]:
        lines = []
        for side, name in (("L", "EVEN"), ("H", "ODD")):
            lines += [f"vmov T0, LOWEST_{name}", f"vmov T1, HIGHEST_{name}"]
            for pixel in range(4):
                item = f"{side}{pixel}"
                lines += [f"cmp {item}, T0", "it lt", f"movlt T0, {item}"]
                lines += [f"cmp {item}, T1", "it gt", f"movgt T1, {item}"]
            lines += [f"vmov LOWEST_{name}, T0", f"vmov HIGHEST_{name}, T1"]
        return lines

    def _limits_in_pairs(self) -> list[str]:
        """Without flags, so that four chains run side by side: max(a, b) = a + max(b - a, 0)."""
        lines = []
        # differences go where a sum is not needed any more, or to T2 and T3
        for side, name, limits, spare in (("L", "EVEN", ("T0", "T1"), ("T2", "T3")), ("H", "ODD", ("T4", "L3"), None)):
            low, high = limits
            lines += [f"vmov {low}, LOWEST_{name}", f"vmov {high}, HIGHEST_{name}"]
            first, second = spare or ("L0", "L1")
            for pixel in range(4):
                item = f"{side}{pixel}"
                lines += [
                    f"sub {first}, {low}, {item}", f"sub {second}, {item}, {high}",
                    f"bic {first}, {first}, {first}, asr #31", f"bic {second}, {second}, {second}, asr #31",
                    f"sub {low}, {low}, {first}", f"add {high}, {high}, {second}",
                ]  # fmt: skip
            lines += [f"vmov LOWEST_{name}, {low}", f"vmov HIGHEST_{name}, {high}"]
        return lines

    def _reals(self) -> list[str]:
        """The sums as what they mean, channels of a pixel in s16, s17 and so on."""
        evens, odds = [f"s{16 + 2 * pixel}" for pixel in range(4)], [f"s{17 + 2 * pixel}" for pixel in range(4)]
        lines = []
        for pixel in range(4):
            lines += [f"vmov {evens[pixel]}, L{pixel}", f"vmov {odds[pixel]}, H{pixel}"]
        lines += [f"vcvt.f32.s32 {item}, {item}" for item in evens]
        lines += [f"vcvt.f32.s32 {item}, {item}, #8" for item in odds]
        for operation, name in (("vmul", "SCALE"), ("vadd", "BIAS")):
            lines += [f"{operation}.f32 {item}, {item}, {name}_EVEN" for item in evens]
            lines += [f"{operation}.f32 {item}, {item}, {name}_ODD" for item in odds]
        return lines

    def _planes(self) -> list[str]:
        """Quantised with zero point -128: negative ones become no less than that."""
        values = [f"s{number}" for number in range(16, 24)]
        lines = [f"vmul.f32 {item}, {item}, INVERSE" for item in values]
        lines += [f"vadd.f32 {item}, {item}, HALF" for item in values]
        lines += [f"vcvt.s32.f32 {item}, {item}" for item in values]
        lines += [f"vmov L{pixel}, H{pixel}, s{16 + 2 * pixel}, s{17 + 2 * pixel}" for pixel in range(4)]
        words = ("L0", "L2", "H0", "H2")
        lines += [f"pkhbt {word}, {word}, {word[0]}{int(word[1]) + 1}, lsl #16" for word in words]
        lines += ["mov T2, #0x800080", *(f"ssub16 {word}, {word}, T2" for word in words)]
        lines += [f"ssat16 {word}, #8, {word}" for word in words]
        lines += ["vmov T3, OUT", "vmov T0, DISTANCE", "vmov T4, STEP", "add T0, T0, T3"]
        lines += ["str L0, [T3]", "str L2, [T3, T4]", "str H0, [T0]", "str H2, [T0, T4]"]
        return [*lines, "add T3, T3, T4, lsl #1", "vmov OUT, T3"]

    def _floats(self) -> list[str]:
        lines = ["vmov T3, OUT", "vmov T0, DISTANCE"]
        last, done = self.writer.label("last"), self.writer.label("stored")
        lines += ["vmov T1, X_END", "cmp x, T1", f"bhs {last}"]
        for pixel in range(4):
            lines += [f"vstr d{8 + pixel}, [T3]", "add T3, T3, T0"]
        lines += ["vmov OUT, T3", f"b {self.group}", f"{last}:", "vmov T1, REST"]
        for pixel in range(4):
            lines += [f"vstr d{8 + pixel}, [T3]"]
            lines += [f"cmp T1, #{pixel + 1}", f"beq {done}", "add T3, T3, T0"] if pixel < 3 else []
        return [*lines, f"{done}:"]


class _Block(Block):
    def put(self, lines: list[str], *, as_is: bool = False) -> None:
        """As it is, too, where there are floats: the scheduler does not know their latencies."""
        super().put(lines, as_is=as_is or any(line.startswith(("vcvt", "it ")) for line in lines))


class _Sums:
    def __init__(self, name: str, core: str) -> None:
        self.core = core
        self.form = name.split("_")[2]
        self.writer = Writer(name, {})
        self.block = _Block(self.writer, core, "single", "pixels", False)
        self.results = _Results(self.writer, core, self.form)
        self.block.use(self.results)
        self.block.name_registers(4)
        self.writer.name(REST="s15", **(_LIMITS if self.form == "range" else _FLOATS))

    def text(self) -> str:
        write, waiting = self.writer, self.block.waiting
        careful, pair, group, end = (write.label(name) for name in ("careful", "pair", "group", "end"))
        write.emit("push {r4, r5, r6, r7, r8, r9, r10, r11, lr}")
        write.emit("vpush {d8, d9, d10, d11, d12}")
        write.emit(f"sub sp, #{_FRAME_BYTES}")
        for name, field in (("weights", _WEIGHTS), ("pairs", _PAIRS), ("out", _OUT), ("count", _COUNT)):
            write.emit(f"ldr r1, [r0, #{field}]")
            write.emit(f"str r1, [sp, #{_FRAME[name]}]")
        # x points one word of a group before the next one to load
        write.block(f"""
            ldr r1, [r0, #{_DISTANCE}]
            vmov {waiting["DISTANCE"]}, r1
            ldr r1, [r0, #{_X}]
            ldr r2, [r0, #{_PIXELS}]
            ldr r3, [r0, #{_DEPTH}]""")
        if self.form == "range":
            self._fill_up()
        if self.form == "planes":
            write.block(f"""
                ldr r4, [r0, #{_STEP}]
                vmov {waiting["STEP"]}, r4
                ldr r4, [r0, #{_PAIRS}]
                vldr s24, [r4, #-16]
                vmov.f32 s25, #0.5""")
        write.block(f"""
            sub r1, r1, #16
            str r1, [sp, #{_FRAME["x"]}]
            sub r4, r2, #1
            and r5, r4, #3
            add r5, r5, #1
            vmov s15, r5
            add r4, r4, #4
            lsr r4, r4, #2
            mul r4, r4, r3
            add r4, r1, r4, lsl #4
            vmov {waiting["X_END"]}, r4
            lsl r4, r3, #2
            str r4, [sp, #{_FRAME["depth"]}]""")
        if self.core == "cortex-m7":  # the loop loads ahead of the second word
            write.emit("cmp r3, #1")
            write.emit(f"beq {careful}")
        self.block.choose_entry(4, _UNROLL[self.core][self.form], "ENTRY")
        write.place(pair)
        self._begin_pair()
        write.align(2)
        write.place(group)
        self.results.group = group
        self.block.looped(4, _UNROLL[self.core][self.form], "ENTRY", group=group)
        self._end_pair(pair)
        write.emit(f"b {end}")
        self.block.tables()
        if self.core == "cortex-m7":
            write.place(careful)
            self._begin_pair()
            again = write.label("again")
            write.place(again)
            self.results.group = again
            self.block.careful()
            write.emit(f"vmov r2, {waiting['X_END']}")
            write.emit("cmp r0, r2")
            write.emit(f"blo {again}")
            self._end_pair(careful)
        write.place(end)
        write.emit(f"add sp, #{_FRAME_BYTES}")
        write.emit("vpop {d8, d9, d10, d11, d12}")
        write.emit("pop {r4, r5, r6, r7, r8, r9, r10, r11, pc}")
        return write.text()

    def _fill_up(self) -> None:
        """The pixels behind the last one in its group become that one; r1: x, r2: pixels, r3: depth."""
        write = self.writer
        more, word, done = write.label("fill"), write.label("word"), write.label("filled")
        write.block("""
            sub r4, r2, #1
            and r5, r4, #3
            lsr r4, r4, #2
            mul r4, r4, r3
            add r4, r1, r4, lsl #4""")
        write.place(more)
        write.block(f"""
            cmp r5, #3
            beq {done}
            add r6, r4, r5, lsl #2
            mov r7, r3""")
        write.place(word)
        write.block(f"""
            ldr r8, [r6]
            str r8, [r6, #4]
            add r6, r6, #16
            subs r7, r7, #1
            bne {word}
            add r5, r5, #1
            b {more}""")
        write.place(done)

    def _begin_pair(self) -> None:
        """Constants of the next pair of channels; leaves x and weights in r0, r1."""
        write, waiting = self.writer, self.block.waiting
        write.block("""
            ldm sp, {r0, r1, r2, r3, r4}
            vldmia r2, {s0, s1, s2, s3, s4, s5}
            add r2, r2, #32""")
        write.emit("add r6, r1, r4")
        if self.form == "planes":
            write.emit(f"vmov r5, {waiting['DISTANCE']}")
        write.emit("add r7, r3, r5, lsl #1" if self.form == "planes" else "add r7, r3, #8")
        write.emit(f"str r6, [sp, #{_FRAME['weights']}]")
        write.emit(f"str r2, [sp, #{_FRAME['pairs']}]")
        write.emit(f"str r7, [sp, #{_FRAME['out']}]")
        write.emit(f"vmov {waiting['WEIGHTS']}, r1")
        write.emit(f"vmov {waiting['WEIGHTS_END']}, r6")
        write.emit(f"vmov {waiting['OUT']}, r3")

    def _end_pair(self, again: str) -> None:
        write = self.writer
        if self.form == "range":
            write.emit(f"ldr r2, [sp, #{_FRAME['pairs']}]")
            write.emit("sub r2, r2, #24")
            write.emit("vstmia r2, {s2, s3, s4, s5}")
        write.block(f"""
            ldr r2, [sp, #{_FRAME["count"]}]
            subs r2, r2, #1
            str r2, [sp, #{_FRAME["count"]}]
            bne {again}""")
