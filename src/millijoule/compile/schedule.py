"""Which layers run, with which kernel, and which memory each of them needs: everything that follows from shapes alone.

No weight is looked at here, so that the memory of the same network at another resolution or width can be planned from
a graph whose shapes were rewritten (see `fit`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from millijoule.compile.finder import Block, find_blocks
from millijoule.compile.options import DEFAULTS, PlanOptions
from millijoule.compile.plan import Lifetime, Overlap, live_bytes, plan_memory
from millijoule.compile.rows import (
    RowMemory,
    can_feed,
    cascade_of,
    chains,
    overlap_distance,
    slack_bytes,
)
from millijoule.compile.rows_dynamic import (
    DynamicMemory,
    can_store,
    dynamic_distance,
    dynamic_memory_of,
    find_dynamic_blocks,
)
from millijoule.errors import GraphError, UnsupportedError
from millijoule.graph import Graph, Node, macs, mode
from millijoule.kernels import ROWS, ROWS_DYNAMIC, Kernel, choose, dims_of

__all__ = ["IN_PLACE", "Schedule", "Step", "blocks_of", "joints", "layer_name", "peak", "schedule", "schedule_with"]

IN_PLACE = {("normalize", "integer"), ("add", "integer"), ("add", "float"), ("clamp", "integer"), ("clamp", "float")}
"""Operators (with their arithmetic) whose kernel reads an element before it writes the one at the same place."""


QUANTIZES_FIRST = ("mj_conv2d_dyn", "mj_depthwise_dyn", "mj_dense_dyn", "mj_rows_dyn")
"""Kernels that turn their float input into int8 scratch, from the first element to the last, before they write their
result. Where nobody needs the input later, the scratch lies at its start: float i is read before byte i is written."""


@dataclass(frozen=True)
class Step:
    """One layer of the firmware.

    Attributes:
        index: its number, the same in symbols, names and profiles.
        name: the layer name that the user knows.
        node: the operation, the last one of a block.
        rows: the blocks that this layer computes row by row, with their memory, each fed by the one before; none for a
            layer of one operation.
        mode: "integer", "dynamic" or "float".
        kernel: the registry's row of the C function that does the work.
        symbol: the C function of this layer.
        macs: multiply-accumulate operations for one picture.
        scratch_bytes: temporary memory of the kernel.
    """

    index: int
    name: str
    node: Node
    mode: str
    kernel: Kernel
    symbol: str
    macs: int
    scratch_bytes: int
    rows: tuple[RowMemory, ...] = ()

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Its operations in order."""
        return tuple(node for memory in self.rows for node in memory.block.nodes) or (self.node,)

    @property
    def operands(self) -> tuple[str, ...]:
        """The tensors that the layer reads, data first."""
        if not self.rows:
            return self.node.inputs
        first = self.rows[0].block
        return (first.input,) if first.residual is None else (first.input, first.residual)

    @property
    def input_bytes(self) -> int:
        """Of the int8 values that it makes of its input before it begins."""
        if self.rows and isinstance(self.rows[0], DynamicMemory):
            return self.rows[0].input_bytes
        return self.scratch_bytes if self.kernel.name in QUANTIZES_FIRST else 0

    @property
    def operator(self) -> str:
        """The operator, or all of them."""
        return " + ".join(node.op for node in self.nodes)


@dataclass(frozen=True)
class Schedule:
    """The layers in order and their demands for memory.

    Attributes:
        steps: the layers.
        lifetimes: the buffers.
        overlaps: which results may share bytes with which inputs.
        home: tensor name -> name of the buffer in which it lives.
        scratch: layer index -> name of the buffer at whose start its scratch lies.
        quantized: layer index -> name of the buffer at whose start a dynamic chain keeps its input as int8.
    """

    steps: tuple[Step, ...]
    lifetimes: tuple[Lifetime, ...]
    overlaps: tuple[Overlap, ...]
    home: Mapping[str, str]
    scratch: Mapping[int, str]
    quantized: Mapping[int, str] = field(default_factory=dict)


def layer_name(node: Node) -> str:
    """The name by which messages and profiles call a node: its source, else its operator."""
    return node.source or node.op


