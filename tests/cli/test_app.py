"""The command line: fast help, one sentence per refusal, quiet ends."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from millijoule import __version__
from millijoule.cli import _app
from millijoule.cli._app import COMMANDS, app, explain
from millijoule.cli._lazy import LazyEntry
from millijoule.errors import DataError

RUNNER = CliRunner()


def _run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "millijoule", *arguments], capture_output=True, text=True, cwd=cwd, check=False
    )


def test_help_lists_every_command_and_imports_nothing_heavy() -> None:
    code = (
        "import sys, millijoule.cli._app as a\n"
        "try: a.app(['--help'])\n"
        "except SystemExit: pass\n"
        "print('heavy:', sorted({'torch', 'cv2', 'numpy', 'unicorn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "heavy: []"
    for name in ("demo", "doctor", "study", "report", "boards", "graph"):
        assert name in done.stdout


@pytest.mark.parametrize("entry", [entry for entry in COMMANDS if _app._exists(entry.module)], ids=lambda e: e.name)
def test_every_command_teaches_by_its_help(entry: LazyEntry) -> None:
    done = RUNNER.invoke(app, [entry.name, "--help"])
    assert done.exit_code == 0, done.output
    assert "Usage" in done.output and entry.name in done.output
    assert "--install-completion" not in done.output


def test_version() -> None:
    assert RUNNER.invoke(app, ["--version"]).output.strip() == f"millijoule {__version__}"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["boards", "show", "stm32f0"], "stm32f0"),
        (["graph", "show", "missing.mj"], "no such file"),
        (["report", "nowhere"], "report"),
        (["study", "nowhere", "--epochs", "1"], "nowhere"),
        (["study"], "no pictures were given"),
        (["study", "x", "--source", "folder"], "both"),
        (["study", "x", "--qat", "perhaps"], "perhaps"),
        (["study", "x", "--board", "stm32f0"], "stm32f0"),
        (["study", "--config", "missing.toml"], "missing.toml"),
    ],
)
def test_refusals_are_one_sentence_and_leave_nothing(arguments: list[str], words: str, tmp_path: Path) -> None:
    done = _run(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "study.toml"] == []


@pytest.mark.parametrize("place", [0, 3])
def test_debug_shows_the_traceback_wherever_it_stands(place: int) -> None:
    arguments = ["graph", "show", "missing.mj"]
    arguments.insert(place, "--debug")
    done = _run(*arguments)
    assert done.returncode == 2
    assert "Traceback" in done.stderr and "FormatError" in done.stderr


def test_a_truncated_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.mj").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    done = _run("graph", "show", "broken.mj", cwd=tmp_path)
    assert done.returncode == 2 and "broken.mj" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("error", "words", "code"),
    [
        (DataError("folder", "it is empty", "Fill it"), "millijoule: folder: it is empty. Fill it.", 2),
        (KeyboardInterrupt(), "interrupted; run the same command again to resume", 130),
        (OSError(errno.ENOSPC, "No space left on device", "run/last"), "run/last: the disk is full", 2),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "/x: Permission denied", 2),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), "millijoule[train]", 2),
        (ModuleNotFoundError("No module named 'jinja2'", name="jinja2"), "millijoule[report]", 2),
    ],
)
def test_what_is_said_about_an_error(error: BaseException, words: str, code: int) -> None:
    message, exit_code = explain(error)
    assert message is not None and words in message
    assert exit_code == code
    assert "\n" not in message


@pytest.mark.parametrize("error", [BrokenPipeError(errno.EPIPE, "Broken pipe"), ValueError("a defect")])
def test_what_must_not_be_hidden_is_passed_on(error: BaseException) -> None:
    assert explain(error)[0] is None


def test_a_missing_package_of_a_command_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "needs_unicorn.py").write_text("import unicorn_that_is_not_there")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(_app, "COMMANDS", (LazyEntry("x", "needs_unicorn", "x", "x"),))
    done = RUNNER.invoke(app, ["x"])
    assert done.exit_code == 2
    assert "unicorn_that_is_not_there" in done.output and "pip install" in done.output


def test_ctrl_c_ends_with_one_line(tmp_path: Path) -> None:
    code = (
        # a test runner in the background hands on "ignore"; a terminal does not
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import sys, time, typer, millijoule.cli._app as a\n"
        "from millijoule.cli._lazy import LazyEntry\n"
        "a.COMMANDS = (LazyEntry('wait', 'waiting', 'w', 'w'),)\n"
        "sys.argv = ['millijoule', 'wait']\n"
        "a.main()"
    )
    (tmp_path / "waiting.py").write_text(
        "import time, typer\napp = typer.Typer()\n"
        "@app.command()\ndef wait():\n    print('ready', flush=True)\n    time.sleep(60)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])},
    )
    assert child.stdout is not None and child.stderr is not None
    assert child.stdout.readline().strip() == "ready"
    time.sleep(0.2)
    child.send_signal(signal.SIGINT)
    _, told = child.communicate(timeout=60)
    assert told.strip() == "interrupted; run the same command again to resume"
    assert child.returncode == 130


def test_a_closed_pipe_is_quiet() -> None:
    command = f"{sys.executable} -m millijoule boards show stm32h7b3i | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.stderr == ""


@pytest.fixture(scope="module")
def findings() -> list[dict[str, Any]]:
    """What `doctor --json` found."""
    done = _run("doctor", "--json")
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)["findings"]
    return found


def test_doctor_as_json_names_every_package(findings: list[dict[str, Any]]) -> None:
    by_name = {finding["what"]: finding for finding in findings}
    assert {"Python", "numpy", "torch", "zig", "arm-none-eabi-gcc", "counting hook", "GPU"} <= set(by_name)
    assert by_name["numpy"]["present"]
    assert all(finding["fix"] for finding in findings if finding["needed"] and not finding["present"])


@pytest.mark.slow
def test_doctor_as_text_fits_a_terminal(findings: list[dict[str, Any]]) -> None:
    done = _run("doctor")
    assert done.returncode == 0, done.stderr
    assert "CPU threads" in done.stdout
    for finding in findings:
        assert finding["present"] or finding["fix"] in done.stdout


def test_boards_tell_clock_memories_and_energy_source() -> None:
    listed = RUNNER.invoke(app, ["boards", "list"]).output
    assert "stm32l4r9i" in listed and "stm32h7b3i" in listed
    shown = RUNNER.invoke(app, ["boards", "show", "stm32h7b3i"]).output
    assert "280 MHz" in shown and "0x24000000" in shown and "pJ per cycle" in shown and "MLPerf" in shown


def test_lazy_commands_are_typer_applications() -> None:
    import importlib

    for entry in COMMANDS:
        if _app._exists(entry.module):
            assert isinstance(getattr(importlib.import_module(entry.module), entry.attribute), typer.Typer)
