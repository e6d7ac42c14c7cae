"""The proportions of the body types of `toy_vehicles` that are built like a car: common ones, in rough ranges."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BODY_TYPES", "PROPORTIONS", "TRUCKS", "Proportions"]

BODY_TYPES = (
    "box_truck",
    "bus",
    "convertible",
    "flatbed_truck",
    "hatchback",
    "pickup",
    "sedan",
    "suv",
    "tanker_truck",
    "van",
)
TRUCKS = ("box_truck", "flatbed_truck", "tanker_truck")
"""The types that are a cab and a load on a frame; the others are in `PROPORTIONS`."""


@dataclass(frozen=True)
class Proportions:
    """Ranges (low, high) in metres, or in parts of the length where it says so."""

    length: tuple[float, float]
    width: tuple[float, float]
    height: tuple[float, float]
    clearance: tuple[float, float]
    belt: tuple[float, float]  # height of the window line, part of the height
    wheel: tuple[float, float]  # radius
    hood: tuple[float, float]  # length of the bonnet, part of the length
    screen: tuple[float, float]  # run of the windscreen, part of the length
    roof_end: tuple[float, float]  # rear end of the roof, part of the length from the rear
    deck: tuple[float, float]  # foot of the rear window, part of the length from the rear
    windows: tuple[int, ...]  # side windows


PROPORTIONS: dict[str, Proportions] = {
    "sedan": Proportions(
        (4.7, 5.1), (1.76, 1.88), (1.38, 1.46), (0.16, 0.20), (0.61, 0.64), (0.31, 0.35),
        (0.25, 0.28), (0.11, 0.14), (0.31, 0.34), (0.20, 0.23), (2,),
    ),
    "convertible": Proportions(
        (3.9, 4.4), (1.74, 1.90), (1.24, 1.34), (0.14, 0.18), (0.62, 0.66), (0.32, 0.36),
        (0.28, 0.33), (0.11, 0.14), (0.33, 0.40), (0.20, 0.25), (1,),
    ),
    "hatchback": Proportions(
        (3.5, 3.9), (1.62, 1.74), (1.42, 1.52), (0.15, 0.19), (0.59, 0.63), (0.28, 0.31),
        (0.17, 0.21), (0.16, 0.20), (0.22, 0.27), (0.01, 0.03), (1, 2),
    ),
    "suv": Proportions(
        (4.4, 4.8), (1.88, 2.02), (1.90, 2.05), (0.34, 0.42), (0.62, 0.65), (0.42, 0.47),
        (0.25, 0.29), (0.05, 0.08), (0.02, 0.04), (0.01, 0.02), (3,),
    ),
    "van": Proportions(
        (4.9, 5.7), (1.90, 2.05), (2.30, 2.60), (0.19, 0.26), (0.50, 0.55), (0.32, 0.37),
        (0.11, 0.16), (0.08, 0.12), (0.01, 0.03), (0.002, 0.01), (1,),
    ),
    "pickup": Proportions(
        (5.1, 5.8), (1.86, 2.05), (1.74, 1.90), (0.30, 0.38), (0.59, 0.63), (0.39, 0.44),
        (0.22, 0.26), (0.06, 0.10), (0.45, 0.52), (0.43, 0.49), (1, 2),
    ),
    "bus": Proportions(
        (8.5, 10.5), (2.40, 2.55), (2.90, 3.15), (0.30, 0.38), (0.43, 0.50), (0.46, 0.52),
        (0.008, 0.012), (0.006, 0.02), (0.003, 0.010), (0.002, 0.005), (5, 6, 7),
    ),
}  # fmt: skip