def schedule(graph: Graph, kernels: str, able: Collection[str] = (), options: PlanOptions = DEFAULTS) -> Schedule:
    """The layers of `graph` and the lifetimes of their buffers.

    Chains of layers that the row engine can compute become one layer (see `rows`); a result of such a layer may lie
    over the part of its input that has been read. Where the map between two such layers is there at the peak and memory
    is saved by never storing it, they become one layer, too.

    Reshapes cost nothing: their result is their input. A layer of `IN_PLACE` writes over an input that nobody reads
    later, the picture included.

    Args:
        graph: a verified graph with one uint8 picture (1, H, W, C) as input; logits are its first output.
        kernels: "plain" or "dsp".
        able: results of the convolutions whose arithmetic the row kernels can do (`legal.row_layers`).
        options: how much each block does at a time, and which maps are never stored if that is decided already.

    Raises:
        UnsupportedError: an operator without a kernel, or an input that is not a picture.
        GraphError: an output that no layer writes.
    """
    _check_ends(graph)
    blocks = _with_stored_sums(graph, kernels, blocks_of(graph, kernels, able, options), options)
    allowed = joints(graph, blocks, options)
    if options.unstored is not None:
        return schedule_with(graph, kernels, blocks, allowed & options.unstored, options)
    unstored: frozenset[str] = frozenset()
    best = schedule_with(graph, kernels, blocks, unstored, options)
    bound, alive = peak(best)
    while True:
        # joining two blocks only helps if the map between them is there at the peak
        maps = [block.output for block in blocks if block.output in allowed - unstored]
        tried = [name for name in maps if best.home[name] in alive]
        trials = [
            (unstored | {name}, schedule_with(graph, kernels, blocks, unstored | {name}, options)) for name in tried
        ]
        found = min(((peak(trial), names, trial) for names, trial in trials), key=lambda item: item[0][0], default=None)
        if found is None or found[0][0] >= bound:
            return best
        (bound, alive), unstored, best = found


def blocks_of(graph: Graph, kernels: str, able: Collection[str], options: PlanOptions) -> tuple[Block, ...]:
    """The chains of a graph. Those with dynamic layers end with a mean, and a dense layer behind it, where the arena
    does not grow by it: a map may lie over its input, sums may not.
    """
    integer, wanted = find_blocks(graph, able), find_dynamic_blocks(graph, able)
    blocks: tuple[Block, ...] = (*integer, *(replace(block, mean=None, dense=None) for block in wanted))
    ending = [index for index, block in enumerate(wanted, len(integer)) if block.mean is not None]
    if not ending:
        return blocks
    bound = _arena_bytes(schedule_with(graph, kernels, blocks, frozenset(), options))
    for index in ending:
        longest = wanted[index - len(integer)]
        for block in (longest, replace(longest, dense=None)):
            trial = (*blocks[:index], block, *blocks[index + 1 :])
            size = _arena_bytes(schedule_with(graph, kernels, trial, frozenset(), options))
            if size <= bound:
                blocks, bound = trial, size
                break
    return blocks


def _with_stored_sums(graph: Graph, kernels: str, blocks: tuple[Block, ...], options: PlanOptions) -> tuple[Block, ...]:
    """Dynamic chains store the sums of their depthwise convolution where the arena does not grow by it."""
    able = [index for index, block in enumerate(blocks) if kernels != "plain" and can_store(graph, block)]
    if not able:
        return blocks
    bound = _arena_bytes(schedule_with(graph, kernels, blocks, frozenset(), options))
    for index in able:
        trial = (*blocks[:index], replace(blocks[index], stores=True), *blocks[index + 1 :])  # type: ignore[call-arg]
        if _arena_bytes(schedule_with(graph, kernels, trial, frozenset(), options)) <= bound:
            blocks = trial
    return blocks


def _arena_bytes(parts: Schedule) -> int:
    """What a plan takes: where buffers cannot be placed side by side, more than the peak."""
    return plan_memory(parts.lifetimes, [step.name for step in parts.steps], overlaps=parts.overlaps).arena_bytes


def joints(graph: Graph, blocks: Sequence[Block], options: PlanOptions = DEFAULTS) -> frozenset[str]:
    """The maps between two blocks that need not be stored."""
    willing = [b for b in blocks if options.of(b.output).join and mode(graph, b.last_product) == "integer"]
    return frozenset(second.input for first in willing for second in willing if can_feed(graph, first, second))


def peak(parts: Schedule) -> tuple[int, frozenset[str]]:
    """The least bytes of the arena, and the buffers that live when they are needed."""
    live = live_bytes(parts.lifetimes, len(parts.steps), overlaps=parts.overlaps)
    most = max(live, default=0)
    steps = [index for index, size in enumerate(live) if size == most]
    names = (item.name for item in parts.lifetimes if any(item.first <= step <= item.last for step in steps))
    return most, frozenset(names)


