"""Pictures that look the same though their bytes differ: found by a 64-bit difference hash, checked on thumbnails.

The difference hash (dHash) says for each of 8 x 8 places whether the picture gets brighter to the right; scaling,
recompression and small changes of light leave almost all bits as they are. Hashes that differ in at most 9 bits differ
in at most one bit in at least one of five bands (pigeonhole), so only pictures are compared that agree in a band up to
one bit: for hashes spread over the 2^13 values of a band that is one pair in about a hundred. Mirror images are looked
for too, because training mirrors pictures.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from millijoule.data.decode import import_cv2

__all__ = ["MAX_DISTANCE", "Look", "NearPair", "clusters", "look_of", "near_pairs"]

MAX_DISTANCE = 9
"""Differing bits of 64 up to which two pictures are compared closer."""

MAX_DIFFERENCE = 12.0
"""Mean absolute difference of 16 x 16 grey thumbnails, means removed, in grey levels of 255, up to which they look the
same. Chosen on 4,641 photographs of cars, all pairs looked at: copies of one photo differ by up to 11.5 levels and 9
bits, the most similar different photos by 14.7 levels and 18 bits."""

_THUMBNAIL = 16
_FULL_GROUP = 64  # of more pictures with one and the same hash, only those pairs with the first are reported

_PIECE = 1 << 20  # candidate pairs compared at once

Words = NDArray[np.uint64]
Indexes = NDArray[np.int64]


@dataclass(frozen=True)
class Look:
    """What near-duplicates are found by: difference hash, that of the mirror image, and a grey thumbnail."""

    code: int
    mirrored: int
    thumbnail: NDArray[np.uint8]


@dataclass(frozen=True)
class NearPair:
    """Indexes of two pictures that look the same, their differing bits, and whether one is mirrored."""

    first: int
    second: int
    distance: int
    mirrored: bool


def look_of(picture: NDArray[np.uint8]) -> Look:
    """The look of one picture, uint8 (R, R, 3) RGB."""
    cv2: Any = import_cv2()
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)

    def code(source: NDArray[np.uint8]) -> int:
        small = cv2.resize(source, (9, 8), interpolation=cv2.INTER_AREA)
        return int.from_bytes(np.packbits(small[:, 1:] > small[:, :-1]).tobytes(), "big")

    thumbnail = cv2.resize(grey, (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA)
    return Look(code(grey), code(cv2.flip(grey, 1)), thumbnail)


def _bit_count(words: Words) -> NDArray[np.int64]:
    """Set bits of each 64-bit word, by adding neighbouring fields of 1, 2, 4 bits."""
    one, two, four = np.uint64(0x5555555555555555), np.uint64(0x3333333333333333), np.uint64(0x0F0F0F0F0F0F0F0F)
    words = words - ((words >> np.uint64(1)) & one)
    words = (words & two) + ((words >> np.uint64(2)) & two)
    words = (words + (words >> np.uint64(4))) & four
    counts: NDArray[np.int64] = ((words * np.uint64(0x0101010101010101)) >> np.uint64(56)).astype(np.int64)
    return counts


def _close_codes(codes: Words, distance: int) -> list[tuple[int, int]]:
    """Pairs of positions, the lower first, whose codes differ in at most `distance` bits."""
    found: set[tuple[int, int]] = set()
    bands = distance // 2 + 1  # two bits or more in each band would be more than `distance`
    edges = [64 * band // bands for band in range(bands + 1)]
    for low, high in itertools.pairwise(edges):
        field = (codes >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)
        order = np.argsort(field, kind="stable")
        ordered = field[order]
        for flip in [0, *(1 << bit for bit in range(high - low))]:
            wanted = field ^ np.uint64(flip)
            starts = np.searchsorted(ordered, wanted, "left")
            counts = np.searchsorted(ordered, wanted, "right") - starts
            for first, second in _expand(starts, counts, order):
                keep = first < second
                first, second = first[keep], second[keep]
                close = _bit_count(codes[first] ^ codes[second]) <= distance
                found.update(zip(first[close].tolist(), second[close].tolist(), strict=True))
    return sorted(found)


def _expand(starts: Indexes, counts: Indexes, order: Indexes) -> Iterator[tuple[Indexes, Indexes]]:
    """Every position with each of its `counts` partners from `starts` in `order`, in pieces of bounded memory."""
    ends = np.cumsum(counts)
    position = 0
    while position < len(counts):
        done = int(ends[position - 1]) if position else 0
        last = max(position + 1, int(np.searchsorted(ends, done + _PIECE, "right")))
        part = counts[position:last]
        first = np.repeat(np.arange(position, last), part)
        within = np.arange(len(first)) - np.repeat(ends[position:last] - part - done, part)
        yield first, order[starts[first] + within]
        position = last


def _candidates(codes: Words, distance: int) -> Iterator[tuple[int, int]]:
    """Pairs of indexes, the lower first, whose codes differ in at most `distance` bits."""
    unique, inverse = np.unique(codes, return_inverse=True)
    members: list[list[int]] = [[] for _ in unique]
    for index, position in enumerate(inverse.reshape(-1).tolist()):
        members[position].append(index)
    for group in members:
        heads = group if len(group) <= _FULL_GROUP else group[:1]
        for number, first in enumerate(heads):
            for second in group[number + 1 :]:
                yield first, second
    for left, right in _close_codes(unique, distance):
        first_group, second_group = members[left][:_FULL_GROUP], members[right][:_FULL_GROUP]
        for first in first_group:
            for second in second_group:
                yield min(first, second), max(first, second)


def near_pairs(looks: Sequence[Look], distance: int = MAX_DISTANCE) -> list[NearPair]:
    """All pairs of pictures that look the same, upright or mirrored, in order of their indexes."""
    count = len(looks)
    if count < 2:
        return []
    codes = np.array([look.code for look in looks] + [look.mirrored for look in looks], np.uint64)
    thumbnails = np.stack([look.thumbnail for look in looks]).astype(np.float32)
    thumbnails -= thumbnails.mean(axis=(1, 2), keepdims=True)
    result: dict[tuple[int, int], NearPair] = {}
    for first, second in _candidates(codes, distance):
        # Indexes from `count` on are mirror images; a pair of two of them repeats the upright pair.
        if first >= count or second - count == first:
            continue
        mirrored = second >= count
        other = second - count if mirrored else second
        seen = thumbnails[other][:, ::-1] if mirrored else thumbnails[other]
        if np.abs(thumbnails[first] - seen).mean() > MAX_DIFFERENCE:
            continue
        bits = int(codes[first] ^ codes[second]).bit_count()
        pair = NearPair(min(first, other), max(first, other), bits, mirrored)
        known = result.get((pair.first, pair.second))
        if known is None or (pair.distance, pair.mirrored) < (known.distance, known.mirrored):
            result[pair.first, pair.second] = pair
    return [result[key] for key in sorted(result)]


def clusters(count: int, pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Groups of two or more indexes that the pairs connect, directly or over others."""
    parent = list(range(count))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for first, second in pairs:
        high, low = sorted((root(first), root(second)), reverse=True)
        parent[high] = low
    groups: dict[int, list[int]] = {}
    for index in range(count):
        groups.setdefault(root(index), []).append(index)
    return [group for group in groups.values() if len(group) > 1]
