"""`millijoule doctor`: what is installed, what is missing, how to get it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from millijoule import __version__
from millijoule.files import cache_folder

app = typer.Typer()

PACKAGES = (
    ("numpy", "numpy", "core", "everything"),
    ("safetensors", "safetensors", "core", "model files"),
    ("typer", "typer", "core", "the command line"),
    ("rich", "rich", "core", "tables, bars"),
    ("torch", "torch", "train", "training, capture"),
    ("opencv-python-headless", "cv2", "train", "photographs"),
    ("pyarrow", "pyarrow", "train", "parquet data sets"),
    ("ziglang", "ziglang", "deploy", "cross compiler"),
    ("unicorn", "unicorn", "deploy", "the emulated boards"),
    ("capstone", "capstone", "deploy", "cycle models"),
    ("pyelftools", "elftools", "deploy", "reading firmware"),
    ("ai-edge-litert", "ai_edge_litert", "interchange", ".tflite files"),
    ("flatbuffers", "flatbuffers", "interchange", ".tflite files"),
    ("jinja2", "jinja2", "report", "report.html"),
)
"""Distribution, importable name, the extra that brings it, what it is for."""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor: what, whether it is there, what was found, and how to get it when it is not."""

    what: str
    present: bool
    found: str
    purpose: str
    fix: str = ""
    needed: bool = True


def _packages() -> list[Finding]:
    findings = []
    for distribution, module, extra, purpose in PACKAGES:
        present = importlib.util.find_spec(module) is not None
        version = "missing"
        if present:
            try:
                version = importlib.metadata.version(distribution)
            except importlib.metadata.PackageNotFoundError:
                version = "version unknown"
        fix = "" if present else f"pip install 'millijoule[{extra}]'"
        findings.append(Finding(distribution, present, version, f"{purpose} ({extra})", fix))
    return findings


def _first_line(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = (done.stdout or done.stderr).splitlines()
    return lines[0] if done.returncode == 0 and lines else None


def _compilers() -> list[Finding]:
    zig = _first_line([sys.executable, "-m", "ziglang", "version"]) if importlib.util.find_spec("ziglang") else None
    host = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
    arm = shutil.which("arm-none-eabi-gcc")
    return [
        Finding(
            "zig",
            zig is not None,
            zig or "missing",
            "compiles the firmware",
            "" if zig else "pip install 'millijoule[deploy]'",
        ),
        Finding(
            "host C compiler",
            host is not None,
            (_first_line([host, "--version"]) if host else None) or "missing",
            "optional, zig serves too",
            "" if host else "apt install gcc (or leave it: zig serves)",
            needed=False,
        ),
        Finding(
            "arm-none-eabi-gcc",
            arm is not None,
            (_first_line([arm, "--version"]) if arm else None) or "missing",
            "optional",
            "" if arm else "apt install gcc-arm-none-eabi (or leave it: zig serves)",
            needed=False,
        ),
    ]


def _boards() -> list[Finding]:
    """What a real board needs; none of it is needed without one."""
    serial = importlib.util.find_spec("serial") is not None
    builtin = importlib.util.find_spec("termios") is not None
    how = "pyserial" if serial else "built in" if builtin else "missing"
    fix = "" if serial or builtin else "pip install 'millijoule[device]'"
    ports = Finding("serial ports", serial or builtin, how, "optional, real boards", fix, needed=False)
    tools = [name for name in ("pyocd", "openocd") if shutil.which(name)]
    fix = "" if tools else "pip install 'millijoule[probe]', or apt install openocd"
    found = ", ".join(tools) or "missing"
    return [ports, Finding("debug probes", bool(tools), found, "optional, flashing", fix, needed=False)]


def _hook() -> Finding:
    purpose = "counts instructions"
    if importlib.util.find_spec("unicorn") is None:
        return Finding("counting hook", False, "unicorn is missing", purpose, "pip install 'millijoule[deploy]'")
    try:
        from millijoule.emulate import hook_is_native
    except ImportError as error:
        return Finding("counting hook", False, f"unknown ({error})", purpose, "pip install 'millijoule[deploy]'")
    native = hook_is_native()
    fix = "" if native else "pip install 'millijoule[deploy]' (zig builds the fast one)"
    return Finding("counting hook", True, "native" if native else "pure Python, slower", purpose, fix)


def _machine() -> list[Finding]:
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    free = shutil.disk_usage(Path.cwd()).free
    cache = cache_folder()
    return [
        Finding("CPU threads", True, str(threads), "all are used"),
        Finding("GPU", *_gpu(), "optional, for training", needed=False),
        Finding(
            "free disk here",
            free > 2 * 2**30,
            f"{free / 1e9:.1f} GB",
            "the demo needs 0.3 GB",
            "" if free > 2 * 2**30 else "free some space",
            needed=False,
        ),
        Finding("cache folder", True, str(cache), "MILLIJOULE_CACHE moves it"),
    ]


def _gpu() -> tuple[bool, str]:
    if importlib.util.find_spec("torch") is None:
        return False, "torch is missing"
    import torch

    if torch.cuda.is_available():
        return True, str(torch.cuda.get_device_name(0))
    return False, "none (the CPU is used)"


def examine() -> list[Finding]:
    """Everything the doctor looks at, in the order it is printed."""
    python = Finding(
        "Python",
        sys.version_info >= (3, 10),
        platform.python_version(),
        "3.10 or newer",
        "" if sys.version_info >= (3, 10) else "install Python 3.10 or newer",
    )
    return [python, *_packages(), *_compilers(), _hook(), *_boards(), *_machine()]


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False) -> None:
    """Say what is installed, what is missing, what each thing is for, and how to get it.

    Example: millijoule doctor --json
    """
    findings = examine()
    if as_json:
        typer.echo(
            json.dumps({"millijoule": __version__, "findings": [asdict(finding) for finding in findings]}, indent=2)
        )
        return
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, title=f"millijoule {__version__}", title_justify="left")
    for heading in ("", "what", "found", "for"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "what")
    for finding in findings:
        mark = "[green]ok[/green]" if finding.present else "[red]missing[/red]" if finding.needed else "[dim]none[/dim]"
        table.add_row(mark, finding.what, finding.found, finding.purpose)
    console.print(table)
    lacking = [finding for finding in findings if not finding.present and finding.fix]
    for finding in lacking:
        need = "needed" if finding.needed else "optional"
        console.print(f"{need}: {finding.what}: {finding.fix}", markup=False, soft_wrap=True)
    if not any(finding.needed and not finding.present for finding in findings):
        console.print("Everything the demo needs is here: millijoule demo")
