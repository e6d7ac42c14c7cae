"""A wider network that computes what a narrower one computes: the best start where no weights of that width exist.

Chen, Goodfellow, Shlens: Net2Net: Accelerating Learning via Knowledge Transfer, ICLR 2016 (arXiv:1511.05641), the
"wider" operation, extended to depthwise convolutions, batch normalisation and residual sums. Every new channel copies
an old one; whoever reads the copies shares the old weight between them. The shares are unequal on purpose: equal ones
would give copies equal gradients for ever.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from millijoule.errors import WeightsError
from millijoule.nets._network import Network
from millijoule.nets._registry import layers
from millijoule.nets._spec import Layer

__all__ = ["widen"]

Copies = npt.NDArray[np.int64]


@torch.no_grad()
def widen(narrow: Network, wide: Network, *, seed: int = 0) -> None:
    """Fills `wide` so that in evaluation mode it gives the logits of `narrow` (up to float rounding).

    Args:
        narrow: the network whose knowledge is copied.
        wide: a network of the same family, resolution and classes, no layer of which is narrower.
        seed: decides which channels are copied and how weights are shared.

    Raises:
        WeightsError: the two networks differ in more than width, or a layer of `wide` is narrower.
    """
    old_layers, new_layers = layers(narrow.spec), layers(wide.spec)
    what = f"alpha {wide.spec.alpha:g} grown from alpha {narrow.spec.alpha:g}"
    if [layer.name for layer in old_layers] != [layer.name for layer in new_layers]:
        raise WeightsError(what, "the two networks have different layers", "Use two widths of one family")
    if narrow.spec.classes != wide.spec.classes:
        raise WeightsError(what, "the numbers of classes differ", "Build both with the same number of classes")
    generator = np.random.default_rng(seed)
    streams: dict[tuple[int, int], Copies] = {}
    copies: dict[str, Copies] = {"input": np.arange(narrow.spec.channels)}
    for old, new in zip(old_layers, new_layers, strict=True):
        source = copies[new.inputs[0]]
        width = (old.output_shape[2], new.output_shape[2])
        if width[1] < width[0]:
            raise WeightsError(what, f"layer {new.name!r} would shrink from {width[0]} to {width[1]}", "Widen only")
        if new.operator in ("add", "max_pool", "mean", "flatten", "dropout", "depthwise_conv2d"):
            copies[new.name] = source
        elif new.operator == "dense":
            copies[new.name] = np.arange(width[1])
        elif new.activation is None:  # ends on a residual stream: all layers of one width must copy alike
            copies[new.name] = streams.setdefault(width, _copies(*width, generator))
        else:
            copies[new.name] = _copies(*width, generator)
        if new.operator in ("conv2d", "depthwise_conv2d", "dense"):
            _fill(narrow, wide, new, source, copies[new.name], generator)


def _copies(old: int, new: int, generator: np.random.Generator) -> Copies:
    """Which old channel each new channel copies: all of them once, then as few as possible twice."""
    rounds = [generator.permutation(old) for _ in range(-(-new // old) - 1)]
    return np.concatenate([np.arange(old), *rounds])[:new]


def _shares(copies: Copies, generator: np.random.Generator) -> torch.Tensor:
    """For each new channel its part of the old weight; the parts of one old channel sum to 1."""
    parts = generator.uniform(0.5, 1.5, len(copies))
    totals = np.bincount(copies, weights=parts)
    return torch.from_numpy(parts / totals[copies])


def _fill(
    narrow: Network,
    wide: Network,
    layer: Layer,
    source: Copies,
    target: Copies,
    generator: np.random.Generator,
) -> None:
    weight = getattr(narrow, layer.name).weight.double()[torch.from_numpy(target)]
    if layer.operator != "depthwise_conv2d":
        shares = _shares(source, generator)
        weight = weight[:, torch.from_numpy(source)] * shares.reshape(1, -1, *([1] * (weight.ndim - 2)))
    module = getattr(wide, layer.name)
    module.weight.copy_(weight)
    if module.bias is not None:
        module.bias.copy_(getattr(narrow, layer.name).bias[torch.from_numpy(target)])
    if layer.batch_norm is not None:
        before, after = getattr(narrow, layer.batch_norm), getattr(wide, layer.batch_norm)
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(after, name).copy_(getattr(before, name)[torch.from_numpy(target)])
