"""Dead and constant channels go; the results stay, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millijoule.errors import OptionError
from millijoule.execute import run
from millijoule.graph import (
    ROUNDINGS,
    WEIGHT_AXIS,
    Graph,
    GraphBuilder,
    Quant,
    constant_channels,
    macs,
    prune,
)
from millijoule.graph.prune import Removed
from networks import LAYERS, random_network, random_pictures

POINTWISE: dict[str, Any] = {"stride": (1, 1), "padding": (0, 0, 0, 0)}
PADDED: dict[str, Any] = {"stride": (1, 1), "padding": (1, 1, 1, 1)}


def with_holes(graph: Graph, seed: int) -> Graph:
    """The network with some filters zeroed, some of their biases, and some of the weights that read a channel."""
    rng = np.random.default_rng(seed)
    constants = dict(graph.constants)
    for node in graph.nodes:
        if node.op not in WEIGHT_AXIS:
            continue
        weights = np.moveaxis(constants[node.inputs[1]].copy(), WEIGHT_AXIS[node.op], 0)
        dead = rng.random(len(weights)) < rng.choice([0.0, 0.3, 0.9, 1.0])
        weights[dead] = 0
        weights = np.moveaxis(weights, 0, WEIGHT_AXIS[node.op])
        if node.op != "depthwise_conv2d":
            weights[..., rng.random(weights.shape[-1]) < rng.choice([0.0, 0.3])] = 0
        constants[node.inputs[1]] = np.ascontiguousarray(weights)
        if len(node.inputs) == 3 and rng.random() < 0.5:
            bias = constants[node.inputs[2]].copy()
            bias[dead] = 0
            constants[node.inputs[2]] = bias
    return replace(graph, constants=constants)


def weight_bytes(graph: Graph) -> int:
    return sum(graph.tensor(name).bytes for node in graph.nodes for name in node.inputs[1:] if name in graph.constants)


def check(graph: Graph, seed: int = 0, multiple: int = 1) -> tuple[Graph, tuple[Removed, ...]]:
    """Prunes and compares everything that must not change, and every figure."""
    pruned, removed = prune(graph, multiple=multiple)
    pictures = random_pictures(graph, 5, seed)
    pictures[0], pictures[1] = 0, 255
    before, after = run(graph, pictures), run(pruned, pictures)
    assert list(before) == list(after)
    for name, value in before.items():
        np.testing.assert_array_equal(value, after[name])
    assert [(node.op, node.outputs, node.source) for node in graph.nodes] == [
        (node.op, node.outputs, node.source) for node in pruned.nodes
    ]
    assert [node.inputs[:2] for node in graph.nodes] == [node.inputs[:2] for node in pruned.nodes]
    biases = [
        (old, new) for old, new in zip(graph.nodes, pruned.nodes, strict=True) if len(old.inputs) != len(new.inputs)
    ]
    assert all(len(old.inputs) == 2 and len(new.inputs) == 3 for old, new in biases)
    added = sum(pruned.tensor(new.inputs[2]).bytes for _, new in biases)
    assert sum(item.bytes for item in removed) == weight_bytes(graph) - weight_bytes(pruned) + added
    work = [sum(macs(g, node) for node in g.nodes) for g in (graph, pruned)]
    assert sum(item.macs for item in removed) == work[0] - work[1]
    channels = {node.source: graph.tensor(node.output).shape[-1] for node in graph.nodes}
    kept = {node.source: pruned.tensor(node.output).shape[-1] for node in pruned.nodes}
    for item in removed:
        assert item.channels and list(item.channels) == sorted(set(item.channels))
        assert channels[item.layer] == kept[item.layer] + len(item.channels)
        assert kept[item.layer] % multiple == 0
    again, nothing = prune(pruned, multiple=multiple)
    assert again is pruned and nothing == ()
    return pruned, removed


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.sampled_from(LAYERS), max_size=7),
    st.integers(0, 2**32 - 1),
    st.sampled_from(ROUNDINGS),
    st.sampled_from([1, 1, 2, 4]),
)
def test_random_networks_with_dead_filters_compute_the_same(
    layers: list[str], seed: int, rounding: str, multiple: int
) -> None:
    check(with_holes(random_network(layers, seed, rounding=rounding), seed), seed, multiple)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from(["conv", "pointwise", "depthwise"]), min_size=2, max_size=5), st.integers(0, 2**32 - 1))
def test_inner_tensors_keep_the_values_of_the_channels_that_stay(layers: list[str], seed: int) -> None:
    graph = with_holes(random_network(layers, seed), seed)
    pruned, removed = check(graph, seed)
    gone = {item.layer: item.channels for item in removed}
    names = {node.source: node.output for node in graph.nodes if node.op in ("conv2d", "dense")}
    pictures = random_pictures(graph, 2, seed)
    before = run(graph, pictures, keep=list(names.values()))
    after = run(pruned, pictures, keep=list(names.values()))
    for layer, name in names.items():
        kept = np.delete(before[name], gone.get(layer, ()), axis=-1)
        np.testing.assert_array_equal(kept, after[name])


@pytest.mark.parametrize("kind", ["float", "dynamic"])
def test_other_arithmetic_is_left_alone(kind: str) -> None:
    graph = with_holes(random_network(["conv", "depthwise", "pointwise"], 3, kind), 3)
    assert prune(graph) == (graph, ())


class Net:
    """A hand-made integer network: layers one after another, zero point 5 everywhere."""

    def __init__(self, channels: int = 3, size: int = 6) -> None:
        self.builder, self.rng = GraphBuilder("net"), np.random.default_rng(0)
        self.quant = Quant.per_tensor(0.05, 5)
        picture = self.builder.input("picture", (1, size, size, channels), "uint8")
        attrs = {"scale": (0.02,), "offset": (-2.0,)}
        self.shape: tuple[int, ...] = (1, size, size, channels)
        self.value = self.node("normalize", [picture], self.shape, attrs, "input")

    def node(self, op: str, inputs: list[str], shape: tuple[int, ...], attrs: dict[str, Any], source: str) -> str:
        self.shape = shape
        self.value = self.builder.node(op, inputs, shape, attrs=attrs, dtype="int8", quant=self.quant, source=source)
        return self.value

    def layer(
        self,
        source: str,
        outputs: int = 0,
        kernel: int = 1,
        attrs: dict[str, Any] = POINTWISE,
        dead: dict[int, int] | None = None,
        unread: tuple[int, ...] = (),
        bias: bool = True,
    ) -> Net:
        """A convolution (outputs given) or depthwise one; `dead` maps filters without weights to their bias."""
        depth = self.shape[3]
        depthwise = outputs == 0
        channels = outputs or depth
        shape = (1, kernel, kernel, depth) if depthwise else (channels, kernel, kernel, depth)
        axis = 3 if depthwise else 0
        weights = self.rng.integers(1, 128, shape) * self.rng.choice([-1, 1], shape)
        np.moveaxis(weights, axis, 0)[list(dead or {})] = 0
        if unread:
            weights[..., list(unread)] = 0
        quant = Quant.per_channel(self.rng.uniform(0.002, 0.01, channels), axis)
        inputs = [self.value, self.builder.constant(f"{source}.weight", weights.astype(np.int8), quant)]
        if bias:
            values = self.rng.integers(-900, 900, channels)
            for channel, value in (dead or {}).items():
                values[channel] = value
            scales = np.asarray(quant.scale) * self.quant.scalar_scale
            inputs.append(
                self.builder.constant(f"{source}.bias", values.astype(np.int32), Quant.per_channel(scales, 0))
            )
        pad = attrs["padding"][0]
        size = self.shape[1] + 2 * pad - kernel + 1
        self.node("depthwise_conv2d" if depthwise else "conv2d", inputs, (1, size, size, channels), attrs, source)
        return self

    def classify(self, pool: bool = True, outputs: int = 4) -> Graph:
        features = self.shape[3]
        if pool:
            self.node("mean", [self.value], (1, features), {}, "pool")
        else:
            features = self.shape[1] * self.shape[2] * self.shape[3]
            self.node("reshape", [self.value], (1, features), {"shape": (1, features)}, "flat")
        weights = self.rng.integers(-127, 128, (outputs, features)).astype(np.int8)
        name = self.builder.constant("fc.weight", weights, Quant.per_tensor(0.002))
        return self.builder.build([self.node("dense", [self.value, name], (1, outputs), {}, "fc")])


def test_a_layer_of_234_dead_filters_of_256() -> None:
    dead = {int(n): 300 for n in np.random.default_rng(1).choice(256, 234, replace=False)}
    graph = Net().layer("stem", 8, 3, PADDED).layer("wide", 256, dead=dead).layer("next", 16).classify()
    pruned, removed = check(graph)
    pixels = 6 * 6
    assert removed == (Removed("wide", tuple(sorted(dead)), 234 * (8 + 4) + 234 * 16, 234 * (8 + 16) * pixels),)
    weights = pruned.constants["next.weight"]
    assert weights.shape == (16, 1, 1, 22) and pruned.constants["wide.weight"].shape == (22, 1, 1, 8)
    assert len(pruned.quant("wide.weight").scale) == len(pruned.quant("wide.bias").scale) == 22
    assert not np.array_equal(pruned.constants["next.bias"], graph.constants["next.bias"])
    assert pruned.quant("next.weight") == graph.quant("next.weight")
    assert "234 constant or dead channels" in pruned.history[-1]


def test_constants_pass_depthwise_layers_where_padding_does_not_matter() -> None:
    # Channel 0 holds the zero point, channel 1 another constant.
    net = Net().layer("expand", 6, dead={0: 0, 1: 400}).layer("filter", kernel=3, attrs=PADDED)
    graph = net.layer("project", 5).classify()
    assert constant_channels(graph, graph.nodes[1])[0] == 5 != constant_channels(graph, graph.nodes[1])[1]
    _, removed = check(graph)
    assert [item.channels for item in removed if item.layer == "expand"] == [(0,)]
    net = Net().layer("expand", 6, dead={0: 0, 1: 400}).layer("filter", kernel=3)
    pruned, removed = check(net.layer("project", 5).classify())
    assert [(item.layer, item.channels) for item in removed] == [("expand", (0, 1))]
    assert pruned.constants["filter.weight"].shape == (1, 3, 3, 4)
    assert removed[0].bytes == 2 * (3 + 4) + 2 * (9 + 4) + 2 * 5
    assert removed[0].macs == 2 * 3 * 36 + 2 * 9 * 16 + 2 * 5 * 16


def test_a_dead_depthwise_filter_takes_the_convolution_before_it_along() -> None:
    net = Net().layer("expand", 6).layer("filter", kernel=3, attrs=PADDED, dead={2: 70, 3: -9})
    pruned, removed = check(net.layer("project", 5).classify())
    assert [(item.layer, item.channels) for item in removed] == [("expand", (2, 3))]
    assert pruned.tensor("expand").shape[-1] == pruned.tensor("filter").shape[-1] == 4


def test_padding_of_the_reader_keeps_a_constant_that_is_not_the_zero_point() -> None:
    graph = Net().layer("first", 6, dead={0: 0, 1: 400, 4: -700}).layer("second", 5, 3, PADDED).classify()
    _, removed = check(graph)
    assert [(item.layer, item.channels) for item in removed] == [("first", (0,))]


def test_channels_that_nobody_reads_go_and_take_others_along() -> None:
    net = Net().layer("first", 6).layer("second", 7, 3, PADDED, dead={1: 3}).layer("third", 5, unread=(4, 6))
    graph = net.classify()
    weights = graph.constants["second.weight"].copy()
    weights[[0, 2, 3, 5], :, :, 2] = 0  # channel 2 of "first" is read only by filters that nobody reads
    graph = replace(graph, constants={**graph.constants, "second.weight": weights})
    _, removed = check(graph)
    assert [(item.layer, item.channels) for item in removed] == [("first", (2,)), ("second", (1, 4, 6))]


@pytest.mark.parametrize("pool", [True, False])
def test_the_classifier_gets_a_bias_when_it_needs_one(pool: bool) -> None:
    graph = Net().layer("last", 6, dead={2: 500, 5: 0}).classify(pool)
    pruned, removed = check(graph)
    assert [(item.layer, item.channels) for item in removed] == [("last", (2, 5))]
    assert pruned.nodes[-1].inputs[2] == "fc.bias"
    assert pruned.quant("fc.bias").scalar_scale == pytest.approx(0.05 * 0.002)
    assert pruned.tensor("fc.weight").shape == ((4, 4) if pool else (4, 4 * 36))
    no_bias = check(Net().layer("last", 6, dead={5: 0}).classify(pool))[0]
    assert len(no_bias.nodes[-1].inputs) == 2


def test_one_channel_stays_where_all_are_constant() -> None:
    graph = Net().layer("first", 3, dead=dict.fromkeys(range(3), 50)).layer("second", 5).classify()
    pruned, removed = check(graph)
    assert ("first", (0, 1)) in [(item.layer, item.channels) for item in removed]
    assert pruned.tensor("first").shape == (1, 6, 6, 1)


@pytest.mark.parametrize(("multiple", "stay"), [(1, 5), (2, 6), (4, 8), (8, 8), (3, 6), (16, 10)])
def test_a_multiple_of_channels_stays(multiple: int, stay: int) -> None:
    graph = Net().layer("first", 10, dead={n: 7 * n for n in (1, 2, 5, 6, 9)}).layer("second", 5).classify()
    pruned, removed = check(graph, multiple=multiple)
    assert pruned.tensor("first").shape[-1] == stay
    assert [item.channels for item in removed] == [(1, 2, 5, 6, 9)[: 10 - stay]] * (stay < 10)


def test_a_multiple_below_one_is_refused() -> None:
    with pytest.raises(OptionError, match="multiple"):
        prune(Net().classify(), multiple=0)


def test_outputs_and_tensors_with_two_readers_stay() -> None:
    net = Net().layer("first", 4, dead={1: 9})
    shortcut = net.value
    net.layer("second", 4, dead={2: 9})
    branch = net.value
    net.node("add", [shortcut, branch], net.shape, {}, "add")
    graph = net.layer("third", 4, dead={3: 9}).classify()
    assert [(item.layer, item.channels) for item in check(graph)[1]] == [("third", (3,))]
    shown = replace(graph, outputs=(*graph.outputs, "third"))
    assert check(shown)[1] == ()


def test_shared_weights_are_cut_for_one_layer_only() -> None:
    net = Net().layer("first", 3, dead={1: 600}).layer("second", 3)
    graph = net.classify()
    node = graph.nodes[2]
    shared = replace(node, inputs=(node.inputs[0], "first.weight", "first.bias"))
    graph = replace(graph, nodes=(*graph.nodes[:2], shared, *graph.nodes[3:])).without_unused()
    pruned, removed = prune(graph)
    assert [(item.layer, item.channels) for item in removed] == [("first", (1,)), ("second", (1,))]
    pictures = random_pictures(graph, 4)
    np.testing.assert_array_equal(run(graph, pictures)["fc"], run(pruned, pictures)["fc"])
