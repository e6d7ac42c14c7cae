"""The whole small path: hand-written model -> firmware by zig -> emulated board."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from millijoule.boards import load_board
from millijoule.build import build_board
from millijoule.emulate import EmulatedFirmware, energy
from millijoule.errors import DataError, EmulationError

BOARDS = ("stm32l4r9i", "stm32h7b3i")
MODEL = Path(__file__).parents[1] / "fixtures" / "tiny_model"


def model_files() -> dict[str, str]:
    return {path.name: path.read_text() for path in MODEL.iterdir()}


def expected_logits(pictures: np.ndarray) -> np.ndarray:
    """The tiny model in numpy."""
    text = (MODEL / "mj_model.c").read_text()
    numbers = text.split("= {\n", 1)[1].split("}", 1)[0]
    weights = np.array([int(part) for part in numbers.replace("\n", " ").split(",")], np.int64).reshape(4, 16)
    squared = (pictures.reshape(len(pictures), -1).astype(np.int64) ** 2) >> 8
    parts = sum(squared[:, 64 * part : 64 * part + 16] for part in range(3))
    return np.clip((parts @ weights.T) >> 6, -128, 127)


@pytest.fixture(scope="module", params=BOARDS)
def firmware(request: pytest.FixtureRequest) -> EmulatedFirmware:
    files = model_files()
    return EmulatedFirmware(build_board(files, request.param, strict=True), request.param, files)


def test_boot_prints_the_banner_and_reaches_the_clock(firmware: EmulatedFirmware) -> None:
    text = firmware.boot()
    board = firmware.board
    assert "model: tiny\r\n" in text and f"board: {board.title}\r\n" in text and text.endswith("m-ready\r\n")
    assert firmware.machine.peripherals.clock_hz() == board.clock_hz
    assert firmware.machine.peripherals.unknown == set()


def test_run_gives_the_model_s_logits(firmware: EmulatedFirmware) -> None:
    pictures = np.random.default_rng(1).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    pictures[0] = 0
    result = firmware.run(pictures)
    assert result["logits"].tolist() == expected_logits(pictures).tolist()
    assert result["class"].tolist() == expected_logits(pictures).argmax(1).tolist()
    assert result["probabilities"].shape == (5, 4)


def test_profile_adds_up(firmware: EmulatedFirmware) -> None:
    picture = np.full((8, 8, 3), 7, np.uint8)
    profile = firmware.profile(picture)
    assert [layer.name for layer in profile.layers] == ["square", "mix", "softmax"]
    assert sum(f.cycles for f in profile.functions) == profile.cycles
    inside = sum(f.cycles for f in profile.functions if f.name != "mj_run")
    assert sum(layer.cycles for layer in profile.layers) == inside
    counted = firmware.machine.read_word(firmware.image.symbol("mj_mail").address + 24)
    assert 0 <= counted - profile.cycles < 60, "the chip's own cycle counter sees the same time"
    assert next(f for f in profile.functions if f.name == "tiny_dot").calls == 12
    assert profile.energies[0].joules == energy(profile.cycles, firmware.board).joules
    assert profile == firmware.profile(picture), "a second inference takes the same time"


def test_pictures_of_another_shape_are_refused(firmware: EmulatedFirmware) -> None:
    with pytest.raises(DataError, match="the model wants uint8"):
        firmware.run(np.zeros((1, 9, 8, 3), np.uint8))


@pytest.mark.parametrize("board", BOARDS)
def test_both_hooks_count_the_same(board: str) -> None:
    files = model_files()
    image = build_board(files, board)
    pictures = np.random.default_rng(2).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    found = []
    for hook in ("native", "python"):
        firmware = EmulatedFirmware(image, board, files, hook=hook)
        firmware.run(pictures)
        found.append((firmware.machine.counter.edges(), dict(firmware.machine.counter.sizes())))
    assert found[0] == found[1]


@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize(
    ("fault", "printed"),
    [
        (
            3,
            r"fault: exception 5, access to an address without memory\r\n"
            r".*cfsr 0x00008200 .*address 0x60000000 pc 0x0800",
        ),
        (6, r"fault: exception 6, undefined instruction\r\n.*cfsr 0x00010000 hfsr 0x00000000 pc 0x0800"),
        (7, r"fault: exception 5, access to an address without memory, stacking ran out.*stack overflow\r\n"),
    ],
)
def test_the_firmware_prints_its_faults(board: str, fault: int, printed: str) -> None:
    files = model_files()
    firmware = EmulatedFirmware(build_board(files, board, defines={"MJ_MISBEHAVE": str(fault)}), board, files)
    with pytest.raises(EmulationError):
        firmware.run(np.ones((1, 8, 8, 3), np.uint8))
    assert re.search(printed, firmware.console, flags=re.DOTALL), firmware.console


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (1, "beside the arena"),
        (2, r"wrote 1 bytes outside the model's arena, the first at 0x2000"),
        (3, r"mj_layer_002_softmax at 0x0800\w+: it writes 0x60000000, where there is no memory"),
        (4, "it writes 0x08001000, which is flash"),
        (5, "did not end within"),
        (6, "undefined"),
        (7, "the stack of 8192 bytes overflowed"),
    ],
)
def test_every_fault_is_found_and_explained(fault: int, message: str) -> None:
    files = model_files()
    image = build_board(files, "stm32l4r9i", defines={"MJ_MISBEHAVE": str(fault)})
    firmware = EmulatedFirmware(image, "stm32l4r9i", files, block_limit=200_000)
    with pytest.raises(EmulationError, match=message):
        firmware.run(np.ones((1, 8, 8, 3), np.uint8))


def test_energy_states_its_source() -> None:
    board = load_board("stm32h7b3i")
    found = energy(1e9, board)
    assert found.joules == pytest.approx(0.445, abs=5e-4)
    assert "MLPerf" in found.statement and 0 < found.uncertainty < 0.1
