"""What a step consists of beside the network: random numbers, loss, optimiser and the average of the weights."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from millijoule.errors import OptionError
from millijoule.train._options import TrainOptions

__all__ = ["follow", "make_optimizer", "seed_step", "training_loss"]


def seed_step(options: TrainOptions, epoch: int, step: int, rank: int) -> float:
    """Seeds torch's random numbers for one step and draws how much of each picture mixup keeps (1.0 without mixup).

    Because the seed is a function of (seed, epoch, step, rank), a resumed run needs no stored random state. The share
    is the same on all processes.
    """
    shared, own = np.random.SeedSequence([options.seed, epoch, step]).spawn(2)
    torch.manual_seed(int(np.random.SeedSequence([int(own.generate_state(1)[0]), rank]).generate_state(1)[0]))
    return float(np.random.default_rng(shared).beta(options.mixup, options.mixup)) if options.mixup else 1.0


def training_loss(
    logits: Tensor,
    inputs: Tensor,
    target: Tensor,
    mix: float,
    options: TrainOptions,
    teacher: nn.Module | None,
    bfloat16: bool,
) -> Tensor:
    """Cross-entropy with label smoothing and mixup; with a teacher, partly its softened answer instead.

    Mixup: Zhang et al. 2018, arXiv:1710.09412. Distillation: Hinton et al. 2015, arXiv:1503.02531, section 2.
    """
    cross_entropy = nn.functional.cross_entropy
    loss = cross_entropy(logits, target, label_smoothing=options.label_smoothing)
    if mix < 1.0:
        other = cross_entropy(logits, target.flip(0), label_smoothing=options.label_smoothing)
        loss = mix * loss + (1 - mix) * other
    if teacher is not None and options.distillation:
        with torch.no_grad(), torch.autocast(inputs.device.type, torch.bfloat16, enabled=bfloat16):
            taught = teacher(inputs).float()
        heat = options.temperature
        imitation = nn.functional.kl_div(
            nn.functional.log_softmax(logits / heat, 1),
            nn.functional.log_softmax(taught / heat, 1),
            reduction="batchmean",
            log_target=True,
        )
        loss = (1 - options.distillation) * loss + options.distillation * heat * heat * imitation
    return loss


def make_optimizer(module: nn.Module, options: TrainOptions) -> torch.optim.Optimizer:
    """Adam as in Keras (epsilon 1e-7); with weight decay, decoupled and on kernels only."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not trainable:
        raise OptionError("module", "it has no trainable parameters", "Unfreeze some of its layers")
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], options.learning_rate, eps=1e-7, fused=True
    )


@torch.no_grad()
def follow(average: nn.Module, module: nn.Module, decay: float, step: int) -> None:
    """Moves the average towards the module; the first steps count more, so that it forgets the initial weights."""
    share = 1.0 - min(decay, (1 + step) / (10 + step))
    for mean, value in zip(average.state_dict().values(), module.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, share)
        else:
            mean.copy_(value)
