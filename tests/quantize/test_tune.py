"""Fine-tuning of a quantised network as a whole, without labels."""

from __future__ import annotations

import numpy as np
import pytest

from millijoule import execute
from millijoule.errors import OptionError, QuantizationError
from millijoule.graph import WEIGHT_AXIS, Graph, mode, simplify
from millijoule.graph.conversion import integer_graph
from millijoule.quantize import dynamic, mixed, refine, report_of, static
from millijoule.quantize.compare import sqnr
from millijoule.quantize.qat import first_difference
from millijoule.quantize.reconstruct import reconstruct
from millijoule.quantize.static import calibrate, ranges_from
from millijoule.quantize.tune import TuneOptions, _module, tune

from .networks import pictures, real_logits, small_network

BITS = {"expand": 4, "project": 4, "head": 4}
QUICK = TuneOptions(steps=40, batch_size=16)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def network() -> Graph:
    return simplify(small_network(5, dead_channel=True))


def reconstructed(network: Graph, bits: int | dict[str, int], per_channel: bool = True) -> Graph:
    ranges = ranges_from(network, calibrate(network, pictures(64)), "mse")
    plain = integer_graph(network, ranges, weight_bits=bits, per_channel=per_channel, rounding="double")
    return reconstruct(network, plain, pictures(64))[0]


def nearest(network: Graph) -> Graph:
    ranges = ranges_from(network, calibrate(network, pictures(64)), "mse")
    return integer_graph(network, ranges, weight_bits=4, rounding="double")


def weights(graph: Graph) -> dict[str, np.ndarray]:
    return {node.source: graph.constant(node.inputs[1]) for node in graph.nodes if node.op in WEIGHT_AXIS}


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("bits", [8, 4, BITS])
def test_training_starts_from_the_very_integers_that_were_given(
    network: Graph, bits: int | dict[str, int], per_channel: bool
) -> None:
    given = reconstructed(network, bits, per_channel)
    module = _module(network, given).eval()
    begun = module.to_integer()
    for name, value in weights(begun).items():
        np.testing.assert_array_equal(value, weights(given)[name], err_msg=name)
    for node in given.nodes:
        if given.tensor(node.output).quant is not None:
            assert begun.quant(node.output).scalar_scale == pytest.approx(given.quant(node.output).scalar_scale)
            assert begun.quant(node.output).zero_point == given.quant(node.output).zero_point
    fresh = pictures(32, seed=9)
    assert np.abs(real_logits(begun, fresh) - real_logits(given, fresh)).max() < 0.02 * np.ptp(
        real_logits(given, fresh)
    )


def test_four_bits_come_nearer_to_float_on_pictures_they_have_not_seen() -> None:
    network = simplify(small_network(3))
    given = nearest(network)
    result, told = tune(network, given, pictures(64), QUICK)
    fresh = pictures(96, seed=9)
    reference = real_logits(network, fresh)
    before, after = (sqnr(reference, real_logits(graph, fresh)) for graph in (given, result))
    assert before is not None and after is not None and after > before + 3.0
    assert told.kept and told.after < told.before
    assert sum(moved for moved, _ in told.moved.values()) > 0
    assert {mode(result, node) for node in result.nodes} == {"integer"}
    assert result.rounding == given.rounding == "double"
    assert all(result.quant(node.inputs[1]).bits == 4 for node in result.nodes if node.op in WEIGHT_AXIS)


def test_the_same_seed_gives_the_same_network_and_another_one_another(network: Graph) -> None:
    given = nearest(network)
    (first, told), again, other = (
        tune(network, given, pictures(16), TuneOptions(steps=6, batch_size=8, seed=seed)) for seed in (0, 0, 1)
    )
    assert told.kept and again[1] == told
    again, other = again[0], other[0]
    assert all(np.array_equal(value, again.constant(name)) for name, value in first.constants.items())
    assert any(not np.array_equal(value, other.constant(name)) for name, value in first.constants.items())


def test_the_result_is_the_module_bit_for_bit(network: Graph) -> None:
    result, _ = tune(network, reconstructed(network, BITS), pictures(32), TuneOptions(steps=4, batch_size=8))
    again = _module(network, result).eval()
    assert first_difference(again, again.to_integer(), pictures(16, seed=3)) == "none"


def test_a_network_that_comes_out_worse_is_given_back_as_it_came(network: Graph) -> None:
    given = reconstructed(network, 8)
    result, told = tune(network, given, pictures(16), TuneOptions(steps=8, batch_size=8, learning_rate=0.3))
    assert not told.kept and told.after > told.before
    assert result is given
    assert sum(moved for moved, _ in told.moved.values()) == 0


def test_static_and_mixed_apply_it_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, seen, told = small_network(5), pictures(32), []
    monkeypatch.setattr(refine, "TuneOptions", lambda: TuneOptions(steps=12, batch_size=8))
    chosen = static(
        graph,
        seen,
        refine="adjust+clip+round+tune",
        weight_bits=BITS,
        progress=lambda what, done, total: told.append((what, done, total)),
    )
    report = report_of(chosen)
    assert report is not None and report.refinements == ("adjust", "clip", "round", "tune")
    assert report.decisions[-1].what == "tune" and "weights are other integers" in report.decisions[-1].why
    assert told[-1] == ("fine-tune", 12, 12)
    assert "weights of 4 bits in 3 layers" in chosen.history[-1]
    found = mixed(graph, seen, budget_share=80, tune=TuneOptions(steps=3, batch_size=4))
    assert found.report.refinements[-1] == "tune"
    assert found.bytes <= 0.8 * found.bytes_at_eight
    assert execute.predict(found.graph, seen).shape == (32,)


def test_what_cannot_be_tuned_is_refused(network: Graph) -> None:
    with pytest.raises(QuantizationError, match="no pictures"):
        tune(network, reconstructed(network, 4), pictures(4)[:0])
    with pytest.raises(QuantizationError, match="integer throughout"):
        tune(network, dynamic(network), pictures(4))
    for bad in ({"steps": 0}, {"learning_rate": 0.0}, {"blocks": -1.0}, {"batch_size": 0}):
        with pytest.raises(OptionError):
            TuneOptions(**bad)
