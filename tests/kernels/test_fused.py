"""conv_depthwise against the plain kernels of its two layers, one after the other."""

from __future__ import annotations

import ctypes
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millijoule.graph import ROUNDINGS, GraphBuilder, Quant
from millijoule.kernels import FUSED, Dims, FusedKernel, choose_fused, source


def run(kernel: FusedKernel, pair: Any, library: Any, tools: Any, at_end: bool) -> np.ndarray:
    keep: list[Any] = []
    packed = kernel.packed(pair.conv.dims, pair.conv.weights, pair.depthwise.weights)

    def pointers(layer: Any, weights: np.ndarray) -> list[int]:
        window = tools.Window.of(layer.dims)
        requant = tools.Requant(layer.multiplier.ctypes.data, layer.shift.ctypes.data, *layer.rest)
        keep.extend((window, requant, weights))
        return [ctypes.addressof(window), ctypes.addressof(requant), weights.ctypes.data, layer.bias.ctypes.data]

    both = [pointers(layer, tools.frozen(w)) for layer, w in zip((pair.conv, pair.depthwise), packed, strict=True)]
    result = pair.result()
    library.call(
        kernel.name, pair.x, result, tools.ConvDepthwise(*both[0], *both[1]), pair.scratch(kernel), at_end=at_end
    )
    return result


def check(seed: int, conv: Dims, depthwise: Dims, rounding: str, libraries: Any, tools: Any) -> None:
    pair = tools.Pair(np.random.default_rng(seed), conv, depthwise, rounding)
    expected = pair.expected(libraries[rounding], tools)
    for kernel in FUSED:
        assert kernel.legal(conv, depthwise)
        result = run(kernel, pair, libraries[rounding], tools, at_end=bool(seed % 3))
        np.testing.assert_array_equal(result, expected, err_msg=f"{kernel.name}: {conv} {depthwise}")


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32 - 1), rounding=st.sampled_from(ROUNDINGS))
def test_bits_of_the_two_layers(seed: int, rounding: str, libraries: Any, tools: Any) -> None:
    check(seed, *tools.random_pair(np.random.default_rng(seed)), rounding, libraries, tools)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", [(1, 1, 1, 1), (0, 1, 0, 1), (0, 0, 0, 0), (2, 5, 1, 1), (7, 7, 0, 0)])
@pytest.mark.parametrize("kernel", [1, 3])
def test_edges(kernel: int, padding: tuple[int, ...], stride: int, libraries: Any, tools: Any) -> None:
    """Whole windows above or below the map; rows of the map that lie in the convolution's own padding."""
    side = kernel // 2
    for own in ((side, side, side, side), (0, 6, 0, 1)):
        conv = tools.after((6, 7, 3), 8, kernel, stride, own)
        depthwise = tools.after((conv.out_height, conv.out_width, 8), 8, 3, stride, padding)
        check(17 * kernel + stride, conv, depthwise, "single", libraries, tools)


def test_limits(tools: Any) -> None:
    conv = tools.after((9, 9, 4), 12, 1, 1, (0, 0, 0, 0))
    depthwise = tools.after((9, 9, 12), 12, 3, 2, (1, 1, 1, 1))
    wide, other = tools.after((9, 9, 12), 12, 8, 1, (4, 4, 4, 4)), tools.after((8, 9, 12), 12, 3, 2, (1, 1, 1, 1))
    tall = Dims(9, 9, 12, 7, 7, 12, (3, 3), (1, 1), (2, 1), (1, 1, 0, 0))
    dsp, plain = FUSED
    assert dsp.legal(conv, depthwise) and plain.legal(conv, depthwise)
    assert not plain.legal(conv, other) and not plain.legal(conv, tall)
    assert plain.legal(conv, wide) and not dsp.legal(conv, wide)
    strided = tools.after((9, 9, 4), 12, 1, 2, (0, 0, 0, 0))
    assert [part.name for part in dsp.parts(conv)] == ["mj_pointwise_s8_dsp", "mj_depthwise_s8_dsp"]
    assert [part.name for part in dsp.parts(strided)] == ["mj_conv2d_s8_dsp", "mj_depthwise_s8_dsp"]


def test_scratch_is_the_window_and_the_larger_of_both(tools: Any) -> None:
    conv = tools.after((9, 9, 5), 7, 1, 1, (0, 0, 0, 0))
    depthwise = tools.after((9, 9, 7), 7, 3, 1, (1, 1, 1, 1))
    dsp, plain = FUSED
    assert plain.scratch_bytes(conv, depthwise) == 192  # 3 * 9 * 7 = 189
    assert dsp.scratch_bytes(conv, depthwise) == 192 + 4 * 8 * 2


@pytest.mark.parametrize("kernel", FUSED, ids=lambda kernel: kernel.name)
def test_sources_hold_every_kernel_that_is_called(kernel: FusedKernel) -> None:
    text = source(kernel.name)
    assert kernel.sources[0] == kernel.name
    assert set(re.findall(r"mj_(?:conv2d|pointwise|depthwise)_\w+", text.split("{")[1])) == set(kernel.sources[1:])
    for name in kernel.sources[1:]:
        assert source(name)


def test_choice_from_a_graph() -> None:
    builder = GraphBuilder("g")
    quant = Quant.per_tensor(0.1)
    weight_quant = Quant.per_channel(np.full(6, 0.1), 0)
    x = builder.input("x", (1, 9, 9, 4), "int8", quant)
    first = builder.constant("w", np.ones((6, 1, 1, 4), dtype=np.int8), weight_quant)
    second = builder.constant("v", np.ones((1, 3, 3, 6), dtype=np.int8), Quant.per_channel(np.full(6, 0.1), 3))
    attrs = {"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1)}
    y = builder.node("conv2d", [x, first], (1, 9, 9, 6), dtype="int8", quant=quant, attrs=attrs)
    z = builder.node("depthwise_conv2d", [y, second], (1, 7, 7, 6), dtype="int8", quant=quant, attrs=attrs)
    graph = builder.build([z])
    conv, depthwise = graph.nodes
    for variant, name in (("dsp", "mj_conv_depthwise_s8_dsp"), ("plain", "mj_conv_depthwise_s8")):
        kernel = choose_fused(graph, conv, depthwise, variant)
        assert kernel is not None
        assert kernel.name == name
    assert choose_fused(graph, depthwise, conv) is None
    assert choose_fused(graph, conv, conv) is None
