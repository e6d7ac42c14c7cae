"""The serial line to a board: a port of this computer, or a TCP connection (an emulated board, a serial server).

Ports of POSIX systems need no further package; pyserial is used where it is installed, and needed elsewhere.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import select
import socket
import time
from abc import ABC, abstractmethod
from typing import Any, Protocol

from millijoule.errors import DeviceError, OptionError, ToolchainError

__all__ = ["BAUD_RATE", "Port", "open_port"]

BAUD_RATE = 115200
"""Bits per second of the MLPerf Tiny protocol in performance mode; energy mode uses 9600."""
_CHUNK = 4096
_WRITE_SECONDS = 10.0


class Port(Protocol):
    """One end of the line.

    Attributes:
        name: what the user called it.
    """

    name: str

    def read(self, seconds: float) -> bytes:
        """What has come in, as soon as anything has; empty after `seconds` of silence.

        Raises:
            DeviceError: the line was closed by the other end.
        """

    def write(self, data: bytes) -> None:
        """Sends everything.

        Raises:
            DeviceError: the line is closed, or takes nothing for ten seconds.
        """

    def close(self) -> None:
        """Gives the line back; may be called twice."""


def open_port(name: str, *, baud: int = BAUD_RATE) -> Port:
    """Opens a line.

    Args:
        name: "/dev/ttyACM0", "COM3" or the path of a pseudo-terminal; "tcp:HOST:PORT" or, on this computer, "tcp:PORT".
        baud: bits per second of a serial port.

    Raises:
        DeviceError: there is no such port, it is in use, or nobody listens.
        OptionError: a name that means nothing, or a rate that the port does not have.
        ToolchainError: serial ports of this system need pyserial.
    """
    if name.startswith("tcp:"):
        return _TcpPort(name)
    if importlib.util.find_spec("serial") is not None:
        return _PySerialPort(name, baud)
    if importlib.util.find_spec("termios") is not None:
        return _TerminalPort(name, baud)
    raise ToolchainError("pyserial", "it is not installed", "Install the extra: pip install 'millijoule[device]'")


def _refusal(name: str, error: OSError) -> DeviceError:
    return DeviceError(
        f"port {name}",
        f"it cannot be opened ({error.strerror or error})",
        "Check the name, the cable, and that no other program has it open",
    )


def _lost(name: str) -> DeviceError:
    return DeviceError(f"port {name}", "the other end has closed it", "Connect the board again, or restart it")


class _Descriptor(ABC):
    """What TCP and terminals have in common: a descriptor that can be waited for."""

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def _fileno(self) -> int:
        """The descriptor."""

    @abstractmethod
    def _receive(self) -> bytes:
        """What has arrived; empty when the other end has closed."""

    @abstractmethod
    def _send(self, data: memoryview) -> int:
        """Sends what fits; how many bytes that were."""

    def read(self, seconds: float) -> bytes:
        """See `Port.read`."""
        try:
            if not select.select([self._fileno()], [], [], max(seconds, 0.0))[0]:
                return b""
            data = self._receive()
        except BlockingIOError:
            return b""
        except (OSError, ValueError) as error:
            raise _lost(self.name) from error
        if not data:
            raise _lost(self.name)
        return data

    def write(self, data: bytes) -> None:
        """See `Port.write`."""
        rest, end = memoryview(data), time.monotonic() + _WRITE_SECONDS
        while rest:
            try:
                if not select.select([], [self._fileno()], [], max(end - time.monotonic(), 0.0))[1]:
                    raise DeviceError(
                        f"port {self.name}",
                        f"it takes no characters for {_WRITE_SECONDS:g} s",
                        "Restart the board, or check what listens at the other end",
                    )
                rest = rest[self._send(rest) :]
            except BlockingIOError:
                continue
            except (OSError, ValueError) as error:
                raise _lost(self.name) from error


class _TcpPort(_Descriptor):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        host, _, number = name.removeprefix("tcp:").rpartition(":")
        if not number.isdigit() or not 0 < int(number) < 65536:
            raise OptionError(f"port {name!r}", "it names no TCP port", "Write tcp:PORT or tcp:HOST:PORT")
        try:
            self._socket = socket.create_connection((host or "127.0.0.1", int(number)), timeout=_WRITE_SECONDS)
        except OSError as error:
            raise _refusal(name, error) from error
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _fileno(self) -> int:
        return self._socket.fileno()

    def _receive(self) -> bytes:
        return self._socket.recv(_CHUNK)

    def _send(self, data: memoryview) -> int:
        return self._socket.send(data)

    def close(self) -> None:
        """See `Port.close`."""
        self._socket.close()


class _TerminalPort(_Descriptor):
    """8 data bits, no parity, one stop bit, no flow control; the modem lines are left alone when it closes."""

    def __init__(self, name: str, baud: int) -> None:
        super().__init__(name)
        import fcntl
        import termios

        rate = getattr(termios, f"B{baud}", None)
        if rate is None:
            raise OptionError(f"{baud} baud", "this system has no such rate", "Use 115200 or 9600")
        try:
            self._file = os.open(name, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise _refusal(name, error) from error
        try:
            fcntl.ioctl(self._file, termios.TIOCEXCL)
            settings: list[Any] = termios.tcgetattr(self._file)
            settings[0:4] = [0, 0, termios.CS8 | termios.CREAD | termios.CLOCAL, 0]
            settings[4] = settings[5] = rate
            termios.tcsetattr(self._file, termios.TCSANOW, settings)
        except (OSError, termios.error) as error:
            self.close()
            raise DeviceError(f"port {name}", f"it is no serial port ({error.args[-1]})", "Check the name") from error

    def _fileno(self) -> int:
        return self._file

    def _receive(self) -> bytes:
        return os.read(self._file, _CHUNK)

    def _send(self, data: memoryview) -> int:
        return os.write(self._file, data)

    def close(self) -> None:
        """See `Port.close`."""
        if self._file >= 0:
            with contextlib.suppress(OSError):
                os.close(self._file)
            self._file = -1


class _PySerialPort:
    def __init__(self, name: str, baud: int) -> None:
        import serial

        self.name = name
        self._errors: Any = serial.SerialException
        try:
            self._serial: Any = serial.Serial(name, baud, timeout=0, write_timeout=_WRITE_SECONDS, exclusive=True)
        except (serial.SerialException, ValueError) as error:
            raise DeviceError(
                f"port {name}",
                f"it cannot be opened ({error})",
                "Check the name, the cable, and that no other program has it open",
            ) from error

    def read(self, seconds: float) -> bytes:
        """See `Port.read`."""
        try:
            self._serial.timeout = max(seconds, 0.0)
            first: bytes = self._serial.read(1)
            if not first:
                return b""
            rest: bytes = self._serial.read(self._serial.in_waiting)
            return first + rest
        except (self._errors, OSError) as error:
            raise _lost(self.name) from error

    def write(self, data: bytes) -> None:
        """See `Port.write`."""
        try:
            self._serial.write(data)
        except (self._errors, OSError) as error:
            raise _lost(self.name) from error

    def close(self) -> None:
        """See `Port.close`."""
        self._serial.close()
