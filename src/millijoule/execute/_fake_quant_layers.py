"""Layers whose batch normalisation is folded into fake-quantised weights, and the picture's quantiser."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from millijoule.execute._fake_quant_functions import fake_quantize_weights, round_half_away
from millijoule.execute._torch import torch_constant
from millijoule.graph import WEIGHT_AXIS, Graph, Node, Quant, arithmetic
from millijoule.graph.conversion import BIAS_LIMIT

__all__ = ["LEARNING_GAIN", "FoldedLayer", "PictureQuantizer"]

LEARNING_GAIN = 16.0
"""Learned ranges and steps are ``start * exp(16 * parameter)``: Adam moves each by up to 16 times the learning rate of
itself per step, whatever its unit (logarithmic thresholds: Jain et al. 2020, arXiv:1903.08066, section 4)."""

STEP_CANDIDATES = 41
"""Steps of 4-bit weights that are tried, from 0.3 to 1.0 of the one that holds the largest weight."""


class PictureQuantizer(nn.Module):
    """Normalised pictures through the table of `arithmetic.normalize_table`, so that not even ties differ.

    Args:
        node: the `normalize` node.
        quant: quantisation of its result.
    """

    def __init__(self, node: Node, quant: Quant) -> None:
        super().__init__()
        table = arithmetic.normalize_table(node.attrs["scale"], node.attrs["offset"], quant)
        real = (torch.from_numpy(table.astype("float64")) - quant.scalar_zero_point) * quant.scalar_scale
        shape = (1, -1, 1, 1)
        self.register_buffer("table", real.float(), persistent=False)
        self.register_buffer("integers", torch.from_numpy(table.astype("float32")), persistent=False)
        self.register_buffer("scale", torch.tensor(node.attrs["scale"]).double().reshape(shape), persistent=False)
        self.register_buffer("offset", torch.tensor(node.attrs["offset"]).double().reshape(shape), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Float32 (N, C, H, W), normalised, to the values that int8 can hold."""
        return self._look_up(cast(Tensor, self.table), x)

    def stored(self, x: Tensor) -> Tensor:
        """The same as stored int8 values, in float32."""
        return self._look_up(cast(Tensor, self.integers), x)

    def _look_up(self, table: Tensor, x: Tensor) -> Tensor:
        scale, offset = cast(Tensor, self.scale), cast(Tensor, self.offset)
        inverse, start = (1.0 / scale).float(), (offset / scale).float()
        byte = (x * inverse).sub_(start).round_().clamp_(0, 255).int()
        if table.shape[0] == 1:
            return table[0][byte]
        channels = torch.arange(table.shape[0], device=x.device).reshape(1, -1, 1, 1)
        return table[channels, byte]


