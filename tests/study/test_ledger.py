"""Stages are done once, and again when anything they came from has changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from millijoule.study.ledger import Ledger, fingerprint


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
