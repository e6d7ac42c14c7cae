"""The loop: it learns, keeps the best epoch, touches the test split once, and every option does what it says."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from millijoule.data import PreparedSet, batches
from millijoule.errors import CheckpointError, OptionError, OutputError
from millijoule.nets import Normalization, build, load_network, mobilenet_v2
from millijoule.train import TrainOptions, evaluate, fit, network_input, wilson_interval
from millijoule.train._parallel import SynchronisedBatchNorm2d
from millijoule.train._recipe import follow, seed_step, training_loss

QUICK = TrainOptions(epochs=2, batch_size=20, learning_rate=1e-2, augmentation=None, device="cpu")


def small_network(dropout: float = 0.0) -> nn.Sequential:
    """Not one of ours on purpose: `fit` takes any module."""
    state = torch.get_rng_state()
    torch.manual_seed(3)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU6(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(16, 10),
    )
    torch.set_rng_state(state)
    return network


class Easy:
    """A set whose classes are colours; the same protocol as a prepared set."""

    classes = ("red", "green", "blue")
    resolution = 32

    def __init__(self) -> None:
        self.asked: list[str] = []

    def split(self, name: str) -> Any:
        self.asked.append(name)
        count = {"train": 96, "validation": 30, "test": 30}[name]
        random = np.random.default_rng(len(name))
        labels = random.integers(0, 3, count)
        pictures = random.integers(0, 100, (count, 32, 32, 3)).astype(np.uint8)
        pictures[np.arange(count), :, :, labels] += 100

        class Split(SimpleNamespace):
            def __len__(self) -> int:
                return count

        return Split(pictures=pictures, labels=labels.astype(np.int64))


def test_learns_and_keeps_the_best_epoch(tmp_path: Path) -> None:
    prepared, network = Easy(), small_network()
    options = TrainOptions(epochs=8, batch_size=16, learning_rate=1e-2, augmentation=None)
    news: list[tuple[str, int, int]] = []
    result = fit(network, prepared, options, tmp_path / "run", progress=lambda *step: news.append(step))
    assert result.validation_accuracy == max(line["validation_accuracy"] for line in result.history)
    assert result.validation_accuracy >= 0.9
    assert result.test is not None
    assert result.test.accuracy >= 0.9
    assert prepared.asked.count("test") == 1
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, 9))
    assert lines == list(result.history)
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert [done for _, done, _ in news] == list(range(1, 49))
    assert all(total == 48 for _, _, total in news)
    assert "epoch 8/8" in news[-1][0]
    # the module is left as the best epoch, ready to use
    assert not network.training
    stored = load_file(result.weights)
    assert all(torch.equal(stored[name], value) for name, value in network.state_dict().items())
    again = evaluate(network, prepared.split("validation"))
    assert again.accuracy == result.validation_accuracy


def test_finished_run_is_read_back_without_touching_the_test_split(tmp_path: Path) -> None:
    prepared = Easy()
    first = fit(small_network(), prepared, QUICK, tmp_path)
    prepared.asked.clear()
    network = small_network()
    second = fit(network, prepared, QUICK, tmp_path)
    assert "test" not in prepared.asked
    assert first.test is not None
    assert second.test is not None
    assert np.array_equal(second.test.predictions, first.test.predictions)
    assert (second.best_epoch, second.history) == (first.best_epoch, first.history)
    fit(network, prepared, QUICK, tmp_path, fresh=True)
    assert "test" in prepared.asked


def test_our_network_on_the_toy_set(toy: PreparedSet, tmp_path: Path) -> None:
    spec = mobilenet_v2(0.35, 32, 10)
    options = TrainOptions.modern(epochs=1, batch_size=20, warmup_epochs=0.5, mixup=0.2, device="cpu")
    network = build(spec)
    initial = network.Conv1.weight.detach().clone()
    result = fit(network, toy, options, tmp_path)
    loaded, classes = load_network(result.weights)
    assert classes == toy.classes
    assert loaded.spec == spec
    assert not torch.equal(loaded.Conv1.weight, initial)
    assert result.test is not None
    assert result.test.count == len(toy.split("test"))


def test_steps_depend_on_seed_epoch_step_and_rank_only() -> None:
    options = TrainOptions(mixup=0.4)
    draws = {}
    for epoch, step, rank in [(0, 0, 0), (0, 1, 0), (1, 0, 0), (0, 0, 1)]:
        share = seed_step(options, epoch, step, rank)
        draws[epoch, step, rank] = (share, torch.rand(1).item())
    torch.rand(7)
    assert (seed_step(options, 0, 1, 0), torch.rand(1).item()) == draws[0, 1, 0]
    assert len({noise for _, noise in draws.values()}) == 4
    assert draws[0, 0, 0][0] == draws[0, 0, 1][0]  # processes mix by the same share
    assert seed_step(TrainOptions(), 0, 0, 0) == 1.0


def test_distillation_follows_the_teacher() -> None:
    options = TrainOptions(distillation=1.0, temperature=2.0)
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).eval()
    inputs = torch.rand(4, 3, 2, 2)
    taught = teacher(inputs)
    target = torch.zeros(4, dtype=torch.int64)
    same = training_loss(taught.detach(), inputs, target, 1.0, options, teacher, False)
    other = training_loss(-taught.detach(), inputs, target, 1.0, options, teacher, False)
    assert same.abs() < 1e-6 < other
    by_hand = (
        torch.softmax(taught / 2, 1) * (torch.log_softmax(taught / 2, 1) - torch.log_softmax(-taught / 2, 1))
    ).sum(1)
    assert torch.allclose(other, 4 * by_hand.mean(), atol=1e-6)


def test_mixup_mixes_both_targets() -> None:
    logits, target = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
    loss = training_loss(logits, logits, target, 0.75, TrainOptions(mixup=1.0), None, False)
    entropy = nn.functional.cross_entropy
    assert torch.allclose(loss, 0.75 * entropy(logits, target) + 0.25 * entropy(logits, torch.tensor([1, 0])))


def test_average_of_weights() -> None:
    average, module = nn.Linear(1, 1), nn.Linear(1, 1)
    average.weight.data.fill_(0.0)
    module.weight.data.fill_(1.0)
    follow(average, module, 0.9, 0)  # early: decay (1 + 0) / (10 + 0)
    assert average.weight.item() == pytest.approx(0.9)
    follow(average, module, 0.9, 10_000)
    assert average.weight.item() == pytest.approx(0.91)


def test_averaged_weights_are_what_is_judged_and_kept(tmp_path: Path) -> None:
    options = TrainOptions(epochs=1, batch_size=16, learning_rate=1e-2, ema_decay=0.5, augmentation=None)
    result = fit(small_network(), Easy(), options, tmp_path)
    best, last = load_file(result.weights), load_file(tmp_path / "last.safetensors")
    assert torch.equal(best["0.weight"], last["average.0.weight"])
    assert not torch.equal(best["0.weight"], last["model.0.weight"])


def test_hook_runs_before_each_epoch_in_training_mode(tmp_path: Path) -> None:
    seen: list[int] = []

    def freeze(module: nn.Module, epoch: int) -> None:
        assert module.training
        seen.append(epoch)
        if epoch >= 1:
            module[1].eval()

    network = small_network()
    statistics: list[torch.Tensor] = []

    def freeze_and_look(module: nn.Module, epoch: int) -> None:
        freeze(module, epoch)
        statistics.append(module[1].running_mean.clone())

    fit(
        network,
        Easy(),
        TrainOptions(epochs=3, batch_size=16, augmentation=None),
        tmp_path,
        on_epoch_start=freeze_and_look,
    )
    assert seen == [0, 1, 2]
    assert not torch.equal(statistics[0], statistics[1])
    assert torch.equal(statistics[1], statistics[2])


def test_smaller_pictures_first(tmp_path: Path, toy: PreparedSet) -> None:
    options = TrainOptions(epochs=2, batch_size=70, resolutions=((0.0, 32), (0.5, 64)), augmentation=None)
    sizes: list[int] = []
    network = build(mobilenet_v2(0.35, 64, 10))
    network.register_forward_pre_hook(lambda _, arguments: sizes.append(arguments[0].shape[2]))
    result = fit(network, toy, options, tmp_path, test=False)
    steps = len(toy.split("train")) // 70
    assert sizes[:steps] == [32] * steps
    assert set(sizes[steps:]) == {64}
    assert [line["resolution"] for line in result.history] == [32, 64]
    assert result.test is None
    odd = TrainOptions(epochs=2, batch_size=20, resolutions=((0.0, 40),))
    with pytest.raises(OptionError, match="multiples of 32"):
        fit(build(mobilenet_v2(0.35, 64, 10)), toy, odd, tmp_path / "odd")
    with pytest.raises(OptionError, match="does not say"):
        fit(small_network(), toy, odd, tmp_path / "odd")


def test_normalization_is_the_specifications() -> None:
    pictures = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    got = network_input(pictures, Normalization(), torch.device("cpu"))
    assert got.shape == (2, 3, 4, 4)
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(got, torch.from_numpy(pictures.transpose(0, 3, 1, 2)) / 127.5 - 1)


def test_evaluation_counts_every_picture_in_order(toy: PreparedSet) -> None:
    network = small_network().train()
    split = toy.split("validation")
    whole = evaluate(network, split, batch_size=1000)
    parts = evaluate(network, split, batch_size=7)
    assert network.training
    assert whole.count == len(split)
    assert np.array_equal(whole.predictions, parts.predictions)
    assert whole.correct == int((whole.predictions == split.labels).sum())
    assert whole.loss == pytest.approx(parts.loss, rel=1e-5)


def test_wilson_interval_against_published_values() -> None:
    low, high = wilson_interval(765, 929)  # 82.35 %, 79.8 to 84.7
    assert (round(low, 3), round(high, 3)) == (0.798, 0.847)
    assert wilson_interval(0, 10)[0] == 0.0
    assert wilson_interval(10, 10)[1] == pytest.approx(1.0)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_what_cannot_work_is_refused(tmp_path: Path) -> None:
    prepared = Easy()
    for change, word in (
        ({"batch_size": 97}, "only 96 pictures"),
        ({"distillation": 0.5}, "no teacher"),
    ):
        with pytest.raises(OptionError, match=word):
            fit(small_network(), prepared, TrainOptions(augmentation=None, **change), tmp_path)  # type: ignore[arg-type]
    if not torch.cuda.is_available():
        with pytest.raises(OptionError, match="no GPU"):
            fit(small_network(), prepared, TrainOptions(device="cuda"), tmp_path)
    frozen = small_network().requires_grad_(False)
    with pytest.raises(OptionError, match="no trainable"):
        fit(frozen, prepared, QUICK, tmp_path)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError):
        fit(small_network(), prepared, QUICK, tmp_path / "file" / "run")


def test_loss_that_explodes_is_named_and_leaves_no_checkpoint(tmp_path: Path) -> None:
    network = small_network()
    with torch.no_grad():
        network[0].weight.fill_(float("nan"))
    with pytest.raises(OptionError, match="no longer finite in epoch 1"):
        fit(network, Easy(), QUICK, tmp_path)
    assert not (tmp_path / "last.safetensors").exists()


def test_other_options_or_another_network_are_refused(tmp_path: Path) -> None:
    prepared = Easy()
    fit(small_network(), prepared, QUICK, tmp_path)
    other = TrainOptions(epochs=2, batch_size=20, learning_rate=1e-3, augmentation=None, device="cpu")
    with pytest.raises(CheckpointError, match=r"learning_rate was 0\.01, is 0\.001.*--fresh"):
        fit(small_network(), prepared, other, tmp_path)
    with pytest.raises(CheckpointError, match="belongs to another network"):
        fit(nn.Sequential(nn.Flatten(), nn.Linear(3072, 3)), prepared, QUICK, tmp_path)
    longer = TrainOptions(epochs=3, batch_size=20, learning_rate=1e-2, augmentation=None, device="cpu")
    assert len(fit(small_network(), prepared, longer, tmp_path).history) == 3  # a constant rate may go on


@pytest.mark.parametrize("content", [b"", b"\x08", b"not a checkpoint at all", b"\xff" * 200])
def test_damaged_checkpoint_is_refused_and_untouched(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "last.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="--fresh"):
        fit(small_network(), Easy(), QUICK, tmp_path)
    assert (tmp_path / "last.safetensors").read_bytes() == content


def test_batches_protocol_of_the_data_room(toy: PreparedSet, tmp_path: Path) -> None:
    calls: list[dict[str, Any]] = []

    def spy(split: Any, batch_size: int, **options: Any) -> Any:
        calls.append(options)
        return batches(split, batch_size, **options)

    fit(small_network(), toy, QUICK, tmp_path, batches=spy, test=False)
    training = [call for call in calls if call["shuffle"]]
    assert [(call["epoch"], call["rank"], call["world"], call["drop_last"]) for call in training] == [
        (0, 0, 1, True),
        (1, 0, 1, True),
    ]


def test_alone_the_synchronised_normalisation_is_the_plain_one() -> None:
    plain, shared = nn.BatchNorm2d(4), SynchronisedBatchNorm2d(4)
    features = torch.rand(3, 4, 5, 5)
    assert torch.equal(plain(features), shared(features))
    assert torch.equal(plain.running_var, shared.running_var)
