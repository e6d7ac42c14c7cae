"""Dynamic quantisation: int8 weights, float activations that each layer quantises from their own range at run time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from millijoule.errors import OptionError, QuantizationError
from millijoule.files import Progress
from millijoule.graph import WEIGHT_AXIS, Graph, Tensor, mode, simplify, verify, widen_halves
from millijoule.graph.conversion import quantize_weights, weight_quant
from millijoule.quantize.bias_correction import assumed_means, correct_biases
from millijoule.quantize.data_free import drawn_for
from millijoule.quantize.decisions import QuantizationReport
from millijoule.quantize.reconstruct import PARTS, reconstruct

__all__ = ["dynamic"]


def dynamic(
    graph: Graph,
    calibration: npt.NDArray[np.uint8] | None = None,
    *,
    per_channel: bool = True,
    refine: str = "full",
    progress: Progress | None = None,
) -> Graph:
    """A float graph with its weights as int8; biases and activations stay float32.

    Needs no photographs. The weights follow TFLite's rules (symmetric, [-127, 127], one scale per output channel).

    Args:
        graph: a float graph, simplified or as captured.
        calibration: uint8 (N, height, width, channels) for refine="full"; None: drawn pictures, see `data_free`.
        per_channel: one weight scale per output channel; otherwise one per layer.
        refine: "none": plain conversion; "bias": biases corrected with the means that batch normalisation tells (give
            the graph as captured: a simplified one has no batch_norm nodes left and keeps its biases); "full": the
            layers reconstructed one after another on pictures, with learned rounding (see `reconstruct`).
        progress: called after each layer that is reconstructed.

    Returns:
        The verified graph; weights are called ``<float name>.int8``.

    Raises:
        QuantizationError: the graph is quantised already, or weights are not finite (names the layer).
        OptionError: unknown refinement.
    """
    if refine not in ("none", "bias", "full"):
        raise OptionError("refine", f"{refine!r} is unknown", "Use one of: none, bias, full")
    graph = require_float(graph)
    means = assumed_means(graph) if refine == "bias" else {}
    graph = simplify(graph)
    tensors, constants = dict(graph.tensors), dict(graph.constants)
    nodes = []
    for node in graph.nodes:
        if node.op in WEIGHT_AXIS:
            name, value, tensor = _weights(graph, node.inputs[1], WEIGHT_AXIS[node.op], per_channel, node.source)
            tensors[name], constants[name] = tensor, value
            node = replace(node, inputs=(node.inputs[0], name, *node.inputs[2:]))
        nodes.append(node)
    converted = replace(graph, nodes=tuple(nodes), tensors=tensors, constants=constants).without_unused()
    corrected = correct_biases(graph, verify(converted), means)
    if refine == "full":
        from millijoule.quantize.refine import few, reconstruction_decisions

        pictures = few(graph, drawn_for(graph) if calibration is None else calibration)
        parts = ("round",) if per_channel else PARTS
        corrected, changes = reconstruct(graph, corrected, pictures, parts=parts, progress=progress)
        settings = {
            "quantisation": "dynamic int8",
            "weight scales": "one per channel" if per_channel else "one per layer",
            f"{'drawn' if calibration is None else 'calibration'} pictures": len(pictures),
        }
        decisions = reconstruction_decisions(changes, parts)
        corrected = corrected.with_note(QuantizationReport(settings, ("empirical", *parts), decisions).note())
    scope = "channel" if per_channel else "layer"
    return corrected.with_note(f"dynamic: int8 weights, one scale per {scope}, refinement: {refine}")


def _weights(
    graph: Graph, name: str, axis: int, per_channel: bool, source: str
) -> tuple[str, npt.NDArray[Any], Tensor]:
    weights = graph.constant(name)
    try:
        quant = weight_quant(weights, axis, per_channel)
    except QuantizationError as error:
        raise QuantizationError(
            f"layer {source or name!r}", f"its {error.what} cannot be used: {error.reason}", error.fix
        ) from None
    value = quantize_weights(weights, quant)
    return f"{name}.int8", value, Tensor(f"{name}.int8", tuple(value.shape), "int8", quant)


def require_float(graph: Graph) -> Graph:
    """The graph when all of it is float, 16-bit weights widened.

    Raises:
        QuantizationError: some of it is quantised already.
    """
    for node in graph.nodes:
        if mode(graph, node) != "float":
            raise QuantizationError(
                f"graph {graph.name!r}",
                f"layer {node.source or node.output!r} is quantised already",
                "Start from the float model",
            )
    return widen_halves(graph)