class FoldedLayer(nn.Module):
    """conv2d, depthwise_conv2d or dense, with the batch normalisation that follows it, if any.

    The weights that are fake-quantised are those that the microcontroller will hold: ``w * gamma / sqrt(variance)``
    with running statistics. While batch statistics are in use the sums are divided by that factor again and normalised
    by the batch, so that one convolution serves both (Krishnamoorthi 2018, arXiv:1806.08342, section 3.2).

    Args:
        graph: the float graph.
        node: the layer.
        norm: its batch_norm node, None if it has none.
        momentum: share of the newest batch in the running statistics.
        per_channel: one weight scale per output channel.
        bits: of the weights: 8 in [-127, 127], 4 in [-8, 7].
        learned: whether the weights' steps are parameters.
    """

    def __init__(
        self,
        graph: Graph,
        node: Node,
        norm: Node | None,
        momentum: float,
        per_channel: bool,
        bits: int = 8,
        learned: bool = False,
    ) -> None:
        super().__init__()
        self.node, self.norm, self.momentum, self.per_channel = node, norm, momentum, per_channel
        self.widest: Tensor | None = None  # the largest scale of weights, once they have been rounded
        self.bits, self.lowest, self.highest = bits, -127 if bits == 8 else -8, 127 if bits == 8 else 7
        weight = torch.from_numpy(torch_constant(node, 1, graph.constants[node.inputs[1]]).copy())
        if weight.ndim == 4:
            weight = weight.to(memory_format=torch.channels_last)
        self.weight = nn.Parameter(weight)
        has_bias = len(node.inputs) == 3
        self.bias = nn.Parameter(torch.from_numpy(graph.constants[node.inputs[2]].copy())) if has_bias else None
        self.epsilon = 0.0
        if norm is not None:
            gamma, beta, mean, variance = (torch.from_numpy(graph.constants[n].copy()) for n in norm.inputs[1:])
            self.gamma, self.beta = nn.Parameter(gamma), nn.Parameter(beta)
            self.register_buffer("running_mean", mean)
            self.register_buffer("running_variance", variance)
            self.epsilon = float(norm.attrs["epsilon"])
        self.own_steps = learned or bits != 8
        if self.own_steps:
            ratio = self._best_ratio() if bits != 8 else torch.ones(weight.shape[0])
            shift = ratio.log().div(LEARNING_GAIN).float()
            if learned:
                self.step_shift = nn.Parameter(shift)
            else:
                self.register_buffer("step_shift", shift)

    def forward(self, x: Tensor, input_scale: Tensor | None, quantize: bool, frozen: bool) -> Tensor:
        """The layer without its clamp.

        Args:
            x: the data.
            input_scale: scale of the data, None while it is float.
            quantize: whether the weights are fake-quantised.
            frozen: whether batch normalisation uses its running statistics.
        """
        if self.norm is not None and self.training and not frozen:
            weight = self._rounded_before_folding(input_scale) if quantize else self.weight
            return self._normalize(self._linear(x, weight, self.bias))
        weight, bias = self._folded(torch.float32 if self.training else torch.float64)
        weight, bias = weight.float(), None if bias is None else bias.float()
        if quantize:
            step = self._steps(weight.detach().abs().flatten(1).amax(1), bias, input_scale)
            weight = fake_quantize_weights(weight, step, self.lowest, self.highest)
        return self._linear(x, weight, bias)

    def _rounded_before_folding(self, input_scale: Tensor | None) -> Tensor:
        """The folded, rounded weights divided by the folding factor again.

        ``round(w * f / s) * s / f = round(w / (s / f)) * (s / f)``: the weights are rounded to the step ``s / |f|`` and
        never multiplied.
        """
        with torch.no_grad():
            factor, shift = self._factor(torch.float32)
            factor = factor.abs().clamp_(min=1e-12)
            largest = self.weight.abs().flatten(1).amax(1) * factor
        step = self._steps(largest, shift, input_scale) / factor
        return fake_quantize_weights(self.weight, step, self.lowest, self.highest)

    def _normalize(self, x: Tensor) -> Tensor:
        mean, variance = cast(Tensor, self.running_mean), cast(Tensor, self.running_variance)
        return functional.batch_norm(x, mean, variance, self.gamma, self.beta, True, self.momentum, self.epsilon)

    def _factor(self, kind: torch.dtype) -> tuple[Tensor, Tensor]:
        """What folding multiplies the weights by, and the folded bias."""
        mean, variance = cast(Tensor, self.running_mean).to(kind), cast(Tensor, self.running_variance).to(kind)
        factor = self.gamma.to(kind) / torch.sqrt(variance + self.epsilon)
        start = -mean if self.bias is None else self.bias.to(kind) - mean
        return factor, self.beta.to(kind) + start * factor

    def _folded(self, kind: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Weights and bias of `simplify.fold_batch_norm`."""
        weight = self.weight.to(kind)
        if self.norm is None:
            return weight, None if self.bias is None else self.bias.to(kind)
        factor, shift = self._factor(kind)
        return (weight * factor.reshape(-1, *[1] * (weight.ndim - 1))).float(), shift.float()

    @torch.no_grad()
    def integers(self, input_scale: float) -> tuple[Tensor, Tensor, Tensor]:
        """What the microcontroller holds, by the rules of `conversion.integer_graph`.

        Args:
            input_scale: scale of the data.

        Returns:
            Weights in torch's layout and biases (zeros if there are none) as float64 integers, float32 weight scales.
        """
        weight, bias = self._folded(torch.float64)
        largest = weight.abs().flatten(1).amax(1).double()
        scale = self._steps(largest, bias, torch.tensor(input_scale, device=weight.device))
        step = scale.double().reshape(-1, *[1] * (weight.ndim - 1))
        weight = round_half_away(weight.double() / step).clamp(self.lowest, self.highest)
        if bias is None:
            return weight, torch.zeros(len(scale), dtype=torch.float64, device=weight.device), scale
        step = (scale.double() * input_scale).float().double()
        return weight, round_half_away(bias.double() / step), scale

    def graph_integers(self, input_scale: float) -> list[tuple[npt.NDArray[Any], Quant]]:
        """`integers` as constants of an integer graph: weights int8 in the graph's layout, biases int32."""
        axis = WEIGHT_AXIS[self.node.op]
        weight, bias, scale = (value.cpu() for value in self.integers(input_scale))
        scales = scale.double().numpy()
        if self.per_channel:
            quant, bias_quant = (
                Quant.per_channel(scales, axis, bits=self.bits),
                Quant.per_channel(scales * input_scale, 0),
            )
        else:
            quant, bias_quant = Quant.per_tensor(scales[0], bits=self.bits), Quant.per_tensor(scales[0] * input_scale)
        stored = self._in_graph_layout(weight).numpy()
        return [
            (np.ascontiguousarray(stored.astype(np.int8)), quant),
            (bias.numpy().astype(np.int32), bias_quant),
        ]

    def _in_graph_layout(self, weight: Tensor) -> Tensor:
        if weight.ndim != 4:
            return weight
        return weight.permute(0, 2, 3, 1) if WEIGHT_AXIS[self.node.op] == 0 else weight.permute(1, 2, 3, 0)

    def _steps(self, largest: Tensor, bias: Tensor | None, input_scale: Tensor | None) -> Tensor:
        """The weights' scales, float32, from the largest folded weight of each channel.

        The rules of `conversion.weight_quant` in the number type of `largest`; only a learned step has a gradient.
        """
        with torch.no_grad():
            scales = largest / self.highest
            widest = scales.max()
            smallest = torch.where(widest > 0, (widest * 2.0**-31).clamp(min=1e-30), 1.0 / self.highest)
            scales = torch.maximum(scales, smallest)
            needed = None
            if bias is not None and input_scale is not None:
                needed = bias.detach().abs().to(scales.dtype) / (input_scale.to(scales.dtype) * BIAS_LIMIT)
                scales = torch.maximum(scales, needed)
        if self.own_steps:
            scales = scales * torch.exp(LEARNING_GAIN * cast(Tensor, self.step_shift).to(scales.dtype))
            scales = scales if needed is None else torch.maximum(scales, needed)
        scales = scales.float()
        self.widest = scales.detach().max()
        return scales if self.per_channel else scales.max().expand_as(scales).contiguous()

    @torch.no_grad()
    def _best_ratio(self) -> Tensor:
        """Each channel's step of least squared rounding error, as a share of the one that holds its largest weight."""
        weight = self._folded(torch.float64)[0].double().flatten(1)
        whole = (weight.abs().amax(1, keepdim=True) / self.highest).clamp(min=1e-30)
        best, error = torch.ones(len(weight)), torch.full((len(weight),), torch.inf, dtype=torch.float64)
        for ratio in torch.linspace(1.0, 0.3, STEP_CANDIDATES).tolist():
            rounded = (weight / (whole * ratio)).round().clamp(self.lowest, self.highest) * whole * ratio
            now = (rounded - weight).square().sum(1)
            best, error = torch.where(now < error, ratio, best), torch.minimum(now, error)
        return best

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.node.op == "dense":
            return functional.linear(x, weight, bias)
        top, bottom, left, right = self.node.attrs["padding"]
        sides: tuple[int, int] = (top, left)
        if top != bottom or left != right:
            x, sides = functional.pad(x, (left, right, top, bottom)), (0, 0)
        groups = x.shape[1] if self.node.op == "depthwise_conv2d" else 1
        dilation = tuple(self.node.attrs.get("dilation", (1, 1)))
        return functional.conv2d(x, weight, bias, tuple(self.node.attrs["stride"]), sides, dilation, groups)

    def constants(self) -> dict[str, Tensor]:
        """The layer's present values by the names of the graph's constants, in the graph's layout."""
        values: dict[str, Tensor] = {self.node.inputs[1]: self._in_graph_layout(self.weight)}
        if self.bias is not None:
            values[self.node.inputs[2]] = self.bias
        if self.norm is not None:
            stored: tuple[Tensor, ...] = (
                self.gamma,
                self.beta,
                cast(Tensor, self.running_mean),
                cast(Tensor, self.running_variance),
            )
            values.update(zip(self.norm.inputs[1:], stored, strict=True))
        return {name: value.detach() for name, value in values.items()}
