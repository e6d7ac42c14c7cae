"""Tables about a network: per layer, and per row of the published table. Needs no torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from millijoule.nets._registry import family, layers
from millijoule.nets._spec import Layer, NetworkSpec

__all__ = ["LayerRow", "ParameterCount", "StageRow", "layer_table", "parameter_count", "stage_table"]


@dataclass(frozen=True)
class LayerRow:
    """One layer with its cost for one picture.

    Attributes:
        name: the layer.
        operator: conv2d, depthwise_conv2d, add, max_pool, mean, flatten or dense.
        input_shape: (height, width, channels).
        output_shape: (height, width, channels).
        kernel: (height, width) of the kernel, (0, 0) without one.
        stride: step of the kernel.
        t: expansion factor of the block, None outside blocks.
        c: output channels.
        n: repetitions of the row of the published table.
        s: stride of that row.
        parameters: weights, biases, and the four vectors of batch normalisation (as Keras counts).
        trainable: the same without moving mean and variance.
        macs: multiply-accumulates.
        activation_bytes_int8: bytes that are alive while the layer runs: inputs, output, and what a later addition
            still needs, one byte per element.
        activation_bytes_float: the same with four bytes per element.
    """

    name: str
    operator: str
    input_shape: tuple[int, int, int]
    output_shape: tuple[int, int, int]
    kernel: tuple[int, int]
    stride: int
    t: int | None
    c: int
    n: int
    s: int
    parameters: int
    trainable: int
    macs: int
    activation_bytes_int8: int
    activation_bytes_float: int

    def to_dict(self) -> dict[str, Any]:
        """The row as plain values, for JSON."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class StageRow:
    """One row of the family's table, with the channels after the width multiplier and the cost of the whole row.

    Attributes:
        input_shape: (height, width, channels) that the row receives.
        operator: what the row repeats, in the words of the family's table.
        t: expansion factor, None outside bottlenecks.
        c: output channels (classes for the last row).
        n: repetitions.
        s: stride of the first repetition.
        parameters: as in `LayerRow`, summed.
        macs: multiply-accumulates, summed.
        activation_bytes_int8: largest of the row's layers.
        activation_bytes_float: largest of the row's layers.
    """

    input_shape: tuple[int, int, int]
    operator: str
    t: int | None
    c: int
    n: int
    s: int
    parameters: int
    macs: int
    activation_bytes_int8: int
    activation_bytes_float: int

    def to_dict(self) -> dict[str, Any]:
        """The row as plain values, for JSON."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class ParameterCount:
    """How many numbers a network holds.

    Attributes:
        total: everything, moving statistics of batch normalisation included.
        trainable: without the moving statistics.
        classifier: the part of `total` in the last layer, which gives the logits ("top" in Keras).
    """

    total: int
    trainable: int
    classifier: int

    @property
    def without_classifier(self) -> int:
        """What keras.applications reports with include_top=False."""
        return self.total - self.classifier


def _elements(shape: tuple[int, int, int]) -> int:
    return shape[0] * shape[1] * shape[2]


def _kernel_elements(layer: Layer) -> int:
    inputs, outputs = layer.input_shape[2], layer.output_shape[2]
    taps = layer.kernel[0] * layer.kernel[1]
    if layer.operator == "conv2d":
        return taps * inputs * outputs
    if layer.operator == "depthwise_conv2d":
        return taps * outputs
    return inputs * outputs if layer.operator == "dense" else 0


def _alive(flat: tuple[Layer, ...]) -> list[int]:
    """Elements alive while each layer runs, without in-place reuse."""
    size = {"input": _elements(flat[0].input_shape)} | {layer.name: _elements(layer.output_shape) for layer in flat}
    last_use = {name: index for index, layer in enumerate(flat) for name in layer.inputs}
    first_use = {"input": -1} | {layer.name: index for index, layer in enumerate(flat)}
    return [
        sum(size[name] for name, first in first_use.items() if first <= index <= last_use.get(name, first))
        for index in range(len(flat))
    ]


def _inference_layers(spec: NetworkSpec) -> tuple[Layer, ...]:
    """The layers without dropout, which does nothing after training."""
    flat = layers(spec)
    alias = {layer.name: layer.inputs[0] for layer in flat if layer.operator == "dropout"}
    return tuple(
        dataclasses.replace(layer, inputs=tuple(alias.get(name, name) for name in layer.inputs))
        for layer in flat
        if layer.operator != "dropout"
    )


def layer_table(spec: NetworkSpec) -> list[LayerRow]:
    """Every layer of the network as it runs at inference, with parameters, MACs and activation sizes.

    Batch normalisation and the non-linearity belong to the layer before them.

    Args:
        spec: the network.

    Returns:
        One row per layer, in execution order.
    """
    flat = _inference_layers(spec)
    stages = family(spec.family).table
    rows = []
    for layer, alive in zip(flat, _alive(flat), strict=True):
        kernel = _kernel_elements(layer)
        weights = kernel + layer.output_shape[2] * layer.bias
        channels = layer.output_shape[2] if layer.batch_norm else 0
        stage = stages[layer.stage]
        rows.append(
            LayerRow(
                name=layer.name,
                operator=layer.operator,
                input_shape=layer.input_shape,
                output_shape=layer.output_shape,
                kernel=layer.kernel,
                stride=layer.stride,
                t=layer.expansion,
                c=layer.output_shape[2],
                n=stage.n,
                s=stage.s,
                parameters=weights + 4 * channels,
                trainable=weights + 2 * channels,
                macs=kernel * layer.output_shape[0] * layer.output_shape[1],
                activation_bytes_int8=alive,
                activation_bytes_float=4 * alive,
            )
        )
    return rows


def stage_table(spec: NetworkSpec) -> list[StageRow]:
    """The family's published table for this width and resolution, with the cost of each row."""
    flat = _inference_layers(spec)
    rows = layer_table(spec)
    table = []
    for index, stage in enumerate(family(spec.family).table):
        own = [row for layer, row in zip(flat, rows, strict=True) if layer.stage == index]
        table.append(
            StageRow(
                input_shape=own[0].input_shape,
                operator=stage.operator,
                t=stage.t,
                c=own[-1].c,
                n=stage.n,
                s=stage.s,
                parameters=sum(row.parameters for row in own),
                macs=sum(row.macs for row in own),
                activation_bytes_int8=max(row.activation_bytes_int8 for row in own),
                activation_bytes_float=max(row.activation_bytes_float for row in own),
            )
        )
    return table


def parameter_count(spec: NetworkSpec) -> ParameterCount:
    """Counts the network's parameters as Keras does, batch normalisation's moving statistics included."""
    rows = layer_table(spec)
    return ParameterCount(
        total=sum(row.parameters for row in rows),
        trainable=sum(row.trainable for row in rows),
        classifier=rows[-1].parameters,
    )
