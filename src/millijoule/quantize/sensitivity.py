"""Where the error of a quantised network comes from, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from millijoule.graph import Graph, simplify
from millijoule.quantize.compare import sqnr

__all__ = ["LayerError", "layer_snr"]


@dataclass(frozen=True)
class LayerError:
    """One layer's result in the quantised network against the float network's.

    Attributes:
        layer: the name the user knows.
        operator: its operator.
        sqnr: signal to noise in dB, errors of all earlier layers included; None when the two are equal.
        mean_error: mean error in units of the float result's deviation: what bias correction can take away.
    """

    layer: str
    operator: str
    sqnr: float | None
    mean_error: float


def layer_snr(graph: Graph, converted: Graph, pictures: npt.NDArray[np.uint8]) -> list[LayerError]:
    """The error of every activation of a dynamic or integer graph on a few pictures.

    Args:
        graph: the float graph.
        converted: its quantised version, with the same tensor names.
        pictures: uint8 (N, H, W, C); all activations of all of them are held in memory, so give about ten.

    Returns:
        One entry per layer that both graphs have, in execution order; the probabilities are left out.
    """
    from millijoule import execute

    exact = simplify(graph)
    written = {node.output for node in exact.nodes}
    nodes = [node for node in converted.nodes if node.output in written and node.op != "softmax"]
    names = [node.output for node in nodes]
    real, stored = (execute.run(model, pictures, keep=names) for model in (exact, converted))
    errors = []
    for node in nodes:
        value = stored[node.output].astype(np.float64)
        quant = converted.tensor(node.output).quant
        if quant is not None:
            value = (value - quant.scalar_zero_point) * quant.scalar_scale
        difference = value - real[node.output]
        deviation = float(real[node.output].std())
        mean = float(difference.mean()) / deviation if deviation > 0.0 else 0.0
        errors.append(LayerError(node.source or node.output, node.op, sqnr(real[node.output], value), mean))
    return errors
