"""Layer by layer, from the first to the last: weights and biases that bring each result back to the float network's.

One pass carries the calibration pictures through the float network and through the quantised one at the same time. At
each layer with weights, what the quantised layer really reads (errors of all earlier layers and of the activations'
rounding included) and what the float layer gives are compared at some thousand sampled positions. From the two follow

* `adjust`: the weights whose results come nearest to the float results for the inputs as they really are (least squares
  drawn towards the original weights), the asymmetric reconstruction of Nagel et al. 2020 (arXiv:2004.10568, section
  3.3). Its diagonal is what re-estimating batch normalisation would give: mean and variance of every channel;
* `clip`: scales of the weights, searched by the error of the results;
* `round`: learned rounding, see `rounding`;
* always the bias: the mean error of each channel is taken away (empirical bias correction, Nagel et al. 2019,
  arXiv:1906.04721, section 4.2).

Weights and biases change, nothing else does: no flash, no cycles.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from millijoule.errors import OptionError, QuantizationError
from millijoule.execute._run import STEP_BUILDERS
from millijoule.files import Progress
from millijoule.graph import WEIGHT_AXIS, Graph, Node, Quant, mode, verify
from millijoule.graph.arithmetic import dynamic_quantize, dynamic_range, quantize_array
from millijoule.graph.conversion import BIAS_LIMIT
from millijoule.quantize.rounding import learned_rounding, nearest, rounding_error, search_scales

__all__ = ["PARTS", "LayerChange", "float_node", "reconstruct"]

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]

PARTS = ("adjust", "clip", "round")
"""What `reconstruct` can do besides correcting biases."""

_CLAMPED_SHARE = 0.05
"""Weight of a result that the clamp cuts off, against 1 for the others."""

_CHUNK = 8
"""Pictures per step of the executors."""


@dataclass(frozen=True)
class LayerChange:
    """What became of one layer.

    Attributes:
        layer: the name the user knows.
        before: mean squared error of its results over the samples divided by the float results' variance, with the
            weights and the bias it came with.
        after: the same with the new ones, clamps left out in both.
        moved: weights that are not where rounding to nearest would put them.
        weights: how many it has.
        clipped: output channels with a smaller scale than their largest weight asks for.
    """

    layer: str
    before: float
    after: float
    moved: int
    weights: int
    clipped: int


def reconstruct(
    graph: Graph,
    converted: Graph,
    pictures: npt.NDArray[np.uint8],
    *,
    parts: Iterable[str] = PARTS,
    samples: int = 8192,
    draw: float = 0.02,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[Graph, tuple[LayerChange, ...]]:
    """The converted graph with weights and biases fitted to the float graph's results.

    Args:
        graph: the simplified float graph.
        converted: its integer or dynamic version, with the same tensor names.
        pictures: uint8 (N, H, W, C); every feature map that is still needed is held for all of them.
        parts: of `PARTS`; none corrects the biases only.
        samples: positions that are compared per layer.
        draw: how strongly `adjust` is drawn towards the original weights, as a share of the mean squared input.
        seed: chooses the positions.
        progress: called after each layer.

    Returns:
        The verified graph and one entry per layer with weights.

    Raises:
        OptionError: an unknown part.
        QuantizationError: no pictures.
    """
    parts = tuple(parts)
    for part in parts:
        if part not in PARTS:
            raise OptionError("parts", f"{part!r} is unknown", f"Use one of: {', '.join(PARTS)}")
    if len(pictures) == 0:
        raise QuantizationError("reconstruction", "there are no pictures", "Give some calibration pictures")
    random = np.random.default_rng(seed)
    exact = {node.output: node for node in graph.nodes}
    constants, tensors = dict(converted.constants), dict(converted.tensors)
    current = replace(converted, constants=constants, tensors=tensors)
    last = {name: index for index, node in enumerate(converted.nodes) for name in node.inputs}
    real: dict[str, Array] = dict.fromkeys(graph.inputs, pictures)
    stored: dict[str, Array] = dict.fromkeys(converted.inputs, pictures)
    changes = []
    for index, node in enumerate(converted.nodes):
        original = exact.get(node.output)
        if original is None:  # the quantize node of a float input
            stored[node.output] = _step(current, node, stored)
            real[node.output] = real[node.inputs[0]]
            continue
        if node.op in WEIGHT_AXIS:
            fit = _Fit(graph, original, current, node, real, stored, samples, random)
            changes.append(fit.run(parts, draw))
            fit.write(constants, tensors)
        if progress is not None:
            progress("reconstruct", index + 1, len(converted.nodes))
        if all(last[name] <= index for name in last if name in exact):
            break
        real[node.output], stored[node.output] = _step(graph, original, real), _step(current, node, stored)
        for name in node.inputs:
            if last[name] == index:
                stored.pop(name, None)
        for name in original.inputs:
            if last.get(name, last.get(f"{name}.int8", index)) <= index and name not in converted.inputs:
                real.pop(name, None)
    return verify(current), tuple(changes)


def _step(graph: Graph, node: Node, values: Mapping[str, Array]) -> Array:
    """One node over all pictures, a few at a time."""
    inputs = [values[name] for name in node.inputs if name not in graph.constants]
    compute = float_node(graph, node) if mode(graph, node) == "float" else STEP_BUILDERS[mode(graph, node)](graph, node)
    result: Array | None = None
    for start in range(0, len(inputs[0]), _CHUNK):
        part = compute([value[start : start + _CHUNK] for value in inputs])
        if result is None:
            result = np.empty((len(inputs[0]), *part.shape[1:]), part.dtype)
        result[start : start + len(part)] = part
    assert result is not None
    return result


def float_node(graph: Graph, node: Node) -> Any:
    """A float node's function: torch's where it is installed, as it is several times faster."""
    plain = STEP_BUILDERS["float"](graph, node)
    if node.op not in WEIGHT_AXIS:
        return plain
    try:
        import torch

        from millijoule.execute._torch import apply, torch_constant
    except ModuleNotFoundError:
        return plain
    constants = [
        torch.from_numpy(torch_constant(node, index, graph.constants[name]).copy())
        for index, name in enumerate(node.inputs)
        if index > 0
    ]

    def compute(inputs: list[Array]) -> Array:
        x = torch.from_numpy(np.ascontiguousarray(inputs[0]))
        with torch.inference_mode():
            y = apply(graph, node, [x.permute(0, 3, 1, 2) if x.ndim == 4 else x, *constants])
        return np.ascontiguousarray((y.permute(0, 2, 3, 1) if y.ndim == 4 else y).numpy())

    return compute


class _Fit:
    """One layer: its samples, and the weights that follow from them.

    Weights are (G, O, K), inputs (G, S, K) and results (G, S, O) with G = 1 but for depthwise convolutions (G =
    channels, O = 1).
    """

    def __init__(
        self,
        graph: Graph,
        original: Node,
        converted: Graph,
        node: Node,
        real: Mapping[str, Array],
        stored: Mapping[str, Array],
        samples: int,
        random: np.random.Generator,
    ) -> None:
        self.converted, self.node, self.layer = converted, node, original.source or original.output
        self.depthwise = node.op == "depthwise_conv2d"
        self.quant = converted.quant(node.inputs[1])
        self.largest = 2 ** (self.quant.bits - 1) - 1
        where = _positions(graph, original, len(real[original.inputs[0]]), samples, random)
        self.reads = self._grouped(_read(converted, node, stored[node.inputs[0]], where))
        expects = self._grouped(_read(graph, original, real[original.inputs[0]], where))
        self.weights = self._rows(graph.constant(original.inputs[1]).astype(np.float64))
        self.target = expects @ np.swapaxes(self.weights, 1, 2).astype(np.float32)
        if len(original.inputs) == 3:
            bias = graph.constant(original.inputs[2])
            self.target += bias.reshape(-1, 1, 1) if self.depthwise else bias
        self.has_bias = len(node.inputs) == 3
        self.share = self._share(original.attrs.get("clamp"))
        # neighbouring positions tell nearly the same, so a map counts as its height
        sides = graph.tensor(original.output).shape[1] if len(graph.tensor(original.output).shape) == 4 else 1
        self.independent = min(self.reads.shape[1], len(real[original.inputs[0]]) * sides)

    def _share(self, clamp: Any) -> Float32:
        """How much each result counts, (G, S, O): hardly where the clamp makes errors disappear."""
        if clamp is None:
            return np.ones_like(self.target)
        inside = (self.target > clamp[0]) & (self.target < clamp[1])
        return np.asarray(np.where(inside, np.float32(1.0), np.float32(_CLAMPED_SHARE)))

    def _grouped(self, windows: Float32) -> Float32:
        """(S, kh, kw, C) or (S, C) as (G, S, K)."""
        if self.depthwise:
            return np.ascontiguousarray(windows.transpose(3, 0, 1, 2)).reshape(windows.shape[3], len(windows), -1)
        return windows.reshape(1, len(windows), -1)

    def _rows(self, weights: Float64) -> Float64:
        """Weights in the graph's layout as (G, O, K)."""
        if self.depthwise:
            return np.ascontiguousarray(weights.transpose(3, 0, 1, 2)).reshape(weights.shape[3], 1, -1)
        return weights.reshape(1, weights.shape[0], -1)

    def run(self, parts: tuple[str, ...], draw: float) -> LayerChange:
        """Finds weights, scales and bias."""
        shape = self.weights.shape[:2]
        scales = np.broadcast_to(np.asarray(self.quant.scale, dtype=np.float64).reshape(-1), shape[0] * shape[1])
        self.scales = np.ascontiguousarray(scales).reshape(shape)
        before = self._rows(self.converted.constant(self.node.inputs[1]).astype(np.float64))
        error_before = self._error(before, self._stored_bias())
        weight = self.share if self.depthwise else np.ones_like(self.reads[:, :, :1])
        weight = weight / weight.sum(axis=1, keepdims=True)
        mean = (weight * self.reads).sum(axis=1, keepdims=True) if self.has_bias else np.zeros_like(self.reads[:, :1])
        centred = self.reads - mean
        weighted = np.swapaxes(centred * weight, 1, 2)
        moments = self._shrunk((weighted @ centred).astype(np.float64))
        wanted = self._adjusted(moments, weighted, draw) if "adjust" in parts else self.weights
        clipped = 0
        if "clip" in parts:
            clipped = self._clip(wanted, moments)
        usual = before if wanted is self.weights and not clipped else nearest(wanted, self.scales, self.largest)
        self.stored = (
            learned_rounding(wanted, self.scales, moments, largest=self.largest) if "round" in parts else usual
        )
        results = self._results(self.stored * self.scales[..., None])
        self.bias = None
        if self.has_bias:
            self.bias = (self.share * (self.target - results)).sum(axis=1, dtype=np.float64)
            self.bias /= self.share.sum(axis=1, dtype=np.float64)
        error = self._error(self.stored, self.bias)
        moved = int((self.stored != nearest(self.weights, self.scales, self.largest)).sum())
        return LayerChange(self.layer, error_before, error, moved, self.weights.size, clipped)

    def _results(self, weights: Float64) -> Float32:
        """What the samples give with these weights, (G, S, O), without a bias."""
        return np.asarray(self.reads @ np.swapaxes(weights, 1, 2).astype(np.float32))

    def _shrunk(self, moments: Float64) -> Float64:
        """Moments of few samples are drawn towards their diagonal: what they tell of correlations is mostly chance."""
        size = moments.shape[-1]
        share = self.independent / (self.independent + size)
        return np.asarray(np.where(np.eye(size, dtype=bool), moments, share * moments))

    def _adjusted(self, moments: Float64, weighted: Float32, draw: float) -> Float64:
        size = moments.shape[-1]
        mean = np.trace(moments, axis1=1, axis2=2) / size
        ridge = (draw * mean + 1e-12)[:, None, None] * np.eye(size)
        missing = self.target - self._results(self.weights)
        if self.has_bias:
            missing = missing - missing.mean(axis=1, keepdims=True)
        change = np.linalg.solve(moments + ridge, (weighted @ missing).astype(np.float64))
        change *= self.independent / (self.independent + size)
        return self.weights + np.swapaxes(change, 1, 2)

    def _clip(self, wanted: Float64, moments: Float64) -> int:
        before = self.scales
        floor = np.full_like(before, float(before.max()) * 2.0**-31)
        if self.has_bias and mode(self.converted, self.node) == "integer":
            data = self.converted.quant(self.node.inputs[0]).scalar_scale
            bias = np.abs(self._stored_bias()).reshape(before.shape)
            floor = np.maximum(floor, bias / (data * BIAS_LIMIT))
        floor = np.minimum(floor, before)
        if self.quant.axis is not None:
            self.scales = search_scales(wanted, before, floor, moments, least=self._least_share(), largest=self.largest)
            return int((self.scales < before).sum())
        shares = [
            np.float64(np.float32(before.max() * share))
            for share in np.linspace(1.0, min(0.4, self._least_share()), 31)
        ]
        errors = []
        for scale in shares:
            tried = np.full_like(before, max(scale, float(floor.max())))
            errors.append(rounding_error(wanted, nearest(wanted, tried, self.largest), tried, moments).sum())
        self.scales = np.full_like(before, max(shares[int(np.argmin(errors))], float(floor.max())))
        return self.scales.size if self.scales.max() < before.max() else 0

    def _least_share(self) -> float:
        """The smallest share of a scale that is tried: few steps are best spent where most of the weights are."""
        return 0.7 if self.quant.bits == 8 else 0.4

    def _stored_bias(self) -> Float64:
        """The bias that the layer has now, (G, O), real values."""
        groups, rows, _ = self.weights.shape
        if not self.has_bias:
            return np.zeros((groups, rows))
        name = self.node.inputs[2]
        value = self.converted.constant(name).astype(np.float64)
        if self.converted.tensor(name).dtype == "int32":
            value = value * self.converted.quant(name).broadcast_scale(1)
        return value.reshape(groups, rows)

    def _error(self, stored: Float64, bias: Float64 | None) -> float:
        results = self._results(stored * self.scales[..., None])
        if bias is not None:
            results = results + bias[:, None, :].astype(np.float32)
        variance = float(self.target.var(axis=1).mean())
        return float(np.square(results - self.target).mean()) / variance if variance > 0.0 else 0.0

    def write(self, constants: dict[str, Array], tensors: dict[str, Any]) -> None:
        """Stores what `run` found."""
        name = self.node.inputs[1]
        shape = constants[name].shape
        rows = self.stored.reshape(shape[3], *shape[:3]).transpose(1, 2, 3, 0) if self.depthwise else self.stored
        constants[name] = np.ascontiguousarray(rows.reshape(shape)).astype(np.int8)
        if self.quant.axis is not None:
            quant = Quant.per_channel(self.scales.reshape(-1), self.quant.axis, bits=self.quant.bits)
        else:
            quant = Quant.per_tensor(float(self.scales.max()), bits=self.quant.bits)
        tensors[name] = replace(tensors[name], quant=quant)
        if self.bias is None:
            return
        name, bias = self.node.inputs[2], self.bias.reshape(-1)
        if tensors[name].dtype != "int32":
            constants[name] = bias.astype(np.float32)
            return
        scales = self.converted.quant(self.node.inputs[0]).scalar_scale * np.asarray(quant.scale, dtype=np.float64)
        bias_quant = Quant.per_channel(scales, 0) if quant.axis is not None else Quant.per_tensor(float(scales[0]))
        tensors[name] = replace(tensors[name], quant=bias_quant)
        constants[name] = quantize_array(bias, bias_quant, "int32").astype(np.int32)


