"""Quantisation-aware training of a small network on toy pictures, and its conversion."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from millijoule import execute
from millijoule.data import PreparedSet, open_source, prepare
from millijoule.errors import OptionError, QuantizationError
from millijoule.graph import WEIGHT_AXIS, Graph, mode, verify
from millijoule.quantize import QatOptions, QatResult, dynamic, quantization_aware_training, static
from millijoule.quantize.qat import convert, first_difference
from millijoule.train import TrainOptions

from .networks import small_network

SIZE = 32
TRAINING = TrainOptions(epochs=3, batch_size=10, learning_rate=3e-3, augmentation=None, device="cpu", seed=1)
OPTIONS = QatOptions(training=TRAINING, calibration=32, averaging=0.1, agreement_pictures=1000)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> PreparedSet:
    return prepare(open_source("toy_vehicles", per_class=10), tmp_path_factory.mktemp("toy"), resolution=SIZE)


@pytest.fixture(scope="module")
def network() -> Graph:
    return small_network(size=SIZE, classes=10)


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("from_scratch", [False, True])
def test_training_learns_and_the_integer_model_predicts_the_same(
    toy: PreparedSet, network: Graph, tmp_path: Path, from_scratch: bool
) -> None:
    result = quantization_aware_training(network, toy, OPTIONS, tmp_path, from_scratch=from_scratch)
    curve = losses(tmp_path)
    assert curve[-1] < curve[0] - 0.1
    assert {mode(result.graph, node) for node in result.graph.nodes} == {"integer"}
    validation = toy.split("validation")
    assert result.pictures == len(validation)
    assert result.disagreements == 0
    assert 0 <= result.float_sums <= len(validation)
    right = (execute.predict(result.graph, validation.pictures[:]) == validation.labels).mean()
    assert right == result.training.validation_accuracy


def test_the_trained_float_weights_come_back_as_a_graph_that_can_be_quantised_again(
    toy: PreparedSet, network: Graph, tmp_path: Path
) -> None:
    result = quantization_aware_training(network, toy, OPTIONS, tmp_path)
    assert any(node.op == "batch_norm" for node in result.float_graph.nodes)
    again = static(result.float_graph, toy.split("train").pictures[:32])
    pictures = toy.split("validation").pictures[:]
    assert (execute.predict(again, pictures) == execute.predict(result.graph, pictures)).mean() > 0.8


def test_a_finished_run_is_not_trained_again(toy: PreparedSet, network: Graph, tmp_path: Path) -> None:
    options = replace(OPTIONS, training=replace(TRAINING, epochs=1))
    first = quantization_aware_training(network, toy, options, tmp_path)
    stamp = (tmp_path / "best.safetensors").stat().st_mtime_ns
    second = quantization_aware_training(network, toy, options, tmp_path)
    assert (tmp_path / "best.safetensors").stat().st_mtime_ns == stamp
    for name, value in first.graph.constants.items():
        np.testing.assert_array_equal(second.graph.constant(name), value)


def test_distillation_takes_the_float_network_as_teacher(toy: PreparedSet, network: Graph, tmp_path: Path) -> None:
    options = replace(OPTIONS, training=replace(TRAINING, epochs=1, distillation=0.5))
    assert quantization_aware_training(network, toy, options, tmp_path).graph.history[-1].startswith("qat")
    assert (QatOptions().training.distillation, QatOptions().training.temperature) == (0.5, 2.0)


def test_from_scratch_the_labels_alone_count(toy: PreparedSet, network: Graph, tmp_path: Path) -> None:
    labels = replace(OPTIONS, training=replace(TRAINING, epochs=1, distillation=0.0))
    options = replace(OPTIONS, training=replace(TRAINING, epochs=1, distillation=0.5))
    plain = quantization_aware_training(network, toy, labels, tmp_path / "labels", from_scratch=True).graph
    found = quantization_aware_training(network, toy, options, tmp_path / "default", from_scratch=True).graph
    for name, value in found.constants.items():
        np.testing.assert_array_equal(plain.constant(name), value)


FOUR_BITS = {"expand": 4, "project": 4}


@pytest.mark.parametrize("from_scratch", [False, True])
def test_learned_ranges_and_weights_of_four_bits_convert_exactly(
    toy: PreparedSet, network: Graph, tmp_path: Path, from_scratch: bool
) -> None:
    options = replace(OPTIONS, ranges="learned", weight_bits=FOUR_BITS)
    result = quantization_aware_training(network, toy, options, tmp_path, from_scratch=from_scratch)
    curve = losses(tmp_path)
    assert curve[-1] < curve[0] - 0.1
    assert result.disagreements == 0
    for node in result.graph.nodes:
        if node.op in WEIGHT_AXIS:
            quant = result.graph.quant(node.inputs[1])
            assert quant.bits == FOUR_BITS.get(node.source, 8)
    validation = toy.split("validation")
    right = (execute.predict(result.graph, validation.pictures[:]) == validation.labels).mean()
    assert right == result.training.validation_accuracy
    assert "weights of 4 and 8 bits" in result.graph.history[-1] and "learned" in result.graph.history[-1]


@pytest.mark.parametrize("bits", [8, FOUR_BITS])
def test_training_starts_from_the_integers_of_a_static_network(
    toy: PreparedSet, network: Graph, tmp_path: Path, bits: int | dict[str, int]
) -> None:
    start = static(network, toy.split("train").pictures[:32], refine="adjust+round", weight_bits=bits)
    still = replace(OPTIONS, training=replace(TRAINING, epochs=1, learning_rate=1e-9))
    begun = quantization_aware_training(network, toy, still, tmp_path / "still", start=start).graph
    for node in start.nodes:
        if node.op in WEIGHT_AXIS:
            mine = next(other for other in begun.nodes if other.output == node.output)
            np.testing.assert_array_equal(begun.constant(mine.inputs[1]), start.constant(node.inputs[1]))
            assert begun.quant(mine.inputs[1]).bits == start.quant(node.inputs[1]).bits
            close = begun.constant(mine.inputs[2]) - start.constant(node.inputs[2]).astype(np.int64)
            assert np.abs(close).max() <= 1 + 1e-5 * np.abs(start.constant(node.inputs[2]).astype(np.int64)).max()
    result = quantization_aware_training(network, toy, OPTIONS, tmp_path / "run", start=start)
    assert losses(tmp_path / "run")[-1] < losses(tmp_path / "run")[0] - 0.1
    assert result.disagreements == 0
    with pytest.raises(OptionError, match="from scratch"):
        quantization_aware_training(network, toy, OPTIONS, tmp_path / "no", start=start, from_scratch=True)


def test_the_integers_of_another_network_are_refused(toy: PreparedSet, network: Graph, tmp_path: Path) -> None:
    other = static(small_network(size=SIZE, classes=7), toy.split("train").pictures[:8])
    with pytest.raises(QuantizationError, match="'head'"):
        quantization_aware_training(network, toy, OPTIONS, tmp_path, start=other)
    with pytest.raises(QuantizationError, match="not integer"):
        quantization_aware_training(network, toy, OPTIONS, tmp_path, start=dynamic(network, refine="none"))


class InterruptionError(Exception):
    """The interruption."""


@pytest.mark.parametrize("at", [2, 9])
def test_an_interrupted_run_with_learned_ranges_and_averaged_weights_ends_the_same(
    toy: PreparedSet, network: Graph, tmp_path: Path, at: int
) -> None:
    training = replace(TRAINING, epochs=2, ema_decay=0.9, checkpoint_steps=2, distillation=0.5)
    options = replace(OPTIONS, training=training, ranges="learned", weight_bits=4)

    def stop(what: str, done: int, total: int) -> None:
        if what.startswith("epoch") and done == at:
            raise InterruptionError

    whole = quantization_aware_training(network, toy, options, tmp_path / "whole").graph
    with pytest.raises(InterruptionError):
        quantization_aware_training(network, toy, options, tmp_path / "parts", progress=stop)
    assert (tmp_path / "parts" / "last.safetensors").exists() == (at > 2)
    parts = quantization_aware_training(network, toy, options, tmp_path / "parts").graph
    for name, value in whole.constants.items():
        np.testing.assert_array_equal(parts.constant(name), value, err_msg=name)
    for name, tensor in whole.tensors.items():
        assert parts.tensor(name) == tensor


def test_statistics_and_ranges_are_frozen_at_the_end(toy: PreparedSet, network: Graph, tmp_path: Path) -> None:
    # ranges frozen after the first epoch, statistics too: only weights move from then on
    options = replace(OPTIONS, freeze_batch_norm=0.0, freeze_ranges=0.0)
    short = replace(options, training=replace(TRAINING, epochs=1))
    after_one = quantization_aware_training(network, toy, short, tmp_path / "one").graph
    after_four = quantization_aware_training(network, toy, options, tmp_path / "four").graph
    for node in after_four.nodes:
        assert after_four.tensor(node.output).quant == after_one.tensor(node.output).quant


def test_statistics_and_ranges_are_measured_anew_at_the_end(toy: PreparedSet, network: Graph, tmp_path: Path) -> None:
    plain = quantization_aware_training(network, toy, OPTIONS, tmp_path / "plain", from_scratch=True)
    measured = replace(OPTIONS, training=replace(TRAINING, batch_norm_pictures=60))
    result = quantization_aware_training(network, toy, measured, tmp_path / "run", from_scratch=True)
    stored = json.loads((tmp_path / "run" / "result.json").read_text())["batch_norm"]
    assert stored["validation_accuracy_before"] == plain.training.validation_accuracy
    assert result.disagreements == 0
    assert stored["kept"] == (not same(result, plain))
    validation = toy.split("validation")
    right = (execute.predict(result.graph, validation.pictures[:]) == validation.labels).mean()
    assert right == result.training.validation_accuracy >= plain.training.validation_accuracy


def same(one: QatResult, other: QatResult) -> bool:
    """Whether two trainings ended with the same integers."""
    return all(np.array_equal(value, other.graph.constants[name]) for name, value in one.graph.constants.items())


def test_measured_statistics_are_those_of_the_batches(network: Graph) -> None:
    module = execute.FakeQuantModule(network)
    module.set_phase(observe=True, quantize=True, freeze_batch_norm=True)
    random = torch.Generator().manual_seed(0)
    batches = [torch.rand(4, 3, SIZE, SIZE, generator=random) * 2 - 1 for _ in range(3)]
    assert module.measure_statistics(lambda: iter(batches))
    assert not module.training and (module.observe, module.quantize, module.freeze_batch_norm) == (True, True, True)
    module.observe = False
    name = module.logits
    with torch.no_grad():
        found = [module.train().values(batch, (name,))[name] for batch in batches]
    low, high = module.ranges()[name]
    assert low == pytest.approx(float(np.mean([float(one.min()) for one in found])), abs=2 * (high - low) / 255)
    assert high == pytest.approx(float(np.mean([float(one.max()) for one in found])), abs=2 * (high - low) / 255)
    layer = module.layers[str(module.steps[0].layer)]
    assert layer.momentum == 0.03 and module.averaging == 0.01
    layer.momentum, means = 1.0, []
    module.set_phase(observe=False, quantize=True, freeze_batch_norm=False)
    wanted = layer.running_mean.clone()
    with torch.no_grad():
        for batch in batches:
            module(batch)
            means.append(layer.running_mean.clone())
    torch.testing.assert_close(wanted, torch.stack(means).mean(0), rtol=1e-3, atol=1e-4)


def module_of(network: Graph, toy: PreparedSet) -> execute.FakeQuantModule:
    import torch

    module = execute.FakeQuantModule(network)
    pictures = torch.from_numpy(toy.split("train").pictures[:32]).permute(0, 3, 1, 2).float() / 127.5 - 1
    for _ in range(2):
        module(pictures)
    return module.eval()


@pytest.mark.parametrize("layer", ["first", "depthwise", "project"])
def test_the_first_layer_that_differs_is_named(toy: PreparedSet, network: Graph, layer: str) -> None:
    module = module_of(network, toy)
    right = module.to_integer()
    pictures = toy.split("validation").pictures[:8]
    assert first_difference(module, right, pictures) == "none"
    node = next(node for node in right.nodes if node.source == layer)
    weights = right.constant(node.inputs[1]).copy()
    weights[..., 0] *= -1
    wrong = verify(replace(right, constants={**right.constants, node.inputs[1]: weights}))
    assert first_difference(module, wrong, pictures) == layer


def test_a_conversion_that_changes_predictions_is_refused(
    toy: PreparedSet, network: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = module_of(network, toy)
    right = module.to_integer()
    pictures = toy.split("validation").pictures[:]
    assert convert(module, pictures)[0].constants.keys() == right.constants.keys()
    head = next(node for node in right.nodes if node.source == "head")
    wrong = replace(right, constants={**right.constants, head.inputs[1]: -right.constant(head.inputs[1])})
    monkeypatch.setattr(module, "to_integer", lambda: wrong)
    with pytest.raises(QuantizationError, match="first layer that differs is 'head'"):
        convert(module, pictures)


def test_options_survive_json_and_refuse_nonsense() -> None:
    options = replace(OPTIONS, observer="percentile", ranges="learned", weight_bits={"first": 8, "last": 4})
    assert QatOptions.from_dict(json.loads(json.dumps(options.to_dict()))) == options
    for bad in (
        {"observer": "magic"},
        {"freeze_ranges": 2.0},
        {"averaging": 0.0},
        {"calibration": 0},
        {"rounding": "up"},
        {"ranges": "guessed"},
        {"weight_bits": 5},
        {"weight_bits": {"first": 2}},
    ):
        with pytest.raises(OptionError):
            replace(OPTIONS, **bad)
    with pytest.raises(OptionError, match="'epochs'"):
        QatOptions.from_dict({"epochs": 3})


def test_a_network_without_a_spec_has_to_be_captured_first(toy: PreparedSet, tmp_path: Path) -> None:
    import torch

    with pytest.raises(OptionError, match="no `spec`"):
        quantization_aware_training(torch.nn.Linear(2, 2), toy, OPTIONS, tmp_path)
