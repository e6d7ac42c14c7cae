"""Weight files: our own, Keras', folded, partial, of another width, damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from safetensors.numpy import load_file, save_file
from torch import Tensor

from millijoule.errors import OutputError, WeightsError
from millijoule.nets import (
    build,
    layers,
    load_keras_weights,
    load_network,
    load_weights,
    mobilenet_v2,
    save_weights,
    unfold_batch_norm,
)

KERAS_035 = "mobilenet_v2_0.35_224_imagenet_notop_keras.safetensors"
FOLDED_100 = "mobilenet_v2_1.0_224_imagenet_notop_dequant.safetensors"
FOLDED_050 = "mobilenet_v2_0.5_deeplab_pascal_backbone_dequant.safetensors"


def pictures(count: int = 2, resolution: int = 64) -> Tensor:
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return functional.interpolate(coarse, size=resolution, mode="bilinear")


def reference_features(path: Path, x: Tensor, last: str) -> Tensor:
    """MobileNetV2 straight from Keras' names and layouts, written apart from the builder; stops after `last`."""
    tensors = {name: torch.from_numpy(value) for name, value in load_file(path).items()}

    def convolve(x: Tensor, name: str, norm: str, stride: int = 1, relu: bool = True) -> Tensor:
        depthwise = f"{name}/depthwise_kernel:0" in tensors
        kernel = tensors[f"{name}/depthwise_kernel:0"] if depthwise else tensors[f"{name}/kernel:0"]
        weight = kernel.permute(2, 3, 0, 1) if depthwise else kernel.permute(3, 2, 0, 1)
        need = max((-(-x.shape[2] // stride) - 1) * stride + weight.shape[2] - x.shape[2], 0)
        x = functional.pad(x, (need // 2, need - need // 2) * 2)
        x = functional.conv2d(x, weight, stride=stride, groups=x.shape[1] if depthwise else 1)
        if f"{name}/bias:0" in tensors:
            x = x + tensors[f"{name}/bias:0"][:, None, None]
        else:
            mean, variance, gamma, beta = (
                tensors[f"{norm}/{part}:0"][:, None, None]
                for part in ("moving_mean", "moving_variance", "gamma", "beta")
            )
            x = (x - mean) / torch.sqrt(variance + 1e-3) * gamma + beta
        return x.clamp(0, 6) if relu else x

    x = convolve(x, "Conv1", "bn_Conv1", 2)
    x = convolve(x, "expanded_conv_depthwise", "expanded_conv_depthwise_BN")
    x = convolve(x, "expanded_conv_project", "expanded_conv_project_BN", relu=False)
    for block in range(1, 17):
        name = f"block_{block}"
        entry = x
        x = convolve(x, f"{name}_expand", f"{name}_expand_BN")
        x = convolve(x, f"{name}_depthwise", f"{name}_depthwise_BN", 2 if block in (1, 3, 6, 13) else 1)
        x = convolve(x, f"{name}_project", f"{name}_project_BN", relu=False)
        if block not in (1, 3, 6, 10, 13, 16):
            x = x + entry
    return x if last == "block_16_project" else convolve(x, "Conv_1", "Conv_1_bn")


def output_of(network: torch.nn.Module, child: str, x: Tensor) -> Tensor:
    caught = []
    handle = network.get_submodule(child).register_forward_hook(lambda _, __, out: caught.append(out))
    with torch.no_grad():
        network.eval()(x)
    handle.remove()
    return caught[0]


@pytest.mark.parametrize(("alpha", "name", "folded"), [(0.35, KERAS_035, False), (1.0, FOLDED_100, True)])
def test_keras_file_computes_what_keras_computes(shared: Path, alpha: float, name: str, folded: bool) -> None:
    path = shared / "data" / "weights" / name
    spec = mobilenet_v2(alpha, 64)
    network = build(spec)
    report = load_keras_weights(network, spec, path)
    assert (len(report.loaded), report.padded, report.skipped, report.folded) == (52, (), (), folded)
    expected = reference_features(path, pictures(), "Conv_1")
    got = output_of(network, "out_relu", pictures())
    assert expected.abs().max() > 0.5
    assert (got - expected).abs().max() < 1e-3


def test_bits_of_the_exact_file_arrive(shared: Path) -> None:
    path = shared / "data" / "weights" / KERAS_035
    spec = mobilenet_v2(0.35, 96)
    network = build(spec)
    load_weights(network, spec, path)  # finds out the layout itself
    tensors = load_file(path)
    assert np.array_equal(
        network.block_5_expand.weight.detach().numpy().transpose(2, 3, 1, 0), tensors["block_5_expand/kernel:0"]
    )
    assert np.array_equal(network.Conv_1_bn.running_var.numpy(), tensors["Conv_1_bn/moving_variance:0"])


def test_partial_load_keeps_what_the_narrower_stage_computed(shared: Path) -> None:
    path = shared / "data" / "weights" / FOLDED_050
    spec = mobilenet_v2(0.5, 64)
    network = build(spec)
    with pytest.raises(WeightsError, match=r"block_1_project.*48, 12.*48, 16.*44 of 52"):
        load_keras_weights(network, spec, path)
    report = load_keras_weights(network, spec, path, partial=True)
    assert len(report.loaded) == 44
    assert [entry.split(":")[0] for entry in report.padded] == [
        "block_1_project",
        "block_2_expand",
        "block_2_depthwise",
        "block_2_project",
        "block_3_expand",
        "block_3_depthwise",
        "block_3_project",
    ]
    assert report.skipped == ("Conv_1: it is not in the file",)
    expected = reference_features(path, pictures(), "block_16_project")
    got = output_of(network, "block_16_project_BN", pictures())
    assert (got - expected).abs().max() < 1e-3 * expected.abs().max()


def test_unfolding_gives_real_statistics_and_changes_nothing(shared: Path) -> None:
    path = shared / "data" / "weights" / FOLDED_100
    spec = mobilenet_v2(1.0, 64)
    network = build(spec)
    load_weights(network, spec, path)
    batch = pictures(16)
    before = output_of(network, "out_relu", batch)
    unfold_batch_norm(network, [batch[:8], batch[8:]])
    after = output_of(network, "out_relu", batch)
    assert (after - before).abs().max() < 1e-3
    network.train()
    with torch.no_grad():
        caught = []
        network.out_relu.register_forward_hook(lambda _, __, out: caught.append(out))
        network(batch)
    assert (caught[0] - before).abs().max() < 1e-2  # in training mode the batch's own statistics are those


@pytest.mark.parametrize(("name", "fits"), [(KERAS_035, "0.35"), (FOLDED_100, "1"), (FOLDED_050, "0.5")])
@pytest.mark.parametrize("partial", [False, True])
def test_weights_of_another_alpha_name_the_one_that_fits(shared: Path, name: str, fits: str, partial: bool) -> None:
    spec = mobilenet_v2(0.75, 64)
    network = build(spec)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    grow = rf", or --init-alpha {fits} to grow it" if float(fits) < 0.75 else ""
    with pytest.raises(WeightsError, match=rf"alpha {fits}, the network has alpha 0\.75\. Use --alpha {fits}{grow}\."):
        load_keras_weights(network, spec, shared / "data" / "weights" / name, partial=partial)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_own_file_round_trip(tmp_path: Path) -> None:
    spec = mobilenet_v2(0.35, 64, 3)
    network = build(spec, seed=4).eval()
    path = tmp_path / "new" / "weights.safetensors"
    save_weights(network, path, classes=("a", "b", "c"))
    loaded, classes = load_network(path)
    assert (loaded.spec, classes, loaded.training) == (spec, ("a", "b", "c"), False)
    with torch.no_grad():
        assert torch.equal(loaded(pictures()), network(pictures()))


def test_own_file_of_other_classes_keeps_the_new_classifier(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(build(mobilenet_v2(0.35, 64, 3), seed=4), path)
    spec = mobilenet_v2(0.35, 96, 5)
    network = build(spec)
    classifier = network.classifier.weight.detach().clone()
    report = load_weights(network, spec, path)
    assert [entry.split(":")[0] for entry in report.skipped] == ["classifier.weight", "classifier.bias"]
    assert torch.equal(network.classifier.weight, classifier)
    assert torch.equal(network.Conv1.weight, build(mobilenet_v2(0.35, 64, 3), seed=4).Conv1.weight)
    wide = mobilenet_v2(0.5, 96, 5)
    with pytest.raises(WeightsError, match=r"alpha 0\.35.*Use --alpha 0\.35"):
        load_weights(build(wide), wide, path)


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    spec = mobilenet_v2(0.35, 64, 3)
    good = tmp_path / "good.safetensors"
    save_weights(build(spec), good)
    data = good.read_bytes()
    for name, content in {
        "empty": b"",
        "short": data[:100],
        "truncated": data[: len(data) // 2],
        "text": b"these are not weights",
        "longheader": (1 << 62).to_bytes(8, "little") + data[8:],
    }.items():
        path = tmp_path / name
        path.write_bytes(content)
        for load in (lambda path=path: load_network(path), lambda path=path: load_weights(build(spec), spec, path)):
            with pytest.raises(WeightsError, match="truncated or not a safetensors file"):
                load()
    with pytest.raises(WeightsError, match="no such file"):
        load_network(tmp_path / "nowhere")
    foreign = tmp_path / "foreign"
    save_file({"embedding": np.zeros((3, 4), np.float32)}, foreign)
    with pytest.raises(WeightsError, match="no layer of mobilenet_v2"):
        load_weights(build(spec), spec, foreign)
    with pytest.raises(WeightsError, match="does not say which network"):
        load_network(foreign)


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    spec = mobilenet_v2(0.35, 64, 3)
    tensors: dict[str, np.ndarray] = {}
    for layer in layers(spec):
        if layer.operator in ("conv2d", "depthwise_conv2d"):
            depthwise = layer.operator == "depthwise_conv2d"
            channels = layer.output_shape[2]
            shape = (channels, 1) if depthwise else (layer.input_shape[2], channels)
            kind = "depthwise_kernel" if depthwise else "kernel"
            tensors[f"{layer.name}/{kind}:0"] = np.zeros((*layer.kernel, *shape), np.float32)
            tensors[f"{layer.name}/bias:0"] = np.zeros(channels, np.float32)
    tensors["block_7_expand/kernel:0"][0, 0, 0, 0] = np.nan
    path = tmp_path / "weights"
    save_file(tensors, path)
    with pytest.raises(WeightsError, match=r"block_7_expand.*not finite"):
        load_weights(build(spec), spec, path)


def test_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError):
        save_weights(build(mobilenet_v2(0.35, 64)), tmp_path / "file" / "weights.safetensors")
