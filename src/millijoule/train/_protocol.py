"""What training needs of a data set; `millijoule.data.PreparedSet` has it, and so may a user's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["BatchSource", "PreparedLike", "SplitLike"]


class SplitLike(Protocol):
    """One split: pictures and labels in the same order."""

    def __len__(self) -> int:
        """Number of pictures."""

    @property
    def pictures(self) -> Any:
        """uint8 (N, R, R, 3) RGB, or an object that an integer array indexes to that."""

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """int64 (N,)."""


class PreparedLike(Protocol):
    """A prepared data set with the splits "train", "validation" and "test"."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the labels."""

    @property
    def resolution(self) -> int:
        """Side of the stored pictures in pixels."""

    def split(self, name: Any, /) -> Any:
        """The split of that name, a `SplitLike`."""


class BatchSource(Protocol):
    """Makes the batches of one epoch, the same for the same (seed, epoch); `millijoule.data.batches` is one."""

    def __call__(
        self,
        split: Any,
        batch_size: int,
        /,
        *,
        augmentation: Any = ...,
        resolution: int | None = ...,
        seed: int = ...,
        epoch: int = ...,
        shuffle: bool = ...,
        rank: int = ...,
        world: int = ...,
        drop_last: bool = ...,
    ) -> Iterator[tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]]:
        """Yields uint8 (B, R, R, 3) and int64 (B,)."""
