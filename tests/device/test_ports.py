"""Ports of this computer: pseudo-terminals and TCP; and the commands through them to an emulated board."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.testing import CliRunner

from millijoule.cli.device import app
from millijoule.data import open_source, prepare
from millijoule.device import Device, open_port
from millijoule.errors import DeviceError, OptionError
from millijoule.graph import save_graph

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from networks import random_network

needs_boards = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("ziglang", "unicorn", "elftools", "cv2")),
    reason="the extras 'deploy' and 'train' are not installed",
)
needs_terminals = pytest.mark.skipif(not hasattr(os, "openpty"), reason="no pseudo-terminals on this system")


@contextmanager
def echo(send: Callable[[bytes], object], receive: Callable[[], bytes]) -> Iterator[None]:
    """A device that knows no command: every one is answered as unknown."""

    def serve() -> None:
        line = b""
        while data := receive():
            line += data
            while b"%" in line:
                command, line = line.split(b"%", 1)
                send(b"e-[Unknown command: " + command + b"]\r\nm-ready\r\n")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield
    thread.join(5)


@needs_terminals
def test_a_pseudo_terminal_is_a_port() -> None:
    import termios

    master, slave = os.openpty()
    path = os.ttyname(slave)

    def receive() -> bytes:
        try:
            return os.read(master, 100)
        except OSError:
            return b""

    with echo(lambda data: os.write(master, data), receive):
        device = Device.open(path, baud=9600)
        assert termios.tcgetattr(slave)[5] == termios.B9600
        assert device.command("x", check=False) == ["e-[Unknown command: x]"]
        device.close()
        device.close()
        os.close(slave)
        time.sleep(0.01)
    os.close(master)


@needs_terminals
def test_a_terminal_that_vanishes_is_an_error() -> None:
    master, slave = os.openpty()
    port = open_port(os.ttyname(slave))
    os.close(slave)
    os.close(master)
    with pytest.raises(DeviceError, match="closed"):
        port.read(1.0)
    port.close()


def test_tcp_is_a_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.getsockname()[1]
        port = open_port(f"tcp:{number}")
        client, _ = server.accept()
        with client:
            assert port.read(0.01) == b""
            with echo(client.sendall, lambda: client.recv(100)):
                device = Device(port)
                device.synchronize()
                port.close()
        second = open_port(f"tcp:127.0.0.1:{number}")
        other, _ = server.accept()
        other.close()
        with pytest.raises(DeviceError, match="closed"):
            second.read(1.0)
        second.close()


def test_a_line_that_takes_nothing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("millijoule.device.port._WRITE_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = open_port(f"tcp:{server.getsockname()[1]}")
        client, _ = server.accept()
        with client, pytest.raises(DeviceError, match="takes no characters"):
            port.write(bytes(100_000_000))
        port.close()


@pytest.mark.parametrize(
    ("name", "error", "reason"),
    [
        ("tcp:x", OptionError, "names no TCP port"),
        ("tcp:0", OptionError, "names no TCP port"),
        ("tcp:127.0.0.1:99999", OptionError, "names no TCP port"),
        ("/dev/no-such-port", DeviceError, "cannot be opened"),
        ("", DeviceError, "cannot be opened"),
    ],
)
def test_ports_that_cannot_be(name: str, error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=reason):
        open_port(name)


def test_a_port_nobody_listens_at() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.getsockname()[1]
    with pytest.raises(DeviceError, match="cannot be opened"):
        open_port(f"tcp:{number}")


@pytest.mark.skipif(find_spec("termios") is None or find_spec("serial") is not None, reason="pyserial opens the ports")
def test_a_file_is_no_port(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DeviceError, match="no serial port"):
        open_port(str(tmp_path / "file"))
    with pytest.raises(OptionError, match="12345 baud"):
        open_port(str(tmp_path / "file"), baud=12345)


# *** through the commands, to an emulated board ***


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, its firmware, and a small prepared data set of its size."""
    from millijoule.build import build_board
    from millijoule.compile import compile_graph

    folder = tmp_path_factory.mktemp("device")
    graph = random_network(["conv", "depthwise"], 3, size=(32, 32, 3))
    save_graph(graph, folder / "shed.mj")
    build_board(compile_graph(graph, "stm32h7b3i", name="shed").files, "stm32h7b3i", out=folder / "firmware.elf")
    prepare(open_source("toy_vehicles", per_class=10), folder / "toy", resolution=32)
    return folder


@contextmanager
def emulated_board(project: Path, kind: str) -> Iterator[str]:
    """`millijoule emulate` in a process of its own, as a user starts it; yields the port to open."""
    command = [sys.executable, "-m", "millijoule", "emulate", str(project / "firmware.elf"), "--board", "stm32h7b3i"]
    process = subprocess.Popen([*command, "--serial", kind], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        assert process.stderr is not None
        said = process.stderr.readline().decode()
        found = re.search(r"serial line at (?:tcp 127\.0\.0\.1:(\d+)|(\S+))", said)
        assert found, said
        yield f"tcp:{found[1]}" if found[1] else found[2]
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate()


WINDOWS = ("--windows", "2", "--count", "2", "--timeout", "60")


def call(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.stdout


@needs_boards
@needs_terminals
def test_accuracy_and_latency_through_a_pseudo_terminal(project: Path) -> None:
    model, data = str(project / "shed.mj"), str(project / "toy")
    with emulated_board(project, "pty") as port:
        text = call("accuracy", "--port", port, "--model", model, "--data", data, "--count", "2", "--timeout", "60")
        assert "every bit of 2 pictures equal" in text and "accuracy" in text
        report = json.loads(call("latency", "--port", port, "--model", model, *WINDOWS, "--json"))
        assert report["equal"] is True and report["clock_hz"] == 280_000_000 and report["milliseconds"] > 0
        told = json.loads(call("info", "--port", port, "--json"))
        assert told["model"] == "shed" and told["input-bytes"] == "3072"


@pytest.mark.slow
@needs_boards
def test_latency_through_tcp_of_another_model(project: Path) -> None:
    other = random_network(["conv", "depthwise"], 3, size=(32, 32, 3))
    name = next(node.inputs[1] for node in other.nodes if node.op == "dense")
    other.constants[name][:] = -other.constants[name]
    save_graph(other, project / "other.mj")
    with emulated_board(project, "tcp:0") as port:
        text = call("latency", "--port", port, "--model", str(project / "other.mj"), *WINDOWS, code=1)
        assert "DIFFERENT from the executor's" in text and "2 windows are shorter than the ten seconds" in text
