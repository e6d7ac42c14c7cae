"""Which bytes of the arena are in use, row step by row step: the plan followed through one inference.

A block reads its input and writes its result row by row. A row that has been read and that nobody needs later is free
at once, and the result may take its place; this is why a plan can be smaller than input and result together. `plan`
counts a buffer as alive during its whole layer; here it is counted row by row, from the same arithmetic that decides
how far the two may overlap (`rows.overlap_distance`). What a block keeps beside them (rings, groups, prepared
parameters) is there from its first row to its last.

Dynamic chains run over their input several times: each pass is one moment, the last one, which writes the result, one
moment per row (as planned: where sums are stored, it need not read the input again). A dense layer behind a mean is one
more moment: by then the block is done with its input and with all memory but the means. Layers of one operation are one
moment.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from millijoule.compile.plan import Buffer
from millijoule.compile.program import Program
from millijoule.compile.rows import rows_read, sizes_of, slack_bytes
from millijoule.compile.rows_dynamic import DynamicMemory
from millijoule.compile.schedule import Step, layer_name
from millijoule.kernels import choose, dims_of

__all__ = ["KINDS", "LayerMoments", "Moment", "Part", "layer_moments", "row_timeline"]

KINDS = ("input", "result", "map", "rings", "groups", "prepared", "scratch", "staged")
"""What bytes are used for: rows of the input that wait to be read (for the last time), rows of the result, maps of
other layers, rings of rows (planes, widened rows, rows kept for an addition), groups of pixels, prepared parameters,
other scratch memory, and copies of constants, which only speed a layer up."""
PART_KINDS = {
    "state": "prepared",
    "table": "prepared",
    "filters": "prepared",
    "conv_pairs": "prepared",
    "conv_tile": "prepared",
    "project_tile": "prepared",
    "project_pairs": "prepared",
    "widened": "rings",
    "planes": "rings",
    "conv_groups": "rings",
    "kept": "rings",
    "groups": "groups",
}
"""The kind of each part of a block's scratch memory; any other is "scratch"."""


@dataclass(frozen=True)
class Part:
    """Bytes of the arena that are in use: `bytes` of them from `offset` on, for one of `KINDS`."""

    name: str
    kind: str
    offset: int
    bytes: int


@dataclass(frozen=True)
class Moment:
    """What is in use when so many rows have been read and written.

    Attributes:
        label: the pass, where a layer has several, or "dense" for a dense layer behind the rows.
        read: rows of the input that this pass has read.
        written: rows of the result that are there.
        parts: in the order of their offsets; no two share a byte.
    """

    label: str
    read: int
    written: int
    parts: tuple[Part, ...]

    @property
    def bytes(self) -> int:
        """Bytes in use, without copies of constants, which are not needed."""
        return sum(part.bytes for part in self.parts if part.kind != "staged")


@dataclass(frozen=True)
class LayerMoments:
    """One layer of the firmware.

    Attributes:
        index: its number.
        name: its name.
        operator: its operators.
        way: "rows", "passes" or "whole".
        rows: rows of its input; 0 for a layer of one moment.
        result_rows: rows of its result.
        moments: in the order of time.
    """

    index: int
    name: str
    operator: str
    way: str
    rows: int
    result_rows: int
    moments: tuple[Moment, ...]


@dataclass(frozen=True)
class _Flow:
    """How many rows are read and written, moment by moment, and from which input row on rows are still needed."""

    rows: int
    result_rows: int
    written: tuple[int, ...]
    needed: tuple[int, ...]
    added: tuple[int, ...]


def _flow(program: Program, step: Step) -> _Flow:
    """The rows of a block, or of several that hand rows to each other, when 0, 1, ... rows have been read."""
    memories, first = step.rows, step.rows[0].block
    read = _result_read(program, step)
    rows = sizes_of(first, memories[0].dims)[0].in_height
    written = tuple(bisect_right(read, count) for count in range(rows + 1))
    needed = tuple(range(rows + 1))
    added = written
    if first.residual is not None and (len(memories) > 1 or first.mean is not None):
        complete = rows_read(sizes_of(first, memories[0].dims))
        added = tuple(bisect_right(complete, count) for count in range(rows + 1))
    if first.residual == first.input and not isinstance(memories[0], DynamicMemory):
        # a row is read again when it is added to the result of the first block
        needed = tuple(min(pair) for pair in zip(needed, added, strict=True))
    return _Flow(rows, len(read), written, needed, added)


def _result_read(program: Program, step: Step) -> list[int]:
    """For each row of the result: how many rows of the input have been read when it is written."""
    layers = [dims for memory in step.rows for dims in sizes_of(memory.block, memory.dims)]
    last = step.rows[-1].block
    if last.mean is not None:  # one row, written at the end, or by the dense layer behind it
        return [layers[0].in_height + int(last.dense is not None)]
    return rows_read(layers)


