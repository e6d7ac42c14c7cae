"""A prepared data set: decoded pictures in one memory-mapped file, with their manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from millijoule.data.manifest import MANIFEST_NAME, Manifest
from millijoule.data.split import SPLITS
from millijoule.errors import DataError, OptionError

__all__ = ["Pictures", "PreparedSet", "Split", "calibration_set", "open_prepared"]

PictureArray: TypeAlias = NDArray[np.uint8]


class Pictures:
    """Chosen rows of the pixel file, read when indexed.

    Indexing with a slice, an integer array or a list gives uint8 (N, R, R, 3); with one integer uint8 (R, R, 3).
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, pixels: PictureArray, rows: NDArray[np.int64]) -> None:
        self._pixels, self._rows = pixels, rows

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, R, R, 3)."""
        side = int(self._pixels.shape[1])
        return len(self._rows), side, side, 3

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> PictureArray:
        return np.asarray(self._pixels[self._rows[index]])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self._pixels[self._rows], dtype=dtype)


class Split:
    """The pictures of train, validation or test.

    Attributes:
        name: which of the three.
        pictures: `Pictures`, uint8 (N, R, R, 3).
        labels: int64 (N,).
        hashes: SHA-256 of each picture file.
        names: name of each picture in its source.
    """

    def __init__(self, name: str, manifest: Manifest, pixels: PictureArray) -> None:
        chosen = [picture for picture in manifest.pictures if picture.split == name]
        self.name = name
        self.classes = manifest.classes
        self.labels: NDArray[np.int64] = np.array([picture.label for picture in chosen], np.int64)
        self.hashes = [picture.sha256 for picture in chosen]
        self.names = [picture.name for picture in chosen]
        self.pictures = Pictures(pixels, np.array([picture.row for picture in chosen], np.int64))

    def __len__(self) -> int:
        return len(self.labels)


class PreparedSet:
    """A prepared data set in a folder; see `prepare` and `open_prepared`."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = Path(folder)
        self.manifest = manifest
        self.classes = manifest.classes
        self.resolution = manifest.resolution
        self._pixels = _map_pixels(self.folder / manifest.pixels, len(manifest.pictures), manifest.resolution)
        self._splits: dict[str, Split] = {}

    def split(self, name: str) -> Split:
        """The split "train", "validation" or "test". Raises `OptionError` for another name."""
        if name not in SPLITS:
            raise OptionError(f"split {name!r}", "there is no such split", f"Use one of {', '.join(SPLITS)}")
        if name not in self._splits:
            self._splits[name] = Split(name, self.manifest, self._pixels)
        return self._splits[name]


def _map_pixels(path: Path, count: int, resolution: int) -> PictureArray:
    shape = (count, resolution, resolution, 3)
    fix = "Run millijoule data prepare again"
    try:
        size = path.stat().st_size
        if size != count * resolution * resolution * 3:
            raise DataError(str(path), f"it has {size} bytes, not those of {count} pictures", fix)
        if count == 0:
            raise DataError(str(path), "it holds no picture", fix)
        return np.memmap(path, np.uint8, "r", shape=shape)
    except OSError as error:
        raise DataError(str(path), f"the pixel file cannot be read ({error.strerror or error})", fix) from error


def open_prepared(folder: Path) -> PreparedSet:
    """Opens a folder that `prepare` made.

    Raises:
        DataError: there is no prepared set, or it is damaged.
    """
    return PreparedSet(Path(folder), Manifest.read(Path(folder) / MANIFEST_NAME))


def calibration_set(prepared: PreparedSet, count: int = 200, seed: int = 0) -> tuple[PictureArray, list[str]]:
    """Pictures of the train split to choose activation ranges with, as many of each class as possible.

    Args:
        prepared: the data set.
        count: how many pictures; when the train split has fewer, all of them.
        seed: another seed chooses others.

    Returns:
        uint8 (N, R, R, 3) pictures and their file hashes, classes taking turns.

    Raises:
        OptionError: `count` is below 1.
    """
    if count < 1:
        raise OptionError(f"calibration set of {count}", "it needs at least one picture", "Use 50 to 500 pictures")
    train = prepared.split("train")
    random = np.random.default_rng([seed, 0x63616C])
    queues = [random.permutation(np.flatnonzero(train.labels == label)) for label in range(len(prepared.classes))]
    order = [
        int(queue[turn]) for turn in range(max(map(len, queues), default=0)) for queue in queues if turn < len(queue)
    ]
    chosen = order[:count]
    return train.pictures[chosen], [train.hashes[index] for index in chosen]
