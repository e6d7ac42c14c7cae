"""Options of a plan for what counts: fewest cycles, least memory, or fewest cycles within a given memory.

Four measures lower the peak, none changes a bit of a result: smaller chunks (kernels are called more often), no map as
a single row (pixels are left over at the end of each row), handing rows from block to block instead of storing the map
between them (all of these blocks' scratch memory is needed at once), and recomputation: the widened map of a block is
made again for every row of the result, a slice of its channels or a patch of its columns at a time, so that no ring
holds rows of all of it.

The algorithm, in words. What a layer needs while it runs depends on its own blocks alone: on which of them are joined
and on their chunks. So each run of consecutive blocks is looked at by itself: what it needs at least, and which chunks
keep it within a limit at the least cost (lowering, step by step, what saves most bytes per cost). Dynamic programming
over every chain of blocks then cuts it into runs: first so that the largest need is as small as it can be (that is the
smallest peak, joins that help only together included), then so that the costs are smallest within the limit. Where a
plan cannot place the buffers within their bound, the limit is lowered and the search repeated.

Costs are estimated cycles, good enough to order measures; `tune` measures. Chains with dynamic quantisation have no
options yet.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeVar

from millijoule.compile.finder import Block, find_blocks
from millijoule.compile.fit import RESOLUTION_STEP, WIDTHS, at_resolution, at_width
from millijoule.compile.options import DEFAULTS, PlanOptions, RowOptions
from millijoule.compile.plan import MemoryPlan, aligned, live_bytes, plan_memory
from millijoule.compile.rows import PATCHES, RowMemory, chains, chunk_pixels, filter_chunk, memory_of, patch_columns
from millijoule.compile.schedule import Schedule, blocks_of, joints, schedule, schedule_with
from millijoule.errors import OptionError, PlacementError, UnsupportedError
from millijoule.graph import Graph, macs

__all__ = ["OBJECTIVES", "options_for", "planned"]

OBJECTIVES = ("cycles", "ram", "energy")
"""What a plan may be best at, the default first. Energy follows cycles on boards that do not sleep in between."""
CHUNKS = (28, 16, 12, 8, 4)
"""Sizes of chunks in pixels that are tried instead of larger ones."""
LONGEST_RUN = 8
"""Blocks that may be joined into one layer."""
CALL_CYCLES = 30
"""Per channel, or pair of them, and call of a kernel."""
SLICES_TRIED = (64, 48, 32, 24, 16, 8, 4)
"""Numbers of channels that are tried where a map is made again for every row."""
MAC_CYCLES = 1.3
"""Of a pointwise convolution, requantisation included."""
SLICE_CYCLES = 120
"""Per slice and row of a map that is made again, beside the calls of kernels."""
PATCHES_TRIED = (32, 16, 8, 4)
"""Patches in pixels that are tried instead."""
WINDOW_CYCLES = 1.5
"""Per number that goes into the groups of a convolution with a window."""
JOIN_SHARE = 0.01
"""A joined block costs this share of a cycle per MAC: its weights find less room to be copied to."""
TRIES = 6
"""How often the limit is lowered."""

Run = tuple[Block, ...]


@dataclass(frozen=True)
class _Level:
    """What a block costs, its scratch memory, and whether its map is one row, with these options."""

    options: RowOptions
    bytes: int
    cost: float
    flat: bool


@dataclass(frozen=True)
class _Choice:
    """What a run of blocks costs and needs with these options."""

    cost: float
    live: int
    options: Mapping[str, RowOptions]


def planned(graph: Graph, kernels: str, able: Collection[str], options: PlanOptions) -> tuple[Schedule, MemoryPlan]:
    """The layers and the memory plan with these options."""
    parts = schedule(graph, kernels, able, options)
    return parts, plan_memory(parts.lifetimes, [step.name for step in parts.steps], overlaps=parts.overlaps)


def options_for(
    graph: Graph,
    kernels: str,
    able: Collection[str],
    objective: str = "cycles",
    ram_budget: int | None = None,
    base: PlanOptions = DEFAULTS,
) -> PlanOptions:
    """The options of the best plan.

    Args:
        graph: a verified graph.
        kernels: "dsp" or "plain".
        able: as for `schedule`.
        objective: "cycles" and "energy": `base` itself if it keeps the budget; "ram": the smallest arena found.
        ram_budget: bytes that the arena may have; None: any number.
        base: the fastest options.

    Raises:
        OptionError: an unknown objective, or a budget that is no number of bytes.
        PlacementError: no plan keeps the budget; with the least bytes, the layers at the peak, and what would.
    """
    if objective not in OBJECTIVES:
        raise OptionError(f"objective {objective!r}", "there is no such objective", f"Choose: {', '.join(OBJECTIVES)}")
    if ram_budget is not None and ram_budget < 1:
        raise OptionError(f"RAM budget {ram_budget}", "it is no number of bytes", "Use 1 or more")
    search = _Search(graph, kernels, able, base)
    if objective != "ram":
        if ram_budget is None or search.arena(base) <= ram_budget:
            return base
        found = search.within(ram_budget)
        if found is not None:
            return found
    least = search.least()
    parts, plan = planned(graph, kernels, able, least)
    if ram_budget is not None and plan.arena_bytes > ram_budget:
        peak = " and ".join(f"{parts.steps[index].name!r}" for index in plan.peak_steps()[:3])
        remedies = list(_remedies(graph, kernels, able, ram_budget, base))
        raise PlacementError(
            f"model {graph.name!r} within {ram_budget:,} bytes of RAM",
            f"no plan needs less than {plan.arena_bytes:,} bytes; the peak is in {peak}",
            "This would do: " + "; ".join(remedies) if remedies else "Allow more bytes, or choose a smaller network",
        )
    return least


def _remedies(graph: Graph, kernels: str, able: Collection[str], budget: int, base: PlanOptions) -> Iterator[str]:
    """What would keep the budget, each with the bytes it needs."""
    plain = replace(base, blocks={}, unstored=None)

    def need(smaller: Graph | None, base: PlanOptions = plain) -> int | None:
        if smaller is None:
            return None
        options = _Search(smaller, kernels, able, base).least()
        found = planned(smaller, kernels, able, options)[1].arena_bytes
        return found if found <= budget else None

    with suppress(UnsupportedError):
        streamed = None if base.stream else need(graph, replace(plain, stream=True))
        if streamed is not None:
            yield f"the picture row by row, --stream ({streamed:,} bytes)"
    size = graph.tensor(graph.inputs[0]).shape[1]
    resolutions = range((size - 1) // RESOLUTION_STEP * RESOLUTION_STEP, 0, -RESOLUTION_STEP)
    for resolution, found in _first(resolutions, lambda resolution: need(at_resolution(graph, resolution))):
        yield f"resolution {resolution} ({found:,} bytes)"
    for width, found in _first(WIDTHS, lambda width: need(at_width(graph, width))):
        yield f"{width:g} times the channels, a smaller alpha (about {found:,} bytes)"
    if any(tensor.dtype == "float32" for tensor in graph.activations()):
        yield "static quantisation to int8, if a quarter of these bytes is there"


Size = TypeVar("Size")


def _first(sizes: Sequence[Size], need: Callable[[Size], int | None]) -> Iterator[tuple[Size, int]]:
    """The largest of the sizes, which fall, with a need, by bisection: smaller ones need less."""
    low, high = 0, len(sizes)
    best: tuple[Size, int] | None = None
    while low < high:
        middle = (low + high) // 2
        found = need(sizes[middle])
        if found is None:
            low = middle + 1
        else:
            best, high = (sizes[middle], found), middle
    if best is not None:
        yield best


class _Search:
    """Options of one graph."""

    def __init__(self, graph: Graph, kernels: str, able: Collection[str], base: PlanOptions) -> None:
        self.graph, self.kernels, self.able, self.base = graph, kernels, able, base
        self.blocks = blocks_of(graph, kernels, able, base)
        integer = find_blocks(graph, able)
        self.chains = chains(graph, integer, joints(graph, integer, base))
        self.known: dict[tuple[str, int, bool], int] = {}
        self.tables: dict[tuple[str, bool, bool], Sequence[_Level]] = {}

    def least(self) -> PlanOptions:
        """The options of the smallest arena, and no slower than it asks for."""
        limit = self.smallest_peak()
        candidates = [
            self.base,
            self.options(limit),
            self.tightest(),
            self.options(0),
        ]
        sizes = [self.arena(options) for options in candidates]
        return candidates[sizes.index(min(sizes))]

    def within(self, budget: int) -> PlanOptions | None:
        """The cheapest options that keep the budget, None if the search finds none."""
        limit, smallest = budget, self.smallest_peak()
        for _ in range(TRIES):
            if limit < smallest:
                return None
            options = self.options(limit)
            size = self.arena(options)
            if size <= budget:
                return options
            limit -= size - budget
        return None

    def tightest(self) -> PlanOptions:
        """The least memory for every block."""
        least = {
            block.output: min(self.levels(block, False, False), key=lambda level: level.bytes).options
            for chain in self.chains
            for block in chain
        }
        return replace(self.base, blocks={**self.base.blocks, **least})

    def arena(self, options: PlanOptions) -> int:
        """Bytes of the plan with these options."""
        return planned(self.graph, self.kernels, self.able, options)[1].arena_bytes

    def smallest_peak(self) -> int:
        """The least bytes that all layers need, blocks cut into runs in the best way."""
        parts = schedule_with(self.graph, self.kernels, self.blocks, (), self.base)
        live = live_bytes(parts.lifetimes, len(parts.steps), overlaps=parts.overlaps)
        own = {block.output for chain in self.chains for block in chain}
        others = (size for size, step in zip(live, parts.steps, strict=True) if step.node.output not in own)
        most = max(others, default=0)
        for chain in self.chains:
            best = [0]
            for end in range(1, len(chain) + 1):
                starts = range(max(0, end - LONGEST_RUN), end)
                best.append(min(max(best[start], self.choice(chain[start:end], 0).live) for start in starts))
            most = max(most, best[-1])
        return most

    def options(self, limit: int) -> PlanOptions:
        """The cheapest options with which no run needs more than `limit` bytes; the least where that cannot be."""
        own = dict(self.base.blocks)
        unstored: set[str] = set()
        for chain in self.chains:
            best: list[tuple[int, float, tuple[Run, ...]]] = [(0, 0.0, ())]
            for end in range(1, len(chain) + 1):
                found = []
                for start in range(max(0, end - LONGEST_RUN), end):
                    choice = self.choice(chain[start:end], limit)
                    over, cost, runs = best[start]
                    over = max(over, choice.live - limit)
                    found.append((max(over, 0), cost + choice.cost, (*runs, chain[start:end])))
                best.append(min(found, key=lambda item: item[:2]))
            for run in best[-1][2]:
                own |= self.choice(run, limit).options
                unstored |= {block.output for block in run[:-1]}
        return replace(self.base, blocks=own, unstored=frozenset(unstored))

    def choice(self, run: Run, limit: int) -> _Choice:
        """The cheapest options of a run that need at most `limit` bytes, or the least that it can need."""
        levels = [self.levels(block, index > 0, block is not run[-1]) for index, block in enumerate(run)]
        places = [0] * len(run)
        while self.live(run, levels, places) > limit:
            # one block at a time, to any other level: one that is enough at the least cost, or what saves most per cost
            steps = []
            for index, (own, place) in enumerate(zip(levels, places, strict=True)):
                for other in range(len(own)):
                    trial = [*places[:index], other, *places[index + 1 :]]
                    saved = self.live(run, levels, places) - self.live(run, levels, trial)
                    cost = max(own[other].cost - own[place].cost, 0.0)
                    if saved > 0:
                        enough = self.live(run, levels, trial) <= limit
                        steps.append((not enough, cost if enough else cost / saved, -saved, trial))
            if not steps:
                break
            *_, places = min(steps)
        chosen = [own[place] for own, place in zip(levels, places, strict=True)]
        joined = JOIN_SHARE * sum(macs(self.graph, node) for block in run for node in block.nodes) if run[1:] else 0.0
        return _Choice(
            joined + sum(level.cost for level in chosen),
            self.live(run, levels, places),
            {block.output: level.options for block, level in zip(run, chosen, strict=True)},
        )

    def live(self, run: Run, levels: Sequence[Sequence[_Level]], places: Sequence[int]) -> int:
        """Bytes that are alive while the run is computed with these of its levels."""
        chosen = [own[place] for own, place in zip(levels, places, strict=True)]
        return self.beside(run, chosen[0].flat) + sum(level.bytes for level in chosen)

    def beside(self, run: Run, flat: bool) -> int:
        """Bytes alive beside the scratch memory; a map taken as one row may lie over its input differently."""
        key = (run[0].output, len(run), flat)
        if key not in self.known:
            own = {} if flat else {b.output: replace(self.base.of(b.output), flat_bytes=0) for b in run}
            options = replace(self.base, blocks={**self.base.blocks, **own})
            unstored = {block.output for block in run[:-1]}
            parts = schedule_with(self.graph, self.kernels, self.blocks, unstored, options)
            step = next(step for step in parts.steps if step.node.output == run[-1].output)
            live = live_bytes(parts.lifetimes, len(parts.steps), overlaps=parts.overlaps)[step.index]
            self.known[key] = live - aligned(step.scratch_bytes)
        return self.known[key]

    def levels(self, block: Block, fed: bool, feeds: bool) -> Sequence[_Level]:
        """What a block can be, from the fastest to what needs least memory."""
        key = (block.output, fed, feeds)
        if key not in self.tables:
            found = []
            usual = memory_of(self.graph, block, options=self.base.of(block.output))
            widened = usual.conv.out_channels if usual.conv and usual.filter else 0
            for options in _ladder(usual.options, block, widened, usual.window):
                memory = memory_of(self.graph, block, fed=fed, feeds=feeds, options=options)
                found.append(_Level(options, aligned(memory.bytes), _cost(memory), memory.flat))
            self.tables[key] = found
        return self.tables[key]


def _cost(memory: RowMemory) -> float:
    """Estimated cycles of the calls of kernels, one for each chunk of each row, and of what is computed again."""
    calls, again = 0, 0.0
    if memory.again == PATCHES and memory.conv is not None and memory.filter is not None:
        conv, rows = memory.conv, memory.filter.out_height * memory.filter.kernel[0]
        columns = patch_columns(memory.block, memory.dims, memory.patch)
        patches = rows * -(-memory.filter.out_width // memory.patch)
        chunk = chunk_pixels(conv, True, memory.options) if memory.window else columns
        calls += patches * -(-columns // chunk) * -(-conv.out_channels // 2)
        numbers = conv.in_channels * conv.kernel[0] * conv.kernel[1]
        made = max(0, patches * columns - conv.out_height * conv.out_width)
        again = (MAC_CYCLES * conv.out_channels + WINDOW_CYCLES * memory.window) * made * numbers
        again += SLICE_CYCLES * patches
    elif memory.again and memory.conv is not None and memory.filter is not None:
        conv, height = memory.conv, memory.filter.kernel[0]
        rows = memory.filter.out_height * height
        calls += rows * -(-conv.out_channels // 2)
        macs_of_row = conv.out_width * conv.in_channels * conv.out_channels
        again = MAC_CYCLES * max(0, rows - conv.out_height) * macs_of_row
        again += SLICE_CYCLES * rows * -(-conv.out_channels // memory.slice)
    elif memory.conv is not None:
        chunk = chunk_pixels(memory.conv, memory.window, memory.options)
        calls += memory.conv.out_height * -(-memory.conv.out_width // chunk) * -(-memory.conv.out_channels // 2)
    if memory.filter is not None:
        channels = memory.filter.out_channels
        if memory.block.project is not None:
            channels += -(-memory.last.out_channels // 2)
        chunk = filter_chunk(memory.filter, memory.options, memory.again)
        calls += memory.filter.out_height * -(-memory.filter.out_width // chunk) * channels
    return CALL_CYCLES * calls + again


def _ladder(options: RowOptions, block: Block, channels: int = 0, window: bool = False) -> list[RowOptions]:
    """Options of a block from the fastest to those that need least memory.

    Args:
        options: the first ones.
        block: the layers.
        channels: of a map that may be made again; 0: it may not.
        window: the convolution in front of it has one: by patches only.
    """
    found = [options]
    if block.alone:
        found.append(replace(options, flat_bytes=0))
    for pixels in CHUNKS:
        last = found[-1]
        smaller = replace(
            last,
            chunk_pixels=min(last.chunk_pixels, pixels),
            filter_pixels=min(last.filter_pixels, pixels),
        )
        if smaller != last:
            found.append(smaller)
    if channels > 0:
        found += [
            replace(options, patch_pixels=size, chunk_pixels=min(options.chunk_pixels, size)) for size in PATCHES_TRIED
        ]
    if not window:
        found += [replace(options, slice_channels=size) for size in SLICES_TRIED if size < channels]
    return found
