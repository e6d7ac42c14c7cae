"""Statistics of batch normalisation measured anew after training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from millijoule.errors import OptionError
from millijoule.nets import Normalization
from millijoule.train import evaluate, fit
from millijoule.train._evaluate import network_input
from millijoule.train._statistics import measure_batch_norm
from train.test_fit import QUICK, Easy, small_network


def test_statistics_are_those_of_the_plain_pictures() -> None:
    network, data = small_network(), Easy().split("train")
    before = {name: value.clone() for name, value in network.named_parameters()}
    network[1].running_mean.fill_(100.0)
    measure_batch_norm(network, data, len(data.labels), normalization=Normalization(), resolution=32)
    assert not network.training and network[1].momentum == network[4].momentum == 0.1
    assert all(torch.equal(value, before[name]) for name, value in network.named_parameters())
    rows = np.asarray(data.pictures[np.arange(64)])
    with torch.no_grad():
        first = network[0](network_input(rows, Normalization(), torch.device("cpu")))
    # one batch of 64, drawn from 96 that are alike
    torch.testing.assert_close(network[1].running_mean, first.mean((0, 2, 3)), atol=0.02, rtol=0.05)
    torch.testing.assert_close(network[1].running_var, first.var((0, 2, 3)), atol=0.02, rtol=0.2)


def test_they_are_kept_where_validation_is_better_and_only_there(tmp_path: Path) -> None:
    def spoilt(module: nn.Module, epoch: int) -> None:
        module[1].momentum = 0.0  # statistics stay what they were before training
        module[4].momentum = 0.0

    options = replace(QUICK, epochs=4)
    plain = fit(small_network(), Easy(), options, tmp_path / "plain", on_epoch_start=spoilt)
    network = small_network()
    better = fit(network, Easy(), replace(options, batch_norm_pictures=96), tmp_path / "new", on_epoch_start=spoilt)
    assert better.validation_accuracy > plain.validation_accuracy
    assert better.history == plain.history or better.best_epoch == plain.best_epoch
    found = evaluate(network, Easy().split("validation"), normalization=Normalization(), resolution=32)
    stored = json.loads((tmp_path / "new" / "result.json").read_text())
    assert stored["batch_norm"] == {
        "pictures": 96,
        "kept": True,
        "validation_accuracy": better.validation_accuracy,
        "validation_loss": pytest.approx(found.loss),
        "validation_accuracy_before": plain.validation_accuracy,
    }
    assert stored["validation_accuracy"] == better.validation_accuracy
    assert torch.equal(load_file(better.weights)["1.running_mean"], network[1].running_mean)
    assert found.accuracy == better.validation_accuracy
    # the same command again finds a finished run and changes nothing
    bytes_before = better.weights.read_bytes()
    again = fit(
        small_network(), Easy(), replace(options, batch_norm_pictures=96), tmp_path / "new", on_epoch_start=spoilt
    )
    assert better.weights.read_bytes() == bytes_before and again.validation_accuracy == better.validation_accuracy
    assert json.loads((tmp_path / "plain" / "result.json").read_text())["batch_norm"] is None
    # a finished run may be measured later; its test figures are then of the measured network
    network = small_network()
    later = fit(network, Easy(), replace(options, batch_norm_pictures=96), tmp_path / "plain", on_epoch_start=spoilt)
    tensors = load_file(better.weights)
    assert all(torch.equal(value, tensors[name]) for name, value in load_file(later.weights).items())
    assert later.validation_accuracy == better.validation_accuracy
    assert later.test is not None and plain.test is not None and later.test.loss != plain.test.loss
    assert later.test.loss == pytest.approx(again.test.loss if again.test else 0.0)


def test_a_network_without_batch_normalisation_is_refused() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3))
    with pytest.raises(OptionError, match="no batch normalisation"):
        measure_batch_norm(network, Easy().split("train"), 96, normalization=Normalization(), resolution=32)
