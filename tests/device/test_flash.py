"""Programming a board: the command lines, and what is said when tool, probe or file is not right."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.testing import CliRunner

from millijoule.boards import board_names, load_board
from millijoule.cli.flash import app
from millijoule.device import FlashTool, flash_command, flash_firmware
from millijoule.errors import BoardError, DeviceError, FormatError, MillijouleError, OptionError, ToolchainError

needs_boards = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("ziglang", "elftools")), reason="the extra 'deploy' is not installed"
)
pytestmark = [needs_boards, pytest.mark.skipif(os.name != "posix", reason="the fake programs are scripts")]
MODEL = Path(__file__).parents[1] / "fixtures" / "tiny_model"


@pytest.fixture(scope="module")
def firmware(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from millijoule.build import build_board

    folder = tmp_path_factory.mktemp("flash")
    image = build_board({p.name: p.read_text() for p in MODEL.iterdir()}, "stm32l4r9i", out=folder / "firmware.elf")
    image.save_binary(folder / "firmware.bin")
    image.save_hexadecimal(folder / "firmware.hex")
    return folder / "firmware.elf"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as the only place where programs are; pyOCD as a Python package is hidden too."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr("millijoule.device.flash.importlib.util.find_spec", lambda name: None)
    return folder


def fake(folder: Path, name: str, says: str, code: int) -> Path:
    """A program that writes its arguments to a file, says something and ends."""
    record = folder / f"{name}.json"
    program = folder / name
    program.write_text(
        f"#!{sys.executable}\nimport json, sys\njson.dump(sys.argv[1:], open({str(record)!r}, 'w'))\n"
        f"print({says!r})\nsys.exit({code})\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return record


def test_without_a_tool_nothing_is_pretended(path: Path, firmware: Path) -> None:
    with pytest.raises(ToolchainError, match=r"neither is installed.*millijoule\[probe\].*apt install openocd"):
        flash_firmware(firmware, "stm32l4r9i")
    for tool in ("pyocd", "openocd"):
        with pytest.raises(ToolchainError, match=f"{tool}: it is not installed"):
            flash_firmware(firmware, "stm32l4r9i", tool=tool)
    with pytest.raises(OptionError, match="pyocd, openocd"):
        flash_firmware(firmware, "stm32l4r9i", tool="jlink")


def test_pyocd_gets_the_chip_and_the_file(path: Path, firmware: Path) -> None:
    record = fake(path, "pyocd", "0001234 I Erased 65536 bytes [loader]", 0)
    tool, said = flash_firmware(firmware, "stm32l4r9i", probe="066DFF")
    assert tool.name == "pyocd" and "Erased" in said
    expected = ["flash", "--target", "stm32l4r9aiix", "--no-wait", "--uid", "066DFF", "--format", "elf", str(firmware)]
    assert json.loads(record.read_text()) == expected
    flash_firmware(firmware.with_suffix(".bin"), "stm32l4r9i")
    arguments = json.loads(record.read_text())
    assert arguments[-4:] == ["bin", "--base-address", "0x8000000", str(firmware.with_suffix(".bin"))]
    flash_firmware(firmware.with_suffix(".hex"), "stm32l4r9i")
    assert "hex" in json.loads(record.read_text()) and "--base-address" not in json.loads(record.read_text())


def test_openocd_programs_verifies_and_resets(path: Path, firmware: Path) -> None:
    record = fake(path, "openocd", "** Programming Finished **\n** Verified OK **\n** Resetting Target **", 0)
    assert flash_firmware(firmware, "stm32l4r9i", probe="066DFF")[0].name == "openocd"
    assert json.loads(record.read_text()) == [
        *("-f", "interface/stlink.cfg", "-c", "adapter serial 066DFF", "-f", "target/stm32l4x.cfg"),
        *("-c", f"program {{{firmware}}} verify reset exit"),
    ]
    flash_firmware(firmware.with_suffix(".bin"), "stm32l4r9i")
    assert json.loads(record.read_text())[-1].endswith("firmware.bin} verify reset exit 0x8000000")


@pytest.mark.parametrize(
    ("tool", "says", "code", "error", "reason"),
    [
        (
            "pyocd",
            "\x1b[31mNo connected debug probes\x1b[0m\n0000222 E No target device available",
            1,
            DeviceError,
            "no debug probe",
        ),
        ("pyocd", "No available debug probes are connected", 0x7F, DeviceError, "no debug probe.*nothing was written"),
        (
            "pyocd",
            "0000711 C Target type stm32l4r9aiix not recognized. Use 'pyocd list --targets'",
            1,
            ToolchainError,
            "pyocd pack install stm32l4r9aiix",
        ),
        ("pyocd", "Enter the number of the debug probe or 'q' to quit> ", 1, DeviceError, "several debug probes"),
        ("pyocd", "0000999 C flash erase sector failure", 1, DeviceError, "exit code 1.*flash erase sector failure"),
        ("pyocd", "", 3, DeviceError, "nothing was said"),
        (
            "openocd",
            "Error: open failed\nin procedure 'program'\n** OpenOCD init failed **",
            1,
            DeviceError,
            "no debug probe",
        ),
        (
            "openocd",
            "embedded:startup.tcl:26: Error: Can't find target/stm32l4x.cfg",
            1,
            ToolchainError,
            "no file target",
        ),
        ("openocd", "** Programming Failed **\nshutdown command invoked", 0, DeviceError, "Programming Failed"),
        ("openocd", "** Programming Finished **\n** Verify Failed **", 1, DeviceError, "Verify Failed"),
    ],
)
def test_failures_are_told_apart(
    path: Path, firmware: Path, tool: str, says: str, code: int, error: type[MillijouleError], reason: str
) -> None:
    fake(path, tool, says, code)
    with pytest.raises(error, match=reason):
        flash_firmware(firmware, "stm32l4r9i")


def test_a_tool_that_cannot_start(path: Path, firmware: Path) -> None:
    program = path / "openocd"
    program.write_text("#!/no/such/interpreter\n")
    program.chmod(0o755)
    with pytest.raises(ToolchainError, match="cannot be started"):
        flash_firmware(firmware, "stm32l4r9i")


def test_the_file_is_checked_before_the_tool(path: Path, firmware: Path, tmp_path: Path) -> None:
    record = fake(path, "pyocd", "", 0)
    (tmp_path / "text.bin").write_bytes(b"this is not a firmware at all, " * 9)
    with pytest.raises(MillijouleError):
        flash_firmware(tmp_path / "text.bin", "stm32l4r9i")
    with pytest.raises(FormatError):
        flash_firmware(tmp_path / "missing.elf", "stm32l4r9i")
    with pytest.raises(BoardError):
        flash_firmware(firmware, "stm32h7b3i")
    assert not record.exists()


def test_a_board_without_probe_names(firmware: Path) -> None:
    board = dataclasses.replace(load_board("stm32l4r9i"), probe=None)
    with pytest.raises(BoardError, match=r"\[probe\]"):
        flash_command(firmware, board, FlashTool("pyocd", ("pyocd",)))


def test_openocd_cannot_carry_every_path(firmware: Path, tmp_path: Path) -> None:
    odd = tmp_path / "a}b"
    odd.mkdir()
    copy = odd / "firmware.elf"
    copy.write_bytes(firmware.read_bytes())
    tool = FlashTool("openocd", ("openocd",))
    with pytest.raises(OptionError, match="cannot carry"):
        flash_command(copy, load_board("stm32l4r9i"), tool)
    with pytest.raises(OptionError, match="cannot carry"):
        flash_command(firmware, load_board("stm32l4r9i"), tool, probe="1; shutdown")


@pytest.mark.parametrize("name", board_names())
def test_every_board_can_be_programmed(name: str, firmware: Path) -> None:
    board = load_board(name)
    family = {"cortex-m4": "stm32l4", "cortex-m7": "stm32h7"}[board.core]
    for tool in ("pyocd", "openocd"):
        line = flash_command(firmware, board, FlashTool(tool, (tool,)))
        assert any(part.removeprefix("target/").startswith(family) for part in line)


def test_the_command(path: Path, firmware: Path) -> None:
    shown = CliRunner().invoke(app, [str(firmware), "--board", "stm32l4r9i", "--tool", "openocd", "--show"])
    assert shown.exit_code == 0 and shown.stdout.startswith(
        "openocd -f interface/stlink.cfg -f target/stm32l4x.cfg -c "
    )
    fake(path, "pyocd", "done", 0)
    done = CliRunner().invoke(app, [str(firmware), "--board", "stm32l4r9i"], catch_exceptions=False)
    assert done.exit_code == 0 and "by pyocd" in done.stdout
    fake(path, "pyocd", "No connected debug probes", 1)
    failed = CliRunner().invoke(app, [str(firmware), "--board", "stm32l4r9i"])
    assert isinstance(failed.exception, DeviceError)
