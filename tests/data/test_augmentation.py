"""The composed warp is the sequence of its steps, on points and on pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millijoule.data import Augmentation
from millijoule.data.augmentation import Draws, warp
from millijoule.data.decode import stretch
from millijoule.data.toy_vehicles import render
from millijoule.errors import OptionError


def _draws(**changes: float | bool) -> Draws:
    values = {
        "rotation": 0.0,
        "shift_x": 0.0,
        "shift_y": 0.0,
        "shear": 0.0,
        "zoom_x": 1.0,
        "zoom_y": 1.0,
        "flip": False,
    }
    return Draws(**{name: np.array([value]) for name, value in {**values, **changes}.items()})


@given(seed=st.integers(0, 2**32), size=st.integers(16, 300), resolution=st.integers(16, 300))
def test_composed_warp_equals_the_steps_on_points(seed: int, size: int, resolution: int) -> None:
    augmentation = Augmentation(rotation=90, shift=0.5, shear=40, zoom=0.6)
    random = np.random.default_rng(seed)
    draws = augmentation.draw(4, random)
    points = random.uniform(-size, 2 * size, (2, 20))
    scale = resolution / size
    for index, matrix in enumerate(augmentation.matrices(draws, size, resolution)):
        moved = np.vstack([points, np.ones(20)])
        for step in augmentation.steps(draws, index, size):
            moved = step @ moved
        moved = (moved[:2] + 0.5) * scale - 0.5  # the resize, by pixel centres
        assert np.allclose(matrix @ np.vstack([points, np.ones(20)]), moved, atol=1e-8 * resolution)


def test_nothing_drawn_changes_nothing() -> None:
    picture = render("sedan", 0, resolution=64)
    same = warp(picture[None], Augmentation().matrices(_draws(), 64, 64), 64)
    assert np.array_equal(same[0], picture)


def test_flip_alone_mirrors_exactly() -> None:
    picture = render("suv", 1, resolution=64)
    flipped = warp(picture[None], Augmentation().matrices(_draws(flip=True), 64, 64), 64)
    assert np.array_equal(flipped[0], picture[:, ::-1])


def test_shift_goes_right_and_down_and_repeats_the_border() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    moved = warp(picture[None], Augmentation().matrices(_draws(shift_x=0.1, shift_y=0.2), 20, 20), 20)[0]
    assert np.array_equal(moved[4:, 2:], picture[:-4, :-2])
    assert np.array_equal(moved[4:, 0], picture[:-4, 0]) and np.array_equal(moved[0, 2:], picture[0, :-2])


def test_quarter_turn_is_counter_clockwise() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (21, 21, 3), np.uint8)
    turned = warp(picture[None], Augmentation().matrices(_draws(rotation=np.pi / 2), 21, 21), 21)[0]
    assert np.array_equal(turned, np.rot90(picture))


def test_one_warp_looks_like_the_sequence_of_warps() -> None:
    import cv2

    picture = cv2.GaussianBlur(render("suv", 2, resolution=128), (0, 0), 3)  # smooth: resampling costs little
    augmentation = Augmentation()
    draws = augmentation.draw(8, np.random.default_rng(5))
    composed = warp(np.stack([picture] * 8), augmentation.matrices(draws, 128, 96), 96)
    for index in range(8):
        step_by_step = picture
        for step in augmentation.steps(draws, index, 128):
            step_by_step = cv2.warpAffine(step_by_step, step[:2], (128, 128), borderMode=cv2.BORDER_REPLICATE)
        difference = np.abs(stretch(step_by_step, 96).astype(int) - composed[index])
        assert np.median(difference) <= 2


def test_ranges_are_those_asked_for() -> None:
    draws = Augmentation().draw(4000, np.random.default_rng(0))
    for values, limit in ((np.rad2deg(draws.rotation), 20), (draws.shift_x, 0.2), (draws.zoom_y - 1, 0.2)):
        assert limit * 0.98 < values.max() <= limit and -limit <= values.min() < -limit * 0.98
    assert 0.45 < draws.flip.mean() < 0.55
    assert not Augmentation(flip=False).draw(100, np.random.default_rng(0)).flip.any()


@pytest.mark.parametrize(
    "bad", [{"rotation": -1}, {"shift": 1.5}, {"shear": 90}, {"zoom": 1.0}, {"zoom": float("nan")}]
)
def test_ranges_out_of_order_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(OptionError):
        Augmentation(**bad)
