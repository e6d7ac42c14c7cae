"""The fake-quantised network in evaluation mode: the integers of the microcontroller, computed by torch on any device.

Training needs gradients, so it sums rounded values in float32. Such a sum may fall on the other side of a tie than the
exact one, a later layer multiplies the step by its weights, and after fifty layers half of the values differ by a step:
enough to change a prediction in a hundred. Evaluation therefore sums integers, exactly, and requantises them by
`graph.arithmetic`, so that what is validated is what is deployed.

Values are kept as float32 ``stored - zero_point`` in the layout (N, H, W, C).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from millijoule.execute._fake_quant_layers import FoldedLayer
from millijoule.execute._torch import apply
from millijoule.graph import Node, Quant, arithmetic
from millijoule.graph.conversion import KEEPS_SCALE

if TYPE_CHECKING:
    from millijoule.execute._fake_quant import FakeQuantModule

__all__ = ["IntegerForward", "requantize_rows"]

EXACT_FLOAT = 2**24
"""Integers below this magnitude, and sums of them that stay below it, are exact in float32."""

BLOCK_VALUES = 1 << 18
"""Values requantised at a time: 2 MiB of 64-bit integers."""


def requantize_rows(sums: Tensor, multiplier: Tensor, shift: Tensor, rounding: str) -> Tensor:
    """`arithmetic.requantize` in torch.

    Args:
        sums: int64 of 32-bit range, (rows, columns).
        multiplier: int64, (columns,).
        shift: int64, (columns,), in [-31, 30].
        rounding: as in `arithmetic.requantize`.

    Returns:
        int64 of the shape of `sums`.
    """
    if rounding == "single":
        total = 31 - shift
        return sums.mul(multiplier).add_(torch.ones_like(total) << (total - 1)).bitwise_right_shift_(total)
    if rounding == "mulhi":
        return (sums << shift).int().long().mul_(multiplier).add_(1 << 31).bitwise_right_shift_(32)
    left, right = shift.clamp(min=0), (-shift).clamp(min=0)
    product = (sums << left).int().long().mul_(multiplier)
    nudge = torch.where(product >= 0, 1 << 30, 1 - (1 << 30))
    high = torch.div(product.add_(nudge), 1 << 31, rounding_mode="trunc")
    mask = (torch.ones_like(right) << right) - 1
    up = (high & mask) > (mask >> 1) + (high < 0).long()
    return (high >> right) + up.long()


class IntegerForward:
    """One forward pass of a `FakeQuantModule` on integers.

    Args:
        module: every tensor has a range.
    """

    def __init__(self, module: FakeQuantModule) -> None:
        self.module, self.graph, self.rounding = module, module.graph, module.rounding

    @torch.no_grad()
    def __call__(self, x: Tensor, keep: tuple[str, ...] = ()) -> tuple[Tensor, dict[str, Tensor]]:
        """The logits, and what was asked for.

        Args:
            x: float32 (N, C, H, W), normalised.
            keep: tensors wanted beside the logits.

        Returns:
            Logits float32 (N, classes), and the kept tensors as stored int8 values (N, H, W, C).
        """
        module = self.module
        quants = module.quants()
        values = {module.start: self._input(x, quants[module.start])}
        kept: dict[str, Tensor] = {}
        for position, step in enumerate(module.steps):
            source, result = quants[step.inputs[0]], quants[step.output]
            inputs = [values[name] for name in step.inputs]
            bounds = arithmetic.clamp_bounds(step.node.attrs.get("clamp", step.clamp), result)
            if step.layer is not None:
                layer = cast(FoldedLayer, module.layers[step.layer])
                y = self._weighted(layer, inputs[0], source, result, bounds)
            elif step.node.op == "add":
                y = self._add(inputs, (source, quants[step.inputs[1]], result), bounds)
            elif step.node.op == "mean":
                y = self._mean(inputs[0], source, result, bounds)
            elif step.node.op == "avg_pool":
                y = self._average(step.node, inputs[0], source, bounds)
            elif step.node.op in KEEPS_SCALE:
                zero = result.scalar_zero_point
                y = self._moved(step.node, inputs[0]).clamp(bounds[0] - zero, bounds[1] - zero)
            else:
                raise AssertionError(step.node.op)
            values[step.output] = y
            if step.output in keep:
                kept[step.output] = (y + result.scalar_zero_point).to(torch.int8)
            for name in module.finished[position]:
                values.pop(name, None)
        return values[module.logits] * quants[module.logits].scalar_scale, kept

    def _input(self, x: Tensor, quant: Quant) -> Tensor:
        if self.module.picture is not None:
            return _last(self.module.picture.stored(x)) - quant.scalar_zero_point
        stored = torch.from_numpy(arithmetic.quantize_array(x.double().cpu().numpy(), quant).astype(np.float32))
        return _last(stored.to(x.device)) - quant.scalar_zero_point

    def _weighted(self, layer: FoldedLayer, x: Tensor, source: Quant, result: Quant, bounds: tuple[int, int]) -> Tensor:
        weight, bias, scale = layer.integers(source.scalar_scale)
        sums = _sums(layer.node, x, weight)
        multiplier, shift = arithmetic.multipliers(
            source.scalar_scale * scale.cpu().double().numpy() / result.scalar_scale, self.rounding
        )
        channels = sums.shape[-1]
        tile = sums.shape[2] if sums.ndim == 4 else 1
        constants = [
            value.to(sums.device).long().repeat(tile)
            for value in (torch.from_numpy(multiplier), torch.from_numpy(shift), bias)
        ]
        rows = sums.reshape(-1, tile * channels)
        block = max(1, BLOCK_VALUES // rows.shape[1])
        y = torch.empty(rows.shape, dtype=torch.float32, device=rows.device)
        zero = result.scalar_zero_point
        for start in range(0, len(rows), block):
            total = rows[start : start + block].long().add_(constants[2])
            part = requantize_rows(total, constants[0], constants[1], self.rounding)
            y[start : start + block] = part.clamp_(bounds[0] - zero, bounds[1] - zero)
        return y.reshape(sums.shape)

    def _add(self, inputs: list[Tensor], quants: tuple[Quant, Quant, Quant], bounds: tuple[int, int]) -> Tensor:
        """All 65,536 pairs are added once, by the definition; the maps are then a table look-up."""
        values = np.arange(-128, 128).astype(np.int8)
        zeros = (quants[0].scalar_zero_point, quants[1].scalar_zero_point, quants[2].scalar_zero_point)
        plan = arithmetic.add_plan(*quants, self.rounding)
        table = arithmetic.add_int8(np.repeat(values, 256), np.tile(values, 256), zeros, plan, bounds, self.rounding)
        centred = torch.from_numpy(table.astype(np.float32) - zeros[2]).to(inputs[0].device)
        index = (inputs[0] + (zeros[0] + 128)) * 256 + (inputs[1] + (zeros[1] + 128))
        return centred[index.int()]

    def _mean(self, x: Tensor, source: Quant, result: Quant, bounds: tuple[int, int]) -> Tensor:
        count = x.shape[1] * x.shape[2]
        total = x.sum((1, 2), dtype=torch.float64).cpu().numpy().astype(np.int32)
        multiplier, shift = arithmetic.mean_multiplier(source, result, count, self.rounding)
        mean = arithmetic.requantize(total, multiplier, shift, self.rounding) + result.scalar_zero_point
        return torch.from_numpy((np.clip(mean, *bounds) - result.scalar_zero_point).astype(np.float32)).to(x.device)

    def _average(self, node: Node, x: Tensor, quant: Quant, bounds: tuple[int, int]) -> Tensor:
        zero = quant.scalar_zero_point
        top, bottom, left, right = node.attrs["padding"]
        kernel, stride = tuple(node.attrs["kernel"]), tuple(node.attrs["stride"])

        def windows(values: Tensor) -> Tensor:
            padded = functional.pad(values, (left, right, top, bottom))
            return functional.avg_pool2d(padded, kernel, stride, divisor_override=1)

        stored = _first(x).double() + zero
        total = windows(stored).round().cpu().numpy().astype(np.int32)
        inside = windows(torch.ones_like(stored[:1, :1])).round().cpu().numpy().astype(np.int32)
        average = arithmetic.average_int8(total, inside, bounds).astype(np.float32) - zero
        return _last(torch.from_numpy(average).to(x.device))

    def _moved(self, node: Node, x: Tensor) -> Tensor:
        """Padding (with the zero point, which is 0 here), reshape, transpose, max_pool, clamp."""
        plain = replace(node, attrs={key: value for key, value in node.attrs.items() if key != "clamp"})
        return _last(apply(self.graph, plain, [_first(x)]))


def _first(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2) if x.ndim == 4 else x


def _last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).contiguous() if x.ndim == 4 else x


def _sums(node: Node, x: Tensor, weight: Tensor) -> Tensor:
    """Exact sums of integers: float32 on the CPU where no sum can reach 2**24, float64 elsewhere.

    Graphics processors may use tensor cores or transforms for float32; their float64 errors are far below one half.

    Args:
        node: the layer.
        x: (N, H, W, C) or (N, features), integers of magnitude 255 or less.
        weight: float64 integers in torch's layout.
    """
    largest = float(weight.abs().flatten(1).sum(1).max()) * 255
    kind = torch.float32 if x.device.type == "cpu" and largest < EXACT_FLOAT else torch.float64
    x, weight = x.to(kind), weight.to(kind)
    pointwise = weight.ndim == 4 and weight.shape[2:] == (1, 1) and node.op == "conv2d"
    plain = pointwise and tuple(node.attrs["stride"]) == (1, 1) and not any(node.attrs["padding"])
    if plain or weight.ndim == 2:
        return (x @ weight.flatten(1).T).round_()
    top, bottom, left, right = node.attrs["padding"]
    groups = x.shape[3] if node.op == "depthwise_conv2d" else 1
    dilation = tuple(node.attrs.get("dilation", (1, 1)))
    padded = functional.pad(_first(x), (left, right, top, bottom))
    with torch.backends.nnpack.flags(enabled=False):  # its transforms are not exact
        sums = functional.conv2d(padded, weight, None, tuple(node.attrs["stride"]), 0, dilation, groups)
    return _last(sums).round_()
