"""What a block counter is."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from millijoule.emulate._native import NOTHING, WINDOWS
from millijoule.errors import EmulationError

__all__ = ["NEVER", "BaseCounter", "BlockCounter", "Costs", "Edge", "Fresh", "Place"]

NEVER = (1 << 64) - 1
# A block that was never seen -> whether to stop before it.
Fresh = Callable[[int, int], bool]
# Source, its size, target, its size -> cycles, further cycles when the branch was predicted wrongly.
Costs = Callable[[int | None, int, int, int], tuple[int, int]]
# Where the count stands: (block before, its end, layer), for `BlockCounter.restore`.
Place = tuple[int | None, int, int]


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

    clock: int  # cycles since the machine was made; only the machine sets it, and never back

    def attach(self, emulator: Any, fresh: Fresh, costs: Costs) -> None:
        """Installs the hook; `fresh` is asked about every new block, `costs` about every new edge."""

    def trap_divisions(self, addresses: Iterable[int]) -> None:
        """Stops before the division instructions at these addresses when their divisor is zero."""

    def arm(self, timer: int, masked: int | None = None, group_mask: int = 0xFF) -> None:
        """Stops before the first block that begins at `timer` or later, by `clock`.

        With `masked`, the priority of a pending exception, also when neither PRIMASK nor BASEPRI holds it back.
        """

    def attention(self) -> None:
        """Stops before the next block."""

    def paused(self) -> bool:
        """Whether `arm`, `attention` or `fresh` stopped before a block that is not counted; asked once."""

    def trapped(self) -> int:
        """The address of the division by zero before which the run was stopped, else 0; asked once."""

    def place(self) -> Place:
        """Where the count stands."""

    def restore(self, place: Place) -> None:
        """Goes on as if nothing had run since `place`: what an exception handler did leaves no edge behind."""

    def clear(self) -> None:
        """Forgets all counts and the current layer; the branch predictor stays warm."""

    def forget_predictions(self) -> None:
        """The branch predictor as after power-on."""

    def forget_blocks(self) -> None:
        """Forgets counts and block sizes: translated anew, with other hooks, long blocks may be cut elsewhere."""

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

    def ignore(self, action: Callable[[], None]) -> None:
        """Runs code outside the firmware that is not to be counted."""


class BaseCounter:
    """The code windows and their indices, for both counters."""

    def __init__(self, windows: Sequence[tuple[int, int]], markers: Mapping[int, int]) -> None:
        if len(windows) > WINDOWS:
            raise EmulationError("code memory", f"there are more than {WINDOWS} of them", "Describe fewer memories")
        self._windows = list(windows)
        self._first: list[int] = []
        total = 0
        for _, span in self._windows:
            self._first.append(total)
            total += span // 2
        if total >= NOTHING:
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
