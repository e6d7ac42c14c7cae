"""Batches for training and evaluation: the same ones for the same seed and epoch, however many processes share them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from millijoule.data.augmentation import Augmentation, Draws, resize_pictures, warp
from millijoule.data.prepared import Split
from millijoule.errors import OptionError

__all__ = ["batch_count", "batches"]

Batch = tuple[NDArray[np.uint8], NDArray[np.int64]]


def batch_count(pictures: int, batch_size: int, drop_last: bool = False) -> int:
    """How many batches `batches` yields for this many pictures."""
    if drop_last and pictures >= batch_size:
        return pictures // batch_size
    return -(-pictures // batch_size)


def batches(
    split: Split,
    batch_size: int,
    *,
    augmentation: Augmentation | None = None,
    resolution: int | None = None,
    seed: int = 0,
    epoch: int = 0,
    shuffle: bool = True,
    rank: int = 0,
    world: int = 1,
    drop_last: bool = False,
) -> Iterator[Batch]:
    """Yields the batches of one epoch.

    The order and every picture's augmentation depend on (seed, epoch) only. `batch_size` is that of the global batch;
    rank r of w processes gets the r-th of its w equal slices, so that the slices of all ranks put together are the
    batch that one process would get. The last batch may be smaller, its slices then differ in length by at most one
    and may be empty: every rank sees the same number of batches.

    Args:
        split: the pictures.
        batch_size: pictures per global batch; a multiple of `world`.
        augmentation: random transformations, or None for the pictures as they are.
        resolution: pixels per side of the batch; by default that of the prepared set.
        seed: of order and augmentation.
        epoch: number of the epoch, from 0.
        shuffle: random order; otherwise the order of the split.
        rank: which process this is, 0 to world - 1.
        world: how many processes share each batch.
        drop_last: leave out a last smaller batch, unless it is the only one.

    Yields:
        uint8 (B, R, R, 3) pictures and int64 (B,) labels.

    Raises:
        OptionError: sizes or ranks out of range.
    """
    if batch_size < 1 or world < 1 or not 0 <= rank < world or batch_size % world:
        raise OptionError(
            f"batch of {batch_size} for rank {rank} of {world}",
            "the batch must divide evenly among the processes",
            "Choose a batch size that is a multiple of the number of processes",
        )
    if resolution is not None and not 16 <= resolution <= 1024:
        raise OptionError(
            f"resolution {resolution}", "pictures of 16 to 1024 pixels a side are used", "Choose one of those"
        )
    return _batches(split, batch_size, augmentation, resolution, seed, epoch, shuffle, rank, world, drop_last)


def _batches(
    split: Split,
    batch_size: int,
    augmentation: Augmentation | None,
    resolution: int | None,
    seed: int,
    epoch: int,
    shuffle: bool,
    rank: int,
    world: int,
    drop_last: bool,
) -> Iterator[Batch]:
    count = len(split)
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(count) if shuffle else np.arange(count)
    size = split.pictures.shape[1]
    side = resolution or size
    matrices = None
    if augmentation is not None:
        draws: Draws = augmentation.draw(count, random)  # by position in the epoch, whatever the ranks
        matrices = augmentation.matrices(draws, size, side)
    for batch in range(batch_count(count, batch_size, drop_last)):
        start = batch * batch_size
        length = min(batch_size, count - start)
        low, high = start + length * rank // world, start + length * (rank + 1) // world
        chosen = order[low:high]
        pictures = split.pictures[chosen]
        pictures = resize_pictures(pictures, side) if matrices is None else warp(pictures, matrices[low:high], side)
        yield pictures, split.labels[chosen]
