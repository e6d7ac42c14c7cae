"""mj_dense_lanes as assembler text: two pairs of output features at a time, one pair at the end.

Four accumulators; every word of data meets a word of lanes of each pair, so that weights stream from flash in sequence
and each is read once. The loop is unrolled and entered where the rest of the depth asks for it. Contract: mj_dense.h.
"""

from __future__ import annotations

import functools

from millijoule.kernels.assembly.schedule import scheduled
from millijoule.kernels.assembly.writer import Writer

__all__ = ["dense_source"]

X, WEIGHTS, PAIRS, Y, DEPTH, FEATURES, LOW, HIGH = range(0, 32, 4)  # byte offsets in mj_dense
_PAIR_BYTES = 32
# what has no core register
_WAITING = {
    "X_START": "s0", "PAIRS": "s1", "OUT": "s2", "LEFT": "s3", "LOWEST": "s4", "HIGHEST": "s5", "ENTRY": "s6",
    "ENTRY_LAST": "s7",
}  # fmt: skip
_STEPS = {"cortex-m4": 4, "cortex-m7": 4}  # of four words in one turn of the loop


@functools.cache
def dense_source(core: str, rounding: str) -> str | None:
    """The text of mj_dense_lanes; None for an unknown rounding rule.

    Args:
        core: "cortex-m4" or "cortex-m7".
        rounding: "single", "double" or "mulhi".
    """
    return _Dense(core, rounding).text() if rounding in ("single", "double", "mulhi") else None


