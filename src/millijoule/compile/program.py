"""From a graph to a firmware's model: C files, memory plan, table of layers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from millijoule.boards import Board, load_board
from millijoule.compile._text import C_TYPES, with_assembly
from millijoule.compile.emission import Emission, block_bytes
from millijoule.compile.emit import emit
from millijoule.compile.fit import check_fit
from millijoule.compile.golden import golden_vector
from millijoule.compile.legal import row_layers
from millijoule.compile.lower import Call, lower
from millijoule.compile.lower import Layer as LoweredLayer
from millijoule.compile.lower_rows import lower_rows
from millijoule.compile.lower_rows_dynamic import lower_rows_dynamic
from millijoule.compile.objective import options_for, planned
from millijoule.compile.options import DEFAULTS, PlanOptions, RowOptions
from millijoule.compile.orientation import oriented
from millijoule.compile.placement import in_two_memories
from millijoule.compile.plan import MemoryPlan
from millijoule.compile.recorded import recorded_for, with_winners
from millijoule.compile.rows_dynamic import DynamicMemory, dynamic_layers
from millijoule.compile.schedule import Schedule, Step
from millijoule.compile.staging import Copies, stage, with_staging
from millijoule.errors import OptionError, PlacementError
from millijoule.graph import Graph, Node, Removed, prune, simplify, verify
from millijoule.kernels import Kernel, assembly_source, choose, headers, source

__all__ = ["HOST", "KERNELS", "Layer", "Program", "compile_graph"]

HOST = "host"
"""The target that stands for this computer: nothing to fit into."""
_ALWAYS = ("mj_kernels.h",)
KERNELS = ("dsp", "plain")
"""Variants of the kernels, the default first."""


@dataclass(frozen=True)
class Layer:
    """One layer of the firmware.

    Attributes:
        index: its number.
        name: the layer name that the user knows.
        operator: a key of `millijoule.graph.OPERATORS`; two with a plus sign for a fused layer.
        mode: "integer", "dynamic" or "float".
        kernel: the C function that does the work; two with a plus sign where a dense layer follows the rows.
        symbol: the C function of this layer, by which profiles attribute cycles.
        macs: multiply-accumulate operations for one picture.
        in_shape: shape of its first input.
        out_shape: shape of its result.
        weight_bytes: its constants in flash.
        scratch_bytes: temporary memory of its kernel.
        live_bytes: memory in use while it runs.
        output: the tensor of the graph that is its result.
        sources: all C functions that it uses.
    """

    index: int
    name: str
    operator: str
    mode: str
    kernel: str
    symbol: str
    macs: int
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    weight_bytes: int
    scratch_bytes: int
    live_bytes: int
    output: str
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class Program:
    """A compiled model: complete C sources and what is known about them.

    Attributes:
        name: the model's name.
        graph: the graph that was compiled, after simplification and without dead channels.
        board: what it was compiled for, None for this computer.
        kernels: "dsp" or "plain".
        files: file name -> text, kernels included; they build on their own.
        plan: where the buffers lie.
        layers: in the order of execution.
        traced: whether the checksums of `mj_trace` are there.
        schedule: the layers with the memory of their blocks.
        options: how the blocks run.
        staged: which constants are copied to RAM.
        removed: channels that carry no information and are not compiled (`graph.prune`).
    """

    name: str
    graph: Graph
    board: Board | None
    kernels: str
    files: Mapping[str, str]
    plan: MemoryPlan
    layers: tuple[Layer, ...]
    traced: bool
    schedule: Schedule
    options: PlanOptions
    staged: Copies
    removed: tuple[Removed, ...] = ()

    @property
    def arena_bytes(self) -> int:
        """RAM of activations, scratch and the picture."""
        return self.plan.arena_bytes

    @property
    def weight_bytes(self) -> int:
        """Flash of weights, biases, multipliers, shifts and tables."""
        return sum(layer.weight_bytes for layer in self.layers)

    @property
    def flash_bytes(self) -> int:
        """Flash of the model's data; the code's size is known after building only."""
        return self.weight_bytes

    @property
    def macs(self) -> int:
        """Multiply-accumulate operations for one picture."""
        return sum(layer.macs for layer in self.layers)

    @property
    def target(self) -> str:
        """The board's name, or "host"."""
        return self.board.name if self.board else HOST

    def summary(self) -> dict[str, Any]:
        """Sizes, plan and layers as JSON values, for reports."""
        return {
            "name": self.name,
            "target": self.target,
            "kernels": self.kernels,
            "arena_bytes": self.arena_bytes,
            "arena_lower_bound": self.plan.lower_bound,
            "weight_bytes": self.weight_bytes,
            "flash_bytes": self.flash_bytes,
            "macs": self.macs,
            "plan": self.plan.as_dict(),
            "removed": [{**vars(item), "channels": list(item.channels)} for item in self.removed],
            "layers": [{**vars(layer)} for layer in self.layers],
        }


