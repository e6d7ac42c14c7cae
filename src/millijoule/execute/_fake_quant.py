"""The fake-quantised executor: a float graph that trains as if it were already int8."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias, cast

import numpy as np
import torch
from torch import Tensor, nn

from millijoule.errors import GraphError, UnsupportedError
from millijoule.execute._fake_quant_exact import IntegerForward
from millijoule.execute._fake_quant_layers import (
    FoldedLayer,
    PictureQuantizer,
    affine_parameters,
    average_on_grid,
    extremes_of,
    fake_quantize,
)
from millijoule.execute._torch import apply
from millijoule.graph import WEIGHT_AXIS, Graph, Node, Quant, mode, simplify, verify
from millijoule.graph.conversion import KEEPS_SCALE, activation_quant, input_range, integer_graph
from millijoule.graph.simplify import merge_padding

__all__ = ["FakeQuantModule"]

_Grid: TypeAlias = list[tuple[float, int]]
"""Scale and zero point of each observed tensor."""


@dataclass(frozen=True)
class _Step:
    """One step of the forward pass.

    Attributes:
        node: the operation.
        output: name of the result after batch_norm and clamp, as `simplify` names it.
        inputs: names of the data it reads.
        layer: name of the child that computes it, None for operations without weights.
        clamp: fused bounds, None for none.
        grid: the tensor whose range gives the result's grid; None where the result needs no rounding.
        observed: whether the result has a range of its own.
    """

    node: Node
    output: str
    inputs: tuple[str, ...]
    layer: str | None
    clamp: tuple[float, float] | None
    grid: str | None
    observed: bool


class FakeQuantModule(nn.Module):
    """A captured float graph as a module whose weights and activations are rounded to int8 grids while it trains.

    Rules of the TFLite 8-bit specification, the same as `conversion.integer_graph`: weights per output channel,
    symmetric, scale from the present folded weights; activations per tensor, asymmetric, zero exactly representable,
    ranges by moving average of each batch's minimum and maximum; a fused clamp acts before the range is observed;
    pooling and padding keep their input's scale; the picture is quantised by its table.

    `forward` takes float32 (N, C, H, W), normalised as by the graph's `normalize` node, and returns the logits
    (N, classes), fake-quantised. In evaluation mode, once every tensor has a range, it computes on integers and equals
    `to_integer()` bit for bit (`_fake_quant_exact` says why); with `exact` set to False it sums in float32 there too.

    The state dict holds weights, batch norm statistics and ranges.

    Args:
        graph: from `interchange.capture`, batch_norm nodes included (a simplified graph works too).
        averaging: weight of the newest batch in the moving average of ranges, in (0, 1].
        init_ranges: (low, high) by tensor name to start from, for example of a static calibration; names that have no
            range of their own are ignored.
        batch_norm_momentum: share of the newest batch in the running statistics.
        per_channel: one weight scale per output channel; otherwise one per layer.
        rounding: of the integer model, and so of the evaluation mode; see `arithmetic.requantize`.

    Raises:
        UnsupportedError: the graph is not float, or a batch_norm follows no layer with weights.
    """

    def __init__(
        self,
        graph: Graph,
        *,
        averaging: float = 0.01,
        init_ranges: Mapping[str, tuple[float, float]] | None = None,
        batch_norm_momentum: float = 0.03,
        per_channel: bool = True,
        rounding: str = "single",
    ) -> None:
        super().__init__()
        if not all(mode(graph, node) == "float" for node in graph.nodes):
            raise UnsupportedError(f"graph {graph.name!r}", "it is quantised already", "Give the captured float graph")
        self.graph = merge_padding(graph)
        self.averaging, self.per_channel, self.rounding = averaging, per_channel, rounding
        self.observe = self.quantize = self.exact = True
        self.freeze_batch_norm = False
        self.layers = nn.ModuleDict()
        self.steps: list[_Step] = []
        self._build(batch_norm_momentum)
        self.names = tuple(step.output for step in self.steps if step.observed)
        if self._float_input is not None:
            self.names = (self._float_input, *self.names)
        self.index = {name: position for position, name in enumerate(self.names)}
        self.register_buffer("low", torch.zeros(len(self.names), dtype=torch.float64))
        self.register_buffer("high", torch.zeros(len(self.names), dtype=torch.float64))
        self.register_buffer("seen", torch.zeros(len(self.names), dtype=torch.bool))
        for name, (low, high) in (init_ranges or {}).items():
            if name in self.index:
                position = self.index[name]
                cast(Tensor, self.low)[position], cast(Tensor, self.high)[position] = float(low), float(high)
                cast(Tensor, self.seen)[position] = True

    def set_phase(self, observe: bool, quantize: bool, freeze_batch_norm: bool) -> None:
        """Which parts of training are on; call it between epochs.

        Args:
            observe: ranges follow the batches (in training mode only).
            quantize: weights and activations are fake-quantised; tensors without a range yet stay float.
            freeze_batch_norm: batch normalisation uses its running statistics and no longer moves them.
        """
        self.observe, self.quantize, self.freeze_batch_norm = observe, quantize, freeze_batch_norm

    def ranges(self) -> dict[str, tuple[float, float]]:
        """The (low, high) of every activation that has been observed or initialised, by tensor name."""
        low, high = cast(Tensor, self.low).tolist(), cast(Tensor, self.high).tolist()
        seen = cast(Tensor, self.seen).tolist()
        return {name: (low[i], high[i]) for i, name in enumerate(self.names) if seen[i]}

    def to_float(self) -> Graph:
        """The float graph (batch_norm nodes kept) with the present weights and statistics."""
        constants = dict(self.graph.constants)
        for layer in self.layers.values():
            for name, value in cast(FoldedLayer, layer).constants().items():
                constants[name] = np.ascontiguousarray(value.cpu().float().numpy())
        return verify(replace(self.graph, constants=constants))

    def quants(self) -> dict[str, Quant]:
        """The quantisation of every tensor, by the rules of `conversion.integer_graph`."""
        scale, zero = affine_parameters(cast(Tensor, self.low), cast(Tensor, self.high))
        own = {
            name: Quant((one,), (point,))
            for name, one, point in zip(self.names, scale.tolist(), zero.tolist(), strict=True)
        }
        if self.picture is not None:
            own[self.start] = self.picture_quant
        result = dict(own)
        for step in self.steps:
            result[step.output] = own[step.output] if step.observed else result[step.inputs[0]]
        return result

    def to_integer(self) -> Graph:
        """The int8 graph with the present weights, statistics and ranges.

        Raises:
            QuantizationError: a range was never observed, or is degenerate; names the layer.
        """
        graph = simplify(self.to_float())
        return integer_graph(graph, self.ranges(), rounding=self.rounding, per_channel=self.per_channel)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of normalised pictures (N, C, H, W)."""
        with torch.autocast(x.device.type, enabled=False):
            if self.computes_integers:
                return IntegerForward(self)(x.float())[0]
            return self._forward(x.float())

    def stored(self, x: Tensor, keep: Iterable[str]) -> dict[str, Tensor]:
        """The named results as int8 values (N, H, W, C) of normalised pictures, in evaluation mode."""
        return IntegerForward(self)(x.float(), tuple(keep))[1]

    @property
    def computes_integers(self) -> bool:
        """Whether `forward` computes on integers: evaluation mode, quantising, every range known."""
        return self.exact and self.quantize and not self.training and bool(cast(Tensor, self.seen).all())

    def _forward(self, x: Tensor) -> Tensor:
        observing = self.observe and self.training
        scale, zero = affine_parameters(cast(Tensor, self.low), cast(Tensor, self.high))
        grid: _Grid = list(zip(scale.tolist(), zero.tolist(), strict=True))
        seen = cast(Tensor, self.seen).tolist()
        extremes: dict[str, tuple[Tensor, Tensor]] = {}
        values: dict[str, Tensor] = {self.start: x}
        scales: dict[str, Tensor] = {}
        if self.picture is not None:
            scales[self.start] = cast(Tensor, self.picture_scale)
            if self.quantize:
                values[self.start] = self.picture(x)
        elif self._float_input is not None:
            values[self.start] = self._rounded(x, self.start, None, scale, grid, seen, extremes, scales, observing)
        for position, step in enumerate(self.steps):
            inputs = [values[name] for name in step.inputs]
            if step.layer is not None:
                layer = cast(FoldedLayer, self.layers[step.layer])
                result = layer(inputs[0], scales.get(step.inputs[0]), self.quantize, self.freeze_batch_norm)
            else:
                result = apply(self.graph, step.node, inputs)
            if step.observed:
                result = self._rounded(result, step.output, step.clamp, scale, grid, seen, extremes, scales, observing)
            else:
                if step.clamp is not None:
                    result = result.clamp(*step.clamp)
                if step.inputs[0] in scales:
                    scales[step.output] = scales[step.inputs[0]]
                if step.grid is not None and self.quantize:
                    result = self._on_grid(result, step, grid, seen)
            values[step.output] = result
            for name in self.finished[position]:
                values.pop(name, None)
        if observing:
            self._update(extremes)
        return values[self.logits]

    def _rounded(
        self,
        x: Tensor,
        name: str,
        clamp: tuple[float, float] | None,
        scale: Tensor,
        grid: _Grid,
        seen: list[bool],
        extremes: dict[str, tuple[Tensor, Tensor]],
        scales: dict[str, Tensor],
        observing: bool,
    ) -> Tensor:
        """Observes and fake-quantises one result. The grid of a clamped result ends at the clamp, so it clamps too."""
        if observing:
            low, high = extremes_of(x)
            if clamp is not None:
                low, high = low.clamp(*clamp), high.clamp(*clamp)
            extremes[name] = (low, high)
        position = self.index[name]
        if not (self.quantize and seen[position]):
            return x if clamp is None else x.clamp(*clamp)
        scales[name] = scale[position]
        return fake_quantize(x, grid[position][0], grid[position][1])

    def _on_grid(self, x: Tensor, step: _Step, grid: _Grid, seen: list[bool]) -> Tensor:
        if step.grid == self.start and self.picture is not None:
            scale, zero = self.picture_quant.scalar_scale, self.picture_quant.scalar_zero_point
        else:
            position = self.index[str(step.grid)]
            if not seen[position]:
                return x
            scale, zero = grid[position]
        if step.node.op == "avg_pool":
            return average_on_grid(x, scale, zero, tuple(step.node.attrs["kernel"]))
        return fake_quantize(x, scale, zero)

    @torch.no_grad()
    def _update(self, extremes: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Moves every range towards the batch's; the first batch sets it."""
        low = torch.stack([extremes[name][0] for name in self.names]).double()
        high = torch.stack([extremes[name][1] for name in self.names]).double()
        share = torch.where(cast(Tensor, self.seen), self.averaging, 1.0)
        cast(Tensor, self.low).lerp_(low, share.double())
        cast(Tensor, self.high).lerp_(high, share.double())
        cast(Tensor, self.seen).fill_(True)

    def _build(self, momentum: float) -> None:
        graph = self.graph
        readers = graph.consumers()
        first = graph.nodes[0]
        self.picture: PictureQuantizer | None = None
        self._float_input: str | None = None
        if first.op == "normalize":
            quant = activation_quant(*input_range(first))
            self.picture, self.start = PictureQuantizer(first, quant), first.output
            self.register_buffer("picture_scale", torch.tensor(quant.scalar_scale), persistent=False)
            self.picture_quant = quant
        else:
            self.start = self._float_input = graph.inputs[0]
        self.logits = graph.outputs[0]
        grids = {self.start: self.start}
        skipped: set[str] = set()
        for node in graph.nodes:
            if (node is first and first.op == "normalize") or node.output in skipped or node.op == "softmax":
                continue
            if node.op == "batch_norm":
                raise UnsupportedError(
                    f"layer {node.source or node.output!r} (batch_norm)",
                    "it follows no layer with weights that it could be folded into",
                    "Put it directly behind a convolution or dense layer",
                )
            output, norm, clamp = node.output, None, node.attrs.get("clamp")

            def follower(name: str, op: str) -> Node | None:
                only = readers[name][0] if len(readers[name]) == 1 and name not in graph.outputs else None
                return only if only is not None and only.op == op else None

            if node.op in WEIGHT_AXIS and clamp is None:
                norm = follower(output, "batch_norm")
                output = output if norm is None else norm.output
            if node.op in (*WEIGHT_AXIS, "add") and clamp is None:
                fused = follower(output, "clamp")
                if fused is not None:
                    clamp, output = tuple(fused.attrs["clamp"]), fused.output
                    skipped.add(output)
            if norm is not None:
                skipped.add(norm.output)
            layer = None
            if node.op in WEIGHT_AXIS:
                layer = (node.source or node.output).replace(".", "_")
                while layer in self.layers:
                    layer += "_"
                self.layers[layer] = FoldedLayer(graph, node, norm, momentum, self.per_channel)
            data = tuple(name for name in node.inputs if name not in graph.constants)
            keeps = node.op in KEEPS_SCALE
            grids[output] = grids[data[0]] if keeps else output
            grid = grids[output] if node.op in ("avg_pool", "clamp") else None
            self.steps.append(_Step(node, output, data, layer, clamp if not keeps else None, grid, not keeps))
        if self.logits not in grids:
            raise GraphError(f"graph {graph.name!r}", "its first output is not the logits", "Give a captured graph")
        last = {name: position for position, step in enumerate(self.steps) for name in step.inputs}
        self.finished = [
            tuple(name for name in dict.fromkeys(step.inputs) if last[name] == position and name != self.logits)
            for position, step in enumerate(self.steps)
        ]
