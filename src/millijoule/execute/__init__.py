"""Run a graph on this computer: float, dynamic, integer (bit-exact), and fake-quantised for training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from millijoule.errors import ToolchainError
from millijoule.execute._run import Executor, predict, run

if TYPE_CHECKING:
    from millijoule.execute._fake_quant import FakeQuantModule
    from millijoule.execute._torch import FloatModule
    from millijoule.graph import Graph

__all__ = ["Executor", "FakeQuantModule", "FloatModule", "float_module", "predict", "run"]

_NEEDS_TORCH = {"FakeQuantModule": "_fake_quant", "FloatModule": "_torch"}


def __getattr__(name: str) -> Any:
    """Imports what needs torch when it is first asked for, so that the integer executor works without torch."""
    if name not in _NEEDS_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    try:
        module = importlib.import_module(f"millijoule.execute.{_NEEDS_TORCH[name]}")
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ToolchainError("torch", "it is not installed", "Run pip install 'millijoule[train]'") from error
    return getattr(module, name)


def float_module(graph: Graph) -> FloatModule:
    """A float graph as a torch module: normalised float32 (N, C, H, W) -> logits (N, classes), weights trainable.

    Raises:
        UnsupportedError: the graph has integer or dynamic nodes.
        ToolchainError: torch is not installed.
    """
    module: FloatModule = __getattr__("FloatModule")(graph)
    return module
