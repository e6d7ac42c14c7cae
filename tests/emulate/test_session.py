"""Firmware with interrupts, and what it does with the bytes and the time of its peripherals."""

from __future__ import annotations

import random
import socket
import threading

import pytest

from millijoule.emulate import Machine
from millijoule.emulate.serial import Silent, TcpServer
from millijoule.emulate.session import Session

from .firmwares import INTERRUPT_ECHO, POLLED_ECHO, TIMER_TICKS, build

BOARDS = ("stm32l4r9i", "stm32h7b3i")


class Script(Silent):
    """A host that sends prepared portions, each once the one before was answered in full."""

    def __init__(self, portions: list[bytes], first: bytes) -> None:
        super().__init__()
        self.ended = False
        self.portions = portions
        self.answer = bytearray()
        self._expected = len(first)

    def read(self) -> bytes:
        if len(self.answer) < self._expected:
            return b""
        if not self.portions:
            self.ended = True
            return b""
        self._expected += len(self.portions[0])
        return self.portions.pop(0)

    def write(self, data: bytes) -> None:
        self.answer += data


@pytest.mark.parametrize("source", [POLLED_ECHO, INTERRUPT_ECHO], ids=["polled", "interrupts"])
@pytest.mark.parametrize("board", BOARDS)
def test_every_byte_comes_back(source: str, board: str) -> None:
    machine = Machine(build(source, board), board)
    chance = random.Random(3)
    portions = [chance.randbytes(chance.randint(1, 60)) for _ in range(20)]
    expected = b"ready\r\n" + b"".join(bytes(b - 32 if 97 <= b <= 122 else b for b in part) for part in portions)
    link = Script(list(portions), b"ready\r\n")
    outcome = Session(machine, link).run()
    assert bytes(link.answer) == expected and outcome.console.encode("latin-1") == expected
    assert outcome.reason == "input ended" and outcome.fault is None
    late = machine.peripherals.console.late
    assert late == 0, outcome.warnings


@pytest.mark.parametrize("board", BOARDS)
def test_received_bytes_keep_the_distance_of_the_line(board: str) -> None:
    machine = Machine(build(INTERRUPT_ECHO, board), board)
    machine.peripherals.receive(b"x" * 50)
    port = machine.peripherals.console
    outcome = Session(machine, Silent(), until="X" * 50).run()
    assert outcome.reason == "found" and port.late == 0
    assert outcome.cycles >= 49 * port.character_cycles()
    assert machine.slept > 0.5 * outcome.cycles  # the firmware sleeps between bytes


@pytest.mark.parametrize(
    ("board", "port"), [("stm32l4r9i", "LPUART1"), ("stm32l4r9i", "UART5"), ("stm32h7b3i", "LPUART1")]
)
def test_other_ports_interrupt_on_their_own_lines(board: str, port: str) -> None:
    machine = Machine(build(INTERRUPT_ECHO, board, port=port, divider=4000), board)
    machine.peripherals.select_console(None)
    Session(machine, Silent(), until="ready\r\n").run()
    machine.peripherals.receive(b"hello from the host")
    outcome = Session(machine, Silent(), until="HOST").run()
    assert outcome.console == "ready\r\nHELLO FROM THE HOST" and machine.peripherals.console.name == port
    number = machine.peripherals.console.instance.interrupt
    assert number is not None and machine.interrupts.taken[16 + number] == len("hello from the host")


@pytest.mark.parametrize("board", BOARDS)
def test_a_timer_wakes_the_core(board: str) -> None:
    machine = Machine(build(TIMER_TICKS, board), board)
    outcome = Session(machine, Silent(), until="done\r\n").run()
    assert outcome.console == "tick " * 10 + "done\r\n"
    # Ten periods of (9 + 1) x (99 + 1) timer cycles, plus start and the printing of the last tick.
    assert 10 * 1000 <= outcome.cycles < 10 * 1000 + 30_000
    number = machine.peripherals.blocks["TIM6"].instance.interrupt
    assert number is not None and machine.interrupts.taken[16 + number] >= 10


def test_two_equal_sessions_are_equal_in_every_count() -> None:
    outcomes = []
    for _ in range(2):
        machine = Machine(build(INTERRUPT_ECHO, "stm32h7b3i"), "stm32h7b3i")
        machine.peripherals.receive(b"The quick brown fox")
        outcomes.append(Session(machine, Silent(), seconds=0.1).run())
    assert outcomes[0] == outcomes[1] and outcomes[0].console == "ready\r\nTHE QUICK BROWN FOX"
    assert outcomes[0].seconds == pytest.approx(0.1, rel=0.01)


def test_an_interrupt_driven_firmware_serves_a_client_on_tcp() -> None:
    machine = Machine(build(INTERRUPT_ECHO, "stm32l4r9i"), "stm32l4r9i")
    server = TcpServer(0)
    answers = []

    def client() -> None:
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as line:
            found = b""
            for word in (b"", b"one ", b"two ", b"three "):
                line.sendall(word)
                end = word.upper() or b"ready\r\n"
                while not found.endswith(end):
                    found += line.recv(100)
            answers.append(found)

    thread = threading.Thread(target=client)
    thread.start()
    outcome = Session(machine, server).run()
    thread.join(timeout=60)
    server.close()
    assert outcome.reason == "hung up" and answers == [b"ready\r\nONE TWO THREE "]


def test_the_text_that_is_waited_for_ends_it_at_once() -> None:
    machine = Machine(build(POLLED_ECHO, "stm32l4r9i"), "stm32l4r9i")
    outcome = Session(machine, Silent(), until="rea").run()
    assert outcome.reason == "found" and outcome.console == "rea"
    machine.peripherals.receive(b"again")
    assert Session(machine, Silent(), until="AGA").run().console == "ready\r\nAGA"


def test_a_stop_request_ends_it_between_slices() -> None:
    machine = Machine(build(POLLED_ECHO, "stm32l4r9i"), "stm32l4r9i")
    asked: list[int] = []
    outcome = Session(machine, Silent(), stopped=lambda: asked.append(1) or len(asked) > 2).run()
    assert outcome.reason == "interrupted" and len(asked) == 3
