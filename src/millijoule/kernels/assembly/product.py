"""mj_product_* as assembler text: a block of two channels and four pixels, unrolled over the words of a pixel.

Outer loop: pairs of channels, so that the weights in use stay few; then groups of pixels, then words. The first word of
a group starts the accumulators from the biases (as the multiply's third operand); a jump then enters the unrolled loop
where the remaining words fill whole rounds. What the loop has no register for waits in registers of the floating point
unit. The last one to three pixels of a row have a smaller block of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

from millijoule.kernels.assembly.writer import Writer

__all__ = ["product_source"]

# offsets in mj_product
_FIELDS = {
    name: 4 * number
    for number, name in enumerate(
        ("x", "weights", "pairs", "out", "pixels", "depth", "count", "distance", "step", "low", "high")
    )
}
# words of the frame
_FRAME = {name: 4 * number for number, name in enumerate(("x", "weights", "pairs", "out", "count", "rest", "depth"))}
_FRAME_BYTES = 32

# Pointers and data in the lower registers: their loads are 16 bits long.
_REGISTERS = {
    "x": "r0", "w": "r1", "X0": "r2", "X1": "r3", "W": "r4", "L": "r5",
    "H3": "r6", "L3": "r7", "H0": "r8", "H1": "r9", "H2": "r10", "L0": "r11", "L1": "r12", "L2": "lr",
}  # fmt: skip
_WAITING = {
    "START_LOW": "s0", "START_HIGH": "s1",
    "MULTIPLIER_EVEN": "s2", "ADDEND_EVEN": "s3", "SHIFT_EVEN": "s4",
    "MULTIPLIER_ODD": "s5", "ADDEND_ODD": "s6", "SHIFT_ODD": "s7",
    "WEIGHTS": "s8", "WEIGHTS_END": "s9", "X_END": "s10", "OUT": "s11", "STEP": "s12", "DISTANCE": "s13",
    "ENTRY": "s14", "REST_ENTRY": "s15", "LOW": "s16", "HIGH": "s17",
}  # fmt: skip


@dataclass(frozen=True)
class _Kind:
    """Which of the kernels is written."""

    core: str
    rounding: str
    form: str  # "planes" or "pixels"
    clamped: bool
    unroll: int = 8
    rest_unroll: int = 4


def product_source(name: str, core: str, rounding: str) -> str | None:
    """The text of mj_product_planes, mj_product_pixels or their clamped forms; None for rounding "double"."""
    if rounding not in ("single", "mulhi"):
        return None
    _, _, form, *clamped = name.split("_")
    return _Product(name, _Kind(core, rounding, form, bool(clamped))).text()


class _Product:
    def __init__(self, name: str, kind: _Kind) -> None:
        self.kind = kind
        self.writer = Writer(name, {**_REGISTERS, **_WAITING})
        self.tables: dict[int, tuple[str, list[str]]] = {}

    def text(self) -> str:
        write = self.writer
        pair, rest, end = write.label("pair"), write.label("rest"), write.label("end")
        self._begin()
        write.place(pair)
        self._begin_pair()
        write.block(f"""
            vmov X1, X_END
            cmp x, X1
            beq {rest}""")
        group = write.label("group")
        write.align(2)
        write.place(group)
        self._group(4, self.kind.unroll, "ENTRY")
        write.block(f"""
            vmov W, X_END
            cmp x, W
            bne {group}""")
        write.place(rest)
        three = write.label("three")
        write.block(f"""
            ldr X0, [sp, #{_FRAME["rest"]}]
            cmp X0, #0
            beq {end}
            cmp X0, #3
            beq {three}""")
        self._group(2, self.kind.rest_unroll, "REST_ENTRY")
        write.emit(f"b {end}")
        write.place(three)
        self._group(3, self.kind.rest_unroll, "REST_ENTRY")
        write.place(end)
        write.block(f"""
            ldr X0, [sp, #{_FRAME["count"]}]
            subs X0, #1
            str X0, [sp, #{_FRAME["count"]}]
            bne {pair}
            add sp, #{_FRAME_BYTES}""")
        if self.kind.clamped:
            write.emit("vpop {d8}")
        write.emit("pop {r4, r5, r6, r7, r8, r9, r10, r11, pc}")
        for label, rounds in self.tables.values():
            write.align(1)
            write.place(label)
            for target in rounds:
                write.emit(f".short {target} - {label}")
        return write.text()

    def _begin(self) -> None:
        """Saves registers, fills the frame and what waits for the whole call."""
        write, kind = self.writer, self.kind
        write.emit("push {r4, r5, r6, r7, r8, r9, r10, r11, lr}")
        if kind.clamped:
            write.emit("vpush {d8}")
        write.emit(f"sub sp, #{_FRAME_BYTES}")
        for name in ("weights", "pairs", "out", "count"):
            write.emit(f"ldr r1, [r0, #{_FIELDS[name]}]")
            write.emit(f"str r1, [sp, #{_FRAME[name]}]")
        waits = {"STEP": "step", "DISTANCE": "distance"}
        if kind.clamped:
            waits |= {"LOW": "low", "HIGH": "high"}
        for register, name in waits.items():
            write.emit(f"ldr r1, [r0, #{_FIELDS[name]}]")
            write.emit(f"vmov {register}, r1")
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
            vmov X_END, r4
            and r2, r2, #3
            str r2, [sp, #{_FRAME["rest"]}]
            lsl r4, r3, #2
            str r4, [sp, #{_FRAME["depth"]}]""")
        self._choose_entry(4, kind.unroll, "ENTRY")
        three, done = write.label("entry"), write.label("entry")
        write.emit("cmp r2, #3")
        write.emit(f"beq {three}")
        self._choose_entry(2, kind.rest_unroll, "REST_ENTRY")
        write.emit(f"b {done}")
        write.place(three)
        self._choose_entry(3, kind.rest_unroll, "REST_ENTRY")
        write.place(done)

    def _choose_entry(self, pixels: int, unroll: int, register: str) -> None:
        """Where the loop over words is entered behind the first one; r3: depth."""
        write = self.writer
        table = write.label("entries")
        self.tables[pixels] = (table, [write.label(f"word{number}") for number in range(unroll + 1)])
        skip = write.label("entry")
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

    def _begin_pair(self) -> None:
        """Constants of the next pair of channels; where its results go."""
        self.writer.block(f"""
            ldr r1, [sp, #{_FRAME["pairs"]}]
            ldr r2, [sp, #{_FRAME["weights"]}]
            ldr r3, [sp, #{_FRAME["depth"]}]
            ldr r4, [sp, #{_FRAME["out"]}]
            ldr r0, [sp, #{_FRAME["x"]}]
            vldmia r1!, {{s0, s1, s2, s3, s4, s5, s6, s7}}
            str r1, [sp, #{_FRAME["pairs"]}]
            vmov WEIGHTS, r2
            add r2, r2, r3
            vmov WEIGHTS_END, r2
            str r2, [sp, #{_FRAME["weights"]}]
            vmov OUT, r4""")
        if self.kind.form == "planes":
            self.writer.block("""
                vmov r3, DISTANCE
                add r4, r4, r3, lsl #1""")
        else:
            self.writer.emit("add r4, r4, #2")
        self.writer.emit(f"str r4, [sp, #{_FRAME['out']}]")

    def _group(self, pixels: int, unroll: int, entry: str) -> None:
        """All words of so many pixels and two channels, and their results."""
        write = self.writer
        names = self.tables[pixels][1]
        last = pixels - 1
        write.block(f"""
            vmov w, WEIGHTS
            vmov H{last}, START_HIGH
            vmov L{last}, START_LOW""")
        if pixels == 3:
            write.name(X2=_REGISTERS["H3"])
        self._word(pixels, f"H{last}", f"L{last}")
        write.block(f"""
            vmov W, {entry}
            bx W""")
        write.align(2)
        for number in range(unroll):
            write.place(names[0 if number == 0 else unroll - number])
            self._word(pixels)
        write.block(f"""
            vmov W, WEIGHTS_END
            cmp w, W
            bne {names[0]}""")
        write.place(names[unroll])
        self._results(pixels)

    def _word(self, pixels: int, start_high: str = "", start_low: str = "") -> None:
        """One word of every pixel, multiplied with that of the weights."""
        write = self.writer
        write.emit("ldr W, [w], #4")
        if pixels == 3:
            write.block("""
                ldr X0, [x, #16]!
                ldr X1, [x, #4]
                ldr X2, [x, #8]
                sxtb16 L, W""")
        else:
            write.block("""
                ldr X0, [x, #16]!
                ldr X1, [x, #4]
                sxtb16 L, W""")
        for pixel in range(pixels):
            if pixel == 2 and pixels == 4:
                write.block("""
                    ldr X0, [x, #8]
                    ldr X1, [x, #12]""")
            data = f"X{pixel % 2 if pixels == 4 else pixel}"
            write.emit(f"smlad H{pixel}, {data}, W, {start_high or f'H{pixel}'}")
            write.emit(f"smlad L{pixel}, {data}, L, {start_low or f'L{pixel}'}")

    def _scale(self, sums: list[str], side: str) -> None:
        """Sums -> values before saturation, in place."""
        write = self.writer
        write.emit(f"vmov W, MULTIPLIER_{side}")
        write.emit(f"vmov L, ADDEND_{side}")
        if self.kind.rounding == "mulhi":
            for name in sums:
                write.emit(f"smmlar {name}, {name}, W, L")
            return
        write.emit(f"vmov X0, SHIFT_{side}")
        for name in sums:
            write.emit(f"smmla {name}, {name}, W, L")
        for name in sums:
            write.emit(f"asr {name}, {name}, X0")

    def _saturate(self, words: list[str]) -> None:
        """Pairs of values -> within int8 or the layer's bounds."""
        write = self.writer
        if not self.kind.clamped:
            for name in words:
                write.emit(f"ssat16 {name}, #8, {name}")
            return
        write.emit("vmov W, LOW")
        write.emit("vmov L, HIGH")
        for name in words:
            write.block(f"""
                ssub16 X0, {name}, W
                sel {name}, {name}, W
                ssub16 X0, L, {name}
                sel {name}, {name}, L""")

    def _results(self, pixels: int) -> None:
        write = self.writer
        for pixel in range(pixels):
            write.emit(f"sub H{pixel}, H{pixel}, L{pixel}")
        for pixel in range(pixels):
            write.emit(f"asr H{pixel}, H{pixel}, #8")
        lows, highs = [f"L{pixel}" for pixel in range(pixels)], [f"H{pixel}" for pixel in range(pixels)]
        self._scale(lows, "EVEN")
        self._scale(highs, "ODD")
        if self.kind.form == "planes":
            self._to_planes(pixels)
        else:
            self._to_pixels(pixels)

    def _to_planes(self, pixels: int) -> None:
        write = self.writer
        words = []
        for side in "LH":
            for first in range(0, pixels, 2):
                words.append(f"{side}{first}")
                if first + 1 < pixels:
                    write.emit(f"pkhbt {side}{first}, {side}{first}, {side}{first + 1}, lsl #16")
        self._saturate(words)
        write.emit("vmov X1, OUT")
        write.emit("vmov W, DISTANCE")
        if pixels > 2:
            write.emit("vmov w, STEP")
        write.emit("add W, W, X1")
        write.emit("str L0, [X1]")
        if pixels > 2:
            write.emit("str L2, [X1, w]")
        write.emit("str H0, [W]")
        if pixels > 2:
            write.emit("str H2, [W, w]")
        if pixels == 4:
            write.emit("add X1, X1, w, lsl #1")
            write.emit("vmov OUT, X1")

    def _to_pixels(self, pixels: int) -> None:
        write = self.writer
        words = [f"L{pixel}" for pixel in range(pixels)]
        for pixel in range(pixels):
            write.emit(f"pkhbt L{pixel}, L{pixel}, H{pixel}, lsl #16")
        self._saturate(words)
        write.emit("vmov X1, OUT")
        write.emit("vmov W, DISTANCE")
        for name in words:
            write.block(f"""
                uxtb16 {name}, {name}
                orr {name}, {name}, {name}, lsr #8
                strh {name}, [X1]
                add X1, X1, W""")
        if pixels == 4:
            write.emit("vmov OUT, X1")
