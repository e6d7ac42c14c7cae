"""A row of a 3 x 3 depthwise convolution for the Cortex-M7."""

from __future__ import annotations

from millijoule.kernels.assembly._filter import ON_STACK, InPairs
from millijoule.kernels.assembly._filter_row import PAIR_BYTES, Row, Step

__all__ = ["M7Row"]


class M7Row(InPairs, Row):
    """The same for the Cortex-M7, where the bounds are those of int8.

    A step finds its first data loaded; what it has requantised is stored while the next one multiplies. With shift
    (`single`) a data register is needed for it in the middle of a step.
    """

    held: tuple[tuple[str, int], ...] = ()

    def channels_full(self) -> None:
        label, schedule = self.writer.label, self.schedule
        channel, turn, done, even = label("channel"), label("turn"), label("done"), label("even")
        enter = schedule.loop[1]
        self.emit(f"""
            vmov x, span
            mov y, #{self.turn}
            udiv a, x, y
            sub a, a, #1
            str a, {ON_STACK["pairs"]}
            sub x, x, y
            vmov span, x
            vmov y, group
            str y, {ON_STACK["group"]}
        """)
        self.before_first_channel()
        self.put(channel=channel)
        self.paired = True
        for number, name in enumerate(("bias", "multiplier", "addend", "shift")):
            self.emit(f"ldr {'abcd'[number]}, [x, #{4 * number}]")
            if self.rounding == "double" and name == "shift":
                self.emit("lsl c, c, #1", "add c, c, #1", "sub y, d, #1", "lsl c, c, y")
        for number, name in enumerate(("bias", "multiplier", "addend", "shift")):
            self.emit(f"str {'abcd'[number]}, {ON_STACK[name]}")
        self.emit("""
            add x, x, #16
            and a, out, #2
            add a, a, a, lsl #1
            add out, out, a, lsl #1
            vmov a, out_back
            add out, out, a
        """)
        self.begin_channel()
        self.emit("add b, source, b", f"str b, {ON_STACK['end']}")
        for step in schedule.start:
            self.step(step, True)
        self.held, self.data = (), ("x", "y")
        self.emit(*(f"ldr {'xy'[n]}, [source, #{enter.offset + 4 * n}]" for n in range(self.stride)))
        self._ahead(enter, ("pairs", "lsrs {0}, {0}, #1"))
        # two turns at once, behind a single one when their number is odd
        self.put(f"bcc {even}")
        test = ("end", "cmp source, {0}")
        self._ahead(schedule.loop[0])
        self._ahead(enter, test)
        self.put(f"beq {done}", turn=turn)
        self._ahead(schedule.loop[0])
        self._ahead(enter)
        self._ahead(schedule.loop[0])
        self._ahead(enter, test)
        self.put(f"bne {turn}", done=done)
        self.store(self.held, "x")
        self.end_channel(channel, True)
        self.put(even=even)
        self.put(f"bne.w {turn}")
        self.put(f"b {done}")
        self.paired = False

    def _ahead(self, step: Step, test: tuple[str, str] | None = None) -> None:
        """A step; test: a constant, and the instruction that sets the flags by it."""
        if self.stride == 1:
            self._ahead_of_stride_1(step, test)
        else:
            self._ahead_of_stride_2(step, test)
        self.held = step.stores

    def _ahead_of_stride_1(self, step: Step, test: tuple[str, str] | None) -> None:
        (done, new), offset = step.pairs[0], step.offset
        (p, q), (r, s), (x, y) = done, new, self.data
        self.emit(f"ldr {y}, [source, #{offset + 4}]")
        self.end_sums(0, x, done)
        self.store(self.held, str(r))
        if test:
            self.constant(str(s), test[0])
            self.emit(test[1].format(s))
        self.emit(f"ldr {x}, [source, #{offset + 8}]{'!' if step.advance else ''}")
        offset -= offset + 8 if step.advance else 0
        self.end_sums(1, y, done)
        self.constant(str(r), "multiplier")
        self.constant(str(s), "addend")
        self.end_sums(2, x, done)
        self.scale((str(q), str(p)), str(r), str(s))
        self.constant(str(s), "bias")
        self.begin_sums(2, x, new, first=True)
        if self.rounding != "mulhi":
            self.constant(x, "shift")
            self.shift((str(q), str(p)), x)
            x, y = y, x
            self.begin_sums(1, x, new, first=False)
            self.emit(f"ldr {x}, [source, #{offset}]")
            self.begin_sums(0, x, new, first=False)
        else:
            self.emit(f"ldr {x}, [source, #{offset}]")
            self.begin_sums(1, y, new, first=False)
            self.begin_sums(0, x, new, first=False)
        self.emit(f"ldr {y}, [source, #{offset + PAIR_BYTES}]")
        self.data = (y, x)
        self.saturate((str(q), str(p)), True)

    def _ahead_of_stride_2(self, step: Step, test: tuple[str, str] | None) -> None:
        ((p,), (q,)), (_, (r,)) = step.pairs
        offset = step.offset
        self.emit(f"ldr z, [source, #{offset + 8}]")
        for slot, data in enumerate("xyz"):
            self.end_sum(slot, data, p)
        self.store(self.held, str(q))
        if test:
            self.constant(str(r), test[0])
            self.emit(test[1].format(r))
        for slot, data in enumerate("xyz"):
            self.begin_sum(slot, data, q)
        for slot, data in enumerate("xyz"):
            write_back = "!" if step.advance and slot == 2 else ""
            self.emit(f"ldr {data}, [source, #{offset + PAIR_BYTES + 4 * slot}]{write_back}")
        for slot, data in enumerate("xyz"):
            self.end_sum(slot, data, q)
        for slot, data in enumerate("xyz"):
            self.begin_sum(slot, data, r)
            if slot < 2:
                self.constant(data, ("multiplier", "addend")[slot])
        self.scale((str(q), str(p)), "x", "y")
        if self.rounding != "mulhi":
            self.constant("x", "shift")
            self.shift((str(q), str(p)), "x")
        self.saturate((str(q), str(p)), True)
        offset = 4 if step.advance else offset + 2 * PAIR_BYTES
        self.emit(f"ldr x, [source, #{offset}]", f"ldr y, [source, #{offset + 4}]")
