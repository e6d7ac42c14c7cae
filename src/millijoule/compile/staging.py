"""Weights copied to RAM before their layer runs, where flash is slow and the arena has room that nobody needs then.

A convolution reads its weights again for every few pixels. Behind the STM32L4+ flash interface each of these reads
waits (256 bytes of data cache hold no layer), so that an inference loses a tenth of its cycles; one copy per layer
costs a percent of that. The copy goes where the plan leaves a hole during that layer: the arena never grows for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from millijoule.boards import Board
from millijoule.compile.plan import ALIGNMENT, Buffer, MemoryPlan, aligned
from millijoule.compile.schedule import Step
from millijoule.graph import Graph

__all__ = ["MINIMUM_PIXELS", "hole", "stage", "with_staging"]

MINIMUM_PIXELS = 16
"""A layer with fewer output pixels reads its weights too seldom to gain from a copy: kernels take four at a time."""
_READ_AGAIN = ("conv2d", "depthwise_conv2d")


def stage(
    graph: Graph, steps: Sequence[Step], plan: MemoryPlan, sizes: Sequence[int], board: Board | None
) -> Mapping[int, int]:
    """Where the constants of which layers are copied to: layer number -> offset in the arena.

    Args:
        graph: the network.
        steps: its layers in the order of execution.
        plan: where the buffers lie.
        sizes: bytes of constants of each layer.
        board: copies are made where its flash asks for them (`Flash.staging`); None, this computer, never does.
    """
    if board is None or not board.flash.staging:
        return {}
    found: dict[int, int] = {}
    for step, size in zip(steps, sizes, strict=True):
        shape = graph.tensor(step.node.output).shape
        again = step.mode == "integer" and step.node.op in _READ_AGAIN and shape[1] * shape[2] >= MINIMUM_PIXELS
        offset = hole(plan, step.index, size) if again and size else None
        if offset is not None:
            found[step.index] = offset
    return found


def hole(plan: MemoryPlan, step: int, size: int) -> int | None:
    """The lowest offset with `size` bytes of the arena that no buffer needs during a layer; None if there is none."""
    size, position = aligned(size, ALIGNMENT), 0
    alive = sorted((buffer.offset, buffer.end) for buffer in plan.buffers if buffer.first <= step <= buffer.last)
    for start, end in [*alive, (plan.arena_bytes, plan.arena_bytes)]:
        if start - position >= size:
            return position
        position = max(position, aligned(end, ALIGNMENT))
    return None


def with_staging(plan: MemoryPlan, offsets: Mapping[int, int], sizes: Sequence[int]) -> MemoryPlan:
    """The plan with the copies as further scratch buffers, so that reports and checks see them.

    What is alive in a layer, and the lower bound, still count only what it cannot do without.
    """
    copies = tuple(
        Buffer(
            name=f"weights of layer {index}",
            offset=offset,
            bytes=sizes[index],
            first=index,
            last=index,
            kind="scratch",
            tensors=(),
            late=False,
            tail_bytes=None,
        )
        for index, offset in offsets.items()
    )
    buffers = sorted((*plan.buffers, *copies), key=lambda item: (item.first, item.offset))
    return replace(plan, buffers=tuple(buffers))