def compile_graph(
    graph: Graph,
    target: str | Board = HOST,
    *,
    kernels: str = "dsp",
    name: str = "model",
    self_test: bool = True,
    trace: bool = False,
    options: PlanOptions = DEFAULTS,
    objective: str = "cycles",
    ram_budget: int | None = None,
    transpose: bool = True,
    winners: Mapping[str, RowOptions] | None = None,
) -> Program:
    """Compiles a float, dynamic or integer graph to C.

    Args:
        graph: one uint8 picture in; logits and, if wanted, probabilities out.
        target: "host", a board's name, or a board. For a board it is checked that the model fits.
        kernels: "dsp" (Armv7E-M instructions; portable stand-ins on the host) or "plain". Same results.
        name: what the firmware calls itself (`MJ_MODEL_NAME`).
        self_test: bakes the golden vector in that `mj_init` checks.
        trace: keeps a checksum of every layer's result, to find the first layer that differs.
        options: how the blocks run where nothing else matters; no bit of a result depends on it.
        objective: "cycles", "ram" (the smallest arena that is found) or "energy" (as cycles), see `objective`.
        ram_budget: bytes that the arena may have; the fastest plan within them is chosen. Where an arena is split over
            two memories (`placement`), more bytes than one needs may make it faster.
        transpose: whether an integer network may be computed on the transposed picture where that saves cycles;
            a picture that comes row by row stays upright.
        winners: the fastest options of blocks by their shape (`recorded.shape_key`), as `deploy.tune` finds them; None:
            those that the package brings for the board. They never make the arena larger, except within `ram_budget`.

    Raises:
        OptionError: unknown variant of the kernels, unknown objective, a budget below 1.
        BoardError: unknown board.
        UnsupportedError: an operator without a kernel.
        PlacementError: the model does not fit the board or the budget; the message says what would.
    """
    if kernels not in KERNELS:
        raise OptionError(f"kernels {kernels!r}", "there is no such variant", f"Choose one of: {', '.join(KERNELS)}")
    board = None if target == HOST else load_board(target) if isinstance(target, str) else target
    # kernels read whole words: a few channels more are no slower than an odd number
    graph, removed = prune(replace(simplify(verify(graph)), name=name), multiple=4)
    turned = oriented(graph) if transpose and not options.stream else None
    if turned is not None and (objective == "ram" or ram_budget is not None):
        graph = _leaner(turned, graph, kernels, options, ram_budget if objective != "ram" else None)
    elif turned is not None:
        with suppress(PlacementError):  # longer rows need more memory, and then the upright network may still fit
            program = compile_graph(
                turned, target, kernels=kernels, name=name, self_test=self_test, trace=trace, options=options,
                objective=objective, transpose=False, winners=winners,
            )  # fmt: skip
            return replace(program, removed=removed)
    able = row_layers(graph) | dynamic_layers(graph)
    fastest = recorded_for(board, kernels) if winners is None else winners
    options = with_winners(graph, kernels, able, options, fastest, ram_budget)
    options = options_for(graph, kernels, able, objective, ram_budget, options)
    parts, plan = planned(graph, kernels, able, options)
    parts, plan = in_two_memories(graph, parts, plan, board, None if objective == "ram" else ram_budget)
    calls = _lower_all(graph, parts, plan, {}, kernels)
    staged = stage(graph, parts.steps, plan, calls, board, options)
    if board is not None:

        def least() -> int:
            smallest = options_for(graph, kernels, able, "ram", base=options)
            return planned(graph, kernels, able, smallest)[1].arena_bytes

        check_fit(graph, parts, plan, sum(block_bytes(call) for call in calls), board, kernels, able, least)
    if staged:
        calls, plan = _lower_all(graph, parts, plan, staged, kernels), with_staging(plan, staged)
    golden = golden_vector(graph) if self_test else None
    files = emit(Emission(graph, parts, plan, calls, golden, trace))
    core = board.core if board is not None and kernels == "dsp" else None
    files.update(_kernel_files({name for call in calls for name in call.sources}, graph.rounding, core))
    layers = tuple(
        Layer(
            step.index,
            step.name,
            step.operator,
            step.mode,
            call.kernel if call.then is None else f"{call.kernel} + {call.then.kernel}",
            step.symbol,
            step.macs,
            graph.tensor(step.operands[0]).shape,
            graph.tensor(step.node.output).shape,
            block_bytes(call),
            step.scratch_bytes,
            plan.steps[step.index].live_bytes,
            step.node.output,
            call.sources,
        )
        for step, call in zip(parts.steps, calls, strict=True)
    )
    return Program(name, graph, board, kernels, files, plan, layers, trace, parts, options, staged, removed)


