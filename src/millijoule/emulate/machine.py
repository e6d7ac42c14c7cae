"""A board's core and memories, running an unmodified firmware image with exact counts."""

from __future__ import annotations

import heapq
import importlib
import itertools
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from millijoule.boards import Board, load_board
from millijoule.build import Image
from millijoule.emulate._counting import NEVER, BlockCounter, Edge, make_counter
from millijoule.emulate._faults import FaultReport, Reason, describe
from millijoule.emulate._guards import Guards
from millijoule.emulate._registers import RegisterBank
from millijoule.emulate._running import Runner
from millijoule.emulate.cycles import Counts, CycleModel, EdgeCosts, EdgeTotal, cycle_model
from millijoule.emulate.exceptions import ExceptionUnit, Interrupts
from millijoule.emulate.memories import BIT_BAND_BYTES, BIT_BANDS, MemoryMap, MemoryWindow, bit_of, default_windows
from millijoule.emulate.peripherals import Peripherals
from millijoule.emulate.system import SystemBlock
from millijoule.errors import BoardError, EmulationError, ToolchainError

if TYPE_CHECKING:
    from millijoule.emulate.access import AccessCheck

__all__ = ["Machine"]

# Far above any inference that fits these boards; a hang ends after seconds (native) or about two minutes (Python).
DEFAULT_BLOCK_LIMITS = {"native": 2_000_000_000, "python": 200_000_000}
_PERIPHERALS = ((0x40000000, 0x20000000), (0xE0000000, 0x100000))
_SYSTEM = range(0xE0000000, 0xE0010000)
_LAYER_SYMBOL = "mj_layer_"
_MOST_CODE_WINDOWS = 8
# The cycle counter's register is exact again after so many cycles; in between, edges count with their usual cost.
_MEASURED_EVERY = 2000


