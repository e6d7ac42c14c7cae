"""The network a training begins with: random weights, a file, or a file of a narrower network grown wider."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from millijoule.data import batches
from millijoule.nets import LoadReport, Network, NetworkSpec, build, load_weights, unfold_batch_norm, widen
from millijoule.train._evaluate import network_input
from millijoule.train._protocol import PreparedLike

__all__ = ["initial_network"]

STATISTICS_BATCHES, STATISTICS_BATCH_SIZE = 8, 32
"""How many training pictures measure batch normalisation when a file comes with its statistics folded away."""


def initial_network(
    spec: NetworkSpec,
    prepared: PreparedLike,
    *,
    seed: int = 0,
    init: Path | None = None,
    init_alpha: float = 0.0,
    partial: bool = False,
) -> tuple[Network, LoadReport | None]:
    """Builds the network of `spec` and gives it its first weights.

    Args:
        spec: the network.
        prepared: pictures of the training split measure batch normalisation where the file has it folded away.
        seed: of random weights.
        init: weight file, see `millijoule.nets.load_weights`; None for random weights.
        init_alpha: width of the network in the file, 0 for that of `spec`. A narrower one is grown to the width of
            `spec` without changing what it computes (`millijoule.nets.widen`).
        partial: pad or skip layers of the file that have another shape.

    Returns:
        The network and, with a file, what was loaded from it.

    Raises:
        WeightsError: the file belongs to another network.
        FormatError: it is not a weight file.
    """
    if init is None:
        return build(spec, seed=seed), None
    narrow = spec if init_alpha in (0.0, spec.alpha) else replace(spec, alpha=init_alpha)
    network = build(narrow, seed=seed)
    report = load_weights(network, narrow, init, partial=partial)
    if report.folded:
        _unfold(network, prepared, narrow)
    if narrow is spec:
        return network, report
    wide = build(spec, seed=seed)
    widen(network, wide)
    return wide, report


def _unfold(network: Network, prepared: PreparedLike, spec: NetworkSpec) -> None:
    inputs = []
    source = batches(
        prepared.split("train"),
        STATISTICS_BATCH_SIZE,
        resolution=spec.resolution,
        seed=0,
        shuffle=True,
    )
    for pictures, _ in source:
        inputs.append(network_input(np.asarray(pictures), spec.normalization, torch.device("cpu")))
        if len(inputs) == STATISTICS_BATCHES:
            break
    unfold_batch_norm(network, inputs)
