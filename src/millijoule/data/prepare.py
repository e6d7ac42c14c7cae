"""Builds a prepared data set: decode once with several threads, split by content, write pixels and manifest."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from millijoule.data.decode import PictureError
from millijoule.data.given_split import GivenSplits, given_splits
from millijoule.data.manifest import MANIFEST_NAME, Manifest, NearDuplicate, PictureEntry, SkippedPicture
from millijoule.data.near_duplicates import Look, NearPair, clusters, look_of, near_pairs
from millijoule.data.prepared import PreparedSet, open_prepared
from millijoule.data.sources import Loaded, Source
from millijoule.data.split import check_fractions, split_pictures
from millijoule.errors import DataError, MillijouleError, OptionError
from millijoule.files import Progress, atomic_path

__all__ = ["prepare"]

PREPARE_VERSION = 1  # changes whenever the same source gives other pixels or another split


def _key(
    source: Source,
    resolution: int,
    fractions: tuple[float, float, float],
    move_near_duplicates: bool,
    given: GivenSplits | None,
) -> str:
    parts = [PREPARE_VERSION, source.kind, source.fingerprint(), resolution, fractions, move_near_duplicates]
    parts += [given.fingerprint()] if given is not None else []
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@dataclass(frozen=True)
class _Seen:
    """What is kept of a picture besides its pixels: index in the source, hashes, look."""

    index: int
    sha256: str
    content: str
    look: Look


def _load_all(
    source: Source, resolution: int, chosen: Sequence[int]
) -> Iterator[tuple[int, tuple[Loaded, Look] | PictureError]]:
    """The chosen pictures in order, decoded by worker threads a little ahead of the reader."""

    def load(index: int) -> tuple[Loaded, Look] | PictureError:
        try:
            loaded = source.load(index, resolution)
            return loaded, look_of(loaded.pixels)
        except PictureError as error:
            return error

    workers = min(16, os.cpu_count() or 1)
    waiting: deque[tuple[int, Future[tuple[Loaded, Look] | PictureError]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        try:
            for index in chosen:
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
    given: GivenSplits | None = None,
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
        given: splits that were made elsewhere, instead of by content; those that the source brings along
            (`Source.given`) are used when this is left out.
        progress: called as (what, done, total).

    Returns:
        The prepared set.

    Raises:
        DataError: no usable picture, or a class with fewer pictures than the splits need.
        OptionError: a resolution or split out of range, or near-duplicates to be moved out of given splits.
        OutputError: the folder cannot be written, or the disk is full.
    """
    folder = Path(folder)
    fractions = check_fractions(split)
    if not 16 <= resolution <= 1024:
        raise OptionError(
            f"resolution {resolution}", "pictures of 16 to 1024 pixels a side are used", "Choose one of those"
        )
    given = given or source.given
    if given is not None and move_near_duplicates:
        raise OptionError(
            "move_near_duplicates", f"the splits are given ({given.origin})", "Leave one of the two options out"
        )
    key = _key(source, resolution, fractions, move_near_duplicates, given)
    with contextlib.suppress(MillijouleError):
        present = open_prepared(folder)
        if present.manifest.key == key:
            return present

    pixels_name = f"pixels_{resolution}_{key[:16]}.uint8"
    chosen = range(len(source.names)) if given is None else given.named(source.names)
    total = len(chosen)
    kept: list[_Seen] = []
    skipped: list[SkippedPicture] = []
    with atomic_path(folder / pixels_name) as temporary:
        with temporary.open("wb") as pixels:
            for done, (index, result) in enumerate(_load_all(source, resolution, chosen), start=1):
                if isinstance(result, PictureError):
                    skipped.append(SkippedPicture(source.names[index], result.reason))
                else:
                    loaded, look = result
                    pixels.write(loaded.pixels.tobytes())
                    kept.append(_Seen(index, loaded.sha256, loaded.content, look))
                if progress is not None:
                    progress("decode pictures", done, total)
        if not kept:
            reason = f"none of its {total} pictures can be used" if total else "it holds no picture"
            first = f" ({skipped[0].name}: {skipped[0].reason})" if skipped else ""
            raise DataError(f"source {source.kind}", reason + first, "Check the pictures")
        if progress is not None:
            progress("compare pictures", 0, 1)
        manifest = _describe(
            source, kept, skipped, key, resolution, fractions, pixels_name, move_near_duplicates, given
        )
        if progress is not None:
            progress("compare pictures", 1, 1)
    manifest.write(folder / MANIFEST_NAME)
    _remove_old(folder, pixels_name)
    return open_prepared(folder)


