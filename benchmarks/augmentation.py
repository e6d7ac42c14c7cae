"""Pictures per second and core: one composed warp against the same transformations one after another.

    python benchmarks/augmentation.py [--size 224] [--resolution 96] [--pictures 256] [--json FILE]

Both sides draw the same random numbers and use the same OpenCV routine (bilinear warpAffine, border repeated) on one
thread. "One after another" warps for zoom, shear, rotation and shift, flips, and resizes; "composed" warps once.
The pictures are rendered by toy_vehicles. The figure is pictures per second of processor time, median of five passes.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from millijoule.data import Augmentation
from millijoule.data.augmentation import Draws, warp
from millijoule.data.decode import stretch
from millijoule.data.toy_vehicles import BODY_TYPES, render

Picture = NDArray[np.uint8]


def one_after_another(picture: Picture, steps: list[NDArray[np.float64]], flip: bool, resolution: int) -> Picture:
    size = picture.shape[0]
    for step in steps[:4]:
        picture = cv2.warpAffine(
            picture, step[:2], (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
    if flip:
        picture = cv2.flip(picture, 1)
    return stretch(picture, resolution)


def rate(work: Callable[[], object], pictures: int) -> float:
    work()
    seconds = []
    for _ in range(5):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return pictures / statistics.median(seconds)


def measure(pictures: Picture, resolution: int) -> dict[str, float]:
    augmentation = Augmentation()
    count, size = len(pictures), pictures.shape[1]
    draws: Draws = augmentation.draw(count, np.random.default_rng(0))

    def composed() -> None:
        warp(pictures, augmentation.matrices(draws, size, resolution), resolution)

    def sequence() -> None:
        for index in range(count):
            one_after_another(
                pictures[index], augmentation.steps(draws, index, size), bool(draws.flip[index]), resolution
            )

    fast, slow = rate(composed, count), rate(sequence, count)
    return {"size": size, "resolution": resolution, "composed": fast, "one_after_another": slow, "ratio": fast / slow}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, help="pixels a side of the stored pictures")
    parser.add_argument("--resolution", type=int, help="pixels a side of the result")
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    cases = [(96, 96), (224, 224), (224, 96), (256, 224)]
    if options.size or options.resolution:
        size = options.size or options.resolution
        cases = [(size, options.resolution or size)]
    print(
        f"pictures per second of one core: {platform.machine()}, OpenCV {cv2.__version__}, {options.pictures} pictures"
    )
    print(f"{'stored':>7} {'result':>7} {'composed':>9} {'in turn':>8} {'ratio':>6}")
    results = []
    for size, resolution in cases:
        pictures = np.stack([render(BODY_TYPES[i % 10], i // 10, resolution=size) for i in range(options.pictures)])
        row = measure(pictures, resolution)
        results.append(row)
        print(
            f"{size:>7} {resolution:>7} {row['composed']:>9.0f} {row['one_after_another']:>8.0f} {row['ratio']:>6.2f}"
        )
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
