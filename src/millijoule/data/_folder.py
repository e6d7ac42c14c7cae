"""A folder with one folder per class."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from millijoule.data.decode import PictureError
from millijoule.data.sources import EncodedSource
from millijoule.errors import DataError

__all__ = ["FileSource", "FolderSource", "PictureFile", "list_folders", "list_pictures"]

SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


@dataclass(frozen=True)
class PictureFile:
    """A picture file: its name below the root with forward slashes, bytes, and time of change in nanoseconds."""

    name: str
    size: int
    changed: int


def list_folders(root: Path) -> list[str]:
    """The names of the folders in `root`, sorted, from one listing that opens none of them.

    Raises:
        DataError: `root` is missing, is not a folder, or cannot be read.
    """
    if not root.exists():
        raise DataError(str(root), "there is no such folder", "Check the path given as root")
    if not root.is_dir():
        raise DataError(str(root), "it is a file, not a folder", "Give the folder that holds one folder per class")
    try:
        with os.scandir(root) as entries:
            return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(str(root), f"it cannot be listed ({reason})", "Check the rights of the folder") from error


def list_pictures(root: Path, folder: str) -> list[PictureFile]:
    """The picture files below one class folder, sorted by name, folders within it included.

    Raises:
        DataError: a folder cannot be read.
    """
    found: list[PictureFile] = []
    waiting = [folder]
    while waiting:
        current = waiting.pop()
        try:
            with os.scandir(root / current) as entries:
                for entry in entries:
                    name = f"{current}/{entry.name}"
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(name)
                    elif Path(entry.name).suffix.lower() in SUFFIXES and entry.is_file():
                        status = entry.stat()
                        found.append(PictureFile(name, status.st_size, status.st_mtime_ns))
        except OSError as error:
            reason = error.strerror or str(error)
            raise DataError(str(root / current), f"it cannot be listed ({reason})", "Check its rights") from error
    return sorted(found, key=lambda file: file.name)


class FileSource(EncodedSource):
    """Picture files below one root."""

    def __init__(self, root: Path, classes: Sequence[str], files: Iterable[tuple[int, PictureFile]]) -> None:
        self.root = root
        self.classes = tuple(classes)
        listed = list(files)
        self.labels = [label for label, _ in listed]
        self.names = [file.name for _, file in listed]
        self._files = [file for _, file in listed]

    def fingerprint(self) -> str:
        """The hash of classes, labels, file names, sizes and times of change."""
        digest = hashlib.sha256(f"{self.kind} {self.classes}".encode("utf-8", "surrogateescape"))
        for label, file in zip(self.labels, self._files, strict=True):
            digest.update(f"\n{label} {file.size} {file.changed} {file.name}".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def read(self, index: int) -> bytes:
        """The bytes of one file."""
        try:
            return (self.root / self.names[index]).read_bytes()
        except OSError as error:
            raise PictureError(self.names[index], f"it cannot be read ({error.strerror or error})") from error


class FolderSource(FileSource):
    """One folder per class, named after the class, in alphabetical order.

    Raises:
        DataError: the root is missing, or holds no folder with a picture.
    """

    kind = "folder"

    def __init__(self, root: Path) -> None:
        folders = list_folders(root)
        pictures = {folder: list_pictures(root, folder) for folder in folders}
        classes = [folder for folder in folders if pictures[folder]]
        if not classes:
            raise DataError(
                str(root),
                "it holds no folder with pictures",
                "Put the pictures of each class into a folder named after it",
            )
        files = [(label, file) for label, name in enumerate(classes) for file in pictures[name]]
        super().__init__(root, classes, files)
        self.report = {"empty_folders": [folder for folder in folders if not pictures[folder]]}
