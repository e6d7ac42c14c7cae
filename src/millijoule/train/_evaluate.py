"""Accuracy of a torch module on a split."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from millijoule.data import batches as data_batches
from millijoule.files import Progress
from millijoule.nets import Normalization
from millijoule.train._parallel import World
from millijoule.train._protocol import BatchSource, SplitLike

__all__ = ["Evaluation", "evaluate", "network_input", "wilson_interval"]


@dataclass(frozen=True)
class Evaluation:
    """What a module does on a split.

    Attributes:
        accuracy: share of right predictions, 0..1.
        loss: mean cross-entropy in nats.
        correct: right predictions.
        count: pictures.
        interval: 95 % Wilson interval of the accuracy.
        predictions: int64 (N,), the class with the largest logit, the lowest on ties; only this process's pictures
            when several processes share the split.
    """

    accuracy: float
    loss: float
    correct: int
    count: int
    interval: tuple[float, float]
    predictions: npt.NDArray[np.int64]

    def to_dict(self) -> dict[str, Any]:
        """Everything but the predictions, for JSON."""
        return {
            "accuracy": self.accuracy,
            "loss": self.loss,
            "correct": self.correct,
            "count": self.count,
            "interval": list(self.interval),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Evaluation:
        """The inverse of `to_dict`; "predictions", a list, may be among the values."""
        return cls(
            accuracy=float(values["accuracy"]),
            loss=float(values["loss"]),
            correct=int(values["correct"]),
            count=int(values["count"]),
            interval=(float(values["interval"][0]), float(values["interval"][1])),
            predictions=np.asarray(values.get("predictions", []), dtype=np.int64),
        )


def wilson_interval(correct: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """The Wilson score interval of a proportion (Wilson 1927); (0, 1) when nothing was counted.

    Args:
        correct: successes, 0..count.
        count: trials.
        z: quantile of the normal distribution, 1.959964 for 95 %.
    """
    if count == 0:
        return 0.0, 1.0
    share = correct / count
    middle = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def network_input(pictures: npt.NDArray[np.uint8], normalization: Normalization, device: torch.device) -> Tensor:
    """uint8 (N, H, W, C) -> normalised float32 (N, C, H, W) in channels_last memory, without moving a byte."""
    tensor = torch.from_numpy(np.ascontiguousarray(pictures)).to(device, non_blocking=True)
    return tensor.permute(0, 3, 1, 2).float().mul_(normalization.scale).add_(normalization.offset)


def evaluate(
    module: nn.Module,
    split: SplitLike,
    *,
    normalization: Normalization | None = None,
    resolution: int | None = None,
    batch_size: int = 64,
    bfloat16: bool = False,
    world: World | None = None,
    batches: BatchSource | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Runs `module` on every picture of `split`, in order, without augmentation.

    Args:
        module: normalised float (N, C, H, W) -> logits (N, classes); it is left in the mode it was in.
        split: pictures and labels.
        normalization: from picture to input; by default that of `module.spec`, else -1..1.
        resolution: to which the pictures are resized; by default that of `module.spec`, else as stored.
        batch_size: pictures per forward pass over all processes.
        bfloat16: whether to run under autocast.
        world: the processes that share the work; alone by default.
        batches: where batches come from; `millijoule.data.batches` by default.
        progress: called after every batch.

    Returns:
        Accuracy and predictions.
    """
    spec = getattr(module, "spec", None)
    normalization = normalization or (spec.normalization if spec is not None else Normalization())
    resolution = resolution or (spec.resolution if spec is not None else None)
    first = next(module.parameters(), None)
    device = first.device if first is not None else torch.device("cpu")
    world = world or World(0, 1, device)
    source: Callable[..., Any] = batches or data_batches
    count = len(split.labels)
    was_training = module.training
    module.eval()
    predictions = []
    totals = torch.zeros(3, dtype=torch.float64, device=device)  # loss, right, pictures
    done = 0
    try:
        with torch.inference_mode():
            for pictures, labels in source(
                split,
                batch_size,
                augmentation=None,
                resolution=resolution,
                shuffle=False,
                rank=world.rank,
                world=world.size,
                drop_last=False,
            ):
                if len(labels) == 0:
                    continue
                target = torch.from_numpy(np.asarray(labels, dtype=np.int64)).to(device)
                with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
                    logits = module(network_input(pictures, normalization, device))
                logits = logits.float()
                chosen = logits.argmax(1)
                predictions.append(chosen.cpu().numpy())
                totals[0] += nn.functional.cross_entropy(logits, target, reduction="sum")
                totals[1] += (chosen == target).sum()
                totals[2] += len(labels)
                done += len(labels) * world.size
                if progress is not None:
                    progress("evaluating", min(done, count), count)
    finally:
        module.train(was_training)
    loss, right, pictures_seen = (float(value) for value in world.total(totals))
    correct, seen = round(right), round(pictures_seen)
    return Evaluation(
        accuracy=correct / max(seen, 1),
        loss=loss / max(seen, 1),
        correct=correct,
        count=seen,
        interval=wilson_interval(correct, seen),
        predictions=np.concatenate(predictions) if predictions else np.zeros(0, np.int64),
    )
