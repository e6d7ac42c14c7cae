"""The stage of a study that puts one model onto one emulated board."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from millijoule.boards import Board, load_board
from millijoule.errors import PlacementError, ToolchainError
from millijoule.files import Progress
from millijoule.graph import Graph, load_graph
from millijoule.report import MOMENTS
from millijoule.study.options import StudyOptions
from millijoule.study.results import (
    BufferFacts,
    Deployment,
    EnergyFacts,
    LayerFacts,
    PlanFacts,
    TimingFacts,
    VerifyFacts,
)

if TYPE_CHECKING:
    from millijoule.data import PreparedSet
    from millijoule.emulate import Profile

__all__ = ["TIMING", "deploy", "deployment_from", "deployment_json"]

TIMING = "trace"
"""How a study times firmware (`millijoule.emulate.Profile.method`); "edges" where the simulators cannot be built."""

DYNAMIC_TOLERANCE = 0.02
"""Largest difference of a probability that the dynamic model may show between executors: its activations are float, and
a sum in another order can move an 8-bit rounding by one step."""


def deploy(
    method: str,
    model: Path,
    board_name: str,
    options: StudyOptions,
    prepared: PreparedSet,
    elf: Path,
    progress: Progress,
) -> Deployment:
    """One model on one emulated board: compile, build, compare with the other executors, profile.

    A model that does not fit is a result, too: `status` is "refused" and `reason` says what would fit.
    """
    from millijoule.build import build_board
    from millijoule.compile import compile_graph, row_timeline
    from millijoule.emulate import EmulatedFirmware

    graph, board = load_graph(model), load_board(board_name)
    try:
        program = compile_graph(graph, board, kernels=options.kernels, name=method)
        progress("compile", 1, 4)
        image = build_board(program.files, board, compiler=options.compiler, out=elf)
    except PlacementError as error:
        return Deployment(method, board_name, "refused", str(error))
    progress("build", 2, 4)
    firmware = EmulatedFirmware(image, board, program)
    pictures = _sample(prepared, options.verify_pictures)
    verified = _verify(graph, program, firmware, pictures, board)
    progress("verify", 3, 4)
    profile = _profile(firmware, pictures[0])
    progress("profile", 4, 4)
    plan = program.plan
    return Deployment(
        method=method,
        board=board_name,
        status="ran",
        arena_bytes=program.arena_bytes,
        lower_bound_bytes=plan.lower_bound,
        weight_bytes=program.weight_bytes,
        flash_bytes=image.flash_bytes,
        ram_bytes=image.ram_bytes,
        stack_bytes=profile.peak_stack_bytes,
        cycles=profile.cycles,
        instructions=profile.instructions,
        milliseconds=profile.milliseconds,
        energy=tuple(
            EnergyFacts(item.regulator, item.title, item.millijoules, item.uncertainty, item.statement)
            for item in profile.energies
        ),
        assumptions=f"{board.title}: {profile.assumptions}",
        compiler=f"{image.compiler} {' '.join(image.flags)}".strip(),
        layers=_layers(program, profile),
        plan=PlanFacts(
            tuple(step.name for step in plan.steps),
            tuple(step.live_bytes for step in plan.steps),
            tuple(
                BufferFacts(item.name, item.offset, item.bytes, item.first, item.last, item.kind)
                for item in plan.buffers
            ),
        ),
        verify=verified,
        timing=_timing(profile),
        ram=row_timeline(program, MOMENTS),
    )


def _profile(firmware: Any, picture: Any) -> Profile:
    try:
        profile: Profile = firmware.profile(picture, method=TIMING)
    except ToolchainError:
        profile = firmware.profile(picture)
    return profile


def _layers(program: Any, profile: Profile) -> tuple[LayerFacts, ...]:
    """The layers of the program with what the profile saw of them; zeros for a layer that it did not see."""
    from millijoule.emulate import block_names

    by_symbol = {layer.symbol: layer for layer in profile.layers}
    blocks = block_names([layer.name for layer in program.layers])
    facts = []
    for layer, block in zip(program.layers, blocks, strict=True):
        seen = by_symbol.get(layer.symbol)
        facts.append(
            LayerFacts(
                name=layer.name,
                operator=_operator(layer),
                macs=layer.macs,
                cycles=seen.cycles if seen else 0,
                instructions=seen.instructions if seen else 0,
                block=block,
                live_bytes=layer.live_bytes,
                mix=dict(seen.mix) if seen else {},
                stalls=dict(seen.stalls) if seen and seen.stalls is not None else None,
            )
        )
    return tuple(facts)


def _timing(profile: Profile) -> TimingFacts:
    return TimingFacts(
        method=profile.method,
        memory=profile.memory,
        model=f"{profile.core} {profile.model_version}",
        conditions=tuple(profile.conditions.values()),
        expected_error=profile.expected_error,
        stalls=None if profile.stalls is None else dict(profile.stalls),
    )


def _operator(layer: Any) -> str:
    """The operator, pointwise convolutions told from others by their kernel."""
    return "pointwise" if "pointwise" in layer.kernel else str(layer.operator)


def _sample(prepared: PreparedSet, count: int) -> Any:
    """Test pictures taken evenly over the split: uint8 (count, R, R, 3)."""
    test = prepared.split("test")
    rows = np.linspace(0, len(test.labels) - 1, min(count, len(test.labels))).round().astype(np.int64)
    return np.ascontiguousarray(test.pictures[rows])


def _verify(graph: Graph, program: Any, firmware: Any, pictures: Any, board: Board) -> VerifyFacts:
    """The same pictures through the reference executor, C on this computer, and the emulated board."""
    from millijoule import execute
    from millijoule.build import build_host

    reference = execute.run(graph, pictures)
    names = dict(zip(("logits", "probabilities"), graph.outputs, strict=False))
    expected = {key: reference[name].reshape(len(pictures), -1) for key, name in names.items()}
    runs = {"C on this computer": build_host(program).run(pictures), f"emulated {board.title}": firmware.run(pictures)}
    exact = expected["logits"].dtype == np.int8
    worst, equal = 0.0, True
    for run in runs.values():
        for key, value in expected.items():
            if not exact and key == "logits":
                continue
            difference = np.abs(run[key].reshape(value.shape).astype(np.float64) - value.astype(np.float64))
            worst = max(worst, float(difference.max(initial=0.0)))
            equal = equal and bool(np.array_equal(run[key].reshape(value.shape), value)) if exact else equal
    tolerance = 0.0 if exact else DYNAMIC_TOLERANCE
    if not exact:
        equal = worst <= tolerance
    return VerifyFacts(len(pictures), ("the reference executor", *runs), equal, worst, tolerance)


def deployment_json(deployment: Deployment) -> dict[str, Any]:
    """A deployment as plain values for the ledger."""
    return asdict(deployment)


def deployment_from(values: Mapping[str, Any]) -> Deployment:
    """The inverse of `deployment_json`."""
    fields = dict(values)
    plan, verify, timing = fields.pop("plan"), fields.pop("verify"), fields.pop("timing", None)
    fields["energy"] = tuple(EnergyFacts(**item) for item in fields["energy"])
    fields["layers"] = tuple(LayerFacts(**item) for item in fields["layers"])
    if plan is not None:
        buffers = tuple(BufferFacts(**item) for item in plan["buffers"])
        plan = PlanFacts(tuple(plan["steps"]), tuple(plan["live_bytes"]), buffers)
    if verify is not None:
        verify = VerifyFacts(**{**verify, "executors": tuple(verify["executors"])})
    if timing is not None:
        timing = TimingFacts(**{**timing, "conditions": tuple(timing["conditions"])})
    return Deployment(**fields, plan=plan, verify=verify, timing=timing)
