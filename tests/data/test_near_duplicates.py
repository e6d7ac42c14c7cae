"""The search by bands finds exactly the pairs that comparing all with all finds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millijoule.data.near_duplicates import Look, _bit_count, _close_codes, clusters, look_of, near_pairs
from millijoule.data.toy_vehicles import render


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=50))
def test_bit_count(words: list[int]) -> None:
    assert _bit_count(np.array(words, np.uint64)).tolist() == [word.bit_count() for word in words]


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32), distance=st.integers(0, 12), clumped=st.booleans())
def test_bands_find_the_same_pairs_as_comparing_all(seed: int, distance: int, clumped: bool) -> None:
    random = np.random.default_rng(seed)
    codes = random.integers(0, 2**64, 40, np.uint64)
    for _ in range(5):  # neighbours of each by a few flipped bits
        flips = np.zeros(40, np.uint64)
        for _ in range(random.integers(1, 8)):
            flips ^= np.uint64(1) << random.integers(0, 16 if clumped else 64, 40).astype(np.uint64)
        codes = np.concatenate([codes, codes[:40] ^ flips])
    codes = np.unique(codes)
    values = codes.tolist()
    expected = [
        (i, j)
        for i in range(len(values))
        for j in range(i + 1, len(values))
        if (values[i] ^ values[j]).bit_count() <= distance
    ]
    assert _close_codes(codes, distance) == expected


def test_many_equal_hashes_do_not_grow_with_the_square() -> None:
    flat = Look(0, 0, np.full((16, 16), 200, np.uint8))
    pairs = near_pairs([flat] * 300)
    assert len(pairs) == 299 and {pair.first for pair in pairs} == {0}


def test_brightness_and_mirror_are_seen_through_but_not_another_scene() -> None:
    scene = render("sedan", 4, resolution=96)
    brighter = np.clip(scene.astype(int) + 10, 0, 255).astype(np.uint8)
    mirrored = np.ascontiguousarray(scene[:, ::-1])
    other = render("sedan", 5, resolution=96)
    pairs = near_pairs([look_of(picture) for picture in (scene, brighter, other, mirrored)])
    assert [(pair.first, pair.second, pair.mirrored) for pair in pairs] == [(0, 1, False), (0, 3, True), (1, 3, True)]
    assert near_pairs([]) == [] == near_pairs([look_of(scene)])


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [([], []), ([(0, 1), (3, 1)], [[0, 1, 3]]), ([(4, 2), (0, 1), (2, 5)], [[0, 1], [2, 4, 5]])],
)
def test_clusters(pairs: list[tuple[int, int]], expected: list[list[int]]) -> None:
    assert clusters(6, pairs) == expected
