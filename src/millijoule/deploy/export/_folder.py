"""A folder that appears whole or not at all, and never in place of somebody else's."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Mapping
from pathlib import Path

from millijoule.errors import OutputError

__all__ = ["MARKER", "check_place", "write_folder"]

MARKER = "millijoule.json"
"""The file by which an exported folder is recognised; it holds the program's summary."""


def check_place(folder: Path, overwrite: bool) -> None:
    """Refuses a place that an export may not take.

    Args:
        folder: a new folder, an empty one, or an earlier export.
        overwrite: whether an earlier export may be replaced.

    Raises:
        OutputError: it is a file, holds other files, or holds an earlier export that must not be replaced.
    """
    try:
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            return
    except OSError as error:
        raise _refusal(folder, error) from error
    if not folder.is_dir():
        raise OutputError(str(folder), "it is a file", "Choose another folder")
    if not (folder / MARKER).is_file():
        raise OutputError(str(folder), "it holds other files", "Choose an empty or a new folder")
    if not overwrite:
        raise OutputError(
            str(folder),
            "there is an exported project already",
            "Allow overwriting (--overwrite), or choose another folder",
        )


def write_folder(files: Mapping[str, bytes], folder: Path) -> Path:
    """Puts a folder with these files in place of `folder`.

    It is written under a temporary name beside its place and then renamed; an earlier folder goes only when the new one
    is complete.

    Args:
        files: contents by relative path.
        folder: passed `check_place`.

    Raises:
        OutputError: the disk is full or the place cannot be written. `folder` is as it was.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
            fresh, previous = Path(temporary) / "fresh", Path(temporary) / "previous"
            for name, content in files.items():
                path = fresh / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            if folder.exists():
                folder.rename(previous)
            try:
                fresh.rename(folder)
            except OSError:
                if previous.exists():
                    previous.rename(folder)
                raise
    except OSError as error:
        raise _refusal(folder, error) from error
    return folder


def _refusal(folder: Path, error: OSError) -> OutputError:
    reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
    return OutputError(str(folder), f"it cannot be written ({reason})", "Choose another folder")
