"""The quantised network fine-tuned as a whole, on the calibration pictures, without labels, to imitate the float one.

`reconstruct` fits one layer after another and knows nothing of what comes behind it; with 4 bits what is left is too
much. Here all weights, biases, steps and ranges are trained together for some hundred steps with the fake quantisation
of quantisation-aware training, from the rounding that `reconstruct` found. The loss compares with the float network the
answers, softened (distillation: Hinton et al. 2015, arXiv:1503.02531), and the results of linear layers and sums, which
are the ends of blocks (reconstruction beyond single layers: Li et al. 2021, BRECQ, arXiv:2102.05426). Rounding is
learned by the straight-through estimator, steps and ranges as in LSQ (Esser et al. 2020, arXiv:1902.08153).

Each picture is turned, shifted and zoomed anew every time it is used. The result is the fake-quantised network's
integers and computes what it computes, bit for bit; a network that did not come nearer to the float one is given back
as it came.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from millijoule.errors import OptionError, QuantizationError
from millijoule.files import Progress
from millijoule.graph import WEIGHT_AXIS, Graph, mode
from millijoule.quantize.warm_start import warm_module

if TYPE_CHECKING:
    from torch import Tensor

    from millijoule.execute import FakeQuantModule

__all__ = ["TuneOptions", "Tuned", "tune"]

_JUDGED = 64
"""Pictures on which the network before and after is compared."""

_BIAS_SHARE = 0.1
"""Biases move by the learning rate times this share of the range of their layer's results."""

_LOG_SHARE = 1 / 48
"""Logarithms of steps and ranges, which the module multiplies by 16, move by a third of the learning rate."""


