"""The calibration curve: each point is a conversion with the first pictures, measured on others."""

from __future__ import annotations

import numpy as np
import pytest

from millijoule.errors import OptionError
from millijoule.quantize import calibration_curve, static
from millijoule.quantize.compare import sqnr

from .networks import pictures, real_logits, small_network


def test_every_point_is_a_conversion_with_the_first_pictures() -> None:
    network, calibration, shown = small_network(), pictures(24), pictures(20, seed=9)
    told: list[tuple[int, int]] = []
    points = calibration_curve(
        network, calibration, shown, (16, 4, 99), observer="min_max", progress=lambda _, n, m: told.append((n, m))
    )
    assert [point.count for point in points] == [4, 16] and told == [(0, 2), (1, 2), (2, 2)]
    exact = real_logits(network, shown)
    for point in points:
        values = real_logits(static(network, calibration[: point.count], observer="min_max"), shown)
        assert point.sqnr == sqnr(exact, values)
        assert point.changed == (values.argmax(axis=1) != exact.argmax(axis=1)).sum()


def test_counts_that_cannot_be() -> None:
    network, few = small_network(), pictures(5)
    assert [point.count for point in calibration_curve(network, few, few, (10, 20))] == [5]
    for wrong in ((), (0, 3)):
        with pytest.raises(OptionError, match="at least one picture"):
            calibration_curve(network, few, np.asarray(few), wrong)
