"""A row of a depthwise convolution with a window of any size up to 7 x 7 from planes to groups.

Four outputs at a time. The taps of a channel lie on the stack, slot by slot, so that every offset is constant: in pairs
from an even column on, (w0, w1), (w2, w3), ..., (wn, 0), and from an odd one on, (w1, w2), ..., (wn-1, wn), whose first
tap is the low half of the first pair. An output whose window begins at an even column needs the first form, one at an
odd column the second. Rows of even width end at an odd column with the high half of the last pair; rows of three taps
come as (w0, w1), (w1, w2), which is all that both forms need.
"""

from __future__ import annotations

from dataclasses import dataclass

from millijoule.kernels.assembly._filter import ON_STACK, Filter, InPairs

__all__ = ["M7Window", "Window"]

_POOL = ("r1", "r2", "r4", "r5", "r6", "r7", "r8", "r9")
_TABLE = 40  # where the taps begin on the stack, behind bounds and constants


@dataclass
class _Product:
    """sum += data * taps; `data` and `taps` say where the words are loaded from."""

    sum: str
    multiply: str
    data: str
    taps: str


class Window(Filter):
    """A window of any size, its taps on the stack."""

    def __init__(self, window: tuple[int, int], stride: int, phase: int, rounding: str) -> None:
        super().__init__(window, stride, phase, rounding)
        self.height, self.width = window
        self.pairs = 2 if self.width == 3 else (self.width + 1) // 2
        self.even = [f"r{4 + number}" for number in range(self.pairs)]
        odd = 0 if self.width == 3 else (self.width - 1) // 2
        self.odd = [f"r{4 + self.pairs + number}" for number in range(odd)]
        used = {register for output in range(4) for _, _, register in self.row_of((phase + stride * output) % 2)}
        # registers that hold a row of the table while it is made, in the order of the table
        self.kept = [register for register in self.even + self.odd if register in used]
        # the whole of a channel must stay within the 1 KB of instruction cache of the STM32L4+
        self.table_in_loop = self.height > 1 and self.height * self.width > 30
        self.frame = (_TABLE + 4 * len(self.kept) * self.height + 7) // 8 * 8
        self.turn = 8 * stride * self.height  # bytes of four outputs

    def row_of(self, odd: int) -> list[tuple[str, int, str]]:
        """One row of a window that begins at an even or an odd column: (instruction, word, register of its taps)."""
        if not odd:
            products = [("smlad", number, register) for number, register in enumerate(self.even)]
            return [products[0], ("smlabt", 1, self.even[1])] if self.width == 3 else products
        first = ("smlatb", 0, self.even[0])
        if self.width == 3:
            return [first, ("smlad", 1, self.even[1])]
        products = [first, *(("smlad", number + 1, register) for number, register in enumerate(self.odd))]
        return products if self.width % 2 else [*products, ("smlabt", self.pairs, self.even[-1])]

    def before_call(self) -> None:
        row, taps = 4 * len(self.kept), 4 * self.pairs * self.height
        self.enter(taps, planes=True)
        self.emit(f"""
            add a, sp, #{_TABLE}
            mov b, #{row}
            mla a, r9, b, a
            vmov row_0, a
            add x, x, #3
            lsr x, x, #2
            mov b, #{self.turn}
            mul b, x, b
        """)
        self.spans("x")

    def channels(self, full: bool) -> None:
        channel, turn = self.next_channel(), self.writer.label("turn")
        self._table()
        self.behind_filter()
        self.next_plane()
        self.emit("add b, source, b")
        self.constants_of_channel()
        self.put(turn=turn)
        self._outputs(full)
        self.put(f"bne {turn}")
        self.unless_done(channel)
        self.leave()

    def constants_of_channel(self) -> None:
        """b: `source` at the end of the row."""
        self.emit("vmov end, b")

    def _table(self) -> None:
        """Taps from the filter (x) to the table; y: the row of the slot that holds the top of the window."""
        row = 4 * len(self.kept)
        self.emit(
            "vmov y, row_0",
            f"add b, sp, #{_TABLE}",
            f"add c, b, #{row * self.height}",
        )
        used = [register for register in self.odd if register in self.kept]
        again = self.writer.label("again")
        if self.table_in_loop:
            self.emit(f"add d, x, #{4 * self.pairs * self.height}")
            self.put(again=again)
        for _ in range(1 if self.table_in_loop else self.height):
            self.emit(_multiple("ldr", "ldmia", "x", self.even))
            for number, register in enumerate(used):
                self.emit(f"lsr {register}, {self.even[number]}, #16")
                self.emit(f"pkhbt {register}, {register}, {self.even[number + 1]}, lsl #16")
            self.emit(_multiple("str", "stmia", "y", self.kept), "cmp y, c", "it eq", "moveq y, b")
        if self.table_in_loop:
            self.emit("cmp x, d")
            self.put(f"bne {again}")

    def _products(self) -> list[_Product]:
        """All products of four outputs, slot by slot."""
        found = []
        for slot in range(self.height):

            def data(pair: int, slot: int = slot) -> str:
                return f"[source, #{4 * (pair * self.height + slot)}]"

            def taps(register: str, slot: int = slot) -> str:
                return f"[sp, #{_TABLE + 4 * (slot * len(self.kept) + self.kept.index(register))}]"

            for number in range(self.pairs + 1):
                for output, name in enumerate("abcd"):
                    column = self.phase + self.stride * output
                    for multiply, word, register in self.row_of(column % 2)[number : number + 1]:
                        found.append(_Product(name, multiply, data(column // 2 + word), taps(register)))
        return found

    def _outputs(self, full: bool) -> None:
        """Four outputs. Words are loaded in the order of their use, as many at once as there are registers."""
        products, held, free = self._products(), {}, list(_POOL)
        uses: dict[str, int] = {"bias": 4}
        for product in products:
            for word in (product.data, product.taps):
                uses[word] = uses.get(word, 0) + 1
        started: set[str] = set()

        def words(product: _Product) -> tuple[str, ...]:
            return (product.data, product.taps) + (() if product.sum in started else ("bias",))

        for number, product in enumerate(products):
            if any(word not in held for word in words(product)):
                wanted = dict.fromkeys(word for later in products[number:] for word in words(later))
                for word in [word for word in wanted if word not in held][: len(free)]:
                    held[word] = free.pop(0)
                    if word == "bias":
                        self.constant(held[word], word)
                    else:
                        self.emit(f"ldr {held[word]}, {word}")
            needed = words(product)
            before = held["bias"] if "bias" in needed else product.sum
            started.add(product.sum)
            self.emit(f"{product.multiply} {product.sum}, {held[product.data]}, {held[product.taps]}, {before}")
            for word in needed:
                uses[word] -= 1
                if uses[word] == 0:
                    free.append(held.pop(word))
        sums = "abcd"
        self.requantize(sums, "r4")
        self.saturate(sums, full)
        self.emit(f"add source, source, #{self.turn}")
        self.store([(name, 4 * number) for number, name in enumerate(sums)] + [("next", 0)], "r5")
        self.constant("r6", "end")
        self.emit("cmp source, r6")


def _multiple(single: str, several: str, base: str, registers: list[str]) -> str:
    """Loads or stores registers; the base goes behind them. One register has instructions of its own."""
    if len(registers) == 1:
        return f"{single} {registers[0]}, [{base}], #4"
    return f"{several} {base}!, {{{', '.join(registers)}}}"


class M7Window(InPairs, Window):
    """The same for the Cortex-M7."""

    def __init__(self, window: tuple[int, int], stride: int, phase: int, rounding: str) -> None:
        super().__init__(window, stride, phase, rounding)
        self.table_in_loop = False

    def constants_of_channel(self) -> None:
        self.emit(f"str b, {ON_STACK['end']}")
        for name, constant in zip("abcd", ("bias", "multiplier", "addend", "shift"), strict=True):
            self.emit(f"vmov {name}, {constant}", f"str {name}, {ON_STACK[constant]}")

    def _outputs(self, full: bool) -> None:
        self.put()
        self.paired = True
        super()._outputs(full)
        self.put()
        self.paired = False
