"""Training that starts from the integers of a network that is quantised already."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from millijoule.errors import QuantizationError
from millijoule.graph import WEIGHT_AXIS, Graph, Node, mode

if TYPE_CHECKING:
    from millijoule.execute import FakeQuantModule

__all__ = ["warm_module"]

INSIDE = 0.45
"""How far from its grid point a weight may begin, in steps: it rounds to the point it was given, whatever the float
arithmetic of folding does."""


def warm_module(graph: Graph, converted: Graph, **options: Any) -> FakeQuantModule:
    """A fake-quantised module, ranges and steps learned, that begins where an integer graph is.

    Its weights are the float graph's, each moved as little as makes it round to the given integer; its biases (or
    those of batch normalisation), steps and ranges are the given ones.

    Args:
        graph: the float graph, as captured or simplified.
        converted: its integer version, with the tensor names of the simplified graph.
        options: further options of `FakeQuantModule`.

    Raises:
        QuantizationError: the integer graph is of another network, or a layer is not integer.
    """
    from millijoule import execute

    layers = {node.output: node for node in converted.nodes if node.op in WEIGHT_AXIS}
    for node in layers.values():
        if mode(converted, node) != "integer":
            raise QuantizationError(
                f"layer {node.source or node.output!r} ({node.op})", "it is not integer", "Give a static version"
            )
    ranges = {}
    for node in converted.nodes:
        quant = converted.tensor(node.output).quant
        if quant is not None and node.op != "quantize":
            scale, zero = quant.scalar_scale, quant.scalar_zero_point
            ranges[node.output] = ((-128 - zero) * scale, (127 - zero) * scale)
    module = execute.FakeQuantModule(
        graph,
        init_ranges=ranges,
        per_channel=all(converted.quant(node.inputs[1]).axis is not None for node in layers.values()),
        rounding=converted.rounding,
        ranges="learned",
        weight_bits={name: converted.quant(node.inputs[1]).bits for name, node in layers.items()},
        **options,
    )
    for step in module.steps:
        if step.layer is not None:
            if step.output not in layers:
                raise QuantizationError(
                    f"layer {step.node.source or step.output!r}",
                    "the quantised network has no such layer",
                    "Give the quantised version of this very network",
                )
            _begin(module, step, converted, layers[step.output])
    return module


def _begin(module: FakeQuantModule, step: Any, converted: Graph, node: Node) -> None:
    """One layer's weights, bias and steps."""
    import torch

    from millijoule.execute._fake_quant_layers import LEARNING_GAIN
    from millijoule.execute._torch import torch_constant

    layer = cast(Any, module.layers[step.layer])
    quant, data = converted.quant(node.inputs[1]), converted.quant(node.inputs[0]).scalar_scale
    stored = torch.from_numpy(torch_constant(node, 1, converted.constant(node.inputs[1])).astype(np.float64))
    channels, ones = stored.shape[0], [1] * (stored.ndim - 1)
    if stored.shape != layer.weight.shape:
        raise QuantizationError(
            f"layer {step.node.source or step.output!r}",
            f"its weights are {tuple(layer.weight.shape)}, those of the quantised network {tuple(stored.shape)}",
            "Give the quantised version of this very network",
        )
    scale = torch.from_numpy(np.broadcast_to(np.asarray(quant.scale, np.float64).reshape(-1), (channels,)).copy())
    wide = scale.reshape(-1, *ones)
    with torch.no_grad():
        factor = torch.ones(channels, dtype=torch.float64)
        if layer.norm is not None:
            factor = layer._factor(torch.float64)[0]
        usable = (factor.abs() > 1e-12).reshape(-1, *ones)
        folded = (layer.weight.double() * factor.reshape(-1, *ones)).clamp(
            (stored - INSIDE) * wide, (stored + INSIDE) * wide
        )
        divisor = torch.where(usable, factor.reshape(-1, *ones), 1.0)
        layer.weight.copy_(torch.where(usable, folded / divisor, layer.weight.double()))
        if len(node.inputs) == 3:
            name = node.inputs[2]
            bias = torch.from_numpy(converted.constant(name) * converted.quant(name).broadcast_scale(1))
            if layer.norm is not None:
                layer.beta.add_(bias - layer._factor(torch.float64)[1])
            elif layer.bias is not None:
                layer.bias.copy_(bias)
        if not layer.own_steps:
            return
        layer.step_shift.zero_()
        weight, now = layer._folded(torch.float64)
        start = layer._steps(weight.abs().flatten(1).amax(1).double(), now, torch.tensor(data))
        layer.step_shift.copy_((scale / start.double()).log() / LEARNING_GAIN)
