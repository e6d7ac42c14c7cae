"""What a study measures about quantisation besides the models: sensitivity, calibration curve, changed pictures."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
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
        "pictures": how many validation pictures; "hashes": of the largest calibration set, in order; "points": for each
        size its "count", "sqnr" of the logits against the float network in dB (None: no error) and "changed"
        predictions. Sizes beyond the training split are left out.
    """
    from millijoule import execute
    from millijoule.data import calibration_set
    from millijoule.quantize import chosen_rows, static
    from millijoule.quantize.compare import real_values, sqnr

    graph, wanted = load_graph(source), sorted(set(options.analysis.calibration_curve))
    largest, hashes = calibration_set(prepared, wanted[-1], options.seed)
    counts = [count for count in wanted if count <= len(largest)] or [len(largest)]
    split = prepared.split("validation")
    shown = np.ascontiguousarray(split.pictures[chosen_rows(len(split.labels), options.analysis.pictures)])
    logits = graph.outputs[0]
    reference = execute.run(graph, shown)[logits].reshape(len(shown), -1)
    points = []
    for done, count in enumerate(counts):
        progress(f"{count} calibration pictures", done, len(counts))
        converted = static(
            graph,
            largest[:count],
            observer=options.observer,
            rounding=options.rounding,
            refine=options.static.refine,
        )
        values = real_values(converted, logits, execute.run(converted, shown)[logits]).reshape(len(shown), -1)
        changed = int((values.argmax(axis=1) != reference.argmax(axis=1)).sum())
        points.append({"count": count, "sqnr": sqnr(reference, values), "changed": changed})
    progress("calibration curve", len(counts), len(counts))
    return {"pictures": len(shown), "hashes": hashes[: counts[-1]], "points": points}


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
