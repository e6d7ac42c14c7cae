"""Accuracy and latency of a model in a device, and whether its outputs are those of the executor on this computer."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from millijoule.device.device import Device, Inference, RawResult
from millijoule.errors import DataError, DeviceError
from millijoule.execute import run
from millijoule.files import Progress
from millijoule.graph import Graph, mode
from millijoule.quantize import Interval
from millijoule.quantize.compare import wilson

__all__ = ["AccuracyReport", "Comparison", "LatencyReport", "Window", "measure_accuracy", "measure_latency"]

FIRST_INFERENCE_SECONDS = 300.0
"""How long the very first inference may take: an emulated board needs many times the time of a real one."""
PROTOCOL_WINDOW_SECONDS = 10.0
"""The shortest window that the MLPerf Tiny rules accept."""
_LARGEST_COUNT = 1_000_000
_DECIMALS = 5e-4 + 1e-6
"""Half of the last decimal that `results` prints, and the rounding of 32-bit floats."""
_FLOAT_TOLERANCE = 1e-3
"""Of the largest logit, for models whose sums are taken in floating point."""


@dataclass(frozen=True)
class Comparison:
    """One picture's outputs beside the executor's.

    Attributes:
        equal: all bits (or, from a device that gives three decimals only, all of those) are equal; for models in
            floating point: the difference is within the tolerance.
        exact: bits were compared.
        largest_difference: in stored units where bits of an integer model were compared, in real ones otherwise.
        class_index: the device's decision.
        expected_class: the executor's.
    """

    equal: bool
    exact: bool
    largest_difference: float
    class_index: int
    expected_class: int


@dataclass(frozen=True)
class AccuracyReport:
    """The result of `measure_accuracy`.

    Attributes:
        device: what the device calls itself.
        model: what it calls its model.
        comparison: "bits" or "three decimals".
        pictures: how many were classified.
        correct: how many got their label's class; None without labels.
        equal: pictures whose outputs equal the executor's.
        changed_predictions: pictures with another class than the executor's.
        largest_difference: see `Comparison`.
        first_difference: number of the first picture that differs, None when none does.
        seconds: of the host's time.
    """

    device: str
    model: str
    comparison: str
    pictures: int
    correct: int | None
    equal: int
    changed_predictions: int
    largest_difference: float
    first_difference: int | None
    seconds: float

    @property
    def accuracy(self) -> float | None:
        """Share of correct classes, 0..1; None without labels."""
        return None if self.correct is None else self.correct / self.pictures

    @property
    def interval(self) -> Interval | None:
        """95 % interval of the accuracy in per cent (Wilson); None without labels."""
        return None if self.correct is None else wilson(self.correct, self.pictures)

    @property
    def all_equal(self) -> bool:
        """Whether every picture's outputs equal the executor's."""
        return self.equal == self.pictures

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        interval = None if self.interval is None else dataclasses.asdict(self.interval)
        return {
            **dataclasses.asdict(self),
            "accuracy": self.accuracy,
            "interval": interval,
            "all_equal": self.all_equal,
        }


@dataclass(frozen=True)
class Window:
    """Inferences timed together: how many, and the microseconds that the device's clock counted."""

    count: int
    microseconds: int

    @property
    def milliseconds(self) -> float:
        """Of one inference."""
        return self.microseconds / self.count / 1e3


@dataclass(frozen=True)
class LatencyReport:
    """The result of `measure_latency`.

    Attributes:
        device: what the device calls itself.
        model: what it calls its model.
        windows: all of them.
        warm_up: inferences before each window.
        clock_hz: the device's clock, None when it does not tell.
        equal: whether the outputs of every window equal the executor's; None without a graph.
    """

    device: str
    model: str
    windows: tuple[Window, ...]
    warm_up: int
    clock_hz: int | None
    equal: bool | None

    @property
    def milliseconds(self) -> float:
        """Of one inference: the median of the windows, as in the MLPerf Tiny rules."""
        return statistics.median(window.milliseconds for window in self.windows)

    @property
    def cycles(self) -> int | None:
        """Core cycles of one inference, rounded; None when the clock is unknown."""
        return None if self.clock_hz is None else round(self.milliseconds * 1e-3 * self.clock_hz)

    @property
    def short_windows(self) -> int:
        """Windows shorter than the ten seconds that the rules ask for."""
        return sum(window.microseconds < PROTOCOL_WINDOW_SECONDS * 1e6 for window in self.windows)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            **dataclasses.asdict(self),
            "milliseconds": self.milliseconds,
            "inferences_per_second": 1e3 / self.milliseconds,
            "window_milliseconds": [window.milliseconds for window in self.windows],
            "cycles": self.cycles,
            "short_windows": self.short_windows,
        }


