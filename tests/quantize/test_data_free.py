"""Static quantisation without pictures: drawn ones, and the ranges that batch normalisation tells."""

from __future__ import annotations

import numpy as np
import pytest

from millijoule import execute
from millijoule.errors import OptionError
from millijoule.graph import mode, simplify
from millijoule.quantize import dynamic, report_of, static
from millijoule.quantize.compare import sqnr
from millijoule.quantize.data_free import drawn_for, drawn_pictures, normal_ranges, widened

from .networks import pictures, real_logits, small_network


def test_drawn_pictures_have_edges_flat_regions_and_a_falling_spectrum() -> None:
    drawn = drawn_pictures(12, 64, 48, seed=3)
    assert drawn.shape == (12, 64, 48, 3) and drawn.dtype == np.uint8
    assert np.array_equal(drawn, drawn_pictures(12, 64, 48, seed=3))
    assert not np.array_equal(drawn, drawn_pictures(12, 64, 48, seed=4))
    grey = drawn_pictures(12, 64, 64)[..., 0].astype(float)
    power = np.square(np.abs(np.fft.rfft2(grey - grey.mean(axis=(1, 2), keepdims=True)))).mean(axis=0)
    frequency = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.rfftfreq(64)[None])
    used = (frequency > 0.03) & (frequency < 0.4)
    slope = np.polyfit(np.log(frequency[used]), np.log(power[used]), 1)[0]
    assert -3.2 < slope < -1.5  # photographs: about -2
    steps = np.abs(np.diff(grey, axis=2))
    assert np.median(steps) < 6 and np.percentile(steps, 98) > 15


def test_ranges_follow_batch_normalisation_and_its_clamps() -> None:
    network = small_network()
    ranges = normal_ranges(network, 4.0)
    gamma, beta = network.constant("project.norm.gamma"), network.constant("project.norm.beta")
    norm = next(node.output for node in network.nodes if node.source == "project.norm")
    assert ranges[norm] == pytest.approx(((beta - 4 * gamma).min(), (beta + 4 * gamma).max()))
    clamp = next(node.output for node in network.nodes if node.source == "expand.relu6")
    assert ranges[clamp][0] == 0.0 and 0.0 < ranges[clamp][1] <= 6.0
    assert normal_ranges(simplify(network)) == {}


def test_measured_ranges_are_only_ever_widened() -> None:
    wide = widened({"a": (-1.0, 2.0), "b": (0.0, 3.0), "z": (-1.0, 4.0)}, {"a": (-3.0, 1.0)}, "z")
    assert wide == {"a": (-3.0, 2.0), "b": (0.0, 3.0), "z": (-2.0, 8.0)}


@pytest.mark.parametrize("refine", ["bias", "full", "auto"])
def test_no_pictures_are_needed(refine: str) -> None:
    network, fresh = small_network(2), pictures(32, seed=7)
    converted = static(network, None, refine=refine)
    assert {mode(converted, node) for node in converted.nodes} == {"integer"}
    ratio = sqnr(real_logits(network, fresh), real_logits(converted, fresh))
    assert ratio is not None and ratio > 20
    assert "drawn pictures" in converted.history[-1]


def test_reconstruction_on_drawn_pictures_helps_dynamic_graphs() -> None:
    network, fresh = small_network(2), pictures(48, seed=7)
    ratios = [
        sqnr(real_logits(network, fresh), real_logits(dynamic(network, refine=refine), fresh))
        for refine in ("none", "full")
    ]
    assert ratios[1] > ratios[0]
    report = report_of(dynamic(network, drawn_for(simplify(network), 8), refine="full"))
    assert report is not None and report.settings["calibration pictures"] == 8 and len(report.decisions) == 6


def test_equalisation_without_pictures_is_refused() -> None:
    with pytest.raises(OptionError, match="needs calibration pictures"):
        static(small_network(), None, refine="equalize+round")


def test_the_executor_takes_drawn_pictures() -> None:
    network = simplify(small_network())
    assert np.isfinite(execute.run(network, drawn_for(network, 2))[network.outputs[0]]).all()
