"""The families of networks: adding one is a table, a function that expands it, and one entry here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from millijoule.errors import OptionError
from millijoule.nets import _autoencoder, _ds_cnn, _mobilenet_v1, _mobilenet_v2, _resnet8, _vgg16
from millijoule.nets._spec import Layer, NetworkSpec, Stage

__all__ = ["Family", "families", "family", "identifier", "layers", "specify"]


@dataclass(frozen=True)
class Family:
    """One family of networks.

    Attributes:
        name: what the user types.
        summary: one line for `millijoule nets list`.
        paper: where it is published.
        specify: makes a specification from options.
        options: the options that users choose, with their defaults: of "alpha", "resolution" and "classes" those that
            the family leaves open.
        layers: expands a specification to the flat list of layers.
        table: the rows of the published table.
        alphas: widths with published weights, used to say which width would fit a weight file.
    """

    name: str
    summary: str
    paper: str
    specify: Callable[..., NetworkSpec]
    options: Mapping[str, float]
    layers: Callable[[NetworkSpec], tuple[Layer, ...]]
    table: tuple[Stage, ...]
    alphas: tuple[float, ...]


_MLPERF_TINY = "Banbury et al., NeurIPS 2021, arXiv:2106.07597"

_FAMILIES = (
    Family(
        name="autoencoder",
        summary="10 dense layers, MLPerf Tiny anomaly detection (640 features)",
        paper=_MLPERF_TINY,
        specify=_autoencoder.autoencoder,
        options={},
        layers=_autoencoder.layers,
        table=_autoencoder.TABLE,
        alphas=(),
    ),
    Family(
        name="ds_cnn",
        summary="4 depthwise separable blocks, MLPerf Tiny keyword spotting (49x10)",
        paper=f"Zhang et al., arXiv:1711.07128; {_MLPERF_TINY}",
        specify=_ds_cnn.ds_cnn,
        options={"classes": 12},
        layers=_ds_cnn.layers,
        table=_ds_cnn.TABLE,
        alphas=(),
    ),
    Family(
        name="mobilenet_v1",
        summary="13 depthwise separable blocks; MLPerf Tiny visual wake words at 0.25",
        paper="Howard et al., arXiv:1704.04861",
        specify=_mobilenet_v1.mobilenet_v1,
        options={"alpha": 0.25, "resolution": 96, "classes": 2},
        layers=_mobilenet_v1.layers,
        table=_mobilenet_v1.TABLE,
        alphas=(0.25, 0.5, 0.75, 1.0),
    ),
    Family(
        name="mobilenet_v2",
        summary="inverted residuals with linear bottlenecks, 17 blocks",
        paper="Sandler et al., CVPR 2018, arXiv:1801.04381",
        specify=_mobilenet_v2.mobilenet_v2,
        options={"alpha": 0.5, "resolution": 224, "classes": 10},
        layers=_mobilenet_v2.layers,
        table=_mobilenet_v2.TABLE,
        alphas=(0.35, 0.5, 0.75, 1.0, 1.3, 1.4),
    ),
    Family(
        name="resnet8",
        summary="3 residual blocks, MLPerf Tiny image classification (CIFAR-10)",
        paper=_MLPERF_TINY,
        specify=_resnet8.resnet8,
        options={"resolution": 32, "classes": 10},
        layers=_resnet8.layers,
        table=_resnet8.TABLE,
        alphas=(),
    ),
    Family(
        name="vgg16",
        summary="13 convolutions of 3x3 (the paper's comparison), one dense layer",
        paper="Simonyan and Zisserman, ICLR 2015, arXiv:1409.1556",
        specify=_vgg16.vgg16,
        options={"alpha": 1.0, "resolution": 224, "classes": 10},
        layers=_vgg16.layers,
        table=_vgg16.TABLE,
        alphas=(1.0,),
    ),
)
_BY_NAME = {family.name: family for family in _FAMILIES}


def families() -> tuple[Family, ...]:
    """All families, in alphabetical order."""
    return tuple(_BY_NAME[name] for name in sorted(_BY_NAME))


def family(name: str) -> Family:
    """The family of that name.

    Raises:
        OptionError: there is none; the message lists those there are.
    """
    try:
        return _BY_NAME[name]
    except KeyError:
        known = ", ".join(sorted(_BY_NAME))
        raise OptionError(f"network {name!r}", "it is not known", f"Choose one of: {known}") from None


def layers(spec: NetworkSpec) -> tuple[Layer, ...]:
    """The flat list of layers of `spec`, in execution order. Raises `OptionError` for an unknown family."""
    return family(spec.family).layers(spec)


def specify(name: str, **options: float | None) -> NetworkSpec:
    """A specification from options by name, for commands.

    Args:
        name: a name of `families()`.
        options: "alpha", "resolution" and "classes", or other arguments of the family's function; None: its default.

    Raises:
        OptionError: an unknown family, an option that it does not have, or a value out of its range.
    """
    entry = family(name)
    given = {option: value for option, value in options.items() if value is not None}
    for option in given:
        if option in ("alpha", "resolution", "classes") and option not in entry.options:
            height, width, channels = entry.specify().input_shape
            fixed = {
                "alpha": "it has one width",
                "resolution": f"its input is always {height}x{width}x{channels}",
                "classes": "its outputs are as many as its inputs",
            }
            raise OptionError(f"--{option}", f"{name} does not have it: {fixed[option]}", f"Leave out --{option}")
    unknown = sorted(set(given) - set(inspect.signature(entry.specify).parameters))
    if unknown:
        raise OptionError(f"--{unknown[0]}", f"{name} does not have it", f"Leave out --{unknown[0]}")
    return entry.specify(**given)


def identifier(spec: NetworkSpec) -> str:
    """A short name for files: the family, and the width and resolution where it leaves them open.

    Example:
        >>> identifier(_mobilenet_v2.mobilenet_v2(0.35, 96))
        'mobilenet_v2_0_35_96'
    """
    options = family(spec.family).options
    parts = [spec.family]
    parts += [f"{spec.alpha:g}"] * ("alpha" in options) + [f"{spec.resolution}"] * ("resolution" in options)
    return "_".join(parts).replace(".", "_")
