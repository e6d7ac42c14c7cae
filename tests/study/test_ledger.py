"""Stages are done once, and again when anything they came from has changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from millijoule.study import ledger
from millijoule.study.ledger import Inputs, Ledger, fingerprint


class _Work:
    def __init__(self, result: dict[str, Any], file: Path | None = None) -> None:
        self.result, self.file, self.calls = result, file, 0

    def __call__(self, mark: str) -> dict[str, Any]:
        self.calls += 1
        if self.file is not None:
            self.file.write_text("x" * 10)
        return self.result


def test_a_finished_stage_is_not_done_again(tmp_path: Path) -> None:
    work = _Work({"accuracy": 90.5})
    first = Ledger(tmp_path).stage("train", "Train", {"epochs": 2}, work)
    second = Ledger(tmp_path).stage("train", "Train", {"epochs": 2}, work)
    assert work.calls == 1
    assert (first.reused, second.reused) == (False, True)
    assert second.result == {"accuracy": 90.5}


def test_other_options_are_done_anew(tmp_path: Path) -> None:
    work = _Work({})
    Ledger(tmp_path).stage("train", "Train", {"epochs": 2}, work)
    assert not Ledger(tmp_path).stage("train", "Train", {"epochs": 3}, work).reused
    assert work.calls == 2


def test_a_change_upstream_reaches_every_later_stage(tmp_path: Path) -> None:
    def run(pictures: int) -> list[bool]:
        ledger = Ledger(tmp_path)
        ledger.stage("data", "", {"pictures": pictures}, _Work({}))
        ledger.stage("train", "", {}, _Work({}), after=["data"])
        ledger.stage("report", "", {}, _Work({}), after=["train"])
        return [record.reused for record in ledger.records.values()]

    assert run(1) == [False] * 3
    assert run(1) == [True] * 3
    assert run(2) == [False] * 3


@pytest.mark.parametrize("damage", ["remove", "shorten"])
def test_a_missing_or_changed_file_is_made_again(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "model.mj"
    work = _Work({}, file)
    Ledger(tmp_path).stage("float", "", {}, work, files=[file])
    if damage == "remove":
        file.unlink()
    else:
        file.write_text("x")
    assert not Ledger(tmp_path).stage("float", "", {}, work, files=[file]).reused
    assert file.read_text() == "x" * 10


def test_an_interrupted_stage_leaves_no_result(tmp_path: Path) -> None:
    def interrupted(_mark: str) -> dict[str, Any]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Ledger(tmp_path).stage("train", "", {}, interrupted)
    assert not Ledger(tmp_path).up_to_date("train", {}, [], [])


def test_a_damaged_result_is_done_again(tmp_path: Path) -> None:
    work = _Work({"a": 1})
    Ledger(tmp_path).stage("data", "", {}, work)
    path = tmp_path / "stages" / "data.json"
    path.write_text(path.read_text()[:20])
    assert Ledger(tmp_path).stage("data", "", {}, work).result == {"a": 1}
    assert work.calls == 2
    json.loads(path.read_text())


def test_fingerprint_depends_on_everything_but_the_order_of_upstream() -> None:
    assert fingerprint("a", {"x": 1}, ["p", "q"]) == fingerprint("a", {"x": 1}, ["q", "p"])
    others = {fingerprint("b", {"x": 1}, ["p"]), fingerprint("a", {"x": 2}, ["p"]), fingerprint("a", {"x": 1}, ["q"])}
    assert len(others | {fingerprint("a", {"x": 1}, ["p"])}) == 4


# *** options that came later *****


def _again(folder: Path, values: dict[str, Any], defaults: dict[str, Any], **more: Any) -> bool:
    """Whether a stage with these inputs is reused."""
    return Ledger(folder).up_to_date("train", Inputs(values, defaults, **more), [], [])


def test_a_new_option_counts_only_when_it_is_used(tmp_path: Path) -> None:
    then = {"train": {"epochs": 2, "change": {"flip": True}}, "seed": 1}
    Ledger(tmp_path).stage("train", "", then, _Work({}))
    new = {"train": {"epochs": 2, "change": {"flip": True, "zoom": 0.0}, "mixup": 0.0}, "seed": 1}
    defaults = {"train": {"epochs": 150, "change": {"flip": False, "zoom": 0.0}, "mixup": 0.0}}
    assert _again(tmp_path, new, defaults)
    assert not _again(tmp_path, {**new, "train": {**new["train"], "mixup": 0.2}}, defaults)
    change = {"flip": True, "zoom": 0.1}
    assert not _again(tmp_path, {**new, "train": {**new["train"], "change": change}}, defaults)
    assert not _again(tmp_path, new, {}), "without a default nobody knows what was done"
    assert not _again(tmp_path, {**new, "device": "cpu"}, defaults)


def test_other_values_and_other_defaults_count(tmp_path: Path) -> None:
    Ledger(tmp_path).stage("train", "", Inputs({"train": {"epochs": 150}}, {"train": {"epochs": 150}}), _Work({}))
    assert _again(tmp_path, {"train": {"epochs": 150}}, {"train": {"epochs": 40}})
    assert not _again(tmp_path, {"train": {"epochs": 40}}, {"train": {"epochs": 40}}), "the default has changed"
    assert not _again(tmp_path, {"train": {}}, {"train": {}}), "the option has gone"
    assert not _again(tmp_path, {"train": {"epochs": None}}, {})
    assert not _again(tmp_path, {"train": False}, {})


def test_a_reused_stage_keeps_its_fingerprint_for_those_behind_it(tmp_path: Path) -> None:
    def run(train: Inputs) -> list[bool]:
        found = Ledger(tmp_path)
        found.stage("train", "", train, _Work({}))
        found.stage("float", "", {}, _Work({}), after=["train"])
        return [record.reused for record in found.records.values()]

    assert run(Inputs({"train": {"epochs": 2}})) == [False, False]
    newer = Inputs({"train": {"epochs": 2, "mixup": 0.0}}, {"train": {"mixup": 0.0}})
    assert run(newer) == [True, True] == run(newer)
    assert run(Inputs({"train": {"epochs": 3}})) == [False, False]


@pytest.mark.parametrize("name", ["LEDGER_VERSION", "__version__"])
def test_another_version_does_everything_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    Ledger(tmp_path).stage("train", "", {}, _Work({}))
    assert _again(tmp_path, {}, {})
    monkeypatch.setattr(ledger, name, "another")
    assert not _again(tmp_path, {}, {})


def test_files_with_a_hash_only_are_read_and_then_say_more(tmp_path: Path) -> None:
    old = {"train": {"epochs": 2}, "init": ["w.safetensors", 10, 123]}
    marks = [fingerprint("data", {"key": "k"}, [])]
    marks.append(fingerprint("train", old, marks))
    (tmp_path / "stages").mkdir()
    for name, mark in zip(("data", "train"), marks, strict=True):
        value = {"stage": name, "fingerprint": mark, "seconds": 1.5, "files": {}, "result": {"x": name}}
        (tmp_path / "stages" / f"{name}.json").write_text(json.dumps(value))

    def run(values: dict[str, Any], defaults: dict[str, Any], hashed: dict[str, Any] | None) -> list[bool]:
        found = Ledger(tmp_path)
        found.stage("data", "", {"key": "k"}, _Work({}))
        found.stage("train", "", Inputs(values, defaults, hashed), _Work({}), after=["data"])
        return [record.reused for record in found.records.values()]

    now = {"train": {"epochs": 2}, "init": "hash of the bytes"}
    assert not Ledger(tmp_path).up_to_date("train", Inputs(now, hashed={**old, "init": []}), [], [])
    assert run(now, {}, old) == [True, True]
    # the file's time has changed, and there is a new option; its bytes and all other options are the same
    newer = {**now, "train": {"epochs": 2, "mixup": 0.0}}
    assert run(newer, {"train": {"mixup": 0.0}}, {**old, "init": ["w.safetensors", 10, 456]}) == [True, True]
    assert run({**now, "init": "another"}, {}, old) == [True, False]
