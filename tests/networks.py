"""Small random networks for the tests of several rooms: any sequence of layers, float, dynamic or integer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from millijoule.graph import Graph, GraphBuilder, Quant

LAYERS = ("conv", "strided", "depthwise", "pointwise", "residual", "max_pool", "avg_pool", "pad", "clamp")
KINDS = ("integer", "dynamic", "float")


class _Maker:
    """Adds layers one after another, with random sizes, scales, zero points and clamps."""

    def __init__(self, seed: int, kind: str, size: tuple[int, int, int]) -> None:
        self.rng = np.random.default_rng(seed)
        self.kind = kind
        self.builder = GraphBuilder("random")
        picture = self.builder.input("picture", (1, *size), "uint8")
        self.shape: tuple[int, ...] = (1, *size)
        channels = size[2] if self.rng.random() < 0.5 else 1
        attrs = {
            "scale": tuple(float(v) for v in self.rng.uniform(0.005, 0.02, channels)),
            "offset": tuple(float(v) for v in self.rng.uniform(-2, 0, channels)),
        }
        self.value = self.node("normalize", [picture], self.shape, self.quant(0.02), attrs)

    def quant(self, scale: float) -> Quant:
        return Quant.per_tensor(scale * float(self.rng.uniform(0.5, 2)), int(self.rng.integers(-128, 128)))

    def node(
        self, op: str, inputs: Sequence[str], shape: tuple[int, ...], quant: Quant | None, attrs: dict[str, Any]
    ) -> str:
        integer = self.kind == "integer"
        return self.builder.node(
            op,
            inputs,
            shape,
            attrs=attrs,
            dtype="int8" if integer else "float32",
            quant=quant if integer else None,
            source=f"block.{len(self.builder._nodes)}.{op}",
        )

    def clamp(self) -> dict[str, Any]:
        choices = [None, None, (0.0, 6.0), (0.0, math.inf), (-0.5, 0.25)]
        choice = choices[int(self.rng.integers(len(choices)))]
        return {} if choice is None else {"clamp": choice}

    def current_quant(self) -> Quant:
        quant = self.builder._tensors[self.value].quant
        return quant or Quant.per_tensor(0.02)

    def layer(self, op: str, weight_shape: tuple[int, ...], axis: int, shape: tuple[int, ...], attrs: dict) -> None:
        """A conv2d, depthwise_conv2d or dense with or without bias, weight scales per channel or per tensor."""
        channels = weight_shape[axis]
        depth = math.prod(weight_shape) // channels
        data = self.current_quant()
        weight_scale = 1.0 / (127.0 * math.sqrt(depth)) * self.rng.uniform(0.3, 3, channels)
        per_channel = self.rng.random() < 0.8
        weight_quant = Quant.per_channel(weight_scale, axis) if per_channel else Quant.per_tensor(weight_scale[0])
        weights = self.rng.integers(-127, 128, weight_shape).astype(np.int8)
        stem = f"w{len(self.builder._nodes)}"
        if self.kind == "float":
            real = weights.astype(np.float64) * weight_quant.broadcast_scale(len(weight_shape))
            inputs = [self.value, self.builder.constant(stem, real.astype(np.float32))]
        else:
            inputs = [self.value, self.builder.constant(stem, weights, weight_quant)]
        if self.rng.random() < 0.8:
            bias = self.rng.integers(-3000, 3000, channels).astype(np.int32)
            if self.kind != "integer":
                bias = (bias * 1e-4).astype(np.float32)
            inputs.append(self.builder.constant(f"{stem}.bias", bias))
        result = self.quant(data.scalar_scale * 1.5)
        self.value = self.node(op, inputs, shape, result, {**attrs, **self.clamp()})
        self.shape = shape

    def window(self, kernel: tuple[int, int], stride: tuple[int, int], *, pool: bool = False) -> tuple | None:
        """Attributes and result size of a window layer; None when the window does not fit."""
        dilation = (1, 1)
        if not pool and self.rng.random() < 0.2:
            dilation = (int(self.rng.integers(1, 3)), int(self.rng.integers(1, 3)))
        padding = tuple(int(self.rng.integers(0, k)) for k in (kernel[0], kernel[0], kernel[1], kernel[1]))
        height = (self.shape[1] + padding[0] + padding[1] - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1
        width = (self.shape[2] + padding[2] + padding[3] - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1
        if height < 1 or width < 1:
            return None
        attrs = {"stride": stride, "padding": padding}
        return {**attrs, **({"kernel": kernel} if pool else {"dilation": dilation})}, (height, width)

    def add(self, name: str) -> None:
        rng, shape = self.rng, self.shape
        kernel = (int(rng.integers(1, 4)), int(rng.integers(1, 4)))
        if name in ("conv", "strided", "depthwise"):
            stride = (int(rng.integers(1, 3)), int(rng.integers(1, 3))) if name != "conv" else (1, 1)
            found = self.window(kernel, stride)
            if found is None:
                return
            attrs, size = found
            if name == "depthwise":
                self.layer("depthwise_conv2d", (1, *kernel, shape[3]), 3, (1, *size, shape[3]), attrs)
            else:
                out = int(rng.integers(1, 14))
                self.layer("conv2d", (out, *kernel, shape[3]), 0, (1, *size, out), attrs)
        elif name == "pointwise":
            out = int(rng.integers(1, 20))
            attrs = {"stride": (1, 1), "padding": (0, 0, 0, 0)}
            self.layer("conv2d", (out, 1, 1, shape[3]), 0, (*shape[:3], out), attrs)
        elif name == "residual":
            before = self.value
            attrs = {"stride": (1, 1), "padding": (0, 0, 0, 0)}
            self.layer("conv2d", (shape[3], 1, 1, shape[3]), 0, shape, attrs)
            order = [before, self.value] if rng.random() < 0.5 else [self.value, before]
            self.value = self.node("add", order, shape, self.quant(0.03), self.clamp())
        elif name in ("max_pool", "avg_pool"):
            found = self.window(kernel, (int(rng.integers(1, 3)), int(rng.integers(1, 3))), pool=True)
            if found is not None:
                attrs, size = found
                self.shape = (1, *size, shape[3])
                self.value = self.node(name, [self.value], self.shape, self.current_quant(), attrs)
        elif name == "pad":
            padding = tuple(int(v) for v in rng.integers(0, 3, 4))
            self.shape = (1, shape[1] + padding[0] + padding[1], shape[2] + padding[2] + padding[3], shape[3])
            self.value = self.node("pad", [self.value], self.shape, self.current_quant(), {"padding": padding})
        elif name == "clamp":
            self.value = self.node("clamp", [self.value], shape, self.current_quant(), {"clamp": (-0.4, 0.9)})

    def finish(self, rounding: str, probabilities: bool) -> Graph:
        shape = self.shape
        if self.rng.random() < 0.7:
            quant = self.quant(self.current_quant().scalar_scale)
            self.value = self.node("mean", [self.value], (1, shape[3]), quant, {})
            self.shape = (1, shape[3])
        else:
            self.shape = (1, math.prod(shape))
            self.value = self.node("reshape", [self.value], self.shape, self.current_quant(), {"shape": self.shape})
        classes = int(self.rng.integers(2, 12))
        self.layer("dense", (classes, self.shape[1]), 0, (1, classes), {})
        outputs = [self.value]
        if probabilities:
            quant = Quant.per_tensor(1 / 256, -128)
            outputs.append(self.node("softmax", [self.value], (1, classes), quant, {}))
        return self.builder.build(outputs, rounding=rounding, classes=[f"class {n}" for n in range(classes)])


def random_network(
    layers: Sequence[str],
    seed: int = 0,
    kind: str = "integer",
    *,
    size: tuple[int, int, int] = (9, 7, 3),
    rounding: str = "single",
    probabilities: bool = True,
) -> Graph:
    """A classifier of the named layers (see `LAYERS`), its numbers drawn from `seed`."""
    maker = _Maker(seed, kind, size)
    for name in layers:
        maker.add(name)
    return maker.finish(rounding, probabilities)


def random_pictures(graph: Graph, count: int, seed: int = 0) -> np.ndarray:
    """Noise of the graph's input size: uint8 (count, H, W, C)."""
    shape = graph.tensor(graph.inputs[0]).shape[1:]
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)
