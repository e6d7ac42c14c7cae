"""MobileNetV1 as data: the paper's table and its expansion to a flat list of layers.

Howard, Zhu, Chen, Kalenichenko, Wang, Weyand, Andreetto, Adam: MobileNets: Efficient Convolutional Neural Networks for
Mobile Vision Applications, 2017 (arXiv:1704.04861), Table 1 there; layer names, ReLU6 and dropout as in
keras.applications.MobileNet. Alpha 0.25 at 96x96 with two classes is the visual wake words network of MLPerf Tiny
(Banbury et al.: MLPerf Tiny Benchmark, NeurIPS Datasets and Benchmarks 2021, arXiv:2106.07597), 7.5 million MACs.
"""

from __future__ import annotations

from millijoule.nets._expand import Expansion, expand, round_channels
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

    Arguments, result and errors are those of `mobilenet_v2`; published weights exist for alpha 0.25, 0.5, 0.75 and 1.0.
    """
    check_resolution(resolution)
    return NetworkSpec("mobilenet_v1", alpha, resolution, classes, dropout, bn_momentum=bn_momentum)


def layers(spec: NetworkSpec) -> tuple[Layer, ...]:
    """The layers of a specification of family "mobilenet_v1", as `expand` gives them."""
    return expand(spec, TABLE, "relu6", {"conv2d": _first, "separable": _separable})


def _first(flat: Expansion, row: Stage, index: int) -> None:
    channels = _channels(flat, row)
    flat.convolve("conv1", channels, index, kernel=(3, 3), stride=row.s, batch_norm="conv1_bn", activation="conv1_relu")


def _separable(flat: Expansion, row: Stage, index: int) -> None:
    flat.separate(_channels(flat, row), index, row.s)


def _channels(flat: Expansion, row: Stage) -> int:
    assert row.c is not None
    return round_channels(row.c * flat.spec.alpha)
