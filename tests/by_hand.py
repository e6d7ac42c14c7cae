"""Integer networks layer by layer, for tests that know what to expect."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from millijoule.graph import Graph, GraphBuilder, Quant

QUANT = Quant.per_tensor(0.05, 3)


class Net:
    """Integer layers by hand; every method returns the name of its result."""

    def __init__(self, size: tuple[int, int, int] = (8, 8, 3)) -> None:
        self.builder = GraphBuilder("net")
        self.rng = np.random.default_rng(0)
        self.shapes: dict[str, tuple[int, ...]] = {"picture": (1, *size)}
        self.builder.input("picture", (1, *size), "uint8")
        self.x = self.node("normalize", ["picture"], (1, *size), {"scale": (0.02,), "offset": (-1.0,)})

    def node(self, op: str, inputs: Sequence[str], shape: tuple[int, ...], attrs: dict[str, Any]) -> str:
        count = sum(node.op == op for node in self.builder._nodes)
        name = f"{op}{count}"
        self.builder.node(op, inputs, shape, attrs=attrs, dtype="int8", quant=QUANT, source=name, output=name)
        self.shapes[name] = shape
        return name

    def conv(
        self,
        x: str,
        out: int | None,
        kernel: tuple[int, int] = (1, 1),
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int, int, int] = (0, 0, 0, 0),
        dilation: tuple[int, int] = (1, 1),
    ) -> str:
        """A convolution; depthwise when `out` is None."""
        _, *size, channels = self.shapes[x]
        result = [
            (size[i] + padding[2 * i] + padding[2 * i + 1] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
            for i in (0, 1)
        ]
        shape = (1, *kernel, channels) if out is None else (out, *kernel, channels)
        scale = 1 / (60 * math.sqrt(math.prod(shape[1:3]) * (1 if out is None else channels)))
        weights = self.rng.integers(-127, 128, shape).astype(np.int8)
        name = self.builder.constant("w", weights, Quant.per_tensor(scale))
        attrs = {"stride": stride, "padding": padding, "dilation": dilation}
        op = "depthwise_conv2d" if out is None else "conv2d"
        return self.node(op, [x, name], (1, *result, channels if out is None else out), attrs)

    def same(self, x: str, out: int | None, size: int = 3, stride: int = 1) -> str:
        return self.conv(x, out, (size, size), (stride, stride), (size // 2,) * 4)

    def add(self, a: str, b: str) -> str:
        return self.node("add", [a, b], self.shapes[a], {})

    def inverted(self, x: str, wide: int, out: int, stride: int = 1, size: int = 3) -> str:
        """An inverted residual block without its addition."""
        return self.conv(self.same(self.conv(x, wide), None, size, stride), out)

    def build(self, *last: str, pooled: bool = True, rounding: str = "single") -> Graph:
        """The classifier behind the last map; further names become readers that keep other maps alive.

        A layer that no block takes stands in front of the mean, if `pooled`.
        """
        value = last[0]
        for other in last[1:]:
            value = self.add(value, other)
        if pooled:
            attrs = {"kernel": (1, 1), "stride": (1, 1), "padding": (0, 0, 0, 0)}
            value = self.node("max_pool", [value], self.shapes[value], attrs)
        self.node("mean", [value], (1, self.shapes[value][-1]), {})
        weights = self.builder.constant(
            "w", self.rng.integers(-127, 128, (4, self.shapes[value][-1])).astype(np.int8), Quant.per_tensor(0.002)
        )
        graph = self.builder.build([self.node("dense", ["mean0", weights], (1, 4), {})])
        return replace(graph, rounding=rounding)
