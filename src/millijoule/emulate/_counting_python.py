"""The block counter in Python, for machines without any compiler."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, cast

from millijoule.emulate._counter import NEVER, BaseCounter, Costs, Edge, Fresh, Place
from millijoule.emulate._native import DEPTH, LOWEST

__all__ = ["PythonCounter"]


class PythonCounter(BaseCounter):
    """The same counter in Python, for machines without any compiler; about half a microsecond a block."""

    name = "python"

    def __init__(self, windows: Sequence[tuple[int, int]], markers: Mapping[int, int]) -> None:
        super().__init__(windows, markers)
        self._block_sizes: dict[int, int] = {}
        self._state: dict[int, int] = {}
        self._blocks = 0
        self._limit = 0
        self._stopped = False
        self._previous: int | None = None
        self._read_link: Callable[[], int] = lambda: 0
        self._read_masks: Callable[[], tuple[int, int]] = lambda: (0, 0)
        self._paused = False
        self._prices: dict[tuple[int | None, int], tuple[int, int]] = {}
        self._deadline = self._timer = NEVER
        self._masked = LOWEST
        self._group_mask = 0xFF
        self.clock = 0
        self._trapped = 0
        self.clear()

    def attach(self, emulator: Any, fresh: Fresh, costs: Costs) -> None:
        """Installs the hook."""
        from unicorn import UC_HOOK_BLOCK, arm_const

        read = emulator.reg_read
        self._emulator, self._fresh, self._costs = emulator, fresh, costs
        self._read_link = lambda: int(read(arm_const.UC_ARM_REG_LR))
        self._read_masks = lambda: (int(read(arm_const.UC_ARM_REG_PRIMASK)), int(read(arm_const.UC_ARM_REG_BASEPRI)))
        emulator.hook_add(UC_HOOK_BLOCK, self._block)

    def trap_divisions(self, addresses: Iterable[int]) -> None:
        """See `BlockCounter.trap_divisions`."""
        from unicorn import UC_HOOK_CODE

        for address in addresses:
            self._emulator.hook_add(UC_HOOK_CODE, self._divide, None, address, address)

    def _divide(self, emulator: Any, address: int, _size: int, _: object) -> None:
        from unicorn.arm_const import UC_ARM_REG_LR, UC_ARM_REG_R0

        number = emulator.mem_read(address + 2, 1)[0] & 15
        if emulator.reg_read(UC_ARM_REG_LR if number == 14 else UC_ARM_REG_R0 + number) == 0:
            self._trapped = address
            emulator.emu_stop()

    def arm(self, timer: int, masked: int | None = None, group_mask: int = 0xFF) -> None:
        """See `BlockCounter.arm`."""
        self._timer, self._group_mask = timer, group_mask
        self._masked = LOWEST if masked is None else masked
        self._deadline = timer if masked is None else 0

    def attention(self) -> None:
        """See `BlockCounter.attention`."""
        self._deadline, self._masked = 0, LOWEST

    def paused(self) -> bool:
        """See `BlockCounter.paused`."""
        paused, self._paused = self._paused, False
        return paused

    def trapped(self) -> int:
        """See `BlockCounter.trapped`."""
        address, self._trapped = self._trapped, 0
        return address

    def place(self) -> Place:
        """See `BlockCounter.place`."""
        return self._previous, self._previous_end, self._layer

    def restore(self, place: Place) -> None:
        """See `BlockCounter.restore`."""
        self._previous, self._previous_end, self._layer = place

    def clear(self) -> None:
        """See `BlockCounter.clear`."""
        self._counts: dict[tuple[int, int | None, int], list[int]] = {}
        self._layer = 0
        self._stack: list[tuple[int, int]] = []
        self._previous = None
        self._previous_end = NEVER
        self._resized = self._outside = 0

    def forget_predictions(self) -> None:
        """See `BlockCounter.forget_predictions`."""
        self._state.clear()

    def forget_blocks(self) -> None:
        """See `BlockCounter.forget_blocks`."""
        self.clear()
        self._block_sizes.clear()

    def begin(self, limit: int) -> None:
        """See `BlockCounter.begin`."""
        self._blocks, self._limit, self._stopped = 0, limit, False
        self._paused, self._trapped = False, 0

    def ignore(self, action: Callable[[], None]) -> None:
        """See `BlockCounter.ignore`."""
        outside, blocks, self._blocks = self._outside, self._blocks, 0
        action()
        self._outside, self._blocks = outside, blocks

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
        if self.clock >= self._deadline and self._due():
            self._pause(emulator)
            return
        if self._index(address) is None:
            self._outside += 1
            self.clock += size // 2
            self._previous, self._previous_end = None, NEVER
            return
        known = self._block_sizes.get(address)
        if known != size:
            self._resized += known is not None
            self._block_sizes[address] = size
            if self._fresh(address, size):
                self._pause(emulator)
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
        missed = 0
        if self._previous is not None:
            state = self._state.get(self._previous, 1)
            taken = address != self._previous_end
            missed = int((state >= 2) != taken)
            self._state[self._previous] = min(state + 1, 3) if taken else max(state - 1, 0)
        cell = self._counts.setdefault((self._layer, self._previous, address), [0, 0])
        cell[0] += 1
        cell[1] += missed
        self._pass(address, missed)
        self._previous, self._previous_end = address, address + size

    def _pass(self, address: int, missed: int) -> None:
        price = self._prices.get((self._previous, address))
        if price is None:
            before = 0 if self._previous is None else self._block_sizes[self._previous]
            price = self._costs(self._previous, before, address, self._block_sizes[address])
            self._prices[self._previous, address] = price
        self.clock += price[0] + missed * price[1]

    def _due(self) -> bool:
        if self.clock >= self._timer or self._masked == LOWEST:
            return True
        primask, basepri = self._read_masks()
        current = basepri & self._group_mask if basepri & 0xFF else LOWEST
        return not primask & 1 and self._masked < current

    def _pause(self, emulator: Any) -> None:
        self._blocks -= 1
        self._paused = True
        emulator.emu_stop()