def layer_moments(program: Program) -> tuple[LayerMoments, ...]:
    """The arena through one inference, layer by layer, within layers row by row."""
    return tuple(_layer(program, step) for step in program.schedule.steps)


def _layer(program: Program, step: Step) -> LayerMoments:
    if not step.rows:
        rows, result_rows, way, moments = 0, 0, "whole", tuple(_halves(program, step))
    else:
        flow = _flow(program, step)
        dynamic = isinstance(step.rows[0], DynamicMemory)
        found = _passes(program, step, flow) if dynamic else _rows(program, step, flow)
        rows, result_rows, way, moments = flow.rows, flow.result_rows, "passes" if dynamic else "rows", tuple(found)
    return LayerMoments(step.index, step.name, step.operator, way, rows, result_rows, moments)


def _moment(label: str, read: int, written: int, parts: Sequence[Part]) -> Moment:
    used = (part for part in parts if part.bytes)
    return Moment(label, read, written, tuple(sorted(used, key=lambda part: (part.offset, part.name))))


# *** blocks by rows *****


def _rows(program: Program, step: Step, flow: _Flow) -> Iterator[Moment]:
    fixed, moving = _buffers(program, step)
    fixed += _scratch_parts(program, step)
    for count in range(flow.rows + 1):
        parts = [part for buffer in moving for part in _moving(program, step, flow, buffer, count)]
        yield _moment("", count, flow.written[count], [*fixed, *parts])
    yield from _dense(program, step, flow)


def _dense(program: Program, step: Step, flow: _Flow) -> Iterator[Moment]:
    """A dense layer behind a mean, if there is one: the means over their sums, its scratch memory over a part of the
    block's, its result, and buffers of other layers.
    """
    memory, start = step.rows[-1], program.plan.buffer(program.schedule.scratch[step.index]).offset
    block, graph = memory.block, program.graph
    if block.mean is None or block.dense is None:
        return
    dims, kernel = dims_of(graph, block.dense), choose(graph, block.dense, program.kernels)
    fixed, moving = _buffers(program, step)
    result = program.plan.buffer(program.schedule.home[step.node.output])
    done = program.schedule.quantized.get(step.index)
    parts = [part for part in fixed if part.kind != "staged" and part.name != done]
    for buffer in moving:
        if buffer is result:
            parts.append(Part(step.node.output, "result", buffer.offset, graph.tensor(step.node.output).bytes))
    means = graph.tensor(block.mean.output)
    parts.append(Part(means.name, "scratch", start + memory.parts["sums"][0], means.bytes))
    scratch = start + memory.parts[memory.prepared][0]
    parts.append(Part(f"scratch of {layer_name(block.dense)}", "scratch", scratch, kernel.scratch_bytes(dims)))
    yield _moment("dense", flow.rows, 1, parts)


def _buffers(program: Program, step: Step) -> tuple[list[Part], list[Buffer]]:
    """The buffers beside a block's own memory: those that stay as they are, and those that grow or shrink."""
    home, first = program.schedule.home, step.rows[0].block
    result = home[step.node.output]
    names = [home[name] for name in (first.input, first.residual) if name is not None and name in home]
    inputs = dict.fromkeys(names)
    fixed: list[Part] = []
    moving: list[Buffer] = []
    own = _own_buffers(program, step)
    for buffer in _alive(program, step):
        if buffer.name in own:
            continue
        if buffer.name == result or (buffer.name in inputs and buffer.last == step.index):
            moving.append(buffer)
        else:
            kind = "input" if buffer.name in inputs else _kind(program, step, buffer)
            fixed.append(Part(_shown(program, step, buffer), kind, buffer.offset, buffer.bytes))
    return fixed, moving


def _alive(program: Program, step: Step) -> Iterator[Buffer]:
    return (buffer for buffer in program.plan.buffers if buffer.first <= step.index <= buffer.last)


def _shown(program: Program, step: Step, buffer: Buffer) -> str:
    """A buffer's name; a copy's without the layer that it belongs to."""
    suffix = f" of layer {step.index}"
    name = buffer.name.removesuffix(suffix)
    return name if name in program.staged.get(step.index, {}) else buffer.name


def _kind(program: Program, step: Step, buffer: Buffer) -> str:
    if _shown(program, step, buffer) != buffer.name:
        return "staged"
    return "scratch" if buffer.kind == "scratch" else "map"


def _own_buffers(program: Program, step: Step) -> set[str]:
    """The buffers that hold a block's scratch memory: one, or one for each part where there are two memories."""
    origin = program.schedule.scratch.get(step.index)
    if origin is None:
        return set()
    places = {(part.offset, part.bytes) for part in _scratch_parts(program, step)}
    apart = {
        buffer.name
        for buffer in _alive(program, step)
        if buffer.kind == "scratch" and buffer.first == buffer.last and (buffer.offset, buffer.bytes) in places
    }
    return {origin, *(name for name in apart if name not in program.schedule.quantized.values())}


