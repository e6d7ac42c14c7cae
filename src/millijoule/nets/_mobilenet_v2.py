"""MobileNetV2 as data: the paper's table and its expansion to a flat list of layers.

Sandler, Howard, Zhu, Zhmoginov, Chen: MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018, Table 2 there;
layer names, channel rounding and padding as in keras.applications.MobileNetV2.
"""

from __future__ import annotations

from millijoule.nets._expand import Expansion, expand, round_channels
from millijoule.nets._spec import Layer, NetworkSpec, Stage, check_resolution

__all__ = ["TABLE", "layers", "mobilenet_v2"]

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
    check_resolution(resolution)
    return NetworkSpec("mobilenet_v2", alpha, resolution, classes, dropout, bn_momentum=bn_momentum)


def layers(spec: NetworkSpec) -> tuple[Layer, ...]:
    """The layers of a specification of family "mobilenet_v2", as `expand` gives them."""
    return expand(spec, TABLE, "relu6", {"conv2d": _first, "bottleneck": _bottleneck, "conv2d 1x1": _last})


def _first(flat: Expansion, row: Stage, index: int) -> None:
    channels = round_channels(32 * flat.spec.alpha)
    flat.convolve("Conv1", channels, index, kernel=(3, 3), stride=row.s, batch_norm="bn_Conv1", activation="Conv1_relu")


def _last(flat: Expansion, row: Stage, index: int) -> None:
    channels = max(1280, round_channels(1280 * flat.spec.alpha))  # never narrowed, as in the paper's section 5
    flat.convolve("Conv_1", channels, index, batch_norm="Conv_1_bn", activation="out_relu")


def _bottleneck(flat: Expansion, row: Stage, stage: int) -> None:
    """One inverted residual: expand, depthwise, project, and add where nothing changes size."""
    assert row.c is not None and row.t is not None
    channels, expansion = round_channels(int(row.c * flat.spec.alpha)), row.t
    prefix = f"block_{flat.blocks}" if flat.blocks else "expanded_conv"
    flat.blocks += 1
    entry, entry_shape = flat.source, flat.shape
    wide = expansion * flat.shape[2]
    if expansion != 1:
        name = f"{prefix}_expand"
        flat.convolve(name, wide, stage, batch_norm=f"{name}_BN", activation=f"{name}_relu", expansion=expansion)
    name = f"{prefix}_depthwise"
    flat.convolve(
        name,
        wide,
        stage,
        kernel=(3, 3),
        stride=row.s,
        depthwise=True,
        batch_norm=f"{name}_BN",
        activation=f"{name}_relu",
        expansion=expansion,
    )
    name = f"{prefix}_project"
    flat.convolve(name, channels, stage, batch_norm=f"{name}_BN", expansion=expansion)
    if flat.shape == entry_shape:
        flat.add(f"{prefix}_add", entry, stage, expansion=expansion)
