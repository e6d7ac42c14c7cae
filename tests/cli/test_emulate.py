"""`millijoule emulate`: any image, with its serial line on standard streams, TCP and a pseudo-terminal."""

from __future__ import annotations

import json
import os
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from millijoule.build import Image, build_board
from millijoule.cli import app
from millijoule.device import Device

from ..emulate.firmwares import POLLED_ECHO, READS_NOTHING, UNINITIALISED, build

BOARDS = ("stm32l4r9i", "stm32h7b3i")
MODEL = Path(__file__).parents[1] / "fixtures" / "tiny_model"
COMMAND = (sys.executable, "-m", "millijoule", "emulate")


def run(*arguments: object, text: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*COMMAND, *map(str, arguments)], input=text, capture_output=True, timeout=300, check=False)


def call(*arguments: object) -> Result:
    """In this process, without a host at the other end of the line."""
    return CliRunner().invoke(app, ["emulate", *map(str, arguments), "--serial", "none"])


@pytest.fixture(scope="module")
def ours() -> Image:
    return build_board({path.name: path.read_text() for path in MODEL.iterdir()}, "stm32l4r9i")


@pytest.fixture(scope="module", params=BOARDS)
def echo(request: pytest.FixtureRequest) -> Image:
    return build(POLLED_ECHO, request.param)


def test_standard_streams_carry_commands_and_answers(ours: Image) -> None:
    done = run(ours.elf, "--board", "stm32l4r9i", text=b"name%profile%")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"\r\nmillijoule firmware\r\n")
    assert b"m-name-dut-[millijoule STM32L4R9I]\r\nm-ready\r\n" in done.stdout and b"m-model-[tiny]" in done.stdout
    summary = done.stderr.decode()
    assert "the input ended and the firmware waits for more" in summary
    assert re.search(r"instructions +[\d,]{5,}\n", summary) and "at 120 MHz" in summary


@pytest.mark.parametrize("form", ["elf", "bin", "hex"])
def test_any_image_of_any_form_runs(echo: Image, form: str, tmp_path: Path) -> None:
    path = tmp_path / f"other.{form}"
    if form == "elf":
        path = echo.elf
    elif form == "bin":
        echo.save_binary(path)
    else:
        echo.save_hexadecimal(path)
    done = call(path, "--board", echo.board, "--until", "ready\r\n", "--json")
    outcome = json.loads(done.stdout)
    assert done.exit_code == 0 and outcome["ended"] == "found" and outcome["fault"] is None
    assert outcome["console"] == "ready\r\n" and outcome["board"] == echo.board
    assert 35 < outcome["instructions"] < 200 and 35 < outcome["cycles"] < 400


def test_another_serial_port_is_found_by_its_voice(tmp_path: Path) -> None:
    image = build(POLLED_ECHO, "stm32l4r9i", port="LPUART1")
    done = run(image.elf, "--board", "stm32l4r9i", "--json", text=b"abc")
    assert json.loads(done.stdout)["console"] == "ready\r\nABC" and done.returncode == 0
    silent = call(image.elf, "--board", "stm32l4r9i", "--port", "usart1", "--seconds", "0.02", "--json")
    assert json.loads(silent.stdout)["console"] == "" and json.loads(silent.stdout)["ended"] == "time"


def read_until(descriptor: int, end: bytes) -> bytes:
    found = b""
    while not found.endswith(end):
        assert select.select([descriptor], [], [], 120)[0], found
        data = os.read(descriptor, 4096)
        assert data, found
        found += data
    return found


