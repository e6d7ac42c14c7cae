"""The fixture result, loaded from the file beside this one."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def result() -> dict[str, Any]:
    path = Path(__file__).with_name("fixture_result.py")
    spec = importlib.util.spec_from_file_location("fixture_result", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    value: dict[str, Any] = module.fixture_result()
    return value
