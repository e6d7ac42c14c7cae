"""toy_vehicles: equal bytes on every machine, the same scene at every resolution, ten types that differ."""

from __future__ import annotations

import hashlib
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millijoule.data import open_source
from millijoule.data._chance import Chance
from millijoule.data._toy_shapes import circle, cosine, sine
from millijoule.data.decode import stretch
from millijoule.data.toy_vehicles import BODY_TYPES, render
from millijoule.errors import OptionError


def digest(pictures: list[np.ndarray]) -> str:
    return hashlib.sha256(b"".join(picture.tobytes() for picture in pictures)).hexdigest()[:16]


@pytest.mark.parametrize(
    ("resolution", "expected"),
    [(32, "c1bed93c8b9ebe5a"), (96, "3579e01de9766db8"), (160, "1602d6542992bc1e")],
)
def test_bytes_are_the_recorded_ones(resolution: int, expected: str) -> None:
    pictures = [render(kind, index, resolution=resolution) for kind in BODY_TYPES for index in (0, 1, 77)]
    assert digest(pictures) == expected, "change TOY_VERSION and this hash when the pictures are meant to change"


def test_the_raw_random_words_are_the_recorded_ones() -> None:
    chance = Chance(1, 2, 3)
    assert [chance.word() for _ in range(2)] == [11449806741733787882, 14295020760594684495]
    assert Chance(7).bytes(5).tolist() == [139, 74, 229, 241, 169]


def test_threads_do_not_change_a_picture() -> None:
    tasks = [(kind, index) for kind in BODY_TYPES for index in range(3)]
    alone = [render(kind, index, resolution=48) for kind, index in tasks]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda task: render(*task, resolution=48), tasks))
    assert digest(alone) == digest(together)


@pytest.mark.parametrize("kind", BODY_TYPES)
def test_a_scene_is_the_same_at_every_resolution(kind: str) -> None:
    small, large = render(kind, 5, resolution=48), render(kind, 5, resolution=192)
    same = np.corrcoef(stretch(large, 12).ravel(), stretch(small, 12).ravel())[0, 1]
    other = np.corrcoef(stretch(render(kind, 6, resolution=192), 12).ravel(), stretch(small, 12).ravel())[0, 1]
    assert same > 0.97 > other


def test_every_picture_and_seed_is_different() -> None:
    pictures = [render("suv", index, resolution=32, seed=seed) for index in range(20) for seed in (0, 1)]
    assert len({picture.tobytes() for picture in pictures}) == 40
    assert all(picture.shape == (32, 32, 3) and picture.dtype == np.uint8 and picture.std() > 8 for picture in pictures)


@given(st.floats(-3, 3))
def test_sine_by_series(turns: float) -> None:
    assert math.isclose(sine(turns), math.sin(2 * math.pi * turns), abs_tol=1e-12)
    assert math.isclose(cosine(turns), math.cos(2 * math.pi * turns), abs_tol=1e-12)


def test_circle_is_round() -> None:
    assert all(math.isclose(x * x + y * y, 1, abs_tol=1e-12) for x, y in circle(16)) and len(circle(16)) == 16


def test_chance_covers_its_ranges_evenly() -> None:
    chance = Chance(3)
    values = np.array([chance.uniform(2.0, 5.0) for _ in range(4000)])
    assert 2 <= values.min() < 2.02 and 4.98 < values.max() < 5 and abs(values.mean() - 3.5) < 0.05
    counts = np.bincount([chance.integer(0, 4) for _ in range(5000)], minlength=5)
    assert counts.min() > 850 and counts.sum() == 5000
    assert abs(np.mean([chance.happens(0.3) for _ in range(4000)]) - 0.3) < 0.03


@pytest.mark.parametrize(
    "bad", [("tank", 0, 96, 0), ("suv", -1, 96, 0), ("suv", 0, 8, 0), ("suv", 0, 2000, 0), ("suv", 0, 96, -1)]
)
def test_impossible_pictures_are_refused(bad: tuple[str, int, int, int]) -> None:
    kind, index, resolution, seed = bad
    with pytest.raises(OptionError):
        render(kind, index, resolution=resolution, seed=seed)


def test_source_lists_every_type_equally() -> None:
    source = open_source("toy_vehicles", per_class=7, seed=2)
    assert source.classes == BODY_TYPES and np.bincount(source.labels).tolist() == [7] * 10
    index = list(source.names).index("van/00003")
    assert np.array_equal(source.load(index, 40).pixels, render("van", 3, resolution=40, seed=2))
    assert source.fingerprint() != open_source("toy_vehicles", per_class=7, seed=3).fingerprint()
    with pytest.raises(OptionError):
        open_source("toy_vehicles", per_class=0)
