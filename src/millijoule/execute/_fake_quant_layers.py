"""Fake quantisation in torch, and layers whose batch normalisation is folded into fake-quantised weights."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from millijoule.execute._torch import torch_constant
from millijoule.graph import WEIGHT_AXIS, Graph, Node, Quant, arithmetic
from millijoule.graph.conversion import BIAS_LIMIT

__all__ = ["FoldedLayer", "PictureQuantizer", "affine_parameters", "average_on_grid", "extremes_of", "fake_quantize"]


def affine_parameters(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """`conversion.activation_quant` for vectors: float32 scales and int32 zero points.

    Args:
        low: smallest values, float64.
        high: largest values, float64.
    """
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    scale = ((high - low) / 255.0).float().clamp(min=1e-8)
    exact = -128.0 - low / scale.double()
    zero = torch.trunc(exact + torch.copysign(torch.full_like(exact, 0.5), exact)).clamp(-128, 127)
    return scale, zero.int()


class _FakeQuantize(torch.autograd.Function):
    """Vectorised passes in place; the result is saved (the next layer saves it anyway) instead of a mask."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float, zero: int) -> Tensor:
        y = x.mul(1.0 / scale).round_().clamp_(-128 - zero, 127 - zero).mul_(scale)
        ctx.save_for_backward(y)
        ctx.low, ctx.high = (-128 - zero) * scale, (127 - zero) * scale
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (y,) = ctx.saved_tensors
        half = (ctx.high - ctx.low) / 510.0  # the ends of the grid, and nothing else, are within half a step of them
        masked: Tensor = torch.ops.aten.hardtanh_backward(gradients[0], y, ctx.low + half, ctx.high - half)
        return masked, None, None


def fake_quantize(x: Tensor, scale: float, zero: int) -> Tensor:
    """Activations rounded to their int8 grid; gradients pass where nothing was cut (straight-through estimator).

    Bengio et al. 2013, arXiv:1308.3432; Jacob et al. 2018, arXiv:1712.05877. Values at the two ends of the grid count
    as cut, as ReLU6 counts them.

    Args:
        x: float32, any shape.
        scale: of the grid.
        zero: zero point in [-128, 127].
    """
    result: Tensor = _FakeQuantize.apply(x, scale, zero)  # type: ignore[no-untyped-call]
    return result


