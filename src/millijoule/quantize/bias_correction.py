"""Bias correction: rounding the weights of a layer shifts the mean of its results; the bias takes the shift back.

Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction" (arXiv:1906.04721), section
4.2. With weights w rounded to w' and inputs x, the results move by ``(w - w') E[x]`` on average; adding that to the
bias costs nothing at run time. E[x] comes from the calibration pictures, or, without pictures, from the statistics that
batch normalisation holds (their section 4.2.1, a normal distribution clamped by the activation).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from millijoule.graph import WEIGHT_AXIS, Graph, Node, verify
from millijoule.graph.arithmetic import quantize_array
from millijoule.graph.operators import window_extent

__all__ = ["assumed_means", "assumed_moments", "correct_biases", "mean_shift", "tap_means"]

Float64 = npt.NDArray[np.float64]


def correct_biases(graph: Graph, converted: Graph, means: Mapping[str, Float64]) -> Graph:
    """The converted graph with biases that restore the mean result of every layer.

    Args:
        graph: the simplified float graph.
        converted: its integer or dynamic version, with the same nodes in the same order (a leading `quantize` aside).
        means: mean value of the layers' inputs by tensor name, each (H, W, C) or (C,); layers whose input is missing
            and layers without a bias are left as they are.

    Returns:
        The verified graph; only biases differ.
    """
    constants = dict(converted.constants)
    exact = {node.output: node for node in graph.nodes}
    for node in converted.nodes:
        if node.op not in WEIGHT_AXIS or len(node.inputs) < 3 or node.output not in exact:
            continue
        original = exact[node.output]
        if original.inputs[0] not in means:
            continue
        quant = converted.quant(node.inputs[1])
        weights = graph.constant(original.inputs[1]).astype(np.float64)
        rounded = converted.constant(node.inputs[1]) * quant.broadcast_scale(weights.ndim)
        bias = graph.constant(original.inputs[2]).astype(np.float64)
        bias = bias + mean_shift(graph, original, weights - rounded, means[original.inputs[0]])
        if converted.tensor(node.inputs[2]).dtype == "int32":
            stored = quantize_array(bias, converted.quant(node.inputs[2]), "int32")
            constants[node.inputs[2]] = stored.astype(np.int32)
        else:
            constants[node.inputs[2]] = bias.astype(np.float32)
    return verify(replace(converted, constants=constants))


def mean_shift(graph: Graph, node: Node, difference: Float64, mean: Float64) -> Float64:
    """How far a change of the weights by `difference` moves the mean of each output channel; (channels,)."""
    if node.op == "dense":
        return np.asarray(difference @ mean.reshape(-1))
    taps = tap_means(graph, node, mean)
    if node.op == "depthwise_conv2d":
        return np.asarray((difference[0] * taps).sum(axis=(0, 1)))
    return np.asarray((difference * taps[None]).sum(axis=(1, 2, 3)))


def tap_means(graph: Graph, node: Node, mean: Float64) -> Float64:
    """What each tap of a window reads on average over the windows' positions, padding (zeros) included.

    Args:
        graph: the float graph.
        node: a conv2d or depthwise_conv2d.
        mean: mean feature map (H, W, C), or one value per channel (C,).

    Returns:
        (kernel height, kernel width, C).
    """
    _, height, width, channels = graph.tensor(node.inputs[0]).shape
    full = np.broadcast_to(mean, (height, width, channels))
    top, bottom, left, right = node.attrs["padding"]
    full = np.pad(full, ((top, bottom), (left, right), (0, 0)))
    kernel, stride = graph.tensor(node.inputs[1]).shape[1:3], node.attrs["stride"]
    dilation = node.attrs.get("dilation", (1, 1))
    rows = window_extent(height, kernel[0], stride[0], dilation[0], top, bottom)
    columns = window_extent(width, kernel[1], stride[1], dilation[1], left, right)
    taps = np.empty((*kernel, channels))
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            y, x = i * dilation[0], j * dilation[1]
            part = full[y : y + rows * stride[0] : stride[0], x : x + columns * stride[1] : stride[1]]
            taps[i, j] = part.mean(axis=(0, 1))
    return taps


def assumed_means(graph: Graph) -> dict[str, Float64]:
    """Mean value per channel of every tensor whose distribution batch normalisation tells; see `assumed_moments`."""
    return {name: mean for name, (mean, _) in assumed_moments(graph).items()}


def assumed_moments(graph: Graph) -> dict[str, tuple[Float64, Float64]]:
    """Mean and variance per channel of every tensor whose distribution batch normalisation tells; needs no pictures.

    A batch_norm result is taken as normal with mean beta and deviation abs(gamma); clamps cut that distribution; sums
    add means and variances; pooling, padding and averaging keep the mean. Pictures are assumed to average to the middle
    of their range.

    Args:
        graph: a float graph with its batch_norm nodes.
    """
    means: dict[str, Float64] = {}
    variances: dict[str, Float64] = {}
    for node in graph.nodes:
        name, source = node.output, node.inputs[0]
        if node.op == "normalize":
            scale, offset = np.asarray(node.attrs["scale"], np.float64), np.asarray(node.attrs["offset"], np.float64)
            means[name], variances[name] = 127.5 * scale + offset, np.zeros_like(scale)
        elif node.op == "batch_norm":
            gamma, beta = (graph.constant(part).astype(np.float64) for part in node.inputs[1:3])
            means[name], variances[name] = beta, gamma**2
        elif node.op == "add" and all(part in means for part in node.inputs):
            left, right = node.inputs
            means[name], variances[name] = means[left] + means[right], variances[left] + variances[right]
        elif node.op in ("clamp", "pad", "transpose", "avg_pool", "mean") and source in means:
            means[name], variances[name] = means[source], variances[source]
        else:
            continue
        clamp = node.attrs.get("clamp")
        if clamp is not None:
            means[name], variances[name] = _clamped_normal(means[name], variances[name], *clamp)
    return {name: (mean, variances[name]) for name, mean in means.items()}


def _clamped_normal(mean: Float64, variance: Float64, low: float, high: float) -> tuple[Float64, Float64]:
    """Mean and variance of ``min(max(x, low), high)`` for normal x, per channel (Nagel et al. 2019, appendix C)."""
    deviation = np.sqrt(np.maximum(variance, 1e-24))
    below, above = (low - mean) / deviation, (high - mean) / deviation
    low_share, high_share = _cumulative(below), 1.0 - _cumulative(above)
    inside = 1.0 - low_share - high_share
    low_density, high_density = _density(below), _density(above)
    finite_low, finite_high = (low if math.isfinite(low) else 0.0), (high if math.isfinite(high) else 0.0)
    first = finite_low * low_share + finite_high * high_share
    first = first + mean * inside + deviation * (low_density - high_density)
    edge = np.where(np.isfinite(below), below, 0.0) * low_density
    edge = edge - np.where(np.isfinite(above), above, 0.0) * high_density
    second = finite_low**2 * low_share + finite_high**2 * high_share
    second = second + (mean**2 + deviation**2) * inside
    second = second + 2.0 * mean * deviation * (low_density - high_density) + deviation**2 * edge
    return first, np.maximum(second - first**2, 0.0)


def _density(z: Float64) -> Float64:
    return np.asarray(np.exp(-0.5 * np.minimum(z * z, 1400.0)) / math.sqrt(2.0 * math.pi))


def _cumulative(z: Float64) -> Float64:
    return np.asarray([0.5 * math.erfc(-float(value) / math.sqrt(2.0)) for value in z])
