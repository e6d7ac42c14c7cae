"""A board that speaks the MLPerf Tiny device protocol, from the host's side.

Source of the protocol: mlcommons/tiny, `benchmark/api` (the firmware's side) and `benchmark/runner` (the host's).
"""

from __future__ import annotations

import contextlib
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from millijoule.device.port import BAUD_RATE, Port, open_port
from millijoule.errors import DeviceError
from millijoule.files import Progress

__all__ = ["Device", "Inference", "RawResult"]

READY = "m-ready"
INTERRUPT = b"\x03"
"""Ctrl-C: our firmware stops measuring and forgets a line that has been begun."""
BYTES_PER_LINE = 31
"""Picture bytes in one `db` command, as the official runner sends them: a command has 80 characters at most."""
_LONGEST_REPLY = 1 << 20
_ATTEMPTS = 3
_OLD_REPLIES = 100
"""Answers to earlier commands that may still be on the line."""


@dataclass(frozen=True)
class Inference:
    """What `infer` answers.

    Attributes:
        results: probabilities (or logits, of a model that ends with them) to three decimals.
        microseconds: what the counted inferences took together, by the device's clock; None in energy mode.
    """

    results: tuple[float, ...]
    microseconds: int | None


@dataclass(frozen=True)
class RawResult:
    """The outputs of the last inference as they lie in the device's memory, little-endian.

    Attributes:
        logits: bytes of the logits.
        probabilities: bytes of the probabilities, None for a model without.
        class_index: the class the device decided for.
    """

    logits: bytes
    probabilities: bytes | None
    class_index: int


