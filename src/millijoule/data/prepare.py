"""Builds a prepared data set: decode once with several threads, split by content, write pixels and manifest."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from millijoule.data.decode import PictureError
from millijoule.data.manifest import MANIFEST_NAME, Manifest, PictureEntry, SkippedPicture
from millijoule.data.prepared import PreparedSet, open_prepared
from millijoule.data.sources import Loaded, Source
from millijoule.data.split import check_fractions, split_pictures
from millijoule.errors import DataError, MillijouleError, OptionError
from millijoule.files import Progress, atomic_path

__all__ = ["prepare"]

PREPARE_VERSION = 1  # changes whenever the same source gives other pixels or another split


def _key(source: Source, resolution: int, fractions: tuple[float, float, float], move_near_duplicates: bool) -> str:
    parts = [PREPARE_VERSION, source.kind, source.fingerprint(), resolution, fractions, move_near_duplicates]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _load_all(source: Source, resolution: int) -> Iterator[tuple[int, Loaded | PictureError]]:
    """All pictures in order, decoded by worker threads a little ahead of the reader."""

    def load(index: int) -> Loaded | PictureError:
        try:
            return source.load(index, resolution)
        except PictureError as error:
            return error

    workers = min(16, os.cpu_count() or 1)
    waiting: deque[tuple[int, Future[Loaded | PictureError]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        try:
            for index in range(len(source.names)):
                waiting.append((index, pool.submit(load, index)))
                if len(waiting) >= 4 * workers:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


def prepare(
    source: Source,
    folder: Path,
    *,
    resolution: int,
    split: Sequence[float] = (0.7, 0.2, 0.1),
    move_near_duplicates: bool = False,
    progress: Progress | None = None,
) -> PreparedSet:
    """Decodes every picture of a source once, splits them by content, and stores pixels and manifest in a folder.

    When the folder already holds the same source at the same resolution with the same options, it is opened as it is.
    Otherwise it is built beside the old one, which stays valid until the new manifest is written.

    Args:
        source: the pictures; see `open_source`.
        folder: where `manifest.json` and the pixel file go; made when missing.
        resolution: pixels per side, 16 to 1024; the whole photo is stretched to this square.
        split: fractions of train, validation and test.
        move_near_duplicates: put pictures that look the same into one split.
        progress: called as (what, done, total).

    Returns:
        The prepared set.

    Raises:
        DataError: no usable picture, or a class with fewer pictures than the splits need.
        OptionError: a resolution or split out of range.
        OutputError: the folder cannot be written, or the disk is full.
    """
    folder = Path(folder)
    fractions = check_fractions(split)
    if not 16 <= resolution <= 1024:
        raise OptionError(
            f"resolution {resolution}", "pictures of 16 to 1024 pixels a side are used", "Choose one of those"
        )
    key = _key(source, resolution, fractions, move_near_duplicates)
    with contextlib.suppress(MillijouleError):
        present = open_prepared(folder)
        if present.manifest.key == key:
            return present

    pixels_name = f"pixels_{resolution}_{key[:16]}.uint8"
    total = len(source.names)
    kept: list[tuple[int, Loaded]] = []
    skipped: list[SkippedPicture] = []
    with atomic_path(folder / pixels_name) as temporary:
        with temporary.open("wb") as pixels:
            for index, loaded in _load_all(source, resolution):
                if isinstance(loaded, PictureError):
                    skipped.append(SkippedPicture(source.names[index], loaded.reason))
                else:
                    pixels.write(loaded.pixels.tobytes())
                    kept.append((index, Loaded(loaded.pixels[:0], loaded.sha256, loaded.content)))
                if progress is not None:
                    progress("decode pictures", index + 1, total)
        if not kept:
            reason = f"none of its {total} pictures can be used" if total else "it holds no picture"
            first = f" ({skipped[0].name}: {skipped[0].reason})" if skipped else ""
            raise DataError(f"source {source.kind}", reason + first, "Check the pictures")
        manifest = _describe(source, kept, skipped, key, resolution, fractions, pixels_name)
    manifest.write(folder / MANIFEST_NAME)
    _remove_old(folder, pixels_name)
    return open_prepared(folder)


def _describe(
    source: Source,
    kept: list[tuple[int, Loaded]],
    skipped: list[SkippedPicture],
    key: str,
    resolution: int,
    fractions: tuple[float, float, float],
    pixels_name: str,
) -> Manifest:
    labels = [source.labels[index] for index, _ in kept]
    names = [source.names[index] for index, _ in kept]
    keys = [loaded.sha256 for _, loaded in kept]
    contents = [loaded.content for _, loaded in kept]
    splits = split_pictures(labels, keys, contents, source.classes, fractions)
    groups: dict[str, list[int]] = {}
    for row, content in enumerate(contents):
        groups.setdefault(content, []).append(row)
    copies = [group for group in groups.values() if len(group) > 1]
    return Manifest(
        source={"kind": source.kind, **source.report},
        key=key,
        resolution=resolution,
        fractions=fractions,
        classes=tuple(source.classes),
        pictures=tuple(PictureEntry(names[row], keys[row], labels[row], splits[row], row) for row in range(len(kept))),
        pixels=pixels_name,
        skipped=tuple(skipped),
        duplicates=tuple(tuple(names[row] for row in group) for group in copies),
        conflicts=tuple(
            tuple(names[row] for row in group) for group in copies if len({labels[row] for row in group}) > 1
        ),
    )


def _remove_old(folder: Path, keep: str) -> None:
    for path in folder.glob("pixels_*.uint8"):
        if path.name != keep:
            with contextlib.suppress(OSError):
                path.unlink()
