"""The host's side of the device protocol, on the emulated firmware behind a port of this process."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from millijoule.device import Device, measure_accuracy, measure_latency
from millijoule.errors import DataError, DeviceError
from millijoule.execute import predict, run

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from networks import random_network, random_pictures

if any(find_spec(name) is None for name in ("ziglang", "unicorn", "elftools")):
    pytest.skip("the extra 'deploy' is not installed", allow_module_level=True)

from millijoule.build import build_board
from millijoule.compile import compile_graph
from millijoule.emulate import EmulatedFirmware

BOARD = "stm32l4r9i"
GRAPH = random_network(["conv", "depthwise", "pointwise"], 0)


class EmulatedPort:
    """The firmware's console as a port; `silent` commands (by their first word) are not known to the device."""

    def __init__(self, firmware: EmulatedFirmware, *, unknown: tuple[str, ...] = (), waiting: str = "") -> None:
        self.name = "emulated"
        self.firmware = firmware
        self.unknown = unknown
        self.output = waiting.encode("latin-1")
        self.sent = ""
        self.closed = False

    def read(self, seconds: float) -> bytes:
        data, self.output = self.output[:7], self.output[7:]  # in small pieces, as a line brings them
        return data

    def write(self, data: bytes) -> None:
        text = data.decode("latin-1")
        self.sent += text
        if text.split(" ")[0].strip("%") in self.unknown:
            text = f"unknown-{text}"
        self.output += self.firmware.dialogue(text).encode("latin-1")

    def close(self) -> None:
        self.closed = True


class Scripted:
    """Answers every command with the same bytes."""

    name = "scripted"

    def __init__(self, reply: bytes) -> None:
        self.reply, self.output, self.sent = reply, b"", b""

    def read(self, seconds: float) -> bytes:
        data, self.output = self.output, b""
        return data

    def write(self, data: bytes) -> None:
        self.sent += data
        self.output += self.reply

    def close(self) -> None:
        pass


def emulated(kind: str = "integer", *, probabilities: bool = True) -> EmulatedFirmware:
    graph = random_network(["conv", "depthwise", "pointwise"], 0, kind, probabilities=probabilities)
    program = compile_graph(graph, BOARD, name="shed")
    return EmulatedFirmware(build_board(program.files, BOARD), BOARD, program)


@pytest.fixture(scope="module")
def firmware() -> EmulatedFirmware:
    return emulated()


def connected(firmware: EmulatedFirmware, **options: object) -> Device:
    device = Device(EmulatedPort(firmware, **options), timeout=0.05)  # type: ignore[arg-type]
    device.synchronize()
    return device


def test_what_was_on_the_line_before_does_not_matter(firmware: EmulatedFirmware) -> None:
    banner = firmware.boot()
    device = connected(firmware, waiting=f"half a li\r\n{banner}e-[Unknown command: old]\r\nm-ready\r\n")
    assert device.name == "millijoule STM32L4R9I" and device.model == "shed"
    assert device.facts["classes"] == str(len(GRAPH.classes)) and device.facts["clock-hz"] == "120000000"
    with device:
        pass
    assert device.port.closed  # type: ignore[attr-defined]


def test_a_line_that_was_begun_is_left_behind(firmware: EmulatedFirmware) -> None:
    firmware.dialogue("db load 1")
    assert connected(firmware).model == "shed"


def test_every_bit_is_compared(firmware: EmulatedFirmware) -> None:
    pictures = random_pictures(GRAPH, 3)
    labels = predict(GRAPH, pictures)
    labels[1] = (labels[1] + 1) % len(GRAPH.classes)
    seen: list[tuple[str, int, int]] = []
    report = measure_accuracy(connected(firmware), GRAPH, pictures, labels, progress=lambda *step: seen.append(step))
    assert report.all_equal and report.comparison == "bits" and report.largest_difference == 0
    assert report.correct == 2 and report.accuracy == pytest.approx(2 / 3) and report.changed_predictions == 0
    assert seen[-1] == ("pictures on the device", 3, 3)
    values = report.as_dict()
    assert 0 < values["interval"]["low"] < 66.7 < values["interval"]["high"] < 100
    assert values["all_equal"] is True and values["model"] == "shed" and values["first_difference"] is None


def test_a_device_without_our_commands_is_compared_to_three_decimals(firmware: EmulatedFirmware) -> None:
    pictures = random_pictures(GRAPH, 2)
    device = connected(firmware, unknown=("raw", "info"))
    report = measure_accuracy(device, GRAPH, pictures)
    assert report.all_equal and report.comparison == "three decimals" and report.accuracy is None
    assert 0 < report.largest_difference <= 0.000501 or report.largest_difference == 0
    assert measure_latency(device, graph=GRAPH, windows=1, count=2).clock_hz is None


@pytest.mark.parametrize("unknown", [(), ("raw", "info")])
def test_another_model_is_noticed(firmware: EmulatedFirmware, unknown: tuple[str, ...]) -> None:
    other = random_network(["conv", "depthwise", "pointwise"], 0)
    name = next(node.inputs[1] for node in other.nodes if node.op == "dense")
    other.constants[name][:] = -other.constants[name]
    report = measure_accuracy(connected(firmware, unknown=unknown), other, random_pictures(GRAPH, 2))
    assert not report.all_equal and report.equal == 0 and report.first_difference == 0
    assert report.largest_difference > 0


