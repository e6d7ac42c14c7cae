"""Prepared sets: splits by content, skipped pictures, near-duplicates, caching, refusals that leave nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from millijoule.data import PreparedSet, open_prepared, open_source, prepare
from millijoule.data.decode import decode_picture, stretch
from millijoule.data.toy_vehicles import render
from millijoule.errors import DataError, OptionError, OutputError


def encoded(pixels: np.ndarray, suffix: str = ".png", *options: int) -> bytes:
    return cv2.imencode(suffix, pixels[:, :, ::-1], list(options))[1].tobytes()


@pytest.fixture(scope="module")
def rendered() -> dict[str, bytes]:
    return {
        f"{kind}/{index:02d}.png": encoded(render(kind, index, resolution=64))
        for kind in ("suv", "van")
        for index in range(20)
    }


@pytest.fixture
def photos(rendered: dict[str, bytes], tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for name, data in rendered.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def splits_of(prepared: PreparedSet) -> dict[str, str]:
    return {picture.name: picture.split for picture in prepared.manifest.pictures}


def test_fractions_per_class_and_pixels(photos: Path, tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    prepared = prepare(
        open_source("folder", root=photos), tmp_path / "set", resolution=48, progress=lambda *call: calls.append(call)
    )
    assert [len(prepared.split(name)) for name in ("train", "validation", "test")] == [28, 8, 4]
    assert prepared.manifest.counts()["train"] == {"suv": 14, "van": 14}
    assert [call for call in calls if call[0] == "decode pictures"][-1] == ("decode pictures", 40, 40)
    split = prepared.split("test")
    assert split.pictures.shape == (4, 48, 48, 3) and split.pictures.dtype == np.uint8
    assert split.labels.dtype == np.int64 and len(set(split.hashes)) == 4
    for name, pixels, label in zip(split.names, np.asarray(split.pictures), split.labels, strict=True):
        original = decode_picture((photos / name).read_bytes())
        assert np.array_equal(pixels, stretch(original, 48))
        assert prepared.classes[label] == name.split("/")[0]
    assert split.pictures[0].shape == (48, 48, 3)
    assert np.array_equal(split.pictures[np.array([2, 0])], split.pictures[:][[2, 0]])


def test_the_split_follows_the_content_not_the_names(photos: Path, tmp_path: Path) -> None:
    before = prepare(open_source("folder", root=photos), tmp_path / "a", resolution=32)
    for path in sorted(photos.rglob("*.png")):
        path.rename(path.with_name(f"renamed {100 - int(path.stem)}.png"))
    after = prepare(open_source("folder", root=photos), tmp_path / "b", resolution=40)
    for name in ("train", "validation", "test"):
        assert set(before.split(name).hashes) == set(after.split(name).hashes)


def test_exact_duplicates_share_a_split_and_conflicts_are_listed(photos: Path, tmp_path: Path) -> None:
    for index in range(10):
        data = (photos / "suv" / f"{index:02d}.png").read_bytes()
        (photos / "suv" / f"copy {index:02d}.png").write_bytes(data)
        # the same pixels in another file: other bytes, equal content
        (photos / "suv" / f"again {index:02d}.png").write_bytes(
            encoded(decode_picture(data), ".png", cv2.IMWRITE_PNG_COMPRESSION, 0)
        )
    (photos / "van" / "wrong label.png").write_bytes((photos / "suv" / "00.png").read_bytes())
    prepared = prepare(open_source("folder", root=photos), tmp_path / "set", resolution=32)
    split = splits_of(prepared)
    for index in range(10):
        assert len({split[f"suv/{kind}{index:02d}.png"] for kind in ("", "copy ", "again ")}) == 1
    assert split["van/wrong label.png"] == split["suv/00.png"]
    assert len(prepared.manifest.duplicates) == 10
    assert len(prepared.manifest.conflicts) == 1 and "van/wrong label.png" in prepared.manifest.conflicts[0]


def test_broken_pictures_are_skipped_and_listed(photos: Path, tmp_path: Path) -> None:
    (photos / "van" / "empty.jpg").write_bytes(b"")
    (photos / "van" / "text.jpg").write_bytes(b"hello")
    whole = encoded(render("van", 0, resolution=64), ".jpg")
    (photos / "van" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    prepared = prepare(open_source("folder", root=photos), tmp_path / "set", resolution=32)
    reasons = {item.name: item.reason for item in prepared.manifest.skipped}
    assert set(reasons) == {"van/empty.jpg", "van/text.jpg", "van/cut.jpg"}
    assert "zero bytes" in reasons["van/empty.jpg"] and "truncated" in reasons["van/cut.jpg"]
    assert len(prepared.manifest.pictures) == 40
    saved = json.loads((tmp_path / "set" / "manifest.json").read_text())
    assert [item["name"] for item in saved["skipped"]] == ["van/cut.jpg", "van/empty.jpg", "van/text.jpg"]


def near_copies(photos: Path) -> dict[str, str]:
    """Recompressed, brighter, resized and mirrored copies of every van; returns copy -> original."""
    result = {}
    for index in range(20):
        pixels = decode_picture((photos / "van" / f"{index:02d}.png").read_bytes())
        change = index % 4
        if change == 1:
            pixels = np.clip(pixels.astype(int) + 6, 0, 255).astype(np.uint8)
        elif change == 2:
            pixels = stretch(pixels, 96)
        elif change == 3:
            pixels = np.ascontiguousarray(pixels[:, ::-1])
        name = f"van/near {index:02d}.jpg"
        (photos / name).write_bytes(encoded(pixels, ".jpg", cv2.IMWRITE_JPEG_QUALITY, 80))
        result[name] = f"van/{index:02d}.png"
    return result


def test_near_duplicates_across_splits_are_listed_and_can_be_moved(photos: Path, tmp_path: Path) -> None:
    copies = near_copies(photos)
    source = open_source("folder", root=photos)
    prepared = prepare(source, tmp_path / "set", resolution=64)
    split = splits_of(prepared)
    straddling = {frozenset(pair) for pair in copies.items() if split[pair[0]] != split[pair[1]]}
    listed = {frozenset((pair.first, pair.second)) for pair in prepared.manifest.near_duplicates}
    assert straddling and listed == straddling
    assert len(listed) + prepared.manifest.near_duplicates_within == 20
    for pair in prepared.manifest.near_duplicates:
        assert pair.mirrored == (int(Path(pair.first).stem[-2:]) % 4 == 3)

    moved = prepare(source, tmp_path / "moved", resolution=64, move_near_duplicates=True)
    split = splits_of(moved)
    assert all(split[copy] == split[original] for copy, original in copies.items())
    assert {frozenset((pair.first, pair.second)) for pair in moved.manifest.near_duplicates} == straddling
    assert all(pair.moved_to == split[pair.first] for pair in moved.manifest.near_duplicates)


def test_moving_must_not_empty_a_split(tmp_path: Path) -> None:
    root = tmp_path / "photos" / "van"
    root.mkdir(parents=True)
    pixels = render("van", 3, resolution=64)
    for quality in range(60, 100, 4):
        (root / f"{quality}.jpg").write_bytes(encoded(pixels, ".jpg", cv2.IMWRITE_JPEG_QUALITY, quality))
    source = open_source("folder", root=root.parent)
    assert len(prepare(source, tmp_path / "set", resolution=64).split("test")) == 1
    with pytest.raises(DataError, match="no picture left in test"):
        prepare(source, tmp_path / "moved", resolution=64, move_near_duplicates=True)


def test_reused_while_the_source_stays_and_rebuilt_when_it_changes(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    prepare(open_source("folder", root=photos), folder, resolution=32)
    manifest = (folder / "manifest.json").stat().st_mtime_ns
    calls: list[str] = []
    prepare(open_source("folder", root=photos), folder, resolution=32, progress=lambda what, *_: calls.append(what))
    assert not calls and (folder / "manifest.json").stat().st_mtime_ns == manifest
    (photos / "van" / "new.png").write_bytes(encoded(render("van", 50, resolution=64)))
    assert len(prepare(open_source("folder", root=photos), folder, resolution=32).manifest.pictures) == 41
    assert prepare(open_source("folder", root=photos), folder, resolution=40).resolution == 40
    assert len(list(folder.iterdir())) == 2  # one manifest, one pixel file


def test_damaged_cache_is_refused_when_opened_and_rebuilt_when_prepared(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    source = open_source("folder", root=photos)
    pixels = folder / prepare(source, folder, resolution=32).manifest.pixels
    os.truncate(pixels, 1000)
    with pytest.raises(DataError, match="1000 bytes"):
        open_prepared(folder)
    assert len(prepare(source, folder, resolution=32).split("train")) == 28
    for text in ("{", "[]", '{"format": "millijoule data manifest", "version": 1}', "\xff"):
        (folder / "manifest.json").write_text(text, encoding="latin-1")
        with pytest.raises(DataError):
            open_prepared(folder)
    with pytest.raises(DataError, match="no prepared data set"):
        open_prepared(tmp_path / "nowhere")


def test_interrupted_preparation_leaves_the_old_set(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    prepare(open_source("folder", root=photos), folder, resolution=32)

    def stop(what: str, done: int, total: int) -> None:
        if done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(open_source("folder", root=photos), folder, resolution=48, progress=stop)
    assert open_prepared(folder).resolution == 32
    assert len(list(folder.iterdir())) == 2


def test_too_few_pictures_are_refused_and_nothing_is_left(photos: Path, tmp_path: Path) -> None:
    for path in sorted((photos / "van").iterdir())[2:]:
        path.unlink()
    with pytest.raises(DataError, match="class van: it has 2 different pictures, fewer than the 3 splits need"):
        prepare(open_source("folder", root=photos), tmp_path / "set", resolution=32)
    for path in (photos / "van").iterdir():
        path.write_bytes(b"broken")
    with pytest.raises(DataError, match="class van: it has 0 different pictures"):
        prepare(open_source("folder", root=photos), tmp_path / "set", resolution=32)
    assert list((tmp_path / "set").iterdir()) == []


def test_only_broken_pictures(tmp_path: Path) -> None:
    (tmp_path / "photos" / "van").mkdir(parents=True)
    (tmp_path / "photos" / "van" / "a.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"none of its 1 pictures can be used \(van/a.jpg: .*zero bytes"):
        prepare(open_source("folder", root=tmp_path / "photos"), tmp_path / "set", resolution=32)


def test_file_names_that_are_not_utf8(photos: Path, tmp_path: Path) -> None:
    strange = os.fsdecode(b"van/caf\xe9.png")
    try:
        (photos / strange).write_bytes(encoded(render("van", 90, resolution=64)))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    prepared = prepare(open_source("folder", root=photos), tmp_path / "set", resolution=32)
    assert strange in splits_of(prepared)
    assert strange in splits_of(open_prepared(tmp_path / "set"))


@pytest.mark.parametrize("split", [(0.7, 0.2), (0.7, 0.2, 0.2), (0.0, 0.5, 0.5), (1.2, -0.1, -0.1)])
def test_impossible_fractions_are_refused(tmp_path: Path, split: tuple[float, ...]) -> None:
    with pytest.raises(OptionError, match="sum to 1"):
        prepare(open_source("toy_vehicles", per_class=3), tmp_path, resolution=32, split=split)


def test_a_split_may_be_left_out(tmp_path: Path) -> None:
    prepared = prepare(open_source("toy_vehicles", per_class=4), tmp_path, resolution=16, split=(0.5, 0.5, 0))
    assert [len(prepared.split(name)) for name in ("train", "validation", "test")] == [20, 20, 0]
    with pytest.raises(OptionError, match="no such split"):
        prepared.split("dev")


def test_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError):
        prepare(open_source("toy_vehicles", per_class=3), tmp_path / "file", resolution=16)


def test_full_disk_is_one_sentence_and_leaves_the_old_set(tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk: writing fails in the middle in the same way."""
    program = f"""
import resource, sys
from pathlib import Path
from millijoule.data import open_source, prepare
from millijoule.errors import OutputError
source = open_source("toy_vehicles", per_class=4)
prepare(source, Path({str(tmp_path)!r}), resolution=16)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    prepare(source, Path({str(tmp_path)!r}), resolution=64)
except OutputError as error:
    sys.exit(f"refused: {{error}}")
"""
    pytest.importorskip("resource", reason="file size limits need a POSIX system")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "refused: " in done.stderr and "Traceback" not in done.stderr
    assert open_prepared(tmp_path).resolution == 16 and len(list(tmp_path.iterdir())) == 2


def test_toy_vehicles_keep_their_split_at_every_resolution(tmp_path: Path) -> None:
    source = open_source("toy_vehicles", per_class=10)
    small, large = (prepare(source, tmp_path / str(side), resolution=side) for side in (32, 48))
    assert splits_of(small) == splits_of(large)
    assert Counter(splits_of(small).values()) == {"train": 70, "validation": 20, "test": 10}


def test_real_photographs(shared: Path, tmp_path: Path) -> None:
    source = open_source("parquet", root=shared / "data" / "cars_body10_dev.parquet")
    prepared = prepare(source, tmp_path / "cars", resolution=96)
    assert [len(prepared.split(name)) for name in ("train", "validation", "test")] == [280, 80, 40]
    assert prepared.manifest.skipped == () and np.asarray(prepared.split("test").pictures).std() > 40
