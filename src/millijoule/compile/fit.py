"""Does the model fit the board? If not: how many bytes are missing, where the peak is, and what would fit.

What would fit is not guessed: the same network is laid out again at smaller resolutions and widths, from its shapes
alone, and the memory of each is planned as the firmware's would be.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace

import numpy as np

from millijoule.boards import Board, board_names, load_board
from millijoule.compile.legal import row_layers
from millijoule.compile.plan import MemoryPlan, plan_memory
from millijoule.compile.schedule import Schedule, schedule
from millijoule.errors import GraphError, PlacementError
from millijoule.graph import ROUNDINGS, WEIGHT_AXIS, Graph, Node, Quant, Tensor, mode
from millijoule.graph.operators import infer_shape

__all__ = ["CODE_BYTES", "RESERVED_BYTES", "Need", "at_resolution", "at_width", "check_fit", "fits", "need_of"]

RESERVED_BYTES = 16384
"""RAM kept free for stack and variables when the arena shares their memory."""
CODE_BYTES = 64 * 1024
"""Flash kept free for code: kernels, start-up, drivers."""
RESOLUTION_STEP = 32
FOUR_TO_EIGHT = 127 // 7
"""Weights of 4 bits times this are weights of 8 bits."""
WIDTHS = (0.9, 0.8, 0.75, 0.7, 0.6, 0.5, 0.35, 0.25)


@dataclass(frozen=True)
class Need:
    """Bytes of RAM for the arena and of flash for the constants."""

    arena_bytes: int
    weight_bytes: int


def fits(need: Need, board: Board) -> bool:
    """Whether the arena fits one memory of the board and the constants fit its flash, code included."""
    return need.arena_bytes <= board.arena_limit(RESERVED_BYTES) and need.weight_bytes + CODE_BYTES <= board.flash.size


def check_fit(
    graph: Graph,
    parts: Schedule,
    plan: MemoryPlan,
    weight_bytes: int,
    board: Board,
    kernels: str,
    able: Collection[str] = (),
    least: Callable[[], int] | None = None,
) -> None:
    """Refuses a model that does not fit its board.

    Args:
        graph: the compiled graph.
        parts: its schedule.
        plan: its memory plan.
        weight_bytes: bytes of constants in flash.
        board: the target.
        kernels: "dsp" or "plain".
        able: as for `schedule`.
        least: gives the bytes of the smallest arena that another plan could have.

    Raises:
        PlacementError: with the bytes needed, the bytes there, the layers at the peak, and what would fit.
    """
    need = Need(plan.arena_bytes, weight_bytes)
    if fits(need, board):
        return
    reasons = []
    room = board.arena_limit(RESERVED_BYTES)
    if need.arena_bytes > room:
        peak = [f"{parts.steps[index].name!r}" for index in plan.peak_steps()]
        shown = ", ".join(peak[:3]) + (f" and {len(peak) - 3} more" if len(peak) > 3 else "")
        memory = max(board.arena_memories, key=lambda m: m.size - (RESERVED_BYTES if m.data else 0))
        reasons.append(
            f"its arena needs {need.arena_bytes:,} bytes of RAM and {memory.name} has {room:,} for it; "
            f"the peak is in layer{'s' if len(peak) > 1 else ''} {shown}"
        )
    if need.weight_bytes + CODE_BYTES > board.flash.size:
        reasons.append(
            f"its constants need {need.weight_bytes:,} bytes of flash and {board.flash.size - CODE_BYTES:,} are there "
            f"beside {CODE_BYTES:,} for code"
        )
    remedies = list(_remedies(graph, need, board, kernels, able))
    smallest = Need(least(), need.weight_bytes) if least is not None and need.arena_bytes > room else need
    if fits(smallest, board):
        remedies.insert(0, f"the objective ram ({smallest.arena_bytes:,} bytes)")
    fix = "This would fit: " + "; ".join(remedies) if remedies else "Choose a smaller network"
    raise PlacementError(f"model {graph.name!r} on {board.title}", "; ".join(reasons), fix)


def _remedies(graph: Graph, need: Need, board: Board, kernels: str, able: Collection[str]) -> Iterator[str]:
    """What would fit, each with the bytes it needs."""
    # Other rules have room for larger scales in the row engine; the last one is the fastest.
    for rounding in reversed(ROUNDINGS if kernels == "dsp" else ()):
        changed = replace(graph, rounding=rounding)
        other = need_of(changed, kernels, need.weight_bytes, row_layers(changed))
        if fits(other, board):
            yield f"quantised with --rounding {rounding} ({other.arena_bytes:,} bytes)"
            break
    wider, names, added = _eight_bits(graph, able) if kernels == "dsp" else (graph, [], 0)
    other = need_of(wider, kernels, need.weight_bytes + added, row_layers(wider)) if names else need
    if names and fits(other, board):
        yield f"weights of 8 bits in {', '.join(repr(name) for name in names)} ({other.arena_bytes:,} bytes)"
    size = graph.tensor(graph.inputs[0]).shape[1]
    for resolution in range((size - 1) // RESOLUTION_STEP * RESOLUTION_STEP, 0, -RESOLUTION_STEP):
        smaller = at_resolution(graph, resolution)
        planned = smaller and need_of(smaller, kernels, need.weight_bytes, able)
        if planned and fits(planned, board):
            yield f"resolution {resolution} ({planned.arena_bytes:,} bytes)"
            break
    for width in WIDTHS:
        narrower = at_width(graph, width)
        planned = narrower and need_of(narrower, kernels, int(need.weight_bytes * _weight_ratio(graph, narrower)), able)
        if planned and fits(planned, board):
            yield f"{width:g} times the channels, a smaller alpha (about {planned.arena_bytes:,} bytes)"
            break
    whole, half = (_float_bytes(graph, kind) for kind in ("float32", "float16"))
    halved = replace(need, weight_bytes=need.weight_bytes - whole // 2)
    if halved != need and fits(halved, board):
        yield f"16-bit float weights ({halved.weight_bytes:,} bytes of flash)"
    stored = need.weight_bytes - whole * 3 // 4 - half // 2
    if stored + CODE_BYTES <= board.flash.size and any(tensor.dtype == "float32" for tensor in graph.activations()):
        yield "static quantisation to int8, if a quarter of these bytes is there"
    for name in board_names():
        larger = load_board(name)
        if larger.name != board.name and fits(need, larger):
            yield f"the board {larger.title}"


def _eight_bits(graph: Graph, able: Collection[str]) -> tuple[Graph, list[str], int]:
    """The graph with 8 bits in the 4-bit convolutions that no row kernel can compute, their names, bytes they add.

    Fewer bits have larger scales, which the row kernels may have no room for. For planning: real weights stay the same.
    """
    tensors, constants, names, added = dict(graph.tensors), dict(graph.constants), [], 0
    for node in graph.nodes:
        if node.op not in ("conv2d", "depthwise_conv2d") or node.output in able or mode(graph, node) != "integer":
            continue
        weights, quant = node.inputs[1], graph.quant(node.inputs[1])
        if quant.bits == 4:
            scale = tuple(value / FOUR_TO_EIGHT for value in quant.scale)
            tensors[weights] = replace(tensors[weights], quant=replace(quant, scale=scale, bits=8))
            constants[weights] = np.asarray(constants[weights] * FOUR_TO_EIGHT, dtype=np.int8)
            names.append(node.source or node.output)
            added += graph.tensor(weights).elements // 2
    return replace(graph, tensors=tensors, constants=constants), names, added


def _float_bytes(graph: Graph, kind: str) -> int:
    """Bytes of the weights and biases of float layers that are `kind`, "float32" or "float16"."""
    names = {name for node in graph.nodes if node.op in WEIGHT_AXIS and mode(graph, node) == "float"
             for name in node.inputs[1:]}  # fmt: skip
    return sum(graph.tensor(name).bytes for name in names if graph.tensor(name).dtype == kind)


def need_of(graph: Graph, kernels: str, weight_bytes: int, able: Collection[str] = ()) -> Need:
    """The bytes that a graph needs, from its shapes alone."""
    parts = schedule(graph, kernels, able)
    plan = plan_memory(parts.lifetimes, [step.name for step in parts.steps], overlaps=parts.overlaps)
    return Need(plan.arena_bytes, weight_bytes)


def at_resolution(graph: Graph, resolution: int) -> Graph | None:
    """The shapes of the same network with `resolution` x `resolution` pictures; None when it cannot be.

    Weights stay as they are, so a layer whose weights depend on the resolution (dense on a flattened map) forbids it.
    The result is for planning only.
    """
    picture = graph.tensor(graph.inputs[0])
    shape = (1, resolution, resolution, picture.shape[3])
    return _reshaped(replace(graph, tensors={**graph.tensors, picture.name: replace(picture, shape=shape)}), {})


def at_width(graph: Graph, factor: float) -> Graph | None:
    """The shapes of the network with `factor` times the channels, rounded to multiples of 8; None when it cannot be.

    The outputs keep their size. The result is for planning only: its constants do not match their declared shapes.
    """
    channels: dict[str, int] = {}
    for node in graph.nodes:
        if node.op in ("conv2d", "dense"):
            out = graph.tensor(node.inputs[1]).shape[0]
            channels[node.inputs[1]] = max(8, round(out * factor / 8) * 8)
    for node in _makers_of_outputs(graph):
        channels.pop(node.inputs[1], None)
    return _reshaped(graph, channels)


def _makers_of_outputs(graph: Graph) -> Iterator[Node]:
    """The layers with weights that decide the size of an output: the nearest ones behind it."""
    producers = graph.producers()
    queue = list(graph.outputs)
    while queue:
        node = producers.get(queue.pop())
        if node is None:
            continue
        if node.op in ("conv2d", "dense"):
            yield node
        else:
            queue.extend(node.inputs)


def _reshaped(graph: Graph, channels: dict[str, int]) -> Graph | None:
    """The graph with every shape inferred again; `channels` gives new numbers of output channels by weight name."""
    tensors: dict[str, Tensor] = dict(graph.tensors)
    graph = replace(graph, tensors=tensors)
    for node in graph.nodes:
        if node.op in ("conv2d", "depthwise_conv2d", "dense"):
            name, depth = node.inputs[1], tensors[node.inputs[0]].shape[-1]
            weights = tensors[name].shape
            first = 1 if node.op == "depthwise_conv2d" else channels.get(name, weights[0])
            if channels:
                bits = 8 if (quant := tensors[name].quant) is None else quant.bits
                width = None if bits == 8 else Quant.per_tensor(1.0, bits=bits)
                tensors[name] = replace(tensors[name], shape=(first, *weights[1:-1], depth), quant=width)
        try:
            shape = infer_shape(graph, node)
        except GraphError:
            return None
        result = tensors[node.output]
        if node.op == "reshape" and tensors[node.inputs[0]].elements != replace(result, shape=shape).elements:
            return None
        tensors[node.output] = replace(result, shape=shape)
    return graph


def _weight_ratio(graph: Graph, other: Graph) -> float:
    """Bytes of all weights of `other` per byte of those of `graph`."""
    names = [node.inputs[1] for node in graph.nodes if node.op in ("conv2d", "depthwise_conv2d", "dense")]
    before = sum(graph.tensor(name).bytes for name in names)
    return sum(other.tensor(name).bytes for name in names) / max(before, 1)
