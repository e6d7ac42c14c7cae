"""The figures of one row and its line in the table, for ours and for the peers alike: computed in this place only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from millijoule import execute
from millijoule.graph import Graph
from millijoule.quantize.compare import paired_interval, real_values, sqnr

HEADER = (
    "| row | accuracy % | difference, points | changed | lost/won | SQNR dB | {sizes} |\n|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Figures:
    """A quantised network against the float one on the same photographs.

    Attributes:
        photographs: how many.
        right: how many are classified rightly.
        lost: the float network right, this wrong.
        won: the float network wrong, this right.
        changed: predictions that differ from the float network's.
        half_interval: half of the 95 % interval of the paired difference, points.
        sqnr: of all logits in dB; None when they are equal.
    """

    photographs: int
    right: int
    lost: int
    won: int
    changed: int
    half_interval: float
    sqnr: float | None

    @property
    def accuracy(self) -> float:
        """Per cent."""
        return 100.0 * self.right / self.photographs

    @property
    def difference(self) -> float:
        """Accuracy minus the float network's, points."""
        return 100.0 * (self.won - self.lost) / self.photographs

    def to_json(self) -> dict[str, Any]:
        """All figures as plain numbers."""
        return {**self.__dict__, "accuracy": self.accuracy, "difference": self.difference}

    def line(self, name: str, size: str) -> str:
        """One line of the table under `HEADER`."""
        noise = "-" if self.sqnr is None else f"{self.sqnr:.1f}"
        return (
            f"| {name} | {self.accuracy:.2f} | {self.difference:+.2f} ±{self.half_interval:.2f} | "
            f"{self.changed} ({100 * self.changed / self.photographs:.1f} %) | {self.lost}/{self.won} | {noise} | "
            f"{size} |"
        )


def figures(reference: npt.NDArray[Any], logits: npt.NDArray[Any], labels: npt.NDArray[np.int64]) -> Figures:
    """Figures from real-valued logits (N, classes); a tie goes to the lowest class, as on the device."""
    expected, predicted = reference.argmax(axis=1), logits.argmax(axis=1)
    before, now = expected == labels, predicted == labels
    lost, won = int((before & ~now).sum()), int((~before & now).sum())
    interval = paired_interval(lost, won, len(labels))
    return Figures(
        photographs=len(labels),
        right=int(now.sum()),
        lost=lost,
        won=won,
        changed=int((predicted != expected).sum()),
        half_interval=(interval.high - interval.low) / 2,
        sqnr=sqnr(reference.astype(np.float64), logits.astype(np.float64)),
    )


def real_logits(model: Graph, pictures: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """What the project's executor gives for the first output, as real values."""
    stored = execute.run(model, pictures)[model.outputs[0]]
    return real_values(model, model.outputs[0], stored).reshape(len(pictures), -1)


def evenly(count: int, limit: int | None) -> npt.NDArray[np.int64]:
    """`limit` row numbers of `count`, spread evenly; all without a limit."""
    return np.unique(np.linspace(0, count - 1, min(limit or count, count)).round().astype(np.int64))
