from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from millijoule.errors import FormatError, UnsupportedError
from millijoule.execute import run
from millijoule.graph import Graph, GraphBuilder
from millijoule.graph.conversion import integer_graph
from millijoule.interchange import onnx_bytes, read_onnx, write_onnx
from millijoule.quantize import half

onnx = pytest.importorskip("onnx")


def network() -> Graph:
    rng = np.random.default_rng(0)
    b = GraphBuilder("onnx_test")

    def weights(*shape: int) -> str:
        fan = int(np.prod(shape[1:])) if shape[0] != 1 else int(np.prod(shape[1:3]))
        return b.constant("w", rng.normal(0, (2 / fan) ** 0.5, shape).astype(np.float32))

    def bias(count: int) -> str:
        return b.constant("b", rng.normal(0, 0.3, count).astype(np.float32))

    x = b.input("picture", (1, 16, 12, 3), "uint8")
    x = b.node("normalize", [x], (1, 16, 12, 3), attrs={"scale": (1 / 127.5,), "offset": (-1.0,)}, source="normalize")
    x = b.node("conv2d", [x, weights(8, 3, 3, 3), bias(8)], (1, 8, 6, 8), source="stem",
               attrs={"stride": (2, 2), "padding": (0, 1, 0, 1), "clamp": (0.0, 6.0)})  # fmt: skip
    y = b.node("depthwise_conv2d", [x, weights(1, 3, 3, 8), bias(8)], (1, 8, 6, 8), source="dw",
               attrs={"stride": (1, 1), "padding": (1, 1, 1, 1), "clamp": (0.0, float("inf"))})  # fmt: skip
    y = b.node("conv2d", [y, weights(8, 1, 1, 8)], (1, 8, 6, 8), source="project",
               attrs={"stride": (1, 1), "padding": (0, 0, 0, 0)})  # fmt: skip
    x = b.node("add", [x, y], (1, 8, 6, 8), source="add", attrs={"clamp": (-1.0, 4.0)})
    x = b.node("pad", [x], (1, 10, 8, 8), source="pad", attrs={"padding": (1, 1, 1, 1)})
    pool = {"kernel": (2, 2), "stride": (2, 2), "padding": (0, 0, 0, 0)}
    x = b.node("max_pool", [x], (1, 5, 4, 8), source="largest", attrs=pool)
    x = b.node("avg_pool", [x], (1, 5, 4, 8), source="average",
               attrs={"kernel": (3, 3), "stride": (1, 1), "padding": (1, 1, 1, 1)})  # fmt: skip
    flat = b.node("reshape", [x], (1, 160), source="flat", attrs={"shape": (1, 160)})
    side = b.node("dense", [flat, weights(8, 160), bias(8)], (1, 8), source="side")
    total = b.node("add", [b.node("mean", [x], (1, 8), source="mean"), side], (1, 8), source="total")
    logits = b.node("dense", [total, weights(5, 8), bias(5)], (1, 5), source="head", output="logits")
    p = b.node("softmax", [logits], (1, 5), source="softmax", output="probabilities")
    return b.build([logits, p], classes=list("abcde"))


PICTURES = np.random.default_rng(1).integers(0, 256, (8, 16, 12, 3), dtype=np.uint8)


def in_onnxruntime(data: bytes, x: np.ndarray) -> list[np.ndarray]:
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    # onnxruntime 1.31 merges a zero Pad into the pooling behind it, which changes the result of a maximum; not ours
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x.transpose(0, 3, 1, 2)})


def test_float_model_equals_our_executor_in_onnxruntime() -> None:
    graph = network()
    ours = run(graph, PICTURES, keep=["normalize"])
    logits, probabilities = in_onnxruntime(onnx_bytes(graph), ours["normalize"])
    np.testing.assert_allclose(logits, ours["logits"], atol=1e-4)
    np.testing.assert_allclose(probabilities, ours["probabilities"], atol=1e-5)


def test_qdq_model_is_within_single_steps_of_the_integer_executor() -> None:
    graph = network()
    names = [tensor.name for tensor in graph.activations() if tensor.dtype == "float32"]
    values = run(graph, PICTURES, keep=names)
    static = integer_graph(graph, {name: (float(v.min()), float(v.max())) for name, v in values.items()})
    logits, probabilities = in_onnxruntime(onnx_bytes(static), values["normalize"])
    ours = run(static, PICTURES)
    quant = static.quant("logits")
    steps = logits / quant.scalar_scale + quant.scalar_zero_point - ours["logits"]
    assert np.abs(steps).max() < 4.5
    assert np.abs(logits - values["logits"]).max() < 0.1 * np.abs(values["logits"]).max()
    assert np.abs(probabilities - (ours["probabilities"] + 128.0) / 256).max() < 0.05
    model = onnx.load_from_string(onnx_bytes(static))
    stored = {item.data_type for item in model.graph.initializer if item.name.endswith(".int8")}
    assert stored == {onnx.TensorProto.INT8}


