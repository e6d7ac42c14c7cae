"""Splits from a file or a column: kept exactly, validation drawn when missing, refusals that name the fault."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest
from typer.testing import CliRunner

from millijoule.cli import app
from millijoule.data import GivenSplits, open_prepared, open_source, prepare, read_splits
from millijoule.data.toy_vehicles import render
from millijoule.errors import DataError, OptionError

NAMES = [f"{kind}/{index:02d}.png" for kind in ("suv", "van") for index in range(10)]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for name in NAMES:
        kind, number = name.removesuffix(".png").split("/")
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), render(kind, int(number), resolution=32))
    return root


def by_name(folder: Path) -> dict[str, str]:
    return {picture.name: picture.split for picture in open_prepared(folder).manifest.pictures}


@pytest.mark.parametrize("form", ["json", "csv"])
def test_a_file_of_splits_is_followed_to_the_letter(photos: Path, tmp_path: Path, form: str) -> None:
    wanted = {name: ("test", "train", "val")[index % 3] for index, name in enumerate(NAMES[:-2])}
    path = tmp_path / f"splits.{form}"
    if form == "json":
        path.write_text(json.dumps({key: [n for n in wanted if wanted[n] == key] for key in ("test", "train", "val")}))
    else:
        path.write_text("name,split\n" + "".join(f"{name},{split}\n" for name, split in wanted.items()))
    out = tmp_path / "set"
    arguments = ["data", "prepare", "folder", "--root", str(photos), "--out", str(out), "--resolution", "32"]
    result = CliRunner().invoke(app, [*arguments, "--split-file", str(path), "--json"])
    assert result.exit_code == 0, result.output
    found = by_name(out)
    assert found == {name: split.replace("val", "validation") for name, split in wanted.items()}
    record = open_prepared(out).manifest.source["splits"]
    assert record["left_out"] == 2 and record["origin"] == path.name and not record["validation_drawn_from_train"]
    shown = CliRunner().invoke(app, ["data", "show", str(out)])
    assert "left out: 2" in shown.output and path.name in shown.output


def test_validation_is_drawn_from_train_by_content_and_test_stays(photos: Path, tmp_path: Path) -> None:
    given = GivenSplits({name: "test" if name.endswith("9.png") else "train" for name in NAMES}, "mine")
    first = prepare(open_source("folder", root=photos), tmp_path / "a", resolution=32, given=given)
    assert first.manifest.counts()["test"] == {"suv": 1, "van": 1}
    assert first.manifest.counts()["validation"] == {"suv": 2, "van": 2}  # 0.2 / (0.7 + 0.2) of nine pictures
    assert first.manifest.source["splits"]["validation_drawn_from_train"]
    again = prepare(open_source("folder", root=photos), tmp_path / "b", resolution=32, given=given)
    assert by_name(again.folder) == by_name(first.folder)


def test_other_splits_make_another_set(photos: Path, tmp_path: Path) -> None:
    source = open_source("folder", root=photos)
    plain = prepare(source, tmp_path / "set", resolution=32)
    splits = {name: "test" if name.startswith("van") else "train" for name in NAMES}
    given = prepare(source, tmp_path / "set", resolution=32, given=GivenSplits(splits, "mine"))
    assert given.manifest.key != plain.manifest.key
    assert given.manifest.source["splits"]["classes_without_training_pictures"] == ["van"]
    assert given.manifest.counts()["test"] == {"suv": 0, "van": 10}


def test_equal_pictures_across_given_splits_are_counted(photos: Path, tmp_path: Path) -> None:
    (photos / "suv" / "copy.png").write_bytes((photos / "suv" / "00.png").read_bytes())
    splits = {name: "train" if index % 2 else "test" for index, name in enumerate(NAMES)}
    splits["suv/copy.png"] = "train"
    made = prepare(
        open_source("folder", root=photos), tmp_path / "set", resolution=32, given=GivenSplits(splits, "mine")
    )
    assert made.manifest.source["splits"]["equal_pictures_across_splits"] == 1


def test_a_parquet_column_gives_the_splits(photos: Path, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = {
        "image": [(photos / name).read_bytes() for name in NAMES],
        "label": [name[:3] for name in NAMES],
        "file": NAMES,
        "part": ["testing" if index % 5 == 0 else "train" for index in range(len(NAMES))],
    }
    path = tmp_path / "photos.parquet"
    parquet.write_table(pyarrow.table(rows), path)
    made = prepare(open_source("parquet", root=path, split="part"), tmp_path / "set", resolution=32)
    found = by_name(made.folder)
    assert {name for name in NAMES if found[name] == "test"} == set(NAMES[::5])
    with pytest.raises(DataError, match="has no column 'nothing'"):
        open_source("parquet", root=path, split="nothing")
    with pytest.raises(DataError, match="not the name of a split"):
        open_source("parquet", root=path, split="label")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "names no picture"),
        ("{", "not valid JSON"),
        ('{"test": "a.png"}', "not a list of names"),
        ('{"holdout": ["a.png"]}', "'holdout' is not the name of a split"),
        ("a.png,test\na.png,train\n", "more than once"),
        ("a.png;test\n", "line 1 is not"),
        ("name,split\na.png,maybe\n", "'maybe' is not the name"),
        ("other.png,train\n", "names none of the 20 pictures"),
        ("suv/00.png,train\n", "no picture of the source is in test"),
        ("suv/00.png,test\n", "no picture of the source is in train"),
    ],
)
def test_bad_split_files_are_refused(photos: Path, tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "splits"
    path.write_text(text)
    with pytest.raises(DataError, match=complaint) as caught:
        prepare(open_source("folder", root=photos), tmp_path / "set", resolution=32, given=read_splits(path))
    assert "splits" in str(caught.value)
    assert not list((tmp_path / "set").glob("*")) or not (tmp_path / "set" / "manifest.json").exists()


def test_what_does_not_go_together_is_refused(photos: Path, tmp_path: Path) -> None:
    given = GivenSplits(dict.fromkeys(NAMES, "train"), "mine")
    with pytest.raises(OptionError, match="move_near_duplicates"):
        source = open_source("folder", root=photos)
        prepare(source, tmp_path / "set", resolution=32, given=given, move_near_duplicates=True)
    with pytest.raises(OptionError, match="has no columns"):
        open_source("folder", root=photos, split="split")
    with pytest.raises(DataError, match="cannot be read"):
        read_splits(tmp_path / "absent.json")
