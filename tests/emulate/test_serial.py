"""The serial line on this computer: real sockets, real pseudo-terminals, real pipes."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import termios
import tty
from pathlib import Path

import pytest

from millijoule.emulate.serial import Link, PseudoTerminal, Silent, TcpServer, open_link
from millijoule.errors import OptionError


def read_all(link: Link, count: int) -> bytes:
    found = b""
    for _ in range(200):
        found += link.read()
        if len(found) >= count or link.closed:
            break
        link.wait(0.05)
    return found


def test_a_tcp_client_talks_both_ways_and_gets_what_was_said_before_it_came() -> None:
    server = TcpServer(0)
    server.write(b"m-ready\r\n")
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(b"name%")
        assert read_all(server, 5) == b"name%"
        server.write(b"m-name")
        second = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        server.wait(0.05)
        server.read()
        assert second.recv(10) == b""  # turned away
        second.close()
        server.close()
        received = b""
        while data := client.recv(100):
            received += data
    assert received == b"m-ready\r\nm-name"


def test_everything_written_arrives_and_a_closed_client_closes_the_link() -> None:
    server = TcpServer(0)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        server.read()
        message = bytes(range(256)) * 4000
        server.write(message)
        received = bytearray()
        while len(received) < len(message):
            received += client.recv(65536)
            server.read()
        assert bytes(received) == message
    assert read_all(server, 1) == b"" and server.closed and server.ended
    server.write(b"into the void")
    server.close()
    server.close()


def test_a_port_in_use_is_refused() -> None:
    server = TcpServer(0)
    with pytest.raises(OptionError, match=f"port {server.port}: it cannot be used"):
        TcpServer(server.port)
    server.close()
    TcpServer(server.port).close()
    with pytest.raises(OptionError, match="port 70000"):
        TcpServer(70000)


def test_the_server_listens_on_loopback_only() -> None:
    server = TcpServer(0)
    assert re.fullmatch(r"tcp 127\.0\.0\.1:\d+", server.place)
    assert server._server.getsockname()[0] == "127.0.0.1"
    server.close()


def test_a_pseudo_terminal_carries_every_byte_and_shows_the_baud_rate() -> None:
    link = PseudoTerminal(115200)
    assert link.baud == 115200 and Path(link.path).exists()
    host = os.open(link.path, os.O_RDWR | os.O_NOCTTY)
    message = bytes(range(256))
    os.write(host, message)
    assert read_all(link, 256) == message
    link.write(message)
    received = b""
    while len(received) < 256:
        received += os.read(host, 256)
    assert received == message
    tty.setraw(host)
    settings = termios.tcgetattr(host)
    settings[4] = settings[5] = termios.B9600
    termios.tcsetattr(host, termios.TCSANOW, settings)
    assert link.baud == 9600
    os.close(host)
    assert link.read() == b"" and not link.closed  # the next program may open it
    host = os.open(link.path, os.O_RDWR | os.O_NOCTTY)
    os.write(host, b"again")
    assert read_all(link, 5) == b"again"
    os.close(host)
    link.close()
    link.close()
    assert link.baud is None


def test_a_pseudo_terminal_nobody_reads_does_not_stop_the_firmware() -> None:
    link = PseudoTerminal(9600)
    for _ in range(300):
        link.write(bytes(1000))
    link.close()


def test_standard_streams_pass_bytes_and_notice_the_end() -> None:
    code = (
        "import sys\n"
        "from millijoule.emulate.serial import open_link\n"
        "link = open_link('stdio', baud=115200)\n"
        "while not link.ended:\n"
        "    link.wait(10.0)\n"
        "    link.write(link.read().upper())\n"
        "link.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], input=b"abc\x00\xff%", capture_output=True, check=True)
    assert done.stdout == b"ABC\x00\xff%"


def test_names_of_lines() -> None:
    assert isinstance(open_link("none", baud=9600), Silent)
    for name in ("com1", "tcp", "tcp:", "tcp:x", "tcp:-1", "pty:3", ""):
        with pytest.raises(OptionError, match="Choose stdio, tcp:PORT, pty or none"):
            open_link(name, baud=9600)
