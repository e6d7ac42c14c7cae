"""The comparison's figures against hand calculation, and on real graphs."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest

from millijoule import execute
from millijoule.errors import DataError, OptionError
from millijoule.graph import simplify
from millijoule.quantize import compare, dynamic, flash_bytes, static
from millijoule.quantize.compare import paired_interval, sqnr, wilson

from .networks import pictures, small_network


@dataclass(frozen=True)
class Labelled:
    pictures: np.ndarray
    labels: np.ndarray


def test_wilson_interval_of_the_reference_model() -> None:
    interval = wilson(1139, 1392)
    assert (round(interval.low, 1), round(interval.high, 1)) == (79.7, 83.8)
    assert wilson(0, 10).low == 0.0
    assert wilson(10, 10).high == pytest.approx(100.0)


def test_paired_interval_against_the_published_row() -> None:
    # ai-edge-quantizer, XNNPACK: 53 lost, 31 won of 1,392: -1.58 +-1.29
    interval = paired_interval(53, 31, 1392)
    assert (interval.low + interval.high) / 2 == pytest.approx(-1.58, abs=0.005)
    assert (interval.high - interval.low) / 2 == pytest.approx(1.29, abs=0.005)


def test_sqnr_of_known_noise() -> None:
    signal = np.full(100, 10.0)
    assert sqnr(signal, signal + 0.1) == pytest.approx(40.0)
    assert sqnr(signal, signal) is None


def test_comparison_agrees_with_the_executors() -> None:
    network = small_network()
    batch = pictures(40, seed=3)
    labels = np.random.default_rng(0).integers(0, 5, 40)
    models = {"float": network, "dynamic": dynamic(network), "static": static(network, pictures(32))}
    table = compare(models, Labelled(batch, labels), batch=8)
    assert table.reference == "float"
    assert [row.kind for row in table.models] == ["float", "dynamic", "integer"]
    exact = execute.predict(network, batch)
    for row in table.models:
        predicted = execute.predict(simplify(models[row.name]), batch)
        assert row.correct == (predicted == labels).sum()
        assert np.trace(np.array(row.confusion)) == row.correct
        assert np.array(row.confusion).sum(axis=1).tolist() == np.bincount(labels, minlength=5).tolist()
        if row.name != "float":
            assert row.changed == (predicted != exact).sum()
            assert row.difference == pytest.approx(row.accuracy - table.models[0].accuracy)
            assert row.lost <= row.changed
    assert table.models[0].changed is None
    assert json.loads(json.dumps(table.to_json()))["models"][2]["name"] == "static"


def test_sizes_come_from_the_callables_and_the_graph() -> None:
    network = small_network()
    split = Labelled(pictures(4), np.zeros(4, np.int64))
    row = compare({"a": network}, split, tflite_bytes=lambda graph: 7, activation_bytes=lambda graph: None).models[0]
    assert (row.tflite_bytes, row.activation_bytes) == (7, None)
    weights = 8 * 27 + 24 * 8 + 24 * 9 + 8 * 24 + 32 * 8 + 5 * 32
    channels = 8 + 24 + 24 + 8 + 32 + 5
    assert row.flash_bytes == 4 * (weights + channels)
    # int8 weights, int32 bias, int32 multiplier and int8 shift per channel, one table of 256 for the picture
    assert flash_bytes(static(network, pictures(8))) == weights + channels * (4 + 5) + 256
    assert flash_bytes(dynamic(network)) == weights + channels * (4 + 4)


def test_limit_takes_pictures_evenly_and_only_those() -> None:
    network = small_network()
    batch, labels = pictures(30), np.arange(30) % 5
    rows = np.linspace(0, 29, 7).round().astype(int)
    row = compare({"a": network}, Labelled(batch, labels), limit=7).models[0]
    assert row.correct == (execute.predict(network, batch[rows]) == labels[rows]).sum()


def test_bad_requests_are_refused() -> None:
    network = small_network()
    split = Labelled(pictures(4), np.zeros(4, np.int64))
    with pytest.raises(OptionError, match="no models"):
        compare({}, split)
    with pytest.raises(OptionError, match="there is no model 'x'"):
        compare({"a": network}, split, reference="x")
    with pytest.raises(OptionError, match="not those of 'a'"):
        compare({"a": network, "b": small_network(classes=3)}, split)
    with pytest.raises(DataError, match="there are none"):
        compare({"a": network}, Labelled(pictures(4)[:0], np.zeros(0, np.int64)))
    with pytest.raises(OptionError, match="limit"):
        compare({"a": network}, split, limit=0)
