"""Statistics of batch normalisation, measured anew on pictures as the finished network will see them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from millijoule.data import batches as data_batches
from millijoule.errors import OptionError
from millijoule.nets import Normalization
from millijoule.train._evaluate import network_input
from millijoule.train._protocol import BatchSource, SplitLike

__all__ = ["measure_batch_norm"]

BATCH_SIZE = 64
"""Pictures per forward pass: enough for variances, and few enough for the memory of training."""


def measure_batch_norm(
    module: nn.Module,
    split: SplitLike,
    pictures: int,
    *,
    normalization: Normalization,
    resolution: int,
    seed: int = 0,
    batches: BatchSource | None = None,
) -> None:
    """Replaces the running statistics of batch normalisation by those of unaugmented pictures at full resolution.

    While a network trains, its statistics follow pictures that were rotated, shifted and cut, and often smaller ones;
    what it will see has other means and variances. Weights stay as they are. Every batch counts alike (a cumulative
    average). The idea is that of H. Touvron et al., Fixing the train-test resolution discrepancy, 2019, section 3.

    A module with a method `measure_statistics` (the fake-quantised one) measures them itself.

    Args:
        module: normalised float (N, C, H, W) -> logits; left in evaluation mode.
        split: the training pictures.
        pictures: how many of them, drawn by `seed`; at least one batch.
        normalization: from picture to input.
        resolution: to which pictures are resized.
        seed: of the draw.
        batches: where batches come from; `millijoule.data.batches` by default.

    Raises:
        OptionError: the module has no batch normalisation.
    """
    source: Callable[..., Any] = batches or data_batches
    size = min(BATCH_SIZE, len(split.labels))
    device = next(module.parameters()).device

    def inputs() -> Iterator[Tensor]:
        drawn = source(split, size, augmentation=None, resolution=resolution, shuffle=True, seed=seed, drop_last=True)
        for found, _ in islice(drawn, max(1, pictures // size)):
            yield network_input(found, normalization, device)

    measure = getattr(module, "measure_statistics", None) or partial(_measure, module)
    if not measure(inputs):
        raise OptionError(
            f"batch_norm_pictures = {pictures}",
            "the network has no batch normalisation whose statistics could be measured",
            "Leave it at 0",
        )


def _measure(module: nn.Module, inputs: Callable[[], Iterator[Tensor]]) -> bool:
    """Whether there is something to measure; done, if so."""
    norms = [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    momenta = [layer.momentum for layer in norms]
    module.eval()
    try:
        for layer in norms:
            layer.reset_running_stats()
            layer.momentum = None
            layer.train()
        with torch.no_grad():
            for found in inputs() if norms else ():
                module(found)
    finally:
        for layer, momentum in zip(norms, momenta, strict=True):
            layer.momentum = momentum
        module.eval()
    return bool(norms)
