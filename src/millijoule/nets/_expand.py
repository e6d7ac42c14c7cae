"""What the families share when they expand their tables: layers appended one after another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from millijoule.nets._spec import Layer, NetworkSpec, Nonlinearity, Operator, Shape, Stage, same_padding

__all__ = ["Expansion", "expand", "round_channels"]


def round_channels(channels: float, divisor: int = 8) -> int:
    """The multiple of `divisor` nearest to `channels`, never more than 10 % below it and at least `divisor`.

    Source: `_make_divisible` of the authors' code (tensorflow/models, slim/nets/mobilenet).
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


class Expansion:
    """The flat list of layers of one network while it grows.

    Attributes:
        spec: the network.
        layers: what there is so far, in execution order.
        shape: (height, width, channels) of the newest output.
        source: name of the newest layer, "input" at first; the next layer reads it.
        blocks: how many blocks, of which names count, there are so far.
    """

    def __init__(self, spec: NetworkSpec, nonlinearity: Nonlinearity, *, bias: bool = False) -> None:
        """Starts at the input.

        Args:
            spec: the network.
            nonlinearity: what follows every layer that has an activation.
            bias: whether convolutions that batch normalisation follows have a bias all the same.
        """
        self.spec = spec
        self.layers: list[Layer] = []
        self.shape: Shape = spec.input_shape
        self.source = "input"
        self.blocks = 0
        self._nonlinearity: Nonlinearity = nonlinearity
        self._bias = bias

    def convolve(
        self,
        name: str,
        channels: int,
        stage: int,
        *,
        kernel: tuple[int, int] = (1, 1),
        stride: int = 1,
        depthwise: bool = False,
        batch_norm: str | None = None,
        activation: str | None = None,
        expansion: int | None = None,
    ) -> None:
        """Appends a convolution with SAME padding; without batch normalisation it has a bias."""
        height, width, _ = self.shape
        padding = same_padding(width, kernel[1], stride) + same_padding(height, kernel[0], stride)
        operator: Operator = "depthwise_conv2d" if depthwise else "conv2d"
        layer = Layer(
            name,
            operator,
            (self.source,),
            self.shape,
            (-(-height // stride), -(-width // stride), channels),
            stage,
            kernel,
            stride,
            padding,
            self._bias or batch_norm is None,
            batch_norm,
            activation,
            self._nonlinearity,
            expansion,
        )
        self._append(layer)

    def separate(self, channels: int, stage: int, stride: int = 1) -> None:
        """Appends a depthwise separable convolution: 3x3 depthwise, then pointwise, as Keras' MobileNet names them."""
        self.blocks += 1
        for kind, outputs in (("dw", self.shape[2]), ("pw", channels)):
            name = f"conv_{kind}_{self.blocks}"
            depthwise = kind == "dw"
            self.convolve(
                name,
                outputs,
                stage,
                kernel=(3, 3) if depthwise else (1, 1),
                stride=stride if depthwise else 1,
                depthwise=depthwise,
                batch_norm=f"{name}_bn",
                activation=f"{name}_relu",
            )

    def add(
        self, name: str, other: str, stage: int, *, activation: str | None = None, expansion: int | None = None
    ) -> None:
        """Appends the sum of layer `other` and the newest one."""
        self._append(
            Layer(
                name,
                "add",
                (other, self.source),
                self.shape,
                self.shape,
                stage,
                activation=activation,
                nonlinearity=self._nonlinearity,
                expansion=expansion,
            )
        )

    def pool(self, name: str, stage: int, *, size: int, stride: int) -> None:
        """Appends a maximum pooling of `size` x `size` windows without padding; what does not fill one is left out."""
        height, width, channels = self.shape
        output = ((height - size) // stride + 1, (width - size) // stride + 1, channels)
        self._append(
            Layer(name, "max_pool", (self.source,), self.shape, output, stage, kernel=(size, size), stride=stride)
        )

    def average(self, stage: int) -> None:
        """Appends the average over the whole feature map."""
        name, output = "global_average_pool", (1, 1, self.shape[2])
        self._append(Layer(name, "mean", (self.source,), self.shape, output, stage))

    def flatten(self, stage: int) -> None:
        """Appends a flattening to (1, 1, features), in the order height, width, channels."""
        features = self.shape[0] * self.shape[1] * self.shape[2]
        self._append(Layer("flatten", "flatten", (self.source,), self.shape, (1, 1, features), stage))

    def drop(self, name: str, probability: float, stage: int) -> None:
        """Appends a dropout, unless nothing is dropped."""
        if probability > 0:
            self._append(Layer(name, "dropout", (self.source,), self.shape, self.shape, stage, dropout=probability))

    def connect(
        self, name: str, features: int, stage: int, *, batch_norm: str | None = None, activation: str | None = None
    ) -> None:
        """Appends a dense layer with bias."""
        self._append(
            Layer(
                name,
                "dense",
                (self.source,),
                self.shape,
                (1, 1, features),
                stage,
                bias=True,
                batch_norm=batch_norm,
                activation=activation,
                nonlinearity=self._nonlinearity,
            )
        )

    def go_back(self, name: str) -> None:
        """Lets the next layer read layer `name` (or "input") instead of the newest one, for a second branch."""
        shapes = {"input": self.spec.input_shape} | {layer.name: layer.output_shape for layer in self.layers}
        self.shape, self.source = shapes[name], name

    def _append(self, layer: Layer) -> None:
        self.layers.append(layer)
        self.shape, self.source = layer.output_shape, layer.name


Append: TypeAlias = Callable[[Expansion, Stage, int], None]
"""Appends what one repetition of a row of a table stands for; the integer is the row's index."""


def _average(flat: Expansion, row: Stage, index: int) -> None:
    flat.average(index)


def _classify(flat: Expansion, row: Stage, index: int) -> None:
    flat.drop("dropout", flat.spec.dropout, index)
    flat.connect("classifier", flat.spec.classes, index)


def expand(
    spec: NetworkSpec,
    table: Sequence[Stage],
    nonlinearity: Nonlinearity,
    append: Mapping[str, Append],
    *,
    bias: bool = False,
) -> tuple[Layer, ...]:
    """Expands the table of a family to the flat list of layers of one network, in execution order.

    Args:
        spec: a specification of that family.
        table: its rows.
        nonlinearity: what follows every layer that has an activation.
        append: by operator of a row, what appends its layers: called once for each repetition, with stride 1 behind the
            first one. Besides these, "avgpool" is the average over the whole map, "dense" a dropout and the classifier.
        bias: whether convolutions that batch normalisation follows have a bias all the same.

    Returns:
        Layers with names, shapes (height, width, channels) and padding; the last one gives the logits.
    """
    flat = Expansion(spec, nonlinearity, bias=bias)
    append = {"avgpool": _average, "dense": _classify, **append}
    for index, row in enumerate(table):
        for repetition in range(row.n):
            append[row.operator](flat, replace(row, n=1, s=1 if repetition else row.s), index)
    return tuple(flat.layers)
