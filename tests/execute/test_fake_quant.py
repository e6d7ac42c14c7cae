"""The trainable executor against the integer graph it converts to."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from millijoule.errors import QuantizationError, UnsupportedError
from millijoule.execute import FakeQuantModule, float_module, run
from millijoule.graph import Graph, simplify
from millijoule.interchange import capture

torch = pytest.importorskip("torch")
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


def trained(graph: Graph, pictures: np.ndarray, steps: int = 12) -> FakeQuantModule:
    module = FakeQuantModule(graph, averaging=0.1)
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


@pytest.mark.parametrize("rounding", ["single", "double"])
def test_conversion_changes_no_prediction(graph: Graph, pictures: np.ndarray, rounding: str) -> None:
    module = trained(graph, pictures)
    integer = module.to_integer(rounding)
    assert integer.rounding == rounding
    assert all(tensor.dtype in ("int8", "uint8") for tensor in integer.activations())
    with torch.no_grad():
        expected = module(normalised(pictures)).numpy()
    quant = integer.quant("logits")
    stored = run(integer, pictures)["logits"]
    steps = expected / quant.scalar_scale + quant.scalar_zero_point - stored
    assert np.abs(steps).max() < 1.5
    assert (np.abs(steps) < 0.01).mean() > (0.98 if rounding == "single" else 0.9)
    clear = np.sort(expected, axis=1)[:, -1] - np.sort(expected, axis=1)[:, -2] > 2 * quant.scalar_scale
    np.testing.assert_array_equal(stored.argmax(axis=1)[clear], expected.argmax(axis=1)[clear])


def test_the_module_quantises_the_weights_that_the_graph_holds(graph: Graph, pictures: np.ndarray) -> None:
    module = trained(graph, pictures)
    integer = module.to_integer()
    layer = module.layers["stem"]
    weight, bias, _ = layer._folded(torch.float64)
    weight, bias = layer._fake_quantized(weight, bias, torch.tensor(integer.quant("normalize").scalar_scale))
    node = next(node for node in integer.nodes if node.source == "stem")
    quant = integer.quant(node.inputs[1])
    stored = integer.constants[node.inputs[1]] * quant.broadcast_scale(4)
    np.testing.assert_allclose(weight.detach().numpy().transpose(0, 2, 3, 1), stored, rtol=1e-6)
    real = integer.constants[node.inputs[2]] * np.asarray(integer.quant(node.inputs[2]).scale)
    np.testing.assert_allclose(bias.detach().numpy(), real, rtol=1e-6, atol=1e-9)


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
