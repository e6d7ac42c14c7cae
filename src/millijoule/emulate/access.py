"""Accesses that the emulator library lets pass and a chip does not, found while the firmware runs and explained.

Reads of RAM that nothing has written: RAM is noise after power-on, so such a read gives another value on every board
and at every start. Misaligned accesses that raise a fault on the chip: several words at once, doubles, floats,
exclusive accesses, and all to peripherals. The hook computes the address of every access from the registers before the
instruction executes; memory hooks of the emulator library are not used: they disturb conditional instructions.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

import numpy as np
import numpy.typing as npt

from millijoule.emulate._decode import decode
from millijoule.emulate._faults import UNALIGNED, Reason
from millijoule.emulate._library import add_hook, native_library, remove_hook
from millijoule.emulate.exceptions import USAGE_FAULT
from millijoule.emulate.machine import Machine

__all__ = ["AccessCheck", "Finding"]

_WINDOWS, _FOUND = 16, 256
_READS, _WRITES, _KNOWN = 1, 2, 128
_PRELOADS = ("pld", "pldw", "pli")
_KINDS = ("unwritten", "misaligned")
_WORD = ctypes.c_uint64
_DECODE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint32, ctypes.c_uint32)
_OPERAND = np.dtype(
    [
        ("displacement", "<i4"),
        *((name, "u1") for name in ("access", "base", "index", "shift", "bytes", "table", "element", "strict")),
    ]
)


class _Found(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_uint32) for name in ("instruction", "address", "bytes", "kind")),
        ("count", _WORD),
    )


class _Context(ctypes.Structure):
    """The hook's state; the fields mirror `context` in c/access.c."""

    _fields_ = (
        ("codes", _WORD),
        ("code_base", _WORD * _WINDOWS),
        ("code_span", _WORD * _WINDOWS),
        ("operands", ctypes.c_void_p * _WINDOWS),
        ("rams", _WORD),
        ("ram_base", _WORD * _WINDOWS),
        ("ram_span", _WORD * _WINDOWS),
        ("written", ctypes.c_void_p * _WINDOWS),
        ("read_register", ctypes.c_void_p),
        ("stop", ctypes.c_void_p),
        ("decode", _DECODE),
        ("register_number", _WORD * 16),
        ("failed", _WORD),
        ("count", _WORD),
        ("lost", _WORD),
        ("delivers", _WORD),
        ("every_one", _WORD),
        ("stopped_at", _WORD),
        ("found", _Found * _FOUND),
    )


@dataclass(frozen=True)
class Finding:
    """One instruction that did what a chip does not allow, or gives no value for.

    Attributes:
        kind: "unwritten" or "misaligned".
        instruction: its address.
        text: its disassembly.
        function: the function it belongs to, "?" without symbols.
        address: of the access; for "unwritten" the first byte without a value. Both at the first such access.
        place: the variable, section or memory of that address.
        count: how often the instruction did so.
    """

    kind: str
    instruction: int
    text: str
    function: str
    address: int
    place: str
    count: int

    def __str__(self) -> str:
        what = f"reads {self.address:#010x} in {self.place}, which nothing has written"
        if self.kind == "misaligned":
            what = f"accesses {self.address:#010x} in {self.place}, which is not aligned: the chip raises a usage fault"
        return f"{self.function} at {self.instruction:#010x} ({self.text}) {what} ({self.count} times)"


