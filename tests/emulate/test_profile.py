"""Profiles: every table adds up, instructions are told apart, blocks follow the names."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millijoule.deploy import Firmware, compile_model
from millijoule.emulate import Profile
from millijoule.emulate._decode import decode
from millijoule.emulate._mix import CLASSES, class_of
from millijoule.emulate.profile import OUTSIDE, block_names
from millijoule.errors import OptionError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from networks import random_network, random_pictures

NETWORK = random_network(["conv", "depthwise", "residual", "max_pool"], 7)


@pytest.fixture(scope="module", params=["stm32l4r9i", "stm32h7b3i"])
def firmware(request: pytest.FixtureRequest) -> Iterator[Firmware]:
    pytest.importorskip("unicorn")
    yield compile_model(NETWORK, request.param)


@pytest.fixture(scope="module", params=["edges", "trace"])
def profile(firmware: Firmware, request: pytest.FixtureRequest) -> Profile:
    found = firmware.profile(random_pictures(NETWORK, 1)[0], method=request.param)
    assert isinstance(found, Profile) and found.method == request.param
    return found


def parts_of(profile: Profile) -> list[Any]:
    return [*profile.layers, profile.outside]


def test_layers_and_the_rest_sum_to_the_total(profile: Profile) -> None:
    assert sum(part.cycles for part in parts_of(profile)) == profile.cycles
    assert sum(part.instructions for part in parts_of(profile)) == profile.instructions
    assert sum(function.cycles for function in profile.functions) == profile.cycles
    assert sum(function.instructions for function in profile.functions) == profile.instructions
    assert profile.outside.name == OUTSIDE and 0 < profile.outside.cycles < profile.cycles


def test_the_mix_sums_to_the_instructions(profile: Profile) -> None:
    for part in parts_of(profile):
        assert list(part.mix) == list(CLASSES)
        assert sum(part.mix.values()) == part.instructions
    assert sum(profile.mix.values()) == profile.instructions
    for name in CLASSES:
        assert sum(part.mix[name] for part in parts_of(profile)) == profile.mix[name]


def test_lost_cycles_are_part_of_the_cycles(profile: Profile) -> None:
    if profile.method == "edges":
        assert profile.stalls is None and all(part.stalls is None for part in parts_of(profile))
        assert profile.memory == "none" and "leave out" in "".join(profile.statements())
        return
    assert profile.stalls is not None and profile.memory == "modelled"
    for cause, cycles in profile.stalls.items():
        assert sum(part.stalls[cause] for part in parts_of(profile)) == cycles
    assert all(0 <= sum(part.stalls.values()) <= part.cycles for part in parts_of(profile))
    assert profile.stalls["flash_data"] > 0 and profile.stalls["branch"] > 0
    waiting = profile.stalls["flash_fetch"] + profile.stalls["flash_data"]
    seconds = {phase.name: phase.seconds for phase in profile.energies[0].phases}
    assert seconds["flash stall"] == pytest.approx(waiting / profile.clock_hz)
    assert sum(seconds.values()) == pytest.approx(profile.cycles / profile.clock_hz)


def test_a_trace_differs_from_edges_by_what_edges_leave_out(firmware: Firmware) -> None:
    picture = random_pictures(NETWORK, 1)[0]
    edges, trace = (firmware.profile(picture, method=method) for method in ("edges", "trace"))
    assert isinstance(edges, Profile) and isinstance(trace, Profile) and trace.stalls is not None
    assert edges.instructions == trace.instructions and edges.mix == trace.mix
    left_out = sum(trace.stalls[cause] for cause in trace.stalls if cause not in ("load_use", "dependency", "branch"))
    # Besides: what the Cortex-M7's two kinds of models disagree about, which is small on long code but not on this one.
    assert trace.cycles - left_out == pytest.approx(edges.cycles, rel=0.06)


def test_the_hottest_instructions_belong_to_their_functions(profile: Profile) -> None:
    assert bool(profile.hottest) == (profile.method == "trace")
    cycles = {function.name: function.cycles for function in profile.functions}
    for item in profile.hottest:
        assert 0 < item.cycles <= cycles[item.function] and item.count > 0
        assert sum(item.stalls.values()) <= item.cycles


def test_unknown_methods_are_refused(firmware: Firmware) -> None:
    with pytest.raises(OptionError, match="edges or trace"):
        firmware.profile(method="guess")


def test_energy_of_the_layers_sums_to_the_total(profile: Profile) -> None:
    for item in profile.energies:
        summed = sum(part.millijoules[item.regulator] for part in parts_of(profile))
        assert summed == pytest.approx(item.millijoules, rel=1e-9)


def test_blocks_hold_every_layer_once(profile: Profile) -> None:
    assert sum(block.cycles for block in profile.blocks) == sum(layer.cycles for layer in profile.layers)
    assert sum(block.macs for block in profile.blocks) == sum(layer.macs for layer in profile.layers)
    assert max(block.live_bytes for block in profile.blocks) == max(layer.live_bytes for layer in profile.layers)
    names = [
        name for block in profile.blocks for name in (block.members if block.operator == "block" else [block.name])
    ]
    assert names == [layer.name for layer in profile.layers]


def test_layers_are_those_of_the_compiler(firmware: Firmware, profile: Profile) -> None:
    program = firmware.program
    for layer, compiled in zip(profile.layers, program.layers, strict=True):
        assert (layer.name, layer.macs, layer.live_bytes) == (compiled.name, compiled.macs, compiled.live_bytes)
        assert layer.fused == (" + " in compiled.operator) and bool(layer.members) == layer.fused
    assert profile.arena_bytes == program.arena_bytes


def test_a_fused_group_names_its_members() -> None:
    pytest.importorskip("unicorn")
    network = random_network(["conv", "depthwise"], 3)
    found = compile_model(network, "stm32l4r9i")
    fused = [layer for layer in found.program.layers if " + " in layer.operator]
    profile = found.profile()
    assert isinstance(profile, Profile)
    assert [layer.members for layer in profile.layers if layer.fused] == [tuple(x.name.split(" + ")) for x in fused]
    assert fused, "the network of this test has a fused pair"


def test_no_function_is_unknown(profile: Profile) -> None:
    """Static functions of several kernels share names: each of them is found by its address."""
    assert "?" not in {function.name for function in profile.functions}
    assert all(function.calls > 0 for function in profile.functions if function.cycles)


def test_every_condition_is_stated(profile: Profile) -> None:
    text = "\n".join(profile.statements())
    for word in ("MHz", "flash wait states", "arena in", profile.model_version, "expected error", "pJ"):
        assert word in text


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("20fb0102", "multiply"),  # smlad r2, r0, r1, r0
        ("00fb0110", "multiply"),  # mla / mls / mul family
        ("8818", "arithmetic"),  # adds r0, r1, r2
        ("0868", "load"),  # ldr r0, [r1]
        ("0860", "store"),  # str r0, [r1]
        ("10bd", "load"),  # pop {r4, pc}
        ("10b5", "store"),  # push {r4, lr}
        ("fee7", "branch"),  # b .
        ("7047", "branch"),  # bx lr
        ("00bf", "other"),  # nop
        ("90fbf1f0", "arithmetic"),  # sdiv r0, r0, r1
        ("20ee810a", "multiply"),  # vmul.f32 s0, s1, s2
        ("a0ee810a", "multiply"),  # vfma.f32 s0, s1, s2
    ],
)
def test_classes_of_instructions(code: str, expected: str) -> None:
    pytest.importorskip("capstone")
    (instruction,) = decode(bytes.fromhex(code), 0x08000000)
    assert class_of(instruction) == expected, instruction.text


@given(
    st.lists(st.sampled_from(["a", "block_1_a", "block_1_b", "block_2_a", "x_y", "x_z", "p + block_1_c"]), max_size=9)
)
def test_block_names_keep_order_and_join_neighbours_only(names: list[str]) -> None:
    found = block_names(names)
    assert len(found) == len(names)
    for index, (name, block) in enumerate(zip(names, found, strict=True)):
        own = block == name
        joined = any(0 <= other < len(names) and found[other] == block for other in (index - 1, index + 1))
        assert own or joined
    assert block_names(["conv", "block_2_expand", "block_2_add", "pool"]) == ("conv", "block_2", "block_2", "pool")
    assert block_names(["features.3.conv.0", "features.3.conv.1"]) == ("features.3", "features.3")