def _scratch_parts(program: Program, step: Step) -> list[Part]:
    """The scratch memory of the blocks of a layer, part by part."""
    origin = program.schedule.scratch.get(step.index)
    if origin is None:
        return []
    start = program.plan.buffer(origin).offset
    return [
        Part(
            f"{part} of block {index}" if len(step.rows) > 1 else part,
            PART_KINDS.get(part, "scratch"),
            start + offset,
            size,
        )
        for index, memory in enumerate(step.rows)
        for part, (offset, size) in memory.parts.items()
    ]


def _moving(program: Program, step: Step, flow: _Flow, buffer: Buffer, count: int) -> Iterator[Part]:
    """A result as far as it is there, or an input as far as it is needed, when `count` rows have been read."""
    home, first = program.schedule.home, step.rows[0].block
    if buffer.name == home[step.node.output]:
        yield _result(program, step, flow, buffer, flow.written[count])
    elif first.input in home and buffer.name == home[first.input]:
        yield _waiting(program.graph.tensor(first.input).bytes, first.input, buffer, flow.rows, flow.needed[count])
    else:  # another map that is added, row by row
        assert first.residual is not None
        total = program.graph.tensor(first.residual).bytes
        yield _waiting(total, first.residual, buffer, max(flow.added), flow.added[count])


