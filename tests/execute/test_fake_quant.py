"""The trainable executor against the integer graph it converts to."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millijoule.errors import QuantizationError, UnsupportedError
from millijoule.execute import FakeQuantModule, float_module, run
from millijoule.graph import ROUNDINGS, Graph, GraphBuilder, arithmetic, simplify
from millijoule.interchange import capture

torch = pytest.importorskip("torch")
from millijoule.execute._fake_quant_exact import requantize_rows  # noqa: E402 - after torch is known to be there

nn = torch.nn


class Block(nn.Module):
    """Every kind of step: stride-2 conv with one-sided padding, depthwise, residual, pools, clamp, mean, dense."""

    def __init__(self) -> None:
        super().__init__()
        self.pad = nn.ZeroPad2d((0, 1, 0, 1))
        self.stem = nn.Conv2d(3, 8, 3, stride=2, bias=False)
        self.stem_bn = nn.BatchNorm2d(8)
        self.wide = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.wide_bn = nn.BatchNorm2d(8)
        self.project = nn.Conv2d(8, 8, 1, bias=False)
        self.project_bn = nn.BatchNorm2d(8)
        self.average = nn.AvgPool2d(2)
        self.largest = nn.MaxPool2d(2)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = torch.relu(nn.functional.relu6(self.stem_bn(self.stem(self.pad(x)))))
        y = nn.functional.relu6(self.wide_bn(self.wide(x)))
        y = x + self.project_bn(self.project(y))
        return self.head(self.largest(self.average(y)).mean((2, 3)))


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    module = Block()
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            child.weight.data.uniform_(0.5, 2.0)
            child.bias.data.normal_(0, 0.5)
            child.running_mean.normal_(0, 0.3)
            child.running_var.uniform_(0.2, 2.0)
    return module.eval()


@pytest.fixture(scope="module")
def graph() -> Graph:
    return capture(network(), (16, 16, 3))


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (48, 16, 16, 3), dtype=np.uint8)


def normalised(pictures: np.ndarray):
    return (torch.from_numpy(pictures).float() * (1 / 127.5) - 1).permute(0, 3, 1, 2)


def test_without_quantisation_it_is_the_float_network(graph: Graph, pictures: np.ndarray) -> None:
    module = FakeQuantModule(graph)
    module.set_phase(False, False, False)
    expected = network()(normalised(pictures))
    torch.testing.assert_close(module.eval()(normalised(pictures)), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(float_module(graph)(normalised(pictures)), expected, atol=1e-4, rtol=0)
    trained, reference = FakeQuantModule(graph, batch_norm_momentum=0.1), network().train()
    trained.set_phase(False, False, False)
    torch.testing.assert_close(
        trained.train()(normalised(pictures)), reference(normalised(pictures)), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(trained.layers["stem"].running_mean, reference.stem_bn.running_mean)


def test_ranges_follow_the_batches(graph: Graph, pictures: np.ndarray) -> None:
    module = FakeQuantModule(graph, averaging=0.5)
    module.set_phase(True, False, True)
    module.train()
    assert module.ranges() == {}
    module(normalised(pictures[:16]))
    first = module.ranges()
    simple = simplify(graph)
    values = run(simple, pictures, keep=list(first))
    for name, (low, high) in first.items():
        np.testing.assert_allclose((low, high), (values[name][:16].min(), values[name][:16].max()), atol=1e-4)
    module(normalised(pictures[16:32]))
    for name, (low, high) in module.ranges().items():
        second = values[name][16:32]
        expected = (first[name][0] + second.min()) / 2, (first[name][1] + second.max()) / 2
        np.testing.assert_allclose((low, high), expected, atol=1e-4)
    kept = module.ranges()
    module.eval()(normalised(pictures[32:]) * 3)
    assert module.ranges() == kept


def trained(graph: Graph, pictures: np.ndarray, steps: int = 12, **options: Any) -> FakeQuantModule:
    module = FakeQuantModule(graph, averaging=0.1, **options)
    optimizer = torch.optim.Adam(module.parameters(), 2e-3)
    x, labels = normalised(pictures), torch.arange(48) % 5
    losses = []
    for step in range(steps):
        module.train()
        module.set_phase(True, step > 0, step >= steps // 2)
        loss = nn.functional.cross_entropy(module(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[1]
    return module.eval()


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_conversion_changes_nothing(graph: Graph, pictures: np.ndarray, rounding: str, per_channel: bool) -> None:
    module = trained(graph, pictures, rounding=rounding, per_channel=per_channel)
    integer = module.to_integer()
    assert integer.rounding == rounding
    assert all(tensor.dtype in ("int8", "uint8") for tensor in integer.activations())
    names = [step.output for step in module.steps]
    expected = run(integer, pictures, keep=names)
    found = module.stored(normalised(pictures), names)
    for name in names:
        np.testing.assert_array_equal(found[name].numpy(), expected[name], err_msg=name)
    quant = integer.quant("logits")
    logits = (expected["logits"].astype(np.float32) - quant.scalar_zero_point) * np.float32(quant.scalar_scale)
    np.testing.assert_array_equal(module(normalised(pictures)).numpy(), logits)


def test_training_arithmetic_is_near_the_integers(graph: Graph, pictures: np.ndarray) -> None:
    module = trained(graph, pictures)
    exact = module(normalised(pictures))
    module.exact = False
    step = module.quants()["logits"].scalar_scale
    with torch.no_grad():
        steps = (module(normalised(pictures)) - exact).abs() / step
    assert steps.max() < 1.5
    assert (steps < 0.01).double().mean() > 0.98


def test_a_network_whose_input_is_float_evaluates_on_integers_too(pictures: np.ndarray) -> None:
    shape, random = (1, 6, 5, 4), np.random.default_rng(1)
    builder = GraphBuilder("float input")
    x = builder.input("x", shape, "float32")
    weights = builder.constant("w", random.normal(size=(1, 3, 3, 4)).astype(np.float32))
    same = {"stride": (1, 1), "padding": (1, 1, 1, 1)}
    x = builder.node("depthwise_conv2d", [x, weights], shape, attrs=same, source="depthwise")
    x = builder.node("avg_pool", [x], (1, 3, 3, 4), attrs={"kernel": (3, 2), "stride": (2, 2), "padding": (1, 0, 0, 1)})
    x = builder.node("transpose", [x], (1, 3, 3, 4))
    x = builder.node("reshape", [x], (1, 36), attrs={"shape": (1, 36)})
    head = builder.constant("v", random.normal(size=(3, 36)).astype(np.float32))
    graph = builder.build([builder.node("dense", [x, head], (1, 3), source="head")])
    module = FakeQuantModule(graph, init_ranges={"x": (-2.0, 3.0)})
    values = random.normal(size=(40, *shape[1:])).astype(np.float32)
    planes = torch.from_numpy(values).permute(0, 3, 1, 2)
    module(planes)
    module.eval()
    expected = run(module.to_integer(), values, keep=[step.output for step in module.steps])
    for name, found in module.stored(planes, expected).items():
        np.testing.assert_array_equal(found.numpy(), expected[name], err_msg=name)


@given(st.data(), st.sampled_from(ROUNDINGS))
def test_requantisation_in_torch_is_the_definition(data: st.DataObject, rounding: str) -> None:
    count = data.draw(st.integers(1, 8))
    shifts = st.integers(0 if rounding == "mulhi" else -31, 30)
    integers = [st.integers(-(2**31), 2**31 - 1), st.integers(2**29, 2**31 - 1) | st.just(0), shifts]
    sums, multiplier, shift = (np.array(data.draw(st.lists(kind, min_size=count, max_size=count))) for kind in integers)
    expected = arithmetic.requantize(sums, multiplier, shift, rounding)
    tensors = [torch.from_numpy(value) for value in (sums.reshape(1, -1), multiplier, shift)]
    found = requantize_rows(*tensors, rounding)[0].int()
    np.testing.assert_array_equal(found.numpy(), expected)


def test_the_module_quantises_the_weights_that_the_graph_holds(graph: Graph, pictures: np.ndarray) -> None:
    module = trained(graph, pictures)
    integer = module.to_integer()
    layer = module.layers["stem"]
    weight, bias, scale = layer.integers(integer.quant("normalize").scalar_scale)
    node = next(node for node in integer.nodes if node.source == "stem")
    np.testing.assert_array_equal(weight.numpy().transpose(0, 2, 3, 1), integer.constants[node.inputs[1]])
    np.testing.assert_array_equal(bias.numpy(), integer.constants[node.inputs[2]])
    assert scale.tolist() == list(integer.quant(node.inputs[1]).scale)
    module.train()
    module.set_phase(False, True, True)
    kept = {}
    layer.register_forward_hook(lambda _, inputs, result: kept.update(x=inputs[0].detach(), y=result.detach()))
    module(normalised(pictures))
    real = scale.double().reshape(-1, 1, 1, 1) * weight
    sums = nn.functional.conv2d(nn.functional.pad(kept["x"].double(), (0, 1, 0, 1)), real, stride=2)
    factor = layer.gamma / torch.sqrt(layer.running_variance + layer.epsilon)
    expected = sums + (layer.beta - layer.running_mean * factor).reshape(1, -1, 1, 1)
    torch.testing.assert_close(kept["y"], expected.float(), atol=1e-4, rtol=1e-4)


def test_state_dict_holds_everything(graph: Graph, pictures: np.ndarray) -> None:
    module = trained(graph, pictures)
    other = FakeQuantModule(graph)
    other.load_state_dict(copy.deepcopy(module.state_dict()))
    other.eval()
    x = normalised(pictures)
    assert torch.equal(other(x), module(x))
    assert other.ranges() == module.ranges()


def test_gradients_stop_where_values_are_cut(graph: Graph, pictures: np.ndarray) -> None:
    module = trained(graph, pictures)
    module.train()
    module.set_phase(False, True, True)
    module(normalised(pictures)).square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    assert module.layers["stem"].weight.grad.abs().sum() > 0


def test_dead_channels_survive_training(pictures: np.ndarray) -> None:
    module = network()
    module.stem.weight.data[3] = 1e-18
    module.stem_bn.weight.data[5] = 0.0
    module.stem_bn.bias.data[3] = 2.1
    fake = trained(capture(module, (16, 16, 3)), pictures, steps=6)
    assert all(torch.isfinite(value).all() for value in fake.state_dict().values())
    assert np.isfinite(run(fake.to_integer(), pictures)["logits"]).all()


def test_refusals(graph: Graph) -> None:
    with pytest.raises(QuantizationError, match="stem"):
        FakeQuantModule(graph).to_integer()
    ranges = dict.fromkeys(FakeQuantModule(graph).names, (-1.0, 1.0))
    with pytest.raises(UnsupportedError):
        FakeQuantModule(FakeQuantModule(graph, init_ranges=ranges).to_integer())


def test_init_ranges_are_used(graph: Graph, pictures: np.ndarray) -> None:
    ranges = trained(graph, pictures).ranges()
    module = FakeQuantModule(graph, init_ranges={**ranges, "no such tensor": (0.0, 1.0)})
    assert module.ranges() == ranges
    assert module.to_integer().quant("logits").scalar_scale > 0
