"""The small residual network of MLPerf Tiny's image classification (CIFAR-10) as data.

Banbury et al.: MLPerf Tiny Benchmark, NeurIPS Datasets and Benchmarks 2021, arXiv:2106.07597, section 3.2: a ResNet
(He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, CVPR 2016, arXiv:1512.03385) of three residual
blocks instead of four, without a pooling after the first convolution; channels and strides as in the benchmark's
reference code (github.com/mlcommons/tiny, benchmark/training/image_classification). Convolutions have a bias besides
batch normalisation, as there, so that the parameter count is the published one. 12.5 million MACs.
"""

from __future__ import annotations

from millijoule.nets._expand import Expansion, expand
from millijoule.nets._spec import Layer, NetworkSpec, Stage, check_resolution

__all__ = ["TABLE", "layers", "resnet8"]

TABLE: tuple[Stage, ...] = (
    #     operator     t     c   n  s
    Stage("conv2d", None, 16, 1, 1),
    Stage("residual", None, 16, 1, 1),
    Stage("residual", None, 32, 1, 2),
    Stage("residual", None, 64, 1, 2),
    Stage("avgpool", None, None, 1, 1),
    Stage("dense", None, None, 1, 1),
)
""""residual" is two 3x3 convolutions beside the identity, or beside a strided 1x1 convolution where sizes change."""


def resnet8(resolution: int = 32, classes: int = 10, *, bn_momentum: float = 0.03) -> NetworkSpec:
    """Specifies the ResNet of MLPerf Tiny; the benchmark's is 32x32 with 10 classes.

    Args:
        resolution: side of the square input picture in pixels.
        classes: length of the logits.
        bn_momentum: share of the newest batch in the moving statistics of batch normalisation.

    Returns:
        The specification; `millijoule.nets.build` makes a torch module of it.

    Raises:
        OptionError: a value is out of range.
    """
    check_resolution(resolution)
    return NetworkSpec("resnet8", 1.0, resolution, classes, 0.0, bn_momentum=bn_momentum)


def layers(spec: NetworkSpec) -> tuple[Layer, ...]:
    """The layers of a specification of family "resnet8", as `expand` gives them."""
    return expand(spec, TABLE, "relu", {"conv2d": _first, "residual": _residual}, bias=True)


def _first(flat: Expansion, row: Stage, index: int) -> None:
    assert row.c is not None
    flat.convolve("conv1", row.c, index, kernel=(3, 3), batch_norm="conv1_bn", activation="conv1_relu")


def _residual(flat: Expansion, row: Stage, stage: int) -> None:
    """conv, conv, add, ReLU; a shortcut that changes size is a 1x1 convolution without batch normalisation."""
    assert row.c is not None
    channels, stride = row.c, row.s
    flat.blocks += 1
    prefix = f"block_{flat.blocks}"
    entry, entry_shape = flat.source, flat.shape
    shortcut = entry
    if stride != 1 or entry_shape[2] != channels:
        shortcut = f"{prefix}_shortcut"
        flat.convolve(shortcut, channels, stage, stride=stride)
        flat.go_back(entry)
    first, second = f"{prefix}_conv_1", f"{prefix}_conv_2"
    flat.convolve(
        first, channels, stage, kernel=(3, 3), stride=stride, batch_norm=f"{first}_bn", activation=f"{first}_relu"
    )
    flat.convolve(second, channels, stage, kernel=(3, 3), batch_norm=f"{second}_bn")
    flat.add(f"{prefix}_add", shortcut, stage, activation=f"{prefix}_relu")
