"""Means, and dense layers behind them, at the end of dynamic chains: where they are, their memory, same bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millijoule.build.host import build_host, run_sanitized
from millijoule.compile import Program, compile_graph
from millijoule.compile.explain import explain_program
from millijoule.compile.finder import Finder
from millijoule.compile.row_timeline import layer_moments
from millijoule.compile.rows_dynamic import DynamicBlock
from millijoule.execute import run
from millijoule.graph import Graph, GraphBuilder, Quant, macs
from networks import any_dynamic, random_pictures

BOARDS = ("stm32l4r9i", "stm32h7b3i")


def tail(
    channels: int = 19,
    classes: int = 4,
    *,
    ending: str = "pointwise",
    sides: tuple[int, int] = (11, 13),
    clamp: tuple[float, float] | None = None,
    dense: bool = True,
    wide: bool = False,
    readers: int = 1,
    outputs: tuple[str, ...] = (),
) -> Graph:
    """Picture, a 3x3 convolution, an ending with a last convolution "last", mean, dense.

    Args:
        channels: of the last convolution.
        classes: of the dense layer.
        ending: "pointwise"; "separable", behind a depthwise convolution; "residual", with an addition; "window", a 3x3
            convolution right behind the picture.
        sides: of the picture.
        clamp: the bounds of the last convolution.
        dense: whether there is a dense layer; without one the means are the logits.
        wide: whether a large map comes first, which makes the arena.
        readers: how many means are taken of the map.
        outputs: tensors that are wanted beside the logits.
    """
    rng, builder = np.random.default_rng(channels), GraphBuilder("tail")
    builder.input("picture", (1, *sides, 3), "uint8")

    def node(op: str, inputs: list[str], shape: tuple[int, ...], attrs: dict[str, object], name: str) -> str:
        return builder.node(op, inputs, shape, attrs=attrs, source=name, output=name)

    def conv(x: str, before: int, out: int, name: str, kernel: int = 1, stride: int = 1, **attrs: object) -> str:
        nonlocal size
        depthwise = name == "filter"
        shape = (1, kernel, kernel, before) if depthwise else (out, kernel, kernel, before)
        axis = 3 if depthwise else 0
        scales = rng.uniform(0.3, 1.0, out) / (60.0 * kernel * np.sqrt(1 if depthwise else before))
        weights = rng.integers(-127, 128, shape).astype(np.int8)
        constants = [
            builder.constant(f"{name}.w", weights, Quant.per_channel(scales, axis)),
            builder.constant(f"{name}.b", rng.normal(0.0, 0.3, out).astype(np.float32)),
        ]
        size = (-(-size[0] // stride), -(-size[1] // stride))
        window = {"stride": (stride, stride), "padding": (kernel // 2,) * 4, "dilation": (1, 1)}
        op = "depthwise_conv2d" if depthwise else "conv2d"
        return node(op, [x, *constants], (1, *size, out), {**window, **attrs}, name)

    size = sides
    bounds = {} if clamp is None else {"clamp": clamp}
    value = node("normalize", ["picture"], (1, *sides, 3), {"scale": (1 / 127.5,), "offset": (-1.0,)}, "normalize")
    depth = 3
    if wide:
        value, depth = conv(value, 3, 64, "wide", 3), 64
    if ending == "window":
        value = conv(value, depth, channels, "last", 3, 2, **bounds)
    else:
        before = channels if ending == "residual" else 5
        value = first = conv(value, depth, before, "first", 3, 2)
        value = conv(value, before, before, "filter", 3, clamp=(0.0, 6.0)) if ending == "separable" else value
        value = conv(value, before, channels, "last", **bounds)
        if ending == "residual":
            value = node("add", [value, first], (1, *size, channels), {"clamp": (-1.0, 1.5)}, "add")
    last, value = value, node("mean", [value], (1, channels), {}, "mean")
    for index in range(1, readers):
        value = node("add", [value, node("mean", [last], (1, channels), {}, f"mean{index}")], (1, channels), {}, "sum")
    if dense:
        weights = rng.integers(-127, 128, (classes, channels)).astype(np.int8)
        name = builder.constant("dense.w", weights, Quant.per_channel(rng.uniform(0.002, 0.01, classes), 0))
        value = node("dense", [value, name], (1, classes), {}, "dense")
    return builder.build([value, *outputs])


def compiled(graph: Graph, **how: object) -> Program:
    return compile_graph(graph, self_test=False, **how)  # type: ignore[arg-type]


def unfused(graph: Graph, monkeypatch: pytest.MonkeyPatch, **how: object) -> Program:
    with monkeypatch.context() as patch:
        patch.setattr(Finder, "mean", lambda *_: None)
        program = compiled(graph, **how)
    assert "mean" in [layer.operator for layer in program.layers]
    return program


def same_bits(graph: Graph, program: Program) -> None:
    """The executor's logits; the second picture has no range."""
    pictures = random_pictures(graph, 2)
    pictures[1] = 90
    np.testing.assert_array_equal(build_host(program).run(pictures)["logits"], run(graph, pictures)[graph.outputs[0]])


