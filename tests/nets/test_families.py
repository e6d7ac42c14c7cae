"""The smaller families: published sizes, shapes, names, and modules that are what their tables say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn

from millijoule.errors import OptionError, WeightsError
from millijoule.nets import (
    NetworkSpec,
    autoencoder,
    build,
    ds_cnn,
    families,
    family,
    identifier,
    layer_table,
    layers,
    load_keras_weights,
    load_network,
    load_weights,
    mobilenet_v1,
    mobilenet_v2,
    parameter_count,
    resnet8,
    save_weights,
    specify,
    stage_table,
    vgg16,
    widen,
)

SPECS = (
    mobilenet_v1(),
    mobilenet_v1(0.3, 65, 7),
    resnet8(),
    resnet8(45, 3),
    ds_cnn(),
    autoencoder(),
    vgg16(0.25, 96, 3),
)


def macs(spec: NetworkSpec) -> int:
    return sum(row.macs for row in layer_table(spec))


def inputs(spec: NetworkSpec, count: int = 2) -> torch.Tensor:
    height, width, channels = spec.input_shape
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize(
    ("alpha", "parameters"), [(0.25, 218_544), (0.5, 829_536), (0.75, 1_832_976), (1.0, 3_228_864)]
)
def test_mobilenet_v1_has_the_parameters_of_keras_applications_without_top(alpha: float, parameters: int) -> None:
    assert parameter_count(mobilenet_v1(alpha, 224, 1000)).without_classifier == parameters


@pytest.mark.parametrize(("alpha", "millions"), [(1.0, 569), (0.75, 325), (0.5, 149), (0.25, 41)])
def test_mobilenet_v1_has_the_macs_of_the_papers_table_6(alpha: float, millions: int) -> None:
    assert macs(mobilenet_v1(alpha, 224, 1000)) == pytest.approx(millions * 1e6, rel=0.015)


def test_mlperf_tiny_macs_and_parameters() -> None:
    assert macs(mobilenet_v1(0.25, 96, 2)) == pytest.approx(7.5e6, rel=0.01)
    assert macs(resnet8()) == 12_501_632
    assert macs(ds_cnn()) == 2_656_768
    assert macs(autoencoder()) == 264_192
    assert parameter_count(resnet8()).total == 78_666
    assert parameter_count(ds_cnn()).total == 24_908
    assert parameter_count(autoencoder()).total == 269_992


def test_mobilenet_v1_is_table_1_of_the_paper() -> None:
    rows = [(row.input_shape, row.operator, row.c, row.n, row.s) for row in stage_table(mobilenet_v1(1.0, 224, 1000))]
    assert rows[:4] == [
        ((224, 224, 3), "conv2d", 32, 1, 2),
        ((112, 112, 32), "separable", 64, 1, 1),
        ((112, 112, 64), "separable", 128, 1, 2),
        ((56, 56, 128), "separable", 128, 1, 1),
    ]
    assert rows[-5:] == [
        ((14, 14, 512), "separable", 512, 5, 1),
        ((14, 14, 512), "separable", 1024, 1, 2),
        ((7, 7, 1024), "separable", 1024, 1, 1),
        ((7, 7, 1024), "avgpool", 1024, 1, 1),
        ((1, 1, 1024), "dense", 1000, 1, 1),
    ]


def test_shapes_of_the_others() -> None:
    residual = {layer.name: layer for layer in layers(resnet8())}
    assert residual["block_2_shortcut"].kernel == (1, 1) and residual["block_2_shortcut"].stride == 2
    assert residual["block_2_shortcut"].inputs == residual["block_2_conv_1"].inputs == ("block_1_add",)
    assert residual["block_2_add"].inputs == ("block_2_shortcut", "block_2_conv_2")
    assert residual["block_1_add"].inputs == ("conv1", "block_1_conv_2")
    assert residual["global_average_pool"].input_shape == (8, 8, 64)
    first, *_ = layers(ds_cnn())
    assert (first.kernel, first.stride, first.padding) == ((10, 4), 2, (1, 1, 4, 5))
    assert first.output_shape == (25, 5, 64)
    assert [layer.dropout for layer in layers(ds_cnn()) if layer.operator == "dropout"] == [0.2, 0.4]
    widths = [layer.output_shape[2] for layer in layers(autoencoder())]
    assert widths == [640, 128, 128, 128, 128, 8, 128, 128, 128, 128, 640]


@pytest.mark.parametrize("spec", SPECS, ids=identifier)
def test_every_layer_has_the_shape_and_parameters_of_its_row(spec: NetworkSpec) -> None:
    network = build(spec).eval()
    shapes: dict[str, tuple[int, ...]] = {}
    for name, child in network.named_children():
        child.register_forward_hook(lambda _, __, out, name=name: shapes.__setitem__(name, tuple(out.shape)))
    with torch.no_grad():
        assert network(inputs(spec)).shape == (2, spec.classes)
    for row in layer_table(spec):
        height, width, channels = row.output_shape
        shape = shapes[row.name]
        assert shape == ((2, channels, height, width) if len(shape) == 4 else (2, channels)), row.name
    count = parameter_count(spec)
    assert sum(p.numel() for p in network.parameters()) == count.trainable
    buffers = sum(b.numel() for name, b in network.named_buffers() if not name.endswith("num_batches_tracked"))
    assert buffers == count.total - count.trainable


@pytest.mark.parametrize("spec", SPECS, ids=identifier)
def test_it_trains_with_a_signal_that_neither_vanishes_nor_explodes(spec: NetworkSpec) -> None:
    network = build(spec).train()
    deviations: list[float] = []
    for child in network.children():
        if isinstance(child, (nn.ReLU, nn.ReLU6)):
            child.register_forward_hook(lambda _, __, out: deviations.append(out.std().item()))
    network(inputs(spec, 8)).square().mean().backward()
    assert all(0.2 < deviation < 10 for deviation in deviations), deviations
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


def test_relu_where_the_reference_has_it_and_relu6_where_keras_has_it() -> None:
    for spec, kind in (
        (mobilenet_v1(), nn.ReLU6),
        (resnet8(), nn.ReLU),
        (ds_cnn(), nn.ReLU),
        (autoencoder(), nn.ReLU),
        (vgg16(0.125, 32), nn.ReLU),
    ):
        found = {type(child) for child in build(spec).children() if isinstance(child, (nn.ReLU, nn.ReLU6))}
        assert found == {kind}


def test_residual_branches_begin_close_to_the_identity() -> None:
    network = build(resnet8())
    norms = {name: child for name, child in network.named_children() if isinstance(child, nn.BatchNorm2d)}
    assert {name for name, norm in norms.items() if norm.weight[0] != 1} == {
        f"block_{block}_conv_2_bn" for block in (1, 2, 3)
    }


@pytest.mark.parametrize("spec", SPECS, ids=identifier)
def test_specification_and_weights_survive_a_file(spec: NetworkSpec, tmp_path: Path) -> None:
    assert NetworkSpec.from_json(spec.to_json()) == spec
    assert ("columns" in spec.to_dict()) == (spec.family == "ds_cnn")
    network = build(spec, seed=4).eval()
    save_weights(network, tmp_path / "w.safetensors")
    again, _ = load_network(tmp_path / "w.safetensors")
    assert again.spec == spec
    with torch.no_grad():
        assert torch.equal(network(inputs(spec)), again(inputs(spec)))


def test_mobilenet_v1_takes_weights_in_keras_layout(tmp_path: Path) -> None:
    spec, rng = mobilenet_v1(0.25, 64, 5), np.random.default_rng(0)
    tensors = {}
    for layer in layers(spec):
        if "conv2d" in layer.operator:
            inside, outside = layer.input_shape[2], layer.output_shape[2]
            depthwise = layer.operator == "depthwise_conv2d"
            shape = (3, 3, outside, 1) if depthwise else (*layer.kernel, inside, outside)
            tensors[f"{layer.name}/{'depthwise_kernel' if depthwise else 'kernel'}:0"] = rng.normal(size=shape)
            for name in ("gamma", "beta", "moving_mean", "moving_variance"):
                tensors[f"{layer.batch_norm}/{name}:0"] = rng.uniform(0.5, 1, outside)
    path = tmp_path / "keras.safetensors"
    save_file({name: value.astype(np.float32) for name, value in tensors.items()}, path)
    network = build(spec)
    report = load_keras_weights(network, spec, path)
    assert len(report.loaded) == 27 and not report.skipped
    expected = tensors["conv_pw_13/kernel:0"].astype(np.float32)[0, 0].T
    np.testing.assert_array_equal(network.conv_pw_13.weight[:, :, 0, 0].detach().numpy(), expected)
    with pytest.raises(WeightsError, match=r"alpha 0\.25"):
        load_keras_weights(build(mobilenet_v1(0.5, 64, 5)), mobilenet_v1(0.5, 64, 5), path)
    with pytest.raises(WeightsError, match="0 of 9 layers fit"):
        load_keras_weights(build(resnet8()), resnet8(), path)


def test_a_file_of_another_family_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(build(ds_cnn()), path)
    with pytest.raises(WeightsError, match=r"it holds ds_cnn, the network is mobilenet_v1 of alpha 0\.25"):
        load_weights(build(mobilenet_v1()), mobilenet_v1(), path)


def test_mobilenet_v1_widens_without_changing_what_it_computes() -> None:
    narrow, wide = build(mobilenet_v1(0.25, 64, 5), seed=1).eval(), build(mobilenet_v1(0.5, 64, 5)).eval()
    widen(narrow, wide)
    with torch.no_grad():
        expected, got = narrow(inputs(narrow.spec)), wide(inputs(narrow.spec))
    assert (expected - got).abs().max() <= 1e-4 * expected.abs().max()


def test_options_that_a_family_does_not_have_are_refused() -> None:
    assert specify("resnet8", classes=7, alpha=None) == resnet8(classes=7)
    assert specify("mobilenet_v2", alpha=0.35) == mobilenet_v2(0.35)
    for name, option, words in (
        ("resnet8", {"alpha": 0.5}, "one width"),
        ("ds_cnn", {"resolution": 96}, "49x10x1"),
        ("autoencoder", {"classes": 10}, "as many as its inputs"),
        ("resnet8", {"dropout": 0.1}, "--dropout"),
        ("resnet8", {"resolution": 16}, "resolution"),
        ("mobilenet_v1", {"alpha": 0.0}, "alpha"),
        ("vgg19", {}, "mobilenet_v1"),
    ):
        with pytest.raises(OptionError, match=words):
            specify(name, **option)  # type: ignore[arg-type]


def test_names_and_defaults() -> None:
    names = [identifier(entry.specify()) for entry in families()]
    assert names == [
        "autoencoder",
        "ds_cnn",
        "mobilenet_v1_0_25_96",
        "mobilenet_v2_0_5_224",
        "resnet8_32",
        "vgg16_1_224",
    ]
    for entry in families():
        spec = entry.specify()
        assert {name: getattr(spec, name) for name in entry.options} == dict(entry.options)
        assert len({layer.name for layer in layers(spec)}) == len(layers(spec))
        assert family(entry.name) is entry
