"""A run that is killed, interrupted or out of disk space goes on as if nothing had happened."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from millijoule.data import PreparedSet, open_prepared
from millijoule.errors import CheckpointError
from millijoule.train import TrainOptions, fit

WORKER = Path(__file__).with_name("worker.py")
OPTIONS = {"epochs": 3, "batch_size": 20, "learning_rate": 0.01, "schedule": "cosine", "ema_decay": 0.9, "mixup": 0.2}
STEPS = 7  # 140 training pictures by 20


def run_worker(prepared: Path, run: Path, options: dict[str, object], kill_at: int = 0) -> int:
    command = [sys.executable, str(WORKER), str(prepared), str(run), json.dumps(options), str(run) + ".json"]
    return subprocess.run([*command, str(kill_at)], timeout=600).returncode


def same_files(one: Path, two: Path) -> bool:
    for name in ("last.safetensors", "best.safetensors"):
        left, right = load_file(one / name), load_file(two / name)
        if left.keys() != right.keys() or not all(torch.equal(left[key], right[key]) for key in left):
            return False
    return True


@pytest.fixture(scope="module")
def uninterrupted(toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert run_worker(toy_folder, run, OPTIONS) == 0
    return run


@pytest.mark.parametrize(
    ("kill_at", "checkpoint_steps", "epochs_kept", "steps_kept"),
    [
        (2 * STEPS + 6, 4, 2, 2),  # the last checkpoint is inside the third epoch, at step 16
        # in the second epoch and before the first checkpoint; by default interrupted there in the test below
        pytest.param(STEPS + 4, 0, 1, 0, marks=pytest.mark.slow),
        pytest.param(3, 0, 0, 0, marks=pytest.mark.slow),
    ],
)
def test_killed_run_ends_with_the_same_bits(
    uninterrupted: Path,
    toy_folder: Path,
    tmp_path: Path,
    kill_at: int,
    checkpoint_steps: int,
    epochs_kept: int,
    steps_kept: int,
) -> None:
    run = tmp_path / "run"
    options = OPTIONS | {"checkpoint_steps": checkpoint_steps}
    assert run_worker(toy_folder, run, options, kill_at) == -signal.SIGKILL
    assert (run / "last.safetensors").exists() == (epochs_kept + steps_kept > 0)
    assert len((run / "metrics.jsonl").read_text().splitlines()) == epochs_kept
    with (run / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"epoch": 99}\n')  # a line newer than the checkpoint must go
    assert run_worker(toy_folder, run, options) == 0
    assert same_files(uninterrupted, run)
    assert json.loads(Path(f"{run}.json").read_text()) == json.loads(Path(f"{uninterrupted}.json").read_text())
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 3
    assert not [path for path in run.iterdir() if path.name.endswith(".partial")]


def options_here(**changes: object) -> TrainOptions:
    return TrainOptions.from_dict({"epochs": 2, "batch_size": 20, "learning_rate": 0.01, **changes})


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.ReLU6(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(256, 10))


@pytest.mark.parametrize("at", [3, STEPS, STEPS + 2])
def test_interrupt_then_resume_is_the_same_run(toy: PreparedSet, tmp_path: Path, at: int) -> None:
    whole, broken = network(), network()
    fit(whole, toy, options_here(), tmp_path / "whole")

    def interrupt(_: str, done: int, __: int) -> None:
        if done == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(broken, toy, options_here(), tmp_path / "broken", progress=interrupt)
    assert not [path for path in (tmp_path / "broken").iterdir() if path.name.endswith(".partial")]
    resumed = network()
    fit(resumed, toy, options_here(), tmp_path / "broken")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_full_disk_during_a_checkpoint_keeps_the_old_one(toy: PreparedSet, toy_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    fit(network(), toy, options_here(epochs=1), run, test=False)
    before = (run / "last.safetensors").read_bytes()
    script = (
        "import resource, sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "import test_interruption as here\n"
        "from millijoule.data import open_prepared\n"
        "from millijoule.train import fit\n"
        "prepared = open_prepared(Path(sys.argv[2]))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "try:\n    fit(here.network(), prepared, here.options_here(), Path(sys.argv[3]))\n"
        "except here.CheckpointError as error:\n    print(error)\n"
    )
    command = [sys.executable, "-c", script, str(WORKER.parent), str(toy_folder), str(run)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "last.safetensors: the checkpoint after epoch 2" in done.stdout
    assert "previous checkpoint is intact" in done.stdout
    assert (run / "last.safetensors").read_bytes() == before
    assert not [path for path in run.iterdir() if path.name.endswith(".partial")]
    resumed, whole = network(), network()
    fit(resumed, toy, options_here(), run)
    fit(whole, toy, options_here(), tmp_path / "whole")
    assert all(
        torch.equal(a, b) for a, b in zip(resumed.state_dict().values(), whole.state_dict().values(), strict=True)
    )


def test_checkpoint_that_cannot_be_written_says_so(toy: PreparedSet, tmp_path: Path) -> None:
    run = tmp_path / "run"

    def block(_: str, done: int, __: int) -> None:
        if done == 2:
            (run / "last.safetensors").mkdir()  # a folder cannot be replaced by a file

    with pytest.raises(CheckpointError, match=r"the checkpoint after epoch 1, step 0 cannot be written"):
        fit(network(), toy, options_here(), run, progress=block)


def test_prepared_fixture_has_the_steps_the_tests_count_on(toy_folder: Path) -> None:
    assert len(open_prepared(toy_folder).split("train")) // 20 == STEPS
