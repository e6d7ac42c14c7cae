"""The search for the fastest options: resumes, keeps results, and is never slower than the defaults."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from millijoule.build.host import build_host
from millijoule.compile import compile_graph
from millijoule.compile.finder import find_blocks
from millijoule.compile.legal import row_layers
from millijoule.compile.options import DEFAULTS, PlanOptions, RowOptions
from millijoule.compile.recorded import differences, from_differences, recorded_for, shape_key, with_winners
from millijoule.deploy import tune
from millijoule.deploy.tuning import CANDIDATES
from millijoule.errors import OptionError
from millijoule.execute import run
from millijoule.graph import Graph, simplify, verify
from networks import random_network, random_pictures

BOARD = "stm32l4r9i"


def wide() -> Graph:
    """Rows that are longer than a chunk."""
    return random_network(["inverted", "inverted"], 2, size=(20, 36, 3))


def blocks(graph: Graph) -> list[str]:
    return [shape_key(graph, block) for block in find_blocks(graph, row_layers(graph))]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place for timings, and few candidates."""
    pytest.importorskip("unicorn")
    pytest.importorskip("ziglang")
    monkeypatch.setattr("millijoule.deploy.tuning.cache_folder", lambda *_: tmp_path)
    monkeypatch.setattr("millijoule.deploy.tuning.CANDIDATES", {"filter_pixels": (8, 16)})
    return tmp_path


def test_a_search_resumes_and_is_not_repeated(cache: Path) -> None:
    graph = wide()
    told: list[int] = []

    def interrupt(what: str, done: int, total: int) -> None:
        told.append(done)
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(graph, BOARD, progress=interrupt)
    kept = len(list(cache.glob("*.json")))
    assert told == [1, 2] and kept >= 1 and not list(cache.glob("*.partial"))
    found = tune(graph, BOARD)
    assert found.traced == found.tried - kept and found.tried >= 3
    next(cache.glob("*.json")).write_text("{", encoding="utf-8")
    again = tune(graph, BOARD)
    assert again.traced == 1 and (again.winners, again.cycles_after) == (found.winners, found.cycles_after)
    assert found.cycles_after <= found.cycles_before and (found.gain > 0) == bool(found.winners)
    program = compile_graph(graph, BOARD, self_test=False, winners=found.winners)
    assert program.arena_bytes <= compile_graph(graph, BOARD, self_test=False, winners={}).arena_bytes
    pictures = random_pictures(graph, 2)
    got, expected = build_host(program).run(pictures)["logits"], run(graph, pictures)[graph.outputs[0]]
    np.testing.assert_array_equal(got, expected.reshape(got.shape))


def test_winners_belong_to_shapes_and_never_make_the_arena_larger() -> None:
    graph = simplify(verify(wide()))
    able = row_layers(graph)
    keys = blocks(graph)
    small = dict.fromkeys(keys, RowOptions(filter_pixels=8))
    options = with_winners(graph, "dsp", able, DEFAULTS, small)
    assert {options.of(block.output).filter_pixels for block in find_blocks(graph, able)} == {8}
    own = PlanOptions(blocks={find_blocks(graph, able)[0].output: RowOptions(filter_pixels=12)})
    assert with_winners(graph, "dsp", able, own, small).of(next(iter(own.blocks))).filter_pixels == 12
    assert with_winners(graph, "dsp", able, DEFAULTS, {"another shape": RowOptions()}) is DEFAULTS
    longer = random_network(["inverted", "inverted"], 2, size=(40, 148, 3))
    most = RowOptions(filter_pixels=112, chunk_pixels=112, chunk_bytes=1 << 20, flat_bytes=1 << 20)
    large = dict.fromkeys(blocks(simplify(verify(longer))), most)
    usual = compile_graph(longer, transpose=False, self_test=False, winners={}).arena_bytes
    assert compile_graph(longer, transpose=False, self_test=False, winners=large).arena_bytes <= usual
    roomy = compile_graph(longer, transpose=False, self_test=False, winners=large, ram_budget=10 * usual)
    assert usual < roomy.arena_bytes <= 10 * usual
    other = random_network(["inverted", "inverted"], 2, size=(20, 37, 3))
    assert not set(blocks(other)) & set(keys)


def test_what_is_recorded_can_be_read() -> None:
    from millijoule.boards import board_names, load_board

    assert recorded_for(None, "dsp") == {}
    for name in board_names():
        board = load_board(name)
        assert recorded_for(board, "plain") == {}
        for key, options in recorded_for(board, "dsp").items():
            assert key.split("; ")[-1] in ("single", "double", "mulhi") and differences(options)
            assert from_differences(differences(options)) == options
            assert all(options.as_dict()[knob] in CANDIDATES[knob] for knob in differences(options))


def test_this_computer_cannot_be_tuned() -> None:
    with pytest.raises(OptionError, match="no cycles"):
        tune(wide(), "host")
