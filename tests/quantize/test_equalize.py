"""Equalisation: the network stays what it is, and 8 bits cost it less."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from millijoule import execute
from millijoule.graph import Graph, GraphBuilder, simplify
from millijoule.quantize import static
from millijoule.quantize.compare import sqnr
from millijoule.quantize.equalize import channel_groups, equalize, scale_group, shift_tensor, shiftable
from millijoule.quantize.refine import channel_statistics
from millijoule.quantize.static import calibrate

from .networks import pictures, real_logits, small_network


def without_clamps(graph: Graph, bounds: tuple[float, float] = (0.0, float("inf"))) -> Graph:
    """ReLU instead of ReLU6."""
    nodes = [replace(n, attrs={**n.attrs, "clamp": bounds}) if n.attrs.get("clamp") else n for n in graph.nodes]
    return replace(graph, nodes=tuple(nodes))


def uneven(seed: int = 3) -> Graph:
    """The small network with depthwise channels of very different size, which the next layer brings back."""
    network = small_network(seed)
    constants = dict(network.constants)
    spread = np.geomspace(1, 0.003, 24).astype(np.float32)
    for part in ("gamma", "beta"):
        constants[f"depthwise.norm.{part}"] = constants[f"depthwise.norm.{part}"] * spread
    constants["project.weight"] = constants["project.weight"] / spread
    return replace(network, constants=constants)


def test_groups_are_the_tensors_that_share_their_channels() -> None:
    graph = simplify(small_network())
    sources = [
        (tuple(node.source for node in group.writers), tuple(node.source for node in group.readers))
        for group in channel_groups(graph)
    ]
    assert sources == [
        (("first", "project"), ("expand", "last")),
        (("expand",), ("depthwise",)),
        (("depthwise",), ("project",)),
        (("last",), ("head",)),
    ]
    assert [len(group.clamps) for group in channel_groups(graph)] == [1, 1, 1, 1]


@pytest.mark.parametrize("exact", [True, False])
def test_scaling_a_group_keeps_the_function(exact: bool) -> None:
    graph = without_clamps(simplify(small_network()))
    random, batch = np.random.default_rng(1), pictures(6)
    reference = real_logits(graph, batch)
    for group in channel_groups(graph):
        channels = graph.tensor(group.tensors[0]).shape[-1]
        factors = 2.0 ** random.integers(-3, 4, channels) if exact else random.uniform(0.1, 10, channels)
        graph = scale_group(graph, group, factors)
    np.testing.assert_allclose(real_logits(graph, batch), reference, rtol=0, atol=1e-6 if exact else 1e-4)


def test_shifting_keeps_the_function_also_through_additions() -> None:
    builder = GraphBuilder("residual")
    random = np.random.default_rng(0)
    builder.input("x", (1, 5, 5, 3))

    def layer(x: str, name: str, inputs: int, outputs: int, clamp: bool) -> str:
        weights = [
            builder.constant(f"{name}.w", random.normal(size=(outputs, 1, 1, inputs)).astype(np.float32)),
            builder.constant(f"{name}.b", random.normal(size=outputs).astype(np.float32)),
        ]
        attrs = {"stride": (1, 1), "padding": (0, 0, 0, 0), **({"clamp": (0.0, 6.0)} if clamp else {})}
        return builder.node("conv2d", [x, *weights], (1, 5, 5, outputs), attrs=attrs, source=name, output=name)

    a = layer("x", "a", 3, 4, False)
    b = layer(layer(a, "b1", 4, 6, True), "b", 6, 4, False)
    total = builder.node("add", [a, b], (1, 5, 5, 4), output="sum")
    pooled = builder.node("mean", [total], (1, 4), output="pooled")
    head = [
        builder.constant("h.w", random.normal(size=(2, 4)).astype(np.float32)),
        builder.constant("h.b", np.ones(2, "f")),
    ]
    graph = builder.build([builder.node("dense", [pooled, *head], (1, 2), output="head")])
    group = next(group for group in channel_groups(graph) if "sum" in group.tensors)
    assert group.tensors == ("a", "b", "sum", "pooled") and shiftable(graph, group)
    batch = random.normal(size=(4, 5, 5, 3)).astype(np.float32)
    reference = execute.run(graph, batch, keep=["sum"])
    shifted = shift_tensor(shift_tensor(graph, "a", np.array([1.0, -2, 3, 0])), "b", np.array([0.5, 0, -7, 1]))
    result = execute.run(shifted, batch, keep=["sum"])
    np.testing.assert_allclose(result["head"], reference["head"], atol=2e-5)
    np.testing.assert_allclose(
        reference["sum"] - result["sum"], np.broadcast_to([1.5, -2, -4, 1], (4, 5, 5, 4)), atol=1e-5
    )


def test_what_is_padded_or_clamped_is_not_shifted() -> None:
    graph = simplify(small_network())
    assert not any(shiftable(graph, group) for group in channel_groups(graph))


@pytest.mark.parametrize("per_channel", [True, False])
def test_no_value_that_calibration_saw_changes_across_relu6(per_channel: bool) -> None:
    graph, batch = simplify(uneven()), pictures(48)
    statistics = channel_statistics(calibrate(graph, batch))
    equal, notes = equalize(graph, statistics, per_channel=per_channel)
    assert notes and all(gain > 0 for _, _, gain in notes)
    np.testing.assert_allclose(real_logits(equal, batch), real_logits(graph, batch), rtol=0, atol=2e-4)
    reached = {name: seen.high >= 5.999 for name, seen in statistics.items()}
    for group in channel_groups(graph):
        for name, _, _ in group.clamps:
            node, before = graph.producers()[name], graph.constants
            if node.op not in ("conv2d", "depthwise_conv2d"):
                continue
            same = equal.constants[node.inputs[2]] == before[node.inputs[2]]
            assert same[reached[name]].all()


@pytest.mark.parametrize(("per_channel", "gain"), [(False, 6.0), (True, 2.0)])
def test_uneven_channels_cost_less_after_equalisation(per_channel: bool, gain: float) -> None:
    network, fresh = uneven(), pictures(32, seed=1)
    reference = real_logits(network, fresh)
    ratios = [
        sqnr(reference, real_logits(static(network, pictures(64), per_channel=per_channel, refine=refine), fresh))
        for refine in ("means", "equalize+means")
    ]
    assert ratios[1] > ratios[0] + gain