class Device:
    """A board at the other end of a port.

    Args:
        port: the open line.
        timeout: seconds of silence after which a command counts as unanswered.

    Example:
        with Device.open("/dev/ttyACM0") as device:
            device.load(picture.tobytes())
            device.infer().results
    """

    def __init__(self, port: Port, *, timeout: float = 5.0) -> None:
        self.port = port
        self.timeout = timeout
        self._buffer = bytearray()
        self._facts: dict[str, str] | None = None

    @classmethod
    def open(cls, name: str, *, baud: int = BAUD_RATE, timeout: float = 5.0) -> Device:
        """Opens a port (see `open_port`) and makes sure that a device answers.

        Raises:
            DeviceError: no port, or nobody who speaks the protocol.
            OptionError, ToolchainError: see `open_port`.
        """
        device = cls(open_port(name, baud=baud), timeout=timeout)
        try:
            device.synchronize()
        except BaseException:
            device.close()
            raise
        return device

    def __enter__(self) -> Device:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Gives the port back; may be called twice."""
        self.port.close()

    def synchronize(self) -> None:
        """Leaves every earlier answer behind, so that the next one belongs to the next command.

        It sends a command that cannot exist and reads up to its refusal, which repeats the word. Characters that were
        already on the line, or a banner, come before it.

        Raises:
            DeviceError: nothing, or something else, answers.
        """
        heard = bytearray()
        for attempt in range(_ATTEMPTS):
            word = f"sync{secrets.token_hex(4)}"
            # The first attempt is plain protocol; then our firmware is also told to stop what it may be doing.
            self.port.write((INTERRUPT if attempt else b"") + f"{word}%".encode("ascii"))
            with contextlib.suppress(_Silence):
                for _ in range(_OLD_REPLIES):
                    if any(word in line for line in self._reply(self.timeout, heard=heard)):
                        return
        if not heard:
            reason, fix = f"nothing answers within {self.timeout:g} s", "Check power, cable and baud rate"
        elif sum(32 <= byte < 127 or byte in b"\r\n" for byte in heard) < 0.9 * len(heard):
            reason, fix = "what comes is no text", "Check the baud rate: 115200, or 9600 in energy mode"
        else:
            reason = f"it does not speak the MLPerf Tiny protocol; it says {_shown(heard)}"
            fix = "Flash a firmware of millijoule, or wait until the board has started"
        raise DeviceError(f"port {self.port.name}", reason, fix)

    def command(self, text: str, *, timeout: float | None = None, check: bool = True) -> list[str]:
        """Sends a command and returns the lines of its answer, without "m-ready".

        Args:
            text: the command without its '%'.
            timeout: seconds of silence to wait at most; the device's own without it.
            check: turn an answer "e-[...]" into an error.

        Raises:
            DeviceError: no answer, or a refusal. An interruption (Ctrl-C) is passed on to the device.
        """
        self.port.write(f"{text}%".encode("ascii"))
        limit = self.timeout if timeout is None else timeout
        try:
            lines = self._reply(limit)
        except _Silence:
            raise DeviceError(
                f"port {self.port.name}",
                f"no answer to {text!r} within {limit:g} s",
                "Restart the board, or give it more time with --timeout",
            ) from None
        except KeyboardInterrupt:
            with contextlib.suppress(DeviceError):
                self.port.write(INTERRUPT)
            raise
        refusal = next((line for line in lines if line.startswith("e-[")), None)
        if check and refusal is not None:
            raise DeviceError(
                f"port {self.port.name}",
                f"the device refuses {text[:40]!r}: {refusal[3:].removesuffix(']')}",
                "Compare the model in the device with the one given",
            )
        return lines

    @property
    def name(self) -> str:
        """What the device calls itself."""
        return self._value("name", r"m-name-dut-\[(.*)\]")

    @property
    def model(self) -> str:
        """What the device calls its model."""
        return self._value("profile", r"m-model-\[(.*)\]")

    @property
    def facts(self) -> dict[str, str]:
        """What our firmware tells of itself (board, clock-hz, input-bytes, classes, ...); empty from other devices."""
        if self._facts is None:
            found = (re.fullmatch(r"m-([a-z-]+)-\[(.*)\]", line) for line in self.command("info", check=False))
            self._facts = {match[1]: match[2] for match in found if match}
        return self._facts

    def load(self, picture: bytes, *, progress: Progress | None = None) -> None:
        """Sends a picture.

        Args:
            picture: rows of RGB bytes.
            progress: told about the bytes sent.

        Raises:
            DeviceError: no answer, or a picture of another size than the model's.
        """
        self.command(f"db load {len(picture)}")
        lines: list[str] = []
        for start in range(0, len(picture), BYTES_PER_LINE):
            lines = self.command(f"db {picture[start : start + BYTES_PER_LINE].hex()}")
            if progress is not None:
                progress("sending a picture", min(start + BYTES_PER_LINE, len(picture)), len(picture))
        if "m-load-done" not in lines:
            raise DeviceError(
                f"port {self.port.name}", "the device has not taken the whole picture", "Try again, then restart it"
            )

    def infer(self, count: int = 1, warm_up: int = 0, *, timeout: float | None = None) -> Inference:
        """Runs inferences on the loaded picture.

        Args:
            count: inferences that are timed.
            warm_up: inferences before them.
            timeout: seconds to wait for all of them.

        Raises:
            DeviceError: no answer, a refusal, or an answer without results.
        """
        lines = self.command(f"infer {count} {warm_up}", timeout=timeout)
        laps = [int(match[1]) for line in lines if (match := re.fullmatch(r"m-lap-us-(\d+)", line))]
        microseconds = laps[-1] - laps[0] if len(laps) == 2 else None
        return Inference(self._numbers(lines), microseconds)

    def raw(self) -> RawResult | None:
        """The outputs of the last inference bit by bit; None from a device that does not know the command."""
        lines = self.command("raw", check=False)
        parts = (re.fullmatch(r"m-raw-(\w+)-\[(.*)\]", line) for line in lines)
        found = {match[1]: match[2] for match in parts if match}
        if "logits" not in found:
            return None
        try:
            probabilities = found.get("probabilities")
            return RawResult(
                bytes.fromhex(found["logits"]),
                None if probabilities is None else bytes.fromhex(probabilities),
                int(found["class"]),
            )
        except (KeyError, ValueError) as error:
            raise self._garbled(lines) from error

    def _value(self, command: str, pattern: str) -> str:
        lines = self.command(command)
        for line in lines:
            if match := re.fullmatch(pattern, line):
                return match[1]
        raise self._garbled(lines)

    def _numbers(self, lines: list[str]) -> tuple[float, ...]:
        for line in lines:
            if match := re.fullmatch(r"m-results-\[(.*)\]", line):
                with contextlib.suppress(ValueError):
                    return tuple(float(part) for part in match[1].split(","))
        raise self._garbled(lines)

    def _garbled(self, lines: list[str]) -> DeviceError:
        return DeviceError(
            f"port {self.port.name}",
            f"the answer cannot be understood: {_shown(' | '.join(lines).encode('latin-1', 'replace'))}",
            "Check the cable; if it stays, the device speaks another protocol",
        )

    def _reply(self, seconds: float, *, heard: bytearray | None = None) -> list[str]:
        """Lines up to the next "m-ready"; raises `_Silence` after `seconds` without a character."""
        return _lines(self._buffer, lambda: self._more(seconds, heard), self.port.name)

    def _more(self, seconds: float, heard: bytearray | None) -> None:
        end = time.monotonic() + seconds
        data = self.port.read(seconds)
        while not data:
            if time.monotonic() >= end:
                raise _Silence
            data = self.port.read(end - time.monotonic())
        self._buffer.extend(data)
        if heard is not None and len(heard) < 4096:
            heard.extend(data)


class _Silence(Exception):  # noqa: N818 - never leaves this module
    pass


def _lines(buffer: bytearray, more: Callable[[], None], name: str) -> list[str]:
    lines: list[str] = []
    total = 0
    while True:
        end = buffer.find(b"\n")
        while end < 0:
            if total + len(buffer) > _LONGEST_REPLY:
                raise DeviceError(f"port {name}", "its answer does not end", "Restart the board")
            more()
            end = buffer.find(b"\n")
        total += end + 1
        line = bytes(buffer[:end]).decode("latin-1").strip("\r\n\0")
        del buffer[: end + 1]
        if READY in line:
            return lines
        if line:
            lines.append(line)
        if total > _LONGEST_REPLY:
            raise DeviceError(f"port {name}", "its answer does not end", "Restart the board")


def _shown(heard: bytes | bytearray) -> str:
    text = heard[:120].decode("latin-1")
    return repr(text) + ("..." if len(heard) > 120 else "")
