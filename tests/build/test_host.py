"""The shared library on this computer: shapes, refusals, caching, profile."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from millijoule.build import build_host, host
from millijoule.compile import compile_graph
from millijoule.errors import DataError, ToolchainError

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from networks import random_network, random_pictures


def test_results_are_named_typed_and_shaped() -> None:
    graph = random_network(["conv", "pointwise"], 1)
    firmware = build_host(compile_graph(graph))
    pictures = random_pictures(graph, 4)
    seen: list[tuple[int, int]] = []
    results = firmware.run(pictures, progress=lambda _what, done, total: seen.append((done, total)))
    classes = len(graph.classes)
    assert results["logits"].dtype == np.int8 and results["logits"].shape == (4, classes)
    assert results["probabilities"].shape == (4, classes)
    assert results["class"].dtype == np.int64
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert firmware.run(pictures[:0])["logits"].shape == (0, classes)


def test_a_picture_gives_the_same_result_whatever_ran_before() -> None:
    graph = random_network(["conv", "residual", "max_pool"], 2)
    firmware = build_host(compile_graph(graph))
    pictures = random_pictures(graph, 3)
    forward, backward = firmware.run(pictures)["logits"], firmware.run(pictures[::-1])["logits"]
    np.testing.assert_array_equal(forward, backward[::-1])


def test_a_model_without_probabilities() -> None:
    graph = random_network(["conv"], 3, probabilities=False)
    assert set(build_host(compile_graph(graph)).run(random_pictures(graph, 1))) == {"logits", "class"}


def test_the_library_is_built_once() -> None:
    program = compile_graph(random_network(["conv"], 4))
    first, second = build_host(program), build_host(program)
    assert first.path == second.path
    assert build_host(program, optimize="-O1").path != first.path


def test_the_profile_has_one_time_per_layer() -> None:
    program = compile_graph(random_network(["conv", "clamp"], 5))
    firmware = build_host(program)
    times = firmware.profile(random_pictures(program.graph, 1)[0])
    assert [time.name for time in times] == [layer.name for layer in program.layers]
    assert all(time.seconds >= 0 for time in times)


def test_wrong_pictures_are_refused() -> None:
    graph = random_network(["conv"], 6)
    firmware = build_host(compile_graph(graph))
    with pytest.raises(DataError, match=r"uint8 \(N, 9 x 7 x 3\)"):
        firmware.run(np.zeros((1, 9, 8, 3), np.uint8))
    with pytest.raises(DataError, match="float64"):
        firmware.run(np.zeros((1, 9, 7, 3)))


def test_an_error_in_a_source_is_quoted() -> None:
    program = compile_graph(random_network(["conv"], 7))
    broken = replace(program, files={**program.files, "mj_model.c": "int mj_run(void) { return nothing; }"})
    with pytest.raises(ToolchainError, match=r"mj_model\.c.*nothing"):
        build_host(broken)


def test_no_compiler_is_one_clear_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> tuple[str, ...]:
        raise ToolchainError("zig", "the package ziglang is not installed", "Install it")

    monkeypatch.setattr(host.shutil, "which", lambda _name: None)
    monkeypatch.setattr(host, "zig_command", missing)
    host.host_compiler.cache_clear()
    try:
        with pytest.raises(ToolchainError, match="millijoule\\[deploy\\]"):
            build_host(compile_graph(random_network(["conv"], 8)))
    finally:
        host.host_compiler.cache_clear()


@pytest.mark.slow
def test_zig_builds_the_same_model(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ziglang")
    graph = random_network(["conv", "depthwise", "residual"], 9)
    pictures = random_pictures(graph, 2)
    expected = build_host(compile_graph(graph)).run(pictures)
    monkeypatch.setattr(host.shutil, "which", lambda _name: None)
    host.host_compiler.cache_clear()
    try:
        found = build_host(compile_graph(graph)).run(pictures)
    finally:
        host.host_compiler.cache_clear()
    np.testing.assert_array_equal(found["logits"], expected["logits"])
