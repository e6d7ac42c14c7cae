"""Exact block and edge counts of a run: one interface, a native counter and one in Python, equal in every count."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np

from millijoule.emulate._native import DEPTH, WINDOWS, Context, hook_library
from millijoule.errors import EmulationError, ToolchainError

__all__ = ["BlockCounter", "Edge", "NativeCounter", "PythonCounter", "make_counter"]

_NOTHING = 0x3FFFFF
_TABLE = 1 << 18
_PAIR = (1 << 44) - 1


@dataclass(frozen=True)
class Edge:
    """Control went `count` times from the block at `source` (None: the beginning) to the one at `target`.

    `layer` is the marker that was in force, `missed` how often a two-bit predictor was wrong about the branch.
    """

    layer: int
    source: int | None
    target: int
    count: int
    missed: int


class BlockCounter(Protocol):
    """Counts blocks while the machine runs."""

    name: str

    def attach(self, emulator: Any) -> None:
        """Installs the hook."""

    def clear(self) -> None:
        """Forgets all counts and the current layer; the branch predictor stays warm."""

    def edges(self) -> list[Edge]:
        """What was counted since `clear`."""

    def pairs(self) -> Iterable[tuple[Hashable, int, int]]:
        """(key of source and target, count, missed) of every edge, quickly; `ends` explains the keys."""

    def ends(self, pair: Hashable) -> tuple[int | None, int]:
        """Source and target addresses of a key of `pairs`."""

    def sizes(self) -> Mapping[int, int]:
        """Bytes of every block seen, by start address."""

    def begin(self, limit: int) -> None:
        """Starts a run of at most `limit` blocks."""

    def limited(self) -> bool:
        """Whether the last run was stopped because it reached its limit."""


class _Base:
    def __init__(self, windows: Sequence[tuple[int, int]], markers: Mapping[int, int]) -> None:
        if len(windows) > WINDOWS:
            raise EmulationError("code memory", f"there are more than {WINDOWS} of them", "Describe fewer memories")
        self._windows = list(windows)
        self._first: list[int] = []
        total = 0
        for _, span in self._windows:
            self._first.append(total)
            total += span // 2
        if total >= _NOTHING:
            raise EmulationError("code memory", "the memories are larger than 8 MB together", "Describe fewer memories")
        self._total = total
        self._markers = dict(markers)

    def _address(self, index: int) -> int:
        for (base, _), first in zip(reversed(self._windows), reversed(self._first), strict=True):
            if index >= first:
                return base + 2 * (index - first)
        raise AssertionError("a code index is never negative")

    def _index(self, address: int) -> int | None:
        for (base, span), first in zip(self._windows, self._first, strict=True):
            if 0 <= address - base < span:
                return first + (address - base) // 2
        return None

    @staticmethod
    def _refuse(resized: int, outside: int, full: int) -> None:
        if resized or full or outside:
            raise EmulationError(
                "the count of executed blocks",
                f"it is not exact ({resized} blocks changed size, {outside} outside the memories, {full} not counted)",
                "Report it together with the firmware",
            )


class NativeCounter(_Base):
    """The counter in C; about one nanosecond a block."""

    name = "native"

    def __init__(self, windows: Sequence[tuple[int, int]], markers: Mapping[int, int]) -> None:
        super().__init__(windows, markers)
        library = hook_library()
        if library is None:
            raise ToolchainError(
                "the counting hook", "no compiler can build it", "Install ziglang, or use hook='python'"
            )
        self._library = library
        self._size = np.zeros(self._total + 1, np.uint16)
        self._predictor = np.ones(self._total + 1, np.uint8)
        self._marker = np.zeros(self._total + 1, np.uint16)
        for address, layer in self._markers.items():
            index = self._index(address)
            if index is not None:
                self._marker[index] = layer
        self._key = np.zeros(_TABLE, np.uint64)
        self._count = np.zeros(_TABLE, np.uint64)
        self._missed = np.zeros(_TABLE, np.uint64)
        context = Context()
        context.windows = len(self._windows)
        for number, ((base, span), first) in enumerate(zip(self._windows, self._first, strict=True)):
            context.base[number], context.span[number], context.first[number] = base, span, first
        for name in ("size", "predictor", "marker", "key", "count", "missed"):
            setattr(context, name, getattr(self, f"_{name}").ctypes.data)
        context.mask = _TABLE - 1
        self._context = context
        self.clear()

    def attach(self, emulator: Any) -> None:
        """Installs the hook through the emulator library's own C interface."""
        from unicorn import UC_HOOK_BLOCK
        from unicorn.arm_const import UC_ARM_REG_LR
        from unicorn.unicorn_py3.unicorn import uclib

        context = self._context
        context.read_register = ctypes.cast(uclib.uc_reg_read, ctypes.c_void_p).value
        context.stop = ctypes.cast(uclib.uc_emu_stop, ctypes.c_void_p).value
        context.link_register = UC_ARM_REG_LR
        handle = ctypes.c_size_t()
        function = ctypes.cast(self._library.mj_hook_block, ctypes.c_void_p)
        status = uclib.uc_hook_add(
            emulator._uch,
            ctypes.byref(handle),
            UC_HOOK_BLOCK,
            function,
            ctypes.byref(context),
            ctypes.c_uint64(1),
            ctypes.c_uint64(0),
        )
        if status != 0:
            raise EmulationError("the counting hook", f"the emulator refused it (status {status})", "Use hook='python'")

    def clear(self) -> None:
        """See `BlockCounter.clear`."""
        for array in (self._key, self._count, self._missed):
            array.fill(0)
        context = self._context
        context.used = context.layer = context.depth = 0
        context.previous, context.previous_end = _NOTHING, 2**64 - 1
        context.resized = context.outside = context.full = 0

    def begin(self, limit: int) -> None:
        """See `BlockCounter.begin`."""
        self._context.blocks = 0
        self._context.limit = limit
        self._context.stopped = 0

    def limited(self) -> bool:
        """See `BlockCounter.limited`."""
        return bool(self._context.stopped)

    def edges(self) -> list[Edge]:
        """See `BlockCounter.edges`."""
        found = [Edge(key >> 44, *self.ends(key & _PAIR), count, missed) for key, count, missed in self._cells()]
        return sorted(found, key=lambda edge: (edge.layer, edge.target, edge.source or 0))

    def pairs(self) -> Iterable[tuple[Hashable, int, int]]:
        """See `BlockCounter.pairs`."""
        return ((key & _PAIR, count, missed) for key, count, missed in self._cells())

    def ends(self, pair: Hashable) -> tuple[int | None, int]:
        """See `BlockCounter.ends`."""
        number = cast(int, pair)
        source = number >> 22
        return None if source == _NOTHING else self._address(source), self._address(number & _NOTHING)

    def _cells(self) -> Iterable[tuple[int, int, int]]:
        context = self._context
        self._refuse(int(context.resized), int(context.outside), int(context.full))
        slots = np.flatnonzero(self._key)
        keys = (self._key[slots] - np.uint64(1)).tolist()
        return zip(keys, self._count[slots].tolist(), self._missed[slots].tolist(), strict=True)

    def sizes(self) -> Mapping[int, int]:
        """See `BlockCounter.sizes`."""
        return {self._address(int(index)): int(self._size[index]) for index in np.nonzero(self._size)[0]}