def schedule_with(
    graph: Graph, kernels: str, blocks: Sequence[Block], unstored: Collection[str], options: PlanOptions = DEFAULTS
) -> Schedule:
    """The schedule in which just these maps are handed over row by row and never stored."""
    value = _values(graph)
    joined = {chain[-1].output: chain for chain in chains(graph, blocks, unstored)}
    inside = {node.output for chain in joined.values() for block in chain for node in block.nodes} - set(joined)
    steps: list[Step] = []
    for node in graph.nodes:
        if node.op != "reshape" and node.output not in inside:
            steps.append(_step(graph, node, joined.get(node.output, ()), len(steps), kernels, options))
    last = _last_uses(graph, steps, value)
    home: dict[str, str] = {}
    born: dict[str, int] = {}
    ends: dict[str, int] = {}
    tensors: dict[str, list[str]] = {}

    def live(name: str, buffer: str, step: int) -> None:
        home[name] = buffer
        born.setdefault(buffer, step)
        ends[buffer] = max(ends.get(buffer, step), last.get(name, step))
        tensors.setdefault(buffer, []).append(name)

    if options.stream:
        _check_stream(graph, steps)
    for name in () if options.stream else graph.inputs:
        live(name, name, 0)
    late: set[str] = set()
    for step in steps:
        result = step.node.output
        over = _overwritten(graph, step, value, last)
        live(result, home[over] if over else result, step.index)
        if step.input_bytes:
            late.add(result)
    scratch: dict[int, str] = {}
    quantized: dict[int, str] = {}
    tails: dict[str, int] = {}
    for step in steps:
        if step.scratch_bytes:
            scratch[step.index] = f"scratch of layer {step.index}"
        if not step.input_bytes:
            continue
        buffer = home[value[step.operands[0]]]
        place = f"quantised input of layer {step.index}"
        others = (home.get(value.get(name, "")) for name in step.operands[1:])
        if ends[buffer] == step.index and buffer not in others:
            place, tails[buffer] = buffer, step.input_bytes
        if step.rows:
            quantized[step.index] = place
        elif place == buffer:
            scratch[step.index] = buffer
    made = (step for step in steps if step.rows and not isinstance(step.rows[-1], DynamicMemory))
    slack = {home[step.node.output]: slack_bytes(step.rows[-1]) for step in made}
    lifetimes = [
        Lifetime(
            buffer,
            graph.tensor(buffer).bytes + slack.get(buffer, 0),
            born[buffer],
            ends[buffer],
            "picture" if buffer in graph.inputs else "activation",
            tuple(tensors[buffer]),
            buffer in late,
            tails.get(buffer),
        )
        for buffer in tensors
    ]
    for step in steps:
        index = step.index
        if step.scratch_bytes and scratch[index] not in tails:
            # a dynamic chain needs it once its input is int8
            size, waits = step.scratch_bytes, index in quantized
            lifetimes.append(Lifetime(scratch[index], size, index, index, "scratch", late=waits))
        if index in quantized and quantized[index] not in tails:
            lifetimes.append(Lifetime(quantized[index], step.input_bytes, index, index, "scratch"))
    places = {name: home[source] for name, source in value.items() if source in home}
    kept = {home[value[name]] for name in graph.outputs}
    overlaps = tuple(
        overlap
        for step in steps
        for overlap in _overlaps(graph, step, places)
        if ends[overlap.above] == step.index and born[overlap.below] == step.index and overlap.above not in kept
    )
    return Schedule(tuple(steps), tuple(lifetimes), overlaps, places, scratch, quantized)


def _overlaps(graph: Graph, step: Step, places: Mapping[str, str]) -> Iterator[Overlap]:
    """How the result of a layer may share bytes with its inputs while they are read row by row."""
    if not step.rows:
        return
    first, memory = step.rows[0].block, step.rows[0]
    if first.input not in places:  # rows of a picture that is stored nowhere
        return
    result, data = places[step.node.output], places[first.input]
    dynamic = isinstance(memory, DynamicMemory)
    yield Overlap(result, data, dynamic_distance(memory) if dynamic else overlap_distance(graph, *step.rows))
    if first.residual is not None and places[first.residual] != data and len(step.rows) == 1:
        yield Overlap(result, places[first.residual], 0)


