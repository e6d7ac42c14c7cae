"""Small networks with every operator that the classifiers use, for the tests of this room."""

from __future__ import annotations

import numpy as np

from millijoule import execute
from millijoule.graph import Graph, GraphBuilder
from millijoule.quantize.compare import real_values

SIZE = 12


def real_logits(graph: Graph, batch: np.ndarray) -> np.ndarray:
    """The logits of a graph as real numbers, whatever its arithmetic."""
    return real_values(graph, graph.outputs[0], execute.run(graph, batch)[graph.outputs[0]])


def small_network(seed: int = 0, *, size: int = SIZE, dead_channel: bool = False, classes: int = 5) -> Graph:
    """Convolution, an inverted residual block and a classifier, batch_norm nodes included (as captured).

    Args:
        seed: of the weights.
        size: height and width of the picture.
        dead_channel: the first convolution gets a channel whose weights are 1e-18 beside a bias of -0.5.
        classes: how many logits.
    """
    random = np.random.default_rng(seed)
    builder = GraphBuilder("small")
    builder.input("picture", (1, size, size, 3), "uint8")
    x = builder.node(
        "normalize", ["picture"], (1, size, size, 3), attrs={"scale": (1 / 127.5,) * 3, "offset": (-1.0,) * 3}
    )
    half = size // 2

    def layer(x: str, name: str, op: str, weights: np.ndarray, shape: tuple[int, ...], attrs: dict, relu6: bool) -> str:
        channels = shape[-1]
        fan_in = weights.size // channels
        value = (weights * np.sqrt(2.0 / fan_in)).astype(np.float32)
        if dead_channel and name == "first":
            value[1] = 1e-18
        x = builder.node(op, [x, builder.constant(f"{name}.weight", value)], shape, attrs=attrs, source=name)
        gamma = random.uniform(0.5, 1.5, channels).astype(np.float32)
        beta = random.normal(0, 0.3, channels).astype(np.float32)
        if dead_channel and name == "first":
            beta[1] = -0.5
        mean = random.normal(0, 0.1, channels).astype(np.float32)
        if dead_channel and name == "first":
            mean[1] = 0.0
        variance = random.uniform(0.5, 2.0, channels).astype(np.float32)
        parts = {"gamma": gamma, "beta": beta, "mean": mean, "variance": variance}
        names = [builder.constant(f"{name}.norm.{part}", part_value) for part, part_value in parts.items()]
        x = builder.node("batch_norm", [x, *names], shape, attrs={"epsilon": 1e-3}, source=f"{name}.norm")
        if relu6:
            x = builder.node("clamp", [x], shape, attrs={"clamp": (0.0, 6.0)}, source=f"{name}.relu6")
        return x

    one, two = {"stride": (1, 1), "padding": (0, 0, 0, 0)}, {"stride": (2, 2), "padding": (0, 1, 0, 1)}
    x = layer(x, "first", "conv2d", random.normal(size=(8, 3, 3, 3)), (1, half, half, 8), two, True)
    kept = x
    x = layer(x, "expand", "conv2d", random.normal(size=(24, 1, 1, 8)), (1, half, half, 24), one, True)
    same = {"stride": (1, 1), "padding": (1, 1, 1, 1)}
    x = layer(x, "depthwise", "depthwise_conv2d", random.normal(size=(1, 3, 3, 24)), (1, half, half, 24), same, True)
    x = layer(x, "project", "conv2d", random.normal(size=(8, 1, 1, 24)), (1, half, half, 8), one, False)
    x = builder.node("add", [kept, x], (1, half, half, 8), source="add")
    x = layer(x, "last", "conv2d", random.normal(size=(32, 1, 1, 8)), (1, half, half, 32), one, True)
    x = builder.node("mean", [x], (1, 32), source="pool")
    head = [
        builder.constant("head.weight", random.normal(0, 0.5, (classes, 32)).astype(np.float32)),
        builder.constant("head.bias", random.normal(0, 0.1, classes).astype(np.float32)),
    ]
    logits = builder.node("dense", [x, *head], (1, classes), source="head")
    probabilities = builder.node("softmax", [logits], (1, classes), source="softmax")
    return builder.build([logits, probabilities], classes=[f"class {index}" for index in range(classes)])


def pictures(count: int, seed: int = 0, size: int = SIZE) -> np.ndarray:
    """Smooth random pictures, uint8 (count, size, size, 3)."""
    random = np.random.default_rng(seed)
    coarse = random.uniform(0, 255, (count, 4, 4, 3))
    full = np.repeat(np.repeat(coarse, size // 4, axis=1), size // 4, axis=2) + random.normal(
        0, 20, (count, size, size, 3)
    )
    return np.clip(full, 0, 255).astype(np.uint8)
