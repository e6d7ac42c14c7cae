"""The first weights of a training: random, from a file, or grown from a narrower network's file."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from millijoule.errors import WeightsError
from millijoule.nets import build, mobilenet_v2, save_weights
from millijoule.train import initial_network


def prepared() -> Any:
    return SimpleNamespace(split=lambda name: pytest.fail("no pictures are needed"))


def test_narrow_file_grows_to_the_width_asked_for(tmp_path: Path) -> None:
    narrow = build(mobilenet_v2(0.35, 32, 4), seed=5).eval()
    save_weights(narrow, tmp_path / "narrow.safetensors")
    wide, report = initial_network(
        mobilenet_v2(0.5, 32, 4), prepared(), init=tmp_path / "narrow.safetensors", init_alpha=0.35
    )
    assert report is not None and not report.skipped
    pictures = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(wide.eval()(pictures), narrow(pictures), rtol=1e-4, atol=1e-5)


def test_width_of_the_file_must_be_named(tmp_path: Path) -> None:
    save_weights(build(mobilenet_v2(0.35, 32, 4)), tmp_path / "narrow.safetensors")
    with pytest.raises(WeightsError, match=r"0\.35"):
        initial_network(mobilenet_v2(0.5, 32, 4), prepared(), init=tmp_path / "narrow.safetensors")


def test_no_file_gives_the_seeded_weights() -> None:
    spec = mobilenet_v2(0.35, 32, 4)
    network, report = initial_network(spec, prepared(), seed=9)
    assert report is None
    assert torch.equal(network.Conv1.weight, build(spec, seed=9).Conv1.weight)