class Machine:
    """Runs one firmware image on one board: core, exceptions, memories, peripherals.

    Time is `now`, in core cycles: every executed block advances it by what it usually costs, waiting (WFI) by as much
    as passes until the next event. Everything the firmware sees follows from the image and from what the host feeds to
    the peripherals: two equal runs are equal in every count.

    Args:
        image: the linked firmware; its segments are loaded where the file says. A file without symbols will do.
        board: the board or its name.
        hook: "native" (C, built at first use), "python", or "auto"; both give equal counts.
        model: timing rules; the core's own by default.
        block_limit: a run that executes more blocks than this is taken for a hang; by default 2e9, or 2e8 in Python.
        windows: further memories, `default_windows(board)` by default.
        on_fault: "report" raises an error at the first fault, after the firmware's own handler has run to its end;
            "deliver" only enters the handler, as the chip does, and raises when the core locks up.
        strict: misaligned accesses that fault on the chip do so here, too; about three times slower. Without it only
            from when the firmware sets CCR.UNALIGN_TRP.

    Attributes:
        interrupts: the interrupt controller; peripherals call its `pend` and `set_line`.
        faults: reports of all faults since `reset`.
        resets: how often the firmware reset itself.
        slept: cycles that passed in WFI and WFE.
        on_idle: called when the core sleeps and nothing will wake it by itself; returns whether the host has changed
            something. Without it, such a sleep is an error.

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
        windows: Sequence[MemoryWindow] | None = None,
        on_fault: str = "report",
        strict: bool = False,
    ) -> None:
        try:
            unicorn: Any = importlib.import_module("unicorn")
            arm_const: Any = importlib.import_module("unicorn.arm_const")
        except ImportError as error:
            raise ToolchainError(
                "unicorn", "it is not installed", "Install the extra: pip install 'millijoule[deploy]'"
            ) from error
        if on_fault not in ("report", "deliver"):
            raise EmulationError(f"on_fault {on_fault!r}", "there is no such policy", "Choose report or deliver")
        self.board: Board = load_board(board) if isinstance(board, str) else board
        self.image = image
        self._unicorn: Any = unicorn
        cpu = {"cortex-m4": arm_const.UC_CPU_ARM_CORTEX_M4, "cortex-m7": arm_const.UC_CPU_ARM_CORTEX_M7}
        if self.board.core not in cpu:
            raise BoardError(self.board.title, f"there is no emulator for {self.board.core}", "Use cortex-m4 or -m7")
        self.emulator: Any = unicorn.Uc(unicorn.UC_ARCH_ARM, unicorn.UC_MODE_THUMB | unicorn.UC_MODE_MCLASS)
        self.emulator.ctl_set_cpu_model(cpu[self.board.core])
        self._bank = RegisterBank(self.emulator)
        self._check_place()
        chosen = default_windows(self.board) if windows is None else tuple(windows)
        self.memories = MemoryMap(self.emulator, self.board, chosen)
        self.boot_address = int(getattr(image, "vector_table", 0) or self.board.flash.base)
        self.on_fault = on_fault
        self.on_idle: Callable[[], bool] | None = None
        self.model = model or cycle_model(self.board)
        self.markers = _markers(image)
        spans = self.memories.spans()[:_MOST_CODE_WINDOWS]
        self.counter: BlockCounter = make_counter(hook, spans, {a: n for a, (n, _) in self.markers.items()})
        self.block_limit = block_limit or DEFAULT_BLOCK_LIMITS[self.counter.name]
        self.costs = EdgeCosts(self.model, self.read)
        self._prices: dict[tuple[int | None, int, int, int], tuple[int, int]] = {}
        self._corrections: list[EdgeTotal] = []
        self._past_cycles = 0
        self.hooks_gone = False  # hooks were removed: translate again before the next run, the counts stay until then
        self._timeline: list[tuple[int, int, Callable[[], None]]] = []
        self._sequence = itertools.count()
        self.faults: list[FaultReport] = []
        self.resets = self.slept = 0
        self.interrupts: Interrupts = Interrupts(self.board.interrupts, self.counter.attention)
        self.exceptions = ExceptionUnit(self)
        self._spent = 0
        self.system = SystemBlock(self)
        self.guards = Guards(self)
        self._strict = strict
        self._alignment: AccessCheck | None = None
        self.runner = Runner(self)
        self.counter.attach(self.emulator, self.runner.examine, self.runner.price)
        self.peripherals = Peripherals(self.board, lambda: self.now)
        self.peripherals.interrupts = self.interrupts
        for base, size in _PERIPHERALS:
            self.emulator.mmio_map(base, size, self._load, base, self._store, base)
        self._has_bits = self.board.core == "cortex-m4"
        if self._has_bits:
            band = min(BIT_BANDS)
            self.emulator.mmio_map(band, BIT_BAND_BYTES, self._load, band, self._store, band)
        self.reset()
        self.watch_alignment()

    def _check_place(self) -> None:
        flash = self.board.flash
        for segment in self.image.segments:
            if not flash.base <= segment.address <= segment.address + len(segment.data) <= flash.base + flash.size:
                raise EmulationError(
                    self.image.elf.name,
                    f"it has bytes at {segment.address:#010x}, outside the flash of {self.board.title}",
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
        self.memories.reset_windows()
        self.counter.clock = 0
        self.faults.clear()
        self.resets = self.slept = 0
        self._timeline.clear()
        self.peripherals.reset()
        self.clear_counts()
        self.counter.forget_predictions()
        self._past_cycles = self._measured = self._measured_at = self._told = 0
        self._start()

    def restart(self) -> None:
        """A reset by the firmware: core and peripherals start anew; memory, time and what was printed stay."""
        sent = bytes(self.peripherals.transmitted)
        self.peripherals.reset()
        self.peripherals.transmitted += sent
        self._start()

    def _start(self) -> None:
        self.counter.arm(NEVER)
        self.interrupts.reset()
        self.exceptions.reset()
        self.system.reset()
        self.runner.reset()
        self.counter.restore((None, NEVER, 0))
        stack, entry = struct.unpack("<II", self.read(self.boot_address, 8))
        self.write_register("xpsr", 1 << 24)
        for name in ("control", "primask", "basepri"):
            self.write_register(name, 0)
        for name in (*(f"r{number}" for number in range(13)), "psp", "fpscr"):
            self.write_register(name, 0)
        self.write_register("lr", 0xFFFFFFFF)
        self.write_register("sp", stack & ~3)
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

    def is_mapped(self, address: int, size: int) -> bool:
        """Whether all bytes of a range lie in one memory."""
        return self.memories.is_mapped(address, size)

    def is_ram(self, address: int, size: int) -> bool:
        """Whether all bytes of a range lie in one memory that can be written."""
        return self.memories.is_ram(address, size)

    def register(self, name: str) -> int:
        """A core register: r0..r12, sp, lr, pc, xpsr, msp, psp, control, primask, basepri, s0..s31, d0..d15, fpscr."""
        return self._bank.read((name,))[0]

    def registers(self, *names: str) -> tuple[int, ...]:
        """Several registers at once; quicker."""
        return self._bank.read(names)

    def write_register(self, name: str, value: int) -> None:
        """Changes a core register. A host that sets pc also wakes a core that sleeps."""
        self._bank.write((name,), (value,))
        if name == "pc":
            self.runner.asleep = False

    def write_registers(self, names: tuple[str, ...], values: Sequence[int]) -> None:
        """Changes several core registers, in this order."""
        self._bank.write(names, values)

    def run(self, until: int | None = None, *, block_limit: int | None = None, until_cycle: int | None = None) -> str:
        """Runs from the program counter until `until` is about to execute, or a moment has come.

        Args:
            until: address of an instruction; None for no such end.
            block_limit: blocks after which it counts as a hang.
            until_cycle: the value of `now` at which it ends, at the boundary of a block.

        Returns:
            Why it ended: "address", "time", or "request" (`stop` was called).

        Raises:
            EmulationError: a fault (with its address, function and reason), a hang, or a sleep that nothing ends.
        """
        return self.runner.run(until, block_limit or self.block_limit, until_cycle)

    def advance(self, cycles: int) -> str:
        """Runs for about so many cycles, for hosts that look after a serial line in between.

        Returns:
            "time", "request", or "waiting": the core sleeps, and within these cycles nothing on the chip wakes it.

        Raises:
            EmulationError: a fault, or more than `block_limit` blocks.
        """
        return self.runner.run(None, self.block_limit, self.now + max(1, cycles), waits=False)

    @property
    def waiting(self) -> bool:
        """Whether the core sleeps (WFI)."""
        return self.runner.asleep

    def sleep(self, cycles: int) -> None:
        """Lets time pass without execution, up to `cycles`, but not beyond the next event on the chip."""
        event = self.next_event()
        passed = max(0, min(cycles, event - self.now))
        self.slept += passed
        self.counter.clock += passed
        self.rearm()

    def stop(self) -> None:
        """Ends the run at the next boundary of a block; for peripherals and scheduled actions."""
        self.runner.stop_requested = True
        self.counter.attention()

    def call(self, function: str, *arguments: int, stack: Sequence[int] = ()) -> int:
        """Calls one function of the image with integer arguments and returns r0.

        The first four arguments go to registers, the others and `stack` to the stack, as the procedure call standard
        for Arm says. Useful for testing a kernel by itself: nothing else of the firmware needs to run.

        Raises:
            EmulationError: see `run`.
        """
        symbol = self.image.symbol(function)
        words = [*arguments[4:], *stack]
        end = self.image.symbols.get("mj_stack_top")
        top = ((end.address if end else self.board.data_memory.end) - 4 * len(words)) & ~7
        for number, word in enumerate(words):
            self.write_word(top + 4 * number, word)
        for number, argument in enumerate(arguments[:4]):
            self.write_register(f"r{number}", argument & 0xFFFFFFFF)
        back = self.board.flash.base + self.board.flash.size - 16
        self.system.enable_floats()
        self.write_register("sp", top)
        self.write_register("lr", back | 1)
        self.write_register("pc", symbol.address | 1)
        self.run(back)
        return self.register("r0")

    # Time
    @property
    def now(self) -> int:
        """The present time in core cycles since power-on, sleep included; never falls."""
        return self.counter.clock

    def schedule(self, when: int, action: Callable[[], None]) -> None:
        """Calls `action` at the first boundary of a block at or after the time `when`, in the order of times."""
        heapq.heappush(self._timeline, (when, next(self._sequence), action))
        self.rearm()

    def rearm(self) -> None:
        """A time at which something happens has changed."""
        self.counter.attention()

    def next_event(self) -> int:
        """When something happens by itself the next time; `NEVER` if nothing does."""
        times = [self.runner.until_cycle, self.system.systick.next_event()]
        if self._timeline:
            times.append(self._timeline[0][0])
        if self.interrupts.enabled:
            times.append(self.peripherals.next_event())
        return min((time for time in times if time is not None), default=NEVER)

    def refresh(self) -> None:
        """Brings SysTick, peripherals and scheduled actions to the present time."""
        self.system.advance()
        self.peripherals.refresh()
        while self._timeline and self._timeline[0][0] <= self.now:
            heapq.heappop(self._timeline)[2]()

    def measured_cycles(self) -> int:
        """What the chip's own cycle counter has seen: the cycles of `counts`, without sleep; never falls."""
        awake = self.now - self.slept
        if awake - self._measured_at > _MEASURED_EVERY or self._measured == 0:
            self._measured, self._measured_at = self.counts().cycles + self._past_cycles, awake
        self._told = max(self._told, self._measured + awake - self._measured_at)
        return self._told

    def guards_changed(self) -> None:
        """CPACR or CCR was written."""
        self.runner.guards_stale = True
        self.counter.attention()

    def watch_alignment(self) -> None:
        """From the moment the firmware sets CCR.UNALIGN_TRP (or with `strict`), misaligned accesses raise their fault.

        Raises:
            ToolchainError: the C part of the check cannot be built here.
        """
        wanted = self.system.traps_unaligned
        if self._alignment is None and (wanted or self._strict):
            from millijoule.emulate.access import AccessCheck

            self._alignment = AccessCheck(self, deliver=True)
            self._alignment.__enter__()
        if self._alignment is not None:
            self._alignment.every_access(wanted)

    # Counts
    def clear_counts(self) -> None:
        """Starts counting from zero."""
        self._past_cycles += self.counts().cycles  # the cycle counter of the chip goes on
        self.counter.clear()
        self._corrections.clear()
        self._spent = self.exceptions.cycles

    def translate_again(self) -> None:
        """Forgets translated code, so that hooks added since take part; counts start from zero."""
        self.clear_counts()
        self.counter.forget_blocks()
        self.emulator.ctl_flush_tb()
        self.hooks_gone = False

    def totals(self) -> list[EdgeTotal]:
        """Instructions and cycles of every edge since the counts were cleared."""
        return self.costs.totals(self.counter.edges(), self.counter.sizes()) + self._corrections

    def counts(self) -> Counts:
        """Instructions and cycles since the counts were cleared; exception entries and returns are in the cycles."""
        found = self.costs.counts(self.counter)
        spent = self.exceptions.cycles - self._spent
        if not spent and not self._corrections:
            return found
        return Counts(
            found.instructions + sum(part.instructions for part in self._corrections),
            found.cycles + sum(part.cycles for part in self._corrections) + spent,
        )

    def price(self, source: int | None, source_size: int, target: int, size: int) -> tuple[int, int]:
        """Usual cycles of an edge, and further ones when its branch was predicted wrongly."""
        key = (source, source_size, target, size)
        if key not in self._prices:
            sizes = {target: size} if source is None else {source: source_size, target: size}
            right, wrong = (
                sum(part.cycles for part in self.costs.totals([Edge(0, source, target, 1, missed)], sizes))
                for missed in (0, int(source is not None))
            )
            self._prices[key] = (max(0, right), max(0, wrong - right))
        return self._prices[key]

    def cut_block(self, pc: int) -> None:
        """The instructions from `pc` on of the last block did not execute: takes them out of the counts."""
        start, end, layer = self.counter.place()
        if start is None or not start <= pc < end:
            return
        block = self.costs.block(start, end - start)
        before = [instruction for instruction in block if instruction.address < pc]
        whole = self.price(None, 0, start, end - start)[0]
        part = self.price(None, 0, start, pc - start)[0] if before else 0
        self._corrections.append(EdgeTotal(layer, start, 0, len(before) - len(block), part - whole))
        self.counter.restore((None, NEVER, layer))

    def fault(self, exception: int, bits: int, *, pc: int, chained: int | None = None) -> None:
        """The core raises a fault: sets the status and enters its handler.

        Args:
            exception: MemManage, BusFault or UsageFault, by number.
            bits: what is set in CFSR.
            pc: where.
            chained: the EXC_RETURN value of a return that failed; its frame stays the one to return to.

        Raises:
            EmulationError: a fault where none can be handled any more.
        """
        self.runner.raise_fault(Reason(exception, bits, describe(bits)), pc, chained)

    @property
    def console(self) -> str:
        """What the firmware has printed."""
        return self.peripherals.transmitted.decode("latin-1")

    def _load(self, _: Any, offset: int, size: int, base: int) -> int:
        return self._read_register(base + offset, size)

    def _read_register(self, address: int, size: int) -> int:
        place = bit_of(address) if self._has_bits else None
        if place is not None:
            return self._read_byte(place[0]) >> place[1] & 1
        block = self.system if address in _SYSTEM else self.peripherals
        return block.read(address, size)

    def _read_byte(self, address: int) -> int:
        if address >= _PERIPHERALS[0][0]:
            return self._read_register(address, 1)
        return self.read(address, 1)[0] if self.is_ram(address, 1) else 0

    def _store(self, _: Any, offset: int, size: int, value: int, base: int) -> None:
        self._write_register(base + offset, size, value)

    def _write_register(self, address: int, size: int, value: int) -> None:
        place = bit_of(address) if self._has_bits else None
        if place is not None:
            byte, bit = place
            changed = self._read_byte(byte) & ~(1 << bit) | (value & 1) << bit
            if byte >= _PERIPHERALS[0][0]:
                self._write_register(byte, 1, changed)
            elif self.is_ram(byte, 1):
                self.write(byte, bytes([changed]))
            return
        if address in _SYSTEM:
            self.system.write(address, size, value)
            return
        self.peripherals.write(address, size, value)
        if self.interrupts.enabled and (self.peripherals.next_event() or NEVER) < self.runner.armed:
            self.counter.attention()


def _markers(image: Image) -> Mapping[int, tuple[int, str]]:
    """Entry address -> (layer number of the counter, name): 1 is mj_run, 2 and up the layers in order."""
    layers = sorted(name for name, symbol in image.symbols.items() if symbol.code and name.startswith(_LAYER_SYMBOL))
    found: dict[int, tuple[int, str]] = {}
    if "mj_run" in image.symbols:
        found[image.symbols["mj_run"].address] = (1, "mj_run")
    for number, name in enumerate(layers):
        found[image.symbols[name].address] = (2 + number, name)
    return found
