"""Small random networks for the tests of several rooms: any sequence of layers, float, dynamic or integer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

from millijoule.errors import QuantizationError
from millijoule.graph import ROUNDINGS, WEIGHT_AXIS, Graph, GraphBuilder, Quant, verify

LAYERS = ("conv", "strided", "depthwise", "pointwise", "residual", "max_pool", "avg_pool", "pad", "clamp")
BLOCKS = ("inverted", "separable", "shortcut", "downsample", "skip", "dead", "extreme", "saturated")
"""Chains and odd numbers that the row engine of the compiler has to do with; the last three change a layer."""
KINDS = ("integer", "dynamic", "float")
KERNELS = (
    (3, 3),
    (3, 3),
    (3, 3),
    (5, 5),
    (7, 7),
    (1, 1),
    (1, 3),
    (3, 1),
    (1, 5),
    (4, 1),
    (2, 2),
    (3, 5),
    (5, 3),
    (6, 6),
)
POINTWISE: dict[str, Any] = {"stride": (1, 1), "padding": (0, 0, 0, 0)}


class _Maker:
    """Adds layers one after another, with random sizes, scales, zero points and clamps."""

    def __init__(self, seed: int, kind: str, size: tuple[int, int, int]) -> None:
        self.rng = np.random.default_rng(seed)
        self.kind = kind
        self.style = "usual"
        self.earlier: list[tuple[str, tuple[int, ...]]] = []
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
        result = None
        if self.style != "usual":
            weights, weight_quant, result = self.odd(weights, axis, weight_quant)
        if self.kind == "float":
            real = weights.astype(np.float64) * weight_quant.broadcast_scale(len(weight_shape))
            inputs = [self.value, self.builder.constant(stem, real.astype(np.float32))]
        else:
            inputs = [self.value, self.builder.constant(stem, weights, weight_quant)]
        if self.rng.random() < 0.8:
            bias = self.rng.integers(-3000, 3000, channels).astype(np.int32)
            if self.style == "extreme" and self.rng.random() < 0.5:
                bias = (bias * 10.0 ** self.rng.uniform(0, 5.5, channels)).astype(np.int32)
            if self.kind != "integer":
                bias = (bias * 1e-4).astype(np.float32)
            inputs.append(self.builder.constant(f"{stem}.bias", bias))
        result = result or self.quant(data.scalar_scale * 1.5)
        self.value = self.node(op, inputs, shape, result, {**attrs, **self.clamp()})
        self.shape = shape

    def odd(self, weights: np.ndarray, axis: int, quant: Quant) -> tuple[np.ndarray, Quant, Quant | None]:
        """Weights, their scales and the result's of a layer with dead filters, extreme numbers or saturated results."""
        rng, scale = self.rng, self.current_quant().scalar_scale
        if self.style == "saturated":
            return weights, quant, Quant.per_tensor(scale * 10 ** rng.uniform(-3, -1), int(rng.integers(-128, 128)))
        parts = np.moveaxis(weights, axis, 0)
        if self.style == "dead":
            parts[rng.random(len(parts)) < rng.choice([0.2, 0.6, 1.0])] = 0
            if axis == 0:
                weights[..., rng.random(weights.shape[-1]) < 0.2] = 0
            return weights, quant, None
        what = rng.choice(["lowest", "largest", "huge", "tiny", "any"])
        if what == "lowest":
            weights[rng.random(weights.shape) < 0.3] = -128
        elif what == "largest":
            parts[rng.random(len(parts)) < 0.5] = 127
        else:
            low, high = {"huge": (-1, 16), "tiny": (-40, -16), "any": (-36, 20)}[what]
            exponents = rng.uniform(low, high, len(quant.scale))
            scales = np.where(rng.random(len(quant.scale)) < 0.6, 2.0**exponents, quant.scale)
            quant = Quant.per_tensor(scales[0]) if quant.axis is None else Quant.per_channel(scales, axis)
        return weights, quant, None

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
        self.earlier.append((self.value, self.shape))
        if name in BLOCKS:
            self.add_block(name)
            return
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

    # *** blocks *****

    def channels(self, most: int = 40) -> int:
        return int(self.rng.integers(1, most + 1))

    def free_window(self, kernels: Sequence[tuple[int, int]], strides: Sequence[int]) -> tuple | None:
        """Kernel, attributes and result size with "same", no or any padding; None when the window does not fit."""
        rng = self.rng
        kernel = kernels[int(rng.integers(len(kernels)))]
        stride = (
            (int(rng.choice(strides)),) * 2 if rng.random() < 0.7 else tuple(int(v) for v in rng.choice(strides, 2))
        )
        dilation = (1, 1) if rng.random() < 0.95 else (2, 1)
        how = rng.choice(["same", "same", "same", "none", "any", "more"])
        if how == "same":
            total = [
                max((-(-n // s) - 1) * s + k - n, 0) for n, s, k in zip(self.shape[1:3], stride, kernel, strict=True)
            ]
            padding = (total[0] // 2, total[0] - total[0] // 2, total[1] // 2, total[1] - total[1] // 2)
        else:
            add = {"none": -max(kernel), "any": 0, "more": 3}[str(how)]
            padding = tuple(int(rng.integers(0, max(k + add, 1))) for k in (kernel[0], kernel[0], kernel[1], kernel[1]))
        size = [
            (n + padding[2 * i] + padding[2 * i + 1] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
            for i, n in enumerate(self.shape[1:3])
        ]
        attrs = {"stride": stride, "padding": padding, "dilation": dilation}
        return (kernel, attrs, tuple(size)) if min(size) >= 1 else None

    def pointwise(self, out: int) -> None:
        self.layer("conv2d", (out, 1, 1, self.shape[3]), 0, (*self.shape[:3], out), dict(POINTWISE))

    def convolve(self, kernels: Sequence[tuple[int, int]], strides: Sequence[int], out: int | None) -> bool:
        """A convolution, depthwise when `out` is None; whether its window fitted."""
        found = self.free_window(kernels, strides)
        if found is None:
            return False
        kernel, attrs, size = found
        channels = self.shape[3]
        if out is None:
            self.layer("depthwise_conv2d", (1, *kernel, channels), 3, (1, *size, channels), attrs)
        else:
            self.layer("conv2d", (out, *kernel, channels), 0, (1, *size, out), attrs)
        return True

    def sum(self, other: str) -> None:
        quant = self.builder._tensors[other].quant
        if quant is not None and quant.scalar_scale > 2.0**18 * self.current_quant().scalar_scale:
            return  # no sum has a multiplier for that
        order = [other, self.value] if self.rng.random() < 0.5 else [self.value, other]
        self.value = self.node("add", order, self.shape, self.quant(self.current_quant().scalar_scale), self.clamp())

    def add_block(self, name: str) -> None:
        rng, before = self.rng, (self.value, self.shape)
        if name == "inverted":
            if rng.random() < 0.85:
                self.pointwise(self.channels())
            fitted = self.convolve(KERNELS, (1, 1, 2), None)
            same = fitted and self.shape[1:3] == before[1][1:3] and rng.random() < 0.7
            self.pointwise(before[1][3] if same else self.channels(24))
            if same:
                self.sum(before[0])
        elif name == "separable":
            self.convolve(KERNELS, (1, 1, 2), None)
            self.pointwise(self.channels())
        elif name == "downsample":
            self.convolve(((3, 3), (3, 3), (5, 5), (3, 2)), (2,), self.channels(24))
        elif name == "shortcut":
            self.shortcut()
        elif name == "skip":
            others = [value for value, shape in self.earlier if shape == self.shape and value != self.value]
            if others:
                self.sum(others[int(rng.integers(len(others)))])
        else:
            self.style = name
            self.add(str(rng.choice(["inverted", "separable", "downsample", "conv", "depthwise", "pointwise"])))
            self.style = "usual"

    def shortcut(self) -> None:
        """A residual block: two convolutions beside one of 1x1 with the same stride, in either order."""
        before = (self.value, self.shape)
        if not self.convolve(((3, 3), (3, 3), (1, 3), (5, 5)), (1, 2), self.channels(16)):
            return
        self.convolve(((3, 3),), (1,), self.channels(16))
        (main, shape) = self.value, self.shape
        strides = [(n - 1) // max(m - 1, 1) for n, m in zip(before[1][1:3], shape[1:3], strict=True)]
        strides = [max(stride, 1) for stride in strides]
        room = [n - (m - 1) * s for n, m, s in zip(before[1][1:3], shape[1:3], strides, strict=True)]
        if min(room) < 1:
            return
        self.value, self.shape = before
        padding = (0, 0, 0, 0)
        kernel = tuple(int(v) for v in room) if self.rng.random() < 0.1 else (1, 1)
        size = [(n - k) // s + 1 for n, k, s in zip(before[1][1:3], kernel, strides, strict=True)]
        if tuple(size) != shape[1:3]:
            kernel = tuple(int(v) for v in room)
        attrs = {"stride": tuple(strides), "padding": padding}
        self.layer("conv2d", (shape[3], *kernel, before[1][3]), 0, shape, attrs)
        self.sum(main)

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
    """A classifier of the named layers (see `LAYERS` and `BLOCKS`), its numbers drawn from `seed`."""
    maker = _Maker(seed, kind, size)
    for name in layers:
        maker.add(name)
    return maker.finish(rounding, probabilities)


def with_nibbles(graph: Graph, seed: int = 0, share: float = 0.7) -> Graph:
    """An integer network in which about so many of the layers with weights have weights of 4 bits."""
    rng = np.random.default_rng([seed, 4])
    for node in graph.nodes:
        if node.op not in WEIGHT_AXIS or rng.random() >= share:
            continue
        name = node.inputs[1]
        tensor, quant = graph.tensor(name), graph.quant(name)
        own = replace(quant, scale=tuple(16 * scale for scale in quant.scale), bits=4)
        changed = replace(
            graph,
            tensors={**graph.tensors, name: replace(tensor, quant=own)},
            constants={**graph.constants, name: graph.constant(name) >> 4},
        )
        with suppress(QuantizationError):  # the scales of odd layers may be too large for that
            graph = verify(changed)
    return graph


def any_network(
    seed: int, *, largest: int = 23, layers: int = 6, rounding: str | None = None, first: Sequence[str] = ()
) -> Graph:
    """An integer network of which everything is drawn: size, depth, layers, numbers and rounding rule.

    Args:
        seed: the same seed gives the same network.
        largest: of the picture's height and width.
        layers: at most so many layers and blocks in front of the classifier.
        rounding: the rounding rule instead of a drawn one.
        first: layers and blocks in front of the drawn ones.
    """
    rng = np.random.default_rng([seed, 4])
    names = [
        str(rng.choice(BLOCKS if rng.random() < 0.75 else LAYERS)) for _ in range(int(rng.integers(1, layers + 1)))
    ]
    size = (
        int(rng.integers(1, largest + 1)),
        int(rng.integers(1, largest + 1)),
        int(rng.choice([1, 1, 2, 3, 3, 3, 4, 5])),
    )
    drawn = str(rng.choice(ROUNDINGS))
    if largest > 20 and rng.random() < 0.1:  # rows that are made in several parts
        size = (size[0] % 5 + 1, size[1] * 9, size[2])
    probabilities = bool(rng.random() < 0.3)
    return random_network([*first, *names], seed, size=size, rounding=rounding or drawn, probabilities=probabilities)


def any_dynamic(seed: int) -> Graph:
    """A network with dynamic quantisation of which everything is drawn."""
    rng = np.random.default_rng([seed, 7])
    names = [str(rng.choice(BLOCKS if rng.random() < 0.75 else LAYERS)) for _ in range(int(rng.integers(1, 6)))]
    size = (int(rng.integers(1, 24)), int(rng.integers(1, 24)), int(rng.choice([1, 2, 3, 3, 3, 4, 5])))
    return random_network(names, seed, "dynamic", size=size)


def random_pictures(graph: Graph, count: int, seed: int = 0) -> np.ndarray:
    """Noise of the graph's input size: uint8 (count, H, W, C)."""
    shape = graph.tensor(graph.inputs[0]).shape[1:]
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)
