"""How random networks are compiled for the tests on the boards: objective, budget, options of blocks, all drawn."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pytest

from millijoule.boards import Board, load_board
from millijoule.compile import OBJECTIVES, RESERVED_BYTES, Program, compile_graph
from millijoule.compile.finder import find_blocks
from millijoule.compile.legal import row_layers
from millijoule.compile.options import PlanOptions, RowOptions
from millijoule.compile.placement import fast_room
from millijoule.compile.plan import aligned
from millijoule.errors import PlacementError, UnsupportedError
from millijoule.graph import ROUNDINGS, Graph
from networks import any_network, with_nibbles

KNOBS: dict[str, tuple[Any, ...]] = {
    "chunk_pixels": (4, 8, 12, 28, 112),
    "chunk_bytes": (0, 512, 8192),
    "filter_pixels": (4, 8, 12, 28, 112),
    "slice_channels": (0, 2, 4, 8, 16),
    "patch_pixels": (0, 4, 8, 16),
    "flat_bytes": (0, 1024, 1 << 20),
    "join": (False, True),
    "stage": (False, True),
}
"""Every option of a block and what is tried for it."""
CONVOLUTIONS = ("conv", "strided", "downsample", "downsample")
"""Beginnings of networks whose picture may come row by row."""


def any_row_options(rng: np.random.Generator) -> RowOptions:
    """Options of a block, each with a probability of one half other than the default."""
    return RowOptions(**{
        name: values[int(rng.integers(len(values)))] for name, values in KNOBS.items() if rng.random() < 0.5
    })  # fmt: skip


@dataclass(frozen=True)
class Draw:
    """A random network and a random way to compile it, both from the seed.

    Rounding rules and objectives take turns, so that 9 seeds in a row have all pairs and 18 all pairs on two boards.

    Attributes:
        seed: the same seed gives the same draw.
        largest: of the picture's height and width.
        layers: at most so many.
    """

    seed: int
    largest: int
    layers: int

    @property
    def rounding(self) -> str:
        """The rounding rule."""
        return ROUNDINGS[self.seed % len(ROUNDINGS)]

    @property
    def objective(self) -> str:
        """What the plan is best at."""
        return OBJECTIVES[self.seed // len(ROUNDINGS) % len(OBJECTIVES)]

    @cached_property
    def _rolls(self) -> np.ndarray:
        return np.random.default_rng([self.seed, 5]).random(7)

    @property
    def stream(self) -> bool:
        """Whether the picture is to come row by row, if the network can do with that."""
        return bool(self._rolls[0] < 0.35)

    @property
    def share(self) -> float | None:
        """Where the RAM budget lies between the least bytes (0) and those of the fastest plan (1); None: no budget."""
        if self._rolls[1] > 0.6:
            return None
        return 0.0 if self._rolls[1] < 0.2 else float(self._rolls[2])

    @property
    def has_row_options(self) -> bool:
        """Whether blocks have options of their own."""
        return bool(self._rolls[3] < 0.35)

    @property
    def kernels(self) -> str:
        """The variant of the kernels."""
        return "plain" if self._rolls[4] < 0.15 else "dsp"

    @property
    def fast(self) -> float | None:
        """The share of the arena that the fast memory of a board with two holds; None: all of it."""
        return 0.2 + 0.7 * float(self._rolls[6]) if self._rolls[5] < 0.5 else None

    @property
    def nibbles(self) -> bool:
        """Whether some layers have weights of 4 bits."""
        return bool(np.random.default_rng([self.seed, 9]).random() < 0.3)

    @cached_property
    def graph(self) -> Graph:
        """The network."""
        rng = np.random.default_rng([self.seed, 6])
        first = [str(rng.choice(CONVOLUTIONS))] if self.stream else []
        graph = any_network(self.seed, largest=self.largest, layers=self.layers, rounding=self.rounding, first=first)
        return with_nibbles(graph, self.seed) if self.nibbles else graph

    @cached_property
    def options(self) -> PlanOptions:
        """How the blocks run where nothing else matters; the picture as a whole."""
        if not self.has_row_options:
            return PlanOptions()
        rng = np.random.default_rng([self.seed, 8])
        blocks = find_blocks(self.graph, row_layers(self.graph))
        own = {block.output: any_row_options(rng) for block in blocks if rng.random() < 0.7}
        unstored = (None, None, frozenset(), frozenset(self.graph.tensors))[int(rng.integers(4))]
        return PlanOptions(any_row_options(rng), own, unstored)

    def compiled(self, name: str) -> Compiled:
        """The program for a board, its fast memory and its budget as small as drawn."""
        options = self.options
        if self.stream:
            try:
                self._program(name, replace(options, stream=True))
                options = replace(options, stream=True)
            except UnsupportedError:
                pass
        budget = least = fastest = 0
        if self.share is not None:
            fastest = self._program(name, options).arena_bytes
            least = self._program(name, options, objective="ram").arena_bytes
            budget = least + round(self.share * (fastest - least))
            if budget == least:
                with pytest.raises(PlacementError, match=f"less than {least:,} bytes"):
                    self._program(name, options, objective=self.objective, ram_budget=budget - 1)
        board = load_board(name)
        if self.fast is not None and fast_room(board) is not None:
            first, *others = board.memories
            room = int(self.fast * self._program(name, options, objective=self.objective).arena_bytes)
            board = replace(board, memories=(replace(first, size=RESERVED_BYTES + aligned(room)), *others))
        # the self-test of a streamed model calls mj_push_row
        self_test = options.stream or self.seed % 4 == 0
        made = self._program(board, options, self_test, objective=self.objective, ram_budget=budget or None)
        compiled = Compiled(made, budget, least, fastest)
        KNOWN[self, name] = Facts(0 < budget < fastest, compiled.stream, made.plan.fast_offset is not None)
        return compiled

    def facts(self, name: str) -> Facts:
        """What the draw came to on this board; known without compiling if this process has compiled it."""
        if (self, name) not in KNOWN:
            self.compiled(name)
        return KNOWN[self, name]

    def _program(self, board: str | Board, options: PlanOptions, self_test: bool = False, **more: Any) -> Program:
        return compile_graph(self.graph, board, kernels=self.kernels, options=options, self_test=self_test, **more)


@dataclass(frozen=True)
class Compiled:
    """A program and the arenas that its budget was drawn from, in bytes; zeros without one."""

    program: Program
    budget: int = 0
    least: int = 0
    fastest: int = 0

    @property
    def stream(self) -> bool:
        """Whether the picture comes row by row."""
        return self.program.options.stream


@dataclass(frozen=True)
class Facts:
    """What a draw came to.

    Attributes:
        tight: the fastest plan would not keep the budget.
        stream: the picture comes row by row.
        split: there is a second arena in the fast memory.
    """

    tight: bool
    stream: bool
    split: bool


KNOWN: dict[tuple[Draw, str], Facts] = {}
"""The facts of what this process has compiled, by board."""
