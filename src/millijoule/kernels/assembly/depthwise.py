"""mj_filter_row_3x3_*: a row of a 3 x 3 depthwise convolution from planes to groups, as assembler text.

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

from millijoule.kernels.assembly.writer import Writer

__all__ = ["filter_row_3x3"]

# byte offsets in mj_filter_row
_PLANES, _FILTERS, _GROUPS, _PIXELS, _CHANNELS, _PLANE, _GROUP, _TOP = range(0, 32, 4)
_FILTER_BYTES, _LOW = 48, 52

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
    "end": "s4",  # `source` after the last turn of the loop
    # of the call
    "group": "s5", "plane": "s6", "filters": "s7", "filter_rest": "s8", "filters_end": "s9",
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

_WORDS = 12  # bytes of one column pair: three slots


class _Row:
    """Writes one function."""

    def __init__(self, stride: int, phase: int, core: str, rounding: str) -> None:
        self.stride, self.phase, self.core, self.rounding = stride, phase, core, rounding
        self.schedule = _SCHEDULES[stride, phase]
        self.writer = Writer(f"mj_filter_row_3x3_s{stride}_p{phase}", {**_REGISTERS, **_CONSTANTS})

    def text(self) -> str:
        writer = self.writer
        narrow = writer.label("narrow")
        self._begin()
        writer.block("""
            ldrd x, y, [sp]
            mvn w01_0, #0x7f
            pkhbt w01_0, w01_0, w01_0, lsl #16
            mov w01_1, #0x007f007f
            cmp x, w01_0
            it eq
            cmpeq y, w01_1
        """)
        writer.emit(f"bne.w {narrow}")
        self._channels(full=True)
        writer.place(narrow)
        self._channels(full=False)
        return writer.text()

    def _begin(self) -> None:
        """Everything that one call needs only once."""
        schedule, writer = self.schedule, self.writer
        writer.emit("push {r4-r11, lr}")
        writer.block(f"""
            ldrd x, y, [source, #{_LOW}]
            sub sp, sp, #8
            strd x, y, [sp]
            ldr w01_0, [source, #{_GROUP}]
            ldr w12_0, [source, #{_PLANE}]
            ldr w01_1, [source, #{_FILTERS}]
            ldr w12_1, [source, #{_FILTER_BYTES}]
            ldr w01_2, [source, #{_CHANNELS}]
            ldr w12_2, [source, #{_TOP}]
            ldr x, [source, #{_PIXELS}]
            ldr out, [source, #{_GROUPS}]
            vmov group, w01_0
            vmov plane, w12_0
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
            writer.block(f"""
                add a, a, #8
                cmp a, #24
                it eq
                moveq a, #0
                vmov row_{slot}, a
            """)
        # x: pixels; y: turns of the loop
        turn, first = 2 * _WORDS * self.stride, sum(len(step.pairs) for step in schedule.start) * _WORDS
        enter = schedule.loop[1].offset
        writer.block(f"""
            add y, x, #3
            lsr y, y, #2
            sub b, x, #1
            and b, b, #3
            subs b, b, #{schedule.tail_at}
            it mi
            movmi b, #-1
            vmov tail, b
            ldr source, [source, #{_PLANES}]
            add source, source, #{first - enter}
            mov a, #{turn}
            mla b, y, a, source
            vmov end, b
            mls b, y, a, w12_0
            vmov source_on, b
            sub y, y, #1
            mul a, y, w01_0
            rsb a, a, #2
            vmov out_back, a
        """)

    def _channels(self, full: bool) -> None:
        """The loop over channels. `x` holds the filter's address at its beginning."""
        writer, schedule = self.writer, self.schedule
        channel, turn, enter, skip = (writer.label(name) for name in ("channel", "turn", "enter", "skip"))
        writer.emit("vmov x, filters")
        writer.place(channel)
        writer.block("""
            vldmia x!, {s0-s3}
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
        for step in schedule.start:
            self._step(step, full)
        writer.emit(f"b {enter}")
        writer.align(2)
        writer.place(turn)
        self._step(schedule.loop[0], full)
        writer.place(enter)
        self._step(schedule.loop[1], full)
        writer.block(f"""
            vmov x, end
            cmp source, x
            bne {turn}
            vmov x, tail
            cmp x, #0
            blt {skip}
        """)
        self._step(schedule.tail, full)
        writer.place(skip)
        writer.block(f"""
            vmov x, plane
            add y, source, x
            vmov end, y
            vmov x, source_on
            add source, source, x
            lsls y, out, #30
            it mi
            addmi out, out, #12
            vmov x, out_back
            add out, out, x
            vmov x, filters
            vmov y, filters_end
            cmp x, y
            bne {channel}
            add sp, sp, #8
            pop {{r4-r11, pc}}
        """)

    def _step(self, step: Step, full: bool) -> None:
        offset = step.offset
        for number, (done, new) in enumerate(step.pairs):
            last = step.advance and number + 1 == len(step.pairs)
            if self.stride == 1:
                self._pair(offset, done, new, last)
            else:
                self._pair_of_stride_2(offset, done, new, last)
            offset += _WORDS
        self._finish(step.stores, full)

    def _pair(self, offset: int, done: tuple[str | None, ...], new: tuple[str | None, ...], advance: bool) -> None:
        """Two columns with stride 1."""
        emit = self.writer.emit
        begin, between = done
        middle, end = new
        emit(f"ldr x, [source, #{offset}]")
        emit(f"ldr y, [source, #{offset + 4}]")
        if end:
            emit(f"vmov {end}, bias")
        for slot, data in enumerate("xyx"):
            if slot == 2:
                emit(f"ldr x, [source, #{offset + 8}]{'!' if advance else ''}")
            if middle:
                emit(f"smlad {middle}, {data}, w01_{slot}, {middle if slot else end}")
            if end:
                emit(f"smlatb {end}, {data}, w01_{slot}, {end}")
            if begin:
                emit(f"smlabt {begin}, {data}, w12_{slot}, {begin}")
            if between:
                emit(f"smlad {between}, {data}, w12_{slot}, {between}")

    def _pair_of_stride_2(
        self, offset: int, done: tuple[str | None, ...], new: tuple[str | None, ...], advance: bool
    ) -> None:
        emit = self.writer.emit
        finish, start = (
            (("smlabt", "w12"), ("smlad", "w01")) if self.phase == 0 else (("smlad", "w12"), ("smlatb", "w01"))
        )
        for slot, data in enumerate("xyz"):
            emit(f"ldr {data}, [source, #{offset + 4 * slot}]{'!' if advance and slot == 2 else ''}")
        if new[0]:
            emit(f"vmov {new[0]}, bias")
        for slot, data in enumerate("xyz"):
            if new[0]:
                emit(f"{start[0]} {new[0]}, {data}, {start[1]}_{slot}, {new[0]}")
            if done[0]:
                emit(f"{finish[0]} {done[0]}, {data}, {finish[1]}_{slot}, {done[0]}")

    def _finish(self, stores: tuple[tuple[str, int], ...], full: bool) -> None:
        """Requantises and stores."""
        emit = self.writer.emit
        sums = [name for name, _ in stores if name != "next"]
        if not sums:
            return
        emit("vmov x, multiplier")
        emit("vmov y, addend")
        for name in sums:
            emit(f"{'smmla' if self.rounding == 'single' else 'smmlar'} {name}, {name}, x, y")
        if self.rounding == "single":
            emit("vmov x, shift")
            for name in sums:
                emit(f"asr {name}, {name}, x")
        if full:
            for name in sums:
                emit(f"ssat {name}, #8, {name}")
        else:
            emit("ldr x, [sp]")
            for name in sums:
                emit(f"ssub16 y, {name}, x")
                emit(f"sel {name}, {name}, x")
            emit("ldr x, [sp, #4]")
            for name in sums:
                emit(f"ssub16 y, x, {name}")
                emit(f"sel {name}, {name}, x")
        for name, offset in stores:
            if name == "next":
                emit("vmov x, group")
                emit("add out, out, x")
            else:
                emit(f"strh {name}, [out, #{offset}]")


def filter_row_3x3(stride: int, phase: int, core: str, rounding: str) -> str | None:
    """The text of mj_filter_row_3x3_s<stride>_p<phase>, None where only C exists.

    Args:
        stride: 1 or 2.
        phase: 0 or 1.
        core: "cortex-m4" or "cortex-m7".
        rounding: "single", "double" or "mulhi".
    """
    return None if rounding == "double" else _Row(stride, phase, core, rounding).text()
