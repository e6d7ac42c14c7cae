"""A row of a 3 x 3 depthwise convolution from planes to groups: the steps, and their text for the Cortex-M4.

A row is done column pair by column pair. A word holds two neighbouring columns; the three words of a pair (one per row
under the window) lie side by side, so every offset is constant. Each pair of columns finishes the outputs whose windows
end in it and starts those whose windows begin in it (`Step`); what is under way is in four registers, so that every
word is loaded once. Taps stay in registers: per slot (w0, w1) and (w1, w2).

    phase 0: columns (2q, 2q+1)      finish output 2q-2 by lo * w2 and 2q-1 by SMLAD (w1, w2),
                                     start  output 2q by SMLAD (w0, w1) and 2q+1 by hi * w0
    phase 1: the same; output numbers are smaller by one
    stride 2, phase 0: finish output q-1 by lo * w2, start output q by SMLAD (w0, w1)
    stride 2, phase 1: finish output q-1 by SMLAD (w1, w2), start output q by hi * w0

One turn of the loop stores four outputs in two steps and is entered at its second step; a last step finishes what is
still under way.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from millijoule.kernels.assembly.writer import Writer

__all__ = ["ON_STACK", "PAIR_BYTES", "Row", "Step", "Sums"]

# byte offsets in mj_filter_row
PLANES, FILTERS, GROUPS, PIXELS, CHANNELS, PLANE, GROUP, TOP = range(0, 32, 4)
FILTER_BYTES, LOW = 48, 52

# x, y, z: data; a .. d: sums. Taps in ascending order of slots. With stride 2 there are three sums, d is z.
_REGISTERS = {
    "source": "r0", "x": "r1", "y": "r2", "out": "r3",
    "w01_0": "r4", "w12_0": "r5", "w01_1": "r6", "w12_1": "r7", "w01_2": "r8", "w12_2": "r9",
    "a": "r10", "b": "r11", "c": "r12", "d": "lr", "z": "lr",
}  # fmt: skip

# Numbers for which there is no core register wait in the floating-point unit: a move costs one cycle, a load two.
_CONSTANTS = {
    # of the channel, in the order of mj_filter
    "bias": "s0", "multiplier": "s1", "addend": "s2", "shift": "s3",
    "end": "s4",  # `source` after the last turn of the loop (Cortex-M7: before it)
    # of the call
    "group": "s5", "span": "s6", "filters": "s7", "filter_rest": "s8", "filters_end": "s9",
    "row_0": "s10", "row_1": "s11", "row_2": "s12",  # where the taps of each slot lie
    "out_back": "s13", "source_on": "s14", "tail": "s15",
}  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One or two column pairs and the outputs they finish.

    Attributes:
        offset: bytes from `source` to the first word.
        pairs: for each pair of columns, which sums it finishes (a pair of names; None: nobody wants it) and starts.
        stores: (sum, offset in the group) of what is finished; "next" instead of a sum goes to the next group.
        advance: `source` moves to the last word that is loaded.
    """

    offset: int
    pairs: tuple[tuple[tuple[str | None, ...], tuple[str | None, ...]], ...]
    stores: tuple[tuple[str, int], ...]
    advance: bool = False


@dataclass(frozen=True)
class Schedule:
    """The steps of a row: at its beginning, in the loop (entered at the second), at its end."""

    start: tuple[Step, ...]
    loop: tuple[Step, Step]
    tail: Step
    tail_at: int  # the tail is needed when (pixels - 1) mod 4 is at least this


Sums = tuple[str | None, ...]
_N = (None, None)
_SCHEDULES = {
    (1, 0): Schedule(
        start=(Step(4, ((_N, ("c", "d")),), ()),),
        loop=(
            Step(4, ((("a", "b"), ("c", "d")),), (("a", 8), ("b", 12), ("next", 0))),
            Step(16, ((("c", "d"), ("a", "b")),), (("c", 0), ("d", 4)), advance=True),
        ),
        tail=Step(4, ((("a", "b"), _N),), (("a", 8), ("b", 12))),
        tail_at=2,
    ),
    (1, 1): Schedule(
        start=(
            Step(-8, ((_N, (None, "b")),), ()),
            Step(4, (((None, "b"), ("c", "d")),), (("b", 0),)),
        ),
        loop=(
            Step(4, ((("a", "b"), ("c", "d")),), (("a", 12), ("next", 0), ("b", 0))),
            Step(16, ((("c", "d"), ("a", "b")),), (("c", 4), ("d", 8)), advance=True),
        ),
        tail=Step(4, ((("a", None), _N),), (("a", 12),)),
        tail_at=3,
    ),
}
for _phase in (0, 1):
    _SCHEDULES[2, _phase] = Schedule(
        start=(Step(16, ((_N[:1], ("c",)),), ()),),
        loop=(
            Step(4, ((("a",), ("b",)), (("b",), ("c",))), (("a", 8), ("b", 12), ("next", 0))),
            Step(28, ((("c",), ("b",)), (("b",), ("a",))), (("c", 0), ("b", 4)), advance=True),
        ),
        tail=Step(4, ((("a",), ("b",)), (("b",), _N[:1])), (("a", 8), ("b", 12))),
        tail_at=2,
    )