def _describe(
    source: Source,
    kept: list[_Seen],
    skipped: list[SkippedPicture],
    key: str,
    resolution: int,
    fractions: tuple[float, float, float],
    pixels_name: str,
    move_near_duplicates: bool,
    given: GivenSplits | None,
) -> Manifest:
    labels = [source.labels[seen.index] for seen in kept]
    names = [source.names[seen.index] for seen in kept]
    keys = [seen.sha256 for seen in kept]
    contents = [seen.content for seen in kept]
    report = {"kind": source.kind, **source.report}
    if given is None:
        splits = split_pictures(labels, keys, contents, source.classes, fractions)
    else:
        splits, facts = given_splits(given, names, labels, keys, contents, source.classes, fractions)
        report["splits"] = {**facts, "left_out": len(source.names) - len(kept) - len(skipped)}
    groups: dict[str, list[int]] = {}
    for row, content in enumerate(contents):
        groups.setdefault(content, []).append(row)
    copies = [group for group in groups.values() if len(group) > 1]
    pairs = [pair for pair in near_pairs([seen.look for seen in kept]) if contents[pair.first] != contents[pair.second]]
    across = [pair for pair in pairs if splits[pair.first] != splits[pair.second]]
    final = _moved(splits, keys, copies, pairs) if move_near_duplicates else splits
    _check_complete(final, splits, labels, source.classes)
    return Manifest(
        source=report,
        key=key,
        resolution=resolution,
        fractions=fractions,
        classes=tuple(source.classes),
        pictures=tuple(PictureEntry(names[row], keys[row], labels[row], final[row], row) for row in range(len(kept))),
        pixels=pixels_name,
        skipped=tuple(skipped),
        duplicates=tuple(tuple(names[row] for row in group) for group in copies),
        conflicts=tuple(
            tuple(names[row] for row in group) for group in copies if len({labels[row] for row in group}) > 1
        ),
        near_duplicates=tuple(
            NearDuplicate(
                first=names[pair.first],
                second=names[pair.second],
                first_split=splits[pair.first],
                second_split=splits[pair.second],
                distance=pair.distance,
                mirrored=pair.mirrored,
                moved_to=final[pair.first] if move_near_duplicates else "",
            )
            for pair in across
        ),
        near_duplicates_within=len(pairs) - len(across),
    )


def _moved(splits: list[str], keys: list[str], copies: list[list[int]], pairs: list[NearPair]) -> list[str]:
    """The splits with every cluster of look-alikes in one: that of a member chosen by its hash.

    Chance chooses, not the size of the splits, so that moving keeps their proportions on average. The hash is read
    backwards because its order decided the splits: the smallest one always lies in train.
    """
    links = [(pair.first, pair.second) for pair in pairs]
    links += [(group[0], other) for group in copies for other in group[1:]]
    result = list(splits)
    for cluster in clusters(len(splits), links):
        target = splits[min(cluster, key=lambda row: keys[row][::-1])]
        for row in cluster:
            result[row] = target
    return result


def _check_complete(final: list[str], before: list[str], labels: list[int], classes: Sequence[str]) -> None:
    """Refuses when moving look-alikes left a class without pictures in a split that it had."""
    had, has = set(zip(labels, before, strict=True)), set(zip(labels, final, strict=True))
    for label, split in sorted(had - has):
        raise DataError(
            f"class {classes[label]}",
            f"after moving near-duplicates it has no picture left in {split}",
            "Add different pictures, or leave near-duplicates where they are",
        )


def _remove_old(folder: Path, keep: str) -> None:
    for path in folder.glob("pixels_*.uint8"):
        if path.name != keep:
            with contextlib.suppress(OSError):
                path.unlink()
