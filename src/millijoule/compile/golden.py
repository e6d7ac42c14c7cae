"""The self-test of the firmware: a picture that both sides can make, and the logits it must give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from millijoule.execute import run
from millijoule.graph import Graph

__all__ = ["GoldenVector", "golden_picture", "golden_vector"]

SEED = 1
RELATIVE_TOLERANCE = 0.02
"""Of the largest logit: float logits depend on the order of sums, and a run-time quantised value may tip over."""


@dataclass(frozen=True)
class GoldenVector:
    """The start of the generator, the expected logits (1, classes), and how far float logits may lie from them."""

    seed: int
    logits: npt.NDArray[Any]
    tolerance: float


def golden_picture(shape: tuple[int, ...], seed: int = SEED) -> npt.NDArray[np.uint8]:
    """Noise from the linear congruential generator x = 1664525 x + 1013904223 mod 2^32 (Numerical Recipes, ch. 7).

    Args:
        shape: (1, H, W, C).
        seed: the state before the first byte.

    Returns:
        uint8 of that shape; byte i is the top byte of state i.
    """
    count, state = int(np.prod(shape)), seed
    picture = bytearray(count)
    for index in range(count):
        state = (1664525 * state + 1013904223) & 0xFFFFFFFF
        picture[index] = state >> 24
    return np.frombuffer(bytes(picture), dtype=np.uint8).reshape(shape)


def golden_vector(graph: Graph) -> GoldenVector:
    """The golden picture's logits, from the executor that defines the graph's arithmetic."""
    picture = golden_picture(graph.tensor(graph.inputs[0]).shape)
    logits = run(graph, picture)[graph.outputs[0]]
    tolerance = 0.0
    if logits.dtype == np.float32:
        tolerance = RELATIVE_TOLERANCE * max(1e-3, float(np.abs(logits).max()))
    return GoldenVector(SEED, logits, tolerance)
