"""Calibration without any pictures: drawn ones instead, checked against what batch normalisation remembers.

The drawn pictures are dead leaves: opaque shapes of random colour that cover one another, their sizes following a
power law. Lee, Mumford and Huang 2001, "Occlusion models for natural images" (International Journal of Computer Vision
41), show that these share the statistics of photographs: edges, flat regions, a 1/f spectrum.

Batch normalisation holds the mean and the variance that each channel had in training. Where drawn pictures excite a
tensor less than that, its range is widened to mean plus and minus some deviations (Nagel et al. 2019,
arXiv:1906.04721, section 4.2.1; there 6, with the normal distribution cut off by the activation).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from millijoule.graph import Graph
from millijoule.quantize.bias_correction import assumed_moments
from millijoule.quantize.observers import Range

__all__ = ["DRAWN", "drawn_for", "drawn_pictures", "normal_ranges", "widened"]

Pictures = npt.NDArray[np.uint8]

DRAWN = 64
"""Pictures that are drawn where none are given."""

DEVIATIONS = 4.0
"""How far ranges reach at least on either side of the mean that batch normalisation tells. Nagel et al. 2019 use 6
without pictures; drawn pictures show the tails of most tensors, and 4 then leaves a finer step."""

LOGITS_MARGIN = 2.0
"""A network is surer of photographs than of drawn shapes: its logits reach about twice as far."""


def drawn_for(graph: Graph, count: int = DRAWN) -> Pictures:
    """`drawn_pictures` of the size that a graph takes."""
    _, height, width, channels = graph.tensor(graph.inputs[0]).shape
    return drawn_pictures(count, height, width, channels)


def normal_ranges(graph: Graph, deviations: float = DEVIATIONS) -> dict[str, Range]:
    """Range of each tensor that batch normalisation, a clamp after it or an addition writes: mean plus and minus some
    deviations of every channel, with zero, cut off by the clamps.

    Args:
        graph: a float graph with its batch_norm nodes; without them nothing is known.
        deviations: how many.
    """
    moments = assumed_moments(graph)
    ranges: dict[str, Range] = {}
    for node in graph.nodes:
        if node.op in ("batch_norm", "add") and node.output in moments:
            mean, variance = moments[node.output]
            reach = deviations * np.sqrt(variance)
            low, high = min(0.0, float((mean - reach).min())), max(0.0, float((mean + reach).max()))
        elif node.op == "clamp" and node.inputs[0] in ranges:
            low, high = ranges[node.inputs[0]]
        else:
            continue
        clamp = node.attrs.get("clamp", (-np.inf, np.inf))
        ranges[node.output] = max(low, min(0.0, float(clamp[0]))), min(high, max(0.0, float(clamp[1])))
    return ranges


def widened(ranges: Mapping[str, Range], known: Mapping[str, Range], logits: str) -> dict[str, Range]:
    """Ranges measured on drawn pictures, widened to those that are `known`; the logits' by `LOGITS_MARGIN`."""
    result = {}
    for name, (low, high) in ranges.items():
        other = known.get(name, (0.0, 0.0))
        result[name] = min(low, other[0]), max(high, other[1])
    if logits in ranges:
        low, high = ranges[logits]
        result[logits] = LOGITS_MARGIN * low, LOGITS_MARGIN * high
    return result


def drawn_pictures(count: int, height: int, width: int, channels: int = 3, *, seed: int = 0) -> Pictures:
    """Dead leaves pictures with gentle shading and a little noise, uint8 (count, height, width, channels).

    Args:
        count: how many.
        height: pixels.
        width: pixels.
        channels: colours, usually 3.
        seed: of the drawing; the same seed gives the same pictures.
    """
    random = np.random.default_rng(seed)
    return np.stack([_dead_leaves(random, height, width, channels) for _ in range(count)])


def _dead_leaves(random: np.random.Generator, height: int, width: int, channels: int) -> Pictures:
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    side = float(max(height, width))
    base = random.uniform(40, 215)
    picture = np.empty((height, width, channels), np.float32)
    picture[:] = base + random.normal(0, 20, channels)
    spread = random.uniform(25, 80)
    for _ in range(int(random.integers(60, 220))):
        # radius ~ r^-3 between 1.5 % and 40 % of the side: the law of photographs
        low, high = 0.015, 0.4
        u = random.uniform()
        radius = side / np.sqrt((1 - u) / low**2 + u / high**2)
        y, x = random.uniform(-0.1, 1.1) * height, random.uniform(-0.1, 1.1) * width
        angle, aspect = random.uniform(0, np.pi), random.uniform(0.4, 1.0)
        top, bottom = int(max(0, y - 1.5 * radius)), int(min(height, y + 1.5 * radius + 1))
        left, right = int(max(0, x - 1.5 * radius)), int(min(width, x + 1.5 * radius + 1))
        if top >= bottom or left >= right:
            continue
        dy, dx = rows[top:bottom, left:right] - y, columns[top:bottom, left:right] - x
        along = (dx * np.cos(angle) + dy * np.sin(angle)) / radius
        across = (dy * np.cos(angle) - dx * np.sin(angle)) / (radius * aspect)
        inside = along**2 + across**2 < 1 if random.uniform() < 0.5 else np.maximum(np.abs(along), np.abs(across)) < 0.8
        grey = base + random.normal(0, spread)
        colour = grey + random.normal(0, 12, channels)
        shade = (along * random.normal(0, 8) + across * random.normal(0, 8))[..., None]
        region = picture[top:bottom, left:right]
        region[inside] = (colour.astype(np.float32) + shade)[inside]
    picture += random.normal(0, random.uniform(0.5, 5), picture.shape).astype(np.float32)
    return np.clip(picture, 0, 255).astype(np.uint8)
