"""Compilers: finding them, running them, saying clearly what went wrong."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from millijoule.errors import OptionError, ToolchainError
from millijoule.files import cache_folder

__all__ = ["Compiler", "cross_compiler", "run"]


@dataclass(frozen=True)
class Compiler:
    """A C compiler: its name, its version line, and the words that start every command."""

    name: str
    version: str
    command: tuple[str, ...]


def zig_command() -> tuple[str, ...]:
    """The words that run zig's C compiler. Raises `ToolchainError` when the package is missing."""
    found = importlib.util.find_spec("ziglang")
    if found is None:
        raise ToolchainError(
            "zig", "the package ziglang is not installed", "Install the extra: pip install 'millijoule[deploy]'"
        )
    # its program itself where it is: a Python that starts it takes longer than a small file does to compile
    for folder in found.submodule_search_locations or ():
        program = Path(folder) / ("zig.exe" if sys.platform == "win32" else "zig")
        if program.is_file() and os.access(program, os.X_OK):
            return (str(program), "cc")
    return (sys.executable, "-m", "ziglang", "cc")


@functools.lru_cache(maxsize=4)
def cross_compiler(name: str) -> Compiler:
    """The cross-compiler called "zig" or "gcc".

    Raises:
        OptionError: another name.
        ToolchainError: it is not installed.
    """
    if name == "zig":
        command = zig_command()
        version = run([*command[:-1], "version"], what="zig").strip()
        return Compiler("zig", f"zig {version}", command)
    if name == "gcc":
        path = shutil.which("arm-none-eabi-gcc")
        if path is None:
            raise ToolchainError(
                "arm-none-eabi-gcc", "it is not on the PATH", "Install it (Debian: gcc-arm-none-eabi), or use zig"
            )
        version = run([path, "-dumpfullversion"], what="arm-none-eabi-gcc").strip()
        return Compiler("gcc", f"arm-none-eabi-gcc {version}", (path,))
    raise OptionError(f"compiler {name!r}", "there is no compiler of that name", "Choose zig or gcc")


def run(command: Sequence[str], *, what: str, folder: Path | None = None) -> str:
    """Runs a tool and returns its standard output.

    Raises:
        ToolchainError: it cannot be started, hangs, or fails; the first error lines are in the message.
    """
    environment = dict(os.environ)
    # zig keeps its compiled run-time library in a cache; without HOME it would refuse to work.
    environment.setdefault("ZIG_GLOBAL_CACHE_DIR", str(cache_folder("zig")))
    environment.setdefault("ZIG_LOCAL_CACHE_DIR", str(cache_folder("zig")))
    try:
        done = subprocess.run(
            list(command), cwd=folder, env=environment, capture_output=True, text=True, errors="replace", timeout=600
        )
    except OSError as error:
        raise ToolchainError(what, f"the compiler cannot be started ({error.strerror})", "Install it again") from error
    except subprocess.TimeoutExpired as error:
        raise ToolchainError(what, "the compiler did not end within 600 s", "Try again on an idle machine") from error
    if done.returncode != 0:
        raise ToolchainError(what, first_errors(done.stderr), "Correct the source, or report it if it was generated")
    return done.stdout


def first_errors(text: str, *, count: int = 3) -> str:
    """The first error lines of a compiler's output, as one line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"\berror\b|undefined|overflow|will not fit", line, re.IGNORECASE)]
    chosen = (errors or lines)[:count]
    return "; ".join(chosen).rstrip(".") or "it failed without a message"
