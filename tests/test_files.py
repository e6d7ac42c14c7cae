"""JSON files: the same values, lists of numbers on one line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millijoule.errors import OutputError
from millijoule.files import atomic_write_json, atomic_write_text

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
