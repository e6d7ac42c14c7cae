"""C parts of the emulation: built at first use with zig or the system's compiler, kept in the cache."""

from __future__ import annotations

import ctypes
import hashlib
import platform
import shutil
import sys
import sysconfig
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from millijoule.build._toolchain import run
from millijoule.errors import OutputError, ToolchainError
from millijoule.files import atomic_path, cache_folder

__all__ = ["native_library"]

_C = Path(__file__).resolve().parent / "c"


def native_library(name: str, sources: Sequence[str], headers: Sequence[str] = ()) -> ctypes.CDLL:
    """The shared library made of files of the folder `c`.

    Raises:
        ToolchainError: no compiler here can build it, or it cannot be loaded.
    """
    parts = [(_C / file).read_text(encoding="utf-8") for file in (*headers, *sources)]
    key = hashlib.sha256("\0".join([*parts, platform.machine(), sys.platform]).encode()).hexdigest()[:24]
    try:
        path = cache_folder("hooks") / f"{name}-{key}{'.dll' if sys.platform == 'win32' else '.so'}"
        if not path.is_file():
            _build(path, [str(_C / file) for file in sources])
        return ctypes.CDLL(str(path))
    except (OSError, OutputError) as error:
        raise ToolchainError(
            f"the C part {name}", f"it cannot be loaded ({error})", "Check the cache folder"
        ) from error


def _build(path: Path, sources: Sequence[str]) -> None:
    commands: list[list[str]] = []
    if find_spec("ziglang") is not None:
        commands.append([sys.executable, "-m", "ziglang", "cc"])
    for name in ((sysconfig.get_config_var("CC") or "cc").split()[0], "cc", "gcc", "clang"):
        if shutil.which(name):
            commands.append([name, "-fPIC"])
    reason = "no C compiler was found"
    for command in commands:
        try:
            with atomic_path(path) as temporary:
                run(
                    [*command, "-std=c11", "-O3", "-shared", "-o", str(temporary), *sources], what=Path(sources[0]).name
                )
            return
        except ToolchainError as error:
            reason = error.reason
    raise ToolchainError(
        Path(sources[0]).name,
        f"it cannot be built here ({reason})",
        "Install the extra: pip install 'millijoule[deploy]', which brings a compiler",
    )
