"""C parts of the emulation: built at first use with zig or the system's compiler, kept in the cache, and hooked in."""

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
from typing import Any

from millijoule.build._toolchain import run, zig_command
from millijoule.errors import EmulationError, OutputError, ToolchainError
from millijoule.files import atomic_path, cache_folder

__all__ = ["add_hook", "native_library", "remove_hook"]

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
        commands.append([*zig_command()])
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


def add_hook(
    emulator: Any, kind: int, function: Any, context: ctypes.Structure, fix: str, *, first: int = 1, last: int = 0
) -> ctypes.c_size_t:
    """Has the emulator library call a function of a C part, through the library's own C interface.

    Args:
        emulator: the emulator library's machine.
        kind: one of the library's UC_HOOK constants.
        function: of a `native_library`.
        context: its state; the caller keeps it alive.
        fix: what to do when the library refuses.
        first: lowest address that is hooked.
        last: highest address; below `first` for all.

    Returns:
        The handle for `remove_hook`, which the caller keeps alive.

    Raises:
        EmulationError: the library refused the hook.
    """
    from unicorn.unicorn_py3.unicorn import uclib

    handle = ctypes.c_size_t()
    status = uclib.uc_hook_add(
        emulator._uch,
        ctypes.byref(handle),
        kind,
        ctypes.cast(function, ctypes.c_void_p),
        ctypes.byref(context),
        ctypes.c_uint64(first),
        ctypes.c_uint64(last),
    )
    if status != 0:
        raise EmulationError(f"the hook {function.__name__}", f"the emulator refused it (status {status})", fix)
    return handle


def remove_hook(emulator: Any, handle: ctypes.c_size_t) -> None:
    """Undoes `add_hook`; code that was translated with the hook has to be forgotten (`Machine.translate_again`)."""
    from unicorn.unicorn_py3.unicorn import uclib

    uclib.uc_hook_del(emulator._uch, handle)
