"""MobileNetV2 as data: the paper's table and its expansion to a flat list of layers.

Sandler, Howard, Zhu, Zhmoginov, Chen: MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018, Table 2 there;
layer names, channel rounding and padding as in keras.applications.MobileNetV2.
"""

from __future__ import annotations

from millijoule.nets._spec import Layer, NetworkSpec, Operator, Stage, same_padding

__all__ = ["TABLE", "layers", "mobilenet_v2", "round_channels"]

TABLE: tuple[Stage, ...] = (
    #     operator      t     c     n  s
    Stage("conv2d", None, 32, 1, 2),
    Stage("bottleneck", 1, 16, 1, 1),
    Stage("bottleneck", 6, 24, 2, 2),
    Stage("bottleneck", 6, 32, 3, 2),
    Stage("bottleneck", 6, 64, 4, 2),
    Stage("bottleneck", 6, 96, 3, 1),
    Stage("bottleneck", 6, 160, 3, 2),
    Stage("bottleneck", 6, 320, 1, 1),
    Stage("conv2d 1x1", None, 1280, 1, 1),
    Stage("avgpool", None, None, 1, 1),
    Stage("dense", None, None, 1, 1),
)
"""The rows of Table 1: input and output sizes follow from them, from alpha and from the resolution."""


def mobilenet_v2(
    alpha: float = 0.5,
    resolution: int = 224,
    classes: int = 10,
    dropout: float = 0.2,
    *,
    bn_momentum: float = 0.03,
) -> NetworkSpec:
    """Specifies a MobileNetV2.

    Args:
        alpha: width multiplier; published weights exist for 0.35, 0.5, 0.75, 1.0, 1.3 and 1.4.
        resolution: side of the square input picture in pixels.
        classes: length of the logits.
        dropout: probability before the classifier, only while training.
        bn_momentum: share of the newest batch in the moving statistics of batch normalisation.

    Returns:
        The specification; `millijoule.nets.build` makes a torch module of it.

    Raises:
        OptionError: a value is out of range.
    """
    return NetworkSpec("mobilenet_v2", alpha, resolution, classes, dropout, bn_momentum=bn_momentum)


def round_channels(channels: float, divisor: int = 8) -> int:
    """The multiple of `divisor` nearest to `channels`, never more than 10 % below it and at least `divisor`.

    Source: `_make_divisible` of the authors' code (tensorflow/models, slim/nets/mobilenet).
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def layers(spec: NetworkSpec) -> tuple[Layer, ...]:
    """Expands the table to the flat list of layers of one network, in execution order.

    Args:
        spec: a specification of family "mobilenet_v2".

    Returns:
        Layers with names, shapes (height, width, channels) and padding; the last one gives the logits.
    """
    flat: list[Layer] = []
    shape = (spec.resolution, spec.resolution, spec.channels)
    source = "input"

    def convolve(
        name: str,
        channels: int,
        stage: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        depthwise: bool = False,
        batch_norm: str | None = None,
        activation: str | None = None,
        expansion: int | None = None,
    ) -> None:
        nonlocal shape, source
        height, width, _ = shape
        padding = same_padding(width, kernel, stride) + same_padding(height, kernel, stride)
        output = (-(-height // stride), -(-width // stride), channels)
        operator: Operator = "depthwise_conv2d" if depthwise else "conv2d"
        norm = batch_norm or f"{name}_BN"
        flat.append(
            Layer(name, operator, (source,), shape, output, stage, kernel, stride, padding, norm, activation, expansion)
        )
        shape, source = output, name

    block = 0
    for index, row in enumerate(TABLE):
        if row.operator == "conv2d":
            channels = round_channels(32 * spec.alpha)
            convolve("Conv1", channels, index, kernel=3, stride=2, batch_norm="bn_Conv1", activation="Conv1_relu")
        elif row.operator == "bottleneck":
            assert row.c is not None and row.t is not None
            channels = round_channels(int(row.c * spec.alpha))
            for repetition in range(row.n):
                stride = row.s if repetition == 0 else 1
                prefix = f"block_{block}" if block else "expanded_conv"
                entry, entry_shape = source, shape
                if row.t != 1:
                    name, wide = f"{prefix}_expand", row.t * shape[2]
                    convolve(name, wide, index, activation=f"{name}_relu", expansion=row.t)
                name = f"{prefix}_depthwise"
                convolve(
                    name,
                    shape[2],
                    index,
                    kernel=3,
                    stride=stride,
                    depthwise=True,
                    activation=f"{name}_relu",
                    expansion=row.t,
                )
                convolve(f"{prefix}_project", channels, index, expansion=row.t)
                if shape == entry_shape:  # the inverted residual: only where nothing changes size
                    name = f"{prefix}_add"
                    flat.append(Layer(name, "add", (entry, source), shape, shape, index, expansion=row.t))
                    source = name
                block += 1
        elif row.operator == "conv2d 1x1":
            channels = max(1280, round_channels(1280 * spec.alpha))  # never narrowed, as in the paper's section 5
            convolve("Conv_1", channels, index, batch_norm="Conv_1_bn", activation="out_relu")
        elif row.operator == "avgpool":
            output = (1, 1, shape[2])
            flat.append(Layer("global_average_pool", "mean", (source,), shape, output, index))
            shape, source = output, "global_average_pool"
        else:
            if spec.dropout > 0:
                flat.append(Layer("dropout", "dropout", (source,), shape, shape, index, dropout=spec.dropout))
                source = "dropout"
            flat.append(Layer("classifier", "dense", (source,), shape, (1, 1, spec.classes), index))
    return tuple(flat)
