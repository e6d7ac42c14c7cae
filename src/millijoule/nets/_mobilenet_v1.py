"""MobileNetV1 as data: the paper's table and its expansion to a flat list of layers.

Howard, Zhu, Chen, Kalenichenko, Wang, Weyand, Andreetto, Adam: MobileNets: Efficient Convolutional Neural Networks for
Mobile Vision Applications, 2017 (arXiv:1704.04861), Table 1 there; layer names, ReLU6 and dropout as in
keras.applications.MobileNet. Alpha 0.25 at 96x96 with two classes is the visual wake words network of MLPerf Tiny
(Banbury et al.: MLPerf Tiny Benchmark, NeurIPS Datasets and Benchmarks 2021, arXiv:2106.07597), 7.5 million MACs.
"""

from __future__ import annotations

from millijoule.nets._expand import Expansion, round_channels
from millijoule.nets._spec import Layer, NetworkSpec, Stage, check_resolution

__all__ = ["TABLE", "layers", "mobilenet_v1"]

TABLE: tuple[Stage, ...] = (
    #     operator     t     c     n  s
    Stage("conv2d", None, 32, 1, 2),
    Stage("separable", None, 64, 1, 1),
    Stage("separable", None, 128, 1, 2),
    Stage("separable", None, 128, 1, 1),
    Stage("separable", None, 256, 1, 2),
    Stage("separable", None, 256, 1, 1),
    Stage("separable", None, 512, 1, 2),
    Stage("separable", None, 512, 5, 1),
    Stage("separable", None, 1024, 1, 2),
    Stage("separable", None, 1024, 1, 1),  # the paper's table prints stride 2, but its 7x7 output is that of stride 1
    Stage("avgpool", None, None, 1, 1),
    Stage("dense", None, None, 1, 1),
)
"""The rows of Table 1; "separable" is a 3x3 depthwise and a pointwise convolution."""


def mobilenet_v1(
    alpha: float = 0.25,
    resolution: int = 96,
    classes: int = 2,
    dropout: float = 0.001,
    *,
    bn_momentum: float = 0.03,
) -> NetworkSpec:
    """Specifies a MobileNetV1.

    Channels are rounded to multiples of 8 (`round_channels`), which changes nothing at the published widths. Padding is
    TensorFlow's SAME rule; keras.applications differs on odd inputs of stride-2 layers, which no published resolution
    (128, 160, 192, 224) has.

    Args:
        alpha: width multiplier; published weights exist for 0.25, 0.5, 0.75 and 1.0.
        resolution: side of the square input picture in pixels.
        classes: length of the logits.
        dropout: probability before the classifier, only while training.
        bn_momentum: share of the newest batch in the moving statistics of batch normalisation.

    Returns:
        The specification; `millijoule.nets.build` makes a torch module of it.

    Raises:
        OptionError: a value is out of range.
    """
    check_resolution(resolution)
    return NetworkSpec("mobilenet_v1", alpha, resolution, classes, dropout, bn_momentum=bn_momentum)


def layers(spec: NetworkSpec) -> tuple[Layer, ...]:
    """Expands the table to the flat list of layers of one network, in execution order.

    Args:
        spec: a specification of family "mobilenet_v1".

    Returns:
        Layers with names, shapes (height, width, channels) and padding; the last one gives the logits.
    """
    flat = Expansion(spec, "relu6")
    block = 0
    for index, row in enumerate(TABLE):
        channels = round_channels(row.c * spec.alpha) if row.c is not None else 0
        if row.operator == "conv2d":
            flat.convolve(
                "conv1", channels, index, kernel=(3, 3), stride=row.s, batch_norm="conv1_bn", activation="conv1_relu"
            )
        elif row.operator == "separable":
            for repetition in range(row.n):
                block += 1
                flat.separate(block, channels, index, row.s if repetition == 0 else 1)
        elif row.operator == "avgpool":
            flat.average(index)
        else:
            flat.drop("dropout", spec.dropout, index)
            flat.connect("classifier", spec.classes, index)
    return tuple(flat.layers)
