"""Splits that somebody else made: official test sets, or those of an earlier experiment, from a file or column."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from millijoule.data.split import SPLITS, split_pictures
from millijoule.errors import DataError

__all__ = ["GivenSplits", "given_splits", "read_splits", "split_name"]

SYNONYMS = {
    **{name: name for name in SPLITS},
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "dev": "validation",
    "testing": "test",
}


@dataclass(frozen=True)
class GivenSplits:
    """The split of every picture by its name in the source.

    Attributes:
        splits: "train", "validation" or "test" per name; a picture that is not named is not used.
        origin: the file or column they come from, for the manifest and for errors.
    """

    splits: Mapping[str, str]
    origin: str

    def fingerprint(self) -> str:
        """The hash of names and splits, not of where they come from."""
        return hashlib.sha256(json.dumps(sorted(self.splits.items())).encode()).hexdigest()

    def named(self, names: Sequence[str]) -> list[int]:
        """Indexes of the pictures that are named.

        Raises:
            DataError: none is.
        """
        chosen = [index for index, name in enumerate(names) if name in self.splits]
        if not chosen:
            example = f", {names[0]!r} for example" if names else ""
            raise DataError(
                self.origin,
                f"it names none of the {len(names)} pictures{example}",
                "Use the names that the source has",
            )
        return chosen


def split_name(value: Any, origin: str) -> str:
    """The split that a text names: train, validation (val, valid, dev) or test.

    Raises:
        DataError: it names none.
    """
    name = SYNONYMS.get(str(value).strip().lower())
    if name is None:
        raise DataError(origin, f"{value!r} is not the name of a split", f"Use {', '.join(SPLITS)}")
    return name


def read_splits(path: Path) -> GivenSplits:
    """Reads a split file: a JSON object of split names with lists of picture names, or CSV lines `name,split`.

    Picture names are those of the source: paths below the root, or the column `file` of a parquet file.

    Raises:
        DataError: the file is missing, not of that form, or names a picture twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(str(path), f"it cannot be read ({error})", "Give a JSON or CSV file of splits") from error
    pairs: list[tuple[str, str]] = []
    if text.lstrip().startswith("{"):
        try:
            value = json.loads(text)
        except ValueError as error:
            raise DataError(str(path), f"it is not valid JSON ({error})", "Write it again") from error
        for split, names in value.items():
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise DataError(
                    str(path), f"{split!r} is not a list of names", 'Write for example {"test": ["a.jpg"], ...}'
                )
            pairs += [(name, split_name(split, str(path))) for name in names]
    else:
        for number, row in enumerate(csv.reader(io.StringIO(text)), start=1):
            if not row or (number == 1 and [cell.strip().lower() for cell in row] == ["name", "split"]):
                continue
            if len(row) != 2:
                raise DataError(str(path), f"line {number} is not `name,split`", "Write a name and a split per line")
            pairs.append((row[0], split_name(row[1], f"{path}, line {number}")))
    if not pairs:
        raise DataError(str(path), "it names no picture", 'Write for example {"test": ["a.jpg"], ...}')
    twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    if twice:
        raise DataError(str(path), f"it names {twice[0]!r} more than once", "Name every picture once")
    return GivenSplits(dict(pairs), path.name)


def given_splits(
    given: GivenSplits,
    names: Sequence[str],
    labels: Sequence[int],
    keys: Sequence[str],
    contents: Sequence[str],
    classes: Sequence[str],
    fractions: tuple[float, float, float],
) -> tuple[list[str], dict[str, Any]]:
    """The split of every picture.

    Where the given splits have no validation, it is taken from their training pictures, stratified and by content as
    in `split_pictures`; test pictures are never touched.

    Args:
        given: the splits by name.
        names: name of each picture, all of them named by `given`.
        labels: class index of each picture.
        keys: SHA-256 of each picture file.
        contents: SHA-256 of each decoded picture.
        classes: class names.
        fractions: of train, validation and test; only validation's share beside train's is used.

    Returns:
        The splits and what the manifest records: origin, whether validation was drawn, classes without training
        pictures, and how many groups of equal pictures lie in several splits.

    Raises:
        DataError: no train or no test picture is named.
    """
    result = [given.splits[name] for name in names]
    for split in ("train", "test"):
        if split not in result:
            raise DataError(given.origin, f"no picture of the source is in {split}", "Name some")
    drawn = "validation" not in result
    if drawn:
        _draw_validation(result, labels, keys, contents, classes, fractions, given.origin)
    trained = {label for label, split in zip(labels, result, strict=True) if split == "train"}
    across: dict[str, set[str]] = {}
    for content, split in zip(contents, result, strict=True):
        across.setdefault(content, set()).add(split)
    return result, {
        "origin": given.origin,
        "validation_drawn_from_train": drawn,
        "classes_without_training_pictures": [name for label, name in enumerate(classes) if label not in trained],
        "equal_pictures_across_splits": sum(len(splits) > 1 for splits in across.values()),
    }


def _draw_validation(
    result: list[str],
    labels: Sequence[int],
    keys: Sequence[str],
    contents: Sequence[str],
    classes: Sequence[str],
    fractions: tuple[float, float, float],
    origin: str,
) -> None:
    if fractions[1] <= 0:
        raise DataError(origin, "it has no validation split", "Name some pictures, or give validation a share")
    rows = [row for row, split in enumerate(result) if split == "train"]
    share = fractions[1] / (fractions[0] + fractions[1])
    present = sorted({labels[row] for row in rows})
    drawn = split_pictures(
        [present.index(labels[row]) for row in rows],
        [keys[row] for row in rows],
        [contents[row] for row in rows],
        [classes[label] for label in present],
        (1 - share, share, 0.0),
    )
    for row, split in zip(rows, drawn, strict=True):
        result[row] = split