class _Dense:
    def __init__(self, core: str, rounding: str) -> None:
        self.core, self.rounding = core, rounding
        self.writer = Writer("mj_dense_lanes", _WAITING)
        self.steps = _STEPS[core]

    def text(self) -> str:
        write = self.writer
        two, one, end = (write.label(name) for name in ("two", "one", "end"))
        first = {pairs: [write.label(f"step{pairs}") for _ in range(self.steps)] for pairs in (1, 2)}
        write.block(f"""
            push {{r4, r5, r6, r7, r8, r9, r10, r11, lr}}
            ldr r1, [r0, #{WEIGHTS}]
            ldr r2, [r0, #{DEPTH}]
            ldr r3, [r0, #{PAIRS}]
            ldr r4, [r0, #{Y}]
            ldr r5, [r0, #{FEATURES}]
            ldr r6, [r0, #{LOW}]
            ldr r7, [r0, #{HIGH}]
            ldr r0, [r0, #{X}]
            vmov X_START, r0
            vmov PAIRS, r3
            vmov OUT, r4
            vmov LEFT, r5
            vmov LOWEST, r6
            vmov HIGHEST, r7""")
        for pairs, name in ((2, "ENTRY"), (1, "ENTRY_LAST")):
            found = write.label("found")
            for rest in range(self.steps):
                # a rest of `rest` steps begins that many before the end
                write.emit(f"adr.w r3, {first[pairs][-rest % self.steps]}")
                if rest + 1 < self.steps:
                    write.emit(f"and r4, r2, #{4 * self.steps - 4}")
                    write.emit(f"cmp r4, #{4 * rest}")
                    write.emit(f"beq {found}")
            write.place(found)
            write.emit("orr r3, r3, #1")
            write.emit(f"vmov {name}, r3")
        write.emit("add r2, r0, r2, lsl #2")
        write.emit("cmp r5, #2")
        write.emit(f"ble {one}")
        write.place(two)
        self._sums(2, first[2], "ENTRY")
        self._results(2)
        write.block(f"""
            vmov r0, LEFT
            sub r0, r0, #4
            vmov LEFT, r0
            cmp r0, #2
            bgt {two}
            cmp r0, #0
            ble {end}""")
        write.place(one)
        self._sums(1, first[1], "ENTRY_LAST")
        self._results(1)
        write.place(end)
        write.emit("pop {r4, r5, r6, r7, r8, r9, r10, r11, pc}")
        return write.text()

    def _sums(self, pairs: int, first: list[str], entry: str) -> None:
        write = self.writer
        write.block(f"""
            vmov r3, PAIRS
            vmov r0, X_START
            vmov lr, {entry}
            ldrd r4, r5, [r3]""")
        if pairs == 2:
            write.emit(f"ldrd r6, r7, [r3, #{_PAIR_BYTES}]")
        write.emit("bx lr")
        write.align(2)
        for label in first:
            write.place(label)
            lines = self._step_m4(pairs) if self.core == "cortex-m4" else scheduled(self._step_m7(pairs))
            for line in lines:
                write.emit(line)
        write.emit("cmp r0, r2")
        write.emit(f"bne {first[0]}")

    def _step_m4(self, pairs: int) -> list[str]:
        """Four words of data. Loads side by side: each but the first takes one cycle."""
        data = ["r3", "r8"] if pairs == 2 else ["r3", "r6", "r7", "r8"]
        weights = ["r9", "r10", "r11", "r12"]
        lines = []
        for _ in range(4 // len(data)):
            lines += _loads(data, "r0") + _loads(weights, "r1")
            for number, register in enumerate(weights):
                lines += _products(data[number // pairs], register, number % pairs)
        return lines

    def _step_m7(self, pairs: int) -> list[str]:
        """The same; registers take turns, so that loads can go ahead."""
        data, weights = ["r3", "r8", "lr"], ["r9", "r10", "r11", "r12"]
        lines = []
        for word in range(4):
            x = data[word % 3]
            lines.append(f"ldr {x}, [r0], #16" if word == 0 else f"ldr {x}, [r0, #{4 * word - 16}]")
            for pair in range(pairs):
                number = word * pairs + pair
                w, size = weights[number % 4], 16 * pairs
                lines.append(f"ldr {w}, [r1], #{size}" if number == 0 else f"ldr {w}, [r1, #{4 * number - size}]")
                lines += _products(x, w, pair)
        return lines

    def _results(self, pairs: int) -> None:
        """Requantised, within the bounds, stored; only the last feature of a single pair may be missing."""
        write = self.writer
        write.emit("vmov r3, PAIRS")
        for pair in range(pairs):
            low, high = f"r{4 + 2 * pair}", f"r{5 + 2 * pair}"
            write.emit("add r3, r3, #8")
            write.emit("ldmia r3!, {r8, r9, r10, r11, r12, lr}")
            write.emit(f"sub {high}, {high}, {low}")
            write.emit(f"asr {high}, {high}, #8")
            for sum_, multiplier, addend, shift in ((low, "r8", "r9", "r10"), (high, "r11", "r12", "lr")):
                if self.rounding == "double":
                    write.emit(f"add {addend}, {addend}, {sum_}, asr #31")
                    write.emit(f"lsl {sum_}, {sum_}, #1")
                multiply = "smmla" if self.rounding == "single" else "smmlar"
                write.emit(f"{multiply} {sum_}, {sum_}, {multiplier}, {addend}")
                if self.rounding != "mulhi":
                    write.emit(f"asr {sum_}, {sum_}, {shift}")
        write.block("""
            vmov PAIRS, r3
            vmov r8, LOWEST
            vmov r9, HIGHEST""")
        sums = [f"r{4 + number}" for number in range(2 * pairs)]
        for sum_ in sums:
            write.block(f"""
                cmp {sum_}, r8
                it lt
                movlt {sum_}, r8
                cmp {sum_}, r9
                it gt
                movgt {sum_}, r9""")
        write.block("""
            vmov r10, OUT
            vmov r11, LEFT""")
        for number, sum_ in enumerate(sums):
            if number == len(sums) - 1:  # the last feature may be missing
                write.emit(f"cmp r11, #{number + 1}")
                write.emit("it ge")
                write.emit(f"strbge {sum_}, [r10, #{number}]")
            else:
                write.emit(f"strb {sum_}, [r10, #{number}]")
        write.block(f"""
            add r10, r10, #{len(sums)}
            vmov OUT, r10""")


def _loads(registers: list[str], base: str) -> list[str]:
    """Consecutive words; the base goes behind them."""
    size = 4 * len(registers)
    rest = [f"ldr {register}, [{base}, #{4 * number - size}]" for number, register in enumerate(registers) if number]
    return [f"ldr {registers[0]}, [{base}], #{size}", *rest]


def _products(data: str, lanes: str, pair: int) -> list[str]:
    """Both sums of a pair; `lanes` is used up."""
    low, high = f"r{4 + 2 * pair}", f"r{5 + 2 * pair}"
    return [
        f"smlad {high}, {data}, {lanes}, {high}",
        f"sxtb16 {lanes}, {lanes}",
        f"smlad {low}, {data}, {lanes}, {low}",
    ]