def _result(program: Program, step: Step, flow: _Flow, buffer: Buffer, written: int) -> Part:
    """Its rows, and what the kernel writes behind the last of them."""
    total, last = program.graph.tensor(step.node.output).bytes, step.rows[-1]
    size = total if written == flow.result_rows else written * (total // flow.result_rows)
    behind = 0 if not written or isinstance(last, DynamicMemory) else slack_bytes(last)
    return Part(step.node.output, "result", buffer.offset, min(size + behind, buffer.bytes))


def _waiting(total: int, name: str, buffer: Buffer, rows: int, needed: int) -> Part:
    begin = total if needed == rows else needed * (total // rows)
    return Part(name, "input", buffer.offset + begin, total - begin)


# *** chains in passes *****


def _passes(program: Program, step: Step, flow: _Flow) -> Iterator[Moment]:
    """Input to int8, passes that find ranges, and row by row the last one."""
    home, memory, block = program.schedule.home, step.rows[0], step.rows[0].block
    assert isinstance(memory, DynamicMemory)
    fixed, moving = _buffers(program, step)
    quantized = program.schedule.quantized.get(step.index)
    place = None if quantized is None else program.plan.buffer(quantized)
    fixed = [part for part in fixed if place is None or part.name != place.name]
    result = program.plan.buffer(home[step.node.output])
    inputs = [buffer for buffer in moving if buffer is not result]
    whole = [Part(buffer.name, "input", buffer.offset, buffer.bytes) for buffer in inputs]
    ints: list[Part] = []
    if place is not None:
        ints = [Part(f"{block.input} as int8", "input", place.offset, memory.input_bytes)]
        yield _moment("input to int8", flow.rows, 0, [*fixed, *whole, *(ints if place not in inputs else ())])
    scratch = _scratch_parts(program, step)
    # where the int8 values took the place of the floats, those are gone
    inputs = [buffer for buffer in inputs if buffer is not place]
    for label in _ranges(memory):
        stay = [Part(buffer.name, "input", buffer.offset, buffer.bytes) for buffer in inputs]
        yield _moment(label, flow.rows, 0, [*fixed, *scratch, *stay, *ints])
    for count in range(flow.rows + 1):
        parts = [_result(program, step, flow, result, flow.written[count])]
        for buffer in inputs:
            # floats that are added, or the picture
            name = block.input if block.normalize is not None else block.residual or block.input
            rows, needed = (flow.rows, count) if block.normalize else (max(flow.added), flow.added[count])
            parts.append(_waiting(program.graph.tensor(name).bytes, name, buffer, rows, needed))
        parts += [
            _waiting(memory.input_bytes, f"{block.input} as int8", item, flow.rows, count) for item in _only(place)
        ]
        yield _moment("result", count, flow.written[count], [*fixed, *scratch, *parts])
    yield from _dense(program, step, flow)


def _only(place: Buffer | None) -> list[Buffer]:
    return [] if place is None else [place]


def _ranges(memory: DynamicMemory) -> Iterator[str]:
    """The passes before the last one."""
    if memory.conv is not None and memory.filter is not None:
        yield "range of the convolution"
    if memory.filter is not None:
        yield "range of the depthwise convolution"


# *** layers of one operation *****


def _halves(program: Program, step: Step) -> Iterator[Moment]:
    """What a kernel has: everything at once, or, if it turns its input to int8 first, before and after that."""
    alive = list(_alive(program, step))
    two = any(_late(buffer, step) or _tail(buffer, step) is not None for buffer in alive)
    for half, label in enumerate(("input to int8", "result") if two else ("",)):
        parts = []
        for buffer in alive:
            tail = _tail(buffer, step)
            if two and half == 0 and _late(buffer, step):
                continue
            size = tail if two and half == 1 and tail is not None else buffer.bytes
            parts.append(Part(_shown(program, step, buffer), _use(program, step, buffer), buffer.offset, size))
        yield _moment(label, 0, 0, parts)


def _late(buffer: Buffer, step: Step) -> bool:
    return buffer.late and buffer.first == step.index


def _tail(buffer: Buffer, step: Step) -> int | None:
    return buffer.tail_bytes if buffer.last == step.index else None


def _use(program: Program, step: Step, buffer: Buffer) -> str:
    home = program.schedule.home
    if buffer.name == home[step.node.output]:
        return "result"
    if buffer.name in [home.get(name) for name in step.operands]:
        return "input"
    return _kind(program, step, buffer)


# *** as JSON values *****


def row_timeline(program: Program, most: int | None = None) -> dict[str, Any]:
    """The arena through one inference as JSON values.

    Args:
        program: a compiled model.
        most: about how many moments of a layer are told; None for all. The first, the last, the fullest and the first
            one of each pass are always among them.

    Returns:
        "arena_bytes", "lower_bound_bytes", "fast_offset" (what lies from here on is in the board's fastest memory, or
        None), "peak" ("layer", "moment", "bytes": where most bytes are in use) and "layers", in the order of time:
        "index", "name", "operator", "way" ("rows", "passes" or "whole"), "rows", "result_rows", then one value per
        moment: "passes" (empty where there is one pass only), "read" and "written" (rows), "bytes" (in use); and
        "parts": "name", "kind" (one of `KINDS`), "offset" and "bytes", numbers for what stays, else lists with a value
        per moment.
    """
    layers = [_thinned(layer, most) for layer in layer_moments(program)]
    sizes = [(moment.bytes, -layer.index, -at) for layer in layers for at, moment in enumerate(layer.moments)]
    most, layer_index, moment_index = max(sizes, default=(0, 0, 0))
    return {
        "arena_bytes": program.arena_bytes,
        "lower_bound_bytes": program.plan.lower_bound,
        "fast_offset": program.plan.fast_offset,
        "peak": {"layer": -layer_index, "moment": -moment_index, "bytes": most},
        "layers": [_layer_values(layer) for layer in layers],
    }


def _thinned(layer: LayerMoments, most: int | None) -> LayerMoments:
    moments, last = layer.moments, len(layer.moments) - 1
    if most is None or last < most:
        return layer
    kept = {round(at * last / max(most - 1, 1)) for at in range(most)} | {0, last}
    kept.add(max(range(last + 1), key=lambda at: (moments[at].bytes, -at)))
    kept |= {at for at in range(last) if moments[at].label != moments[at - 1].label}
    return replace(layer, moments=tuple(moments[at] for at in sorted(kept)))


def _layer_values(layer: LayerMoments) -> dict[str, Any]:
    labels = [moment.label for moment in layer.moments]
    return {
        "index": layer.index,
        "name": layer.name,
        "operator": layer.operator,
        "way": layer.way,
        "rows": layer.rows,
        "result_rows": layer.result_rows,
        "passes": labels if any(labels) else [],
        "read": [moment.read for moment in layer.moments],
        "written": [moment.written for moment in layer.moments],
        "bytes": [moment.bytes for moment in layer.moments],
        "parts": list(_part_values(layer.moments)),
    }


def _part_values(moments: Sequence[Moment]) -> Iterator[dict[str, Any]]:
    """Each part with its place at every moment; a number where it never changes."""
    seen: dict[tuple[str, str], list[Part | None]] = {}
    for at, moment in enumerate(moments):
        for part in moment.parts:
            seen.setdefault((part.name, part.kind), [None] * len(moments))[at] = part
    for (name, kind), places in seen.items():
        offsets = _filled([None if part is None else part.offset for part in places])
        sizes = [0 if part is None else part.bytes for part in places]
        yield {
            "name": name,
            "kind": kind,
            "offset": offsets[0] if len(set(offsets)) == 1 else offsets,
            "bytes": sizes[0] if len(set(sizes)) == 1 else sizes,
        }


def _filled(offsets: Sequence[int | None]) -> list[int]:
    """A part that is not there keeps the place that it had, or will have."""
    known = [offset for offset in offsets if offset is not None]
    last, found = known[0], []
    for offset in offsets:
        last = last if offset is None else offset
        found.append(last)
    return found
