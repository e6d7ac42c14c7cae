"""The families of networks: adding one is a table, a function that expands it, and one entry here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from millijoule.errors import OptionError
from millijoule.nets import _mobilenet_v2
from millijoule.nets._spec import Layer, NetworkSpec, Stage

__all__ = ["Family", "families", "family", "layers"]


@dataclass(frozen=True)
class Family:
    """One family of networks.

    Attributes:
        name: what the user types.
        summary: one line for `millijoule nets list`.
        paper: where it is published.
        specify: makes a specification from options.
        layers: expands a specification to the flat list of layers.
        table: the rows of the published table.
        alphas: widths with published weights, used to say which width would fit a weight file.
    """

    name: str
    summary: str
    paper: str
    specify: Callable[..., NetworkSpec]
    layers: Callable[[NetworkSpec], tuple[Layer, ...]]
    table: tuple[Stage, ...]
    alphas: tuple[float, ...]


_FAMILIES: dict[str, Family] = {
    "mobilenet_v2": Family(
        name="mobilenet_v2",
        summary="inverted residuals with linear bottlenecks, 19 blocks",
        paper="Sandler et al., CVPR 2018, arXiv:1801.04381",
        specify=_mobilenet_v2.mobilenet_v2,
        layers=_mobilenet_v2.layers,
        table=_mobilenet_v2.TABLE,
        alphas=(0.35, 0.5, 0.75, 1.0, 1.3, 1.4),
    ),
}


def families() -> tuple[Family, ...]:
    """All families, in alphabetical order."""
    return tuple(_FAMILIES[name] for name in sorted(_FAMILIES))


def family(name: str) -> Family:
    """The family of that name.

    Raises:
        OptionError: there is none; the message lists those there are.
    """
    try:
        return _FAMILIES[name]
    except KeyError:
        known = ", ".join(sorted(_FAMILIES))
        raise OptionError(f"network {name!r}", "it is not known", f"Choose one of: {known}") from None


def layers(spec: NetworkSpec) -> tuple[Layer, ...]:
    """The flat list of layers of `spec`, in execution order. Raises `OptionError` for an unknown family."""
    return family(spec.family).layers(spec)
