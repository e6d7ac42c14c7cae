"""Instructions, cycles, memory and energy of one inference: per layer, per block of the network and per function."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from millijoule.boards import Board
from millijoule.build import Image
from millijoule.emulate._decode import Instruction
from millijoule.emulate._mix import CLASSES, mix_of
from millijoule.emulate.cycles import CycleModel, EdgeTotal
from millijoule.emulate.energy import Energy, energy
from millijoule.errors import EmulationError

if TYPE_CHECKING:
    from millijoule.emulate.trace import TraceResult

__all__ = [
    "CLASSES",
    "FunctionProfile",
    "InstructionProfile",
    "LayerInfo",
    "LayerProfile",
    "Profile",
    "block_names",
    "make_profile",
    "traced_profile",
]

HOTTEST = 100
"""How many instructions a profile lists by themselves."""

OUTSIDE = "between the layers"
"""The row for what `mj_run` does itself: the loop over the layers and the search for the largest logit."""


@dataclass(frozen=True)
class LayerInfo:
    """What the compiler says of a layer: the user's name, operator, kernel, MACs and the bytes of RAM in use."""

    name: str
    operator: str = ""
    kernel: str = ""
    macs: int = 0
    live_bytes: int = 0


@dataclass(frozen=True)
class LayerProfile:
    """One layer, or one block of layers: between its function's first instruction and its return.

    `macs` is 0 when the compiler did not say. `mix` is instructions per class (`CLASSES`). `stalls` is cycles lost per
    cause, None where the model of time does not tell causes. `live_bytes` is RAM of activations and scratch in use (the
    largest in a block), `millijoules` the energy per regulator. `members` are the graph's layers that were compiled
    into one (a fused group), or the layers of a block.
    """

    name: str
    symbol: str
    instructions: int
    cycles: int
    macs: int
    operator: str = ""
    kernel: str = ""
    live_bytes: int = 0
    mix: Mapping[str, int] = field(default_factory=dict)
    stalls: Mapping[str, int] | None = None
    millijoules: Mapping[str, float] = field(default_factory=dict)
    members: tuple[str, ...] = ()

    @property
    def cycles_per_mac(self) -> float:
        """Cycles per multiply-accumulate, 0 where there are none."""
        return self.cycles / self.macs if self.macs else 0.0

    @property
    def fused(self) -> bool:
        """Whether several layers of the graph were compiled into this one."""
        return " + " in self.operator


@dataclass(frozen=True)
class FunctionProfile:
    """One function of the firmware by itself, without those it calls."""

    name: str
    calls: int
    instructions: int
    cycles: int


@dataclass(frozen=True)
class InstructionProfile:
    """One instruction of the firmware: how often it was issued, its cycles, and those of them lost by cause."""

    address: int
    function: str
    text: str
    count: int
    cycles: int
    stalls: Mapping[str, int]


@dataclass(frozen=True)
class Profile:
    """One inference on one board. Totals count everything inside `mj_run`: the layers and `outside`.

    `method` is "edges" (counts of executed blocks, priced) or "trace" (every instruction and address, timed); `memory`
    says whether the time of flash and caches is in the cycles: "none", "estimated" or "modelled".
    `conditions` says for what the figures hold: clock, flash, memories. `expected_error` is the model's own statement.
    `hottest` are the instructions that took most cycles, the worst first; none with "edges".
    """

    board: str
    clock_hz: int
    instructions: int
    cycles: int
    layers: tuple[LayerProfile, ...]
    functions: tuple[FunctionProfile, ...]
    peak_stack_bytes: int
    core: str
    model_version: str
    assumptions: str
    energies: tuple[Energy, ...]
    outside: LayerProfile
    mix: Mapping[str, int]
    stalls: Mapping[str, int] | None
    method: str
    memory: str
    conditions: Mapping[str, str]
    expected_error: str
    arena_bytes: int
    hottest: tuple[InstructionProfile, ...] = ()

    @property
    def milliseconds(self) -> float:
        """Latency at the board's clock."""
        return self.cycles / self.clock_hz * 1e3

    @property
    def blocks(self) -> tuple[LayerProfile, ...]:
        """The blocks of the network: neighbouring layers whose names begin alike (see `block_names`)."""
        named = zip(block_names([layer.name for layer in self.layers]), self.layers, strict=True)
        return tuple(
            _sum(name, [layer for _, layer in members])
            for name, members in itertools.groupby(named, key=lambda item: item[0])
        )

    def statements(self) -> list[str]:
        """The lines that belong under every table with these figures."""
        lines = [f"{name}: {text}" for name, text in self.conditions.items()]
        how = "every instruction and address timed" if self.method == "trace" else "executed blocks priced by pairs"
        lines.append(f"model: {self.core} {self.model_version}, {how}")
        lines.append(f"expected error of the cycles: {self.expected_error}")
        return [*lines, *(item.statement for item in self.energies)]

    def to_json(self) -> dict[str, Any]:
        """The profile as plain values for a JSON file."""
        values = asdict(self)
        values["milliseconds"] = self.milliseconds
        values["layers"] = [self._row(layer) for layer in self.layers]
        values["outside"] = self._row(self.outside)
        values["blocks"] = [self._row(block) for block in self.blocks]
        values["statements"] = self.statements()
        values["energies"] = [
            {**asdict(item), "millijoules": item.millijoules, "statement": item.statement} for item in self.energies
        ]
        return values

    def _row(self, layer: LayerProfile) -> dict[str, Any]:
        share = layer.cycles / self.cycles if self.cycles else 0.0
        return {**asdict(layer), "share": share, "cycles_per_mac": layer.cycles_per_mac}


