from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millijoule.errors import DataError, GraphError
from millijoule.execute import Executor, predict, run
from millijoule.graph import WEIGHT_AXIS, Graph, GraphBuilder, Tensor, arithmetic, verify
from millijoule.graph.conversion import quantize_weights, weight_quant


def float_graph(seed: int = 0) -> Graph:
    rng = np.random.default_rng(seed)
    b = GraphBuilder("float")
    x = b.input("picture", (1, 9, 8, 3), "uint8")
    x = b.node("normalize", [x], (1, 9, 8, 3), attrs={"scale": (1 / 127.5,), "offset": (-1.0,)})
    w = b.constant("w", rng.normal(0, 0.3, (6, 3, 3, 3)).astype(np.float32))
    bias = b.constant("b", rng.normal(0, 0.3, 6).astype(np.float32))
    attrs = {"stride": (2, 2), "padding": (1, 1, 0, 1), "clamp": (0.0, 6.0)}
    x = b.node("conv2d", [x, w, bias], (1, 5, 4, 6), attrs=attrs, source="conv")
    d = b.constant("d", rng.normal(0, 0.3, (1, 3, 3, 6)).astype(np.float32))
    x = b.node("depthwise_conv2d", [x, d], (1, 5, 4, 6), attrs={"stride": (1, 1), "padding": (1, 1, 1, 1)}, source="dw")
    x = b.node("mean", [x], (1, 6), source="mean")
    h = b.constant("h", rng.normal(0, 0.5, (4, 6)).astype(np.float32))
    logits = b.node("dense", [x, h, b.constant("hb", np.zeros(4, np.float32))], (1, 4), output="logits", source="head")
    return b.build([logits, b.node("softmax", [logits], (1, 4), output="probabilities")])


def dynamic_graph() -> Graph:
    graph = float_graph()
    tensors, constants = dict(graph.tensors), dict(graph.constants)
    for node in graph.nodes:
        if node.op in WEIGHT_AXIS:
            name = node.inputs[1]
            quant = weight_quant(constants[name], WEIGHT_AXIS[node.op])
            constants[name] = quantize_weights(constants[name], quant)
            tensors[name] = Tensor(name, tensors[name].shape, "int8", quant)
    return verify(replace(graph, tensors=tensors, constants=constants))


PICTURES = np.random.default_rng(3).integers(0, 256, (11, 9, 8, 3), dtype=np.uint8)


def test_dynamic_layers_follow_the_definition_picture_by_picture() -> None:
    graph = dynamic_graph()
    names = [tensor.name for tensor in graph.activations() if tensor.dtype == "float32"]
    values = run(graph, PICTURES, keep=names)
    for node in graph.nodes:
        if node.op not in WEIGHT_AXIS:
            continue
        weights = graph.constants[node.inputs[1]].astype(np.int64)
        bias = graph.constants[node.inputs[2]] if len(node.inputs) == 3 else np.zeros(weights.shape[-1], np.float32)
        scales = np.asarray(graph.quant(node.inputs[1]).scale, np.float32)
        for picture in range(3):
            x = values[node.inputs[0]][picture]
            scale, zero = arithmetic.dynamic_range(x.min()[None], x.max()[None])
            q = arithmetic.dynamic_quantize(x[None], scale, zero)[0].astype(np.int64) - zero[0]
            got = values[node.output][picture]
            for index in np.ndindex(*got.shape):
                o = index[-1]
                if node.op == "dense":
                    total = int(q @ weights[o])
                else:
                    stride, (top, _, left, _) = node.attrs["stride"], node.attrs["padding"]
                    total = 0
                    for i, j in np.ndindex(3, 3):
                        r, c = index[0] * stride[0] + i - top, index[1] * stride[1] + j - left
                        if 0 <= r < x.shape[0] and 0 <= c < x.shape[1]:
                            tap = weights[0, i, j, o] * q[r, c, o] if node.op[0] == "d" else weights[o, i, j] @ q[r, c]
                            total += int(tap)
                expected = np.float32(total) * (scale[0] * scales[o]) + bias[o]
                if node.attrs.get("clamp"):
                    expected = np.clip(expected, np.float32(0), np.float32(6))
                assert got[index] == np.float32(expected)


def test_dynamic_results_are_near_the_float_ones_and_independent_of_the_batch() -> None:
    graph = dynamic_graph()
    whole = run(graph, PICTURES)["logits"]
    np.testing.assert_array_equal(whole, run(graph, PICTURES, batch=1)["logits"])
    reference = run(float_graph(), PICTURES)["logits"]
    assert np.abs(whole - reference).max() < 0.03 * np.abs(reference).max()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_numpy_and_torch_agree_on_float_graphs(seed: int) -> None:
    pytest.importorskip("torch")
    graph = float_graph(seed)
    by_torch, by_numpy = run(graph, PICTURES, keep=["conv"]), Executor(graph, keep=["conv"])(PICTURES)
    assert by_torch["conv"].shape == (11, 5, 4, 6)
    for name, value in by_torch.items():
        np.testing.assert_allclose(value, by_numpy[name], atol=1e-5)


def test_everything_but_training_works_without_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import numpy as np\n"
        "from millijoule.graph import GraphBuilder\n"
        "from millijoule.errors import ToolchainError\n"
        "import millijoule.execute as execute\n"
        "b = GraphBuilder('g'); x = b.input('x', (1, 2, 2, 1), 'uint8')\n"
        "x = b.node('normalize', [x], (1, 2, 2, 1), attrs={'scale': (0.5,), 'offset': (1.0,)})\n"
        "y = b.node('mean', [x], (1, 1))\n"
        "r = execute.run(b.build([y]), np.full((3, 2, 2, 1), 4, np.uint8))\n"
        "assert r[y].tolist() == [[3.0]] * 3\n"
        "try: execute.FakeQuantModule\n"
        "except ToolchainError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "millijoule[train]" in done.stdout


def test_bad_requests_are_refused() -> None:
    graph = float_graph()
    with pytest.raises(DataError, match="resolution"):
        run(graph, np.zeros((2, 8, 8, 3), np.uint8))
    with pytest.raises(DataError, match="float64"):
        run(graph, np.zeros((2, 9, 8, 3)))
    with pytest.raises(GraphError, match="nothing"):
        run(graph, PICTURES, keep=["nothing"])
    with pytest.raises(GraphError, match="nothing"):
        run(dynamic_graph(), PICTURES, keep=["nothing"])


def test_no_pictures_give_empty_results_and_progress_counts_up() -> None:
    graph = dynamic_graph()
    empty = run(graph, PICTURES[:0])
    assert empty["logits"].shape == (0, 4)
    seen: list[tuple[str, int, int]] = []
    classes = predict(graph, PICTURES, batch=4, progress=lambda *step: seen.append(step))
    assert seen == [("float", 4, 11), ("float", 8, 11), ("float", 11, 11)]
    assert classes.dtype == np.int64
    np.testing.assert_array_equal(classes, run(graph, PICTURES)["logits"].argmax(axis=1))