@pytest.mark.parametrize(("kind", "probabilities"), [("float", True), ("dynamic", True), ("integer", False)])
def test_other_kinds_of_models(kind: str, probabilities: bool) -> None:
    graph = random_network(["conv", "depthwise", "pointwise"], 0, kind, probabilities=probabilities)
    firmware = emulated(kind, probabilities=probabilities)
    for unknown in ((), ("raw", "info")):
        report = measure_accuracy(connected(firmware, unknown=unknown), graph, random_pictures(graph, 2))
        assert report.all_equal, report


def test_latency_is_the_median_of_windows(firmware: EmulatedFirmware) -> None:
    device = connected(firmware)
    report = measure_latency(device, graph=GRAPH, windows=3, window_seconds=0.005)
    cycles = firmware.profile(random_pictures(GRAPH, 1)[0]).cycles
    assert report.cycles == pytest.approx(cycles, rel=0.02) and report.equal is True
    assert len(report.windows) == 3 and report.short_windows == 3
    assert report.windows[0].count * report.milliseconds == pytest.approx(5, rel=0.2)
    assert report.as_dict()["inferences_per_second"] == pytest.approx(1e3 / report.milliseconds)
    one = measure_latency(device, windows=1, count=4, warm_up=0)
    assert one.equal is None and one.windows[0].count == 4
    assert "infer 4 0%" in device.port.sent  # type: ignore[attr-defined]


def test_energy_mode_has_no_latency(firmware: EmulatedFirmware) -> None:
    device = connected(firmware)
    device.command("mode energy")
    try:
        with pytest.raises(DeviceError, match="energy mode"):
            measure_latency(device, windows=1)
    finally:
        device.command("mode performance")


def test_wrong_pictures_are_refused(firmware: EmulatedFirmware) -> None:
    device = connected(firmware)
    with pytest.raises(DataError):
        measure_accuracy(device, GRAPH, random_pictures(GRAPH, 0))
    with pytest.raises(DataError):
        measure_accuracy(device, GRAPH, np.zeros((1, 4, 4, 3), np.uint8))
    with pytest.raises(DataError, match="labels"):
        measure_accuracy(device, GRAPH, random_pictures(GRAPH, 2), np.zeros(1, np.int64))
    with pytest.raises(DataError, match="--model"):
        measure_latency(connected(firmware, unknown=("info",)))
    with pytest.raises(DeviceError, match="input bytes"):
        measure_latency(device, graph=random_network(["conv"], 1, size=(5, 5, 3)))
    with pytest.raises(DeviceError, match="refuses 'db load"):
        device.load(bytes(100_000))


def test_the_results_are_those_of_the_executor(firmware: EmulatedFirmware) -> None:
    device, picture = connected(firmware), random_pictures(GRAPH, 1, seed=5)
    steps: list[int] = []
    device.load(picture.tobytes(), progress=lambda _, done, total: steps.append(done))
    assert steps[-1] == picture.size
    answer, raw = device.infer(2, 1), device.raw()
    expected = run(GRAPH, picture)
    assert raw is not None and raw.logits == expected[GRAPH.outputs[0]].tobytes()
    real = (expected[GRAPH.outputs[1]].reshape(-1).astype(float) + 128) / 256
    np.testing.assert_allclose(answer.results, real, atol=0.000501)
    assert answer.microseconds is not None and answer.microseconds > 0


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (b"", "nothing answers within 0.05 s"),
        (b"\xf8\x80\xfe\x00\xc7" * 9, "what comes is no text"),
        (b"login: ", "does not speak the MLPerf Tiny protocol; it says 'login: "),
        (b"m-ready\r\n" * 500, "does not speak"),
        (b"x" * 2_000_000, "does not end"),
        (b"line\r\n" * 400_000, "does not end"),
    ],
)
def test_whatever_answers_ends_in_a_clear_error(reply: bytes, reason: str) -> None:
    port = Scripted(reply)
    with pytest.raises(DeviceError, match=reason):
        Device(port, timeout=0.05).synchronize()
    assert port.sent.startswith(b"sync")


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (b"", "no answer to 'infer 1 0' within 0.05 s"),
        (b"m-infer-start-1\r\n", "no answer"),
        (b"m-ready\r\n", "cannot be understood"),
        (b"m-results-[1,x]\r\nm-ready\r\n", "cannot be understood"),
        (b"e-[The inference failed]\r\nm-ready\r\n", "refuses 'infer 1 0': The inference failed"),
    ],
)
def test_broken_answers_are_named(reply: bytes, reason: str) -> None:
    with pytest.raises(DeviceError, match=reason):
        Device(Scripted(reply), timeout=0.05).infer()


def test_garbled_raw_results_are_refused() -> None:
    with pytest.raises(DeviceError, match="cannot be understood"):
        Device(Scripted(b"m-raw-logits-[0g]\r\nm-raw-class-[1]\r\nm-ready\r\n"), timeout=0.05).raw()


def test_an_interruption_reaches_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Scripted, seconds: float) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(Scripted, "read", interrupted)
    port = Scripted(b"")
    with pytest.raises(KeyboardInterrupt):
        Device(port).command("infer 1000000")
    assert port.sent == b"infer 1000000%\x03"
