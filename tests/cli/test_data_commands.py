"""millijoule data: prepare, show, preview."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest
from typer.testing import CliRunner

from millijoule.cli.data import app
from millijoule.errors import DataError, OptionError

runner = CliRunner()


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("toy") / "set"
    result = runner.invoke(
        app, ["prepare", "toy_vehicles", "--out", str(folder), "--resolution", "32", "--per-class", "5", "--json"]
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["count"] == 50
    return folder


def test_show_prints_a_table_or_json(toy: Path) -> None:
    table = runner.invoke(app, ["show", str(toy)])
    assert table.exit_code == 0 and "box_truck" in table.output and "near-duplicates across splits: 0" in table.output
    value = json.loads(runner.invoke(app, ["show", str(toy), "--json"]).stdout)
    assert value["resolution"] == 32 and value["balance"]["validation"]["suv"] == 1 and "pictures" not in value


def test_preview_writes_a_sheet(toy: Path, tmp_path: Path) -> None:
    result = runner.invoke(app, ["preview", str(toy), "--out", str(tmp_path / "sheet.png"), "--per-class", "3"])
    assert result.exit_code == 0, result.output
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet.shape == (10 * (32 + 18 + 4) + 4, 3 * (32 + 4) + 4, 3)
    with pytest.raises(OptionError, match=r"\.png or \.jpg"):
        runner.invoke(app, ["preview", str(toy), "--out", str(tmp_path / "sheet.txt")], catch_exceptions=False)


def test_errors_reach_the_caller_and_nothing_is_written(tmp_path: Path) -> None:
    arguments = ["prepare", "folder", "--root", str(tmp_path / "nowhere"), "--out", str(tmp_path / "set")]
    with pytest.raises(DataError, match="there is no such folder"):
        runner.invoke(app, arguments, catch_exceptions=False)
    with pytest.raises(OptionError, match="not three numbers"):
        runner.invoke(
            app, ["prepare", "toy_vehicles", "--out", str(tmp_path), "--split", "a/b"], catch_exceptions=False
        )
    assert list(tmp_path.iterdir()) == []


def test_skipped_and_conflicting_pictures_are_shown(tmp_path: Path) -> None:
    from millijoule.data.toy_vehicles import render

    for kind in ("suv", "van"):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for index in range(5):
            picture = render(kind, index, resolution=32)
            (tmp_path / "photos" / kind / f"{index}.png").write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    (tmp_path / "photos" / "van" / "copy.png").write_bytes((tmp_path / "photos" / "suv" / "0.png").read_bytes())
    (tmp_path / "photos" / "van" / "empty.jpg").write_bytes(b"")
    arguments = ["prepare", "folder", "--root", str(tmp_path / "photos"), "--out", str(tmp_path / "set")]
    result = runner.invoke(app, [*arguments, "--resolution", "32"])
    assert result.exit_code == 0, result.output
    assert "skipped: 1" in result.output and "van/empty.jpg: the file is empty (zero bytes)" in result.output
    assert "different labels: 1" in result.output
