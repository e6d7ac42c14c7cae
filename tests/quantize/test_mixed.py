"""Mixed precision: budgets are kept, more of it never hurts, refusals name what stands in the way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millijoule import execute
from millijoule.errors import OptionError, QuantizationError
from millijoule.graph import WEIGHT_AXIS, Graph, simplify
from millijoule.graph.conversion import integer_graph
from millijoule.quantize import flash_bytes, mixed, report_of
from millijoule.quantize.layerwise import FLOAT, Simulation, noise
from millijoule.quantize.mixed_search import Layers, MixedSearch
from millijoule.quantize.static import calibrate, ranges_from

from .networks import pictures, small_network


class Table:
    """Noise that is nearly a sum over the layers: some pairs disturb each other."""

    def __init__(self, seed: int, names: list[str]) -> None:
        random = np.random.default_rng(seed)
        self.single = dict(zip(names, random.exponential(size=len(names)), strict=True))
        self.pair = random.exponential(size=(len(names), len(names))) * 0.2
        self.names = names

    def error(self, bits: dict[str, int]) -> float:
        four = [name for name in self.names if bits[name] == 4]
        rows = [self.names.index(name) for name in four]
        return 0.1 + sum(self.single[name] for name in four) + float(self.pair[np.ix_(rows, rows)].sum())

    def changed(self, bits: dict[str, int], layers: list[str], to: int) -> dict[str, float]:
        return {name: self.error({**bits, name: to}) for name in layers}


def drawn(seed: int) -> tuple[list[str], Table, Layers]:
    random = np.random.default_rng(seed)
    names = [f"layer {index}" for index in range(int(random.integers(2, 12)))]
    saved = {name: int(size) for name, size in zip(names, random.integers(1, 1000, len(names)), strict=True)}
    saved.pop(names[0])
    extra = {name: int(random.integers(0, 50)) for name in saved}
    return names, Table(seed, names), Layers(saved, sum(saved.values()) * 3, extra, 10_000)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_budgets_are_kept_and_more_of_it_never_gives_more_noise(seed: int) -> None:
    names, table, layers = drawn(seed)
    search = MixedSearch(table, names, layers)
    assert search.best(search.least_bytes - 1) is None
    smaller = None
    for budget in np.linspace(search.least_bytes, layers.bytes_at_eight, 9).astype(int):
        point = search.best(int(budget))
        assert point is not None
        assert point.bytes <= budget
        assert names[0] not in point.four
        assert point.bytes == layers.bytes_at_eight - sum(layers.saved[name] for name in point.four)
        assert point.error == table.error({name: 4 if name in point.four else 8 for name in names})
        assert smaller is None or point.error <= smaller
        smaller = point.error
    assert search.best(layers.bytes_at_eight).four == frozenset()
    ends = [(point.bytes, point.error) for point in search.frontier]
    assert ends == sorted(ends)
    assert [error for _, error in ends] == sorted((error for _, error in ends), reverse=True)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.0, 1.0))
def test_both_budgets_together_and_twice_the_same_result(seed: int, share: float) -> None:
    names, table, layers = drawn(seed)
    budget = int(layers.bytes_at_eight * (1 - share / 4))
    first, second = (MixedSearch(table, names, layers).best(budget, 10_060) for _ in range(2))
    assert first == second
    if first is not None:
        assert first.bytes <= budget
        assert first.cycles == 10_000 + sum(layers.cycles[name] for name in first.four) <= 10_060


def test_small_searches_are_close_to_the_best_of_all() -> None:
    """Against all choices: equal in most of the drawn cases, never worse than a third."""
    worst, equal = 1.0, 0
    for seed in range(40):
        names, table, layers = drawn(seed)
        candidates = list(layers.saved)
        budget = layers.bytes_at_eight - sum(layers.saved.values()) // 2
        found = MixedSearch(table, names, layers).best(budget)
        assert found is not None
        least = np.inf
        for code in range(2 ** len(candidates)):
            four = {name for index, name in enumerate(candidates) if code >> index & 1}
            if layers.bytes_at_eight - sum(layers.saved[name] for name in four) <= budget:
                least = min(least, table.error({name: 4 if name in four else 8 for name in names}))
        worst, equal = max(worst, found.error / least), equal + (found.error == pytest.approx(least))
    assert equal >= 30
    assert worst < 1.34


def converted(graph: Graph, batch: np.ndarray) -> dict[int, Graph]:
    ranges = ranges_from(graph, calibrate(graph, batch), "mse")
    return {bits: integer_graph(graph, ranges, weight_bits=bits) for bits in (8, 4)}


def test_the_simulation_is_the_integer_executor_up_to_rounding() -> None:
    graph, batch = simplify(small_network()), pictures(24)
    models = converted(graph, batch)
    simulation = Simulation(graph, models, batch)
    exact = execute.run(graph, batch)[graph.outputs[0]]
    np.testing.assert_allclose(simulation.reference, exact, atol=1e-4)
    for bits, model in models.items():
        quant = model.quant(model.outputs[0])
        stored = execute.run(model, batch)[model.outputs[0]].astype(np.float64)
        real = (stored - quant.scalar_zero_point) * quant.scalar_scale
        simulated = simulation.run(simulation.all(bits))
        steps = np.abs(real - simulated) / quant.scalar_scale
        assert np.mean(steps > 0.5) < 0.5
        assert steps.max() < 4
        assert noise(exact, simulated) == pytest.approx(noise(exact, real), rel=0.6)


def test_a_branch_is_a_run_with_one_layer_changed() -> None:
    graph, batch = simplify(small_network()), pictures(11)
    simulation = Simulation(graph, converted(graph, batch), batch)
    base = {name: 4 if index % 2 else 8 for index, name in enumerate(simulation.layers)}
    found = list(simulation.branches(base, dict.fromkeys(simulation.layers, (4, 8, FLOAT))))
    assert [(branch.layer, branch.bits) for branch in found] == [
        (layer, bits) for layer in simulation.layers for bits in (4, 8, FLOAT)
    ]
    for branch in found:
        np.testing.assert_array_equal(branch.logits, simulation.run({**base, branch.layer: branch.bits}))


def test_a_network_within_its_budget() -> None:
    network, batch = small_network(), pictures(32)
    names = [node.source for node in simplify(network).nodes if node.op in WEIGHT_AXIS]
    loose = mixed(network, batch, budget_bytes=10**9)
    assert loose.least_bytes <= loose.bytes <= loose.bytes_at_eight
    budget = (loose.bytes_at_eight + loose.least_bytes) // 2
    calls: list[str] = []
    found = mixed(
        network,
        batch,
        budget_bytes=budget,
        refusals=lambda graph: {"first": "it is read as whole bytes"},
        progress=lambda what, done, total: calls.append(what),
    )
    assert flash_bytes(found.graph) == found.bytes <= budget
    assert list(found.weight_bits) == names
    assert found.weight_bits["first"] == 8
    assert 4 in found.weight_bits.values()
    for node in found.graph.nodes:
        if node.op in WEIGHT_AXIS:
            assert found.graph.quant(node.inputs[1]).bits == found.weight_bits[node.source]
    report = report_of(found.graph)
    assert report is not None
    chosen = {decision.layer: decision for decision in report.decisions if decision.what == "bits"}
    assert list(chosen) == names
    assert not chosen["first"].kept
    assert "whole bytes" in chosen["first"].why
    assert not chosen["depthwise"].kept
    assert "mixed precision" in calls
    again = mixed(network, batch, budget_bytes=budget, refusals=lambda graph: {"first": "it is read as whole bytes"})
    assert again.weight_bits == found.weight_bits
    assert all(np.array_equal(value, again.graph.constants[name]) for name, value in found.graph.constants.items())
    assert found.sqnr is not None
    assert loose.sqnr is not None
    assert 5.0 < found.sqnr < loose.sqnr


def test_exact_sizes_decide() -> None:
    """The measured size is larger than half a byte per weight tells: more layers get 4 bits until it fits."""
    network, batch = small_network(), pictures(16)
    plain = mixed(network, batch, budget_bytes=10**9)
    budget = (plain.bytes_at_eight + plain.least_bytes) // 2

    def padded(graph: Graph) -> int:
        four = sum(graph.quant(node.inputs[1]).bits == 4 for node in graph.nodes if node.op in WEIGHT_AXIS)
        return flash_bytes(graph) + 17 * four

    found = mixed(network, batch, budget_bytes=budget, size=padded)
    assert padded(found.graph) == found.bytes <= budget


def test_cycles() -> None:
    network, batch = small_network(), pictures(16)
    slow = ""

    def cycles(graph: Graph) -> dict[tuple[str, ...], int]:
        """A cycle for each weight of 4 bits, in the slow layer fifty; depthwise and pointwise are one group."""
        found: dict[tuple[str, ...], int] = {(): 1000, ("depthwise", "pointwise"): 0}
        for node in graph.nodes:
            if node.op in WEIGHT_AXIS:
                key = next((group for group in found if node.source in group), (node.source,))
                four = graph.quant(node.inputs[1]).bits == 4
                each = 50 if node.source == slow else 1
                found[key] = found.get(key, 0) + four * each * graph.constant(node.inputs[1]).size
        return found

    plain = mixed(network, batch, budget_bytes=10**9)
    budget = (plain.bytes_at_eight + plain.least_bytes) // 2
    with pytest.raises(QuantizationError, match="1,000 cycles"):
        mixed(network, batch, budget_bytes=budget, budget_cycles=1000, cycles=cycles)
    found = mixed(network, batch, budget_bytes=budget, budget_cycles=1700, cycles=cycles)
    assert found.cycles is not None
    assert sum(cycles(found.graph).values()) == found.cycles <= 1700
    assert found.bytes <= budget
    slow = next(name for name, bits in found.weight_bits.items() if bits == 4)
    other = mixed(network, batch, budget_bytes=(plain.bytes_at_eight + budget) // 2, budget_cycles=1700, cycles=cycles)
    assert other.weight_bits[slow] == 8 and 4 in other.weight_bits.values()


def test_what_cannot_be_done() -> None:
    network, batch = small_network(), pictures(16)
    with pytest.raises(OptionError, match="budget"):
        mixed(network, batch)
    with pytest.raises(OptionError, match="cycles"):
        mixed(network, batch, budget_cycles=1000)
    with pytest.raises(QuantizationError, match="too few"):
        mixed(network, batch[:4], budget_bytes=1000)
    with pytest.raises(QuantizationError, match=r"least possible.*head \(it is read as whole bytes\)"):
        mixed(network, batch, budget_bytes=500, refusals=lambda graph: {"head": "it is read as whole bytes"})
