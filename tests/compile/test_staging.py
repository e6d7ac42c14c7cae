"""Weights copied to RAM: where, whose, and what it changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millijoule.boards import load_board
from millijoule.compile import compile_graph
from millijoule.compile.plan import ALIGNMENT, Lifetime, plan_memory
from millijoule.compile.staging import hole
from networks import random_network, random_pictures

LAYERS = ["strided", "pointwise", "depthwise", "pointwise", "residual"]


@given(
    st.lists(st.tuples(st.integers(1, 500), st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12),
    st.integers(1, 700),
)
def test_a_hole_is_free_and_inside_the_arena(demands: list[tuple[int, int, int]], size: int) -> None:
    lifetimes = [Lifetime(f"b{n}", b, min(i, j), max(i, j)) for n, (b, i, j) in enumerate(demands)]
    plan = plan_memory(lifetimes, [f"layer {n}" for n in range(6)])
    for step in range(6):
        offset = hole(plan, step, size)
        alive = [buffer for buffer in plan.buffers if buffer.first <= step <= buffer.last]
        fits = [
            at
            for at in range(0, plan.arena_bytes - size + 1, ALIGNMENT)
            if all(at + size <= buffer.offset or at >= buffer.end for buffer in alive)
        ]
        if offset is None:  # room that is smaller than the rounded size does not count
            assert all(at + size + ALIGNMENT > plan.arena_bytes or size % ALIGNMENT for at in fits)
        else:
            assert offset == min(fits) and offset % ALIGNMENT == 0


def board(staging: bool):
    plain = load_board("stm32l4r9i")
    return replace(plain, flash=replace(plain.flash, staging=staging))


@pytest.mark.parametrize("seed", (pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow), 3))
def test_copies_change_neither_results_nor_the_arena(seed: int) -> None:
    from millijoule.deploy import build_program

    graph = random_network(LAYERS, seed, size=(64, 64, 3))
    pictures = random_pictures(graph, 2, seed)
    with_copies, without = (compile_graph(graph, board(staging)) for staging in (True, False))
    assert with_copies.arena_bytes == without.arena_bytes
    assert "memcpy" in with_copies.files["mj_model.c"] and "memcpy" not in without.files["mj_model.c"]
    results = [build_program(program).run(pictures) for program in (with_copies, without)]
    for name, values in results[0].items():
        np.testing.assert_array_equal(values, results[1][name], err_msg=name)
    copies = [buffer for buffer in with_copies.plan.buffers if "weights of layer" in buffer.name]
    assert copies and all(buffer.end <= with_copies.arena_bytes for buffer in copies)


def test_only_the_board_that_asks_gets_copies() -> None:
    graph = random_network(LAYERS, 0, size=(24, 24, 3))
    for target in ("host", "stm32h7b3i"):
        assert "memcpy" not in compile_graph(graph, target).files["mj_model.c"]


def test_copies_save_the_cycles_that_flash_cost() -> None:
    from millijoule.deploy import build_program

    graph = random_network(["strided", "pointwise", "pointwise", "pointwise"], 1, size=(32, 32, 3))
    picture = random_pictures(graph, 1)[0]
    with_copies, without = (
        build_program(compile_graph(graph, board(staging))).profile(picture, method="trace")
        for staging in (True, False)
    )
    assert with_copies.stalls["flash_data"] < without.stalls["flash_data"]
    assert with_copies.cycles < without.cycles


def test_behind_a_cache_only_weights_that_it_cannot_hold_are_copied() -> None:
    graph = random_network(["strided", "conv", "pointwise"], 2, size=(48, 48, 3))
    plain = load_board("stm32h7b3i")
    assert plain.flash.staging and plain.flash.cache_bytes == 16384
    copied = []
    for cache in (16384, 64):
        target = replace(plain, flash=replace(plain.flash, cache_bytes=cache))
        plan = compile_graph(graph, target).plan
        copied.append([buffer.name for buffer in plan.buffers if "weights of layer" in buffer.name])
    assert not copied[0] and copied[1]


def test_copies_lie_in_memory_without_a_cache() -> None:
    graph = random_network(["strided", "strided", "pointwise", "depthwise", "pointwise"], 1, size=(64, 64, 3))
    plain = load_board("stm32h7b3i")
    small = (replace(plain.memories[0], size=24 * 1024), *plain.memories[1:])
    target = replace(plain, memories=small, flash=replace(plain.flash, cache_bytes=64))
    program = compile_graph(graph, target)
    copies = [buffer for buffer in program.plan.buffers if "weights of layer" in buffer.name]
    assert program.plan.fast_offset is not None
    assert copies and all(buffer.offset >= program.plan.fast_offset for buffer in copies)
