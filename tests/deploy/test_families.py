"""Every family of networks on the whole path: captured, quantised, compiled, run."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from millijoule.deploy import compile_model
from millijoule.execute import Executor, run
from millijoule.graph import Graph
from millijoule.interchange import capture, read_onnx, read_tflite, tflite_bytes, write_onnx, write_tflite
from millijoule.nets import NetworkSpec, autoencoder, build, ds_cnn, mobilenet_v1, resnet8, vgg16
from millijoule.quantize import dynamic, static

torch = pytest.importorskip("torch")

SPECS = {
    "mobilenet_v1": mobilenet_v1(),
    "resnet8": resnet8(),
    "ds_cnn": ds_cnn(),
    "autoencoder": autoencoder(),
    "vgg16": vgg16(0.125, 32),
}
needs_boards = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("ziglang", "unicorn", "elftools")),
    reason="the extra 'deploy' is not installed",
)
families = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)


def pictures(spec: NetworkSpec, count: int) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (count, *spec.input_shape), dtype=np.uint8)


@lru_cache
def trained(spec: NetworkSpec) -> torch.nn.Module:
    """Random weights with the batch normalisation of a trained network, so that signals have a size."""
    torch.manual_seed(7)
    module = build(spec)
    x = torch.from_numpy(pictures(spec, 16)).permute(0, 3, 1, 2).float()
    x = x * spec.normalization.scale + spec.normalization.offset
    with torch.no_grad():
        for child in module.modules():
            if isinstance(child, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
                child.momentum = 1.0
                child.bias.uniform_(-0.2, 0.4, generator=torch.Generator().manual_seed(child.num_features))
        module.train()(x)
        last = list(module.children())[-1]
        last.weight.mul_(20.0)
    return module.eval()


@lru_cache
def captured(spec: NetworkSpec) -> Graph:
    return capture(trained(spec), spec)


@lru_cache
def quantised(spec: NetworkSpec, rounding: str = "single") -> Graph:
    return static(captured(spec), pictures(spec, 8), rounding=rounding)


@families
def test_captured_graph_equals_torch(spec: NetworkSpec) -> None:
    module, graph = trained(spec), captured(spec)
    assert graph.tensor(graph.inputs[0]).shape == (1, *spec.input_shape)
    data = pictures(spec, 3)
    x = torch.from_numpy(data).permute(0, 3, 1, 2).float() * spec.normalization.scale + spec.normalization.offset
    with torch.no_grad():
        expected = module(x).numpy()
    for found in (run(graph, data), Executor(graph)(data)):
        np.testing.assert_allclose(found["logits"], expected, atol=2e-5 * np.abs(expected).max())


@families
def test_quantised_network_runs_alike_in_every_executor_here(spec: NetworkSpec) -> None:
    graph, data = quantised(spec), pictures(spec, 4)
    expected = run(graph, data)
    assert len(np.unique(expected["logits"])) > 10 or spec.classes == 2
    host = compile_model(graph).run(data)
    np.testing.assert_array_equal(Executor(graph)(data)["logits"], expected["logits"])
    np.testing.assert_array_equal(host["logits"], expected["logits"])
    np.testing.assert_array_equal(host["probabilities"], expected["probabilities"])


@families
def test_files_of_other_formats_hold_the_same_network(spec: NetworkSpec, tmp_path: Path) -> None:
    graph, data = quantised(spec, "double"), pictures(spec, 2)
    write_tflite(graph, tmp_path / "integer.tflite")
    again = read_tflite(tmp_path / "integer.tflite")
    np.testing.assert_array_equal(run(again, data)[again.outputs[0]], run(graph, data)["logits"])
    if spec.family != "autoencoder":  # LiteRT rounds the sums of dense layers once: a step in 1 of 1,000 elements
        dense = next(node for node in reversed(graph.nodes) if node.op == "dense")
        before = replace(graph, outputs=(dense.inputs[0],)).without_unused()
        np.testing.assert_array_equal(litert(before, data), run(before, data)[before.outputs[0]])
        np.testing.assert_allclose(litert(graph, data).astype(int), run(graph, data)["logits"], atol=1)
    pytest.importorskip("onnx")
    expected = run(captured(spec), data)["logits"]
    write_onnx(captured(spec), tmp_path / "float.onnx")
    found = run(read_onnx(tmp_path / "float.onnx"), data)["logits"]
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


def litert(graph: Graph, data: np.ndarray) -> np.ndarray:
    """Logits of LiteRT's reference kernels, from our own normalised pictures."""
    module = pytest.importorskip("ai_edge_litert.interpreter")
    kernels = module.OpResolverType.BUILTIN_REF
    interpreter = module.Interpreter(model_content=tflite_bytes(graph), experimental_op_resolver_type=kernels)
    interpreter.allocate_tensors()
    (entry,), outputs = interpreter.get_input_details(), interpreter.get_output_details()
    logits = []
    for values in run(graph, data, keep=("normalize",))["normalize"]:
        interpreter.set_tensor(entry["index"], values.reshape(entry["shape"]))
        interpreter.invoke()
        logits.append(interpreter.get_tensor(outputs[0]["index"])[0])
    return np.stack(logits)


@families
def test_quantisation_keeps_what_the_network_computes(spec: NetworkSpec) -> None:
    floating, graph, data = captured(spec), quantised(spec), pictures(spec, 8)
    scale = graph.quant("logits").scalar_scale
    real = (run(graph, data)["logits"].astype(np.float64) - graph.quant("logits").scalar_zero_point) * scale
    expected = run(floating, data)["logits"]
    assert np.abs(real - expected).mean() < 0.25 * expected.std() + scale
    assert np.isfinite(run(dynamic(floating, refine="bias"), data)["logits"]).all()


@needs_boards
@pytest.mark.parametrize(
    ("name", "board"),
    [
        ("autoencoder", "stm32l4r9i"),
        ("ds_cnn", "stm32h7b3i"),
        pytest.param("autoencoder", "stm32h7b3i", marks=pytest.mark.slow),
        pytest.param("ds_cnn", "stm32l4r9i", marks=pytest.mark.slow),
        *(
            pytest.param(name, board, marks=pytest.mark.slow)
            for name in ("mobilenet_v1", "resnet8")
            for board in ("stm32l4r9i", "stm32h7b3i")
        ),
    ],
)
def test_quantised_network_runs_alike_on_the_boards(name: str, board: str) -> None:
    graph, data = quantised(SPECS[name], "double"), pictures(SPECS[name], 2)
    expected, found = run(graph, data), compile_model(graph, board).run(data)
    np.testing.assert_array_equal(found["logits"], expected["logits"])
    np.testing.assert_array_equal(found["class"], expected["logits"].reshape(2, -1).argmax(axis=1))
