"""Micro-benchmarks: short sequences of instructions, assembled, run on an emulated board and timed both ways."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from elftools.elf.elffile import ELFFile

from millijoule.boards import load_board
from millijoule.build import Image, Segment
from millijoule.build._toolchain import cross_compiler, run
from millijoule.emulate import CortexM4, CortexM7, Machine
from millijoule.emulate.trace import FullTrace, TraceResult

CODE = 0x08000200
DATA = 0x20001000  # zero-wait RAM of both boards
FLAGS = ("-target", "thumb-freestanding-eabihf", "-mcpu=cortex_m7+fp_armv8d16sp")
END = "subs r0,#1\n bne.n 1b"  # M4: 1 + (1 + P) = 3 with P = 1

# Access to the floating point unit: Armv7-M ARM B3.2.20, CPACR.
FLOAT_ON = "ldr r0,=0xE000ED88\n ldr r1,[r0]\n orr r1,r1,#0xF00000\n str r1,[r0]\n dsb\n isb"


def turn(loop: str) -> str:
    """A loop that counts r0 down around some instructions."""
    return f"1: {loop}" + ("" if loop == END else f"\n {END}")


class Bench:
    """Assembled sequences in the flash of a board: name -> text. `handlers`: exception number -> name of a sequence."""

    def __init__(
        self, board: str, sequences: Mapping[str, str], folder: Path, handlers: Mapping[int, str] | None = None
    ) -> None:
        sequences = {"floating point on": FLOAT_ON, **sequences}
        lines = [".syntax unified", ".thumb", ".text"]
        for number, text in enumerate(sequences.values()):
            lines += [".balign 64", f"begin{number}:", text, f"end{number}: nop", ".ltorg"]
        (folder / "a.s").write_text("\n".join([*lines, ""]))
        run([*cross_compiler("zig").command, *FLAGS, "-c", "a.s", "-o", "a.o"], what="a.s", folder=folder)
        with (folder / "a.o").open("rb") as file:
            elf = ELFFile(file)
            self.code: bytes = elf.get_section_by_name(".text").data()
            symbols = elf.get_section_by_name(".symtab").iter_symbols()
            places = {symbol.name: int(symbol["st_value"]) & ~1 for symbol in symbols}
        self.places = {
            name: (places[f"begin{number}"], places[f"end{number}"]) for number, name in enumerate(sequences)
        }
        self.board = load_board(board)
        vectors = [0x20010000] + [CODE | 1] * 15
        for number, name in (handlers or {}).items():
            vectors[number] = CODE + self.places[name][0] | 1
        table = b"".join(vector.to_bytes(4, "little") for vector in vectors)
        self.image = Image(
            elf=folder / "a.o",
            board=board,
            sections=(),
            segments=(Segment(self.board.flash.base, table), Segment(CODE, self.code)),
            symbols={},
            entry=CODE,
            fp_architecture=0,
        )
        self.machine = Machine(self.image, self.board)
        self.machine.run(self.start("floating point on"))
        # Every word of the data points to itself, so that loads of loaded addresses stay in it.
        self.machine.write(DATA, b"".join(word.to_bytes(4, "little") for word in range(DATA, DATA + 0x1000, 4)))

    def start(self, name: str, registers: Mapping[str, int] | None = None, base: int = CODE) -> int:
        """Sets registers for a sequence and returns the address behind it. r4, r5, r6 point to RAM unless given."""
        machine = self.machine
        defaults = {"r4": DATA, "r5": DATA + 0x100, "r6": DATA + 0x200, "r2": 7, "r3": 3, "sp": 0x20010000}
        for register, value in {**defaults, **(registers or {})}.items():
            machine.write_register(register, value)
        begin, end = self.places[name]
        machine.write_register("pc", (base + begin) | 1)
        return base + end

    def traced(
        self,
        name: str,
        model: CortexM4 | CortexM7,
        registers: Mapping[str, int] | None = None,
        *,
        base: int = CODE,
        warm: bool = False,
    ) -> TraceResult:
        """A full trace of a sequence; `warm`: of its second execution."""
        with FullTrace(self.machine, model=model) as trace:
            for _ in range(2 if warm else 1):
                trace.clear()
                until = self.start(name, registers, base)
                self.machine.run(until)
        return trace.result()

    def per_turn(
        self,
        name: str,
        model: CortexM4 | CortexM7,
        registers: Mapping[str, int] | None = None,
        *,
        turns: int = 40,
        base: int = CODE,
    ) -> float:
        """Cycles of one turn of a loop that counts r0 down, in the steady state."""
        few, many = (
            self.traced(name, model, {**(registers or {}), "r0": count}, base=base).cycles
            for count in (turns, 2 * turns)
        )
        return (many - few) / turns