@dataclass(frozen=True)
class TuneOptions:
    """How to fine-tune.

    Attributes:
        steps: of the optimiser.
        batch_size: pictures per step.
        learning_rate: how far a weight moves per step at most, as a share of the root mean square of its channel;
            falls to zero along a cosine.
        temperature: softens both networks' answers.
        blocks: weight of the blocks' error beside the answers' divergence.
        augment: whether pictures are turned, shifted, zoomed and mirrored.
        seed: of the order and the changes of the pictures.
    """

    steps: int = 300
    batch_size: int = 16
    learning_rate: float = 0.0007
    temperature: float = 2.0
    blocks: float = 1.0
    augment: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuses values outside their range. Raises OptionError."""
        for name, low in (("steps", 1), ("batch_size", 1), ("seed", 0)):
            if getattr(self, name) < low:
                raise OptionError(f"{name} = {getattr(self, name)!r}", "it is too small", f"Use at least {low}")
        for name in ("learning_rate", "temperature"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise OptionError(f"{name} = {getattr(self, name)!r}", "it must be above 0", "Use the default")
        if not 0.0 <= self.blocks < math.inf:
            raise OptionError(f"blocks = {self.blocks!r}", "it must not be negative", "Use 0 or 1")


@dataclass(frozen=True)
class Tuned:
    """What fine-tuning came to.

    Attributes:
        before: loss on the pictures as they are before the first step.
        after: loss on them after the last one.
        kept: whether the result is the fine-tuned network; one that did not lower the loss is given back as it came.
        moved: by layer (the name the user knows): how many of its weights are other integers now, and how many it has.
    """

    before: float
    after: float
    kept: bool
    moved: dict[str, tuple[int, int]]


def tune(
    graph: Graph,
    converted: Graph,
    pictures: npt.NDArray[np.uint8],
    options: TuneOptions | None = None,
    *,
    progress: Progress | None = None,
) -> tuple[Graph, Tuned]:
    """The integer graph with everything trained together to give the float graph's results.

    Args:
        graph: the simplified float graph.
        converted: its integer version, with the same tensor names; its integers and scales are where training starts.
        pictures: uint8 (N, H, W, 3); no labels are needed.
        options: how to fine-tune.
        progress: called after every step.

    Returns:
        The verified graph, with the bits, rounding and history of `converted`, and what became of it.

    Raises:
        QuantizationError: no pictures, a graph that is not integer throughout, or a loss that is not finite.
        ToolchainError: torch is not installed.
    """
    options = options or TuneOptions()
    if len(pictures) == 0:
        raise QuantizationError("fine-tuning", "there are no pictures", "Give some calibration pictures")
    for node in converted.nodes:
        if mode(converted, node) != "integer" and node.op != "quantize":
            raise QuantizationError(
                f"layer {node.source or node.output!r} ({node.op})",
                "only networks that are integer throughout are fine-tuned",
                "Leave tune out of the refinements",
            )
    import torch

    from millijoule import execute
    from millijoule.quantize.qat import normalization_of
    from millijoule.train import network_input
    from millijoule.train._memory import kept_memory

    normalization = normalization_of(graph)
    module = _module(graph, converted)
    teacher = execute.float_module(graph).eval().requires_grad_(False)
    names = _compared(module) if options.blocks else ()
    optimizer = _Adam(module, options.learning_rate)

    def compare(batch: npt.NDArray[np.uint8]) -> Tensor:
        x = network_input(batch, normalization, torch.device("cpu"))
        with torch.no_grad():
            taught = teacher.values(x, (*names, module.logits))
        return _loss(module.values(x, (*names, module.logits)), taught, names, module.logits, options)

    def whole() -> float:
        """Loss on some of the pictures as they are."""
        rows = np.linspace(0, len(pictures) - 1, min(_JUDGED, len(pictures))).round().astype(np.int64)
        parts = [rows[start : start + options.batch_size] for start in range(0, len(rows), options.batch_size)]
        with torch.no_grad():
            return sum(float(compare(pictures[part])) * len(part) for part in parts) / len(rows)

    with kept_memory():
        before = whole()
        for step, batch in enumerate(_batches(pictures, options)):
            loss = compare(batch)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step(_share(step, options.steps))
            if not math.isfinite(float(loss.detach())):
                raise QuantizationError("fine-tuning", f"the loss is not finite in step {step + 1}", "Lower the rate")
            if progress is not None:
                progress("fine-tune", step + 1, options.steps)
        after = whole()
    kept = after < before
    result = replace(module.eval().to_integer(), history=converted.history) if kept else converted
    moved = {}
    for node in converted.nodes:
        if node.op in WEIGHT_AXIS:
            given = converted.constant(node.inputs[1])
            now = result.constant(result.producers()[node.output].inputs[1])
            moved[node.source or node.output] = (int((given != now).sum()), given.size)
    return result, Tuned(before, after, kept, moved)


def _share(step: int, steps: int) -> float:
    """The rate of a step as a share of the highest: rising in the first twentieth, then falling along a cosine."""
    warm_up = max(1.0, steps / 20)
    return min(1.0, (step + 1) / warm_up) * 0.5 * (1.0 + math.cos(math.pi * step / steps))


def _module(graph: Graph, converted: Graph) -> FakeQuantModule:
    """The module that computes what the integer graph computes, in training mode, everything in it trainable."""
    module = warm_module(graph, converted)
    module.train()
    module.set_phase(observe=False, quantize=True, freeze_batch_norm=True)
    return module


def _compared(module: FakeQuantModule) -> tuple[str, ...]:
    """Results of layers and sums that nothing clamps, the logits left out: the ends of blocks."""
    return tuple(
        step.output
        for step in module.steps
        if step.observed and step.clamp is None and step.node.op != "mean" and step.output != module.logits
    )


def _loss(found: Any, taught: Any, names: tuple[str, ...], logits: str, options: TuneOptions) -> Tensor:
    from torch.nn import functional

    heat = options.temperature
    loss = functional.kl_div(
        functional.log_softmax(found[logits] / heat, 1),
        functional.log_softmax(taught[logits] / heat, 1),
        reduction="batchmean",
        log_target=True,
    ) * (heat * heat)
    for name in names:
        error = functional.mse_loss(found[name], taught[name]) / taught[name].var().clamp(min=1e-12)
        loss = loss + options.blocks / len(names) * error
    return loss


def _batches(pictures: npt.NDArray[np.uint8], options: TuneOptions) -> Iterator[npt.NDArray[np.uint8]]:
    """As many batches as steps, passing over the pictures in a new order again and again."""
    from millijoule.data.augmentation import Augmentation, warp

    count, size = len(pictures), pictures.shape[1]
    augmentation = Augmentation()
    random = np.random.default_rng([options.seed, 0x74756E65])
    order: npt.NDArray[np.int64] = np.zeros(0, np.int64)
    for _ in range(options.steps):
        while len(order) < options.batch_size:
            order = np.concatenate([order, random.permutation(count)])
        chosen, order = order[: options.batch_size], order[options.batch_size :]
        batch = np.ascontiguousarray(pictures[chosen])
        if options.augment:
            batch = warp(batch, augmentation.matrices(augmentation.draw(len(batch), random), size, size), size)
        yield batch


class _Adam:
    """Adam whose step is a share of each parameter's own unit (Kingma and Ba 2015, arXiv:1412.6980).

    Folded weights differ by orders of magnitude between channels, so one rate for all would suit none.
    """

    def __init__(self, module: FakeQuantModule, rate: float) -> None:
        import torch

        self.rate, self.count = rate, 0
        self.parameters: list[Tensor] = []
        self.units: list[Tensor] = []
        low, high = module._ends()
        for step in module.steps:
            if step.layer is None:
                continue
            layer = cast(Any, module.layers[step.layer])
            spread = layer.weight.detach().square().flatten(1).mean(1).sqrt()
            self._add(layer.weight, spread.reshape(-1, *[1] * (layer.weight.ndim - 1)))
            self._add(layer.step_shift, torch.tensor(_LOG_SHARE))
            if layer.bias is not None:
                position = module.index.get(step.output)
                width = float((high[position] - low[position]).detach()) if position is not None else 1.0
                self._add(layer.bias, torch.tensor(_BIAS_SHARE * width))
        for shift in (module.low_shift, module.high_shift):
            self._add(shift, torch.tensor(_LOG_SHARE))
        self.means = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.squares = [torch.zeros_like(parameter) for parameter in self.parameters]

    def _add(self, parameter: Tensor, unit: Tensor) -> None:
        self.parameters.append(parameter)
        self.units.append(unit)

    def step(self, share: float) -> None:
        """One step with `share` of the rate; gradients are forgotten afterwards."""
        import torch

        self.count += 1
        slow, fast = 1.0 - 0.999**self.count, 1.0 - 0.9**self.count
        with torch.no_grad():
            for parameter, unit, mean, square in zip(
                self.parameters, self.units, self.means, self.squares, strict=True
            ):
                gradient = parameter.grad
                if gradient is None:
                    continue
                mean.lerp_(gradient, 0.1)
                square.lerp_(gradient.square(), 0.001)
                change = (mean / fast) / ((square / slow).sqrt() + 1e-20)
                parameter.sub_(change * (unit * (self.rate * share)))
                parameter.grad = None
