"""The polygon filler against a point-by-point test, and the order of drawing."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from millijoule.data._toy_canvas import Canvas

SIZE = 24
corner = st.tuples(st.integers(-200, 600), st.integers(-200, 600))  # sixteenths of a pixel, partly outside


def inside(corners: list[tuple[int, int]], x: int, y: int) -> bool:
    """Even-odd rule: edges to the left of (x, y), or through it, crossed by the ray to the left."""
    odd = False
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        if y0 > y1:
            x0, y0, x1, y1 = x1, y1, x0, y0
        if y0 <= y < y1 and x0 + (y - y0) * (x1 - x0) // (y1 - y0) <= x:
            odd = not odd
    return odd


@settings(deadline=None)
@given(st.lists(st.lists(corner, min_size=3, max_size=7), min_size=1, max_size=4))
def test_a_pixel_shows_the_last_polygon_over_its_centre(polygons: list[list[tuple[int, int]]]) -> None:
    canvas = Canvas(SIZE)
    canvas.background[:] = 9
    expected = np.full((SIZE, SIZE), 9, np.uint8)
    for number, corners in enumerate(polygons):
        canvas.polygon([(x / 16 / SIZE, y / 16 / SIZE) for x, y in corners], (100 + number, 0, 0))
        # The canvas rounds corners down after scaling; repeat that, divisions by 24 are not exact.
        rounded = [
            (int(np.floor(x / 16 / SIZE * SIZE * 16)), int(np.floor(y / 16 / SIZE * SIZE * 16))) for x, y in corners
        ]
        for row in range(SIZE):
            for column in range(SIZE):
                if inside(rounded, column * 16 + 8, row * 16 + 8):
                    expected[row, column] = 100 + number
    assert np.array_equal(canvas.pixels()[:, :, 0], expected)


def test_rectangles_share_an_edge_without_gap_or_overlap() -> None:
    canvas = Canvas(20)
    canvas.rectangle(0.0, 0.0, 0.43, 1.0, (1, 2, 3))
    canvas.rectangle(0.43, 0.0, 1.0, 1.0, (4, 5, 6))
    pixels = canvas.pixels()
    assert (pixels[:, :9] == (1, 2, 3)).all() and (pixels[:, 9:] == (4, 5, 6)).all()


def test_nothing_drawn_is_the_background_and_far_away_is_nothing() -> None:
    canvas = Canvas(16)
    canvas.background[:] = 77
    assert (canvas.pixels() == 77).all()
    canvas.polygon([(5e6, 5e6), (6e6, 5e6), (5e6, 6e6)], (1, 1, 1))
    canvas.polygon([(0.1, 0.1), (0.2, 0.1), (0.2, 0.1)], (1, 1, 1))
    assert (canvas.pixels() == 77).all()
