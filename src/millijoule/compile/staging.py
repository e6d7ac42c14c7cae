"""Weights copied to RAM before their layer runs, where flash is slow and the arena has room that nobody needs then.

A convolution reads its weights again for every few pixels. Behind the STM32L4+ flash interface each of these reads
waits (256 bytes of data cache hold no layer), so that an inference loses a tenth of its cycles; one copy per layer
costs a percent of that. The copy goes where the plan leaves a hole during that layer: the arena never grows for it.
Weights that fit no hole are copied a tile at a time where a layer reads each of them in one go.

Behind a data cache, as on the Cortex-M7, the second read of a weight costs nothing as long as the cache holds all that
a row of the layer reads. Copies are made of larger weights only, into memory that is not cached itself, and if enough
rows read them.

Weights of 4 bits cannot be read where they are. A layer unpacks them into RAM of its own (`rows.tile_pairs`): all of
them once if they are few, else a tile at a time, for every row again. Where the plan leaves a hole, as many as it holds
are unpacked there once, on every target.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from millijoule.boards import Board
from millijoule.compile.lower import Call
from millijoule.compile.options import DEFAULTS, PlanOptions
from millijoule.compile.placement import fast_room
from millijoule.compile.plan import ALIGNMENT, Buffer, MemoryPlan, aligned
from millijoule.compile.rows import pair_bytes, prefix, tile_pairs
from millijoule.compile.schedule import Step
from millijoule.graph import Graph

__all__ = ["MINIMUM_PIXELS", "Copy", "hole", "stage", "with_staging"]

MINIMUM_PIXELS = 16
"""A layer with fewer output pixels reads its weights too seldom to gain from a copy: kernels take four at a time."""
MINIMUM_TILE = 1024
"""Fewer bytes than this are not worth being copied apart from the rest."""
MINIMUM_ROWS = 5
"""With fewer rows a copy costs as much as the cache misses that it saves (a line of flash awaited, a line copied)."""
_READ_AGAIN = ("conv2d", "depthwise_conv2d")


@dataclass(frozen=True)
class Copy:
    """A place in the arena for constants of one layer.

    Attributes:
        offset: where it begins.
        bytes: its size.
        way: "whole"; "tiles": it is smaller than the constant, and the layer copies one tile after another itself;
            "part": the layer copies what fits once and reads the rest where it is; "unpacked": of weights of 4 bits
            so many channels are unpacked once, the others again and again.
    """

    offset: int
    bytes: int
    way: str = "whole"


Copies = Mapping[int, Mapping[str, Copy]]
"""Layer number -> name of a constant -> its place."""


def stage(
    graph: Graph,
    steps: Sequence[Step],
    plan: MemoryPlan,
    calls: Sequence[Call],
    board: Board | None,
    options: PlanOptions = DEFAULTS,
) -> Copies:
    """Which constants of which layers are copied, and where to.

    Args:
        graph: the network.
        steps: its layers in the order of execution.
        plan: where the buffers lie.
        calls: the layers' constants.
        board: copies are made where its flash asks for them (`Flash.staging`); None, this computer, never does.
        options: of layers that may not be copied, of all others too.
    """
    start = _uncached(plan, board)
    found: dict[int, dict[str, Copy]] = {}
    for step, call in zip(steps, calls, strict=True):
        sizes = {item.name: item.value.nbytes for item in call.constants}
        taken = [(0, start)]
        for name, whole, unit in _unpacked(step, options):
            copy = _place(plan, step.index, whole, unit, "unpacked", taken)
            copy = copy or _place(plan, step.index, whole, unit, "unpacked", taken[1:])
            if copy is not None:
                taken.append((copy.offset, copy.offset + copy.bytes))
                found.setdefault(step.index, {})[name] = copy
        if board is None or not board.flash.staging:
            continue
        if board.flash.cache_bytes and not _exceeds(graph, step, sizes, board.flash.cache_bytes):
            continue
        for name, whole, unit, way in _candidates(graph, step, sizes, options):
            copy = _place(plan, step.index, whole, unit, way, taken)
            if copy is not None:
                taken.append((copy.offset, copy.offset + copy.bytes))
                found.setdefault(step.index, {})[name] = copy
    return found


def _uncached(plan: MemoryPlan, board: Board | None) -> int:
    """Where the part of the arena begins that may hold copies: behind a data cache only what is not cached itself."""
    if board is None:
        return 0
    fast = fast_room(board)
    if not board.flash.cache_bytes or fast is None or plan.arena_bytes <= fast[1]:
        return 0
    return plan.slow_bytes


def _exceeds(graph: Graph, step: Step, sizes: Mapping[str, int], cache: int) -> bool:
    """Whether the weights of a layer fall out of the cache between two of many rows."""
    weights = sum(
        size for name, size in sizes.items() if name.endswith("weights") and not name.endswith("dense_weights")
    )
    flat = any(memory.flat for memory in step.rows)
    rows = step.rows[-1].last.out_height if step.rows else graph.tensor(step.node.output).shape[1]
    return weights > cache and not flat and rows >= MINIMUM_ROWS


def _unpacked(step: Step, options: PlanOptions) -> Iterator[tuple[str, int, int]]:
    """Weights of 4 bits that would be unpacked for every row: (name, bytes unpacked, of two channels)."""
    for index, memory in enumerate(step.rows):
        for name, node in (("project", memory.block.project), ("conv", memory.block.conv)):
            if node is None or memory.flat or f"{name}_tile" not in memory.parts:
                continue
            dims, unit = memory.dims[node.output], pair_bytes(memory.dims[node.output])
            pairs = -(-dims.out_channels // 2)
            if tile_pairs(dims) < pairs and options.of(memory.block.output).stage:
                yield f"{prefix(index)}{name}_weights", pairs * unit, unit


def _candidates(
    graph: Graph, step: Step, sizes: Mapping[str, int], options: PlanOptions
) -> list[tuple[str, int, int, str]]:
    """The constants that a layer reads again and again: (name, bytes, bytes that must stay together or 0 for all, what
    to do when not all of them fit).
    """
    if step.mode != "integer" and not step.rows:
        return []
    if not step.rows:
        shape = graph.tensor(step.node.output).shape
        again = step.node.op in _READ_AGAIN and shape[1] * shape[2] >= MINIMUM_PIXELS
        again = again and options.of(step.node.output).stage
        return [(name, size, 0, "whole") for name, size in sizes.items()] if again else []
    found = []
    for index, memory in enumerate(step.rows):
        for name, node in (("project_weights", memory.block.project), ("conv_weights", memory.block.conv)):
            packed = f"{name.removesuffix('_weights')}_tile" in memory.parts
            if node is None or packed or not options.of(memory.block.output).stage:
                continue
            shape, name = graph.tensor(node.output).shape, f"{prefix(index)}{name}"
            if shape[1] * shape[2] >= MINIMUM_PIXELS:
                unit = sizes[name] // -(-shape[3] // 2) if step.mode == "integer" else 0
                found.append((name, sizes[name], unit, "tiles" if memory.flat else "part"))
    return found


def _place(
    plan: MemoryPlan, step: int, whole: int, unit: int, way: str, taken: Sequence[tuple[int, int]]
) -> Copy | None:
    """Room for a constant, or else, if it may be split, for as many units of it as the largest hole holds."""
    offset = hole(plan, step, whole, taken)
    if offset is not None:
        return Copy(offset, whole, way if way == "unpacked" else "whole")
    if unit == 0:
        return None
    start, room = max(_holes(plan, step, taken), key=lambda item: item[1], default=(0, 0))
    return Copy(start, room // unit * unit, way) if room >= max(unit, MINIMUM_TILE) else None


def _holes(plan: MemoryPlan, step: int, taken: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """(offset, bytes) of all parts of the arena that nothing needs during a layer."""
    alive = [(buffer.offset, buffer.end) for buffer in plan.buffers if buffer.first <= step <= buffer.last]
    alive.append((plan.slow_bytes, plan.slow_bytes))  # no hole goes across two memories
    found, position = [], 0
    for start, end in [*sorted([*alive, *taken]), (plan.arena_bytes, plan.arena_bytes)]:
        if start > position:
            found.append((position, start - position))
        position = max(position, aligned(end, ALIGNMENT))
    return found


def hole(plan: MemoryPlan, step: int, size: int, taken: Sequence[tuple[int, int]] = ()) -> int | None:
    """The lowest offset with `size` bytes of the arena that no buffer needs during a layer; None if there is none.

    Args:
        plan: where the buffers lie.
        step: the layer's number.
        size: bytes, rounded up to the alignment.
        taken: (start, end) of further parts of the arena that are in use.
    """
    return next((start for start, room in _holes(plan, step, taken) if room >= aligned(size, ALIGNMENT)), None)


def with_staging(plan: MemoryPlan, copies: Copies) -> MemoryPlan:
    """The plan with the copies as further scratch buffers, so that reports and checks see them.

    What is alive in a layer, and the lower bound, still count only what it cannot do without.
    """
    added = tuple(
        Buffer(
            name=f"{name} of layer {index}",
            offset=copy.offset,
            bytes=copy.bytes,
            first=index,
            last=index,
            kind="scratch",
            tensors=(),
            late=False,
            tail_bytes=None,
        )
        for index, constants in copies.items()
        for name, copy in constants.items()
    )
    buffers = sorted((*plan.buffers, *added), key=lambda item: (item.first, item.offset))
    return replace(plan, buffers=tuple(buffers))
