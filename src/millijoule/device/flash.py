"""Programming a board through a debug probe, with pyOCD or OpenOCD: this project only builds their command line.

Sources: pyOCD 0.36, `pyocd flash --help`; OpenOCD 0.12 user's guide, chapter "Flash Programming".
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from millijoule.boards import Board, load_board
from millijoule.emulate.image import load_image
from millijoule.errors import BoardError, DeviceError, OptionError, ToolchainError

__all__ = ["TOOLS", "FlashTool", "flash_command", "flash_firmware"]

TOOLS = ("pyocd", "openocd")
"""What can program a board, in the order in which they are looked for."""
_SECONDS = 600.0
_PACKAGES = {
    "pyocd": "Install it: pip install 'millijoule[probe]'",
    "openocd": "Install it, for example: apt install openocd",
}
_NO_PROBE = {
    "pyocd": r"no (connected|available) debug probe|no target device available|waiting for a debug probe",
    "openocd": r"open failed|no device found|unable to find a matching|unable to open|libusb_open\(\) failed",
}
# OpenOCD ends with 0 in some versions although it failed; it says so when it has compared what it wrote.
_PROOF = {"pyocd": "", "openocd": r"\*\* Verified OK \*\*"}


@dataclass(frozen=True)
class FlashTool:
    """A program that was found: its name in `TOOLS`, and how it is called."""

    name: str
    command: tuple[str, ...]


def find_tool(name: str | None = None) -> FlashTool:
    """The program called `name`, or the first of `TOOLS` that is installed.

    Raises:
        OptionError: another name.
        ToolchainError: it, or any of them, is not installed.
    """
    if name is not None and name not in TOOLS:
        raise OptionError(f"tool {name!r}", "it is none of those known here", f"Choose one of: {', '.join(TOOLS)}")
    for candidate in TOOLS if name is None else (name,):
        path = shutil.which(candidate)
        if path is not None:
            return FlashTool(candidate, (path,))
        if candidate == "pyocd" and importlib.util.find_spec("pyocd") is not None:
            return FlashTool(candidate, (sys.executable, "-m", "pyocd"))
    if name is None:
        raise ToolchainError(
            " and ".join(TOOLS),
            "neither is installed, and one of them must talk to the debug probe",
            f"{_PACKAGES['pyocd']}. Or: {_PACKAGES['openocd'].removeprefix('Install it, ')}",
        )
    raise ToolchainError(name, "it is not installed", _PACKAGES[name])


def flash_command(firmware: Path, board: Board, tool: FlashTool, *, probe: str | None = None) -> list[str]:
    """The command line that programs and resets the board.

    Args:
        firmware: .elf, .hex or .bin; a .bin begins at the start of flash.
        board: its probe section names the chip.
        tool: from `find_tool`.
        probe: serial number of the debug probe, when several are connected.

    Raises:
        BoardError: the board's description does not say how the tool calls it.
        OptionError: a path or serial number that OpenOCD's command language cannot carry.
    """
    if board.probe is None:
        raise BoardError(board.title, "its description has no [probe] section", "Add it, see stm32l4r9i.toml")
    form = _form(firmware)
    if tool.name == "pyocd":
        command = [*tool.command, "flash", "--target", board.probe.pyocd, "--no-wait"]
        command += ["--uid", probe] if probe else []
        command += ["--format", form]
        command += ["--base-address", f"{board.flash.base:#x}"] if form == "bin" else []
        return [*command, str(firmware)]
    path = firmware.resolve().as_posix()
    if set('{}[]$\\"\n') & set(path) or (probe and not re.fullmatch(r"[0-9A-Za-z]+", probe)):
        raise OptionError(str(probe or path), "OpenOCD's commands cannot carry its characters", "Rename it")
    command = list(tool.command)
    for number, file in enumerate(board.probe.openocd):
        command += ["-f", file]
        if probe and number == 0:
            command += ["-c", f"adapter serial {probe}"]
    place = f" {board.flash.base:#x}" if form == "bin" else ""
    return [*command, "-c", f"program {{{path}}} verify reset exit{place}"]


def flash_firmware(
    firmware: Path, board: Board | str, *, tool: str | None = None, probe: str | None = None
) -> tuple[FlashTool, str]:
    """Programs a board and resets it, or says why not.

    Args:
        firmware: .elf, .hex or .bin, checked against the board's memories first.
        board: the board or its name.
        tool: one of `TOOLS`; the first that is installed without it.
        probe: serial number of the debug probe.

    Returns:
        The tool and what it said.

    Raises:
        FormatError, BoardError: a file that is no firmware for this board.
        ToolchainError: the tool is not installed, or does not know the chip.
        DeviceError: there is no probe, or the tool reports a failure.
        OptionError: see `find_tool` and `flash_command`.
    """
    target = load_board(board) if isinstance(board, str) else board
    load_image(firmware, target)
    found = find_tool(tool)
    command = flash_command(firmware, target, found, probe=probe)
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except OSError as error:
        raise ToolchainError(found.name, f"it cannot be started ({error.strerror})", "Install it again") from error
    except subprocess.TimeoutExpired as error:
        raise DeviceError(
            target.title, f"{found.name} did not end within {_SECONDS:g} s", "Connect probe and board again"
        ) from error
    said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
    if done.returncode != 0 or not re.search(_PROOF[found.name], said):
        raise _failure(found, target, done.returncode, said)
    return found, said


def _failure(tool: FlashTool, board: Board, code: int, said: str) -> DeviceError | ToolchainError:
    if re.search(_NO_PROBE[tool.name], said, flags=re.IGNORECASE):
        return DeviceError(
            board.title, f"{tool.name} finds no debug probe", "Connect the board's ST-LINK by USB; nothing was written"
        )
    if "Enter the number of the debug probe" in said:
        return DeviceError(
            board.title, "several debug probes are connected", "Choose one with --probe; pyocd list shows them"
        )
    assert board.probe is not None
    if tool.name == "pyocd" and re.search(r"target type \S+ not recognized", said, flags=re.IGNORECASE):
        return ToolchainError(
            f"pyocd target {board.probe.pyocd}",
            "pyOCD has no description of this chip yet",
            f"Run: pyocd pack install {board.probe.pyocd}",
        )
    if tool.name == "openocd" and (missing := re.search(r"can't find (\S+)", said, flags=re.IGNORECASE)):
        return ToolchainError("openocd", f"it has no file {missing[1]}", "Install OpenOCD 0.12 or newer")
    last = "; ".join([line.strip() for line in said.splitlines() if line.strip()][-3:]) or "nothing was said"
    return DeviceError(
        board.title, f"{tool.name} failed (exit code {code}): {last}", "Check the probe's connection to the board"
    )


def _form(firmware: Path) -> str:
    """What the file is ("elf", "hex" or "bin"), told from its content as `load_image` does."""
    with firmware.open("rb") as file:
        start = file.read(64)
    if start.startswith(b"\x7fELF"):
        return "elf"
    return "hex" if start.lstrip().startswith(b":") or firmware.suffix.lower() in (".hex", ".ihex") else "bin"