def block_names(layers: Sequence[str]) -> tuple[str, ...]:
    """The block that each layer belongs to, from the layers' names in the order of execution.

    A name is cut behind its first number when something follows (`block_2_expand`, `features.3.conv.0`), else before
    its last part (`expanded_conv_project`). What only one layer, or layers apart from each other, have in common is no
    block: such a layer keeps its own name. The last name of a fused layer counts.

    Example:
        >>> block_names(["conv", "block_2_expand", "block_2_add", "pool"])
        ('conv', 'block_2', 'block_2', 'pool')
    """
    stems = [_stem(name.rsplit(" + ", 1)[-1]) for name in layers]
    found: list[str] = []
    for _, members in itertools.groupby(zip(stems, layers, strict=True), key=lambda item: item[0]):
        run = list(members)
        found += [stem if len(run) > 1 else name for stem, name in run]
    return tuple(found)


def _stem(name: str) -> str:
    numbered = re.match(r"(.*?\d+)[._/]", name)
    if numbered:
        return numbered[1]
    return re.sub(r"[._/][^._/]*$", "", name)


def _sum(name: str, layers: Sequence[LayerProfile]) -> LayerProfile:
    """The layers as one row; a single layer stays what it is."""
    if len(layers) == 1:
        return layers[0]
    stalls = [layer.stalls for layer in layers if layer.stalls is not None]
    return LayerProfile(
        name=name,
        symbol="",
        instructions=sum(layer.instructions for layer in layers),
        cycles=sum(layer.cycles for layer in layers),
        macs=sum(layer.macs for layer in layers),
        operator="block",
        live_bytes=max(layer.live_bytes for layer in layers),
        mix=_added(layer.mix for layer in layers),
        stalls=_added(stalls) if stalls else None,
        millijoules={key: sum(layer.millijoules[key] for layer in layers) for key in layers[0].millijoules},
        members=tuple(layer.name for layer in layers),
    )