ENDINGS = {
    "pointwise": "conv2d + mean + dense",
    "separable": "depthwise_conv2d + conv2d + mean + dense",
    "residual": "conv2d + add + mean + dense",
    "window": "normalize + conv2d + mean + dense",
}
REST = ("separable", "window")


# *** where they are part of a chain *****


@pytest.mark.parametrize("ending", ["pointwise", "residual", *(pytest.param(e, marks=pytest.mark.slow) for e in REST)])
def test_chains_take_the_mean_and_the_dense_layer(ending: str) -> None:
    graph = tail(ending=ending, sides=(33, 31), wide=ending == "residual")
    program = compiled(graph)
    last = program.layers[-1]
    assert last.operator.endswith(ENDINGS[ending]) and last.kernel == "mj_rows_dyn + mj_dense_dyn"
    assert last.macs == sum(macs(program.graph, node) for node in program.schedule.steps[-1].nodes)
    stored = {name for buffer in program.plan.buffers for name in buffer.tensors}
    assert not stored & {"last", "add", "mean"}
    same_bits(graph, program)


def test_a_map_that_is_an_output_is_stored() -> None:
    graph = tail(outputs=("last",))
    program = compiled(graph)
    assert [layer.operator for layer in program.layers][-3:] == ["conv2d", "mean", "dense"]
    same_bits(graph, program)


def test_a_map_with_a_second_reader_is_stored() -> None:
    graph = tail(readers=2)
    program = compiled(graph)
    assert [layer.operator for layer in program.layers][-5:] == ["conv2d", "mean", "mean", "add", "dense"]
    same_bits(graph, program)


def test_an_addition_that_lies_over_its_map_keeps_its_mean_apart() -> None:
    """Its sums would need memory that the sum of two maps does not, where nothing else makes the arena."""
    graph = tail(ending="residual")
    program = compiled(graph)
    assert [layer.operator for layer in program.layers][-2:] == ["mean", "dense"]
    same_bits(graph, program)


def test_means_that_are_an_output_are_stored() -> None:
    graph = tail(outputs=("mean",))
    program = compiled(graph)
    assert [layer.operator for layer in program.layers][-2:] == ["conv2d + mean", "dense"]
    same_bits(graph, program)


def test_more_classes_than_channels_stay_a_layer() -> None:
    graph = tail(8, 17)
    program = compiled(graph)
    assert [layer.operator for layer in program.layers][-2:] == ["conv2d + mean", "dense"]
    same_bits(graph, program)


# *** memory *****