PAIR_BYTES = 12  # bytes of one column pair: three slots
# bytes of stack: the bounds; Cortex-M7: further constants that are used in the loop
_FRAME = 40
ON_STACK = {name: f"[sp, #{8 + 4 * number}]" for number, name in enumerate([*list(_CONSTANTS)[:6], "pairs"])}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


# Stride 2, by phase: the product with the single tap of each slot. Two of these taps share a word (`Row.taps`), so that
# a register is left for the bias.
_SINGLE = {
    0: ("smlabb {0}, {1}, w12_0, {2}", "smlabt {0}, {1}, w12_0, {2}", "smlabt {0}, {1}, w12_2, {2}"),
    1: ("smlatb {0}, {1}, w01_0, {2}", "smlatt {0}, {1}, w01_0, {2}", "smlatb {0}, {1}, w01_2, {2}"),
}
_KEPT_BIAS = {0: _REGISTERS["w12_1"], 1: _REGISTERS["w01_1"]}


class Row:
    """Writes one function, for the Cortex-M4."""

    frame = _FRAME

    def __init__(self, stride: int, phase: int, rounding: str, symbol: str = "") -> None:
        self.stride, self.phase, self.rounding = stride, phase, rounding
        self.schedule = _SCHEDULES[stride, phase]
        symbol = symbol or f"mj_filter_row_3x3_s{stride}_p{phase}"
        self.turn = 2 * PAIR_BYTES * stride  # bytes of one turn of the loop
        self.names = {**_REGISTERS, **_CONSTANTS, "kept_bias": _KEPT_BIAS[phase]}
        self.writer = Writer(symbol, {})
        self.lines: list[str] = []

    def text(self) -> str:
        narrow = self.writer.label("narrow")
        self.before_call()
        self.emit("""
            ldrd x, y, [sp]
            mvn w01_0, #0x7f
            pkhbt w01_0, w01_0, w01_0, lsl #16
            mov w01_1, #0x007f007f
            cmp x, w01_0
            it eq
            cmpeq y, w01_1
        """)
        self.put(f"bne.w {narrow}")
        self.channels_full()
        self.put(narrow=narrow)
        self.channels(full=False)
        return self.writer.text()

    def emit(self, *instructions: str) -> None:
        """Adds instructions, one a line."""
        for text in instructions:
            for line in filter(None, map(str.strip, text.splitlines())):
                mnemonic, _, operands = line.partition(" ")
                operands = _NAME.sub(lambda name: self.names.get(name[0], name[0]), operands)
                self.lines.append(f"{mnemonic} {operands}")

    def put(self, branch: str = "", /, **labels: str) -> None:
        """Puts down what was added, then a branch and labels; nothing moves across."""
        for line in self.ordered(self.lines):
            self.writer.emit(line)
        self.lines = []
        if branch:
            self.writer.emit(branch)
        for label in labels.values():
            self.writer.place(label)

    def ordered(self, lines: list[str]) -> Iterable[str]:
        return lines

    def constant(self, register: str, name: str) -> None:
        """Fetches a constant."""
        self.emit(f"vmov {register}, {name}")

    def before_call(self) -> None:
        """Everything that one call needs only once."""
        schedule = self.schedule
        first = sum(len(step.pairs) for step in schedule.start) * PAIR_BYTES
        self.emit(f"""
            push {{r4-r11, lr}}
            ldrd x, y, [source, #{LOW}]
            sub sp, sp, #{_FRAME}
            strd x, y, [sp]
            ldr w01_0, [source, #{GROUP}]
            ldr w12_0, [source, #{PLANE}]
            ldr w01_1, [source, #{FILTERS}]
            ldr w12_1, [source, #{FILTER_BYTES}]
            ldr w01_2, [source, #{CHANNELS}]
            ldr w12_2, [source, #{TOP}]
            ldr x, [source, #{PIXELS}]
            ldr out, [source, #{GROUPS}]
            vmov group, w01_0
            vmov filters, w01_1
            mla a, w12_1, w01_2, w01_1
            vmov filters_end, a
            sub w12_1, w12_1, #16
            vmov filter_rest, w12_1
            rsbs a, w12_2, #0
            it mi
            addmi a, a, #3
            lsl a, a, #3
            vmov row_0, a
        """)
        for slot in (1, 2):
            self.emit(f"""
                add a, a, #8
                cmp a, #24
                it eq
                moveq a, #0
                vmov row_{slot}, a
            """)
        # x: pixels; y: turns of the loop
        self.emit(f"""
            add y, x, #3
            lsr y, y, #2
            sub b, x, #1
            and b, b, #3
            cmp b, #{schedule.tail_at}
            ite ge
            movge b, #1
            movlt b, #0
            vmov tail, b
            ldr source, [source, #{PLANES}]
            add source, source, #{first - schedule.loop[1].offset}
            mov a, #{self.turn}
            mul b, y, a
            vmov span, b
            sub b, w12_0, b
            vmov source_on, b
            sub y, y, #1
            mul a, y, w01_0
            rsb a, a, #2
            vmov out_back, a
        """)

    def channels_full(self) -> None:
        self.channels(full=True)

    def channels(self, full: bool) -> None:
        """The loop over channels; full: the bounds are those of int8."""
        label, schedule = self.writer.label, self.schedule
        channel, turn, enter, last = label("channel"), label("turn"), label("enter"), label("last")
        self.before_first_channel()
        self.put(channel=channel)
        self.emit("""
            vldmia x!, {s0-s3}
            lsls y, out, #30
            it mi
            addmi out, out, #12
            vmov a, out_back
            add out, out, a
        """)
        self.double_addend()
        self.begin_channel()
        self.emit(f"tst b, #{self.turn & -self.turn}", "add b, source, b", "vmov end, b")
        for step in schedule.start:
            self.step(step, full)
        # the loop twice, entered in its middle when the number of groups is even, where the instruction cache of the
        # STM32L4+ (1 KB) holds it
        twice = full and self.rounding != "double"
        if twice:
            self.put(f"beq {enter}")
        self.put(f"b {last}")
        self.writer.align(2)
        self.put(turn=turn)
        if twice:
            self.step(schedule.loop[0], full)
            self.put(enter=enter)
            self.step(schedule.loop[1], full)
        self.step(schedule.loop[0], full)
        self.put(last=last)
        self.step(schedule.loop[1], full)
        self.emit("vmov x, end", "cmp source, x")
        self.put(f"bne {turn}")
        self.end_channel(channel, full)

    def before_first_channel(self) -> None:
        """Goes back by what `begin_channel` goes forward."""
        self.emit("""
            vmov x, source_on
            sub source, source, x
            vmov x, out_back
            add x, x, #12
            sub out, out, x
            vmov x, filters
        """)

    def begin_channel(self) -> None:
        """x: behind the head of the filter; leaves in b how far `source` goes in the loop."""
        self.taps()
        self.emit("""
            vmov a, source_on
            add source, source, a
            vmov b, span
        """)

    def end_channel(self, channel: str, full: bool) -> None:
        tail, skip = self.writer.label("tail"), self.writer.label("skip")
        self.emit("vmov x, tail")
        self.put(f"cbnz {self.names['x']}, {tail}", skip=skip)
        self.emit("vmov x, filters", "vmov y, filters_end", "cmp x, y")
        self.put(f"bne {channel}")
        self.emit(f"add sp, sp, #{_FRAME}")
        self.put("pop {r4-r11, pc}", tail=tail)
        self.step(self.schedule.tail, full)
        self.put(f"b {skip}")

    def taps(self) -> None:
        """Taps of a channel; x: their address.

        With stride 2 one half of three words is not needed: two of them share a register, and the bias gets theirs.
        """
        self.emit("""
            vmov a, row_0
            vmov b, row_1
            vmov c, row_2
            add y, x, #4
            ldr w01_0, [x, a]
            ldr w12_0, [y, a]
            ldr w01_1, [x, b]
            ldr w12_1, [y, b]
            ldr w01_2, [x, c]
            ldr w12_2, [y, c]
            vmov a, filter_rest
            add x, x, a
            vmov filters, x
        """)
        if self.stride == 2:
            self.emit("pkhbt w01_0, w01_0, w01_1, lsl #16" if self.phase else "pkhtb w12_0, w12_1, w12_0, asr #16")
            self.constant("kept_bias", "bias")

    def step(self, step: Step, full: bool) -> None:
        for number, (done, new) in enumerate(step.pairs):
            offset = step.offset + number * PAIR_BYTES
            write_back = "!" if step.advance and number + 1 == len(step.pairs) else ""
            if self.stride == 1:
                self._pair(offset, done, new, write_back)
            else:
                self._pair_of_stride_2(offset, done[0], new[0], write_back)
        sums = [name for name, _ in step.stores if name != "next"]
        if sums:
            self.constant("x", "multiplier")
            self.constant("y", "addend")
            self.scale(sums, "x", "y")
            if self.rounding != "mulhi":
                self.constant("x", "shift")
                self.shift(sums, "x")
            if not full:
                self.saturate(sums, full)
            for item in step.stores:  # an address needs its register a cycle early
                if full and item[0] != "next":
                    self.saturate(item[:1], full)
                self.store([item], "x")

    def _pair(self, offset: int, done: Sums, new: Sums, write_back: str) -> None:
        """Two columns with stride 1. Three words at once where a sum is still free."""
        third = "x" if new[0] else "c"
        self.emit(f"ldr x, [source, #{offset}]", f"ldr y, [source, #{offset + 4}]")
        if third != "x":
            self.emit(f"ldr {third}, [source, #{offset + 8}]{write_back}")
        if new[1]:
            self.constant(new[1], "bias")
        for slot, data in enumerate(("x", "y", third)):
            if slot == 2 and third == "x":
                self.emit(f"ldr x, [source, #{offset + 8}]{write_back}")
            self.begin_sums(slot, data, new, first=slot == 0)
            self.end_sums(slot, data, done)

    def begin_sums(self, slot: int, data: str, new: Sums, first: bool) -> None:
        """Products of outputs that begin here; the bias waits in the second one."""
        if new[0]:
            self.emit(f"smlad {new[0]}, {data}, w01_{slot}, {new[1] if first else new[0]}")
        if new[1]:
            self.emit(f"smlatb {new[1]}, {data}, w01_{slot}, {new[1]}")

    def end_sums(self, slot: int, data: str, done: Sums) -> None:
        if done[1]:
            self.emit(f"smlad {done[1]}, {data}, w12_{slot}, {done[1]}")
        if done[0]:
            self.emit(f"smlabt {done[0]}, {data}, w12_{slot}, {done[0]}")

    def _pair_of_stride_2(self, offset: int, done: str | None, new: str | None, write_back: str) -> None:
        for slot, data in enumerate("xyz"):
            self.emit(f"ldr {data}, [source, #{offset + 4 * slot}]{write_back if slot == 2 else ''}")
        for slot, data in enumerate("xyz"):
            self.begin_sum(slot, data, new)
            self.end_sum(slot, data, done)

    def begin_sum(self, slot: int, data: str, new: str | None) -> None:
        """The products of slot 0 come first."""
        if new:
            multiply = _SINGLE[1][slot] if self.phase else f"smlad {{0}}, {{1}}, w01_{slot}, {{2}}"
            self.emit(multiply.format(new, data, new if slot else "kept_bias"))

    def end_sum(self, slot: int, data: str, done: str | None) -> None:
        if done:
            multiply = f"smlad {{0}}, {{1}}, w12_{slot}, {{2}}" if self.phase else _SINGLE[0][slot]
            self.emit(multiply.format(done, data, done))

    def scale(self, sums: Iterable[str], multiplier: str, addend: str) -> None:
        """Sums times the multiplier, plus the addend.

        Rule double: halves go away from zero, so that negative numbers get one less. The sign is the sum's; the first
        rounding can only have made a negative one zero, and there it stays.
        """
        multiply = "smmla" if self.rounding == "single" else "smmlar"
        for number, name in enumerate(sums):
            if self.rounding == "double":
                if number:
                    self.constant(addend, "addend")
                self.emit(f"add {addend}, {addend}, {name}, asr #31", f"lsl {name}, {name}, #1")
            self.emit(f"{multiply} {name}, {name}, {multiplier}, {addend}")

    def double_addend(self) -> None:
        """Rule double: addend and shift of a channel become half a unit and the zero point: as with rule single."""
        if self.rounding == "double":
            self.emit("""
                vmov a, addend
                vmov b, shift
                lsl a, a, #1
                add a, a, #1
                sub b, b, #1
                lsl a, a, b
                vmov addend, a
            """)

    def shift(self, sums: Iterable[str], shift: str) -> None:
        self.emit(*(f"asr {name}, {name}, {shift}" for name in sums))

    def saturate(self, sums: Iterable[str], full: bool) -> None:
        if full:
            self.emit(*(f"ssat {name}, #8, {name}" for name in sums))
            return
        for place, order in (("[sp]", "{0}, x"), ("[sp, #4]", "x, {0}")):
            self.emit(f"ldr x, {place}")
            for name in sums:
                self.emit(f"ssub16 y, {order.format(name)}", f"sel {name}, {name}, x")

    def store(self, stores: Iterable[tuple[str, int]], free: str) -> None:
        for name, offset in stores:
            if name == "next":
                self.constant(free, "group")
                self.emit(f"add out, out, {free}")
            else:
                self.emit(f"strh {name}, [out, #{offset}]")
