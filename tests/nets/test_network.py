"""The torch module is what its table says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from millijoule.nets import Network, build, layer_table, layers, mobilenet_v2, parameter_count


def pictures(resolution: int, count: int = 2) -> Tensor:
    return torch.rand(count, 3, resolution, resolution, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize(("alpha", "resolution"), [(0.35, 96), (0.5, 97), (1.0, 64), (1.3, 75)])
def test_every_layer_has_the_shape_and_parameters_of_its_row(alpha: float, resolution: int) -> None:
    spec = mobilenet_v2(alpha, resolution, 7)
    network = build(spec).eval()
    shapes: dict[str, tuple[int, ...]] = {}
    for name, child in network.named_children():
        child.register_forward_hook(lambda _, __, out, name=name: shapes.__setitem__(name, tuple(out.shape)))
    with torch.no_grad():
        logits = network(pictures(resolution))
    assert logits.shape == (2, 7)
    for row in layer_table(spec):
        height, width, channels = row.output_shape
        shape = shapes[row.name]
        assert shape == ((2, channels, height, width) if len(shape) == 4 else (2, channels)), row.name
    count = parameter_count(spec)
    assert sum(p.numel() for p in network.parameters()) == count.trainable
    buffers = sum(b.numel() for name, b in network.named_buffers() if not name.endswith("num_batches_tracked"))
    assert buffers == count.total - count.trainable


def test_children_are_readable_and_in_order() -> None:
    network = build(mobilenet_v2(0.35, 96))
    names = [name for name, _ in network.named_children()]
    assert names[:8] == [
        "Conv1_pad",
        "Conv1",
        "bn_Conv1",
        "Conv1_relu",
        "expanded_conv_depthwise",
        "expanded_conv_depthwise_BN",
        "expanded_conv_depthwise_relu",
        "expanded_conv_project",
    ]
    assert names[-6:] == ["Conv_1", "Conv_1_bn", "out_relu", "global_average_pool", "dropout", "classifier"]
    assert [name for name, _, _ in network.wiring] == names
    norm = network.block_3_project_BN
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.eps == 1e-3


def test_residual_is_added_and_finished_tensors_are_let_go() -> None:
    network = build(mobilenet_v2(0.35, 64)).eval()
    wiring = {name: (inputs, finished) for name, inputs, finished in network.wiring}
    assert wiring["block_2_add"] == (("block_1_project_BN", "block_2_project_BN"),) * 2
    kept = {"input"}
    for name, inputs, finished in network.wiring:
        assert set(inputs) <= kept
        kept = (kept - set(finished)) | {name}
    assert kept == {"classifier"}


@pytest.mark.slow
def test_strict_export_gives_the_same_logits() -> None:
    network = build(mobilenet_v2(0.35, 64)).eval()
    example = pictures(64)
    exported = torch.export.export(network, (example,), strict=True)
    operators = {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    assert {"aten.conv2d.default", "aten.batch_norm.default", "aten.pad.default", "aten.mean.dim"} <= operators
    with torch.no_grad():
        assert torch.equal(exported.module()(example), network(example))


def test_memory_format_changes_no_logit_beyond_rounding() -> None:
    network = build(mobilenet_v2(0.35, 64)).eval()
    assert network.block_1_expand.weight.is_contiguous(memory_format=torch.channels_last)
    example = pictures(64)
    with torch.no_grad():
        last = network(example.to(memory_format=torch.channels_last))
        first = network.to(memory_format=torch.contiguous_format)(example)
    assert torch.allclose(first, last, atol=1e-5)


def test_weights_depend_on_the_seed_alone() -> None:
    spec = mobilenet_v2(0.35, 64)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = build(spec, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    two, other = build(spec, seed=5), build(spec, seed=6)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    assert not torch.equal(one.Conv1.weight, other.Conv1.weight)


def test_initial_signal_neither_vanishes_nor_explodes() -> None:
    network = build(mobilenet_v2(0.35, 96)).train()
    outputs: dict[str, float] = {}
    for layer in layers(network.spec):
        if layer.operator == "add":
            child = network.get_submodule(layer.name)
            child.register_forward_hook(lambda _, __, out, name=layer.name: outputs.__setitem__(name, out.std().item()))
    network(pictures(96, 8))
    assert all(0.3 < deviation < 10 for deviation in outputs.values()), outputs


def test_a_block_begins_close_to_the_identity() -> None:
    network = build(mobilenet_v2(0.35, 64))
    scales = {name: child.weight for name, child in network.named_children() if isinstance(child, nn.BatchNorm2d)}
    small = {name for name, scale in scales.items() if not torch.equal(scale, torch.ones_like(scale))}
    assert small == {f"block_{block}_project_BN" for block in (2, 4, 5, 7, 8, 9, 11, 12, 14, 15)}
    assert all(torch.allclose(scales[name], torch.tensor(0.1)) for name in small)


def test_no_dropout_module_without_dropout() -> None:
    network: Network = build(mobilenet_v2(0.35, 64, dropout=0.0))
    assert not any(isinstance(child, nn.Dropout) for child in network.children())
