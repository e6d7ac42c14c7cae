"""Training photographs as a data set of their own, so that whatever trains never sees those that are measured on."""

from __future__ import annotations

import hashlib
from typing import Any

import baseline
import numpy as np
import numpy.typing as npt

from millijoule.data import PreparedSet


class Rows:
    """Some of a split's photographs."""

    def __init__(self, split: Any, rows: npt.NDArray[np.int64]) -> None:
        self.split, self.rows = split, rows
        self.labels, self.pictures = split.labels[rows], self
        self.shape = (len(rows), *split.pictures.shape[1:])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> npt.NDArray[np.uint8]:
        return np.asarray(self.split.pictures[self.rows[index]])


class HeldBack:
    """The training photographs as a data set of their own: one in `every` validates, the others train.

    They must be the reference network's own unless `reference` is False.
    """

    def __init__(self, prepared: PreparedSet, every: int, keep: int | None = None, *, reference: bool = True) -> None:
        split = prepared.split("train")
        digest = [hashlib.sha256(name.encode()).hexdigest() for name in split.names]
        order = np.array(sorted(range(len(split)), key=digest.__getitem__))
        check = hashlib.sha256("\n".join(split.names[row] for row in order).encode()).hexdigest()[:16]
        if reference and check != baseline.SPLIT_CHECKS["train"]:
            raise SystemExit(f"{prepared.folder}: its training photographs are not the reference's ({check})")
        held = np.arange(len(order)) % every == every - 1
        self.splits = {"train": Rows(split, order[~held][:keep]), "validation": Rows(split, order[held])}
        self.classes, self.resolution = prepared.classes, prepared.resolution

    def split(self, name: str) -> Rows:
        return self.splits[name]
