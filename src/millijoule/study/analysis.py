"""What a study measures about quantisation besides the models: sensitivity, calibration curve, changed pictures."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from millijoule.errors import DataError
from millijoule.files import Progress
from millijoule.graph import load_graph
from millijoule.study.options import StudyOptions
from millijoule.study.results import AnalysisFacts, CurvePointFacts, GalleryPicture

if TYPE_CHECKING:
    from millijoule.data import PreparedSet

__all__ = ["analysis_facts", "gallery", "measure_curve", "measure_sensitivity"]

THUMBNAIL = 96
"""Most pixels of a thumbnail's side."""
JPEG_QUALITY = 80
GALLERY_LIMIT = 60
"""Most pictures in the gallery; each is about 3 KB in the page."""


def measure_sensitivity(
    source: Path, prepared: PreparedSet, options: StudyOptions, progress: Progress
) -> dict[str, Any]:
    """`millijoule.quantize.sensitivity` with the study's calibration pictures, as plain values."""
    from millijoule.data import calibration_set
    from millijoule.quantize import sensitivity

    pictures, _ = calibration_set(prepared, options.calibration, options.seed)
    found = sensitivity(load_graph(source), pictures, observer=options.observer, progress=progress)
    return found.to_json()


def measure_curve(source: Path, prepared: PreparedSet, options: StudyOptions, progress: Progress) -> dict[str, Any]:
    """Static quantisation with more and more calibration pictures, measured on validation pictures.

    The sets are nested: each is the beginning of the next one.

    Returns:
        "pictures": how many validation pictures; "hashes": of the largest calibration set, in order; "points": those of
        `millijoule.quantize.calibration_curve`. Sizes beyond the training split are left out.
    """
    from millijoule.data import calibration_set
    from millijoule.quantize import calibration_curve, chosen_rows

    largest, hashes = calibration_set(prepared, max(options.analysis.calibration_curve), options.seed)
    split = prepared.split("validation")
    shown = np.ascontiguousarray(split.pictures[chosen_rows(len(split.labels), options.analysis.pictures)])
    points = calibration_curve(
        load_graph(source),
        largest,
        shown,
        options.analysis.calibration_curve,
        observer=options.observer,
        rounding=options.rounding,
        refine=options.static.refine,
        progress=progress,
    )
    return {"pictures": len(shown), "hashes": hashes[: points[-1].count], "points": [asdict(point) for point in points]}


def analysis_facts(
    sensitivity: Mapping[str, Any] | None, curve: Mapping[str, Any] | None, mixed: Mapping[str, Any] | None
) -> AnalysisFacts:
    """The results of the stages as the report holds them; None where a stage did not run."""
    return AnalysisFacts(
        sensitivity=None if sensitivity is None else dict(sensitivity),
        curve=() if curve is None else tuple(CurvePointFacts(**point) for point in curve["points"]),
        curve_pictures=0 if curve is None else int(curve["pictures"]),
        calibration_hashes=() if curve is None else tuple(curve["hashes"]),
        mixed=None if mixed is None else dict(mixed),
    )


def gallery(
    changes: Sequence[Mapping[str, Any]], prepared: PreparedSet, limit: int = GALLERY_LIMIT
) -> tuple[GalleryPicture, ...]:
    """Thumbnails of the test pictures that some model answers otherwise than the float one.

    When there are more than `limit`, the models take turns, each with the first of its pictures that is not chosen yet.

    Raises:
        DataError: a picture cannot be encoded.
    """
    split = prepared.split("test")
    pictures = []
    for change in _turns(changes, limit):
        row = int(change["row"])
        side, jpeg = _thumbnail(split.pictures[row])
        pictures.append(
            GalleryPicture(
                row=row,
                sha256=split.hashes[row],
                label=int(change["label"]),
                reference=int(change["reference"]),
                models={name: int(answer) for name, answer in change["models"].items()},
                side=side,
                jpeg=jpeg,
            )
        )
    return tuple(pictures)


def _turns(changes: Sequence[Mapping[str, Any]], limit: int) -> list[Mapping[str, Any]]:
    """At most `limit` of the changes, every model having its share, in their order."""
    queues = {
        name: [i for i, item in enumerate(changes) if name in item["models"]]
        for item in changes
        for name in item["models"]
    }
    chosen: set[int] = set()
    while len(chosen) < min(limit, len(changes)):
        for queue in queues.values():
            index = next((index for index in queue if index not in chosen), None)
            if index is not None and len(chosen) < limit:
                chosen.add(index)
    return [changes[index] for index in sorted(chosen)]


def _thumbnail(picture: Any) -> tuple[int, str]:
    """Side in pixels and JPEG in base64 of a uint8 (R, R, 3) RGB picture."""
    import cv2

    side = min(THUMBNAIL, picture.shape[0])
    small = picture if side == picture.shape[0] else cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(".jpg", small[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise DataError(
            "a thumbnail", "it cannot be encoded as JPEG", "Install opencv with JPEG, or leave out --gallery"
        )
    return side, base64.b64encode(data.tobytes()).decode("ascii")
