"""Run a graph on this computer: float, dynamic, integer (bit-exact), and fake-quantised for training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from millijoule.errors import ToolchainError
from millijoule.execute._run import Executor, predict, run

if TYPE_CHECKING:
    from millijoule.execute._torch import FloatModule
    from millijoule.graph import Graph

__all__ = ["Executor", "float_module", "predict", "run"]


def float_module(graph: Graph) -> FloatModule:
    """A float graph as a torch module: normalised float32 (N, C, H, W) -> logits (N, classes), weights trainable.

    Raises:
        UnsupportedError: the graph has integer or dynamic nodes.
        ToolchainError: torch is not installed.
    """
    try:
        from millijoule.execute._torch import FloatModule
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ToolchainError("torch", "it is not installed", "Run pip install 'millijoule[train]'") from error
    return FloatModule(graph)