def _added(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in parts:
        for key, value in part.items():
            total[key] = total.get(key, 0) + value
    return total


class _Tally:
    """Counts of one layer while they are added up."""

    def __init__(self) -> None:
        self.instructions = 0
        self.cycles = 0
        self.mix: Counter[str] = Counter()


def make_profile(
    board: Board,
    image: Image,
    model: CycleModel,
    totals: Sequence[EdgeTotal],
    markers: Mapping[int, tuple[int, str]],
    *,
    block: Callable[[int], Sequence[Instruction]],
    layers: Mapping[str, LayerInfo],
    arena_bytes: int,
    peak_stack_bytes: int,
) -> Profile:
    """Adds up the edges of one inference.

    Args:
        board: the board.
        image: the firmware, for the names of functions.
        model: the timing rules that made the totals.
        totals: instructions and cycles of every edge since the inference began.
        markers: entry address -> (layer number, symbol), number 1 for mj_run.
        block: address -> instructions of the block that begins there.
        layers: what the compiler says of a layer, by symbol; the symbol's own name where it is missing.
        arena_bytes: RAM of the model.
        peak_stack_bytes: bytes of stack ever used.
    """
    symbols = dict(markers.values())
    tallies: dict[int, _Tally] = {number: _Tally() for number in [1, *symbols]}
    functions: dict[str, list[int]] = {}
    mixes: dict[int, Counter[str]] = {}
    for total in totals:
        if total.layer == 0:
            continue
        tally = tallies[total.layer]
        tally.instructions += total.instructions
        tally.cycles += total.cycles
        if total.target not in mixes:
            mixes[total.target] = mix_of(block(total.target))
        for name, count in mixes[total.target].items():
            tally.mix[name] += total.count * count
        _count_function(functions, image, total)
    rows = {
        number: _layer(board, symbols.get(number, "mj_run"), tally, layers) for number, tally in sorted(tallies.items())
    }
    cycles = sum(row.cycles for row in rows.values())
    return Profile(
        board=board.name,
        clock_hz=board.clock_hz,
        instructions=sum(row.instructions for row in rows.values()),
        cycles=cycles,
        layers=tuple(row for number, row in rows.items() if number > 1),
        functions=tuple(
            FunctionProfile(name, *cell) for name, cell in sorted(functions.items(), key=lambda item: -item[1][2])
        ),
        peak_stack_bytes=peak_stack_bytes,
        core=model.name,
        model_version=model.version,
        assumptions=model.assumptions,
        energies=_energies(board, cycles, None),
        outside=rows[1],
        mix=_added(row.mix for row in rows.values()),
        stalls=None,
        method="edges",
        memory="none",
        conditions=_conditions(board, image),
        expected_error=model.expected_error,
        arena_bytes=arena_bytes,
    )


def _count_function(functions: dict[str, list[int]], image: Image, total: EdgeTotal) -> None:
    name = image.function_at(total.target)
    cell = functions.setdefault(name, [0, 0, 0])
    if image.begins_function(total.target):
        cell[0] += total.count
    cell[1] += total.instructions
    cell[2] += total.cycles


def _layer(board: Board, symbol: str, tally: _Tally, layers: Mapping[str, LayerInfo]) -> LayerProfile:
    info = layers.get(symbol) or LayerInfo(OUTSIDE if symbol == "mj_run" else symbol.split("_", 3)[-1])
    return LayerProfile(
        name=info.name,
        symbol=symbol,
        instructions=tally.instructions,
        cycles=tally.cycles,
        macs=info.macs,
        operator=info.operator,
        kernel=info.kernel,
        live_bytes=info.live_bytes,
        mix={name: tally.mix[name] for name in CLASSES},
        millijoules={item.regulator: item.millijoules for item in _energies(board, tally.cycles, None)},
        members=tuple(info.name.split(" + ")) if " + " in info.operator else (),
    )


def traced_profile(profile: Profile, board: Board, image: Image, trace: TraceResult) -> Profile:
    """A profile of edges with the time of a full trace of the same inference: cycles, causes of lost ones, energy.

    Args:
        profile: of the edges; its instructions and kinds stay.
        board: the board.
        image: the firmware.
        trace: of `mj_run` and nothing else.

    Raises:
        EmulationError: trace and edges disagree about the executed instructions.
    """
    by_symbol = {layer.symbol: layer for layer in trace.layers}
    if trace.instructions != profile.instructions:
        raise EmulationError(
            "the full trace",
            f"it has {trace.instructions:,} instructions, the counts of blocks {profile.instructions:,}",
            "Report it together with the model",
        )

    def timed(layer: LayerProfile) -> LayerProfile:
        seen = by_symbol[layer.symbol]
        energies = _energies(board, seen.cycles, _waiting(seen.stalls))
        millijoules = {item.regulator: item.millijoules for item in energies}
        return replace(layer, cycles=seen.cycles, stalls=dict(seen.stalls), millijoules=millijoules)

    cycles: Counter[str] = Counter()
    worst = sorted(trace.addresses, key=lambda item: (-item.cycles, item.address))[:HOTTEST]
    for item in trace.addresses:
        cycles[image.function_at(item.address)] += item.cycles
    functions = [replace(function, cycles=cycles[function.name]) for function in profile.functions]
    return replace(
        profile,
        cycles=trace.cycles,
        layers=tuple(timed(layer) for layer in profile.layers),
        outside=timed(profile.outside),
        functions=tuple(sorted(functions, key=lambda function: -function.cycles)),
        stalls=dict(trace.stalls),
        energies=_energies(board, trace.cycles, _waiting(trace.stalls)),
        method="trace",
        memory="modelled",
        assumptions=trace.conditions,
        conditions={"timing": trace.conditions},
        expected_error=trace.expected_error,
        hottest=tuple(
            InstructionProfile(
                item.address,
                image.function_at(item.address),
                item.text,
                item.instructions,
                item.cycles,
                {cause: lost for cause, lost in item.stalls.items() if lost},
            )
            for item in worst
        ),
    )


def _waiting(stalls: Mapping[str, int]) -> int:
    """Cycles that wait for flash."""
    return stalls["flash_fetch"] + stalls["flash_data"]


def _energies(board: Board, cycles: int, waiting: int | None) -> tuple[Energy, ...]:
    return tuple(energy(cycles, board, item.name, stall_cycles=waiting) for item in board.regulators)


def _conditions(board: Board, image: Image) -> dict[str, str]:
    """For which clock, flash and memories the figures of edge counts hold."""
    flash = board.flash
    return {
        "clock": f"{board.clock_hz / 1e6:g} MHz",
        "flash": f"{flash.wait_states} flash wait states ({flash.bank_mode}), which these cycles leave out",
        "placement": f"code and weights in flash, stack and data in {board.data_memory.name}, arena in "
        f"{image.arena_memory or board.largest_arena_memory.name}"
        + (f", a second one in {image.fast_memory}" if image.fast_memory else ""),
    }
