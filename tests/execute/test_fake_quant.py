"""The trainable executor against the integer graph it converts to."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millijoule.errors import OptionError, QuantizationError, UnsupportedError
from millijoule.execute import FakeQuantModule, float_module, run
from millijoule.graph import ROUNDINGS, WEIGHT_AXIS, Graph, GraphBuilder, arithmetic, simplify
from millijoule.graph.conversion import integer_graph
from millijoule.interchange import capture

torch = pytest.importorskip("torch")
from millijoule.execute._fake_quant_exact import requantize_rows  # noqa: E402 - after torch is known to be there
from millijoule.execute._fake_quant_functions import (  # noqa: E402
    affine_parameters,
    fake_quantize,
    fake_quantize_learned,
    fake_quantize_weights,
)

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


WAYS = [
    *({"rounding": rounding, "per_channel": per_channel} for rounding in ROUNDINGS for per_channel in (True, False)),
    {"ranges": "learned"},
    {"ranges": "learned", "per_channel": False, "weight_bits": 4},
    {"weight_bits": {"wide": 4, "head": 4}, "rounding": "mulhi"},
]


@pytest.mark.parametrize("options", WAYS, ids=str)
def test_conversion_changes_nothing(graph: Graph, pictures: np.ndarray, options: dict[str, Any]) -> None:
    module = trained(graph, pictures, **options)
    integer = module.to_integer()
    rounding = options.get("rounding", "single")
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
    layer.register_forward_hook(lambda _, inputs, result: kept.update(x=inputs[0].detach(), y=result.detach().clone()))
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


def test_learned_ranges_have_the_gradients_of_the_paper() -> None:
    random = np.random.default_rng(3)
    x, g = random.normal(0, 2, (2, 3, 4, 5)).astype(np.float32), random.normal(size=(2, 3, 4, 5)).astype(np.float32)
    ends = torch.tensor([-1.5, 2.0], dtype=torch.float64)
    scale, zero = affine_parameters(ends[:1], ends[1:])
    for layout in (torch.contiguous_format, torch.channels_last):
        low, high = (end.clone().requires_grad_() for end in ends)
        values = torch.from_numpy(x).to(memory_format=layout).requires_grad_()
        y = fake_quantize_learned(values * 1, low, high, float(scale), int(zero))
        torch.testing.assert_close(y, fake_quantize(values.detach().clone(), float(scale), int(zero)))
        y.backward(torch.from_numpy(g))
        step, below, above = 3.5 / 255, y.detach().numpy() <= -1.5 + 0.01, y.detach().numpy() >= 2.0 - 0.01
        inside = ~below & ~above
        errors = (g * (y.detach().numpy() - x) / step)[inside].sum() / 255  # d step / d high = 1 / 255
        weight = 1 / np.sqrt(255 * 3 * 4 * 5)
        np.testing.assert_array_equal(values.grad.numpy(), np.where(inside, g, 0))
        assert high.grad.item() == pytest.approx(weight * (g[above].sum() + errors), abs=1e-5)
        assert low.grad.item() == pytest.approx(weight * (g[below].sum() - errors), abs=1e-5)


def test_gradients_of_large_maps_are_sampled_evenly() -> None:
    random, ends = torch.Generator().manual_seed(0), torch.tensor([-1.0, 1.0], dtype=torch.float64)
    scale, zero = affine_parameters(ends[:1], ends[1:])
    low, high = (end.clone().requires_grad_() for end in ends)
    x = torch.randn(16, 8, 96, 128, generator=random).to(memory_format=torch.channels_last)
    y = fake_quantize_learned(x.clone().requires_grad_() * 1, low, high, float(scale), int(zero))
    y.backward(torch.ones_like(y))
    weight = 1 / np.sqrt(255 * x[0].numel())
    assert high.grad.item() == pytest.approx(weight * (x >= 1.0).sum().item(), rel=0.02)
    assert low.grad.item() == pytest.approx(weight * (x <= -1.0).sum().item(), rel=0.02)


@given(st.integers(0, 2**32 - 1), st.sampled_from([(-8, 7), (-127, 127)]))
def test_learned_steps_of_weights_have_the_gradients_of_the_paper(seed: int, limits: tuple[int, int]) -> None:
    random = np.random.default_rng(seed)
    weight, g = (torch.from_numpy(random.normal(size=(3, 2, 2, 2))).requires_grad_(k == 0) for k in range(2))
    step = torch.from_numpy(random.uniform(0.5, 1.5, 3) / limits[1]).requires_grad_()
    y = fake_quantize_weights(weight, step, *limits)
    y.backward(g)
    for channel in range(3):
        size, total = step[channel].item(), 0.0
        for w, result, up, down in zip(
            *(value[channel].detach().flatten().tolist() for value in (weight, y, g, weight.grad)), strict=True
        ):
            multiple = min(max(round(w / size), limits[0]), limits[1])
            assert result == pytest.approx(multiple * size)
            inside = limits[0] - 0.5 <= w / size <= limits[1] + 0.5
            assert down == (up if inside else 0.0)
            total += up * (multiple - w / size if inside else multiple)
        assert step.grad[channel].item() == pytest.approx(total / np.sqrt(limits[1] * 8))


def test_learned_ranges_move_and_stay_within_their_clamps(graph: Graph, pictures: np.ndarray) -> None:
    start = trained(graph, pictures, steps=4).ranges()
    module = FakeQuantModule(graph, init_ranges=start, ranges="learned")
    optimizer = torch.optim.Adam(module.parameters(), 3e-3)
    module.train()
    module.set_phase(False, True, True)
    for _ in range(8):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(normalised(pictures)), torch.arange(48) % 5).backward()
        module.high_shift.grad -= 1.0  # outwards
        optimizer.step()
    for name, (low, high) in module.ranges().items():
        assert low <= 0.0, name
        assert high > start[name][1] or start[name][1] > 5.9, (name, high, start[name])
    clamped = [step for step in module.steps if step.observed and step.clamp is not None]
    assert clamped
    for step in clamped:
        low, high = module.ranges()[step.output]
        assert (low, high) == (0.0, pytest.approx(min(6.0, high)))
    assert max(module.ranges()[step.output][1] for step in clamped) == pytest.approx(6.0)


def test_four_bit_weights_start_where_the_error_is_least(graph: Graph) -> None:
    ranges = dict.fromkeys(FakeQuantModule(graph).names, (-1.0, 1.0))
    simple = simplify(graph)
    plain = integer_graph(simple, ranges, weight_bits=4)
    module = FakeQuantModule(graph, init_ranges=ranges, weight_bits=4)
    chosen = module.to_integer()
    for node in simple.nodes:
        if node.op not in WEIGHT_AXIS:
            continue
        real, errors = simple.constants[node.inputs[1]], []
        for integer in (plain, chosen):
            name = next(found.inputs[1] for found in integer.nodes if found.output == node.output)
            quant, stored = integer.quant(name), integer.constants[name]
            assert quant.bits == 4 and stored.min() >= -8 and stored.max() <= 7
            shape = [-1 if axis == quant.axis else 1 for axis in range(stored.ndim)]
            errors.append(np.square(stored * np.reshape(quant.scale, shape) - real).sum())
        assert errors[1] <= errors[0]


def test_refusals_of_ways_to_quantise(graph: Graph) -> None:
    with pytest.raises(OptionError, match="guessed"):
        FakeQuantModule(graph, ranges="guessed")
    with pytest.raises(QuantizationError, match="3 bits"):
        FakeQuantModule(graph, weight_bits=3)
    with pytest.raises(QuantizationError, match="no layer"):
        FakeQuantModule(graph, weight_bits={"nothing": 4})