def extremes_of(x: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest value; channels_last maps are read in memory order, without a copy."""
    x = x.detach()
    if x.ndim == 4 and not x.is_contiguous():
        x = x.permute(0, 2, 3, 1)
    low, high = torch.aminmax(x)
    return low, high


def average_on_grid(x: Tensor, scale: float, zero: int, kernel: tuple[int, int]) -> Tensor:
    """Averages of int8 values rounded as `arithmetic.average_int8` does: the stored value, halves away from zero.

    Averages over small windows are ties as often as not, so the rounding of `fake_quantize` (halves to even) would
    differ. The gradient is passed straight through: an average cannot leave the range of its inputs.

    Args:
        x: averages of values on the grid.
        scale: the grid's scale.
        zero: the grid's zero point.
        kernel: height and width of the window.
    """
    with torch.no_grad():
        parts = math.lcm(*range(1, kernel[0] + 1)) * math.lcm(*range(1, kernel[1] + 1))
        stored = torch.round((x.double() / scale + zero) * parts) / parts
        rounded = (_round_half_away(stored).clamp(-128, 127) - zero) * scale
        correction = rounded.to(x.dtype) - x
    return x + correction


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
        byte = (x * inverse - start).round_().clamp_(0, 255).int()
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
    """

    def __init__(self, graph: Graph, node: Node, norm: Node | None, momentum: float, per_channel: bool) -> None:
        super().__init__()
        self.node, self.norm, self.momentum, self.per_channel = node, norm, momentum, per_channel
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

    def forward(self, x: Tensor, input_scale: Tensor | None, quantize: bool, frozen: bool) -> Tensor:
        """The layer without its clamp.

        Args:
            x: the data.
            input_scale: scale of the data, None while it is float.
            quantize: whether the weights are fake-quantised.
            frozen: whether batch normalisation uses its running statistics.
        """
        batch_statistics = self.norm is not None and self.training and not frozen
        if not quantize and batch_statistics:
            return self._normalize(self._linear(x, self.weight, self.bias))
        kind = torch.float32 if self.training else torch.float64
        weight, bias, factor = self._folded(kind)
        if quantize:
            weight = self._fake_quantized(weight, bias, input_scale)
        weight, bias = weight.float(), None if bias is None else bias.float()
        if not batch_statistics or factor is None:
            return self._linear(x, weight, bias)
        safe = torch.where(factor.abs() < 1e-12, torch.full_like(factor, 1e-12), factor).float()
        sums = self._linear(x, weight / safe.reshape(-1, *[1] * (weight.ndim - 1)), None)
        return self._normalize(sums if self.bias is None else sums + self._along_channels(self.bias, x))

    def _along_channels(self, value: Tensor, x: Tensor) -> Tensor:
        return value if x.ndim == 2 else value.reshape(1, -1, 1, 1)

    def _normalize(self, x: Tensor) -> Tensor:
        mean, variance = cast(Tensor, self.running_mean), cast(Tensor, self.running_variance)
        return functional.batch_norm(x, mean, variance, self.gamma, self.beta, True, self.momentum, self.epsilon)

    def _folded(self, kind: torch.dtype) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Weights, bias and factor of `simplify.fold_batch_norm`."""
        weight, bias = self.weight.to(kind), None if self.bias is None else self.bias.to(kind)
        if self.norm is None:
            return weight, bias, None
        mean, variance = cast(Tensor, self.running_mean).to(kind), cast(Tensor, self.running_variance).to(kind)
        factor = self.gamma.to(kind) / torch.sqrt(variance + self.epsilon)
        shift = self.beta.to(kind) + ((0.0 if bias is None else bias) - mean) * factor
        return (weight * factor.reshape(-1, *[1] * (weight.ndim - 1))).float(), shift.float(), factor

    def _fake_quantized(self, weight: Tensor, bias: Tensor | None, input_scale: Tensor | None) -> Tensor:
        """Weights on their integer grid; gradients pass."""
        scale = self._scales(weight, bias, input_scale)
        zero = torch.zeros(len(scale), dtype=torch.int32, device=scale.device)
        return torch.fake_quantize_per_channel_affine(weight.float(), scale, zero, 0, -127, 127)

    @torch.no_grad()
    def integers(self, input_scale: float) -> tuple[Tensor, Tensor, Tensor]:
        """What the microcontroller holds, by the rules of `conversion.integer_graph`.

        Args:
            input_scale: scale of the data.

        Returns:
            Weights in torch's layout and biases (zeros if there are none) as float64 integers, float32 weight scales.
        """
        weight, bias, _ = self._folded(torch.float64)
        scale = self._scales(weight, bias, torch.tensor(input_scale, device=weight.device))
        step = scale.double().reshape(-1, *[1] * (weight.ndim - 1))
        weight = _round_half_away(weight.double() / step).clamp(-127, 127)
        if bias is None:
            return weight, torch.zeros(len(scale), dtype=torch.float64, device=weight.device), scale
        step = (scale.double() * input_scale).float().double()
        return weight, _round_half_away(bias.double() / step), scale

    @torch.no_grad()
    def _scales(self, weight: Tensor, bias: Tensor | None, input_scale: Tensor | None) -> Tensor:
        scales = weight.abs().reshape(weight.shape[0], -1).amax(1).double() / 127.0
        largest = scales.max()
        smallest = torch.where(largest > 0, (largest * 2.0**-31).clamp(min=1e-30), 1.0 / 127.0)
        scales = torch.maximum(scales, smallest)
        if bias is not None and input_scale is not None:
            scales = torch.maximum(scales, bias.abs().double() / (input_scale.double() * BIAS_LIMIT))
        scales = scales.float()
        return scales if self.per_channel else scales.max().expand_as(scales).contiguous()

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
        axis = WEIGHT_AXIS[self.node.op]
        weight: Tensor = self.weight
        if weight.ndim == 4:
            weight = weight.permute(0, 2, 3, 1) if axis == 0 else weight.permute(1, 2, 3, 0)
        values: dict[str, Tensor] = {self.node.inputs[1]: weight}
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


def _round_half_away(x: Tensor) -> Tensor:
    return torch.trunc(x + torch.copysign(torch.full_like(x, 0.5), x))
