"""A widened network computes what the narrow one computed."""

from __future__ import annotations

import pytest
import torch

from millijoule.errors import WeightsError
from millijoule.nets import build, mobilenet_v2, widen


def randomised(alpha: float) -> torch.nn.Module:
    network = build(mobilenet_v2(alpha, 64, 7), seed=3)
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)
    return network.eval()


@pytest.mark.parametrize(("small", "large"), [(0.35, 0.5), (0.35, 1.0), (0.5, 0.75)])
def test_wide_equals_narrow_and_its_copies_differ(small: float, large: float) -> None:
    narrow, wide = randomised(small), build(mobilenet_v2(large, 64, 7), seed=0).eval()
    widen(narrow, wide)
    pictures = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        expected, got = narrow(pictures), wide(pictures)
    assert (expected - got).abs().max() <= 1e-4 * expected.abs().max()
    weight = wide.block_3_expand.weight.detach()[:, :, 0, 0]
    columns = {tuple(column.tolist()) for column in weight.T}
    assert len(columns) == weight.shape[1]  # no two copies get the same gradient


def test_narrower_layers_and_other_heads_are_refused() -> None:
    with pytest.raises(WeightsError, match="would shrink"):
        widen(randomised(0.5), build(mobilenet_v2(0.35, 64, 7)))
    with pytest.raises(WeightsError, match="classes"):
        widen(randomised(0.35), build(mobilenet_v2(0.5, 64, 9)))
