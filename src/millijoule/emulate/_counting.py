"""Exact block and edge counts of a run: one interface, a native counter and one in Python, equal in every count."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np

from millijoule.emulate._counter import NEVER, BaseCounter, BlockCounter, Costs, Edge, Fresh, Place
from millijoule.emulate._counting_python import PythonCounter
from millijoule.emulate._library import add_hook
from millijoule.emulate._native import LOWEST, NOTHING, Context, Question, hook_library
from millijoule.errors import EmulationError, ToolchainError

__all__ = ["NEVER", "BlockCounter", "Edge", "NativeCounter", "Place", "PythonCounter", "make_counter"]

_TABLE = 1 << 18
_PAIR = (1 << 44) - 1


class NativeCounter(BaseCounter):
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
        self._price = np.zeros(_TABLE, np.uint64)
        context = Context()
        context.windows = len(self._windows)
        for number, ((base, span), first) in enumerate(zip(self._windows, self._first, strict=True)):
            context.base[number], context.span[number], context.first[number] = base, span, first
        context.deadline = context.timer = NEVER
        context.masked = LOWEST
        for name in ("size", "predictor", "marker", "key", "count", "missed", "price"):
            setattr(context, name, getattr(self, f"_{name}").ctypes.data)
        context.mask = _TABLE - 1
        self._context = context
        self.clear()

    def attach(self, emulator: Any, fresh: Fresh, costs: Costs) -> None:
        """Installs the hook through the emulator library's own C interface."""
        from unicorn import UC_HOOK_BLOCK, arm_const
        from unicorn.unicorn_py3.unicorn import uclib

        context = self._context
        context.read_register = ctypes.cast(uclib.uc_reg_read, ctypes.c_void_p).value
        context.read_memory = ctypes.cast(uclib.uc_mem_read, ctypes.c_void_p).value
        context.stop = ctypes.cast(uclib.uc_emu_stop, ctypes.c_void_p).value
        context.link_register = arm_const.UC_ARM_REG_LR
        context.primask, context.basepri = arm_const.UC_ARM_REG_PRIMASK, arm_const.UC_ARM_REG_BASEPRI
        context.first_register = arm_const.UC_ARM_REG_R0
        context.fresh = Question(functools.partial(self._fresh, fresh))
        context.cost = Question(functools.partial(self._cost, costs))
        self._emulator = emulator
        self._handles: list[ctypes.c_size_t] = []
        self._hook(UC_HOOK_BLOCK, self._library.mj_hook_block, 1, 0)

    def _hook(self, kind: int, function: Any, first: int, last: int) -> None:
        fix = "Use hook='python'"
        self._handles.append(add_hook(self._emulator, kind, function, self._context, fix, first=first, last=last))

    def trap_divisions(self, addresses: Iterable[int]) -> None:
        """See `BlockCounter.trap_divisions`."""
        from unicorn import UC_HOOK_CODE

        for address in addresses:
            self._hook(UC_HOOK_CODE, self._library.mj_hook_divide, address, address)

    def _fresh(self, fresh: Fresh, address: int, size: int) -> int:
        return int(fresh(address, size))

    def _cost(self, costs: Costs, source: int, target: int) -> int:
        start = None if source == NOTHING else self._address(source)
        size = 0 if start is None else int(self._size[source])
        cycles, penalty = costs(start, size, self._address(target), int(self._size[target]))
        return penalty << 32 | cycles

    @property
    def clock(self) -> int:
        """See `BlockCounter`."""
        return int(self._context.clock)

    @clock.setter
    def clock(self, cycles: int) -> None:
        self._context.clock = cycles

    def trapped(self) -> int:
        """See `BlockCounter.trapped`."""
        address, self._context.trapped = int(self._context.trapped), 0
        return address

    def arm(self, timer: int, masked: int | None = None, group_mask: int = 0xFF) -> None:
        """See `BlockCounter.arm`."""
        context = self._context
        context.timer, context.group_mask = timer, group_mask
        context.masked = LOWEST if masked is None else masked
        context.deadline = timer if masked is None else 0

    def attention(self) -> None:
        """See `BlockCounter.attention`."""
        self._context.deadline, self._context.masked = 0, LOWEST

    def paused(self) -> bool:
        """See `BlockCounter.paused`."""
        paused, self._context.paused = bool(self._context.paused), 0
        return paused

    def place(self) -> Place:
        """See `BlockCounter.place`."""
        context = self._context
        previous = int(context.previous)
        before = None if previous == NOTHING else self._address(previous)
        return before, int(context.previous_end), int(context.layer)

    def restore(self, place: Place) -> None:
        """See `BlockCounter.restore`."""
        before, end, layer = place
        index = None if before is None else self._index(before)
        self._context.previous = NOTHING if index is None else index
        self._context.previous_end, self._context.layer = end, layer

    def clear(self) -> None:
        """See `BlockCounter.clear`."""
        for array in (self._key, self._count, self._missed):
            array.fill(0)
        context = self._context
        context.used = context.layer = context.depth = 0
        context.previous, context.previous_end = NOTHING, NEVER
        context.resized = context.outside = context.full = 0

    def forget_predictions(self) -> None:
        """See `BlockCounter.forget_predictions`."""
        self._predictor.fill(1)

    def forget_blocks(self) -> None:
        """See `BlockCounter.forget_blocks`."""
        self.clear()
        self._size.fill(0)

    def begin(self, limit: int) -> None:
        """See `BlockCounter.begin`."""
        context = self._context
        context.blocks, context.limit = 0, limit
        context.stopped = context.paused = context.trapped = 0

    def ignore(self, action: Callable[[], None]) -> None:
        """See `BlockCounter.ignore`."""
        context = self._context
        outside, blocks = int(context.outside), int(context.blocks)
        context.blocks = 0
        action()
        context.outside, context.blocks = outside, blocks

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
        return None if source == NOTHING else self._address(source), self._address(number & NOTHING)

    def _cells(self) -> Iterable[tuple[int, int, int]]:
        context = self._context
        self._refuse(int(context.resized), int(context.outside), int(context.full))
        slots = np.flatnonzero(self._key)
        keys = (self._key[slots] - np.uint64(1)).tolist()
        return zip(keys, self._count[slots].tolist(), self._missed[slots].tolist(), strict=True)

    def sizes(self) -> Mapping[int, int]:
        """See `BlockCounter.sizes`."""
        return {self._address(int(index)): int(self._size[index]) for index in np.nonzero(self._size)[0]}


def make_counter(hook: str, windows: Sequence[tuple[int, int]], markers: Mapping[int, int]) -> BlockCounter:
    """A counter: "native", "python", or "auto" (native where it can be built)."""
    if hook == "python" or (hook == "auto" and hook_library() is None):
        return PythonCounter(windows, markers)
    if hook in ("auto", "native"):
        return NativeCounter(windows, markers)
    raise EmulationError(f"hook {hook!r}", "there is no hook of that name", "Choose auto, native or python")
