"""Rows of depthwise convolutions: what all windows share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from millijoule.kernels.assembly.schedule import scheduled
from millijoule.kernels.assembly.writer import Writer

__all__ = ["ON_STACK", "PIXELS", "PLANES", "REGISTERS", "Filter", "InPairs"]

# byte offsets in mj_filter_row
PLANES, FILTERS, GROUPS, PIXELS, CHANNELS, PLANE, GROUP, TOP = range(0, 32, 4)
FILTER_BYTES, LOW = 48, 52

# x, y, z: data; a .. d: sums. Taps in ascending order of slots. With stride 2 there are three sums, d is z.
REGISTERS = {
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
ON_STACK = {name: f"[sp, #{8 + 4 * number}]" for number, name in enumerate([*list(_CONSTANTS)[:6], "pairs"])}


class Filter(ABC):
    """Writes one function, for the Cortex-M4.

    Args:
        window: height and width, 1 to 7.
        stride: 1 or 2.
        phase: 0 or 1.
        rounding: "single", "double" or "mulhi".
    """

    frame: int  # bytes of stack: the bounds; further constants that are used in the loop (Cortex-M7); taps
    turn: int  # bytes of one turn of the loop

    def __init__(self, window: tuple[int, int], stride: int, phase: int, rounding: str) -> None:
        self.stride, self.phase, self.rounding = stride, phase, rounding
        symbol = f"mj_filter_row_{window[0]}x{window[1]}_s{stride}_p{phase}"
        self.writer = Writer(symbol, {**REGISTERS, **_CONSTANTS})
        self.lines: list[str] = []

    def text(self) -> str:
        """The whole `.S` file."""
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

    @abstractmethod
    def before_call(self) -> None:
        """Everything that one call needs only once."""

    @abstractmethod
    def channels(self, full: bool) -> None:
        """The loop over channels; full: the bounds are those of int8."""

    def channels_full(self) -> None:
        """The same, full."""
        self.channels(full=True)

    def emit(self, *instructions: str) -> None:
        """Adds instructions, one a line."""
        for text in instructions:
            self.lines += [self.writer.resolved(line) for line in filter(None, map(str.strip, text.splitlines()))]

    def put(self, branch: str = "", /, **labels: str) -> None:
        """Puts down what was added, then a branch and labels; nothing moves across."""
        for line in self.ordered(self.lines):
            self.writer.emit(line)
        self.lines = []
        if branch:
            self.writer.emit(branch)
        for label in labels.values():
            self.writer.place(label)

    def ordered(self, lines: Sequence[str]) -> Sequence[str]:
        """Instructions that are put down together, in the order in which they are."""
        return lines

    def constant(self, register: str, name: str) -> None:
        """Fetches a constant."""
        self.emit(f"vmov {register}, {name}")

    def enter(self, taps: int, *, planes: bool) -> None:
        """The frame, and what is in the struct.

        Leaves in x the pixels, in r4, r5 and r9 the steps of groups and planes and the top.

        Args:
            taps: bytes of a filter that are behind its pointer when it goes on to the next one.
            planes: whether `source` and the step on the stack are wanted at once.
        """
        self.emit(
            f"""
            push {{r4-r11, lr}}
            ldrd x, y, [source, #{LOW}]
            sub sp, sp, #{self.frame}
            strd x, y, [sp]
            ldr r4, [source, #{GROUP}]
            ldr r5, [source, #{PLANE}]
            ldr r6, [source, #{FILTERS}]
            ldr r7, [source, #{FILTER_BYTES}]
            ldr r8, [source, #{CHANNELS}]
            ldr r9, [source, #{TOP}]
            ldr x, [source, #{PIXELS}]
            ldr out, [source, #{GROUPS}]
            """,
            f"ldr source, [source, #{PLANES}]" if planes else "",
            "vmov group, r4",
            f"str r4, {ON_STACK['group']}" if planes else "",
            f"""
            vmov filters, r6
            mla a, r7, r8, r6
            vmov filters_end, a
            sub r7, r7, #{16 + taps}
            vmov filter_rest, r7
            """,
        )

    def leave(self) -> None:
        """The end of a call."""
        self.emit(f"add sp, sp, #{self.frame}")
        self.put("pop {r4-r11, pc}")

    def spans(self, groups: str, less: str = "") -> None:
        """How far pointers go; b: bytes of a row of a plane, `groups`: their number, after the instruction `less`."""
        self.emit("vmov span, b", "sub b, r5, b", "vmov source_on, b", less)
        self.emit(f"mul a, {groups}, r4", "rsb a, a, #2", "vmov out_back, a")

    def before_first_channel(self) -> None:
        """Goes back by what `next_plane` and `next_channel` go forward."""
        self.emit("""
            vmov x, source_on
            sub source, source, x
            vmov x, out_back
            add x, x, #12
            sub out, out, x
            vmov x, filters
        """)

    def next_channel(self) -> str:
        """The beginning of the loop over channels: a label, constants of the channel, `out`."""
        channel = self.writer.label("channel")
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
        return channel

    def behind_filter(self) -> None:
        """x: behind the taps of this channel; the next channel's filter."""
        self.emit("vmov a, filter_rest", "add x, x, a", "vmov filters, x")

    def next_plane(self) -> None:
        """`source` on the plane of this channel; leaves in b how far it goes in the loop."""
        self.emit("vmov a, source_on", "add source, source, a", "vmov b, span")

    def unless_done(self, channel: str) -> None:
        """On to the next channel, if there is one."""
        self.emit("vmov x, filters", "vmov y, filters_end", "cmp x, y")
        self.put(f"bne {channel}")

    def requantize(self, sums: Sequence[str], shift: str) -> None:
        """Sums to numbers around the zero point; x, y and the register for the shift are free."""
        self.constant("x", "multiplier")
        self.constant("y", "addend")
        self.scale(sums, "x", "y")
        if self.rounding != "mulhi":
            self.constant(shift, "shift")
            self.shift(sums, shift)

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
        """Shifted right by the register."""
        self.emit(*(f"asr {name}, {name}, {shift}" for name in sums))

    def saturate(self, sums: Iterable[str], full: bool) -> None:
        """Within the bounds."""
        if full:
            self.emit(*(f"ssat {name}, #8, {name}" for name in sums))
            return
        for place, order in (("[sp]", "{0}, x"), ("[sp, #4]", "x, {0}")):
            self.emit(f"ldr x, {place}")
            for name in sums:
                self.emit(f"ssub16 y, {order.format(name)}", f"sel {name}, {name}, x")

    def store(self, stores: Iterable[tuple[str, int]], free: str) -> None:
        """(sum, offset in the group); "next" instead of a sum goes to the next group, by way of a free register."""
        for name, offset in stores:
            if name == "next":
                self.constant(free, "group")
                self.emit(f"add out, out, {free}")
            else:
                self.emit(f"strh {name}, [out, #{offset}]")


class InPairs(Filter):
    """For the Cortex-M7: straight blocks in the order of `scheduled`, constants from the stack, while `paired`."""

    paired = False

    def ordered(self, lines: Sequence[str]) -> Sequence[str]:
        return scheduled(lines) if self.paired else lines

    def constant(self, register: str, name: str) -> None:
        self.emit(f"ldr {register}, {ON_STACK[name]}" if self.paired else f"vmov {register}, {name}")
