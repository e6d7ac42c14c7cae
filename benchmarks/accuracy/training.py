"""What rows that train get: photographs of `qat.py`'s row `qat-8-labels`, augmented and in their order, and its rates.

Another tool's environment has neither this project's augmentation nor its order of photographs, so both are written
down for it: `pictures.npy` holds what the project's own training loop would see, batch after batch.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from held_back import HeldBack
from qat import FINE_TUNING

from millijoule import data
from millijoule.data import batches, open_prepared
from millijoule.errors import DataError
from millijoule.files import atomic_path

HOLD_BACK = 25
PICTURES = 1296
ADAM_EPSILON = 1e-7
"""Of `millijoule.train`, which has Keras's."""


@dataclass(frozen=True)
class Training:
    """Photographs to train on.

    Attributes:
        folder: holds `pictures.npy`, uint8 (N, H, W, 3), and `labels.npy`, int64 (N,).
        digest: of everything that decides them.
        rates: the learning rate of each step; N / batch_size of them.
        batch_size: photographs in a step.
    """

    folder: Path
    digest: str
    rates: tuple[float, ...]
    batch_size: int

    def to_json(self) -> dict[str, Any]:
        """What a worker gets."""
        return {
            "pictures": str(self.folder / "pictures.npy"),
            "labels": str(self.folder / "labels.npy"),
            "rates": self.rates,
            "batch_size": self.batch_size,
            "adam_epsilon": ADAM_EPSILON,
        }


def make_training(folder: Path, cache: Path, *, reference: bool) -> Training:
    """Augments the training photographs of a prepared set, unless that is done.

    Args:
        folder: the prepared set.
        cache: where they are kept (200 MB).
        reference: whether it must be the reference network's own split.

    Raises:
        DataError: fewer photographs than a batch.
    """
    prepared = open_prepared(folder)
    split = HeldBack(prepared, HOLD_BACK, PICTURES, reference=reference).split("train")
    options = FINE_TUNING
    steps = len(split) // options.batch_size
    if not steps:
        raise DataError(str(folder), f"{len(split)} photographs to train on", f"Give {options.batch_size} or more")
    digest = hashlib.sha256(json.dumps(options.to_dict(), sort_keys=True).encode())
    digest.update("\n".join(prepared.split("train").hashes[row] for row in split.rows).encode())
    digest.update(np.ascontiguousarray(split.labels).data)
    digest.update(str(prepared.resolution).encode())
    for file in ("augmentation.py", "batches.py"):
        digest.update((Path(data.__file__).parent / file).read_bytes())
    name = digest.hexdigest()[:16]
    place = cache / "training" / name
    if not (place / "labels.npy").exists():
        place.mkdir(parents=True, exist_ok=True)
        how: dict[str, Any] = {"augmentation": options.augmentation, "seed": options.seed, "drop_last": True}
        made = list(batches(split, options.batch_size, **how))  # type: ignore[arg-type]
        for column, file in enumerate(("pictures.npy", "labels.npy")):
            with atomic_path(place / file) as temporary, temporary.open("wb") as stream:
                np.save(stream, np.concatenate([batch[column] for batch in made]))
    rates = tuple(options.rate((step + 1) / steps) for step in range(steps))
    return Training(place, name, rates, options.batch_size)
