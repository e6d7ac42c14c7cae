"""Splits: proportions, independence of order, equal content together."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millijoule.data.split import SPLITS, split_pictures
from millijoule.errors import DataError


def keys_of(count: int, salt: int = 0) -> list[str]:
    return [hashlib.sha256(f"{salt} {index}".encode()).hexdigest() for index in range(count)]


@given(count=st.integers(3, 400), salt=st.integers(0, 1000))
def test_proportions_are_kept_to_one_picture(count: int, salt: int) -> None:
    keys = keys_of(count, salt)
    found = Counter(split_pictures([0] * count, keys, keys, ["van"]))
    for name, fraction in zip(SPLITS, (0.7, 0.2, 0.1), strict=True):
        assert found[name] >= 1
        assert abs(found[name] - count * fraction) < 1 or count < 10


@given(st.data())
def test_order_does_not_matter_and_content_stays_together(data: st.DataObject) -> None:
    count = 60
    groups = np.random.default_rng(data.draw(st.integers(0, 2**32))).integers(0, 31, count)
    contents = [f"{group}" for group in groups] + [f"own {i}" for i in range(20)]
    labels = [index % 2 for index in range(80)]
    keys = keys_of(80)
    result = split_pictures(labels, keys, contents, ["bus", "van"])
    by_content: dict[str, set[str]] = {}
    for content, split in zip(contents, result, strict=True):
        by_content.setdefault(content, set()).add(split)
    assert all(len(splits) == 1 for splits in by_content.values())
    order = np.random.default_rng(data.draw(st.integers(0, 1000))).permutation(80)
    shuffled = split_pictures(
        [labels[i] for i in order], [keys[i] for i in order], [contents[i] for i in order], ["bus", "van"]
    )
    assert shuffled == [result[i] for i in order]


def test_every_split_is_reached_when_copies_fill_a_class() -> None:
    contents = ["same"] * 20 + ["a", "b"]
    assert set(split_pictures([0] * 22, keys_of(22), contents, ["van"])) == set(SPLITS)


def test_copies_do_not_count_as_pictures() -> None:
    with pytest.raises(DataError, match="class van: it has 2 different pictures, fewer than the 3 splits need"):
        split_pictures([0] * 10, keys_of(10), ["a"] * 5 + ["b"] * 5, ["van"])
    with pytest.raises(DataError, match="class bus: it has 0 different pictures"):
        split_pictures([0] * 10, keys_of(10), keys_of(10), ["van", "bus"])
