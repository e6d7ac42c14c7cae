"""What calibration remembers of one tensor: extremes, a running mean of them, and a histogram.

One pass over the pictures suffices and the memory does not grow with them. The histogram does not depend on the order
or the grouping of the pictures; only the moving average does, by its nature.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from millijoule.errors import QuantizationError
from millijoule.files import Progress
from millijoule.graph import Graph

__all__ = ["HALF_BINS", "TensorStatistics", "collect_statistics"]

HALF_BINS = 4096
"""Histogram bins on each side of zero; at least half of those on the longer side are in use."""

_CHUNK = 1 << 17
"""Values binned at once, so that the intermediate arrays stay in the processor's cache."""

_ROWS = 8
"""Positions of each picture whose values are kept as they are."""

_BATCH_ELEMENTS = 48_000_000
"""Most activation values held at once while calibrating (float32: about 200 MB)."""


class TensorStatistics:
    """Extremes and histogram of one tensor over all calibration pictures.

    The histogram's bins are ``[i * width, (i + 1) * width)`` for i in [-4096, 4096), and `width` is a power of two
    that doubles when a value falls outside: pairs of bins then merge exactly, so that the result is the same in
    whatever order the values came.

    Attributes:
        name: the tensor.
        count: values seen.
        zeros: values that were exactly zero; they are represented exactly by every affine quantisation.
        low: smallest value.
        high: largest value.
        average_low: exponential moving average of the batches' smallest values.
        average_high: exponential moving average of the batches' largest values.
        momentum: weight of the past in the moving averages.
        histogram: int64 (8192,).
        pictures: pictures seen.
        width: width of a bin.
        channel_low: smallest value of each channel (the last dimension).
        channel_high: largest value of each channel.
    """

    def __init__(self, name: str, momentum: float = 0.9) -> None:
        self.name = name
        self.momentum = momentum
        self.count = 0
        self.zeros = 0
        self.low = math.inf
        self.high = -math.inf
        self.average_low = 0.0
        self.average_high = 0.0
        self.histogram: npt.NDArray[np.int64] = np.zeros(2 * HALF_BINS, dtype=np.int64)
        self.pictures = 0
        self.channel_low: npt.NDArray[np.float32] = np.zeros(0, np.float32)
        self.channel_high: npt.NDArray[np.float32] = np.zeros(0, np.float32)
        self._sum: npt.NDArray[np.float64] | None = None
        self._rows: list[npt.NDArray[np.float32]] = []
        self._squares: npt.NDArray[np.float64] | None = None
        self._exponent: int | None = None

    @property
    def mean(self) -> npt.NDArray[np.float64]:
        """The mean over the pictures, in the shape of one picture's values."""
        if self._sum is None:
            raise QuantizationError(f"tensor {self.name!r}", "it was not observed", "Calibrate first")
        return self._sum / self.pictures

    @property
    def channel_mean(self) -> npt.NDArray[np.float64]:
        """The mean of each channel, (C,)."""
        means: npt.NDArray[np.float64] = self.mean.reshape(-1, self.mean.shape[-1]).mean(axis=0)
        return means

    @property
    def channel_square(self) -> npt.NDArray[np.float64]:
        """The mean square of each channel, (C,)."""
        if self._squares is None:
            raise QuantizationError(f"tensor {self.name!r}", "it was not observed", "Calibrate first")
        return self._squares * len(self._squares) / self.count

    @property
    def width(self) -> float:
        """Width of one histogram bin; 0 before anything but zeros was seen."""
        return 0.0 if self._exponent is None else math.ldexp(1.0, self._exponent)

    @property
    def rows(self) -> npt.NDArray[np.float32]:
        """The channels of some positions of each picture, (S, C), at most `_ROWS` of a picture."""
        return np.concatenate(self._rows) if self._rows else np.zeros((0, 1), np.float32)

    def update(self, values: npt.NDArray[np.float32]) -> None:
        """Adds one batch of values, (N, ...).

        Raises:
            QuantizationError: a value is NaN or infinite.
        """
        flat = np.ascontiguousarray(values, dtype=np.float32).ravel()
        if flat.size == 0:
            return
        low, high = float(flat.min()), float(flat.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise QuantizationError(
                f"tensor {self.name!r}", "it became NaN or infinite during calibration", "Train with a smaller step"
            )
        if self.count == 0:
            self.average_low, self.average_high = low, high
        else:
            self.average_low = self.momentum * self.average_low + (1.0 - self.momentum) * low
            self.average_high = self.momentum * self.average_high + (1.0 - self.momentum) * high
        self._keep_rows(values)
        self.pictures += len(values)
        total = values.sum(axis=0, dtype=np.float64)
        self._sum = total if self._sum is None else self._sum + total
        self._update_channels(flat.reshape(-1, values.shape[-1] if values.ndim > 1 else 1))
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._grow(max(-low, high))
        self.count += flat.size
        self.zeros += flat.size - int(np.count_nonzero(flat))
        if self._exponent is None:
            return
        factor = np.float32(math.ldexp(1.0, -self._exponent))
        for start in range(0, flat.size, _CHUNK):
            # scaling by a power of two is exact, so floor never puts a value into the wrong bin
            bins = np.floor(flat[start : start + _CHUNK] * factor).astype(np.int64)
            bins += HALF_BINS
            self.histogram += np.bincount(bins, minlength=2 * HALF_BINS)

    def _keep_rows(self, values: npt.NDArray[np.float32]) -> None:
        """Positions evenly over the map, shifted from picture to picture, so that they do not depend on the batches."""
        maps = values.reshape(len(values), -1, values.shape[-1] if values.ndim > 1 else 1)
        places = maps.shape[1]
        count = min(_ROWS, places)
        for index, picture in enumerate(maps):
            start = (self.pictures + index) * 7919
            self._rows.append(picture[(start + np.arange(count) * places // count) % places].copy())

    def _update_channels(self, rows: npt.NDArray[np.float32]) -> None:
        low, high = rows.min(axis=0), rows.max(axis=0)
        squares = np.einsum("ij,ij->j", rows, rows).astype(np.float64)
        if self._squares is None:
            self.channel_low, self.channel_high, self._squares = low, high, squares
            return
        self.channel_low = np.minimum(self.channel_low, low)
        self.channel_high = np.maximum(self.channel_high, high)
        self._squares = self._squares + squares

    def _grow(self, largest: float) -> None:
        """Widens the bins until the magnitude `largest` lies inside them."""
        if largest <= 0.0:
            return
        # frexp: largest < 2**e, so HALF_BINS bins of 2**e / HALF_BINS hold it. Smaller bins than 2**-112 are of no
        # use (their scales are refused later) and 2**-exponent has to stay a finite float32.
        exponent = max(math.frexp(largest)[1], -100) - int(math.log2(HALF_BINS))
        if self._exponent is None:
            self._exponent = exponent
            self.histogram[HALF_BINS] = self.count  # everything before was zero
            return
        while self._exponent < exponent:
            merged = np.zeros_like(self.histogram)
            half = HALF_BINS // 2
            merged[half : half + HALF_BINS] = self.histogram.reshape(-1, 2).sum(axis=1)
            self.histogram = merged
            self._exponent += 1

    def centres(self) -> npt.NDArray[np.float64]:
        """The middle of each bin, (8192,)."""
        return (np.arange(-HALF_BINS, HALF_BINS, dtype=np.float64) + 0.5) * self.width


def collect_statistics(
    graph: Graph,
    names: Iterable[str],
    pictures: npt.NDArray[np.uint8],
    *,
    batch: int | None = None,
    progress: Progress | None = None,
) -> dict[str, TensorStatistics]:
    """Runs the float graph over the calibration pictures and keeps the statistics of the named tensors.

    Args:
        graph: a float graph.
        names: tensors to watch.
        pictures: uint8 (N, height, width, channels).
        batch: pictures per run of the executor; chosen to bound the memory when None.
        progress: called after each batch.

    Raises:
        QuantizationError: the calibration set is empty, or a tensor is not finite.
    """
    from millijoule import execute

    if len(pictures) == 0:
        raise QuantizationError(
            "the calibration set", "it holds no pictures", "Give at least one, better 200, pictures"
        )
    watched = {name: TensorStatistics(name) for name in names}
    elements = sum(graph.tensor(name).elements for name in watched)
    size = batch or max(1, min(16, _BATCH_ELEMENTS // max(1, elements)))
    for start in range(0, len(pictures), size):
        part = pictures[start : start + size]
        values: Mapping[str, npt.NDArray[np.float32]] = execute.run(graph, part, batch=size, keep=tuple(watched))
        for name, statistics in watched.items():
            statistics.update(values[name])
        if progress is not None:
            progress("calibrate", min(start + size, len(pictures)), len(pictures))
    return watched
