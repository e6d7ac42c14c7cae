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

from dataclasses import dataclass

from millijoule.kernels.assembly._filter import PLANES, REGISTERS, Filter

__all__ = ["PAIR_BYTES", "Row", "Step", "Sums"]


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
# Stride 2, by phase: the product with the single tap of each slot. Two of these taps share a word (`Row.taps`), so that
# a register is left for the bias.
_SINGLE = {
    0: ("smlabb {0}, {1}, w12_0, {2}", "smlabt {0}, {1}, w12_0, {2}", "smlabt {0}, {1}, w12_2, {2}"),
    1: ("smlatb {0}, {1}, w01_0, {2}", "smlatt {0}, {1}, w01_0, {2}", "smlatb {0}, {1}, w01_2, {2}"),
}
_KEPT_BIAS = {0: REGISTERS["w12_1"], 1: REGISTERS["w01_1"]}


class Row(Filter):
    """A window of 3 x 3, in registers."""

    frame = 40

    def __init__(self, stride: int, phase: int, rounding: str) -> None:
        super().__init__((3, 3), stride, phase, rounding)
        self.schedule = _SCHEDULES[stride, phase]
        self.turn = 2 * PAIR_BYTES * stride
        self.writer.name(kept_bias=_KEPT_BIAS[phase])

    def before_call(self) -> None:
        schedule = self.schedule
        first = sum(len(step.pairs) for step in schedule.start) * PAIR_BYTES
        self.enter(0, planes=False)
        self.emit("""
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
        """)
        self.spans("y", less="sub y, y, #1")

    def channels(self, full: bool) -> None:
        label, schedule = self.writer.label, self.schedule
        channel, turn, enter, last = self.next_channel(), label("turn"), label("enter"), label("last")
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

    def begin_channel(self) -> None:
        """x: behind the head of the filter; leaves in b how far `source` goes in the loop."""
        self.taps()
        self.next_plane()

    def end_channel(self, channel: str, full: bool) -> None:
        """The tail, if it is needed, and the next channel or the end."""
        tail, skip = self.writer.label("tail"), self.writer.label("skip")
        self.emit("vmov x, tail")
        self.put(f"cbnz x, {tail}", skip=skip)
        self.unless_done(channel)
        self.leave()
        self.put(tail=tail)
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
        """)
        self.behind_filter()
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
            self.requantize(sums, "x")
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
