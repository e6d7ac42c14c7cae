"""`millijoule export`, end to end on a small model."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from millijoule.cli.deploy import app as deploy
from millijoule.cli.export import app
from millijoule.errors import BoardError, OptionError, OutputError, PlacementError
from millijoule.graph import save_graph

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from exported import needs
from networks import random_network

pytestmark = needs("zig", "emulator")


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "small.mj"
    save_graph(random_network(["conv"], 7), path)
    return str(path)


def call(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize(
    ("kind", "file", "word"),
    [
        ("make", "Makefile", "make -C"),
        ("cmake", "CMakePresets.json", "--preset gcc"),
        ("cubeide", ".cproject", "Import"),
        ("zephyr", "prj.conf", "west build"),
        ("arduino", "library.properties", "sketchbook"),
    ],
)
def test_every_format_is_written_and_says_what_comes_next(
    model: str, kind: str, file: str, word: str, tmp_path: Path
) -> None:
    out = call(model, str(tmp_path / "out"), "--board", "stm32h7b3i", "--format", kind)
    assert (tmp_path / "out" / file).is_file()
    assert "README.md" in out and word in out and str(tmp_path / "out") in out


def test_deploy_export_is_the_same(model: str, tmp_path: Path) -> None:
    call(model, str(tmp_path / "a"))
    done = CliRunner().invoke(deploy, ["export", model, "--out", str(tmp_path / "b")], catch_exceptions=False)
    assert done.exit_code == 0
    first, second = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "a", tmp_path / "b")
    )
    assert first == second and Path("firmware.bin") in first


def test_refusals_leave_nothing(model: str, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    with pytest.raises(OptionError, match="'keil'"):
        call(model, out, "--format", "keil")
    with pytest.raises(BoardError):
        call(model, out, "--board", "stm32f0")
    with pytest.raises(OptionError, match="compiler"):
        call(model, out, "--compiler", "armcc")
    with pytest.raises(OptionError, match="for a board"):
        call(model, out, "--board", "host")
    big = tmp_path / "big.mj"
    save_graph(random_network(["conv"], 1, size=(600, 700, 3)), big)
    with pytest.raises(PlacementError):
        call(str(big), out)
    with pytest.raises(OutputError, match="other files"):
        call(model, str(tmp_path), "--overwrite")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["big.mj", "small.mj"]
