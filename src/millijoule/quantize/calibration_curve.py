"""How many calibration pictures static quantisation needs: the same conversion with more and more of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from millijoule.errors import OptionError
from millijoule.files import Progress
from millijoule.graph import Graph
from millijoule.quantize.compare import real_values, sqnr
from millijoule.quantize.static import static

__all__ = ["CurvePoint", "calibration_curve"]


@dataclass(frozen=True)
class CurvePoint:
    """Static quantisation with `count` calibration pictures.

    Attributes:
        count: calibration pictures.
        sqnr: signal to noise of the logits against the float network's, dB; None when they are equal.
        changed: predictions that differ from the float network's.
    """

    count: int
    sqnr: float | None
    changed: int


def calibration_curve(
    graph: Graph,
    calibration: npt.NDArray[np.uint8],
    pictures: npt.NDArray[np.uint8],
    counts: Iterable[int],
    *,
    observer: str = "mse",
    rounding: str = "single",
    refine: str = "bias",
    progress: Progress | None = None,
) -> tuple[CurvePoint, ...]:
    """Quantises with the first pictures of a calibration set, as many as `counts` says, and measures on other pictures.

    Args:
        graph: a float graph.
        calibration: uint8 (N, height, width, channels), in the order in which a larger set would grow.
        pictures: uint8 (M, height, width, channels): what the logits are compared on.
        counts: how many calibration pictures; those above N are left out (if all are, N is taken).
        observer: as for `static`.
        rounding: as for `static`.
        refine: as for `static`.
        progress: called before each conversion.

    Returns:
        One point for each count, ascending.

    Raises:
        OptionError: a count below 1, or no count.
        QuantizationError: as `static`.
    """
    from millijoule import execute

    wanted = sorted(set(counts))
    if not wanted or wanted[0] < 1:
        raise OptionError(f"the counts {wanted}", "at least one picture is needed", "Use for example 10, 50 and 200")
    possible = [count for count in wanted if count <= len(calibration)] or [len(calibration)]
    logits = graph.outputs[0]
    reference = execute.run(graph, pictures)[logits].reshape(len(pictures), -1)
    points = []
    for done, count in enumerate(possible):
        if progress is not None:
            progress(f"{count} calibration pictures", done, len(possible))
        result = static(graph, calibration[:count], observer=observer, rounding=rounding, refine=refine)
        stored = execute.run(result, pictures)[logits].reshape(len(pictures), -1)
        values = real_values(result, logits, stored)
        changed = int((values.argmax(axis=1) != reference.argmax(axis=1)).sum())
        points.append(CurvePoint(count, sqnr(reference, values), changed))
    if progress is not None:
        progress("calibration curve", len(possible), len(possible))
    return tuple(points)
