"""Random rotation, shift, shear, zoom and flip as one affine warp per picture.

The paper trains with rotations up to 20 degrees, shifts up to 20 %, shear, zoom up to 20 % and horizontal flips, as
Keras' ImageDataGenerator makes them. Done one after another each step would resample the picture and read it again;
here the steps are multiplied into one matrix, with the change of resolution as one more factor, and the picture is
read and interpolated once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from millijoule.data.decode import import_cv2, stretch
from millijoule.errors import OptionError

__all__ = ["Augmentation", "Draws", "resize_pictures", "warp"]

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Draws:
    """Random parameters of N pictures, each of shape (N,).

    Attributes:
        rotation: radians, counter-clockwise on the screen.
        shift_x: part of the width, to the right.
        shift_y: part of the height, down.
        shear: radians.
        zoom_x: factor, above 1 enlarges.
        zoom_y: factor, above 1 enlarges.
        flip: True where mirrored.
    """

    rotation: Matrix
    shift_x: Matrix
    shift_y: Matrix
    shear: Matrix
    zoom_x: Matrix
    zoom_y: Matrix
    flip: NDArray[np.bool_]


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random transformations; the defaults are the paper's.

    Attributes:
        rotation: up to this many degrees either way.
        shift: up to this part of the width and of the height either way.
        shear: up to this many degrees either way.
        zoom: both axes by factors from 1 - zoom to 1 + zoom, drawn independently.
        flip: mirror half of the pictures from left to right.
    """

    rotation: float = 20
    shift: float = 0.2
    shear: float = 10
    zoom: float = 0.2
    flip: bool = True

    def __post_init__(self) -> None:
        limits = {"rotation": 180.0, "shift": 1.0, "shear": 80.0, "zoom": 0.99}
        for name, limit in limits.items():
            value = getattr(self, name)
            if not 0 <= value <= limit:
                raise OptionError(
                    f"augmentation {name} {value}", f"it must be 0 to {limit:g}", "Choose a value in range"
                )

    def draw(self, count: int, random: np.random.Generator) -> Draws:
        """Random parameters for `count` pictures."""
        unit = random.uniform(-1.0, 1.0, size=(count, 6))
        flips = random.uniform(size=count) < 0.5
        return Draws(
            rotation=np.deg2rad(self.rotation) * unit[:, 0],
            shift_x=self.shift * unit[:, 1],
            shift_y=self.shift * unit[:, 2],
            shear=np.deg2rad(self.shear) * unit[:, 3],
            zoom_x=1 + self.zoom * unit[:, 4],
            zoom_y=1 + self.zoom * unit[:, 5],
            flip=flips if self.flip else np.zeros(count, np.bool_),
        )

    @staticmethod
    def steps(draws: Draws, index: int, size: int) -> list[Matrix]:
        """The single transformations of one picture, 3 x 3, in the order in which they are applied.

        They act on points (x, y, 1) of a picture of `size` pixels a side, pixel centres at whole numbers, about the
        middle of the picture: zoom, shear, rotation, shift, flip.
        """
        centre = (size - 1) / 2
        turn, slant = float(draws.rotation[index]), float(draws.shear[index])
        cos, sin = np.cos(turn), np.sin(turn)
        linear = [
            np.array([[draws.zoom_x[index], 0.0], [0.0, draws.zoom_y[index]]]),
            np.array([[1.0, np.sin(slant)], [0.0, np.cos(slant)]]),
            np.array([[cos, sin], [-sin, cos]]),
        ]
        result = []
        for part in linear:
            step = np.eye(3)
            step[:2, :2] = part
            step[:2, 2] = centre - part @ (centre, centre)
            result.append(step)
        shift = np.eye(3)
        shift[:2, 2] = draws.shift_x[index] * size, draws.shift_y[index] * size
        result.append(shift)
        if draws.flip[index]:
            result.append(np.array([[-1.0, 0.0, 2 * centre], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))
        return result

    def matrices(self, draws: Draws, size: int, resolution: int) -> Matrix:
        """The composed warps, with the change from `size` to `resolution` pixels a side as the last factor.

        Returns:
            float64 (N, 2, 3): from points of the original to points of the result, as cv2.warpAffine takes them.
        """
        cos, sin = np.cos(draws.rotation), np.sin(draws.rotation)
        shear_sin, shear_cos = np.sin(draws.shear), np.cos(draws.shear)
        # rotation @ shear @ zoom, written out
        a = cos * draws.zoom_x
        b = (cos * shear_sin + sin * shear_cos) * draws.zoom_y
        c = -sin * draws.zoom_x
        d = (-sin * shear_sin + cos * shear_cos) * draws.zoom_y
        centre = (size - 1) / 2
        x = centre - (a + b) * centre + draws.shift_x * size
        y = centre - (c + d) * centre + draws.shift_y * size
        mirror = np.where(draws.flip, -1.0, 1.0)
        a, b, x = a * mirror, b * mirror, x * mirror + np.where(draws.flip, 2 * centre, 0.0)
        scale = resolution / size
        offset = (scale - 1) / 2  # pixel centres: (x + 1/2) * scale - 1/2
        rows = [[a * scale, b * scale, x * scale + offset], [c * scale, d * scale, y * scale + offset]]
        return np.stack([np.stack(row, axis=-1) for row in rows], axis=1)


def warp(pictures: NDArray[np.uint8], matrices: Matrix, resolution: int) -> NDArray[np.uint8]:
    """Warps pictures by one bilinear cv2.warpAffine each; outside points repeat the border.

    Args:
        pictures: uint8 (N, S, S, 3).
        matrices: float64 (N, 2, 3), from points of the original to points of the result.
        resolution: pixels per side of the result.

    Returns:
        uint8 (N, resolution, resolution, 3).
    """
    cv2: Any = import_cv2()
    result = np.empty((len(pictures), resolution, resolution, 3), np.uint8)
    for picture, matrix, target in zip(pictures, matrices, result, strict=True):
        cv2.warpAffine(
            picture, matrix, (resolution, resolution), target, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
    return result


def resize_pictures(pictures: NDArray[np.uint8], resolution: int) -> NDArray[np.uint8]:
    """The pictures at another resolution, uint8 (N, resolution, resolution, 3), by the rule of `stretch`."""
    if pictures.shape[1] == resolution:
        return pictures
    return (
        np.stack([stretch(picture, resolution) for picture in pictures])
        if len(pictures)
        else np.empty((0, resolution, resolution, 3), np.uint8)
    )
