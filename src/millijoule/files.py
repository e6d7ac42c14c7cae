"""Writing files so that nothing half-written is ever left behind, and where caches live."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

from millijoule.errors import OutputError

__all__ = [
    "Progress",
    "atomic_path",
    "atomic_write_bytes",
    "atomic_write_json",
    "atomic_write_text",
    "cache_folder",
    "check_output",
]

Progress: TypeAlias = Callable[[str, int, int], None]
"""Reports long work: what is done, how many steps are done, how many there are."""


def _output_error(path: Path, error: OSError) -> OutputError:
    if error.errno == errno.ENOSPC:
        return OutputError(str(path), "the disk is full", "Free some space or choose another folder")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return OutputError(str(path), "the folder cannot be written", "Choose a folder you may write to")
    reason = error.strerror or str(error)
    return OutputError(str(path), f"it cannot be written ({reason})", "Choose another place for the output")


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary name beside `path`; on success it is flushed to disk and renamed to `path`.

    The folder is created when it is missing. On any error the temporary file is removed and `path` is untouched.
    Devices and pipes are refused: a renamed file would take their place (root may do that to /dev/null).

    Args:
        path: the final name.

    Raises:
        OutputError: the place cannot be written, it is no ordinary file, or the disk is full.
    """
    path = Path(path)
    temporary = _temporary(path)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        raise _output_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # it has its final name where all went well
            temporary.unlink()


def check_output(path: Path) -> None:
    """Refuses before long work what `atomic_path` would refuse after it. The folder is created when it is missing.

    Raises:
        OutputError: the place cannot be written, it is no ordinary file, or there is no room for an empty one.
    """
    if Path(path).is_dir():
        raise OutputError(str(path), "it is a folder, not a file", "Name a file in it")
    _temporary(Path(path)).unlink()


def _temporary(path: Path) -> Path:
    """An empty file beside `path`."""
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            why = "it is a device or a pipe, not an ordinary file"
            raise OutputError(str(path), why, "Choose another place for the output")
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        temporary.chmod(0o666 & ~_umask())
    except OSError as error:
        raise _output_error(path, error) from error
    return temporary


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Writes `data` to `path` whole or not at all. Raises `OutputError`."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def atomic_write_text(path: Path, text: str) -> None:
    """Writes `text` as UTF-8 to `path` whole or not at all. Raises `OutputError`."""
    atomic_write_bytes(path, text.encode("utf-8"))


NUMBERS = re.compile(r"\[\n\s+(-?[\d.eE+-]+(?:,\n\s+-?[\d.eE+-]+)*)\n\s*\]")
"""A list of numbers, one a line; no string has a line break in it."""


def atomic_write_json(path: Path, value: Any) -> None:
    """Writes `value` as JSON to `path` whole or not at all: indented, lists of numbers on one line.

    Raises:
        OutputError: the place cannot be written.
    """
    indented = json.dumps(value, indent=2, ensure_ascii=False)
    text = NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", indented)
    atomic_write_text(path, text + "\n")


def cache_folder(*parts: str) -> Path:
    """The folder for things that can be made again (native hooks, compiler cache), created on demand.

    `MILLIJOULE_CACHE` overrides the place; otherwise `XDG_CACHE_HOME` or `~/.cache`.

    Raises:
        OutputError: the folder cannot be made.
    """
    root = os.environ.get("MILLIJOULE_CACHE")
    base = Path(root) if root else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "millijoule"
    folder = base.joinpath(*parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _output_error(folder, error) from error
    return folder
