"""One object that runs anywhere, and the proof that all executors agree."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest

from millijoule.compile import Program, compile_graph
from millijoule.deploy import compile_model, first_difference, verify
from millijoule.errors import DataError, FormatError
from millijoule.execute import run
from networks import LAYERS, random_network, random_pictures

BOARDS = ("stm32l4r9i", "stm32h7b3i")
needs_boards = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("ziglang", "unicorn", "elftools")),
    reason="the extra 'deploy' is not installed",
)


def test_a_model_runs_on_this_computer() -> None:
    graph = random_network(["conv", "depthwise", "residual"], 1)
    firmware = compile_model(graph)
    pictures = random_pictures(graph, 2)
    assert firmware.target == "host" and firmware.image is None
    np.testing.assert_array_equal(firmware.run(pictures)["logits"], run(graph, pictures)[graph.outputs[0]])
    assert len(firmware.profile()) == len(firmware.program.layers)  # type: ignore[arg-type]
    assert firmware.plan.arena_bytes == firmware.program.arena_bytes
    with pytest.raises(FormatError, match="trace=True"):
        firmware.checksums(pictures[0])


@needs_boards
@pytest.mark.parametrize("kind", ["integer", "dynamic"])
def test_all_executors_agree(kind: str) -> None:
    graph = random_network(LAYERS, 2, kind)
    report = verify(graph, random_pictures(graph, 2), ["host", *BOARDS])
    assert report.equal and report.arithmetic == kind
    assert [target.target for target in report.targets] == ["host", *BOARDS]
    assert all(target.bit_exact for target in report.targets) or kind != "integer"
    assert json.loads(json.dumps(report.as_dict()))["equal"] is True


def broken(program: Program, layer: int) -> Program:
    """The program with every bias of one layer negated."""
    text = program.files["mj_weights.c"]
    start = re.compile(r"\.(conv_)?bias = {").search(text, text.index(f"mj_constants_{layer:03d} = {{")).start()
    end = text.index("}", start)
    weights = re.sub(r"-?\d+", lambda match: str(-int(match.group())), text[start:end])
    return replace(program, files={**program.files, "mj_weights.c": text[:start] + weights + text[end:]})


@pytest.mark.parametrize("target", ["host", pytest.param("stm32l4r9i", marks=needs_boards)])
def test_the_first_layer_that_differs_is_named(target: str) -> None:
    graph = random_network(["conv", "depthwise", "pointwise", "pointwise"], 11)
    program = compile_graph(graph, target, self_test=False, trace=True)
    pictures = random_pictures(graph, 2)
    assert first_difference(program, pictures) is None
    guilty = program.layers[3]
    found = first_difference(broken(program, guilty.index), pictures)
    assert found is not None
    assert (found.index, found.name, found.kernel) == (guilty.index, guilty.name, guilty.kernel)


def test_a_difference_is_reported_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    room = sys.modules["millijoule.deploy.verify"]

    graph = random_network(["conv", "pointwise", "pointwise"], 11)
    honest = room.compile_graph
    guilty = [layer for layer in compile_graph(graph).layers if "conv2d" in layer.operator][-1]

    def faulty(*args: object, **options: object) -> Program:
        return broken(honest(*args, **{**options, "self_test": False}), guilty.index)  # type: ignore[arg-type]

    monkeypatch.setattr(room, "compile_graph", faulty)
    report = verify(graph, random_pictures(graph, 3))
    assert not report.equal
    difference = report.targets[0].first_difference
    assert difference is not None and difference.index == guilty.index
    assert difference.operator == guilty.operator


def test_wrong_pictures_are_refused() -> None:
    graph = random_network(["conv"], 0)
    with pytest.raises(DataError):
        verify(graph, random_pictures(graph, 0))
    with pytest.raises(DataError):
        verify(graph, np.zeros((1, 4, 4, 3), np.uint8))
