"""A picture that comes row by row: same results, no memory for it; rows that would be written too early are caught."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millijoule.build.host import build_host, run_sanitized
from millijoule.compile import compile_graph
from millijoule.compile import schedule as schedule_module
from millijoule.compile.options import PlanOptions
from millijoule.errors import ToolchainError, UnsupportedError
from millijoule.execute import run
from millijoule.graph import ROUNDINGS, Graph
from networks import random_network, random_pictures

STREAM = PlanOptions(stream=True)
CHAIN = ["strided", "depthwise", "pointwise", "depthwise", "pointwise", "residual"]

networks = st.builds(
    random_network,
    st.lists(st.sampled_from(("depthwise", "pointwise", "residual", "strided")), max_size=5).map(
        lambda layers: ["strided", *layers]
    ),
    st.integers(0, 2**31),
    st.just("integer"),
    size=st.tuples(st.integers(3, 17), st.integers(3, 17), st.integers(1, 4)),
    rounding=st.sampled_from(ROUNDINGS),
)


def streamed(graph: Graph) -> None:
    program = compile_graph(graph, options=STREAM)
    whole = compile_graph(graph, transpose=False)
    picture = graph.inputs[0]
    assert all(picture not in buffer.tensors for buffer in program.plan.buffers)
    assert program.arena_bytes <= whole.arena_bytes
    firmware = build_host(program)
    assert firmware.initialize() == 0
    pictures = random_pictures(graph, 2)
    expected = run(graph, pictures)[graph.outputs[0]]
    np.testing.assert_array_equal(firmware.run(pictures)["logits"], expected)


@settings(max_examples=10, deadline=None)
@given(networks)
def test_rows_give_the_results_of_the_whole_picture(graph: Graph) -> None:
    try:
        compile_graph(graph, options=STREAM, self_test=False)
    except UnsupportedError as error:  # its first convolution is beyond the row kernels
        assert "row by row" in error.reason
        return
    streamed(graph)


def test_a_network_that_needs_the_whole_picture_is_refused_by_name() -> None:
    graph = random_network(["max_pool", "conv"], 1)
    with pytest.raises(UnsupportedError, match=r"block\.0\.normalize.*whole picture"):
        compile_graph(graph, options=STREAM)
    with pytest.raises(UnsupportedError, match="whole picture"):
        compile_graph(random_network(["strided"], 1, "dynamic"), options=STREAM)


def test_the_picture_has_a_file_of_its_own() -> None:
    graph = random_network(CHAIN, 3, size=(24, 24, 3))
    files = compile_graph(graph, options=STREAM).files
    assert "mj_frame[MJ_INPUT_BYTES]" in files["mj_frame.c"]
    assert "mj_push_row" in files["mj_model.h"] and "MJ_INPUT_OFFSET" not in files["mj_model.h"]
    plain = compile_graph(graph).files
    assert "mj_frame.c" not in plain and "mj_push_row" not in plain["mj_model.h"]


@pytest.mark.parametrize("board", ["stm32l4r9i", pytest.param("stm32h7b3i", marks=pytest.mark.slow)])
def test_on_the_boards(board: str) -> None:
    pytest.importorskip("unicorn")
    from millijoule.deploy import build_program

    graph = random_network(CHAIN, 3, size=(24, 24, 3))
    pictures = random_pictures(graph, 2)
    firmware = build_program(compile_graph(graph, board, options=STREAM))
    np.testing.assert_array_equal(firmware.run(pictures)["logits"], run(graph, pictures)[graph.outputs[0]])
    program = compile_graph(graph, board, options=STREAM, trace=True)
    assert build_program(program).run(pictures[:1])["class"].shape == (1,)


def test_a_row_that_is_written_too_early_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    distance = schedule_module.overlap_distance
    for seed in (0, 4, 5, 6):
        graph = random_network(CHAIN, seed, size=(16, 16, 3))
        pictures = random_pictures(graph, 1)
        run_sanitized(compile_graph(graph, self_test=False), pictures)
        with monkeypatch.context() as patch:
            patch.setattr(schedule_module, "overlap_distance", lambda *args: distance(*args) + 4000)
            wrong = compile_graph(graph, self_test=False)
        with pytest.raises(ToolchainError):
            run_sanitized(wrong, pictures)


def test_options_say_how_a_picture_comes() -> None:
    assert not PlanOptions().stream and replace(PlanOptions(), stream=True) == STREAM
