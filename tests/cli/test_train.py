"""`millijoule train`: configuration, resuming, starting weights, refusals."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib
from typer.testing import CliRunner

from millijoule.cli import app
from millijoule.cli.train import _resolve
from millijoule.data import open_source, prepare
from millijoule.errors import OptionError
from millijoule.nets import NetworkSpec, load_network, mobilenet_v1, mobilenet_v2, resnet8, vgg16

QUICK = ["--epochs", "1", "--batch-size", "70", "--device", "cpu", "--no-augmentation"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy") / "prepared"
    prepare(open_source("toy_vehicles", per_class=12, seed=3), folder, resolution=32)
    return folder


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "first"
    arguments = ["train", "--data", str(data), "--out", str(run), "--alpha", "0.35", *QUICK]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "best epoch   1 of 1" in result.output
    assert "test         " in result.output
    return run


def invoke(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["train", *[str(argument) for argument in arguments]])
    return result.exit_code, " ".join(result.output.split())


def test_run_folder_says_everything(trained: Path) -> None:
    names = {path.name for path in trained.iterdir()}
    assert names == {"best.safetensors", "last.safetensors", "metrics.jsonl", "config.toml", "result.json"}
    config = tomllib.loads((trained / "config.toml").read_text())
    assert config["network"] == {
        "family": "mobilenet_v2",
        "alpha": 0.35,
        "dropout": 0.2,
        "bn_momentum": 0.03,
        "seed": 0,
        "resolution": 32,
    }
    assert config["train"]["learning_rate"] == 1e-4
    assert config["train"]["augmentation"] is False
    network, classes = load_network(trained / "best.safetensors")
    assert network.spec == mobilenet_v2(0.35, 32, 10)
    assert classes is not None
    assert len(classes) == 10


def test_resolved_configuration_repeats_the_run(trained: Path) -> None:
    written = (trained / "metrics.jsonl").read_text()
    code, output = invoke("--config", trained / "config.toml")
    assert code == 0, output
    assert (trained / "metrics.jsonl").read_text() == written  # it was finished: nothing is trained again


@pytest.mark.parametrize(("name", "spec"), [("resnet8", resnet8(32, 10)), ("mobilenet_v1", mobilenet_v1(0.25, 32, 10))])
def test_other_families_train_by_their_configuration(name: str, spec: NetworkSpec, data: Path, tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text(f'[network]\nfamily = "{name}"\n')
    code, output = invoke("--config", config, "--data", data, "--out", tmp_path / "run", *QUICK)
    assert code == 0, output
    network, _ = load_network(tmp_path / "run" / "best.safetensors")
    assert network.spec == spec


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('family = "resnet8"\nalpha = 0.5', "it has one width"),
        ('family = "resnet8"\ndropout = 0.5', "resnet8 does not have it"),
        ('family = "ds_cnn"', "its input is always 49x10x1"),
        ('family = "vgg19"', "autoencoder, ds_cnn"),
    ],
)
def test_options_that_a_family_does_not_have_are_refused(text: str, words: str, data: Path, tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text(f"[network]\n{text}\n")
    code, output = invoke("--config", config, "--data", data, "--out", tmp_path / "run", *QUICK)
    assert code == 2
    assert words in output
    assert not (tmp_path / "run").exists()


def test_family_by_the_command_line(data: Path, tmp_path: Path) -> None:
    arguments = ("--data", data, "--out", tmp_path / "run", "--family", "vgg16", "--alpha", 0.125)
    code, output = invoke(*arguments, *QUICK)
    assert code == 0, output
    network, _ = load_network(tmp_path / "run" / "best.safetensors")
    assert network.spec == vgg16(0.125, 32, 10)


def test_own_weights_and_a_teacher(trained: Path, data: Path, tmp_path: Path) -> None:
    weights = trained / "best.safetensors"
    code, output = invoke(
        *("--data", data, "--out", tmp_path / "student", "--alpha", 0.35, "--init", weights),
        *("--teacher", weights, "--distillation", 0.5, *QUICK),
    )
    assert code == 0, output
    assert "0 skipped" in output


def test_command_line_overrides_file_overrides_preset(tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text(
        '[run]\npreset = "modern"\ndata = "d"\nout = "o"\n[train]\nepochs = 7\nmixup = 0.1\n[network]\nalpha = 0.75\n'
    )
    settings = _resolve({"config": config, "epochs": 9, "dropout": 0.0})
    assert settings["train"]["epochs"] == 9
    assert settings["train"]["mixup"] == 0.1
    assert settings["train"]["schedule"] == "cosine"
    assert settings["network"]["alpha"] == 0.75
    assert settings["network"]["dropout"] == 0.0


@pytest.mark.parametrize(
    "text",
    ["this is not TOML", "[trian]\nepochs = 3\n", "[network]\ndepth = 3\nalpha = 1.0\n", "[run]\nspeed = 9\n"],
)
def test_wrong_configuration_is_refused(tmp_path: Path, text: str) -> None:
    config = tmp_path / "run.toml"
    config.write_text(text)
    with pytest.raises(OptionError):
        _resolve({"config": config, "data": Path("d"), "out": Path("o")})


def test_refusals_have_exit_code_2_and_leave_nothing(trained: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    weights = trained / "best.safetensors"
    for arguments in (
        ("--out", out),
        ("--data", tmp_path / "nowhere", "--out", out),
        ("--data", data, "--out", out, "--alpha", 0.5, "--init", weights),
        ("--data", data, "--out", out, "--init", tmp_path / "nothing.safetensors"),
        ("--data", data, "--out", out, "--epochs", 0),
        ("--data", data, "--out", out, "--preset", "ancient"),
        ("--data", data, "--out", out, "--config", tmp_path / "nothing.toml"),
        ("--data", data, "--out", out, "--alpha", 0.35, "--teacher", weights),
        ("--data", data, "--out", out, "--alpha", 0.35, "--teacher-data", data),
    ):
        code, output = invoke(*arguments)
        assert code == 2, output
        assert not out.exists()


@pytest.mark.slow  # by default tests/train/test_parallel.py starts two processes the same way
def test_torchrun_trains_with_two_processes(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = ["-m", "millijoule", "train", "--data", str(data), "--out", str(run), "--alpha", "0.35", *QUICK]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launch, *arguments], capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("best epoch") == 1  # one process speaks
    assert '"processes": 2' in (run / "result.json").read_text()
