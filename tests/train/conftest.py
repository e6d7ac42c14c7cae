"""A small toy set, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from millijoule.data import PreparedSet, open_prepared, open_source, prepare


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy") / "prepared"
    prepare(open_source("toy_vehicles", per_class=20, seed=7), folder, resolution=32)
    return folder


@pytest.fixture
def toy(toy_folder: Path) -> PreparedSet:
    return open_prepared(toy_folder)
