"""The depthwise separable network of MLPerf Tiny's keyword spotting as data.

Zhang, Suda, Lai, Chandra: Hello Edge: Keyword Spotting on Microcontrollers, 2017 (arXiv:1711.07128), the small DS-CNN,
as Banbury et al. took it over (MLPerf Tiny Benchmark, NeurIPS Datasets and Benchmarks 2021, arXiv:2106.07597, and
github.com/mlcommons/tiny, benchmark/training/keyword_spotting): 49 windows of 10 mel-frequency cepstral coefficients,
12 classes, 64 channels throughout, biases besides batch normalisation. 2,656,768 MACs.
"""

from __future__ import annotations

from millijoule.nets._expand import Expansion, expand
from millijoule.nets._spec import Layer, NetworkSpec, Stage

__all__ = ["TABLE", "ds_cnn", "layers"]

TABLE: tuple[Stage, ...] = (
    #     operator     t     c   n  s
    Stage("conv2d", None, 64, 1, 2),
    Stage("separable", None, 64, 4, 1),
    Stage("avgpool", None, None, 1, 1),
    Stage("dense", None, None, 1, 1),
)
"""The first convolution is 10 windows by 4 coefficients; "separable" is a 3x3 depthwise and a pointwise one."""

WINDOWS, COEFFICIENTS = 49, 10


def ds_cnn(classes: int = 12, dropout: float = 0.4, *, bn_momentum: float = 0.03) -> NetworkSpec:
    """Specifies the DS-CNN of MLPerf Tiny.

    The input is one "picture" of 49 x 10 x 1 bytes: time downwards, coefficients across, brought to 0..255 by whoever
    computes them.

    Args:
        classes: length of the logits.
        dropout: probability before the pooling, only while training; after the first convolution it is half of it
            (the benchmark: 0.4 and 0.2).
        bn_momentum: share of the newest batch in the moving statistics of batch normalisation.

    Returns:
        The specification; `millijoule.nets.build` makes a torch module of it.

    Raises:
        OptionError: a value is out of range.
    """
    return NetworkSpec(
        "ds_cnn", 1.0, WINDOWS, classes, dropout, channels=1, bn_momentum=bn_momentum, columns=COEFFICIENTS
    )


def layers(spec: NetworkSpec) -> tuple[Layer, ...]:
    """The layers of a specification of family "ds_cnn", as `expand` gives them."""
    rows = {"conv2d": _first, "separable": _separable, "avgpool": _average, "dense": _classify}
    return expand(spec, TABLE, "relu", rows, bias=True)


def _first(flat: Expansion, row: Stage, index: int) -> None:
    assert row.c is not None
    flat.convolve("conv1", row.c, index, kernel=(10, 4), stride=row.s, batch_norm="conv1_bn", activation="conv1_relu")
    flat.drop("dropout_1", flat.spec.dropout / 2, index)


def _separable(flat: Expansion, row: Stage, index: int) -> None:
    assert row.c is not None
    flat.separate(row.c, index)


def _average(flat: Expansion, row: Stage, index: int) -> None:
    flat.drop("dropout_2", flat.spec.dropout, index)
    flat.average(index)


def _classify(flat: Expansion, row: Stage, index: int) -> None:
    flat.connect("classifier", flat.spec.classes, index)
