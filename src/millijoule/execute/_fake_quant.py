"""The fake-quantised executor: a float graph that trains as if it were already int8."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias, cast

import numpy as np
import torch
from torch import Tensor, nn

from millijoule.errors import GraphError, OptionError, QuantizationError, UnsupportedError
from millijoule.execute._fake_quant_exact import IntegerForward
from millijoule.execute._fake_quant_functions import (
    affine_parameters,
    average_on_grid,
    extremes_of,
    fake_quantize,
    fake_quantize_learned,
)
from millijoule.execute._fake_quant_layers import LEARNING_GAIN, FoldedLayer, PictureQuantizer
from millijoule.execute._torch import apply
from millijoule.graph import WEIGHT_AXIS, Graph, Node, Quant, mode, simplify, verify
from millijoule.graph.conversion import KEEPS_SCALE, activation_quant, input_range, integer_graph
from millijoule.graph.headroom import MARGIN, MOST, factor_limit
from millijoule.graph.simplify import merge_padding

__all__ = ["FakeQuantModule"]

_Grid: TypeAlias = list[tuple[float, int]]
"""Scale and zero point of each observed tensor."""

RANGES = ("observed", "learned")


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

    With `ranges` "learned", the ends of every range and the step of every channel's weights are parameters beside the
    weights (LSQ: Esser et al. 2020, arXiv:1902.08153; see `_fake_quant_functions`): multiples of the ranges observed
    last or given, and of the steps that hold each channel's largest weight.

    The state dict holds weights, batch norm statistics and ranges.

    Args:
        graph: from `interchange.capture`, batch_norm nodes included (a simplified graph works too).
        averaging: weight of the newest batch in the moving average of ranges, in (0, 1].
        init_ranges: (low, high) by tensor name to start from, for example of a static calibration; names that have no
            range of their own are ignored.
        batch_norm_momentum: share of the newest batch in the running statistics.
        per_channel: one weight scale per output channel; otherwise one per layer.
        rounding: of the integer model, and so of the evaluation mode; see `arithmetic.requantize`.
        ranges: "observed" or "learned".
        weight_bits: 8, or 4 for weights in [-8, 7], of all layers or by layer name (`Node.source`, or the name of the
            result); layers that are not named have 8. Steps of 4 bits start where the rounding error is least.

    Raises:
        UnsupportedError: the graph is not float, or a batch_norm follows no layer with weights.
        OptionError: `ranges` is unknown.
        QuantizationError: `weight_bits` names no layer, or is neither 8 nor 4.
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
        ranges: str = "observed",
        weight_bits: int | Mapping[str, int] = 8,
    ) -> None:
        super().__init__()
        if ranges not in RANGES:
            raise OptionError("ranges", f"{ranges!r} is unknown", f"Use {' or '.join(RANGES)}")
        if not all(mode(graph, node) == "float" for node in graph.nodes):
            raise UnsupportedError(f"graph {graph.name!r}", "it is quantised already", "Give the captured float graph")
        self.graph = merge_padding(graph)
        self.averaging, self.per_channel, self.rounding = averaging, per_channel, rounding
        self.observe = self.quantize = self.exact = True
        self.freeze_batch_norm = False
        self.learned = ranges == "learned"
        self.weight_bits = weight_bits
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
        if self.learned:
            self.low_shift = nn.Parameter(torch.zeros(len(self.names)))
            self.high_shift = nn.Parameter(torch.zeros(len(self.names)))
        clamps = {step.output: step.clamp for step in self.steps if step.observed and step.clamp is not None}
        bounds = torch.tensor([clamps.get(name, (-torch.inf, torch.inf)) for name in self.names]).double()
        self.register_buffer("clamps", bounds, persistent=False)
        for name, (low, high) in (init_ranges or {}).items():
            if name in self.index:
                position = self.index[name]
                cast(Tensor, self.low)[position], cast(Tensor, self.high)[position] = float(low), float(high)
                cast(Tensor, self.seen)[position] = True
        # what learned ranges may reach: the clamp, or where they begin
        self.register_buffer("floor", torch.minimum(bounds[:, 0], cast(Tensor, self.low)), persistent=False)
        self.register_buffer("ceiling", torch.maximum(bounds[:, 1], cast(Tensor, self.high)), persistent=False)

    def set_phase(self, observe: bool, quantize: bool, freeze_batch_norm: bool) -> None:
        """Which parts of training are on; call it between epochs.

        Args:
            observe: ranges follow the batches (in training mode only).
            quantize: weights and activations are fake-quantised; tensors without a range yet stay float.
            freeze_batch_norm: batch normalisation uses its running statistics and no longer moves them.
        """
        self.observe, self.quantize, self.freeze_batch_norm = observe, quantize, freeze_batch_norm

    @torch.no_grad()
    def measure_statistics(self, inputs: Callable[[], Iterable[Tensor]]) -> bool:
        """Measures the statistics of batch normalisation anew, with quantised weights, then the ranges that follow.

        Every batch counts alike. Learned ranges stay. The module is left in evaluation mode, its phase as it was.

        Args:
            inputs: gives the same normalised batches (N, C, H, W) each time; they are passed over twice.

        Returns:
            False, and nothing is done, where there is no batch normalisation.
        """
        folded = [cast(FoldedLayer, layer) for layer in self.layers.values()]
        norms = [layer for layer in folded if layer.norm is not None]
        if not norms:
            return False
        phase, averaging = (self.observe, self.quantize, self.freeze_batch_norm), self.averaging
        momentum = {layer: layer.momentum for layer in norms}
        try:
            self.train()
            self.set_phase(observe=False, quantize=True, freeze_batch_norm=False)
            for count, batch in enumerate(inputs(), 1):
                for layer in norms:
                    layer.momentum = 1.0 / count
                self(batch)
            self.set_phase(observe=not self.learned, quantize=True, freeze_batch_norm=True)
            for count, batch in enumerate(() if self.learned else inputs(), 1):
                self.averaging = 1.0 / count
                self(batch)
        finally:
            for layer, usual in momentum.items():
                layer.momentum = usual
            self.averaging = averaging
            self.set_phase(*phase)
            self.eval()
        return True

    def ranges(self) -> dict[str, tuple[float, float]]:
        """The (low, high) of every activation that has been observed or initialised, by tensor name."""
        low, high = (end.tolist() for end in self._ends())
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
        scale, zero = affine_parameters(*self._ends())
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
        bits = {step.output: self._layer(step).bits for step in self.steps if step.layer is not None}
        graph = integer_graph(
            simplify(self.to_float()),
            self.ranges(),
            rounding=self.rounding,
            per_channel=self.per_channel,
            weight_bits=bits,
        )
        return self._with_own_steps(graph)

    def _with_own_steps(self, graph: Graph) -> Graph:
        """Puts the integers of layers that have steps of their own into the graph."""
        tensors, constants = dict(graph.tensors), dict(graph.constants)
        nodes = {node.output: node for node in graph.nodes}
        for step in self.steps:
            if step.layer is None or not self._layer(step).own_steps:
                continue
            node = nodes[step.output]
            made = self._layer(step).graph_integers(graph.quant(node.inputs[0]).scalar_scale)
            for name, (value, quant) in zip(node.inputs[1:], made, strict=False):
                constants[name], tensors[name] = value, replace(tensors[name], quant=quant)
        return verify(replace(graph, tensors=tensors, constants=constants))

    def _layer(self, step: _Step) -> FoldedLayer:
        return cast(FoldedLayer, self.layers[str(step.layer)])

    def _ends(self) -> tuple[Tensor, Tensor]:
        """The ends of every range, float64; a learned one never leaves the fused clamp, unless it began outside."""
        low, high = cast(Tensor, self.low), cast(Tensor, self.high)
        if not self.learned:
            return low, high
        low = low.clamp(max=0.0) * torch.exp(LEARNING_GAIN * self.low_shift.double())
        high = high.clamp(min=0.0) * torch.exp(LEARNING_GAIN * self.high_shift.double())
        return torch.maximum(low, cast(Tensor, self.floor)), torch.minimum(high, cast(Tensor, self.ceiling))

    @torch.no_grad()
    def _bound_ends(self) -> None:
        """Takes parameters back that would move a range beyond its clamp, where they would have no gradient."""
        for shift, end, bound in (
            (self.low_shift, cast(Tensor, self.low), cast(Tensor, self.floor)),
            (self.high_shift, cast(Tensor, self.high), cast(Tensor, self.ceiling)),
        ):
            room = torch.where(bound * end > 0, bound / end, torch.inf)
            shift.copy_(torch.minimum(shift, (room.log() / LEARNING_GAIN).to(shift.dtype)))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of normalised pictures (N, C, H, W)."""
        with torch.autocast(x.device.type, enabled=False):
            if self.computes_integers:
                return IntegerForward(self)(x.float())[0]
            return self._forward(x.float(), ())[self.logits]

    def values(self, x: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
        """The named results, fake-quantised, of normalised pictures; feature maps as (N, C, H, W)."""
        with torch.autocast(x.device.type, enabled=False):
            found = self._forward(x.float(), tuple(names))
        return {name: found[name] for name in names}

    def stored(self, x: Tensor, keep: Iterable[str]) -> dict[str, Tensor]:
        """The named results as int8 values (N, H, W, C) of normalised pictures, in evaluation mode."""
        return IntegerForward(self)(x.float(), tuple(keep))[1]

    @property
    def computes_integers(self) -> bool:
        """Whether `forward` computes on integers: evaluation mode, quantising, every range known."""
        return self.exact and self.quantize and not self.training and bool(cast(Tensor, self.seen).all())

    def _forward(self, x: Tensor, keep: tuple[str, ...]) -> dict[str, Tensor]:
        """The logits and the results named."""
        observing = self.observe and self.training
        if self.learned and self.training:
            self._bound_ends()
        low, high = self._ends()
        ends = list(zip(low.unbind(), high.unbind(), strict=True)) if self.learned else None
        scale, zero = affine_parameters(low.detach(), high.detach())
        grid: _Grid = list(zip(scale.tolist(), zero.tolist(), strict=True))
        seen, clamps = cast(Tensor, self.seen).tolist(), cast(Tensor, self.clamps)
        beyond = ((low < clamps[:, 0]) | (high > clamps[:, 1])).tolist()
        extremes: dict[str, tuple[Tensor, Tensor]] = {}
        values: dict[str, Tensor] = {self.start: x}
        scales: dict[str, Tensor] = {}
        if self.picture is not None:
            scales[self.start] = cast(Tensor, self.picture_scale)
            if self.quantize:
                values[self.start] = self.picture(x)
        elif self._float_input is not None:
            values[self.start] = self._rounded(
                x.clone(), self.start, None, scale, grid, seen, extremes, scales, observing, ends
            )
        for position, step in enumerate(self.steps):
            inputs = [values[name] for name in step.inputs]
            if step.layer is not None:
                result = self._layer(step)(inputs[0], scales.get(step.inputs[0]), self.quantize, self.freeze_batch_norm)
            else:
                result = apply(self.graph, step.node, inputs)
            if step.observed:
                if beyond[self.index[step.output]]:
                    result = result.clamp(*cast(tuple[float, float], step.clamp))
                result = self._rounded(
                    result, step.output, step.clamp, scale, grid, seen, extremes, scales, observing, ends
                )
            else:
                if step.clamp is not None:
                    result = result.clamp(*step.clamp)
                if step.inputs[0] in scales:
                    scales[step.output] = scales[step.inputs[0]]
                if step.grid is not None and self.quantize:
                    result = self._on_grid(result, step, grid, seen)
            values[step.output] = result
            for name in self.finished[position]:
                if name not in keep:
                    values.pop(name, None)
        if observing:
            self._update(extremes)
            self._make_room(extremes, scales)
        return values

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
        ends: list[tuple[Tensor, Tensor]] | None,
    ) -> Tensor:
        """Observes and fake-quantises one result. Its grid ends at the clamp or before, so it clamps, too."""
        if observing:
            low, high = extremes_of(x)
            if clamp is not None:
                low, high = low.clamp(*clamp), high.clamp(*clamp)
            extremes[name] = (low, high)
        position = self.index[name]
        if not (self.quantize and seen[position]):
            return x if clamp is None else x.clamp(*clamp)
        scales[name] = scale[position]
        if ends is not None:
            return fake_quantize_learned(x, *ends[position], *grid[position])
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

    @torch.no_grad()
    def _make_room(self, extremes: Mapping[str, tuple[Tensor, Tensor]], scales: Mapping[str, Tensor]) -> None:
        """Widens ranges by the rule of `graph.headroom`, by `MOST` of what the batch has at most.

        Only those of conv2d: the first depthwise convolution often has a channel with large weights that is constant
        and not compiled, which is not looked for at every step.
        """
        low, high = cast(Tensor, self.low), cast(Tensor, self.high)
        known = [
            (self.index[step.output], scales[step.inputs[0]], layer.widest, factor_limit(self.rounding, layer.bits))
            for step in self.steps
            if step.node.op == "conv2d" and step.inputs[0] in scales
            for layer in (self._layer(step),)
            if layer.widest is not None
        ]
        if not known:
            return
        places, data, weights, limits = zip(*known, strict=True)
        rows = torch.tensor(places, device=low.device)
        steps = affine_parameters(low, high)[0][rows].double()
        real = torch.stack(data).double() * torch.stack(weights).double() / steps
        factor = real * MARGIN / torch.tensor(limits, device=low.device, dtype=torch.float64)
        spans = torch.stack([extremes[self.names[place]][1] - extremes[self.names[place]][0] for place in places])
        most = MOST * spans.double() / (high - low)[rows].clamp(min=1e-30)
        factor = torch.where((factor > 1.0) & (factor <= most), factor, 1.0)
        low[rows] *= factor
        high[rows] *= factor

    def _bits(self, node: Node, output: str) -> int:
        bits = self.weight_bits
        if isinstance(bits, Mapping):
            bits = bits.get(output, bits.get(node.source, 8))
        if bits not in (4, 8):
            raise QuantizationError(
                f"layer {node.source or output!r} ({node.op})", f"its weights cannot have {bits!r} bits", "Use 8 or 4"
            )
        return bits

    def _check_names(self) -> None:
        layers = [step for step in self.steps if step.layer is not None]
        known = {name for step in layers for name in (step.output, step.node.source)}
        for name in self.weight_bits if isinstance(self.weight_bits, Mapping) else ():
            if name not in known:
                raise QuantizationError(f"layer {name!r}", "no layer with weights has this name", "Name another layer")

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
                bits = self._bits(node, output)
                self.layers[layer] = FoldedLayer(graph, node, norm, momentum, self.per_channel, bits, self.learned)
            data = tuple(name for name in node.inputs if name not in graph.constants)
            keeps = node.op in KEEPS_SCALE
            grids[output] = grids[data[0]] if keeps else output
            grid = grids[output] if node.op in ("avg_pool", "clamp") else None
            self.steps.append(_Step(node, output, data, layer, clamp if not keeps else None, grid, not keeps))
        self._check_names()
        if self.logits not in grids:
            raise GraphError(f"graph {graph.name!r}", "its first output is not the logits", "Give a captured graph")
        last = {name: position for position, step in enumerate(self.steps) for name in step.inputs}
        self.finished = [
            tuple(name for name in dict.fromkeys(step.inputs) if last[name] == position and name != self.logits)
            for position, step in enumerate(self.steps)
        ]
