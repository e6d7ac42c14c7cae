"""Options of blocks change the plan and never a bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millijoule.build.host import build_host
from millijoule.compile import compile_graph
from millijoule.compile.finder import find_blocks
from millijoule.compile.legal import row_layers
from millijoule.compile.options import DEFAULTS, PlanOptions, RowOptions
from millijoule.errors import OptionError
from millijoule.execute import run
from networks import any_network, random_network, random_pictures

PIXELS = st.sampled_from([4, 8, 12, 28, 112])
OPTIONS = st.builds(
    RowOptions,
    chunk_pixels=PIXELS,
    chunk_bytes=st.sampled_from([0, 512, 8192]),
    filter_pixels=PIXELS,
    slice_channels=st.sampled_from([0, 2, 6, 16]),
    patch_pixels=st.sampled_from([0, 4, 8, 16]),
    flat_bytes=st.sampled_from([0, 1024, 1 << 20]),
    join=st.booleans(),
    stage=st.booleans(),
)


@given(st.data())
@settings(max_examples=12, deadline=None)
def test_no_option_changes_a_bit(data: Any) -> None:
    graph = any_network(data.draw(st.integers(0, 400)))
    found = find_blocks(graph, row_layers(graph))
    own = {block.output: data.draw(OPTIONS) for block in found}
    unstored = data.draw(st.sampled_from([None, frozenset(), frozenset(graph.tensors)]))
    program = compile_graph(graph, self_test=False, options=PlanOptions(blocks=own, unstored=unstored))
    pictures = random_pictures(graph, 2)
    expected, got = run(graph, pictures), build_host(program).run(pictures)
    assert np.array_equal(got["logits"], expected[graph.outputs[0]].reshape(got["logits"].shape))


def test_each_option_reaches_the_program() -> None:
    graph = random_network(["inverted", "inverted", "pointwise"], 3, size=(24, 24, 3))
    block = next(block for block in find_blocks(graph, row_layers(graph)) if block.filter)
    text = {}
    for pixels in (4, 64):
        options = PlanOptions(blocks={block.output: RowOptions(filter_pixels=pixels)})
        program = compile_graph(graph, self_test=False, options=options)
        assert program.options is options
        text[pixels] = program.files["mj_model.c"]
        memory = next(m for s in program.schedule.steps for m in s.rows if m.block.output == block.output)
        assert memory.options.filter_pixels == pixels
    assert text[4] != text[64] and ".filter_chunk = 4" in text[4]


def test_blocks_that_may_not_join_do_not() -> None:
    graph = random_network(["inverted", "inverted", "inverted"], 5, size=(32, 32, 3))
    every = PlanOptions(unstored=frozenset(graph.tensors))
    joined = compile_graph(graph, self_test=False, options=every)
    assert any(len(step.rows) > 1 for step in joined.schedule.steps)
    alone = PlanOptions(RowOptions(join=False), unstored=every.unstored)
    assert all(len(step.rows) <= 1 for step in compile_graph(graph, self_test=False, options=alone).schedule.steps)


def test_weights_are_only_staged_where_they_may() -> None:
    graph = random_network(["inverted", "conv"], 5, size=(24, 24, 3))
    assert compile_graph(graph, "stm32l4r9i", self_test=False).staged
    assert not compile_graph(graph, "stm32l4r9i", self_test=False, options=PlanOptions(RowOptions(stage=False))).staged


@pytest.mark.parametrize(
    "values",
    [
        {"chunk_pixels": 3},
        {"filter_pixels": 0},
        {"filter_pixels": 6},
        {"slice_channels": 3},
        {"patch_pixels": 6},
        {"patch_pixels": -4},
        {"slice_channels": -2},
        {"flat_bytes": -1},
        {"chunk_bytes": 1.5},
        {"join": 1},
    ],
)
def test_wrong_options_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        RowOptions(**values)


def test_defaults_are_what_the_library_says() -> None:
    assert DEFAULTS.of("anything") == RowOptions() and DEFAULTS.unstored is None
    assert RowOptions(filter_pixels=8).as_dict()["filter_pixels"] == 8
