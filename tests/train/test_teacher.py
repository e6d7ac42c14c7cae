"""Teachers: several networks as one, and networks of finer classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import pytest
import torch
from typer.testing import CliRunner

from millijoule.cli import app
from millijoule.data import GivenSplits, PreparedSet, open_source, prepare
from millijoule.data.toy_vehicles import render
from millijoule.errors import DataError, OptionError
from millijoule.nets import Normalization, build, load_network, mobilenet_v2, save_weights
from millijoule.train import coarse_classes, committee

FINE = {"suv": "car", "sedan": "car", "van": "truck", "bus": "truck"}
SPEC = mobilenet_v2(alpha=0.35, resolution=32, classes=2)
Make = Callable[..., PreparedSet]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A set of the same pictures, by finer or coarser labels; every fourth picture tests, every fourth validates."""

    def made(name: str, labels: dict[str, str], shift: int = 0) -> PreparedSet:
        root, splits = tmp_path / f"{name}_photos", {}
        for seed, fine in enumerate(FINE):
            for index in range(8):
                path = root / labels[fine] / f"{fine}{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), render("suv", 10 * seed + index, resolution=32))
                split = ("train", "train", "validation", "test")[(index + shift) % 4]
                splits[f"{labels[fine]}/{path.name}"] = split
        return prepare(
            open_source("folder", root=root), tmp_path / name, resolution=32, given=GivenSplits(splits, "mine")
        )

    return made


def weights(folder: Path, name: str, classes: tuple[str, ...], seed: int) -> Path:
    torch.manual_seed(seed)
    spec = replace(SPEC, classes=len(classes))
    path = folder / f"{name}.safetensors"
    save_weights(build(spec), path, classes=classes)
    return path


def test_finer_classes_are_summed_and_opinions_averaged(tmp_path: Path, make: Make) -> None:
    coarse, fine = make("coarse", FINE), make("fine", {name: name for name in FINE})
    groups, others = coarse_classes(fine, coarse)
    assert groups == FINE and others == 0 and coarse.classes == ("car", "truck")
    first = weights(tmp_path, "first", coarse.classes, 1)
    second = weights(tmp_path, "second", fine.classes, 2)
    teacher = committee([first, second], SPEC.normalization, coarse.classes, groups).eval()
    inputs = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = torch.softmax(teacher(inputs), 1)
        own = torch.softmax(load_network(first)[0](inputs), 1)
        finer = torch.softmax(load_network(second)[0](inputs), 1)
    assert fine.classes == ("bus", "sedan", "suv", "van")
    summed = torch.stack([finer[:, 1] + finer[:, 2], finer[:, 0] + finer[:, 3]], 1)
    torch.testing.assert_close(found, (own + summed) / 2, atol=1e-5, rtol=0)


def test_one_network_with_the_same_classes_teaches_as_it_is(tmp_path: Path) -> None:
    path = weights(tmp_path, "one", ("car", "truck"), 1)
    teacher = committee([path], SPEC.normalization, ("car", "truck"))
    inputs = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(teacher(inputs), load_network(path)[0](inputs))


def test_teachers_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = weights(tmp_path, "fine", ("suv", "van"), 1)
    with pytest.raises(OptionError, match=r"class 'suv'.*--teacher-data"):
        committee([path], SPEC.normalization, ("car", "truck"))
    with pytest.raises(OptionError, match="'van'"):
        committee([path], SPEC.normalization, ("car", "truck"), {"suv": "car"})
    with pytest.raises(OptionError, match="normalisation"):
        committee([path], Normalization(1 / 255, 0.0), ("suv", "van"))


def test_a_teacher_must_not_have_seen_what_its_pupil_is_judged_by(make: Make) -> None:
    coarse = make("coarse", FINE)
    with pytest.raises(DataError, match=r"8 of its training pictures.*--split-file"):
        coarse_classes(make("fine", {name: name for name in FINE}, shift=1), coarse)


def test_several_teachers_by_the_command_line(tmp_path: Path, make: Make) -> None:
    coarse, fine = make("coarse", FINE), make("fine", {name: name for name in FINE})
    teachers = [weights(tmp_path, "first", fine.classes, 1), weights(tmp_path, "second", coarse.classes, 2)]
    arguments = [
        *("train", "--data", coarse.folder, "--out", tmp_path / "run", "--alpha", 0.35, "--epochs", 1),
        *("--batch-size", 8, "--device", "cpu", "--distillation", 1.0, "--batch-norm-pictures", 16),
        *("--teacher", teachers[0], "--teacher", teachers[1]),
    ]
    refused = CliRunner().invoke(app, [str(item) for item in arguments])
    assert refused.exit_code != 0 and "--teacher-data" in " ".join(refused.output.split())
    found = CliRunner().invoke(app, [str(item) for item in (*arguments, "--teacher-data", fine.folder)])
    assert found.exit_code == 0, found.output
    assert "4 finer classes" in " ".join(found.output.split())
    again = CliRunner().invoke(app, ["train", "--config", str(tmp_path / "run" / "config.toml")])
    assert again.exit_code == 0, again.output
