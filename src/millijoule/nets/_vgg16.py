"""VGG16 as data: the network that the paper compares MobileNetV2 with.

Simonyan, Zisserman: Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015 (arXiv:1409.1556),
Table 1, column D: thirteen 3x3 convolutions with bias and ReLU, no batch normalisation, a 2x2 maximum pooling after
every stage; layer names as in keras.applications.VGG16.

The classifier is not the published one. With its two dense layers of 4,096 features the network has 134,301,514
parameters for ten classes, 268.60 MB in 16 bits. Kristiani et al. (iSEC, IEEE Access 8, 2020, DOI
10.1109/ACCESS.2020.2971566) report 29.81 MB, hardly more than the convolutions alone; their classifier is not stated in
the paper that quotes it. In 16 bits, MB of 10^6 and MiB of 2^20 bytes, ten classes:

=======================================================  ==========  =========  =========
behind the convolutions                                  parameters         MB        MiB
=======================================================  ==========  =========  =========
nothing                                                  14,714,688      29.43      28.07
global average, dense 10 (this family)                   14,719,818      29.44      28.08
global average, dense 256, dense 10                      14,848,586      29.70      28.32
flatten (7x7x512), dense 10                              14,965,578      29.93      28.54
global average, dense 512, dense 10                      14,982,474      29.96      28.58
flatten, dense 32, dense 10                              15,517,866      31.04      29.60
flatten, dense 256, dense 10                             21,140,042      42.28      40.32
flatten, dense 4096, dense 4096, dense 10 (published)   134,301,514     268.60     256.16
=======================================================  ==========  =========  =========

None of them gives 29.81; "global average, dense 256, dense 10" comes nearest (0.11 MB less), this family's is 0.37 MB
less (1.2 %).
"""

from __future__ import annotations

from millijoule.nets._expand import Expansion, expand, round_channels
from millijoule.nets._spec import Layer, NetworkSpec, Stage, check_resolution

__all__ = ["TABLE", "layers", "vgg16"]

TABLE: tuple[Stage, ...] = (
    #     operator     t     c   n  s
    Stage("conv2d", None, 64, 2, 1),
    Stage("maxpool", None, None, 1, 2),
    Stage("conv2d", None, 128, 2, 1),
    Stage("maxpool", None, None, 1, 2),
    Stage("conv2d", None, 256, 3, 1),
    Stage("maxpool", None, None, 1, 2),
    Stage("conv2d", None, 512, 3, 1),
    Stage("maxpool", None, None, 1, 2),
    Stage("conv2d", None, 512, 3, 1),
    Stage("maxpool", None, None, 1, 2),
    Stage("avgpool", None, None, 1, 1),
    Stage("dense", None, None, 1, 1),
)
"""The rows of column D, and the classifier of this package."""


def vgg16(
    alpha: float = 1.0,
    resolution: int = 224,
    classes: int = 10,
    dropout: float = 0.5,
    *,
    bn_momentum: float = 0.03,
) -> NetworkSpec:
    """Specifies a VGG16 with global average pooling and one dense layer.

    Pictures are normalised as for the other families, to -1..1; published ImageNet weights expect the mean colour to
    be subtracted instead.

    Args:
        alpha: width multiplier, for small experiments; the published network is 1.
        resolution: side of the square input picture in pixels.
        classes: length of the logits.
        dropout: probability before the classifier, only while training; the authors' is 0.5.
        bn_momentum: unused, since nothing is normalised; for the same options as the other families.

    Returns:
        The specification; `millijoule.nets.build` makes a torch module of it.

    Raises:
        OptionError: a value is out of range.
    """
    check_resolution(resolution)
    return NetworkSpec("vgg16", alpha, resolution, classes, dropout, bn_momentum=bn_momentum)


def layers(spec: NetworkSpec) -> tuple[Layer, ...]:
    """The layers of a specification of family "vgg16", as `expand` gives them."""
    return expand(spec, TABLE, "relu", {"conv2d": _convolve, "maxpool": _pool})


def _convolve(flat: Expansion, row: Stage, index: int) -> None:
    assert row.c is not None
    stage = 1 + flat.blocks
    place = 1 + sum(layer.stage == index for layer in flat.layers)
    name = f"block{stage}_conv{place}"
    flat.convolve(name, round_channels(row.c * flat.spec.alpha), index, kernel=(3, 3), activation=f"{name}_relu")


def _pool(flat: Expansion, row: Stage, index: int) -> None:
    flat.blocks += 1
    flat.pool(f"block{flat.blocks}_pool", index, size=2, stride=row.s)
