"""What a prepared data set is made of: every picture, its hash, label and split, and what was left out and why."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from millijoule.data.split import SPLITS
from millijoule.errors import DataError
from millijoule.files import atomic_write_text

__all__ = ["MANIFEST_NAME", "Manifest", "NearDuplicate", "PictureEntry", "SkippedPicture"]

MANIFEST_NAME = "manifest.json"
FORMAT = "millijoule data manifest"
VERSION = 2


@dataclass(frozen=True)
class PictureEntry:
    """One picture: its name in the source, SHA-256 of its file, class index, split, and row in the pixel cache."""

    name: str
    sha256: str
    label: int
    split: str
    row: int


@dataclass(frozen=True)
class SkippedPicture:
    """A picture that could not be used, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class NearDuplicate:
    """Two pictures that look the same but were assigned to different splits.

    `distance` is the number of differing bits of their 64-bit difference hashes; `mirrored` says that one looks like
    the mirror image of the other; `moved_to` is the split that both are in now, when they were moved, else empty.
    """

    first: str
    second: str
    first_split: str
    second_split: str
    distance: int
    mirrored: bool = False
    moved_to: str = ""


@dataclass(frozen=True)
class Manifest:
    """The record of a prepared data set, stored as `manifest.json` beside the pixel cache.

    Attributes:
        source: kind of source and its own report (matched and missing folders, for example).
        key: SHA-256 over source, resolution and options; the set is rebuilt when it changes.
        resolution: pixels per side.
        resize: how a photo became square: "stretch".
        fractions: of train, validation and test, as asked for.
        classes: class names; labels are indexes into them.
        pictures: every usable picture.
        skipped: the others.
        duplicates: groups of names with equal decoded content; a group lies in one split.
        conflicts: names of such groups whose labels differ.
        near_duplicates: pairs that look the same across splits, before any of them was moved.
        near_duplicates_within: how many more pairs look the same within one split.
        pixels: name of the pixel file beside the manifest.
    """

    source: dict[str, Any]
    key: str
    resolution: int
    fractions: tuple[float, float, float]
    classes: tuple[str, ...]
    pictures: tuple[PictureEntry, ...]
    pixels: str
    skipped: tuple[SkippedPicture, ...] = ()
    duplicates: tuple[tuple[str, ...], ...] = ()
    conflicts: tuple[tuple[str, ...], ...] = ()
    near_duplicates: tuple[NearDuplicate, ...] = ()
    near_duplicates_within: int = 0
    resize: str = "stretch"

    def counts(self) -> dict[str, dict[str, int]]:
        """Pictures per split and class."""
        table = {split: dict.fromkeys(self.classes, 0) for split in SPLITS}
        for picture in self.pictures:
            table[picture.split][self.classes[picture.label]] += 1
        return table

    def to_json(self) -> dict[str, Any]:
        """JSON values; `from_json` reads them back."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "source": self.source,
            "key": self.key,
            "resolution": self.resolution,
            "resize": self.resize,
            "fractions": dict(zip(SPLITS, self.fractions, strict=True)),
            "classes": list(self.classes),
            "balance": self.counts(),
            "pixels": self.pixels,
            "skipped": [vars(item) for item in self.skipped],
            "duplicates": [list(group) for group in self.duplicates],
            "conflicts": [list(group) for group in self.conflicts],
            "near_duplicates": [vars(pair) for pair in self.near_duplicates],
            "near_duplicates_within": self.near_duplicates_within,
            "pictures": [vars(picture) for picture in self.pictures],
        }

    @classmethod
    def from_json(cls, value: Any, name: str = "manifest") -> Manifest:
        """Reads what `to_json` wrote.

        Raises:
            DataError: the values are not a manifest of this version.
        """
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise DataError(name, "it is not a millijoule data manifest", "Run millijoule data prepare")
        if value.get("version") != VERSION:
            raise DataError(
                name, f"it has version {value.get('version')}, not {VERSION}", "Run millijoule data prepare again"
            )
        try:
            manifest = cls(
                source=value["source"],
                key=value["key"],
                resolution=int(value["resolution"]),
                resize=value["resize"],
                fractions=(
                    float(value["fractions"]["train"]),
                    float(value["fractions"]["validation"]),
                    float(value["fractions"]["test"]),
                ),
                classes=tuple(value["classes"]),
                pictures=tuple(PictureEntry(**item) for item in value["pictures"]),
                pixels=value["pixels"],
                skipped=tuple(SkippedPicture(**item) for item in value["skipped"]),
                duplicates=tuple(tuple(group) for group in value["duplicates"]),
                conflicts=tuple(tuple(group) for group in value["conflicts"]),
                near_duplicates=tuple(NearDuplicate(**item) for item in value["near_duplicates"]),
                near_duplicates_within=int(value["near_duplicates_within"]),
            )
            _check(manifest, name)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(name, f"it is damaged ({error})", "Run millijoule data prepare again") from error
        return manifest

    def write(self, path: Path) -> None:
        """Writes the manifest whole or not at all. Raises `OutputError`."""
        text = json.dumps(self.to_json(), indent=2, ensure_ascii=False)
        try:
            text.encode()
        except UnicodeEncodeError:  # a file name that is not UTF-8: escaped, it comes back as it was
            text = json.dumps(self.to_json(), indent=2)
        atomic_write_text(path, text + "\n")

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Reads a manifest file.

        Raises:
            DataError: the file is missing, damaged or foreign.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise DataError(
                str(path.parent), "there is no prepared data set in this folder", "Run millijoule data prepare first"
            ) from error
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(str(path), f"it cannot be read ({error})", "Run millijoule data prepare again") from error
        try:
            value = json.loads(text)
        except ValueError as error:
            raise DataError(
                str(path), f"it is not valid JSON ({error})", "Run millijoule data prepare again"
            ) from error
        return cls.from_json(value, str(path))


def _check(manifest: Manifest, name: str) -> None:
    rows: Sequence[int] = [picture.row for picture in manifest.pictures]
    if sorted(rows) != list(range(len(rows))):
        raise ValueError("rows of the pixel file are missing or doubled")
    if any(picture.split not in SPLITS for picture in manifest.pictures):
        raise ValueError("unknown split")
    if any(not 0 <= picture.label < len(manifest.classes) for picture in manifest.pictures):
        raise ValueError("label without a class")
    if manifest.resolution < 1 or Path(manifest.pixels).name != manifest.pixels:
        raise ValueError("resolution or name of the pixel file")
