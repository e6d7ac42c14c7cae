"""Where pictures come from: one small interface, and `open_source` that finds the right one by its name."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from millijoule.data.decode import decode_picture, stretch
from millijoule.data.given_split import GivenSplits
from millijoule.errors import OptionError

__all__ = ["SOURCE_KINDS", "EncodedSource", "Loaded", "Source", "open_source"]

SOURCE_KINDS = ("vmmrdb", "folder", "parquet", "toy_vehicles")


@dataclass(frozen=True)
class Loaded:
    """One picture: uint8 (R, R, 3) pixels, the SHA-256 of its file and the SHA-256 of its decoded content."""

    pixels: NDArray[np.uint8]
    sha256: str
    content: str


class Source(ABC):
    """A labelled list of pictures.

    Attributes:
        kind: one of `SOURCE_KINDS`.
        classes: class names; a label is an index into them.
        names: one name per picture, unique within the source.
        labels: one label per picture.
        report: what was matched, missing or ambiguous, as JSON values; recorded in the manifest.
        given: splits that the source brings along, None if it has none.
    """

    kind: str
    classes: tuple[str, ...]
    names: Sequence[str]
    labels: Sequence[int]
    report: dict[str, Any]
    given: GivenSplits | None = None

    @abstractmethod
    def fingerprint(self) -> str:
        """A SHA-256 that changes when the pictures or their labels may have changed."""

    @abstractmethod
    def load(self, index: int, resolution: int) -> Loaded:
        """One picture, stretched to the resolution; called from several threads.

        Raises:
            PictureError: this picture cannot be used.
        """


class EncodedSource(Source):
    """A source of picture files."""

    @abstractmethod
    def read(self, index: int) -> bytes:
        """The bytes of one picture file."""

    def load(self, index: int, resolution: int) -> Loaded:
        """Reads, decodes and stretches one picture."""
        data = self.read(index)
        picture = decode_picture(data, self.names[index])
        content = hashlib.sha256(repr(picture.shape).encode())
        content.update(np.ascontiguousarray(picture).data)
        return Loaded(stretch(picture, resolution), hashlib.sha256(data).hexdigest(), content.hexdigest())


def open_source(
    kind: str,
    *,
    root: Path | None = None,
    subset: str | None = None,
    image: str = "image",
    label: str = "label",
    classes: Sequence[str] | None = None,
    split: str | None = None,
    per_class: int = 300,
    seed: int = 0,
) -> Source:
    """Opens a source of pictures without reading any picture yet.

    Args:
        kind: "vmmrdb", "folder", "parquet" or "toy_vehicles".
        root: the folder or the parquet file; not for toy_vehicles.
        subset: vmmrdb: "msv", the ten Most Stolen Vehicles; parquet: "column=value", only those rows.
        image: parquet: the column with the bytes of the picture files.
        label: parquet: the column with the class, text or integer.
        classes: parquet with integer labels: the class names in order.
        split: parquet: the column with the split, train, validation or test.
        per_class: toy_vehicles: pictures per class.
        seed: toy_vehicles: another seed renders another set.

    Returns:
        The source.

    Raises:
        DataError: the root is missing, empty or not what the kind needs.
        OptionError: unknown kind or option.
    """
    if kind in ("folder", "toy_vehicles") and subset is not None:
        raise OptionError(f"subset {subset!r}", f"the source {kind} has no subsets", "Leave the subset out")
    if kind != "parquet" and split is not None:
        raise OptionError(
            f"split column {split!r}", f"the source {kind} has no columns", "Give a file of splits instead"
        )
    if kind == "toy_vehicles":
        if root is not None:
            raise OptionError(f"root {root}", "toy_vehicles are rendered, not read", "Leave the root out")
        from millijoule.data._toy_source import ToyVehicles

        return ToyVehicles(per_class=per_class, seed=seed)
    if kind not in SOURCE_KINDS:
        raise OptionError(
            f"source {kind!r}", "there is no such kind of source", f"Use one of {', '.join(SOURCE_KINDS)}"
        )
    if root is None:
        raise OptionError(f"source {kind}", "it needs a root", "Give --root the folder or file that holds the pictures")
    root = Path(root)
    if kind == "folder":
        from millijoule.data._folder import FolderSource

        return FolderSource(root)
    if kind == "parquet":
        from millijoule.data._parquet import ParquetSource

        return ParquetSource(root, image=image, label=label, classes=classes, subset=subset, split=split)
    from millijoule.data._vmmrdb import VmmrdbSource

    return VmmrdbSource(root, subset=subset or "msv")
