"""The serial line of an emulated board on this computer: standard input and output, TCP on loopback, a pseudo-terminal.

All ends work without waiting, so that the emulation goes on in slices between them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import sys
from collections.abc import Callable
from typing import Any, Protocol

from millijoule.errors import OptionError

__all__ = ["Link", "PseudoTerminal", "Silent", "StandardStreams", "TcpServer", "open_link"]

_CHUNK = 4096
_KEPT = 1 << 16  # bytes kept for a client that has not connected yet
_GONE = (errno.EPIPE, errno.ECONNRESET, errno.EIO, errno.EBADF)


class Link(Protocol):
    """One end of the line, on the side of the host.

    Attributes:
        place: where a host program finds it, in words.
        ended: nothing will come in any more.
        closed: the other end has hung up.
    """

    place: str
    ended: bool
    closed: bool

    @property
    def baud(self) -> int | None:
        """Bits per second the host has set, None when a rate means nothing here."""

    def read(self) -> bytes:
        """What has come in; empty when there is nothing."""

    def write(self, data: bytes) -> None:
        """Sends to the host."""

    def wait(self, seconds: float) -> None:
        """Sleeps until something comes in, `seconds` at most."""

    def close(self) -> None:
        """Gives everything back; may be called twice."""


class Silent:
    """No host at all: what the firmware sends is only kept by the emulator."""

    def __init__(self) -> None:
        self.place = "nowhere"
        self.ended, self.closed = True, False
        self.baud: int | None = None

    def read(self) -> bytes:
        """See `Link.read`."""
        return b""

    def write(self, data: bytes) -> None:
        """See `Link.write`."""

    def wait(self, seconds: float) -> None:
        """See `Link.wait`."""

    def close(self) -> None:
        """See `Link.close`."""


class StandardStreams:
    """Standard input and output; a terminal gives every key at once. `echo` False keeps standard output clean.

    Raises:
        OptionError: they are closed, or the system cannot wait for them.
    """

    def __init__(self, *, echo: bool = True) -> None:
        self.place = "standard input and output"
        self.ended, self.closed = False, False
        self.baud: int | None = None
        self._echo = echo
        if os.name == "nt":
            raise OptionError("--serial stdio", "this system cannot wait for standard input", "Use tcp:PORT")
        try:
            self._input, self._output = sys.stdin.fileno(), sys.stdout.fileno()
        except (AttributeError, OSError, ValueError) as error:
            raise OptionError(
                "--serial stdio", "standard input or output is closed", "Use tcp:PORT, pty or none"
            ) from error
        self._restore: Callable[[], None] | None = None
        if os.isatty(self._input):
            self._each_key()

    def _each_key(self) -> None:
        import termios
        import tty

        before = termios.tcgetattr(self._input)
        tty.setcbreak(self._input)
        self._restore = lambda: termios.tcsetattr(self._input, termios.TCSADRAIN, before)

    def read(self) -> bytes:
        """See `Link.read`."""
        if self.ended or not _readable(self._input, 0.0):
            return b""
        data = os.read(self._input, _CHUNK)
        self.ended = not data
        return data

    def write(self, data: bytes) -> None:
        """See `Link.write`."""
        if not self._echo:
            return
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._output, view) :]
        except OSError as error:
            if error.errno not in _GONE:
                raise
            self.closed = True

    def wait(self, seconds: float) -> None:
        """See `Link.wait`."""
        if not self.ended:
            _readable(self._input, seconds)

    def close(self) -> None:
        """See `Link.close`."""
        if self._restore is not None:
            self._restore()
            self._restore = None


class TcpServer:
    """One client on 127.0.0.1. Port 0 lets the system choose; `port` is the one in use.

    What the firmware says before the client has come is kept for it, 64 KiB at most. A second client is turned away;
    when the client hangs up the link is closed.

    Raises:
        OptionError: the port is in use or may not be used.
    """

    def __init__(self, port: int) -> None:
        self._server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._server.bind(("127.0.0.1", port))
            self._server.listen(1)
        except (OSError, OverflowError) as error:
            self._server.close()
            reason = getattr(error, "strerror", None) or "it is no port number"
            raise OptionError(
                f"port {port}", f"it cannot be used ({reason})", "Choose another one, or tcp:0"
            ) from error
        self._server.setblocking(False)
        self.port = int(self._server.getsockname()[1])
        self.place = f"tcp 127.0.0.1:{self.port}"
        self.ended, self.closed = False, False
        self.baud: int | None = None
        self._client: socket.socket | None = None
        self._pending = bytearray()

    def read(self) -> bytes:
        """See `Link.read`."""
        self._accept()
        if self._client is None or self.closed:
            return b""
        self._flush()
        try:
            data = self._client.recv(_CHUNK)
        except BlockingIOError:
            return b""
        except OSError:
            data = b""
        if not data:
            self.ended = self.closed = True
        return data

    def write(self, data: bytes) -> None:
        """See `Link.write`."""
        self._pending.extend(data)
        self._accept()
        if self._client is None:
            del self._pending[:-_KEPT]
        else:
            self._flush()

    def wait(self, seconds: float) -> None:
        """See `Link.wait`."""
        _readable(self._server if self._client is None else self._client, seconds)

    def close(self) -> None:
        """See `Link.close`."""
        if self._client is not None:
            with contextlib.suppress(OSError):
                self._client.settimeout(2.0)
                self._client.sendall(self._pending)
                self._client.shutdown(socket.SHUT_RDWR)
            self._client.close()
            self._client = None
            self._pending.clear()
        self._server.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # nobody knocks
            client, _ = self._server.accept()
            if self._client is not None:
                client.close()
                return
            client.setblocking(False)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._client = client

    def _flush(self) -> None:
        if self._client is None:
            return
        try:
            while self._pending:
                del self._pending[: self._client.send(self._pending)]
        except BlockingIOError:
            pass
        except OSError:
            self.ended = self.closed = True


class PseudoTerminal:
    """A pseudo-terminal: a host program opens it by its path like the serial port of a real board.

    It starts in raw mode at `baud`; the rate that a program sets is seen and can be compared with the firmware's.

    Raises:
        OptionError: the system has no pseudo-terminals.
    """

    def __init__(self, baud: int) -> None:
        try:
            import termios
            import tty

            self._master, self._slave = os.openpty()
        except (ImportError, AttributeError, OSError) as error:
            raise OptionError("--serial pty", "this system has no pseudo-terminals", "Use tcp:PORT") from error
        self._termios: Any = termios
        tty.setraw(self._slave)
        settings = termios.tcgetattr(self._slave)
        settings[4] = settings[5] = getattr(termios, f"B{baud}", termios.B115200)
        termios.tcsetattr(self._slave, termios.TCSANOW, settings)
        self._rates = {
            getattr(termios, name): int(name[1:]) for name in dir(termios) if name[0] == "B" and name[1:].isdigit()
        }
        os.set_blocking(self._master, False)
        # The slave stays open here: without any opener the master would report an error.
        self.path = os.ttyname(self._slave)
        self.place = self.path
        self.ended, self.closed = False, False
        self._pending = bytearray()

    @property
    def baud(self) -> int | None:
        """See `Link.baud`."""
        if self.closed:
            return None
        return self._rates.get(self._termios.tcgetattr(self._slave)[5])

    def read(self) -> bytes:
        """See `Link.read`."""
        self._flush()
        try:
            return os.read(self._master, _CHUNK)
        except BlockingIOError:
            return b""

    def write(self, data: bytes) -> None:
        """See `Link.write`."""
        self._pending.extend(data)
        self._flush()
        # Nobody reads: the oldest bytes are lost, as on a real line.
        del self._pending[:-_KEPT]

    def wait(self, seconds: float) -> None:
        """See `Link.wait`."""
        _readable(self._master, seconds)

    def close(self) -> None:
        """See `Link.close`."""
        if not self.closed:
            self.closed = self.ended = True
            os.close(self._slave)
            os.close(self._master)

    def _flush(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._pending:
                del self._pending[: os.write(self._master, self._pending)]


def open_link(kind: str, *, baud: int, echo: bool = True) -> Link:
    """The link that the command line names.

    Args:
        kind: "stdio", "tcp:PORT", "pty" or "none".
        baud: the rate a pseudo-terminal starts with.
        echo: whether "stdio" writes to standard output.

    Raises:
        OptionError: another name, or a link that cannot be opened.
    """
    name, _, number = kind.partition(":")
    if kind == "stdio":
        return StandardStreams(echo=echo)
    if kind == "pty":
        return PseudoTerminal(baud)
    if kind == "none":
        return Silent()
    if name == "tcp" and number.isdigit():
        return TcpServer(int(number))
    raise OptionError(f"--serial {kind}", "it is no serial line", "Choose stdio, tcp:PORT, pty or none")


def _readable(source: int | socket.socket, seconds: float) -> bool:
    return bool(select.select([source], [], [], seconds)[0])