class PythonCounter(_Base):
    """The same counter in Python, for machines without any compiler; about half a microsecond a block."""

    name = "python"

    def __init__(self, windows: Sequence[tuple[int, int]], markers: Mapping[int, int]) -> None:
        super().__init__(windows, markers)
        self._block_sizes: dict[int, int] = {}
        self._state: dict[int, int] = {}
        self._blocks = 0
        self._limit = 0
        self._stopped = False
        self._read_link: Callable[[], int] = lambda: 0
        self.clear()

    def attach(self, emulator: Any) -> None:
        """Installs the hook."""
        from unicorn import UC_HOOK_BLOCK
        from unicorn.arm_const import UC_ARM_REG_LR

        self._read_link = lambda: int(emulator.reg_read(UC_ARM_REG_LR))
        emulator.hook_add(UC_HOOK_BLOCK, self._block)

    def clear(self) -> None:
        """See `BlockCounter.clear`."""
        self._counts: dict[tuple[int, int | None, int], list[int]] = {}
        self._layer = 0
        self._stack: list[tuple[int, int]] = []
        self._previous: int | None = None
        self._previous_end = -1
        self._resized = self._outside = 0

    def begin(self, limit: int) -> None:
        """See `BlockCounter.begin`."""
        self._blocks, self._limit, self._stopped = 0, limit, False

    def limited(self) -> bool:
        """See `BlockCounter.limited`."""
        return self._stopped

    def edges(self) -> list[Edge]:
        """See `BlockCounter.edges`."""
        self._refuse(self._resized, self._outside, 0)
        found = [Edge(layer, source, to, count, miss) for (layer, source, to), (count, miss) in self._counts.items()]
        return sorted(found, key=lambda edge: (edge.layer, edge.target, edge.source or 0))

    def pairs(self) -> Iterable[tuple[Hashable, int, int]]:
        """See `BlockCounter.pairs`."""
        self._refuse(self._resized, self._outside, 0)
        return (((source, to), count, miss) for (_, source, to), (count, miss) in self._counts.items())

    def ends(self, pair: Hashable) -> tuple[int | None, int]:
        """See `BlockCounter.ends`."""
        return cast("tuple[int | None, int]", pair)

    def sizes(self) -> Mapping[int, int]:
        """See `BlockCounter.sizes`."""
        return dict(self._block_sizes)

    def _block(self, emulator: Any, address: int, size: int, _: object) -> None:
        self._blocks += 1
        if self._blocks >= self._limit:
            self._stopped = True
            emulator.emu_stop()
            return
        if self._index(address) is None:
            self._outside += 1
            self._previous, self._previous_end = None, -1
            return
        while self._stack and self._stack[-1][0] == address:
            self._layer = self._stack.pop()[1]
        entered = self._markers.get(address, 0)
        if entered:
            link = self._read_link() & ~1
            again = self._layer == entered and self._stack and self._stack[-1][0] == link
            if len(self._stack) < DEPTH and not again:
                self._stack.append((link, self._layer))
                self._layer = entered
        known = self._block_sizes.get(address)
        if known != size:
            self._resized += known is not None
            self._block_sizes[address] = size
        missed = 0
        if self._previous is not None:
            state = self._state.get(self._previous, 1)
            taken = address != self._previous_end
            missed = int((state >= 2) != taken)
            self._state[self._previous] = min(state + 1, 3) if taken else max(state - 1, 0)
        cell = self._counts.setdefault((self._layer, self._previous, address), [0, 0])
        cell[0] += 1
        cell[1] += missed
        self._previous, self._previous_end = address, address + size


def make_counter(hook: str, windows: Sequence[tuple[int, int]], markers: Mapping[int, int]) -> BlockCounter:
    """A counter: "native", "python", or "auto" (native where it can be built)."""
    if hook == "python" or (hook == "auto" and hook_library() is None):
        return PythonCounter(windows, markers)
    if hook in ("auto", "native"):
        return NativeCounter(windows, markers)
    raise EmulationError(f"hook {hook!r}", "there is no hook of that name", "Choose auto, native or python")
