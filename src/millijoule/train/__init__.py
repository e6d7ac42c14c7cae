"""Training in floating point: one readable loop that any torch module can use, quantisation-aware training included.

Needs torch (`pip install 'millijoule[train]'`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from millijoule.errors import ToolchainError

if TYPE_CHECKING:
    from millijoule.train._evaluate import Evaluation, evaluate, network_input, wilson_interval
    from millijoule.train._loop import EpochHook, TrainResult, fit
    from millijoule.train._options import TrainOptions
    from millijoule.train._protocol import BatchSource, PreparedLike, SplitLike
    from millijoule.train._start import initial_network
    from millijoule.train._teacher import coarse_classes, committee

__all__ = [
    "BatchSource",
    "EpochHook",
    "Evaluation",
    "PreparedLike",
    "SplitLike",
    "TrainOptions",
    "TrainResult",
    "coarse_classes",
    "committee",
    "evaluate",
    "fit",
    "initial_network",
    "network_input",
    "wilson_interval",
]

_PLACES = {
    "BatchSource": "_protocol",
    "EpochHook": "_loop",
    "Evaluation": "_evaluate",
    "PreparedLike": "_protocol",
    "SplitLike": "_protocol",
    "TrainOptions": "_options",
    "TrainResult": "_loop",
    "coarse_classes": "_teacher",
    "committee": "_teacher",
    "evaluate": "_evaluate",
    "fit": "_loop",
    "initial_network": "_start",
    "network_input": "_evaluate",
    "wilson_interval": "_evaluate",
}


def __getattr__(name: str) -> Any:
    """Imports torch only when something that needs it is asked for."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    try:
        module = importlib.import_module(f"millijoule.train.{_PLACES[name]}")
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "cv2"):
            raise
        raise ToolchainError(str(error.name), "it is not installed", "Run pip install 'millijoule[train]'") from error
    return getattr(module, name)
