"""The dense autoencoder of MLPerf Tiny's anomaly detection as data.

Koizumi et al.: Description and Discussion on DCASE2020 Challenge Task2 (arXiv:2006.05822), the baseline system, as
Banbury et al. took it over (MLPerf Tiny Benchmark, NeurIPS Datasets and Benchmarks 2021, arXiv:2106.07597, and
github.com/mlcommons/tiny, benchmark/training/anomaly_detection): 640 inputs (5 windows of 128 log-mel energies),
128-128-128-128-8-128-128-128-128, 640 outputs; batch normalisation and ReLU after every layer but the last.
264,192 MACs.
"""

from __future__ import annotations

from millijoule.nets._expand import Expansion, expand
from millijoule.nets._spec import Layer, NetworkSpec, Stage

__all__ = ["TABLE", "autoencoder", "layers"]

TABLE: tuple[Stage, ...] = (
    #     operator    t     c    n  s
    Stage("dense", None, 128, 4, 1),
    Stage("dense", None, 8, 1, 1),
    Stage("dense", None, 128, 4, 1),
    Stage("dense", None, None, 1, 1),
)

FEATURES = 640


def autoencoder(*, bn_momentum: float = 0.03) -> NetworkSpec:
    """Specifies the autoencoder of MLPerf Tiny.

    The input is one "picture" of 1 x 1 pixel with 640 channels, features brought to 0..255 by whoever computes them;
    the 640 "logits" are their reconstruction, in the units of the normalised input, and no class follows from them.

    Args:
        bn_momentum: share of the newest batch in the moving statistics of batch normalisation.

    Returns:
        The specification; `millijoule.nets.build` makes a torch module of it.

    Raises:
        OptionError: a value is out of range.
    """
    return NetworkSpec("autoencoder", 1.0, 1, FEATURES, 0.0, channels=FEATURES, bn_momentum=bn_momentum)


def layers(spec: NetworkSpec) -> tuple[Layer, ...]:
    """The layers of a specification of family "autoencoder", as `expand` gives them; the last is the reconstruction."""
    return expand(spec, TABLE, "relu", {"dense": _dense})


def _dense(flat: Expansion, row: Stage, index: int) -> None:
    if not flat.layers:
        flat.flatten(index)
    if row.c is None:
        flat.connect("reconstruction", flat.spec.classes, index)
        return
    flat.blocks += 1
    name = f"dense_{flat.blocks}"
    flat.connect(name, row.c, index, batch_norm=f"{name}_bn", activation=f"{name}_relu")