class AccessCheck:
    """Watches a machine while the `with` block lasts. Enter it before the first instruction: RAM counts as unwritten.

    What the host writes with `machine.write` counts as written.

    Args:
        machine: the machine, just reset.
        deliver: raise the usage fault of a misaligned access in the core instead of only noting it.

    Raises:
        ToolchainError: the C part cannot be built here.

    Example:
        with AccessCheck(machine) as check:
            machine.run(end)
        for finding in check.found():
            print(finding)
    """

    def __init__(self, machine: Machine, *, deliver: bool = False) -> None:
        self.machine = machine
        self._deliver = deliver
        self._library = native_library("access", ["access.c"])
        self._error: BaseException | None = None
        self._handle: ctypes.c_size_t | None = None
        self._codes = machine.memories.spans()[:_WINDOWS]
        self._operands = [np.zeros(span // 2, _OPERAND) for _, span in self._codes]
        self._rams, self._written = _shadows(machine)
        self._context = self._make_context()
        self._write: Callable[[int, bytes], None] | None = None

    def __enter__(self) -> AccessCheck:
        from unicorn import UC_HOOK_CODE

        emulator, function = self.machine.emulator, self._library.mj_access_code
        self._handle = add_hook(emulator, UC_HOOK_CODE, function, self._context, "Run without this check")
        self.machine.translate_again()  # code translated before has no call of the hook
        if self._deliver:
            self._context.delivers = 1
            self.machine.runner.stop_reasons.append(self._reason)
        original = self.machine.write

        def write(address: int, data: bytes) -> None:
            original(address, data)
            self.mark(address, len(data))

        self._write = original
        setattr(self.machine, "write", write)  # noqa: B010 - what the host writes is seen, too
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle is not None:
            remove_hook(self.machine.emulator, self._handle)
            self.machine.hooks_gone = True
            self._handle = None
            if self._deliver:
                self.machine.runner.stop_reasons.remove(self._reason)
            delattr(self.machine, "write")
        if self._error is not None:
            raise self._error

    def every_access(self, on: bool) -> None:
        """Whether all accesses must be aligned, as CCR.UNALIGN_TRP says."""
        self._context.every_one = int(on)

    def _reason(self) -> Reason | None:
        """Why the emulator stands before an instruction, None when this check did not stop it."""
        context = self._context
        stopped, context.stopped_at = int(context.stopped_at), 0
        if not stopped:
            return None
        return Reason(USAGE_FAULT, UNALIGNED, "its access is not aligned")

    def mark(self, address: int, count: int) -> None:
        """Takes `count` bytes at `address` for written."""
        for (base, span), shadow in zip(self._rams, self._written, strict=True):
            first, last = max(address - base, 0), min(address + count - base, span)
            if first < last:
                shadow[first:last] = 1

    def found(self) -> list[Finding]:
        """The instructions found, in the order of their first such access; at most 256."""
        context = self._context
        return [self._explain(context.found[number]) for number in range(int(context.count))]

    @property
    def lost(self) -> int:
        """Accesses by further instructions, for which there was no room."""
        return int(self._context.lost)

    def _explain(self, finding: _Found) -> Finding:
        address, image = int(finding.instruction), self.machine.image
        decoded = decode(self.machine.read(address, 4), address) or decode(self.machine.read(address, 2), address)
        return Finding(
            kind=_KINDS[finding.kind],
            instruction=address,
            text=decoded[0].text if decoded else "?",
            function=image.function_at(address),
            address=int(finding.address),
            place=self._place(int(finding.address)),
            count=int(finding.count),
        )

    def _place(self, address: int) -> str:
        image = self.machine.image
        for symbol in image.symbols.values():
            if not symbol.code and symbol.address <= address < symbol.address + symbol.size:
                return symbol.name
        for section in image.sections:
            if section.address <= address < section.address + section.size:
                return f"section {section.name}"
        machine = self.machine
        places = [(memory.name, memory.base, memory.size) for memory in machine.board.memories]
        places += [(window.name, window.base, window.size) for window in machine.memories.windows]
        return next((name for name, base, size in places if base <= address < base + size), "the peripherals")

    def _make_context(self) -> _Context:
        from unicorn import arm_const
        from unicorn.unicorn_py3.unicorn import uclib

        context = _Context()
        context.codes, context.rams = len(self._codes), len(self._rams)
        for number, ((base, span), table) in enumerate(zip(self._codes, self._operands, strict=True)):
            context.code_base[number], context.code_span[number] = base, span
            context.operands[number] = table.ctypes.data
        for number, ((base, span), shadow) in enumerate(zip(self._rams, self._written, strict=True)):
            context.ram_base[number], context.ram_span[number] = base, span
            context.written[number] = shadow.ctypes.data
        context.read_register = ctypes.cast(uclib.uc_reg_read, ctypes.c_void_p).value
        context.stop = ctypes.cast(uclib.uc_emu_stop, ctypes.c_void_p).value
        context.decode = _DECODE(self._decode)
        for number in range(13):
            context.register_number[number] = arm_const.UC_ARM_REG_R0 + number
        for number, name in ((13, "SP"), (14, "LR"), (15, "PC")):
            context.register_number[number] = getattr(arm_const, f"UC_ARM_REG_{name}")
        return context

    def _decode(self, address: int, size: int) -> int:
        """Called by the hook for an instruction it has not seen. Exceptions must not pass through C."""
        try:
            self._add(address, size)
        except BaseException as error:  # raised again when the block ends
            self._error = error
            return 1
        return 0

    def _add(self, address: int, size: int) -> None:
        number = next(n for n, (base, span) in enumerate(self._codes) if 0 <= address - base < span)
        row = self._operands[number][(address - self._codes[number][0]) // 2]
        decoded = decode(self.machine.read(address, size), address)
        access = decoded[0].access if decoded else None
        row["access"], row["base"], row["index"] = _KNOWN, 255, 255
        if access is not None and decoded[0].name not in _PRELOADS:
            row["access"] = _KNOWN | (_WRITES if access.write else _READS)
            row["base"], row["shift"] = access.base, access.shift
            row["index"] = 255 if access.index is None else access.index
            row["displacement"], row["bytes"] = access.displacement, access.bytes
            row["table"] = decoded[0].kind == "table"
            row["element"] = access.element
            exclusive = decoded[0].name.startswith(("ldrex", "strex"))
            row["strict"] = exclusive or decoded[0].kind not in ("load", "store", "table")


def _shadows(machine: Machine) -> tuple[list[tuple[int, int]], list[npt.NDArray[np.uint8]]]:
    """(base, size) of every RAM, and a byte for each of its bytes: 1 once it is written. Aliases share theirs."""
    rams = [(memory.base, memory.size) for memory in machine.board.memories]
    rams += [(w.base, w.size) for w in machine.memories.windows if w.writable and w.alias is None]
    written: list[npt.NDArray[np.uint8]] = [np.zeros(size, np.uint8) for _, size in rams]
    for window in machine.memories.windows:
        for (base, size), shadow in zip(tuple(rams), tuple(written), strict=True):
            if window.alias is not None and base <= window.alias < base + size:
                rams.append((window.base, window.size))
                written.append(shadow[window.alias - base :][: window.size])
                break
    return rams[:_WINDOWS], written[:_WINDOWS]
