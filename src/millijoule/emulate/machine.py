"""A board's core and memories, running an unmodified firmware image with exact counts."""

from __future__ import annotations

import importlib
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from millijoule.boards import Board, load_board
from millijoule.build import Image
from millijoule.emulate._counting import BlockCounter, make_counter
from millijoule.emulate._faults import deliver, explain
from millijoule.emulate.cycles import Counts, CycleModel, EdgeCosts, EdgeTotal, cycle_model
from millijoule.emulate.peripherals import Peripherals
from millijoule.errors import BoardError, EmulationError, ToolchainError

__all__ = ["Machine"]

# Far above any inference that fits these boards; a hang ends after seconds (native) or about two minutes (Python).
DEFAULT_BLOCK_LIMITS = {"native": 2_000_000_000, "python": 200_000_000}
_PERIPHERALS = ((0x40000000, 0x20000000), (0xE0000000, 0x100000))
_LAYER_SYMBOL = "mj_layer_"


class Machine:
    """Runs one firmware image on one board.

    Args:
        image: the linked firmware; its segments are loaded where the ELF says.
        board: the board or its name.
        hook: "native" (C, built at first use), "python", or "auto"; both give equal counts.
        model: timing rules; the core's own by default.
        block_limit: a run that executes more blocks than this is taken for a hang; by default 2e9, or 2e8 in Python.

    Raises:
        ToolchainError: the emulator library is missing.
        EmulationError: the image does not belong to the board's memories.
    """

    def __init__(
        self,
        image: Image,
        board: Board | str,
        *,
        hook: str = "auto",
        model: CycleModel | None = None,
        block_limit: int | None = None,
    ) -> None:
        try:
            unicorn: Any = importlib.import_module("unicorn")
            arm_const: Any = importlib.import_module("unicorn.arm_const")
        except ImportError as error:
            raise ToolchainError(
                "unicorn", "it is not installed", "Install the extra: pip install 'millijoule[deploy]'"
            ) from error
        self.board = load_board(board) if isinstance(board, str) else board
        self.image = image
        self._arm: Any = arm_const
        self._unicorn: Any = unicorn
        cpu = {"cortex-m4": arm_const.UC_CPU_ARM_CORTEX_M4, "cortex-m7": arm_const.UC_CPU_ARM_CORTEX_M7}
        if self.board.core not in cpu:
            raise BoardError(self.board.title, f"there is no emulator for {self.board.core}", "Use cortex-m4 or -m7")
        self.emulator: Any = unicorn.Uc(unicorn.UC_ARCH_ARM, unicorn.UC_MODE_THUMB | unicorn.UC_MODE_MCLASS)
        self.emulator.ctl_set_cpu_model(cpu[self.board.core])
        self._map()
        self._past_cycles = 0
        self._interrupt: int | None = None
        self.model = model or cycle_model(self.board)
        self.markers = _markers(image)
        memories = [(self.board.flash.base, self.board.flash.size)]
        memories += [(memory.base, memory.size) for memory in self.board.memories]
        self.counter: BlockCounter = make_counter(hook, memories, {a: n for a, (n, _) in self.markers.items()})
        self.counter.attach(self.emulator)
        self.block_limit = block_limit or DEFAULT_BLOCK_LIMITS[self.counter.name]
        self.costs = EdgeCosts(self.model, self.read)
        self.peripherals = Peripherals(self.board, lambda: self.counts().cycles + self._past_cycles)
        for base, size in _PERIPHERALS:
            self.emulator.mmio_map(base, size, self._load, base, self._store, base)
        self.emulator.hook_add(unicorn.UC_HOOK_INTR, self._on_interrupt)
        self.reset()

    def _map(self) -> None:
        unicorn, board = self._unicorn, self.board
        self.emulator.mem_map(board.flash.base, board.flash.size, unicorn.UC_PROT_READ | unicorn.UC_PROT_EXEC)
        for memory in board.memories:
            self.emulator.mem_map(memory.base, memory.size, unicorn.UC_PROT_ALL)
        end = board.flash.base + board.flash.size
        for segment in self.image.segments:
            if not board.flash.base <= segment.address <= segment.address + len(segment.data) <= end:
                raise EmulationError(
                    self.image.elf.name,
                    f"it has bytes at {segment.address:#010x}, outside the flash of {board.title}",
                    "Build it for this board",
                )

    def reset(self) -> None:
        """Power on: flash as programmed, RAM with reproducible noise, stack pointer and program counter as in flash."""
        board = self.board
        self.emulator.mem_write(board.flash.base, b"\xff" * board.flash.size)
        for segment in self.image.segments:
            self.emulator.mem_write(segment.address, segment.data)
        noise = np.random.default_rng(0)
        for memory in board.memories:
            # RAM is not cleared by power-on: noise shows code that relies on zeros.
            self.emulator.mem_write(memory.base, noise.bytes(memory.size))
        self.peripherals.reset()
        self.clear_counts()
        self._past_cycles = 0
        stack, entry = struct.unpack("<II", self.read(board.flash.base, 8))
        self.write_register("sp", stack)
        self.write_register("pc", entry | 1)

    def read(self, address: int, size: int) -> bytes:
        """Bytes of memory."""
        try:
            return bytes(self.emulator.mem_read(address, size))
        except self._unicorn.UcError as error:
            raise EmulationError(f"{address:#010x}", "there is no memory there", "Check the address") from error

    def write(self, address: int, data: bytes) -> None:
        """Changes memory, flash included, as a debug probe could."""
        try:
            self.emulator.mem_write(address, data)
        except self._unicorn.UcError as error:
            raise EmulationError(f"{address:#010x}", "there is no memory there", "Check the address") from error

    def read_word(self, address: int) -> int:
        """An unsigned 32-bit word of memory."""
        return int.from_bytes(self.read(address, 4), "little")

    def write_word(self, address: int, value: int) -> None:
        """Changes a 32-bit word of memory."""
        self.write(address, (value & 0xFFFFFFFF).to_bytes(4, "little"))

    def register(self, name: str) -> int:
        """A core register: r0..r12, sp, lr, pc, xpsr."""
        return int(self.emulator.reg_read(getattr(self._arm, f"UC_ARM_REG_{name.upper()}")))

    def write_register(self, name: str, value: int) -> None:
        """Changes a core register."""
        self.emulator.reg_write(getattr(self._arm, f"UC_ARM_REG_{name.upper()}"), value)

    def run(self, until: int, *, block_limit: int | None = None) -> None:
        """Runs from the program counter until `until` is about to execute.

        Raises:
            EmulationError: a fault (with its address, function and reason), or a hang.
        """
        self._interrupt = None
        limit = block_limit or self.block_limit
        self.counter.begin(limit)
        try:
            self.emulator.emu_start(self.register("pc") | 1, until)
        except self._unicorn.UcError as error:
            refusal = explain(self, int(error.errno))
            deliver(self, int(error.errno))
            raise refusal from error
        if self.counter.limited():
            where = self.image.function_at(self.register("pc"))
            raise EmulationError(
                f"the firmware in {where}",
                f"it did not end within {limit} blocks of code",
                "Look for an endless loop, or raise block_limit",
            )
        if self.register("pc") != until & ~1:
            raise explain(self, None, self._interrupt)

    def call(self, function: str, *arguments: int, stack: Sequence[int] = ()) -> int:
        """Calls one function of the image with integer arguments and returns r0.

        The first four arguments go to registers, the others and `stack` to the stack, as the procedure call standard
        for Arm says. Useful for testing a kernel by itself: nothing else of the firmware needs to run.

        Raises:
            EmulationError: see `run`.
        """
        symbol = self.image.symbol(function)
        words = [*arguments[4:], *stack]
        top = (self.image.symbol("mj_stack_top").address - 4 * len(words)) & ~7
        for number, word in enumerate(words):
            self.write_word(top + 4 * number, word)
        for number, argument in enumerate(arguments[:4]):
            self.write_register(f"r{number}", argument & 0xFFFFFFFF)
        back = self.board.flash.base + self.board.flash.size - 16
        self.write_register("sp", top)
        self.write_register("lr", back | 1)
        self.write_register("pc", symbol.address | 1)
        self.run(back)
        return self.register("r0")

    def clear_counts(self) -> None:
        """Starts counting from zero."""
        self._past_cycles += self.counts().cycles  # the cycle counter of the chip goes on
        self.counter.clear()

    def totals(self) -> list[EdgeTotal]:
        """Instructions and cycles of every edge since the counts were cleared."""
        return self.costs.totals(self.counter.edges(), self.counter.sizes())

    def counts(self) -> Counts:
        """Instructions and cycles since the counts were cleared."""
        return self.costs.counts(self.counter)

    @property
    def console(self) -> str:
        """What the firmware has printed."""
        return self.peripherals.transmitted.decode("latin-1")

    def _load(self, _: Any, offset: int, size: int, base: int) -> int:
        return self.peripherals.read(base + offset, size)

    def _store(self, _: Any, offset: int, size: int, value: int, base: int) -> None:
        self.peripherals.write(base + offset, size, value)

    def _on_interrupt(self, emulator: Any, number: int, _: Any) -> None:
        self._interrupt = number
        emulator.emu_stop()


def _markers(image: Image) -> Mapping[int, tuple[int, str]]:
    """Entry address -> (layer number of the counter, name): 1 is mj_run, 2 and up the layers in order."""
    layers = sorted(name for name, symbol in image.symbols.items() if symbol.code and name.startswith(_LAYER_SYMBOL))
    found: dict[int, tuple[int, str]] = {}
    if "mj_run" in image.symbols:
        found[image.symbols["mj_run"].address] = (1, "mj_run")
    for number, name in enumerate(layers):
        found[image.symbols[name].address] = (2 + number, name)
    return found
