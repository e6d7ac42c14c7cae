"""Several processes that train one network together: who they are, and batch normalisation over all of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from millijoule.errors import OptionError

__all__ = ["SynchronisedBatchNorm2d", "World", "joined", "synchronise_batch_norm"]


@dataclass(frozen=True)
class World:
    """The place of this process among those that train together.

    Attributes:
        rank: 0 for the one that writes files.
        size: number of processes.
        device: where this process computes.
    """

    rank: int
    size: int
    device: torch.device

    def total(self, values: Tensor) -> Tensor:
        """The sum of `values` over all processes."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def wait(self) -> None:
        """Returns when all processes have come here."""
        if self.size > 1:
            dist.barrier()


@contextlib.contextmanager
def joined(device: str) -> Iterator[World]:
    """Joins the processes that torchrun started; alone without it. Leaves the group at the end if it made it.

    Args:
        device: "auto", "cpu" or "cuda".

    Raises:
        OptionError: "cuda" is asked for and there is no GPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise OptionError("device = 'cuda'", "torch sees no GPU here", "Use device auto or cpu")
    gpu = torch.cuda.is_available() and device != "cpu"
    size = int(os.environ.get("WORLD_SIZE", "1"))
    place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(place)
    made = False
    if size > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if gpu else "gloo")
        made = True
    try:
        rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        yield World(rank, size, place)
    finally:
        if made:
            dist.destroy_process_group()


class _Sum(torch.autograd.Function):
    """The sum over all processes, forwards and backwards."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        """Adds the values of all processes."""
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        """Each process's value entered every process's sum, so the gradients add, too."""
        total = gradient.clone()
        dist.all_reduce(total)
        return total


def _total(values: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(values)  # type: ignore[no-untyped-call]
    return total


class SynchronisedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation whose statistics are those of the global batch.

    torch's own SyncBatchNorm runs on GPUs only; this one runs anywhere. Two passes (mean, then variance), because the
    difference of squares loses digits in float32. All processes must hold the same number of pictures.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Normalises (N, C, H, W) by the statistics over all processes while training."""
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            local: Tensor = super().forward(features)
            return local
        count = features.shape[0] * features.shape[2] * features.shape[3] * dist.get_world_size()
        axes = (0, 2, 3)
        mean = _total(features.sum(axes)) / count
        centred = features - mean[None, :, None, None]
        variance = _total(centred.square().sum(axes)) / count
        with torch.no_grad():
            assert self.running_mean is not None and self.running_var is not None
            momentum = 0.1 if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.detach(), momentum)
            self.running_var.lerp_(variance.detach() * (count / max(count - 1, 1)), momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        scale = torch.rsqrt(variance + self.eps) * self.weight
        normalised: Tensor = centred * scale[None, :, None, None] + self.bias[None, :, None, None]
        return normalised


def synchronise_batch_norm(module: nn.Module) -> None:
    """Makes every plain BatchNorm2d inside `module` use the statistics of the global batch, weights untouched."""
    for child in module.modules():
        if type(child) is nn.BatchNorm2d and child.affine and child.track_running_stats:
            child.__class__ = SynchronisedBatchNorm2d