def measure_accuracy(
    device: Device,
    graph: Graph,
    pictures: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64] | None = None,
    *,
    progress: Progress | None = None,
) -> AccuracyReport:
    """Classifies pictures on the device and compares every output with the executor's.

    Args:
        device: ready for commands.
        graph: the model that should be in the device.
        pictures: uint8 (N, H, W, C), at least one.
        labels: int64 (N,).
        progress: told after each picture.

    Raises:
        DataError: no pictures, of another shape, or another number of labels.
        DeviceError: no answer, or a device with a model of another shape.
    """
    shape = graph.tensor(graph.inputs[0]).shape[1:]
    if len(pictures) == 0 or pictures.shape[1:] != shape or pictures.dtype != np.uint8:
        raise DataError(
            "pictures", f"they are {pictures.dtype} {pictures.shape}", f"Give at least one of (N, *{shape})"
        )
    if labels is not None and len(labels) != len(pictures):
        raise DataError("labels", f"{len(labels)} labels for {len(pictures)} pictures", "Give one for each")
    _check_model(device, graph)
    start, found = time.monotonic(), []
    patience = FIRST_INFERENCE_SECONDS
    for number, picture in enumerate(pictures):
        device.load(picture.tobytes())
        before = time.monotonic()
        answer = device.infer(1, 0, timeout=patience)
        patience = device.timeout + 10 * (time.monotonic() - before)
        found.append(_compare(graph, picture, answer, device.raw()))
        if progress is not None:
            progress("pictures on the device", number + 1, len(pictures))
    different = [number for number, item in enumerate(found) if not item.equal]
    return AccuracyReport(
        device=device.name,
        model=device.model,
        comparison="bits" if all(item.exact for item in found) else "three decimals",
        pictures=len(pictures),
        correct=None if labels is None else sum(int(f.class_index == c) for f, c in zip(found, labels, strict=True)),
        equal=len(found) - len(different),
        changed_predictions=sum(item.class_index != item.expected_class for item in found),
        largest_difference=max(item.largest_difference for item in found),
        first_difference=different[0] if different else None,
        seconds=time.monotonic() - start,
    )


def measure_latency(
    device: Device,
    *,
    graph: Graph | None = None,
    pictures: npt.NDArray[np.uint8] | None = None,
    windows: int = 5,
    count: int | None = None,
    window_seconds: float = PROTOCOL_WINDOW_SECONDS,
    warm_up: int = 1,
    progress: Progress | None = None,
) -> LatencyReport:
    """Times inferences with the device's own clock: per window a picture is sent and inferred many times.

    Args:
        device: ready for commands, in performance mode.
        graph: the model that should be in the device; its outputs are compared after each window.
        pictures: uint8 (N, H, W, C), one after the other; noise without them.
        windows: how many; the median counts.
        count: inferences in a window; as many as last `window_seconds` without it.
        window_seconds: of the device's time; the MLPerf Tiny rules ask for ten.
        warm_up: inferences before each window that are not timed.
        progress: told after each window.

    Raises:
        DataError: pictures of another shape, or none with no way to know the size.
        DeviceError: no answer, a device in energy mode, or one with another model.
    """
    if graph is not None:
        _check_model(device, graph)
    chosen = _latency_pictures(device, graph, pictures)
    device.load(chosen[0].tobytes())
    before = time.monotonic()
    once = _microseconds(device, device.infer(1, warm_up, timeout=FIRST_INFERENCE_SECONDS * (1 + warm_up)))
    host_seconds = (time.monotonic() - before) / (1 + warm_up)
    if count is None:
        if once < 1000:  # too short for its clock: time more of them
            once = _microseconds(device, device.infer(1000, 0, timeout=device.timeout + 1e4 * host_seconds)) // 1000
        count = min(max(1, math.ceil(window_seconds * 1e6 / max(once, 1))), _LARGEST_COUNT)
    found: list[Window] = []
    equal: list[bool] = []
    for number in range(windows):
        picture = chosen[number % len(chosen)]
        device.load(picture.tobytes())
        patience = device.timeout + 5 * host_seconds * (count + warm_up)
        answer = device.infer(count, warm_up, timeout=patience)
        found.append(Window(count, _microseconds(device, answer)))
        if graph is not None:
            equal.append(_compare(graph, picture, answer, device.raw()).equal)
        if progress is not None:
            progress("windows", number + 1, windows)
    clock = device.facts.get("clock-hz", "")
    return LatencyReport(
        device=device.name,
        model=device.model,
        windows=tuple(found),
        warm_up=warm_up,
        clock_hz=int(clock) if clock.isdigit() else None,
        equal=all(equal) if equal else None,
    )


