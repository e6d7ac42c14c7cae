"""Full traces: every executed instruction, with the address of its data, goes through a simulator of the core.

Slower than counting edges (tens of nanoseconds an instruction instead of two), but it sees what edges cannot: flash,
caches, banks, unaligned accesses, and conditional instructions that were skipped.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from millijoule.emulate._decode import KINDS, Instruction, decode
from millijoule.emulate._library import add_hook, remove_hook
from millijoule.emulate._trace_native import (
    CELL,
    DECODE,
    LAYER,
    PLACES,
    ROW,
    WINDOWS,
    Context,
    fill_row,
    names_of,
    trace_library,
)
from millijoule.emulate.cortex_m4 import CortexM4
from millijoule.emulate.cortex_m7 import CortexM7
from millijoule.emulate.machine import Machine
from millijoule.errors import EmulationError, OptionError

__all__ = ["STALLS", "AddressTrace", "FullTrace", "LayerTrace", "TraceResult"]

# Why a core waited, in cycles:
#   load_use           the second cycle of a load that no other load hides (M4); an operand still being loaded (M7)
#   dependency         an operand another instruction has not finished (addresses from the ALU, floating point)
#   branch             refill of the pipeline after taken branches, bubbles, wrong predictions
#   flash_fetch        instructions that flash had not delivered, whatever cache stands before it
#   flash_data         data that flash had not delivered, whatever cache stands before it
#   instruction_cache  lines of the instruction cache filled from other memories than flash
#   data_cache         lines of the data cache filled from other memories than flash
#   bank               two loads to one bank of the memory (M7); wait states of RAM (M4, the SRAM3 option)
#   unaligned          accesses across a word
STALLS = (
    "load_use",
    "dependency",
    "branch",
    "flash_fetch",
    "flash_data",
    "instruction_cache",
    "data_cache",
    "bank",
    "unaligned",
)


@dataclass(frozen=True)
class LayerTrace:
    """One layer: what executed between its function's first instruction and its return.

    `number` and `symbol` are those of the block counter: 0 is everything outside, 1 mj_run itself, 2 and up the layers.
    `instructions` includes the `skipped` ones, whose condition failed: the core issues them, too. `stalls` are cycles
    by cause (`STALLS`), part of `cycles`. `kinds` counts instructions by kind ("load", "multiply", "branch", ...).
    """

    number: int
    symbol: str
    instructions: int
    skipped: int
    cycles: int
    stalls: Mapping[str, int]
    kinds: Mapping[str, int]


@dataclass(frozen=True)
class AddressTrace:
    """One instruction: its disassembly, how often it was issued, its cycles and stalls (cycles by cause)."""

    address: int
    text: str
    instructions: int
    skipped: int
    cycles: int
    stalls: Mapping[str, int]


@dataclass(frozen=True)
class TraceResult:
    """A full trace. The totals are sums over `layers`; `addresses` are sorted by address.

    Entries and returns of exceptions cost `exception_cycles` more: they belong to no instruction and are in no sum.

    `conditions` names clock, wait states, bank mode and placement; `expected_error` says how far boards of the same
    silicon were from this model. `memory` counts cache and flash events (names depend on the core).
    """

    core: str
    model_version: str
    clock_hz: int
    conditions: str
    expected_error: str
    instructions: int
    skipped: int
    cycles: int
    stalls: Mapping[str, int]
    memory: Mapping[str, int]
    exception_cycles: int
    layers: tuple[LayerTrace, ...]
    addresses: tuple[AddressTrace, ...]

    @property
    def milliseconds(self) -> float:
        """Time at the board's clock."""
        return self.cycles / self.clock_hz * 1e3

    def to_json(self, *, addresses: bool = True) -> dict[str, Any]:
        """The result as plain values for a JSON file.

        Args:
            addresses: whether to keep the list of instructions, by far the largest part.
        """
        values = asdict(self)
        if not addresses:
            del values["addresses"]
        values["milliseconds"] = self.milliseconds
        return values


_ROWS = 1 << 16  # distinct instructions of one trace
# Memory maps of both families: vendor device headers stm32l4r9xx.h and stm32h7b3xx.h. _SRAM3: the STM32L4+'s third RAM.
_FLASH, _RAM, _SRAM3, _AXI, _AHB = 0x08000000, 0x20000000, 0x20040000, 0x24000000, 0x30000000
_IT = (0x0F, 0xBF)  # Armv7-M ARM A7.7.38: IT is 1011 1111 cond mask, the mask not zero
_LONGEST_IT = 18  # bytes of an IT instruction and the four behind it


