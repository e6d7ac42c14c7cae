"""`profile layers%`: the chip's own counter around every layer, beside what the emulator counts."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from millijoule.boards import firmware_defines, firmware_sources, load_board
from millijoule.build import build_board, build_elf
from millijoule.compile import compile_graph
from millijoule.emulate import EmulatedFirmware

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from networks import random_network

NETWORK = random_network(["conv", "depthwise", "residual", "max_pool"], 7)
OVERHEAD = {"stm32l4r9i": (30, 60), "stm32h7b3i": (20, 60)}
"""Cycles between the two readings of the counter beside the layer: its call, and the returns and calls of the hook."""


def layers_of(reply: str) -> list[tuple[int, int, str]]:
    found = re.findall(r"^m-layer-\[(\d+) (\d+) (.*)\]\r$", reply, flags=re.MULTILINE)
    return [(int(index), int(cycles), name) for index, cycles, name in found]


@pytest.mark.parametrize("board", OVERHEAD)
def test_the_chip_counts_what_the_emulator_counts(board: str) -> None:
    program = compile_graph(NETWORK, board)
    image = build_board(program.files, board, defines={"MJ_PROFILE": "1"}, strict=True)
    firmware = EmulatedFirmware(image, board, program)
    reply = firmware.dialogue("profile layers%")
    layers = layers_of(reply)
    expected = firmware.profile(np.zeros(firmware.info.input_shape, np.uint8))
    assert [(index, name) for index, _, name in layers] == [(n, item.name) for n, item in enumerate(expected.layers)]
    low, high = OVERHEAD[board]
    for (_, cycles, name), layer in zip(layers, expected.layers, strict=True):
        # Cycles per edge are means over a run, and the M7's runs differ: 0.5 %.
        slack = 0.0 if board == "stm32l4r9i" else 0.005 * layer.cycles
        assert low - slack <= cycles - layer.cycles <= high + slack, (name, cycles, layer.cycles)
    total = re.search(r"^m-layers-\[(\d+)\]\r$", reply, flags=re.MULTILINE)
    assert total is not None
    assert sum(cycles for _, cycles, _ in layers) < int(total[1]) < expected.cycles + 110 * len(layers)
    assert reply.endswith("m-ready\r\n")
    again = layers_of(firmware.dialogue("profile layers%"))
    assert [name for _, _, name in again] == [name for _, _, name in layers], "it can be asked again"


def test_other_firmware_is_the_same_byte_for_byte() -> None:
    board = load_board("stm32l4r9i")
    files = dict(compile_graph(NETWORK, board).files)
    sources = {f"board/{name}": text for name, text in firmware_sources(board).items()}
    assert "board/profile.c" in sources
    without = {name: text for name, text in sources.items() if name != "board/profile.c"}
    defines = firmware_defines(board)
    with_file = build_elf({**files, **sources}, board, defines=defines)
    assert build_elf({**files, **without}, board, defines=defines).binary() == with_file.binary()


def test_firmware_without_it_answers_the_plain_question() -> None:
    program = compile_graph(NETWORK, "stm32l4r9i")
    firmware = EmulatedFirmware(build_board(program.files, "stm32l4r9i"), "stm32l4r9i", program)
    reply = firmware.dialogue("profile layers%")
    assert layers_of(reply) == [] and "m-model-[model]" in reply