class Running:
    """The command in the background; its serial line is at `place`."""

    def __init__(self, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert self.process.stderr is not None
        line = self.process.stderr.readline().decode()
        assert line.startswith("serial line at "), line + self.process.stderr.read().decode()
        self.place = line.removeprefix("serial line at ").strip()

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


def test_a_program_on_tcp_talks_to_the_firmware_and_hangs_up(ours: Image) -> None:
    with Running(ours.elf, "--board", "stm32l4r9i", "--serial", "tcp:0") as running:
        port = int(running.place.rsplit(":", 1)[1])
        refused = run(ours.elf, "--board", "stm32l4r9i", "--serial", f"tcp:{port}")
        assert refused.returncode == 2 and f"port {port}: it cannot be used".encode() in refused.stderr
        with socket.create_connection(("127.0.0.1", port), timeout=120) as client:
            assert read_until(client.fileno(), b"m-ready\r\n").startswith(b"\r\nmillijoule firmware")
            for _ in range(20):
                client.sendall(b"name%")
                assert read_until(client.fileno(), b"m-ready\r\n").startswith(b"m-name-dut-[millijoule STM32L4R9I]")
            client.sendall(b"db load 192%" + b"db " + bytes(24).hex().encode() + b"%")
            assert b"m-[Expecting 192 bytes]" in read_until(client.fileno(), b"m-ready\r\n")
        _, errors = running.process.communicate(timeout=120)
        assert running.process.returncode == 0 and b"the other end of the serial line hung up" in errors


def test_a_program_on_a_pseudo_terminal_talks_to_the_firmware_until_ctrl_c(ours: Image) -> None:
    import termios

    with Running(ours.elf, "--board", "stm32l4r9i", "--serial", "pty") as running:
        with Device.open(running.place, timeout=60.0) as device:  # written for real boards
            assert device.name == "millijoule STM32L4R9I" and device.model == "tiny"
            device.load(bytes(range(192)))
            assert len(device.infer(1).results) == 4
        line = os.open(running.place, os.O_RDWR | os.O_NOCTTY)
        os.write(line, b"name%")
        assert b"m-name-dut-" in read_until(line, b"m-ready\r\n")
        settings = termios.tcgetattr(line)
        settings[4] = settings[5] = termios.B9600
        termios.tcsetattr(line, termios.TCSANOW, settings)
        os.write(line, b"help%")
        read_until(line, b"m-ready\r\n")
        os.close(line)
        running.process.send_signal(signal.SIGINT)
        output, errors = running.process.communicate(timeout=120)
        assert running.process.returncode == 130 and output == b""
        assert b"baud, the host listens at 9600" in errors and b"Traceback" not in errors


def test_ctrl_c_ends_a_firmware_that_never_waits() -> None:
    image = build(
        'void Reset_Handler(void) { line_on(0); say("go"); for (;;) { __asm volatile("nop"); } }', "stm32l4r9i"
    )
    with subprocess.Popen(
        [*COMMAND, str(image.elf), "--board", "stm32l4r9i"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert read_until(process.stdout.fileno(), b"go") == b"go"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 130 and b"interrupted" in errors and b"Traceback" not in errors


def test_peripherals_that_are_not_emulated_are_named() -> None:
    image = build(
        'void Reset_Handler(void) { line_on(0); AT(0x40005400u) = 1u; say("on"); for (;;) { } }', "stm32l4r9i"
    )
    done = call(image.elf, "--board", "stm32l4r9i", "--until", "on")
    assert "peripherals that are not emulated were used (they only store): 0x40005400" in done.stderr


def test_closed_standard_streams_are_refused(echo: Image) -> None:
    command = f"exec {shlex.join([*COMMAND, str(echo.elf), '--board', echo.board])} <&-"
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, timeout=300, check=False)
    assert done.returncode == 2 and b"standard input or output is closed" in done.stderr


def test_seconds_are_the_board_s(echo: Image) -> None:
    done = call(echo.elf, "--board", echo.board, "--seconds", "0.25", "--json")
    outcome = json.loads(done.stdout)
    assert done.exit_code == 0 and outcome["ended"] == "time"
    assert outcome["elapsed_cycles"] / outcome["clock_hz"] == pytest.approx(0.25, rel=0.1)


def test_text_that_never_comes_gives_exit_code_1(echo: Image) -> None:
    done = call(echo.elf, "--board", echo.board, "--until", "never", "--seconds", "0.01")
    assert done.exit_code == 1 and "the time on the board is over" in done.stderr


def test_a_fault_is_explained(tmp_path: Path) -> None:
    image = build(READS_NOTHING, "stm32l4r9i")
    done = call(image.elf, "--board", "stm32l4r9i")
    assert done.exit_code == 2 and "instructions" in done.stderr
    assert "millijoule: Reset_Handler" in done.stderr and "0x70000000" in done.stderr
    result = call(image.elf, "--board", "stm32l4r9i", "--json")
    fault = json.loads(result.stdout)["fault"]
    assert result.exit_code == 2 and "Reset_Handler" in fault["where"] and "0x70000000" in fault["reason"]


def test_unwritten_ram_is_reported_on_request() -> None:
    image = build(UNINITIALISED, "stm32h7b3i")
    done = run(
        image.elf, "--board", "stm32h7b3i", "--serial", "none", "--seconds", "0.001", "--uninitialised", "--json"
    )
    reads = json.loads(done.stdout)["accesses"]
    assert done.returncode == 0 and any("read_byte at" in text and "in buffer" in text for text in reads)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("missing.elf", "--board", "stm32l4r9i"), "missing.elf: it cannot be read"),
        (("noise.bin", "--board", "stm32l4r9i"), "is in no RAM"),
        (("text.hex", "--board", "stm32l4r9i"), "text.hex, line 1: it is no record of Intel hex"),
        (("fw.elf", "--board", "stm32h7b3i"), "it was built for STM32L4R9I. Choose --board stm32l4r9i"),
        (("fw.elf", "--board", "stm32f4"), "there is no board of that name"),
        (("fw.elf", "--board", "stm32l4r9i", "--serial", "com1"), "Choose stdio, tcp:PORT, pty or none"),
        (("fw.elf", "--board", "stm32l4r9i", "--port", "UART99"), "Choose one of: USART1"),
        (("fw.elf", "--board", "stm32l4r9i", "--address", "flash"), "Write it like 0x08000000"),
        (("fw.elf", "--board", "stm32l4r9i", "--address", "0x20000000"), "the flash of STM32L4R9I is"),
    ],
)
def test_what_cannot_run_is_refused(ours: Image, tmp_path: Path, arguments: tuple[str, ...], reason: str) -> None:
    (tmp_path / "noise.bin").write_bytes(bytes(range(100, 200)))
    (tmp_path / "text.hex").write_text("hello\n")
    name, *rest = arguments
    path = ours.elf if name == "fw.elf" else tmp_path / name
    done = CliRunner().invoke(app, ["emulate", str(path), *rest])
    assert done.exit_code == 2 and done.stdout == "" and reason in done.stderr
