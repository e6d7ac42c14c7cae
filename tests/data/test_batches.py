"""batches: determinism, and the same global batches however many ranks share them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from millijoule.data import Augmentation, PreparedSet, batch_count, batches, calibration_set, open_source, prepare
from millijoule.errors import OptionError


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> PreparedSet:
    folder: Path = tmp_path_factory.mktemp("toy")
    return prepare(open_source("toy_vehicles", per_class=12), folder, resolution=48)


def test_same_seed_and_epoch_give_the_same_batches(toy: PreparedSet) -> None:
    train = toy.split("train")
    first, again = (list(batches(train, 16, augmentation=Augmentation(), seed=3, epoch=2)) for _ in range(2))
    assert len(first) == batch_count(len(train), 16) == -(-len(train) // 16)
    for (x, y), (u, v) in zip(first, again, strict=True):
        assert np.array_equal(x, u) and np.array_equal(y, v)
    other = list(batches(train, 16, augmentation=Augmentation(), seed=3, epoch=3))
    assert any(not np.array_equal(x, u) for (x, _), (u, _) in zip(first, other, strict=True))


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("drop_last", [False, True])
def test_ranks_share_the_global_batches(toy: PreparedSet, world: int, drop_last: bool) -> None:
    train = toy.split("train")
    options = {"augmentation": Augmentation(), "resolution": 32, "seed": 1, "epoch": 5, "drop_last": drop_last}
    whole = list(batches(train, 20, **options))
    parts = [list(batches(train, 20, rank=rank, world=world, **options)) for rank in range(world)]
    assert all(len(part) == len(whole) for part in parts)
    for index, (x, y) in enumerate(whole):
        assert np.array_equal(x, np.concatenate([part[index][0] for part in parts]))
        assert np.array_equal(y, np.concatenate([part[index][1] for part in parts]))


def test_without_shuffle_the_split_passes_in_order(toy: PreparedSet) -> None:
    test = toy.split("test")
    pictures = np.concatenate([x for x, _ in batches(test, 7, shuffle=False)])
    labels = np.concatenate([y for _, y in batches(test, 7, shuffle=False)])
    assert np.array_equal(pictures, np.asarray(test.pictures)) and np.array_equal(labels, test.labels)


def test_every_picture_once_per_epoch(toy: PreparedSet) -> None:
    train = toy.split("train")
    seen = np.concatenate([x for x, _ in batches(train, 16, seed=9)])
    assert sorted(p.tobytes() for p in seen) == sorted(p.tobytes() for p in np.asarray(train.pictures))


@pytest.mark.parametrize("bad", [{"batch_size": 0}, {"batch_size": 5, "world": 2}, {"batch_size": 4, "rank": 1}])
def test_impossible_sharing_is_refused(toy: PreparedSet, bad: dict[str, int]) -> None:
    with pytest.raises(OptionError):
        batches(toy.split("train"), **bad)


def test_calibration_set_is_balanced_and_from_train(toy: PreparedSet) -> None:
    train = toy.split("train")
    pictures, hashes = calibration_set(toy, 30, seed=4)
    assert pictures.shape == (30, 48, 48, 3) and len(set(hashes)) == 30 and set(hashes) <= set(train.hashes)
    label = dict(zip(train.hashes, train.labels.tolist(), strict=True))
    assert np.bincount([label[h] for h in hashes]).tolist() == [3] * 10
    assert calibration_set(toy, 30, seed=4)[1] == hashes != calibration_set(toy, 30, seed=5)[1]
    assert len(calibration_set(toy, 10_000)[0]) == len(train)