@pytest.mark.parametrize("objective", ["cycles", "ram"])
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(("channels", "classes"), [(5, 5), (19, 4), (131, 11)])
def test_no_arena_grows(
    channels: int, classes: int, ending: str, objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = tail(channels, classes, ending=ending)
    program, before = compiled(graph, objective=objective), unfused(graph, monkeypatch, objective=objective)
    assert program.arena_bytes <= before.arena_bytes and program.macs == before.macs


def test_no_arena_of_a_random_network_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also 221 and 441, where buffers cannot be placed side by side in as many bytes as are alive."""
    ending = 0
    for seed in (*range(40), 221, 441):
        program = compiled(any_dynamic(seed))
        if any("mean" in layer.operator and "mj_rows_dyn" in layer.sources for layer in program.layers):
            ending += 1
            assert program.arena_bytes <= unfused(any_dynamic(seed), monkeypatch).arena_bytes
    assert ending > 10


def test_the_map_is_made_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """The map of 1,280 channels is more than all else, as that of a MobileNet."""
    graph = tail(1280, 10, sides=(14, 14))
    program, before = compiled(graph), unfused(graph, monkeypatch)
    assert before.arena_bytes > 49 * 4 * 1280 and program.arena_bytes < 49 * 4 * 1280 / 3
    (memory,) = program.schedule.steps[-1].rows
    assert memory.slice == 64 and memory.parts["row"][1] == 4 * 64 * 49 and memory.parts["sums"][1] == 4 * 1280
    assert isinstance(memory.block, DynamicBlock)
    same_bits(graph, program)


def test_moments_and_explanation() -> None:
    program = compiled(tail(131, 7))
    fused = layer_moments(program)[-1]
    *passes, dense = fused.moments
    assert fused.way == "passes" and dense.label == "dense" and dense.written == 1
    assert not any(moment.written for moment in passes)
    sizes, before = {part.name: part for part in dense.parts}, {part.name: part for part in passes[-1].parts}
    assert set(sizes) == {"mean", "scratch of dense", "dense"}
    assert (sizes["mean"].bytes, sizes["dense"].bytes) == (4 * 131, 4 * 7)
    for name, over in (("mean", "sums"), ("scratch of dense", "conv_pairs")):
        place, room = sizes[name], before[over]
        assert room.offset <= place.offset and place.offset + place.bytes <= room.offset + room.bytes
    values = explain_program(program)["layers"][-1]
    (block,) = values["blocks"]
    assert values["operations"][-3:] == ["last", "mean", "dense"] and block["mean"] == {"channels_at_a_time": 64}
    assert block["dense"] == {
        "layer": "dense",
        "means": 131,
        "features": 7,
        "kernel": "mj_dense_dyn",
        "scratch_over": "conv_pairs",
    }


# *** bits *****


@settings(deadline=None, max_examples=8)
@given(
    st.integers(2, 70),
    st.integers(1, 12),
    st.tuples(st.integers(1, 15), st.integers(1, 15)),
    st.sampled_from([*ENDINGS]),
    st.sampled_from(["dsp", "plain"]),
    st.sampled_from([None, (0.0, 6.0), (-0.25, 0.5), (0.25, 0.75)]),
    st.booleans(),
)
def test_any_sizes(
    channels: int,
    classes: int,
    sides: tuple[int, int],
    ending: str,
    kernels: str,
    clamp: tuple[float, float] | None,
    dense: bool,
) -> None:
    graph = tail(channels, classes, ending=ending, sides=sides, clamp=clamp, dense=dense)
    same_bits(graph, compiled(graph, kernels=kernels))


@pytest.mark.parametrize("kernels", ["dsp", "plain"])
@pytest.mark.parametrize("clamp", [None, (0.1, 0.6)])
@pytest.mark.parametrize("ending", [pytest.param(name, marks=pytest.mark.slow) for name in ENDINGS])
def test_no_undefined_behaviour(ending: str, clamp: tuple[float, float] | None, kernels: str) -> None:
    graph = tail(67, 5, ending=ending, clamp=clamp)
    pictures = random_pictures(graph, 2)
    found = run_sanitized(compiled(graph, kernels=kernels), pictures)
    np.testing.assert_array_equal(found["logits"], run(graph, pictures)[graph.outputs[0]])


FEW = [("stm32l4r9i", "pointwise", 67, (0.1, 0.6), True), ("stm32h7b3i", "separable", 19, (-0.2, 0.3), True)]
MORE = [
    (board, ending, channels, clamp, dense)
    for board in BOARDS
    for ending in ENDINGS
    for channels, clamp, dense in [(67, None, True), (19, (0.0, 6.0), False), (130, (0.1, 0.6), False)]
]


@pytest.mark.parametrize(
    ("board", "ending", "channels", "clamp", "dense"),
    [*FEW, *(pytest.param(*item, marks=pytest.mark.slow) for item in MORE)],
)
def test_on_the_boards(board: str, ending: str, channels: int, clamp: tuple[float, float] | None, dense: bool) -> None:
    pytest.importorskip("unicorn")
    from millijoule.build import build_board
    from millijoule.emulate import EmulatedFirmware

    graph = tail(channels, 3, ending=ending, clamp=clamp, dense=dense, sides=(17, 13), wide=ending == "residual")
    kernels = "plain" if (ending, channels) == ("separable", 67) else "dsp"
    program = compile_graph(graph, board, kernels=kernels)
    firmware = EmulatedFirmware(build_board(program.files, program.target), program.target, program)
    assert "mj_rows_mean_floats" in program.layers[-1].sources
    pictures = random_pictures(graph, 2)
    np.testing.assert_array_equal(firmware.run(pictures)["logits"], run(graph, pictures)[graph.outputs[0]])
    profile = firmware.profile(pictures[0])
    assert [layer.operator for layer in profile.layers] == [layer.operator for layer in program.layers]
    assert profile.layers[-1].cycles > 0
