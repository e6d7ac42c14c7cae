"""Dynamic models as chains of layers in passes: the executor's bits on this computer and on both emulated cores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from millijoule.build import build_host
from millijoule.compile import Program, compile_graph
from millijoule.deploy import compile_model
from millijoule.execute import run
from millijoule.graph import Graph, simplify
from networks import any_dynamic, random_network, random_pictures

BOARDS = ("stm32l4r9i", "stm32h7b3i")
CHAINS = ["strided", "inverted", "skip", "separable", "pointwise"]


def chains(program: Program) -> int:
    return sum("mj_rows_dyn" in layer.sources for layer in program.layers)


def check(graph: Graph, kernels: str, seed: int = 0) -> Program:
    """The logits on this computer are the executor's; pools, and means of one channel, add floats in another order."""
    program = compile_graph(graph, kernels=kernels, self_test=False)
    pictures = random_pictures(graph, 2, seed)
    pictures[1] = seed  # a picture without any range
    expected = run(graph, pictures)[graph.outputs[0]]
    found = build_host(program).run(pictures)["logits"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * max(1e-3, float(np.abs(expected).max())))
    return program


@pytest.mark.parametrize("kernels", ["dsp", "plain"])
@pytest.mark.parametrize("seed", range(12))
def test_random_networks(seed: int, kernels: str) -> None:
    check(any_dynamic(seed), kernels, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12, 150))
def test_more_random_networks(seed: int) -> None:
    check(any_dynamic(seed), "dsp", seed)


@pytest.mark.parametrize("seed", [7, 11])
@pytest.mark.parametrize("high", [6.0, 1e-4])
def test_bounds_below_and_beyond_16_bits(high: float, seed: int) -> None:
    """With bounds from zero on the quicker kernels run, unless results before saturation leave 16 bits."""
    graph = simplify(random_network(CHAINS, seed, "dynamic", size=(13, 15, 3)))
    weighted = [node for node in graph.nodes if node.op.endswith("conv2d")]
    nodes = [
        replace(node, attrs={**node.attrs, "clamp": (0.0, high)}) if node in weighted else node for node in graph.nodes
    ]
    program = check(replace(graph, nodes=tuple(nodes)), "dsp")
    assert chains(program) > 0
    assert {"mj_product_planes_relu.c", "mj_filter_row_relu_3x3.c"} <= set(program.files)


def test_wide_maps_are_not_stored() -> None:
    graph = random_network(["strided", "inverted", "inverted"], 1, "dynamic", size=(64, 64, 3))
    program = check(graph, "dsp")
    by_row = {name for layer in program.layers for name in [layer.output]}
    stored = sum(graph.tensor(name).bytes for name in by_row)
    everything = sum(graph.tensor(node.output).bytes for node in graph.nodes)
    assert chains(program) >= 2 and stored < everything
    assert not any("expand" in buffer.name for buffer in program.plan.buffers)


def mobilenet(alpha: float, resolution: int) -> Graph:
    torch = pytest.importorskip("torch")
    from millijoule.interchange import capture
    from millijoule.nets import build, mobilenet_v2
    from millijoule.quantize import dynamic

    spec = mobilenet_v2(alpha=alpha, resolution=resolution, classes=10)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return dynamic(capture(build(spec).eval(), spec), refine="bias")


@pytest.mark.slow
def test_mobilenet_small() -> None:
    program = check(mobilenet(0.35, 96), "dsp")
    assert chains(program) == 18 and program.arena_bytes < 90_000


@pytest.mark.slow
@pytest.mark.parametrize("board", BOARDS)
def test_mobilenet_at_224_fits_and_runs(board: str) -> None:
    pytest.importorskip("unicorn")
    pytest.importorskip("ziglang")
    graph = mobilenet(0.5, 224)
    firmware = compile_model(graph, board)  # which runs the golden picture when it starts
    assert firmware.program.arena_bytes < 430_000
    pictures = random_pictures(graph, 1)
    expected = run(graph, pictures)[graph.outputs[0]]
    np.testing.assert_allclose(firmware.run(pictures)["logits"], expected, rtol=0, atol=1e-5)
