"""Why a plan is as it is, as plain values: groups of layers, their memory part by part, what sets the peak, what would
lower it.

A block's own memory does not change as rows go by: rings are filled with padding before the first row, and every part
keeps its place until the last one. How input and result change row by row is in `row_timeline`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from millijoule.boards import Board
from millijoule.compile.finder import geometry_allows
from millijoule.compile.fit import RESOLUTION_STEP, at_resolution, at_width
from millijoule.compile.legal import refusal, row_layers
from millijoule.compile.objective import options_for, planned
from millijoule.compile.plan import Buffer
from millijoule.compile.program import HOST, Layer, Program, compile_graph
from millijoule.compile.rows import SLICES, RowMemory, chunk_pixels, filter_chunk, kept_rows, widened_rows
from millijoule.compile.rows_dynamic import DynamicMemory, dynamic_layers
from millijoule.compile.schedule import Step, layer_name
from millijoule.errors import PlacementError, UnsupportedError
from millijoule.graph import WEIGHT_AXIS, Graph, Node, mode
from millijoule.graph.bounds import stored_bounds
from millijoule.kernels import assembly_source, dims_of

__all__ = ["explain_program", "four_bits", "refused_four_bits", "timeline"]

NARROWER = 0.75


def explain_program(program: Program) -> dict[str, Any]:
    """The facts of a plan as JSON values.

    Returns:
        "arena_bytes", "lower_bound" (no placement of these layers can be smaller), "strategy", "layers" (one for each
        function of the firmware: its group of operations, kernels, blocks with rings and chunks, overlap of the result
        with the input, memory part by part, staged constants, why it is no block), "peak" (the layers that set the
        size of the arena), "lower" (what would lower it, with the bytes it would need), "removed" (pruned channels),
        "four_bits" (layers whose weights have 4 bits: the bits that each weight takes in flash, and why if that is 8).
    """
    reasons = dict(_fallbacks(program.graph))
    plan = program.plan
    layers = [_layer(program, step, reasons) for step in program.schedule.steps]
    return {
        "name": program.name,
        "target": program.target,
        "kernels": program.kernels,
        "arena_bytes": program.arena_bytes,
        "lower_bound": plan.lower_bound,
        "strategy": plan.strategy,
        "fast_bytes": plan.fast_bytes,
        "weight_bytes": program.weight_bytes,
        "layers": layers,
        "peak": [plan.steps[index].name for index in plan.peak_steps()],
        "lower": list(_lower(program)),
        "removed": [{"layer": item.layer, "channels": len(item.channels)} for item in program.removed],
        "four_bits": list(four_bits(program)),
    }


def timeline(program: Program) -> list[dict[str, Any]]:
    """The bytes of the arena in use during each layer, part by part.

    Returns:
        For each layer "name", "live_bytes" (buffers that overlap counted once) and "parts": "name", "kind" (picture,
        activation, scratch, or staged), "offset" and "bytes", in the order of their offsets.
    """
    return [
        {
            "name": step.name,
            "live_bytes": program.plan.steps[step.index].live_bytes,
            "parts": _timeline_of(program, step),
        }
        for step in program.schedule.steps
    ]


def _parts(program: Program, step: Step) -> Iterator[dict[str, Any]]:
    origin = program.schedule.scratch.get(step.index)
    copies = program.staged.get(step.index, {})
    shown = {f"{name} of layer {step.index}": name for name in copies}
    for buffer in program.plan.buffers:
        if not buffer.first <= step.index <= buffer.last:
            continue
        if step.rows and buffer.name == origin and buffer.bytes == step.scratch_bytes:
            for index, memory in enumerate(step.rows):
                for part, (offset, size) in memory.parts.items():
                    name = f"{part} of block {index}" if len(step.rows) > 1 else part
                    yield {"name": name, "kind": "scratch", "offset": buffer.offset + offset, "bytes": size}
            continue
        kind = "staged" if buffer.name in shown else buffer.kind
        yield {
            "name": shown.get(buffer.name, buffer.name),
            "kind": kind,
            "offset": buffer.offset,
            "bytes": buffer.bytes,
        }


def _layer(program: Program, step: Step, reasons: dict[str, str]) -> dict[str, Any]:
    graph, layer = program.graph, program.layers[step.index]
    core = program.board.core if program.board is not None and program.kernels == "dsp" else None
    return {
        "index": step.index,
        "name": step.name,
        "operator": step.operator,
        "mode": step.mode,
        "operations": [layer_name(node) for node in step.nodes],
        "kernels": [
            {"name": name, "assembly": core is not None and assembly_source(name, core, graph.rounding) is not None}
            for name in (layer.sources or (layer.kernel,))
        ],
        "macs": step.macs,
        "weight_bytes": layer.weight_bytes,
        "scratch_bytes": step.scratch_bytes,
        "live_bytes": layer.live_bytes,
        "blocks": [_block(graph, layer, memory) for memory in step.rows],
        "overlaps": list(_overlaps(program, step)),
        "memory": _timeline_of(program, step),
        "staged": [
            {"name": name, "bytes": copy.bytes, "way": copy.way}
            for name, copy in program.staged.get(step.index, {}).items()
        ],
        "fallback": next((reasons[node.output] for node in step.nodes if node.output in reasons), None)
        if not step.rows
        else None,
    }


def _timeline_of(program: Program, step: Step) -> list[dict[str, Any]]:
    """The parts of the arena in use during one layer, as in `timeline`."""
    return sorted(_parts(program, step), key=lambda item: (item["offset"], item["name"]))


def _block(graph: Graph, layer: Layer, memory: RowMemory) -> dict[str, Any]:
    block, sizes = memory.block, {name: size for name, (_, size) in memory.parts.items()}
    values: dict[str, Any] = {
        "layers": [layer_name(node) for node in block.nodes],
        "whole_map_as_one_row": memory.flat,
        "fed_by_rows": memory.fed,
        "feeds_rows": memory.feeds,
        "dynamic": isinstance(memory, DynamicMemory),
        "parts": sizes,
    }
    options = memory.options
    if memory.conv is not None:
        values["chunk_pixels"] = chunk_pixels(memory.conv, memory.window, options)
    if memory.window and memory.conv is not None:
        rows = widened_rows(block, memory.dims, memory.again)
        values["widened"] = {"rows": rows, "bytes": sizes.get("widened", 0)}
    if memory.filter is not None:
        values["filter_pixels"] = filter_chunk(memory.filter, options, memory.again)
        values["planes"] = {
            "channels": memory.slice if memory.again == SLICES else memory.filter.in_channels,
            "rows": memory.filter.kernel[0],
            "bytes": sizes.get("planes", 0),
        }
    if memory.again:
        values["made_again"] = {
            "channels_at_a_time": memory.slice or None,
            "pixels_at_a_time": memory.patch or None,
            "kept_input_bytes": sizes["widened" if memory.window else "conv_groups"],
        }
    if block.mean is not None:
        values["mean"] = {"channels_at_a_time": memory.slice or memory.last.out_channels}
    if block.dense is not None:
        values["dense"] = {
            "layer": layer_name(block.dense),
            "means": memory.last.out_channels,
            "features": dims_of(graph, block.dense).out_channels,
            "kernel": layer.kernel.split(" + ")[-1],
            "scratch_over": memory.prepared,
        }
    if "kept" in sizes:
        values["kept"] = {"rows": kept_rows(block, memory.dims), "bytes": sizes["kept"]}
    values["groups_bytes"] = sizes.get("groups", 0)
    return values


def _overlaps(program: Program, step: Step) -> Iterator[dict[str, Any]]:
    """How far the result may begin behind its dying input, where it does, and the bytes that both have."""
    plan, result = program.plan, program.schedule.home[step.node.output]
    for overlap in program.schedule.overlaps:
        if overlap.below != result:
            continue
        below, above = plan.buffer(overlap.below), plan.buffer(overlap.above)
        if above.last == step.index:
            yield {
                "input": above.name,
                "distance": overlap.distance,
                "offset": below.offset - above.offset,
                "shared_bytes": _shared(below, above),
            }


def _shared(first: Buffer, second: Buffer) -> int:
    return max(0, min(first.end, second.end) - max(first.offset, second.offset))


def _fallbacks(graph: Graph) -> Iterator[tuple[str, str]]:
    """The convolutions that the row engine does not take, and why."""
    able = row_layers(graph) | dynamic_layers(graph)
    stored = stored_bounds(graph)
    for node in graph.nodes:
        if node.op in ("conv2d", "depthwise_conv2d") and (node.output not in able or not _geometry(graph, node)):
            yield node.output, _reason(graph, node, stored)


def _geometry(graph: Graph, node: Node) -> bool:
    return mode(graph, node) != "integer" or geometry_allows(graph, node)


def _reason(graph: Graph, node: Node, stored: Any) -> str:
    arithmetic = mode(graph, node)
    if arithmetic == "float":
        return "it computes in float"
    if arithmetic == "dynamic":
        return "dynamic quantisation by rows asks for rounding single, weights above -128 and sums below 2^23"
    if not geometry_allows(graph, node):
        return "its dilation, stride, padding or channel multiplier is beyond the row engine"
    return refusal(graph, node, stored) or "it stands alone"


def four_bits(program: Program) -> Iterator[dict[str, Any]]:
    """The layers whose weights have 4 bits, and how flash holds them."""
    graph = program.graph
    for step in program.schedule.steps:
        for node in step.nodes:
            if node.op in WEIGHT_AXIS and graph.quant(node.inputs[1]).bits == 4:
                reason = _stored_as_bytes(graph, step, node)
                yield {"layer": layer_name(node), "stored_bits": 8 if reason else 4, "reason": reason}


def refused_four_bits(graph: Graph, target: str | Board) -> dict[str, str]:
    """The layers of an integer graph with 4-bit weights that take whole bytes in flash all the same, and why.

    Args:
        graph: a graph; layers with weights of 8 bits are left out.
        target: a board or "host"; where the graph does not fit a board, "host" tells the same of all but its row plans.
    """
    try:
        program = compile_graph(graph, target, self_test=False)
    except PlacementError:  # with 4 bits everywhere it may not fit, a mixture can
        program = compile_graph(graph, HOST, self_test=False)
    return {item["layer"]: item["reason"] for item in four_bits(program) if item["stored_bits"] == 8}


def _stored_as_bytes(graph: Graph, step: Step, node: Node) -> str | None:
    """Why the weights of a layer take whole bytes in flash though they have 4 bits; None if they do not."""
    if step.mode != "integer":
        return "dynamic layers read whole bytes"
    if node.op == "depthwise_conv2d":
        return "filters of depthwise convolutions are read as whole bytes"
    if node.op == "dense":
        return refusal(graph, node)
    return None if step.rows else "it runs by itself, with a kernel that reads whole bytes"


def _lower(program: Program) -> Iterator[dict[str, Any]]:
    """What would lower the peak, with the bytes of arena it would need."""
    graph, kernels, options, now = program.graph, program.kernels, program.options, program.arena_bytes

    def need(graph: Graph | None, changed: Any = options) -> int | None:
        if graph is None:
            return None
        able = row_layers(program.graph) | dynamic_layers(program.graph)
        try:
            return planned(graph, kernels, able, changed)[1].arena_bytes
        except UnsupportedError:
            return None

    able = row_layers(graph) | dynamic_layers(graph)
    size = graph.tensor(graph.inputs[0]).shape[1]
    smaller = (size - 1) // RESOLUTION_STEP * RESOLUTION_STEP
    measures = [
        ("the objective ram", need(graph, options_for(graph, kernels, able, "ram", base=options))),
        ("a picture that comes row by row", None if options.stream else need(graph, replace(options, stream=True))),
        (f"resolution {smaller}", need(at_resolution(graph, smaller)) if smaller else None),
        (f"{NARROWER:g} times the channels", need(at_width(graph, NARROWER))),
    ]
    for what, size_then in measures:
        if size_then is not None and size_then < now:
            yield {"what": what, "arena_bytes": size_then}