def _positions(
    graph: Graph, node: Node, pictures: int, samples: int, random: np.random.Generator
) -> tuple[Array, Array, Array]:
    """Picture, row and column of the results that are compared; all of them where there are no more than `samples`."""
    shape = graph.tensor(node.output).shape
    height, width = shape[1:3] if len(shape) == 4 else (1, 1)
    total = pictures * height * width
    chosen = np.arange(total) if total <= samples else np.sort(random.choice(total, samples, replace=False))
    return chosen // (height * width), chosen // width % height, chosen % width


def _read(graph: Graph, node: Node, data: Array, where: tuple[Array, Array, Array]) -> Float32:
    """The real values that a layer reads for the results at `where`: (S, kh, kw, C), dense: (S, C); padding is 0."""
    values: Array = data
    if mode(graph, node) == "dynamic":
        axes = tuple(range(1, data.ndim))
        scale, zero = dynamic_range(data.min(axis=axes), data.max(axis=axes))
    picture, row, column = where
    if node.op == "dense":
        windows = values[picture]
    else:
        top, _, left, _ = node.attrs["padding"]
        stride, dilation = node.attrs["stride"], node.attrs.get("dilation", (1, 1))
        kernel = graph.tensor(node.inputs[1]).shape[1:3]
        height, width = data.shape[1:3]
        y = (row * stride[0] - top)[:, None] + np.arange(kernel[0]) * dilation[0]
        x = (column * stride[1] - left)[:, None] + np.arange(kernel[1]) * dilation[1]
        windows = values[
            picture[:, None, None], np.clip(y, 0, height - 1)[:, :, None], np.clip(x, 0, width - 1)[:, None, :]
        ]
        inside = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None, :]
    if mode(graph, node) == "integer":
        quant = graph.quant(node.inputs[0])
        result = (windows.astype(np.float32) - quant.scalar_zero_point) * np.float32(quant.scalar_scale)
    elif mode(graph, node) == "dynamic":
        # the rows of one picture share its scale
        whole = np.empty(windows.shape, np.float32)
        for index in np.unique(picture):
            mine = picture == index
            code = dynamic_quantize(windows[mine], scale[index : index + 1], zero[index : index + 1])
            whole[mine] = (code.astype(np.float32) - np.float32(zero[index])) * scale[index]
        result = whole
    else:
        result = windows.astype(np.float32)
    if node.op != "dense":
        result = result * inside[..., None]
    return np.asarray(result)
