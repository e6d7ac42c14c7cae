"""Proof that every executor computes the same: numpy, C on this computer, C on each emulated board.

The numpy executor defines what is right. Integer graphs must agree in every bit. Where something differs, the model is
compiled again with a checksum behind every layer, and the first layer whose checksum is wrong is named.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from millijoule.compile import Program, compile_graph
from millijoule.deploy.firmware import Firmware, build_program
from millijoule.errors import DataError
from millijoule.execute import run
from millijoule.files import Progress
from millijoule.graph import Graph, mode

__all__ = ["FLOAT_TOLERANCE", "LayerDifference", "TargetReport", "VerifyReport", "first_difference", "verify"]

FLOAT_TOLERANCE = 1e-3
"""How far float results may lie apart, relative to the largest logit: sums are taken in another order, and a dynamic
layer may round an activation to the neighbouring step."""


@dataclass(frozen=True)
class LayerDifference:
    """The first layer whose result differs: its number, the user's name for it, operator, kernel and picture."""

    index: int
    name: str
    operator: str
    kernel: str
    picture: int


@dataclass(frozen=True)
class TargetReport:
    """How one target compares with the executor.

    Attributes:
        target: "host" or a board's name.
        equal: every result is equal (integer), or within the tolerance (float).
        bit_exact: every byte of every output is equal.
        largest_difference: of all outputs, in stored units (integer) or real ones (float).
        changed_predictions: pictures with another class.
        first_difference: where an integer graph begins to differ.
    """

    target: str
    equal: bool
    bit_exact: bool
    largest_difference: float
    changed_predictions: int
    first_difference: LayerDifference | None = None


@dataclass(frozen=True)
class VerifyReport:
    """The result of `verify`.

    Attributes:
        model: the graph's name.
        arithmetic: "integer", "dynamic" or "float".
        pictures: how many were compared.
        tolerance: allowed difference of the outputs, 0 for integer graphs.
        targets: one report per target.
    """

    model: str
    arithmetic: str
    pictures: int
    tolerance: float
    targets: tuple[TargetReport, ...]

    @property
    def equal(self) -> bool:
        """Whether all targets agree with the executor."""
        return all(target.equal for target in self.targets)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {**dataclasses.asdict(self), "equal": self.equal}


def arithmetic_of(graph: Graph) -> str:
    """The arithmetic of the graph's heaviest kind: "dynamic" or "float" when any node is, else "integer"."""
    modes = {mode(graph, node) for node in graph.nodes}
    return "dynamic" if "dynamic" in modes else "float" if "float" in modes else "integer"


def verify(
    graph: Graph,
    pictures: npt.NDArray[np.uint8],
    targets: Iterable[str] = ("host",),
    *,
    kernels: str = "dsp",
    compiler: str = "zig",
    progress: Progress | None = None,
) -> VerifyReport:
    """Runs the same pictures through the executor and through the compiled model on each target.

    Args:
        graph: float, dynamic or integer.
        pictures: uint8 (N, H, W, C), at least one.
        targets: "host" and names of boards.
        kernels: "dsp" or "plain".
        compiler: "zig" or "gcc" for boards.
        progress: told about pictures done on each target.

    Raises:
        DataError: no pictures, or of another shape.
        PlacementError, ToolchainError, EmulationError, BoardError: as `compile_model` and `Firmware.run`.
    """
    shape = graph.tensor(graph.inputs[0]).shape[1:]
    if len(pictures) == 0 or pictures.shape[1:] != shape:
        raise DataError("pictures", f"they have shape {pictures.shape}", f"Give at least one of (N, *{shape})")
    arithmetic = arithmetic_of(graph)
    expected = run(graph, pictures)
    logits = expected[graph.outputs[0]]
    tolerance = 0.0 if arithmetic == "integer" else FLOAT_TOLERANCE * max(1.0, float(np.abs(logits).max()))
    reports = []
    for target in targets:
        firmware = build_program(compile_graph(graph, target, kernels=kernels), compiler=compiler)
        report = _compare(target, firmware, graph, pictures, expected, tolerance, progress)
        if not report.equal and arithmetic == "integer":
            traced = compile_graph(graph, target, kernels=kernels, self_test=False, trace=True)
            where = first_difference(traced, pictures, compiler=compiler)
            report = dataclasses.replace(report, first_difference=where)
        reports.append(report)
    return VerifyReport(graph.name, arithmetic, len(pictures), tolerance, tuple(reports))


def _compare(
    target: str,
    firmware: Firmware,
    graph: Graph,
    pictures: npt.NDArray[np.uint8],
    expected: dict[str, npt.NDArray[Any]],
    tolerance: float,
    progress: Progress | None,
) -> TargetReport:
    found = firmware.run(pictures, progress=progress)
    largest, exact = 0.0, True
    for key, name in zip(("logits", "probabilities"), graph.outputs, strict=False):
        ours = found[key].reshape(expected[name].shape)
        distance = np.abs(ours.astype(np.float64) - expected[name].astype(np.float64))
        # NaN is as far away as anything can be.
        largest = max(largest, float(np.nan_to_num(distance, nan=np.inf).max()))
        exact = exact and ours.tobytes() == expected[name].tobytes()
    classes = expected[graph.outputs[0]].reshape(len(pictures), -1).argmax(axis=1)
    changed = int((found["class"] != classes).sum())
    return TargetReport(target, exact or largest <= tolerance, exact, largest, changed)


def first_difference(
    program: Program, pictures: npt.NDArray[np.uint8], *, compiler: str = "zig"
) -> LayerDifference | None:
    """The first layer, on the first picture, whose result is not the executor's; None when all are.

    Args:
        program: an integer program compiled with `trace`.
        pictures: uint8 (N, H, W, C).
        compiler: "zig" or "gcc" for a board.
    """
    firmware = build_program(program, compiler=compiler)
    graph = program.graph
    results = [layer.output for layer in program.layers]
    for number, picture in enumerate(pictures):
        values = run(graph, picture[None], keep=results)
        wanted = np.array([trace_checksum(values[name]) for name in results], dtype=np.uint32)
        wrong = np.flatnonzero(firmware.checksums(picture) != wanted)
        if len(wrong):
            layer = program.layers[int(wrong[0])]
            return LayerDifference(layer.index, layer.name, layer.operator, layer.kernel, number)
    return None


def trace_checksum(value: npt.NDArray[Any]) -> int:
    """What the generated `checksum` gives for the bytes of a tensor: ``65599 * sum of running sums + sum`` mod 2^32."""
    running = np.cumsum(np.frombuffer(value.tobytes(), dtype=np.uint8), dtype=np.uint32)
    return (int(running.sum(dtype=np.uint32)) * 65599 + int(running[-1])) & 0xFFFFFFFF
