"""A network whose layers are float, 8 or 4 bits one by one: what each choice does to the logits.

One walk through the nodes carries the pictures through a base choice; at every layer that has alternatives the walk
branches and computes the rest of the network once per alternative. What lies before the branch is never computed again.

The arithmetic is float: weights are those the integer network stores times their scales, activations are rounded to the
integer network's grid. It differs from the integer executor by the rounding of the fixed-point multipliers only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from millijoule.errors import QuantizationError
from millijoule.files import Progress
from millijoule.graph import WEIGHT_AXIS, Graph, Node, Quant
from millijoule.quantize.reconstruct import float_node

__all__ = ["FLOAT", "Branch", "Simulation", "noise"]

FLOAT = 32
"""Bits of a layer that stays in float, its result too."""

Float32 = npt.NDArray[np.float32]
Bits = Mapping[str, int]

_CHUNK = 8
"""Pictures that are carried through the network together."""


def noise(reference: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    """``sum (r - o)^2 / sum r^2``, the inverse of the signal-to-noise ratio; 0 where the two are equal."""
    power = float(np.square(reference, dtype=np.float64).sum())
    error = float(np.square(reference.astype(np.float64) - other).sum())
    return error / power if power > 0.0 else error


@dataclass(frozen=True)
class Branch:
    """One alternative of one layer.

    Attributes:
        layer: the result of its node.
        bits: 4, 8 or `FLOAT`.
        own: noise of the layer's own results against the float network's.
        logits: float32 (N, classes).
    """

    layer: str
    bits: int
    own: float
    logits: Float32


class Simulation:
    """The float network and its integer versions on a few pictures.

    Args:
        graph: a simplified float graph.
        converted: by bits of the weights (8, 4): the integer graph with the same tensor names. Their activations have
            the same scales.
        pictures: uint8 (N, H, W, C).

    Raises:
        QuantizationError: no pictures.

    Attributes:
        layers: results of the layers with weights, in execution order.
        names: what the user calls them.
        reference: the float network's logits.
    """

    def __init__(self, graph: Graph, converted: Mapping[int, Graph], pictures: npt.NDArray[np.uint8]) -> None:
        if len(pictures) == 0:
            raise QuantizationError("the held-back pictures", "there are none", "Give more calibration pictures")
        self.graph, self.pictures = graph, pictures
        self.logits = logits_of(graph)
        end = next(index for index, node in enumerate(graph.nodes) if node.output == self.logits)
        self.nodes = graph.nodes[: end + 1]
        self.layers = tuple(node.output for node in self.nodes if node.op in WEIGHT_AXIS)
        self.names = {node.output: node.source or node.output for node in self.nodes}
        self._graphs = {FLOAT: graph, **{bits: _real_weights(graph, other) for bits, other in converted.items()}}
        self._quants = {node.output: next(iter(converted.values())).quant(node.output) for node in self.nodes}
        self._functions: dict[tuple[str, int], Any] = {}
        self.reference = self.run(self.all(FLOAT), others=False)

    def all(self, bits: int) -> dict[str, int]:
        """The same number of bits for every layer."""
        return dict.fromkeys(self.layers, bits)

    def run(self, bits: Bits, *, others: bool = True) -> Float32:
        """The logits with these bits by layer, (N, classes).

        Args:
            bits: of every layer.
            others: whether the results of operators without weights are rounded, too.
        """
        parts = []
        for start in range(0, len(self.pictures), _CHUNK):
            values = {self.graph.inputs[0]: self.pictures[start : start + _CHUNK]}
            parts.append(self._rest(0, values, bits, others))
        return np.concatenate(parts)

    def error(self, bits: Bits) -> float:
        """Noise of the logits of the network with these bits."""
        return noise(self.reference, self.run(bits))

    def branches(
        self,
        base: Bits,
        alternatives: Mapping[str, Sequence[int]],
        *,
        others: bool = True,
        what: str = "sensitivity",
        progress: Progress | None = None,
    ) -> Iterator[Branch]:
        """The base with one layer changed, for every alternative of every layer named.

        Args:
            base: bits of every layer.
            alternatives: by layer: the bits to try.
            others: whether the results of operators without weights are rounded, too.
            what: what the progress is called.
            progress: called after each layer of each group of pictures.

        Yields:
            One entry per alternative, in execution order, at the end of the walk.
        """
        logits: dict[tuple[str, int], list[Float32]] = {}
        errors: dict[tuple[str, int], float] = {}
        power: dict[str, float] = {}
        starts = range(0, len(self.pictures), _CHUNK)
        total, done = len(starts) * len(alternatives), 0
        for start in starts:
            pictures = self.pictures[start : start + _CHUNK]
            values: dict[str, Any] = {self.graph.inputs[0]: pictures}
            real: dict[str, Any] = {self.graph.inputs[0]: pictures}
            last = max((i for i, node in enumerate(self.nodes) if node.output in alternatives), default=-1)
            for index, node in enumerate(self.nodes[: last + 1]):
                real[node.output] = self._step(node, real, FLOAT, False)
                if node.output in alternatives:
                    exact = real[node.output]
                    power[node.output] = power.get(node.output, 0.0) + float(np.square(exact, dtype=np.float64).sum())
                    for bits in alternatives[node.output]:
                        key = (node.output, bits)
                        branch = dict(values)
                        branch[node.output] = self._step(node, values, bits, others)
                        wrong = float(np.square(branch[node.output] - exact, dtype=np.float64).sum())
                        errors[key] = errors.get(key, 0.0) + wrong
                        logits.setdefault(key, []).append(self._rest(index + 1, branch, base, others))
                    done += 1
                    if progress is not None:
                        progress(what, done, total)
                values[node.output] = self._step(node, values, base.get(node.output, FLOAT), others)
                self._forget(index, values)
                self._forget(index, real)
        for (layer, bits), parts in logits.items():
            own = errors[layer, bits] / power[layer] if power[layer] > 0.0 else errors[layer, bits]
            yield Branch(layer, bits, own, np.concatenate(parts))

    def _rest(self, start: int, values: dict[str, Any], bits: Bits, others: bool) -> Float32:
        for index in range(start, len(self.nodes)):
            node = self.nodes[index]
            values[node.output] = self._step(node, values, bits.get(node.output, FLOAT), others)
            self._forget(index, values)
        result: Float32 = values[self.logits].reshape(len(values[self.logits]), -1)
        return result

    def _forget(self, index: int, values: dict[str, Any]) -> None:
        """Drops what no later node reads."""
        if not hasattr(self, "_last"):
            self._last = {name: i for i, node in enumerate(self.nodes) for name in node.inputs}
        for name in self.nodes[index].inputs:
            if self._last[name] == index:
                values.pop(name, None)

    def _step(self, node: Node, values: Mapping[str, Any], bits: int, others: bool) -> Any:
        """One node; the result is rounded to its grid unless the layer is float."""
        layer = node.op in WEIGHT_AXIS
        key = (node.output, bits if layer else FLOAT)
        if key not in self._functions:
            self._functions[key] = float_node(self._graphs[key[1]], node)
        graph = self.graph
        result = self._functions[key]([values[name] for name in node.inputs if name not in graph.constants])
        return _rounded(result, self._quants[node.output]) if (bits != FLOAT if layer else others) else result


def logits_of(graph: Graph) -> str:
    """The first output, or what it is a mere reshape or softmax of."""
    name, producers = graph.outputs[0], graph.producers()
    while name in producers and producers[name].op in ("softmax", "reshape"):
        name = producers[name].inputs[0]
    return name


def _rounded(values: Any, quant: Quant) -> Float32:
    """Values on the int8 grid of a tensor, as float32."""
    zero = quant.scalar_zero_point
    result: Float32 = np.multiply(values, np.float32(1.0 / quant.scalar_scale), dtype=np.float32)
    np.rint(result, out=result)
    np.clip(result, np.float32(-128 - zero), np.float32(127 - zero), out=result)
    result *= np.float32(quant.scalar_scale)
    return result


def _real_weights(graph: Graph, converted: Graph) -> Graph:
    """The float graph with the weights and biases that an integer graph stores."""
    constants = dict(graph.constants)
    exact = {node.output: node for node in graph.nodes}
    for node in converted.nodes:
        if node.op not in WEIGHT_AXIS:
            continue
        for name, stored in zip(exact[node.output].inputs[1:], node.inputs[1:], strict=True):
            value = converted.constant(stored)
            scale = converted.quant(stored).broadcast_scale(value.ndim)
            constants[name] = (value * scale).astype(np.float32)
    return replace(graph, constants=constants)
