"""JSON files: the same values, lists of numbers on one line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millijoule.errors import OutputError
from millijoule.files import atomic_write_json, atomic_write_text, check_output

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text('[]1,\n" e-')
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text("a[1]\n"), inner), max_leaves=30)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values)
def test_any_value_comes_back(tmp_path: Path, value: object) -> None:
    atomic_write_json(tmp_path / "value.json", value)
    assert json.loads((tmp_path / "value.json").read_text(encoding="utf-8")) == value


def test_numbers_share_a_line(tmp_path: Path) -> None:
    atomic_write_json(tmp_path / "v.json", {"a": [1, -2.5, 1e-9], "b": [[1, 2], []], "c": ["1", 2]})
    lines = (tmp_path / "v.json").read_text(encoding="utf-8").splitlines()
    assert '  "a": [1, -2.5, 1e-09],' in lines and "    [1, 2]," in lines and "    2" in lines


def test_a_pipe_or_a_device_is_refused_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OutputError, match="a device or a pipe"):
        atomic_write_text(pipe, "x")
    assert pipe.is_fifo() and list(tmp_path.iterdir()) == [pipe]


def test_a_place_is_checked_before_the_work_and_left_as_it_was(tmp_path: Path) -> None:
    pipe, there = tmp_path / "pipe", tmp_path / "there.mj"
    os.mkfifo(pipe)
    there.write_text("x")
    check_output(there)
    check_output(tmp_path / "new" / "model.mj")
    assert there.read_text() == "x" and not list((tmp_path / "new").iterdir())
    for wrong, why in (
        (pipe, "a device or a pipe"),
        (tmp_path, "it is a folder"),
        (there / "model.mj", "cannot be written"),
        (Path("/dev/full"), "a device or a pipe"),
    ):
        with pytest.raises(OutputError, match=why):
            check_output(wrong)
    assert {path.name for path in tmp_path.iterdir()} == {"pipe", "there.mj", "new"}
