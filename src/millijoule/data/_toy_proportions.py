"""The proportions of the ten body types of `toy_vehicles`: those of common cars in rough ranges."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BODY_TYPES", "PROPORTIONS", "Proportions"]

BODY_TYPES = (
    "box_truck",
    "convertible",
    "coupe",
    "hatchback",
    "minivan",
    "pickup",
    "sedan",
    "suv",
    "van",
    "wagon",
)


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
        (4.6, 5.0), (1.74, 1.86), (1.42, 1.48), (0.17, 0.21), (0.61, 0.64), (0.30, 0.34),
        (0.25, 0.27), (0.10, 0.13), (0.30, 0.33), (0.21, 0.24), (2,),
    ),
    "coupe": Proportions(
        (4.1, 4.5), (1.78, 1.92), (1.20, 1.29), (0.11, 0.15), (0.66, 0.70), (0.34, 0.38),
        (0.33, 0.37), (0.18, 0.22), (0.32, 0.37), (0.03, 0.07), (1,),
    ),
    "convertible": Proportions(
        (3.9, 4.5), (1.72, 1.90), (1.24, 1.36), (0.14, 0.18), (0.63, 0.68), (0.31, 0.36),
        (0.28, 0.34), (0.11, 0.15), (0.33, 0.40), (0.20, 0.26), (1,),
    ),
    "hatchback": Proportions(
        (3.6, 4.0), (1.62, 1.74), (1.38, 1.46), (0.15, 0.19), (0.60, 0.64), (0.28, 0.31),
        (0.20, 0.24), (0.15, 0.19), (0.20, 0.26), (0.01, 0.03), (1, 2),
    ),
    "wagon": Proportions(
        (4.8, 5.2), (1.74, 1.86), (1.36, 1.44), (0.16, 0.20), (0.62, 0.66), (0.30, 0.34),
        (0.25, 0.29), (0.12, 0.15), (0.07, 0.11), (0.01, 0.03), (3,),
    ),
    "suv": Proportions(
        (4.2, 4.6), (1.84, 2.00), (1.85, 2.00), (0.32, 0.40), (0.63, 0.66), (0.41, 0.46),
        (0.23, 0.28), (0.06, 0.10), (0.03, 0.06), (0.01, 0.02), (2, 3),
    ),
    "minivan": Proportions(
        (4.5, 4.9), (1.84, 2.00), (1.76, 1.88), (0.15, 0.19), (0.49, 0.53), (0.29, 0.32),
        (0.06, 0.10), (0.22, 0.27), (0.03, 0.07), (0.005, 0.02), (3,),
    ),
    "van": Proportions(
        (4.7, 5.6), (1.85, 2.05), (2.15, 2.50), (0.19, 0.26), (0.50, 0.56), (0.31, 0.37),
        (0.11, 0.17), (0.08, 0.12), (0.01, 0.03), (0.002, 0.01), (1,),
    ),
    "pickup": Proportions(
        (4.9, 5.8), (1.82, 2.05), (1.72, 1.90), (0.28, 0.38), (0.60, 0.64), (0.38, 0.44),
        (0.22, 0.26), (0.06, 0.10), (0.42, 0.52), (0.39, 0.49), (1, 2),
    ),
    "box_truck": Proportions(
        (5.6, 7.2), (2.00, 2.30), (2.05, 2.35), (0.36, 0.48), (0.50, 0.57), (0.38, 0.45),
        (0.03, 0.13), (0.04, 0.08), (0.66, 0.70), (0.66, 0.70), (1,),
    ),
}  # fmt: skip
