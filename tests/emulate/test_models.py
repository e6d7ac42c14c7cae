"""Generated models on both emulated boards: equal to the executor that defines the arithmetic."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from millijoule.build import build_board
from millijoule.compile import compile_graph
from millijoule.emulate import EmulatedFirmware
from millijoule.execute import run
from networks import LAYERS, random_network, random_pictures

BOARDS = ("stm32l4r9i", "stm32h7b3i")


@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize(
    ("kernels", "rounding"),
    [("plain", "single"), ("dsp", "single"), pytest.param("dsp", "mulhi", marks=pytest.mark.slow)],
)
def test_int8_models_are_bit_exact_on_the_boards(board: str, kernels: str, rounding: str) -> None:
    graph = random_network(list(LAYERS), 11, "integer", size=(11, 9, 3), rounding=rounding, probabilities=True)
    program = compile_graph(graph, board, kernels=kernels)
    firmware = EmulatedFirmware(build_board(program.files, board), board, program)
    pictures = random_pictures(graph, 3)
    ours, expected = firmware.run(pictures), run(graph, pictures)
    np.testing.assert_array_equal(ours["logits"], expected[graph.outputs[0]])
    np.testing.assert_array_equal(ours["probabilities"], expected[graph.outputs[1]])
    profile = firmware.profile(pictures[0])
    assert [layer.symbol for layer in profile.layers] == [layer.symbol for layer in program.layers]
    assert [layer.name for layer in profile.layers] == [layer.name for layer in program.layers]
    assert all(layer.instructions > 0 and layer.cycles > 0 for layer in profile.layers)
    assert sum(layer.macs for layer in profile.layers) == program.macs
    assert 0.9 < sum(layer.cycles for layer in profile.layers) / profile.cycles <= 1.0
    assert 100 < profile.peak_stack_bytes < 4096


@pytest.mark.parametrize("board", BOARDS)
def test_dynamic_models_run_on_the_boards(board: str) -> None:
    graph = random_network(["conv", "depthwise", "pointwise"], 5, "dynamic", size=(9, 9, 3))
    program = compile_graph(graph, board)
    firmware = EmulatedFirmware(build_board(program.files, board), board, program)
    pictures = random_pictures(graph, 2)
    ours, expected = firmware.run(pictures)["logits"], run(graph, pictures)[graph.outputs[0]]
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, expected, atol=1e-4 * float(np.abs(expected).max()))


@pytest.mark.skipif(shutil.which("arm-none-eabi-gcc") is None, reason="arm-none-eabi-gcc is not installed")
@pytest.mark.parametrize("board", ["stm32l4r9i", pytest.param("stm32h7b3i", marks=pytest.mark.slow)])
def test_gcc_s_firmware_gives_the_same_results(board: str) -> None:
    graph = random_network(["conv", "depthwise", "pointwise", "residual"], 2, "integer", size=(9, 9, 3))
    program = compile_graph(graph, board)
    firmware = EmulatedFirmware(build_board(program.files, board, compiler="gcc"), board, program)
    pictures = random_pictures(graph, 2)
    np.testing.assert_array_equal(firmware.run(pictures)["logits"], run(graph, pictures)[graph.outputs[0]])


def test_broken_flash_fails_the_self_test() -> None:
    from millijoule.errors import EmulationError

    graph = random_network(["conv"], 3, "integer", size=(5, 5, 3))
    program = compile_graph(graph, "stm32l4r9i")
    image = build_board(program.files, "stm32l4r9i")
    firmware = EmulatedFirmware(image, "stm32l4r9i", program)
    firmware.boot()
    weights = next(section for section in image.sections if section.name == ".mj_weights")
    flip = bytes(255 - byte for byte in firmware.machine.read(weights.address, weights.size))
    reset = firmware.machine.reset

    def broken_flash() -> None:
        reset()
        firmware.machine.write(weights.address, flip)

    firmware.machine.reset = broken_flash  # type: ignore[method-assign]
    with pytest.raises(EmulationError, match="the checksum of its weights in flash is wrong"):
        firmware.boot()
    assert "e-[self-test failed: the checksum of the weights is wrong]" in firmware.console


def test_a_broken_build_fails_its_self_test() -> None:
    from millijoule.errors import EmulationError

    program = compile_graph(random_network(["conv"], 3, "integer", size=(5, 5, 3)), "stm32l4r9i")
    # A compiler that miscompiles is not at hand: the golden logits are made wrong instead.
    source = program.files["mj_model.c"]
    changed = re.sub(r"(expected\[MJ_CLASSES\] = \{\s*)(-?\d+)", lambda m: f"{m[1]}{int(m[2]) ^ 1}", source)
    assert changed != source
    image = build_board({**program.files, "mj_model.c": changed}, "stm32l4r9i")
    firmware = EmulatedFirmware(image, "stm32l4r9i", program)
    with pytest.raises(EmulationError, match="self-test gave other logits"):
        firmware.boot()
    assert "e-[self-test failed: " in firmware.console