class FullTrace:
    """Traces a machine while the `with` block lasts.

    Layers are those of the block counter. Caches and branch predictor are cold at the beginning and stay warm after
    `clear`. Code that is changed in RAM while traced is not noticed when the sizes of its instructions stay the same.

    Args:
        machine: the machine; it can be run as ever inside the block.
        model: a `CortexM4` or `CortexM7` with other rules; the machine's own by default.

    Raises:
        ToolchainError: the C part cannot be built here.
        OptionError: there is no simulator for the model.

    Example:
        with FullTrace(firmware.machine) as trace:
            firmware.run(picture)
        print(trace.result().cycles)
    """

    def __init__(self, machine: Machine, *, model: CortexM4 | CortexM7 | None = None) -> None:
        self.machine = machine
        chosen = model or machine.model
        if not isinstance(chosen, (CortexM4, CortexM7)):
            raise OptionError(
                f"the cycle model {chosen.name}", "there is no simulator for it", "Use CortexM4 or CortexM7"
            )
        self.model = chosen
        self._library = trace_library()
        self._error: BaseException | None = None
        self._instructions: dict[int, Instruction] = {}
        self._handle: ctypes.c_size_t | None = None
        self._names = ["outside"]
        for number, name in sorted(machine.markers.values()):
            self._names += [""] * (number + 1 - len(self._names))
            self._names[number] = name
        self._windows = _windows(machine, isinstance(chosen, CortexM4))
        self._row_of = np.zeros(sum(span // 2 for _, span, _ in self._windows), np.uint32)
        self._rows = np.zeros(_ROWS, ROW)
        self._cells = np.zeros(_ROWS, CELL)
        self._layers = np.zeros(len(self._names), LAYER)
        self._exceptions = machine.exceptions.cycles
        self._context = self._make_context()

    def __enter__(self) -> FullTrace:
        from unicorn import UC_HOOK_CODE

        emulator = self.machine.emulator
        self._handle = add_hook(emulator, UC_HOOK_CODE, self._library.mj_trace_code, self._context, "Use edge counts")
        self.machine.translate_again()  # code translated before has no call of the hook
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle is not None:
            remove_hook(self.machine.emulator, self._handle)
            self.machine.hooks_gone = True
            self._handle = None
        if self._error is not None:
            raise self._error

    def __del__(self) -> None:
        context = getattr(self, "_context", None)
        if context is not None and context.core:
            self._library.mj_trace_free(context.core)
            context.core = None

    def clear(self) -> None:
        """Starts counting from zero; caches, predictor and the current layer stay as they are."""
        self._library.mj_trace_flush(ctypes.byref(self._context))
        self._exceptions = self.machine.exceptions.cycles
        self._cells[: len(self._instructions)].fill(0)
        self._layers.fill(0)
        ctypes.memset(ctypes.addressof(self._context.memory), 0, ctypes.sizeof(self._context.memory))

    def result(self) -> TraceResult:
        """What was traced since the beginning or the last `clear`.

        Raises:
            EmulationError: code outside the board's memories, or more distinct instructions than there is room for.
        """
        if self._error is not None:
            raise self._error
        if self._context.outside:
            raise EmulationError("the trace", "code ran outside the board's memories", "Add the memory to the board")
        self._library.mj_trace_flush(ctypes.byref(self._context))
        layers = tuple(
            LayerTrace(
                number=number,
                symbol=name,
                instructions=int(cell["total"]["issued"]),
                skipped=int(cell["total"]["skipped"]),
                cycles=int(cell["total"]["cycles"]),
                stalls=_stalls(cell["total"]),
                kinds={kind: int(count) for kind, count in zip(KINDS, cell["kinds"], strict=True) if count},
            )
            for number, (name, cell) in enumerate(zip(self._names, self._layers, strict=True))
        )
        prefix = self._prefix()
        counters = names_of(self._library, f"mj_{prefix}_memory")
        return TraceResult(
            core=self.model.name,
            model_version=self.model.version,
            clock_hz=self.model.clock_hz,
            conditions=f"{self.model.conditions}; {self._placement()}",
            expected_error=self.model.traced_error,
            instructions=sum(layer.instructions for layer in layers),
            skipped=sum(layer.skipped for layer in layers),
            cycles=sum(layer.cycles for layer in layers),
            stalls={cause: sum(layer.stalls[cause] for layer in layers) for cause in STALLS},
            memory={name: int(value) for name, value in zip(counters, self._context.memory, strict=False)},
            exception_cycles=self.machine.exceptions.cycles - self._exceptions,
            layers=layers,
            addresses=tuple(self._addresses()),
        )

    def _addresses(self) -> list[AddressTrace]:
        found = []
        for number in np.flatnonzero(self._cells["issued"]):
            cell, instruction = self._cells[number], self._instructions[int(number)]
            found.append(
                AddressTrace(
                    address=instruction.address,
                    text=instruction.text,
                    instructions=int(cell["issued"]),
                    skipped=int(cell["skipped"]),
                    cycles=int(cell["cycles"]),
                    stalls=_stalls(cell),
                )
            )
        return sorted(found, key=lambda item: item.address)

    def _prefix(self) -> str:
        return "m4" if isinstance(self.model, CortexM4) else "m7"

    def _placement(self) -> str:
        board, symbols = self.machine.board, self.machine.image.symbols
        parts = [f"stack in {board.data_memory.name}"]
        for name, what in (("mj_arena", "arena"), ("mj_fast", "second arena")):
            if name in symbols:
                address = symbols[name].address
                parts += [
                    f"{what} in {memory.name}" for memory in board.memories if memory.base <= address < memory.end
                ]
        return ", ".join(parts)

    def _make_context(self) -> Context:
        from unicorn import arm_const
        from unicorn.unicorn_py3.unicorn import uclib

        context = Context()
        context.windows = len(self._windows)
        first = 0
        for number, (base, span, place) in enumerate(self._windows):
            context.base[number], context.span[number] = base, span
            context.first[number], context.place[number] = first, place
            first += span // 2
        for name in ("row_of", "rows", "cells", "layers"):
            setattr(context, name, getattr(self, f"_{name}").ctypes.data)
        prefix = self._prefix()
        memory = self.model.flash if isinstance(self.model, CortexM4) else self.model.memory
        values = [
            int(getattr(self.model.rules, name) if hasattr(self.model.rules, name) else getattr(memory, name))
            for name in names_of(self._library, f"mj_{prefix}_rules")
        ]
        self._rules: npt.NDArray[np.int32] = np.array(values, np.int32)
        context.rules = self._rules.ctypes.data
        context.core_kind = 0 if prefix == "m4" else 1
        context.read_register = ctypes.cast(uclib.uc_reg_read, ctypes.c_void_p).value
        context.stop = ctypes.cast(uclib.uc_emu_stop, ctypes.c_void_p).value
        owner = weakref.ref(self)  # no cycle: the arrays go as soon as the trace does
        context.decode = DECODE(lambda address, size: _decode(owner(), address, size))
        for number in range(13):
            context.register_number[number] = arm_const.UC_ARM_REG_R0 + number
        for number, name in ((13, "SP"), (14, "LR"), (15, "PC")):
            context.register_number[number] = getattr(arm_const, f"UC_ARM_REG_{name}")
        context.core = getattr(self._library, f"mj_{prefix}_new")(ctypes.byref(context))
        if not context.core:
            raise EmulationError("the full trace", "there is not enough memory", "Close other programs")
        return context

    def _add(self, address: int, size: int) -> None:
        window = next(number for number, (base, span, _) in enumerate(self._windows) if 0 <= address - base < span)
        base, span, place = self._windows[window]
        code = self.machine.read(address, size)
        if size == 2 and code[1] == _IT[1] and code[0] & _IT[0]:
            code = self.machine.read(address, min(_LONGEST_IT, base + span - address))
        found = decode(code, address)
        if not found or found[0].size != size:
            raise EmulationError(
                f"the instruction at {address:#010x}",
                f"the disassembler does not know its {size} bytes {code[:size].hex()}",
                "Use edge counts",
            )
        # With an IT instruction come those whose execution it decides: alone they would look unconditional.
        count = 1
        while found[0].kind == "it" and count < len(found) and found[count].in_it:
            count += 1
        for instruction in found[:count]:
            index = int(self._context.first[window]) + (instruction.address - base) // 2
            number = int(self._row_of[index]) - 1
            if number < 0:
                number = len(self._instructions)
                if number == _ROWS:
                    raise EmulationError("the trace", f"there are more than {_ROWS} instructions", "Trace less code")
                self._row_of[index] = number + 1
            self._instructions[number] = instruction
            layer = self.machine.markers.get(instruction.address, (0, ""))[0]
            fill_row(self._rows[number], instruction, self.model, layer=layer, place=place)


def _decode(trace: FullTrace | None, address: int, size: int) -> int:
    """Called by the hook for an instruction it has not seen. Exceptions must not pass through C."""
    if trace is None:
        return 1
    try:
        trace._add(address, size)
    except BaseException as error:  # raised again when the run has ended
        trace._error = error
        return 1
    return 0


def _stalls(cell: np.void) -> dict[str, int]:
    return {cause: int(value) for cause, value in zip(STALLS, cell["stalls"], strict=True)}


def _windows(machine: Machine, m4: bool) -> list[tuple[int, int, int]]:
    """(base, bytes, place) of all memories; an alias is as fast as the memory behind it."""
    board = machine.board
    spans = [(board.flash.base, board.flash.size, board.flash.base)]
    spans += [(memory.base, memory.size, memory.base) for memory in board.memories]
    for window in machine.memories.windows:
        spans.append((window.base, window.size, window.base if window.alias is None else window.alias))
    found: list[tuple[int, int, int]] = []
    for base, size, origin in spans:
        head = min(max(_SRAM3 - origin, 0), size) if m4 and origin >= _RAM else size
        found += [(base, head, _place(origin, m4)), (base + head, size - head, PLACES["slow"])]
    found = [item for item in found if item[1] > 0]
    if len(found) > WINDOWS:
        raise EmulationError("code memory", f"there are more than {WINDOWS} of them", "Describe fewer memories")
    return found


def _place(address: int, m4: bool) -> int:
    """The kind of memory at an address. Armv7-M's default memory map makes AXI and AHB SRAM cacheable on the M7."""
    if _FLASH <= address < _RAM:
        return PLACES["flash"]
    if m4 or address < _AXI:
        return PLACES["immediate"]
    return PLACES["axi" if address < _AHB else "ahb"]
