"""Plans for little memory: no larger than the usual ones, within their budget, and with the same results."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from by_hand import Net
from millijoule.boards import load_board
from millijoule.build.host import build_host
from millijoule.compile import Program, compile_graph
from millijoule.compile.finder import find_blocks
from millijoule.compile.legal import row_layers
from millijoule.compile.objective import OBJECTIVES, options_for, planned
from millijoule.compile.options import DEFAULTS, PlanOptions
from millijoule.compile.schedule import joints
from millijoule.errors import OptionError, PlacementError
from millijoule.execute import run
from millijoule.graph import Graph, simplify, verify
from networks import any_network, random_network, random_pictures

NAMES = ["inverted", "separable", "shortcut", "inverted", "downsample", "inverted", "pointwise"]


def least_by_trying(graph: Graph) -> int:
    """The smallest arena of all sets of joined blocks, with the smallest chunks."""
    able = row_layers(graph)
    maps = sorted(joints(graph, find_blocks(graph, able)))
    small = options_for(graph, "dsp", able, "ram")
    tight = replace(small.default, chunk_pixels=4, filter_pixels=4, flat_bytes=0)
    sets = itertools.chain.from_iterable(itertools.combinations(maps, count) for count in range(len(maps) + 1))
    return min(
        planned(graph, "dsp", able, PlanOptions(tight, unstored=frozenset(names)))[1].arena_bytes for names in sets
    )


def same_bits(program: Program, graph: Graph) -> None:
    pictures = random_pictures(graph, 2)
    got, expected = build_host(program).run(pictures)["logits"], run(graph, pictures)[graph.outputs[0]]
    np.testing.assert_array_equal(got, expected.reshape(got.shape))


@pytest.mark.parametrize("seed", range(12))
def test_no_objective_and_no_budget_changes_a_bit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = any_network(seed + 1000)
    usual = compile_graph(graph, self_test=False)
    least = compile_graph(graph, self_test=False, objective="ram").arena_bytes
    assert least <= usual.arena_bytes
    budget = max(1, round(least + rng.uniform(0.0, 1.2) * (usual.arena_bytes - least)))
    for objective in OBJECTIVES:
        program = compile_graph(graph, self_test=False, objective=objective, ram_budget=budget)
        assert program.arena_bytes <= budget
        same_bits(program, graph)


@pytest.mark.parametrize("seed", range(6))
def test_the_smallest_arena_is_as_small_as_any_set_of_joined_blocks_gives(seed: int) -> None:
    graph = simplify(verify(random_network(NAMES, seed, size=(26, 22, 3))))
    able = row_layers(graph)
    found = planned(graph, "dsp", able, options_for(graph, "dsp", able, "ram"))[1].arena_bytes
    assert found <= least_by_trying(graph)


def test_every_budget_down_to_the_least_is_kept_and_the_next_byte_refused() -> None:
    graph = simplify(verify(random_network(["inverted"] * 5, 7, size=(40, 40, 3))))
    able = row_layers(graph)
    usual = planned(graph, "dsp", able, DEFAULTS)[1].arena_bytes
    least = planned(graph, "dsp", able, options_for(graph, "dsp", able, "ram"))[1].arena_bytes
    assert least < usual
    for budget in np.linspace(least, usual, 9).astype(int).tolist():
        options = options_for(graph, "dsp", able, "cycles", budget)
        assert planned(graph, "dsp", able, options)[1].arena_bytes <= budget
    assert options_for(graph, "dsp", able, "cycles", usual) is DEFAULTS
    with pytest.raises(PlacementError, match=f"less than {least:,} bytes; the peak is in '"):
        options_for(graph, "dsp", able, "cycles", least - 1)
    with pytest.raises(PlacementError):
        options_for(graph, "dsp", able, "ram", least - 1)


def test_more_memory_costs_no_more_calls() -> None:
    """What a looser budget chooses has chunks at least as large, summed over the blocks."""
    graph = simplify(verify(random_network(["inverted"] * 5, 7, size=(40, 40, 3))))
    able = row_layers(graph)
    usual = planned(graph, "dsp", able, DEFAULTS)[1].arena_bytes
    least = planned(graph, "dsp", able, options_for(graph, "dsp", able, "ram"))[1].arena_bytes
    loose = options_for(graph, "dsp", able, "cycles", usual - 8)
    tight = options_for(graph, "dsp", able, "cycles", least)

    def chunks(options: PlanOptions) -> int:
        return sum(options.of(block.output).filter_pixels for block in find_blocks(graph, able))

    assert chunks(loose) >= chunks(tight)


def test_a_picture_that_need_not_be_stored_is_named_as_a_way_out() -> None:
    net = Net((48, 48, 3))
    graph = net.build(net.inverted(net.same(net.x, 8, stride=2), 24, 8, stride=2))
    stream = PlanOptions(stream=True)
    least = compile_graph(graph, self_test=False, objective="ram").arena_bytes
    by_rows = compile_graph(graph, self_test=False, objective="ram", options=stream).arena_bytes
    assert by_rows < least
    promise = f"row by row, --stream \\({by_rows:,} bytes\\)"
    with pytest.raises(PlacementError, match=promise):
        compile_graph(graph, self_test=False, ram_budget=by_rows)
    assert compile_graph(graph, self_test=False, ram_budget=by_rows, options=stream).arena_bytes == by_rows
    with pytest.raises(PlacementError) as caught:
        compile_graph(graph, self_test=False, ram_budget=by_rows - 1, options=stream)
    assert "--stream" not in caught.value.fix


def test_float_and_dynamic_networks_have_one_plan() -> None:
    for kind in ("float", "dynamic"):
        graph = random_network(["conv", "depthwise", "pointwise"], 1, kind)
        usual = compile_graph(graph, self_test=False).arena_bytes
        assert compile_graph(graph, self_test=False, objective="ram").arena_bytes == usual
        with pytest.raises(PlacementError, match="within 1 bytes"):
            compile_graph(graph, self_test=False, ram_budget=1)


def test_a_model_that_only_fits_with_little_memory_is_told_so() -> None:
    graph = random_network(["inverted"] * 3, 7, size=(40, 40, 3))
    able = row_layers(simplify(verify(graph)))
    usual = planned(simplify(verify(graph)), "dsp", able, DEFAULTS)[1].arena_bytes
    least = compile_graph(graph, self_test=False, objective="ram").arena_bytes
    board = load_board("stm32l4r9i")
    small = tuple(replace(memory, size=16384 + (least + usual) // 2) for memory in board.memories)
    board = replace(board, memories=small)
    with pytest.raises(PlacementError, match="the objective ram"):
        compile_graph(graph, board, self_test=False)
    assert compile_graph(graph, board, self_test=False, objective="ram").arena_bytes == least


def test_wrong_objectives_and_budgets_are_refused() -> None:
    graph = random_network(["conv"], 1)
    with pytest.raises(OptionError, match="objective 'speed'"):
        compile_graph(graph, objective="speed")
    with pytest.raises(OptionError, match="budget 0"):
        compile_graph(graph, ram_budget=0)
