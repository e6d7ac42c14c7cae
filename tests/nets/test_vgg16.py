"""VGG16: the published column, the sizes that its documentation states, its pooling in torch and in the graph."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from millijoule.errors import WeightsError
from millijoule.execute import run
from millijoule.graph import simplify
from millijoule.interchange import capture
from millijoule.nets import _vgg16, build, layer_table, layers, load_weights, parameter_count, vgg16, widen

CONVOLUTIONS = 14_714_688


def test_convolutions_have_the_parameters_of_column_d() -> None:
    assert parameter_count(vgg16()).without_classifier == CONVOLUTIONS
    assert sum(row.parameters for row in layer_table(vgg16()) if row.operator == "conv2d") == CONVOLUTIONS
    assert [layer.output_shape for layer in layers(vgg16()) if layer.operator == "max_pool"] == [
        (112, 112, 64), (56, 56, 128), (28, 28, 256), (14, 14, 512), (7, 7, 512),
    ]  # fmt: skip
    assert sum(layer.operator == "conv2d" for layer in layers(vgg16())) == 13


def test_sizes_of_the_documentation_are_those_of_the_layers() -> None:
    widths = {
        "nothing": [],
        "global average, dense 10 (this family)": [512, 10],
        "global average, dense 256, dense 10": [512, 256, 10],
        "flatten (7x7x512), dense 10": [25088, 10],
        "global average, dense 512, dense 10": [512, 512, 10],
        "flatten, dense 32, dense 10": [25088, 32, 10],
        "flatten, dense 256, dense 10": [25088, 256, 10],
        "flatten, dense 4096, dense 4096, dense 10 (published)": [25088, 4096, 4096, 10],
    }
    rows = re.findall(r"^(\S.*?) {2,}([\d,]+) +([\d.]+) +([\d.]+)$", _vgg16.__doc__ or "", re.MULTILINE)
    assert [row[0] for row in rows] == list(widths)
    distances = {}
    for name, parameters, megabytes, mebibytes in rows:
        head = sum(before * after + after for before, after in zip(widths[name], widths[name][1:], strict=False))
        total = CONVOLUTIONS + head
        assert (f"{total:,}", f"{2 * total / 1e6:.2f}", f"{2 * total / 2**20:.2f}") == (
            parameters,
            megabytes,
            mebibytes,
        )
        distances[name] = min(abs(2 * total / 1e6 - 29.81), abs(2 * total / 2**20 - 29.81))
    assert min(distances, key=distances.__getitem__) == "global average, dense 256, dense 10"
    assert parameter_count(vgg16()).total == 14_719_818


@pytest.mark.parametrize("resolution", [32, 75])
def test_graph_computes_what_torch_does(resolution: int) -> None:
    """75 is odd at three of the poolings: what does not fill a window is left out."""
    spec = vgg16(0.125, resolution, 4, dropout=0.3)
    network = build(spec, seed=3).eval()
    graph = capture(network, spec)
    pools = [node for node in graph.nodes if node.op == "max_pool"]
    assert [node.source for node in pools] == [f"block{stage}_pool" for stage in range(1, 6)]
    for node, row in zip(pools, (row for row in layer_table(spec) if row.operator == "max_pool"), strict=True):
        assert graph.tensor(node.output).shape == (1, *row.output_shape)
        assert (node.attrs["kernel"], node.attrs["stride"], node.attrs["padding"]) == ((2, 2), (2, 2), (0, 0, 0, 0))
    pictures = np.random.default_rng(0).integers(0, 256, (3, resolution, resolution, 3), dtype=np.uint8)
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2) * spec.normalization.scale + spec.normalization.offset
    with torch.no_grad():
        expected = network(x).numpy()
        pooled = network.block1_conv1_relu(network.block1_conv1(x))
        pooled = network.block1_pool(network.block1_conv2_relu(network.block1_conv2(pooled)))
    simple = simplify(graph)
    got = run(simple, pictures, keep=[pools[0].output])
    scale = np.abs(expected).max()
    np.testing.assert_allclose(got["logits"], expected, atol=1e-5 * scale)
    np.testing.assert_allclose(got[pools[0].output], pooled.permute(0, 2, 3, 1).numpy(), atol=1e-5)


def test_weights_in_keras_layout(tmp_path: Path) -> None:
    spec, rng, tensors = vgg16(0.125, 32, 5), np.random.default_rng(0), {}
    for layer in layers(spec):
        if layer.operator == "conv2d":
            shape = (3, 3, layer.input_shape[2], layer.output_shape[2])
            tensors[f"{layer.name}/kernel:0"] = rng.normal(size=shape).astype(np.float32)
            tensors[f"{layer.name}/bias:0"] = rng.normal(size=shape[3]).astype(np.float32)
    save_file(tensors, tmp_path / "keras.safetensors")
    network = build(spec)
    report = load_weights(network, spec, tmp_path / "keras.safetensors")
    assert len(report.loaded) == 13 and not report.folded and not report.skipped
    kernel = network.block3_conv2.weight.detach().permute(2, 3, 1, 0).numpy()
    np.testing.assert_array_equal(kernel, tensors["block3_conv2/kernel:0"])
    np.testing.assert_array_equal(network.block3_conv2.bias.detach().numpy(), tensors["block3_conv2/bias:0"])
    del tensors["block2_conv1/bias:0"]
    save_file(tensors, tmp_path / "without.safetensors")
    with pytest.raises(WeightsError, match="block2_conv1: its bias is not in the file"):
        load_weights(network, spec, tmp_path / "without.safetensors")


def test_it_widens_without_changing_what_it_computes() -> None:
    narrow, wide = build(vgg16(0.125, 32, 5), seed=1).eval(), build(vgg16(0.25, 32, 5)).eval()
    widen(narrow, wide)
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        expected, got = narrow(x), wide(x)
    assert (expected - got).abs().max() <= 1e-4 * expected.abs().max()
