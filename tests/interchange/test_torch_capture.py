from __future__ import annotations

import numpy as np
import pytest

from millijoule.errors import UnsupportedError
from millijoule.execute import Executor, run
from millijoule.graph import OPERATORS, Graph, simplify
from millijoule.interchange import capture
from millijoule.nets import Normalization, build, mobilenet_v2

torch = pytest.importorskip("torch")
nn = torch.nn


def randomise(module: nn.Module) -> nn.Module:
    """Batch norm statistics as after training; without them folding would not be tested."""
    torch.manual_seed(1)
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            if child.affine:
                child.weight.data.uniform_(0.5, 1.5)
                child.bias.data.normal_(0, 0.3)
            child.running_mean.normal_(0, 0.2)
            child.running_var.uniform_(0.5, 1.5)
    return module.eval()


def compare(module: nn.Module, graph: Graph, normalization: Normalization, tolerance: float = 1e-4) -> None:
    shape = graph.tensor("picture").shape
    pictures = np.random.default_rng(0).integers(0, 256, (3, *shape[1:]), dtype=np.uint8)
    scale, offset = torch.tensor(normalization.scale), torch.tensor(normalization.offset)
    x = (torch.from_numpy(pictures).float() * scale + offset).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = module(x)
    for form in (graph, simplify(graph)):
        assert form.outputs == ("logits", "probabilities")
        assert all(node.op in OPERATORS for node in form.nodes)
        for result in (run(form, pictures), Executor(form)(pictures)):  # torch and numpy
            np.testing.assert_allclose(result["logits"], expected.numpy(), atol=tolerance)
            np.testing.assert_allclose(result["probabilities"], expected.softmax(-1).numpy(), atol=1e-5)


def test_mobilenet_v2() -> None:
    spec = mobilenet_v2(0.35, 64, 7)
    module = build(spec)
    module.train()
    graph = capture(module, spec, classes=[f"c{i}" for i in range(7)])
    assert module.training
    compare(randomise(module), capture(module, spec), spec.normalization)
    assert graph.name == "mobilenet_v2_0_35_64"
    assert len(graph.classes) == 7
    counts = {op: sum(node.op == op for node in graph.nodes) for op in OPERATORS}
    assert counts["depthwise_conv2d"] == 17
    assert counts["conv2d"] == 35
    assert counts["batch_norm"] == 52
    assert counts["add"] == 10
    assert counts["reshape"] == 0
    named = {node.source for node in graph.nodes}
    assert {"Conv1", "bn_Conv1", "block_16_depthwise", "block_1_add" if counts["add"] == 0 else "block_2_add"} <= named
    simple = simplify(graph)
    assert {node.op for node in simple.nodes} == {
        "normalize", "conv2d", "depthwise_conv2d", "add", "mean", "dense", "softmax",
    }  # fmt: skip


class Various(nn.Module):
    """Functional calls, pools, flatten before a dense layer, dilation, "same", batch norm without affine."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(2, 6, (3, 5), stride=(2, 1), padding=(1, 2)), nn.BatchNorm2d(6, affine=False), nn.ReLU()
        )
        self.same = nn.Conv2d(6, 6, 3, padding="same", dilation=2, bias=False)
        self.depthwise = nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=6)
        self.drop = nn.Dropout(0.5)
        self.hidden = nn.Linear(6 * 2 * 3, 10)
        self.head = nn.Linear(10, 4)

    def forward(self, x):
        x = self.features(x)
        x = x + nn.functional.hardtanh(self.same(x))
        x = nn.functional.avg_pool2d(x, 3, stride=1, padding=1)
        x = self.depthwise(nn.functional.pad(x, (1, 0, 2, 1))).clamp(min=-1.0)
        x = nn.functional.max_pool2d(x, 2)
        x = nn.functional.adaptive_avg_pool2d(x, (2, 3))
        x = self.drop(torch.flatten(x, 1))
        return self.head(nn.functional.relu6(self.hidden(x)))


def test_various_operators() -> None:
    module = randomise(Various())
    rule = Normalization(1 / 64, -0.5)
    graph = capture(module, (13, 24, 2), normalization=rule, name="various")
    assert graph.name == "various"
    compare(module, graph, rule)
    assert {"features.0", "features.1", "same", "hidden"} <= {node.source for node in graph.nodes}


class Keepdim(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.last = nn.Conv2d(4, 3, 1)

    def forward(self, x):
        return self.last(self.pool(self.first(x))).squeeze(-1).squeeze(-1).softmax(1)


def test_a_network_that_ends_with_its_own_softmax() -> None:
    module = Keepdim().eval()
    with pytest.raises(UnsupportedError, match="squeeze"):
        capture(module, (8, 8, 1))

    class Flat(Keepdim):
        def forward(self, x):
            return self.last(self.pool(self.first(x))).flatten(1).softmax(1)

    flat = Flat().eval()
    graph = capture(flat, (8, 8, 1))
    pictures = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), dtype=np.uint8)
    x = (torch.from_numpy(pictures).float() / 127.5 - 1).permute(0, 3, 1, 2)
    np.testing.assert_allclose(run(graph, pictures)["probabilities"], flat(x).detach().numpy(), atol=1e-5)
    assert sum(node.op == "softmax" for node in graph.nodes) == 1


class Unknown(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Tanh()
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.gate(x.mean((2, 3))))


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, groups=2)

    def forward(self, x):
        return self.conv(x).mean((2, 3))


class Branching(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))


def test_refusals_name_layer_and_operator() -> None:
    with pytest.raises(UnsupportedError, match=r"'gate' \(aten.tanh"):
        capture(Unknown(), (6, 6, 4))
    with pytest.raises(UnsupportedError, match=r"'conv'.*2 groups"):
        capture(Grouped(), (6, 6, 4))
    with pytest.raises(UnsupportedError, match="cannot trace"):
        capture(Branching(), (6, 6, 4))
    with pytest.raises(UnsupportedError, match="class names"):
        capture(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), (2, 2, 1), classes=["one"])
