"""Which options make each block fastest on a board: tried in the emulator, kept by shape.

One knob at a time is turned for all blocks at once, and the whole network timed, every instruction and address; then
each block keeps, knob by knob, the value with which it was fastest, if the knob changed anything of that block and the
arena does not grow. The combination is timed, too, and dropped if it is no faster than the defaults. Everything is
deterministic, so a trace of the same firmware is never made twice: traces are kept in the cache folder by the
firmware's bytes, the board and the version of the model of time. An interrupted search goes on where it was; a change
of a kernel, the compiler or the board starts anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from millijoule.boards import Board
from millijoule.compile import PlanOptions, Program, RowOptions, compile_graph, golden_picture
from millijoule.compile.options import DEFAULTS
from millijoule.compile.recorded import shape_key
from millijoule.compile.rows import chunk_pixels, filter_chunk
from millijoule.deploy.firmware import build_program
from millijoule.errors import OptionError, PlacementError
from millijoule.files import Progress, atomic_write_json, cache_folder
from millijoule.graph import Graph

__all__ = ["CANDIDATES", "Tuning", "tune"]

CANDIDATES: Mapping[str, tuple[Any, ...]] = {
    "chunk_pixels": (12, 56),
    "filter_pixels": (28, 56, 112),
    "flat_bytes": (0, 65536),
    "stage": (False,),
    "join": (False,),
}
"""Values of each knob that are tried beside the default."""
LEAST_GAIN = 0.001
"""A block changes a knob for this share of its cycles at least."""


@dataclass(frozen=True)
class Tuning:
    """What the search found.

    Attributes:
        winners: `shape_key` of a block -> its options, for `compile_graph(winners=...)`, which takes those that leave
            the arena as it is; empty if nothing is faster.
        cycles_before: of one inference with the defaults.
        cycles_after: with the winners.
        tried: programs that differ, the combination included.
        traced: how many of them were timed now; the others were in the cache.
    """

    winners: Mapping[str, RowOptions]
    cycles_before: int
    cycles_after: int
    tried: int
    traced: int

    @property
    def gain(self) -> float:
        """The share of cycles that is saved."""
        return 1.0 - self.cycles_after / self.cycles_before


@dataclass(frozen=True)
class _Timing:
    cycles: int
    layers: Mapping[str, int]
    traced: bool


def tune(
    graph: Graph,
    board: str | Board,
    *,
    kernels: str = "dsp",
    compiler: str = "zig",
    ram_budget: int | None = None,
    progress: Progress | None = None,
) -> Tuning:
    """Searches the fastest options of every block of a network; a dozen inferences are emulated.

    Args:
        graph: as for `compile_graph`.
        board: a board's name, or a board; this computer has no cycles to count.
        kernels: "dsp" or "plain".
        compiler: "zig" or "gcc".
        ram_budget: bytes that the arena may have, as for `compile_graph`.
        progress: told after each candidate.

    Raises:
        OptionError: the board is "host".
        PlacementError, UnsupportedError, ToolchainError, EmulationError: as `compile_model` and `Firmware.profile`.
    """
    if board == "host":
        raise OptionError("tuning for 'host'", "this computer has no cycles to count", "Name a board")

    def compiled(options: PlanOptions, winners: Mapping[str, RowOptions]) -> Program:
        return compile_graph(
            graph, board, kernels=kernels, self_test=False, options=options, ram_budget=ram_budget, winners=winners
        )

    candidates = [(name, value) for name, values in CANDIDATES.items() for value in values]
    base = compiled(DEFAULTS, {})
    before = _timing(base, compiler)
    seen = {base.files["mj_model.c"]}
    traced, tried = int(before.traced), 1
    best: dict[str, dict[str, tuple[int, Any]]] = {}
    usual = _by_block(base, before)
    forms = _forms(base)
    for done, (name, value) in enumerate(candidates, 1):
        if progress is not None:
            progress("tuning", done, len(candidates) + 2)
        try:
            program = compiled(replace(DEFAULTS, default=replace(DEFAULTS.default, **{name: value})), {})
        except PlacementError:
            continue
        if program.files["mj_model.c"] in seen:
            continue
        seen.add(program.files["mj_model.c"])
        timing = _timing(program, compiler)
        tried, traced = tried + 1, traced + timing.traced
        changed = {key for key, form in _forms(program).items() if form != forms.get(key)}
        for key, cycles in _by_block(program, timing).items():
            # Blocks that are joined differently cannot be compared one by one; what became faster without a change of
            # its own did so by where code and data happen to lie.
            if key in usual and key in changed and cycles < usual[key] * (1 - LEAST_GAIN):
                knobs = best.setdefault(key, {})
                if name not in knobs or cycles < knobs[name][0]:
                    knobs[name] = (cycles, value)
    winners = {
        key: replace(DEFAULTS.default, **{name: value for name, (_, value) in knobs.items()})
        for key, knobs in best.items()
    }
    after = before
    if winners:
        program = compiled(DEFAULTS, winners)
        after = _timing(program, compiler)
        tried, traced = tried + (program.files["mj_model.c"] not in seen), traced + after.traced
    if progress is not None:
        progress("tuning", len(candidates) + 2, len(candidates) + 2)
    if after.cycles >= before.cycles:
        return Tuning({}, before.cycles, before.cycles, tried, traced)
    return Tuning(winners, before.cycles, after.cycles, tried, traced)


def _by_block(program: Program, timing: _Timing) -> dict[str, int]:
    """Cycles by the shape of a block, summed over blocks of one shape; layers of several blocks have no key."""
    found: dict[str, int] = {}
    for step in program.schedule.steps:
        if len(step.rows) == 1 and step.mode == "integer":
            key = shape_key(program.graph, step.rows[0].block)
            found[key] = found.get(key, 0) + timing.layers.get(step.symbol, 0)
    return found


def _forms(program: Program) -> dict[str, list[Any]]:
    """How blocks run that have a key, by the key: chunks, parts of their memory, staged weights."""
    found: dict[str, list[Any]] = {}
    for step in program.schedule.steps:
        if len(step.rows) == 1 and step.mode == "integer":
            memory = step.rows[0]
            staged = {name: copy.way for name, copy in program.staged.get(step.index, {}).items()}
            sizes = {name: size for name, (_, size) in memory.parts.items()}
            chunks = (
                None if memory.conv is None else chunk_pixels(memory.conv, memory.window, memory.options),
                None if memory.filter is None else filter_chunk(memory.filter, memory.options, memory.again),
            )
            form = (memory.flat, chunks, sizes, staged)
            found.setdefault(shape_key(program.graph, memory.block), []).append(form)
    return found


def _timing(program: Program, compiler: str) -> _Timing:
    """The cycles of one inference, from the cache if this firmware was timed before."""
    assert program.board is not None, "only boards are timed"
    firmware = build_program(program, compiler=compiler)
    assert firmware.image is not None, "a board's program has an image"
    digest = hashlib.sha256(firmware.image.elf.read_bytes())
    executor: Any = firmware._executor
    digest.update(repr((program.board, executor.machine.model.version)).encode())
    path = cache_folder("tuning") / f"{program.board.name}-{digest.hexdigest()[:32]}.json"
    known = _read(path)
    if known is not None:
        return known
    picture = golden_picture(program.graph.tensor(program.graph.inputs[0]).shape)[0]
    profile: Any = firmware.profile(picture, method="trace")
    layers = {layer.symbol: layer.cycles for layer in profile.layers}
    atomic_write_json(path, {"cycles": profile.cycles, "layers": layers})
    return _Timing(profile.cycles, layers, True)


def _read(path: Path) -> _Timing | None:
    """A cached timing; None if there is none that can be read."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        layers = {str(name): int(cycles) for name, cycles in values["layers"].items()}
        return _Timing(int(values["cycles"]), layers, False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