def test_round_trip_keeps_every_result(tmp_path: Path) -> None:
    graph = network()
    write_onnx(graph, tmp_path / "model.onnx")
    again = read_onnx(tmp_path / "model.onnx")
    assert again.classes == graph.classes
    before, after = run(graph, PICTURES), run(again, PICTURES)
    for old, new in zip(graph.outputs, again.outputs, strict=True):
        np.testing.assert_allclose(after[new], before[old], atol=1e-5)


def test_a_model_exported_by_hand(tmp_path: Path) -> None:
    """Operators as other exporters write them: BatchNormalization, GlobalAveragePool, Flatten, Gemm, Constant."""
    rng = np.random.default_rng(2)
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    kind = onnx.TensorProto.FLOAT
    constants = {
        "w": rng.normal(size=(4, 3, 3, 3)), "g": rng.uniform(0.5, 1, 4), "b": rng.normal(size=4),
        "m": rng.normal(size=4), "v": rng.uniform(0.5, 1, 4), "f": rng.normal(size=(4, 2)), "c": rng.normal(size=2),
    }  # fmt: skip
    nodes = [
        helper.make_node("Constant", [], ["six"], value=numpy_helper.from_array(np.float32(6))),
        helper.make_node("Constant", [], ["zero"], value=numpy_helper.from_array(np.float32(0))),
        helper.make_node("Conv", ["x", "w"], ["conv"], pads=[0, 0, 1, 1], strides=[2, 2]),
        helper.make_node("BatchNormalization", ["conv", "g", "b", "m", "v"], ["norm"], epsilon=1e-3),
        helper.make_node("Clip", ["norm", "zero", "six"], ["relu"]),
        helper.make_node("GlobalAveragePool", ["relu"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("Gemm", ["flat", "f", "c"], ["logits"]),
    ]
    body = helper.make_graph(
        nodes, "foreign",
        [helper.make_tensor_value_info("x", kind, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", kind, ["batch", 2])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )  # fmt: skip
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    path = tmp_path / "foreign.onnx"
    onnx.save(model, str(path))
    x = rng.normal(size=(4, 8, 8, 3)).astype(np.float32)
    graph = read_onnx(path)
    np.testing.assert_allclose(run(graph, x)[graph.outputs[0]], in_onnxruntime(path.read_bytes(), x)[0], atol=1e-4)


def test_bad_files_are_refused(tmp_path: Path) -> None:
    data = onnx_bytes(network())
    for name, content in {"empty": b"", "half": data[: len(data) // 2], "text": b"not a model at all"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FormatError):
            read_onnx(tmp_path / name)
    with pytest.raises(FormatError, match="no such file"):
        read_onnx(tmp_path / "missing.onnx")
    unknown = onnx.load_from_string(data)
    unknown.graph.node[0].op_type = "Tanh"
    del unknown.graph.node[0].attribute[:]
    del unknown.graph.node[0].input[1:]
    (tmp_path / "tanh.onnx").write_bytes(unknown.SerializeToString())
    with pytest.raises(UnsupportedError, match="Tanh"):
        read_onnx(tmp_path / "tanh.onnx")


def test_16_bit_floats_stay_so_behind_cast(tmp_path: Path) -> None:
    graph = half(network())
    expected = run(graph, PICTURES, keep=["normalize"])
    data = onnx_bytes(graph)
    got = in_onnxruntime(data, expected["normalize"])
    np.testing.assert_allclose(got[0], expected["logits"], rtol=1e-4, atol=1e-4)
    stored = [item for item in onnx.load_from_string(data).graph.initializer if item.data_type == 10]  # FLOAT16
    assert sum(len(item.raw_data) for item in stored) == sum(value.nbytes for value in graph.constants.values())
    (tmp_path / "model.onnx").write_bytes(data)
    again = read_onnx(tmp_path / "model.onnx")
    assert {value.dtype.name for value in again.constants.values()} == {"float16"}
    np.testing.assert_allclose(run(again, PICTURES)["logits"], expected["logits"], rtol=1e-5, atol=1e-5)


def test_other_casts_are_refused(tmp_path: Path) -> None:
    model = onnx.load_from_string(onnx_bytes(half(network())))
    cast = next(node for node in model.graph.node if node.op_type == "Cast")
    cast.attribute[0].i = 11  # DOUBLE
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UnsupportedError, match="it converts types"):
        read_onnx(tmp_path / "model.onnx")
