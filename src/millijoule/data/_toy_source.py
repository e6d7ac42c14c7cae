"""toy_vehicles as a source."""

from __future__ import annotations

import hashlib

from millijoule.data.sources import Loaded, Source
from millijoule.data.toy_vehicles import BODY_TYPES, TOY_VERSION, render
from millijoule.errors import OptionError

__all__ = ["ToyVehicles"]


class ToyVehicles(Source):
    """Rendered vehicles, `per_class` of each of ten body types.

    A picture's hash is that of its recipe (version, seed, type, number), not of its pixels, so that the same scenes
    fall into the same split at every resolution.
    """

    kind = "toy_vehicles"
    classes = BODY_TYPES

    def __init__(self, *, per_class: int, seed: int) -> None:
        if per_class < 1 or seed < 0:
            raise OptionError(
                f"toy_vehicles with {per_class} pictures per class and seed {seed}",
                "at least one picture per class and a seed of 0 or more are needed",
                "Choose other numbers",
            )
        self._per_class, self._seed = per_class, seed
        self.names = [f"{kind}/{index:05d}" for kind in BODY_TYPES for index in range(per_class)]
        self.labels = [label for label in range(len(BODY_TYPES)) for _ in range(per_class)]
        self.report = {"per_class": per_class, "seed": seed, "version": TOY_VERSION}

    def fingerprint(self) -> str:
        """The hash of the recipe."""
        return hashlib.sha256(f"toy_vehicles {TOY_VERSION} {self._seed} {self._per_class}".encode()).hexdigest()

    def load(self, index: int, resolution: int) -> Loaded:
        """Renders one picture at the resolution."""
        label, number = divmod(index, self._per_class)
        pixels = render(BODY_TYPES[label], number, resolution=resolution, seed=self._seed)
        recipe = f"toy_vehicles {TOY_VERSION} {self._seed} {BODY_TYPES[label]} {number}"
        digest = hashlib.sha256(recipe.encode()).hexdigest()
        return Loaded(pixels, digest, digest)