def _leaner(turned: Graph, graph: Graph, kernels: str, options: PlanOptions, budget: int | None) -> Graph:
    """The transposed network if it can keep the budget; else, or without one, what needs less memory of the two."""

    def least(graph: Graph) -> int:
        able = row_layers(graph) | dynamic_layers(graph)
        return planned(graph, kernels, able, options_for(graph, kernels, able, "ram", base=options))[1].arena_bytes

    bytes_turned, bytes_straight = least(turned), least(graph)
    if budget is not None and min(bytes_turned, bytes_straight) <= budget:
        return turned if bytes_turned <= budget else graph
    return turned if bytes_turned < bytes_straight else graph


def _lower_all(graph: Graph, parts: Schedule, plan: MemoryPlan, staged: Copies, kernels: str) -> tuple[Call, ...]:
    """The kernel call of every layer, with addresses from the plan; `staged` says whose constants are copied where."""

    def address(tensor: str) -> str:
        if tensor not in parts.home:  # a picture that comes row by row
            return "NULL"
        return f"MJ_AT({C_TYPES[graph.tensor(tensor).dtype]}, {plan.buffer(parts.home[tensor]).offset})"

    def kernel_of(node: Node) -> Kernel:
        return choose(graph, node, kernels)

    def call(step: Step) -> Call:
        offset = plan.buffer(parts.scratch[step.index]).offset if step.index in parts.scratch else None
        scratch = "NULL" if offset is None else f"MJ_AT(uint8_t, {offset})"
        copies = staged.get(step.index, {})
        where = {name: copy.offset for name, copy in copies.items() if copy.way == "whole"}
        if not step.rows or offset is None:
            return lower(graph, step, address, scratch, where)
        layer = LoweredLayer(graph, step, address, scratch, step.node, step.kernel, where)
        if isinstance(step.rows[0], DynamicMemory):
            place = parts.quantized.get(step.index)
            start = None if place is None else plan.buffer(place).offset
            return lower_rows_dynamic(layer, step.rows[0], offset, start, kernel_of, plain=kernels == "plain")
        return lower_rows(layer, step.rows, offset, kernel_of, copies)

    return tuple(call(step) for step in parts.steps)


def _kernel_files(kernels: Iterable[str], rounding: str, core: str | None) -> dict[str, str]:
    """The sources of these kernels and every header that they include, directly or not, by file name.

    The header of requantisation gets the model's rounding rule written on top, so that the files build on their own.

    Args:
        kernels: names of C functions.
        rounding: the model's rule.
        core: the core for which there may be assembly; None for C only.
    """
    available = headers()
    rule = f"/* The rounding rule of this model. */\n#define MJ_ROUNDING_{rounding.upper()}\n\n"
    available["mj_requantize.h"] = rule + available["mj_requantize.h"]
    files: dict[str, str] = {}
    for name in sorted(kernels):
        assembly = assembly_source(name, core, rounding) if core is not None else None
        files[f"{name}.c"] = source(name) if assembly is None else with_assembly(source(name), assembly)
    queue = [*files, *_ALWAYS]
    files |= {header: available[header] for header in _ALWAYS}
    while queue:
        for header in re.findall(r'#\s*include\s+"([^"]+)"', files[queue.pop()]):
            if header not in files:
                files[header] = available[header]
                queue.append(header)
    return files