def _check_stream(graph: Graph, steps: Sequence[Step]) -> None:
    """Refuses a network whose picture cannot come row by row."""
    readers = [step for step in steps if graph.inputs[0] in step.operands]
    first = readers[0] if readers else steps[0]
    by_rows = first.rows and not isinstance(first.rows[0], DynamicMemory)
    if len(readers) != 1 or first.index != 0 or not by_rows:
        raise UnsupportedError(
            f"layer {first.name!r} ({first.operator})",
            "it reads the whole picture, which therefore cannot come row by row",
            "Begin an int8 network with a convolution that the row engine can do, or leave out streaming",
        )


def _check_ends(graph: Graph) -> None:
    what = f"graph {graph.name!r}"
    pictures = [graph.tensor(name) for name in graph.inputs]
    if len(pictures) != 1 or pictures[0].dtype != "uint8" or len(pictures[0].shape) != 4 or pictures[0].shape[0] != 1:
        shown = ", ".join(f"{tensor.dtype}{tensor.shape}" for tensor in pictures) or "none"
        raise UnsupportedError(
            what,
            f"firmware reads one uint8 picture (1, height, width, channels), its inputs are: {shown}",
            "Begin the graph with a normalize layer",
        )
    written = graph.producers()
    for name in graph.outputs:
        if name not in written:
            raise GraphError(f"output {name!r} of {what}", "no layer writes it", "Name the result of a layer")
    if not 1 <= len(graph.outputs) <= 2:
        raise UnsupportedError(
            what, f"it has {len(graph.outputs)} outputs", "Give logits and, if wanted, probabilities"
        )


def _values(graph: Graph) -> dict[str, str]:
    """The tensor whose bytes each run-time tensor shows: itself, or, behind reshapes, what was reshaped."""
    value = {name: name for name in graph.inputs}
    for node in graph.nodes:
        for name in node.outputs:
            value[name] = value[node.inputs[0]] if node.op == "reshape" else name
    return value


def _last_uses(graph: Graph, steps: list[Step], value: Mapping[str, str]) -> dict[str, int]:
    last: dict[str, int] = {}
    for step in steps:
        last[step.node.output] = step.index
        for name in step.operands:
            if name in value:
                last[value[name]] = step.index
    for name in graph.outputs:
        last[value[name]] = len(steps) - 1
    return last


def _overwritten(graph: Graph, step: Step, value: Mapping[str, str], last: Mapping[str, int]) -> str | None:
    """The input (as a value) whose memory the result of `step` may take, if any."""
    if step.rows or (step.node.op, step.mode) not in IN_PLACE:
        return None
    for name in step.node.inputs:
        source = value.get(name)
        if (
            source is not None
            and last[source] == step.index
            and not any(value[output] == source for output in graph.outputs)
            and graph.tensor(name).bytes == graph.tensor(step.node.output).bytes
        ):
            return source
    return None


def _step(graph: Graph, node: Node, blocks: Sequence[Block], index: int, kernels: str, options: PlanOptions) -> Step:
    name = layer_name(node)
    if node.op == "batch_norm":
        raise UnsupportedError(
            f"layer {name!r} (batch_norm)", "it could not be folded into the layer before it", "Put it behind a layer"
        )
    for operand in node.inputs[1:] if node.op == "add" else node.inputs[:1]:
        if operand in graph.constants:
            raise UnsupportedError(f"layer {name!r} ({node.op})", "its data is a constant", "Fold it before compiling")
    dynamic = bool(blocks) and mode(graph, blocks[0].last_product) == "dynamic"
    rows = (dynamic_memory_of(graph, blocks[0]),) if dynamic else cascade_of(graph, blocks, options)
    if not rows:
        kernel, work = choose(graph, node, kernels), macs(graph, node)
        scratch_bytes = kernel.scratch_bytes(dims_of(graph, node))
    else:
        nodes = [item for block in blocks for item in block.nodes]
        kernel = ROWS_DYNAMIC if dynamic else ROWS
        work, scratch_bytes = sum(macs(graph, item) for item in nodes), rows[-1].bytes
        name = " + ".join(layer_name(item) for item in nodes if item.op != "normalize")
    identifier = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_")[:48] or node.op
    symbol = f"mj_layer_{index:03d}_{identifier}"
    arithmetic = "dynamic" if dynamic else mode(graph, node)
    return Step(index, name, node, arithmetic, kernel, symbol, work, scratch_bytes, rows)
