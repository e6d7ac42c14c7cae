"""The comparison's figures against hand calculation, and on real graphs."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest

from millijoule import execute
from millijoule.errors import DataError, OptionError
from millijoule.graph import simplify
from millijoule.graph.conversion import integer_graph
from millijoule.quantize import Compiled, bits_of_weights, compare, dynamic, flash_bytes, layer_snr, static
from millijoule.quantize.compare import paired_interval, sqnr, wilson
from millijoule.quantize.static import calibrated_tensors

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
    models = {"float": network, "dynamic": dynamic(network, refine="bias"), "static": static(network, pictures(32))}
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
    row = compare({"a": network}, split, tflite_bytes=lambda graph: 7, compiled=lambda _: Compiled(5, 6)).models[0]
    assert (row.tflite_bytes, row.compiled) == (7, Compiled(5, 6))
    weights = 8 * 27 + 24 * 8 + 24 * 9 + 8 * 24 + 32 * 8 + 5 * 32
    channels = 8 + 24 + 24 + 8 + 32 + 5
    assert row.flash_bytes == 4 * (weights + channels)
    # int8 weights, int32 bias, int32 multiplier and int8 shift per channel, one table of 256 for the picture
    assert flash_bytes(static(network, pictures(8))) == weights + channels * (4 + 5) + 256
    assert flash_bytes(dynamic(network, refine="bias")) == weights + channels * (4 + 4)


def test_bits_of_weights_are_weighted_by_their_number() -> None:
    network = simplify(small_network())
    assert bits_of_weights(network) == (32.0, {32: 6})
    ranges = dict.fromkeys(calibrated_tensors(network), (-4.0, 4.0))
    mixture = integer_graph(network, ranges, weight_bits={"last": 4, "head": 4})
    weights, narrow = 8 * 27 + 24 * 8 + 24 * 9 + 8 * 24 + 32 * 8 + 5 * 32, 32 * 8 + 5 * 32
    assert bits_of_weights(mixture) == (pytest.approx(8 - 4 * narrow / weights), {4: 2, 8: 4})


def test_every_changed_prediction_is_listed_with_its_row() -> None:
    network = small_network()
    batch, labels = pictures(60, seed=1), np.arange(60) % 5
    models = {"float": network, "other": small_network(seed=1), "same": network}
    table = compare(models, Labelled(batch, labels), limit=30)
    rows = np.linspace(0, 59, 30).round().astype(int)
    exact, other = (execute.predict(simplify(models[name]), batch[rows]) for name in ("float", "other"))
    found = [(item.row, item.label, item.reference, item.models) for item in table.changes]
    expected = [
        (int(row), int(labels[row]), int(exact[index]), {"other": int(other[index])})
        for index, row in enumerate(rows)
        if exact[index] != other[index]
    ]
    assert found == expected and len(found) == table.models[1].changed
    assert table.models[2].changed == 0 and table.models[2].logits_sqnr is None


def test_equalised_layers_are_not_compared_in_other_units() -> None:
    network, batch = small_network(), pictures(6, seed=5)
    plain = {item.layer: item.sqnr for item in layer_snr(network, static(network, pictures(16)), batch)}
    full = {item.layer: item.sqnr for item in layer_snr(network, static(network, pictures(16), refine="full"), batch)}
    assert set(full) < set(plain) and "head" in full
    assert all(level is not None and level > 30 for level in full.values())


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
    with pytest.raises(DataError, match="its input is 16x16x3 and the pictures are 12x12x3"):
        compare({"a": small_network(size=16)}, split)
    with pytest.raises(DataError, match="knows 5 classes and the pictures have at least 7"):
        compare({"a": network}, Labelled(pictures(4), np.full(4, 6)))
    with pytest.raises(DataError, match="there are none"):
        compare({"a": network}, Labelled(pictures(4)[:0], np.zeros(0, np.int64)))
    with pytest.raises(OptionError, match="limit"):
        compare({"a": network}, split, limit=0)