def _latency_pictures(
    device: Device, graph: Graph | None, pictures: npt.NDArray[np.uint8] | None
) -> npt.NDArray[np.uint8]:
    if pictures is not None and len(pictures) > 0:
        if graph is not None and pictures.shape[1:] != graph.tensor(graph.inputs[0]).shape[1:]:
            raise DataError("pictures", f"they have shape {pictures.shape}", "Prepare them at the model's resolution")
        return pictures
    if graph is not None:
        shape: tuple[int, ...] = graph.tensor(graph.inputs[0]).shape
    else:
        size = device.facts.get("input-bytes", "")
        if not size.isdigit():
            raise DataError("the picture", "the device does not tell its size", "Name the model with --model")
        shape = (1, int(size))
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def _microseconds(device: Device, answer: Inference) -> int:
    if answer.microseconds is None:
        raise DeviceError(
            f"port {device.port.name}",
            "the device is in energy mode: it marks times on a pin and prints none",
            "Send it 'mode performance%', or restart it",
        )
    return answer.microseconds


def _check_model(device: Device, graph: Graph) -> None:
    picture, logits = graph.tensor(graph.inputs[0]), graph.tensor(graph.outputs[0])
    wanted = {"input-bytes": math.prod(picture.shape[1:]), "classes": math.prod(logits.shape[1:])}
    for fact, value in wanted.items():
        told = device.facts.get(fact, str(value))
        if told != str(value):
            raise DeviceError(
                f"port {device.port.name}",
                f"the device's model has {fact.replace('-', ' ')} {told}, {graph.name!r} has {value}",
                "Give the model that is in the device, or flash the other one",
            )


def _compare(graph: Graph, picture: npt.NDArray[np.uint8], answer: Inference, raw: RawResult | None) -> Comparison:
    expected = run(graph, picture[None])
    best = int(expected[graph.outputs[0]].reshape(-1).argmax())
    integer = all(mode(graph, node) not in ("float", "dynamic") for node in graph.nodes)
    tolerance = 0.0 if integer else _FLOAT_TOLERANCE * max(1.0, float(np.abs(expected[graph.outputs[0]]).max()))
    if raw is None:
        return _compare_decimals(graph, expected, answer, tolerance, best)
    stored = {graph.outputs[0]: raw.logits}
    if len(graph.outputs) > 1 and raw.probabilities is not None:
        stored[graph.outputs[1]] = raw.probabilities
    largest, same = 0.0, raw.class_index == best and len(stored) == len(graph.outputs)
    for name, content in stored.items():
        wanted = expected[name].reshape(-1)
        if len(content) != wanted.nbytes:
            return Comparison(False, True, math.inf, raw.class_index, best)
        found = np.frombuffer(content, wanted.dtype.newbyteorder("<"))
        distance = np.abs(found.astype(np.float64) - wanted.astype(np.float64))
        largest = max(largest, float(np.nan_to_num(distance, nan=np.inf).max()))
    return Comparison(same and largest <= tolerance, True, largest, raw.class_index, best)


def _compare_decimals(
    graph: Graph, expected: dict[str, npt.NDArray[Any]], answer: Inference, tolerance: float, best: int
) -> Comparison:
    """`results` carries the last output: probabilities, or logits where there are none."""
    name = graph.outputs[-1]
    wanted = expected[name].reshape(-1).astype(np.float64)
    quant = graph.tensor(name).quant
    if quant is not None:
        wanted = (wanted - quant.scalar_zero_point) * quant.scalar_scale
    found = np.array(answer.results)
    if len(found) != len(wanted):
        return Comparison(False, False, math.inf, int(found.argmax()), best)
    distance = float(np.abs(found - wanted).max())
    # Where several classes share the largest printed value, the device's own decision cannot be seen.
    decided = best if found[best] == found.max() else int(found.argmax())
    return Comparison(distance <= _DECIMALS + tolerance, False, distance, decided, best)
