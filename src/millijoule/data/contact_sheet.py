"""A contact sheet: some pictures of every class in one image, to look at what the network will see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from millijoule.data.decode import import_cv2
from millijoule.data.prepared import Split
from millijoule.errors import DataError, OptionError
from millijoule.files import atomic_write_bytes

__all__ = ["contact_sheet", "write_contact_sheet"]

_MARGIN = 4
_TEXT_HEIGHT = 18


def contact_sheet(split: Split, per_class: int = 8, seed: int = 0) -> NDArray[np.uint8]:
    """One row of random pictures per class under its name.

    Args:
        split: where the pictures are taken from.
        per_class: pictures per row; shorter rows where a class has fewer.
        seed: another seed takes others.

    Returns:
        uint8 (height, width, 3) RGB.

    Raises:
        DataError: the split is empty.
        OptionError: `per_class` is not 1 to 100.
    """
    if not 1 <= per_class <= 100:
        raise OptionError(f"{per_class} pictures per class", "a sheet shows 1 to 100", "Choose another number")
    if not len(split):
        raise DataError(f"split {split.name}", "it holds no picture", "Look at another split")
    cv2: Any = import_cv2()
    side = split.pictures.shape[1]
    random = np.random.default_rng(seed)
    cell, row_height = side + _MARGIN, side + _TEXT_HEIGHT + _MARGIN
    height, width = len(split.classes) * row_height + _MARGIN, per_class * cell + _MARGIN
    sheet = np.full((height, width, 3), 255, np.uint8)
    for label, name in enumerate(split.classes):
        members = random.permutation(np.flatnonzero(split.labels == label))
        top = label * row_height + _MARGIN
        title = f"{name} ({len(members)})".encode("ascii", "replace").decode()
        cv2.putText(sheet, title, (_MARGIN, top + 13), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
        for column, index in enumerate(members[:per_class]):
            left = column * cell + _MARGIN
            sheet[top + _TEXT_HEIGHT : top + _TEXT_HEIGHT + side, left : left + side] = split.pictures[int(index)]
    return sheet


def write_contact_sheet(split: Split, path: Path, per_class: int = 8, seed: int = 0) -> None:
    """Writes `contact_sheet` as a PNG or JPEG file, whole or not at all.

    Raises:
        DataError: the split is empty.
        OptionError: another kind of file.
        OutputError: the place cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise OptionError(str(path), "a contact sheet is written as .png or .jpg", "Choose such a name")
    cv2: Any = import_cv2()
    _, data = cv2.imencode(path.suffix.lower(), contact_sheet(split, per_class, seed)[:, :, ::-1])
    atomic_write_bytes(path, data.tobytes())
