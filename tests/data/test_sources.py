"""Folder, parquet and VMMRdb: what is found, what is reported, what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from millijoule.data import open_source
from millijoule.data._vmmrdb import MSV_CLASSES
from millijoule.data.decode import PictureError
from millijoule.errors import DataError, OptionError


def picture(number: int, suffix: str = ".jpg") -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (12, 16, 3), np.uint8)
    return cv2.imencode(suffix, cv2.resize(pixels, (48, 36)))[1].tobytes()


def fill(folder: Path, count: int, start: int = 0) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"{number:03d}.jpg").write_bytes(picture(start + number))


def test_folder_has_one_class_per_folder(tmp_path: Path) -> None:
    fill(tmp_path / "wagon", 2)
    fill(tmp_path / "bus" / "inner", 3, 10)
    (tmp_path / "bus" / "notes.txt").write_text("not a picture")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "empty").mkdir()
    source = open_source("folder", root=tmp_path)
    assert source.classes == ("bus", "wagon")
    assert list(source.labels) == [0, 0, 0, 1, 1]
    assert source.names[0] == "bus/inner/000.jpg" and source.names[3] == "wagon/000.jpg"
    assert source.report == {"empty_folders": ["empty"]}
    assert source.load(0, 16).pixels.shape == (16, 16, 3)


def test_fingerprint_follows_names_sizes_and_times(tmp_path: Path) -> None:
    fill(tmp_path / "a", 2)
    fill(tmp_path / "b", 2)
    first = open_source("folder", root=tmp_path).fingerprint()
    assert open_source("folder", root=tmp_path).fingerprint() == first
    os.utime(tmp_path / "a" / "000.jpg", ns=(1, 1))
    second = open_source("folder", root=tmp_path).fingerprint()
    (tmp_path / "a" / "001.jpg").rename(tmp_path / "a" / "002.jpg")
    assert len({first, second, open_source("folder", root=tmp_path).fingerprint()}) == 3


@pytest.mark.parametrize("kind", ["folder", "parquet", "vmmrdb"])
def test_missing_root_is_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(DataError, match="there is no such"):
        open_source(kind, root=tmp_path / "nowhere")
    with pytest.raises(OptionError, match="needs a root"):
        open_source(kind)


def test_empty_root_and_foreign_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder with pictures"):
        open_source("folder", root=tmp_path)
    with pytest.raises(DataError, match="it is empty"):
        open_source("vmmrdb", root=tmp_path)
    with pytest.raises(DataError, match="it is a folder"):
        open_source("parquet", root=tmp_path)
    for kind, options in (("folder", {"root": tmp_path, "subset": "a"}), ("toy_vehicles", {"root": tmp_path})):
        with pytest.raises(OptionError, match="Leave the"):
            open_source(kind, **options)
    with pytest.raises(OptionError, match="no such kind"):
        open_source("imagenet", root=tmp_path)


# VMMRdb ---------------------------------------------------------------------------------------------------------------


def msv_tree(root: Path) -> int:
    """The ten classes as in the real tree, with neighbours that do not belong to them; returns the picture count."""
    total = 0
    for item in MSV_CLASSES:
        for year in range(item.first_year - 1, item.last_year + 2):
            inside = item.first_year <= year <= item.last_year
            fill(root / f"{item.models[0]}_{year}", 2, 100 * total)
            total += 2 * inside
            for trim in item.trims:
                if inside:
                    fill(root / f"{item.models[0]}_{trim}_{year}", 1, 100 * total + 50)
                    total += 1
    return total


def test_vmmrdb_unions_folders_by_model_year_and_trim(tmp_path: Path) -> None:
    total = msv_tree(tmp_path)
    fill(tmp_path / "toyota_camry_hybrid_2013", 1)
    fill(tmp_path / "gmc_sierra_2500_2010", 1)
    fill(tmp_path / "dodge_ram_2500_1996", 1)
    fill(tmp_path / "honda_civic_del_sol_1997", 1)
    (tmp_path / "nissan_altima_2014" / "000.jpg").unlink()
    (tmp_path / "nissan_altima_2014" / "001.jpg").unlink()
    (tmp_path / "chevrolet_impala_2008").rename(tmp_path / "chevrolet_impala_2018")
    source = open_source("vmmrdb", root=tmp_path, subset="msv")
    assert source.classes == tuple(item.name for item in MSV_CLASSES) and len(source.classes) == 10
    assert len(source.names) == total - 2 - 2
    report = source.report["classes"]
    assert report["toyota_camry"]["matched"] == {
        f"toyota_camry{trim}_{year}": 1 if trim else 2
        for year in (2012, 2013, 2014)
        for trim in ("", "_le", "_se", "_xle")
    }
    assert report["toyota_camry"]["ambiguous"] == ["toyota_camry_hybrid_2013"]
    assert report["gmc_sierra_1500"]["ambiguous"] == ["gmc_sierra_2500_2010"]
    assert report["dodge_ram_1500"]["ambiguous"] == ["dodge_ram_2500_1996"]
    assert report["honda_civic"] == {
        "matched": {"honda_civic_1997": 2, "honda_civic_1998": 2},
        "missing_years": [],
        "empty": [],
        "ambiguous": ["honda_civic_del_sol_1997"],
    }
    assert report["nissan_altima"]["empty"] == ["nissan_altima_2014"]
    assert report["chevrolet_impala"]["missing_years"] == [2008]
    wide = open_source("vmmrdb", root=tmp_path, subset="msv_sierra_2500")
    assert "gmc_sierra_2500_2010" in wide.report["classes"]["gmc_sierra_1500"]["matched"]
    assert len(wide.names) == len(source.names) + 1


def test_vmmrdb_classes_are_those_of_the_paper() -> None:
    table = {item.name: (item.first_year, item.last_year, item.trims) for item in MSV_CLASSES}
    assert table == {
        "honda_civic": (1997, 1998, ()),
        "honda_accord": (1996, 1997, ()),
        "ford_f150": (2005, 2007, ()),
        "chevrolet_silverado": (2003, 2004, ()),
        "toyota_camry": (2012, 2014, ("le", "se", "xle")),
        "nissan_altima": (2013, 2015, ()),
        "toyota_corolla": (2011, 2013, ("ce", "le", "s")),
        "dodge_ram_1500": (1995, 2001, ()),
        "gmc_sierra_1500": (2007, 2013, ()),
        "chevrolet_impala": (2007, 2009, ()),
    }


def test_vmmrdb_opens_only_the_folders_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    msv_tree(tmp_path)
    for number in range(9170 - len(list(tmp_path.iterdir()))):
        (tmp_path / f"make{number % 70}_model{number}_{1990 + number % 26}").mkdir()
    opened: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: opened.append(str(path)) or scandir(path))
    source = open_source("vmmrdb", root=tmp_path)
    needed = {name for item in source.report["classes"].values() for name in item["matched"]}
    assert source.report["folders"] == 9170
    assert opened[0] == str(tmp_path)
    assert sorted(opened[1:]) == sorted(str(tmp_path / name) for name in needed)


def test_vmmrdb_without_a_class_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "trabant_601_1988", 1)
    with pytest.raises(DataError, match="none of its 1 folders belongs"):
        open_source("vmmrdb", root=tmp_path)
    fill(tmp_path / "honda_civic_1997", 1)
    with pytest.raises(DataError, match="no picture of class honda_accord, ford_f150"):
        open_source("vmmrdb", root=tmp_path)
    with pytest.raises(OptionError, match="no such subset"):
        open_source("vmmrdb", root=tmp_path, subset="all")


# Parquet --------------------------------------------------------------------------------------------------------------


def table(count: int = 9, **columns: object) -> pa.Table:
    data = {
        "image": [picture(number) for number in range(count)],
        "label": [("van", "bus", "suv")[number % 3] for number in range(count)],
        **columns,
    }
    return pa.table({name: value for name, value in data.items() if value is not None})


def test_parquet_with_text_labels_and_row_groups(tmp_path: Path) -> None:
    path = tmp_path / "set.parquet"
    pq.write_table(table(file=[f"{n}.jpg" for n in range(9)]), path, row_group_size=2)
    source = open_source("parquet", root=path)
    assert source.classes == ("bus", "suv", "van")
    assert list(source.labels) == [2, 0, 1] * 3 and source.names[4] == "4.jpg"
    for index in (8, 0, 5, 3):
        assert source.read(index) == picture(index)
    assert len(source._cache) <= 3


def test_parquet_with_integer_labels(tmp_path: Path) -> None:
    path = tmp_path / "set.parquet"
    pq.write_table(table(label=[0, 1, 2] * 3), path)
    assert open_source("parquet", root=path, classes=["a", "b", "c", "d"]).classes == ("a", "b", "c", "d")
    with pytest.raises(DataError, match="label 2 has no name"):
        open_source("parquet", root=path, classes=["a", "b"])
    pq.write_table(table(label=[7, 40, 7] * 3), path)
    source = open_source("parquet", root=path)
    assert source.classes == ("7", "40") and list(source.labels)[:3] == [0, 1, 0]
    pq.write_table(table(label=[0.5] * 9), path)
    with pytest.raises(DataError, match="neither text nor whole numbers"):
        open_source("parquet", root=path)


def test_parquet_subset_structs_and_gaps(tmp_path: Path) -> None:
    path = tmp_path / "set.parquet"
    images = [{"bytes": picture(n), "path": f"{n}"} for n in range(8)] + [{"bytes": None, "path": "x"}]
    labels = ["van", None, "suv"] * 3
    pq.write_table(table(image=images, label=labels, split=["train"] * 8 + ["test"]), path)
    source = open_source("parquet", root=path)
    assert source.report["rows_without_label"] == 3 and len(source.names) == 6
    assert source.read(1) == picture(2)
    with pytest.raises(PictureError, match="holds no picture"):
        source.read(5)
    assert len(open_source("parquet", root=path, subset="split=train").names) == 5
    with pytest.raises(DataError, match="no row has split=dev; split holds test, train"):
        open_source("parquet", root=path, subset="split=dev")
    with pytest.raises(OptionError, match="column=value"):
        open_source("parquet", root=path, subset="train")


def test_parquet_of_another_shape_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.parquet"
    pq.write_table(table(), path)
    with pytest.raises(DataError, match="no column 'photo', only image, label"):
        open_source("parquet", root=path, image="photo")
    with pytest.raises(DataError, match="not picture files"):
        open_source("parquet", root=path, image="label")
    with pytest.raises(DataError, match="not among the given classes"):
        open_source("parquet", root=path, classes=["van", "bus"])
    whole = path.read_bytes()
    for data, reason in ((whole[: len(whole) // 2], "truncated"), (b"PAR1 no", "truncated"), (b"", "zero bytes")):
        path.write_bytes(data)
        with pytest.raises(DataError, match=reason):
            open_source("parquet", root=path)


def test_parquet_damaged_inside_is_a_data_error(tmp_path: Path) -> None:
    path = tmp_path / "set.parquet"
    pq.write_table(table(label=[0, 1, 2] * 3), path, compression="gzip", use_dictionary=False)
    data = bytearray(path.read_bytes())
    data[4:60] = bytes(56)  # the header of the first page of pictures
    path.write_bytes(data)
    source = open_source("parquet", root=path)
    with pytest.raises(DataError, match="row group 0 is damaged"):
        source.read(0)


def test_real_photographs(shared: Path) -> None:
    source = open_source("parquet", root=shared / "data" / "cars_body10_dev.parquet")
    assert len(source.names) == 400 and len(source.classes) == 10
    assert np.bincount(source.labels).tolist() == [40] * 10
    assert source.names[0].endswith(".jpg") and source.load(0, 64).pixels.std() > 20
