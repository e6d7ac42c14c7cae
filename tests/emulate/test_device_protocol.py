"""The device protocol of the firmware: what every command answers, and that nothing on the line can upset it."""

from __future__ import annotations

import dataclasses
import random
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millijoule.build import Segment, build_board
from millijoule.compile import compile_graph
from millijoule.emulate import EmulatedFirmware
from millijoule.errors import EmulationError

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from networks import random_network

BOARDS = ("stm32l4r9i", "stm32h7b3i", "nucleo_l4r5zi", "nucleo_h7a3zi_q")
MODEL = Path(__file__).parents[1] / "fixtures" / "tiny_model"
PICTURE = (np.arange(192) * 7 % 256).astype(np.uint8).reshape(8, 8, 3)


PRINTABLE = {"\r", "\n", *map(chr, range(32, 127))}


def model_files() -> dict[str, str]:
    return {path.name: path.read_text() for path in MODEL.iterdir()}


def make(board: str, **defines: str) -> EmulatedFirmware:
    files = model_files()
    return EmulatedFirmware(build_board(files, board, defines=defines, strict=True), board, files)


@pytest.fixture(
    scope="module", params=[*BOARDS[:2], *(pytest.param(board, marks=pytest.mark.slow) for board in BOARDS[2:])]
)
def on_every_board(request: pytest.FixtureRequest) -> EmulatedFirmware:
    return make(request.param)


@pytest.fixture(scope="module")
def firmware() -> EmulatedFirmware:
    return make(BOARDS[0])


@pytest.fixture
def fresh(firmware: EmulatedFirmware) -> EmulatedFirmware:
    firmware.boot()
    return firmware


@pytest.fixture(scope="module")
def crowded() -> EmulatedFirmware:
    """A firmware as where no RAM is left for a copy of the picture."""
    return make(BOARDS[0], MJ_PICTURE_COPY="0")


def load(picture: np.ndarray, size: int = 31) -> str:
    """The commands that send a picture."""
    content = picture.tobytes()
    lines = "".join(f"db {content[at : at + size].hex()}%" for at in range(0, len(content), size))
    return f"db load {len(content)}%{lines}"


def answer(firmware: EmulatedFirmware, picture: np.ndarray) -> str:
    """What `results` must say of a picture, from the mailbox of the debug probe."""
    stored = firmware.run(picture)["probabilities"][0].astype(int) + 128
    return f"m-results-[{','.join(f'{value / 256 + 1e-9:.3f}' for value in stored)}]"


def baud(firmware: EmulatedFirmware) -> float | None:
    return firmware.machine.peripherals.console.baud()


def laps(text: str) -> list[int]:
    return [int(value) for value in re.findall(r"m-lap-us-(\d+)", text)]


def errors(text: str) -> list[str]:
    return re.findall(r"^e-\[.*", text, flags=re.MULTILINE)


def test_a_picture_is_classified_over_the_line(on_every_board: EmulatedFirmware) -> None:
    fresh = on_every_board
    fresh.boot()
    expected = answer(fresh, PICTURE)
    text = fresh.dialogue(f"name%profile%{load(PICTURE)}infer 3 2%results%")
    assert text.count(expected) == 2
    assert f"m-name-dut-[millijoule {fresh.board.title}]" in text and "m-model-[tiny]" in text
    assert "m-[Expecting 192 bytes]" in text and "m-load-done" in text
    order = ["m-warmup-start-2", "m-warmup-done", "m-infer-start-3", "m-lap-us-", "m-infer-done", "m-results-["]
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    assert text.count("m-ready\r\n") == 3 + 7 + 2 and not errors(text)


def test_every_inference_sees_the_picture(fresh: EmulatedFirmware) -> None:
    expected = answer(fresh, PICTURE)
    fresh.run(255 - PICTURE)  # something else in the arena, put there by the debug probe
    first = fresh.dialogue(load(PICTURE) + "infer 1%")
    assert expected in first
    assert expected in fresh.dialogue("infer 1 5%") and expected in fresh.dialogue("infer 4%")
    fresh.run(255 - PICTURE)
    assert expected in fresh.dialogue("infer 1%")


def test_time_is_that_of_the_inferences_alone(fresh: EmulatedFirmware) -> None:
    microseconds = fresh.profile(PICTURE).cycles / fresh.board.clock_hz * 1e6
    stamps = laps(fresh.dialogue(f"timestamp%{load(PICTURE)}infer 200 1%timestamp%"))
    assert stamps == sorted(stamps) and len(stamps) == 4
    assert stamps[2] - stamps[1] == pytest.approx(200 * microseconds, rel=0.02, abs=2)


@pytest.mark.skipif(shutil.which("arm-none-eabi-gcc") is None, reason="arm-none-eabi-gcc is not installed")
def test_gcc_builds_the_same_protocol() -> None:
    files = model_files()
    firmware = EmulatedFirmware(build_board(files, BOARDS[0], compiler="gcc", strict=True), BOARDS[0], files)
    expected = answer(firmware, PICTURE)
    assert expected in firmware.dialogue(load(PICTURE) + "infer 2 1%")


def test_without_ram_for_a_copy_the_first_inference_counts(crowded: EmulatedFirmware) -> None:
    assert "copy of the picture: none" in crowded.boot()
    expected = answer(crowded, PICTURE)
    text = crowded.dialogue(load(PICTURE) + "infer 3 2%")
    assert expected in text and "m-[No RAM for a copy of the picture" in text
    assert "e-[The last inference has overwritten the picture" in crowded.dialogue("infer 1%")
    assert expected in crowded.dialogue("results%")
    assert "m-[No RAM" not in crowded.dialogue(load(PICTURE) + "infer 1%")


def test_raw_gives_every_bit(fresh: EmulatedFirmware) -> None:
    assert "e-[There was no inference yet]" in fresh.dialogue("raw%")
    assert "e-[There was no inference yet]" in fresh.dialogue("results%")
    result = fresh.run(PICTURE)
    text = fresh.dialogue(load(PICTURE) + "infer 1%raw%info%")
    assert f"m-raw-logits-[{result['logits'].tobytes().hex()}]" in text
    assert f"m-raw-probabilities-[{result['probabilities'].tobytes().hex()}]" in text
    assert f"m-raw-class-[{result['class'][0]}]" in text
    assert f"m-clock-hz-[{fresh.board.clock_hz}]" in text and "m-input-bytes-[192]" in text
    assert "m-classes-[4]" in text and "m-picture-is-kept-[1]" in text


def test_a_picture_can_be_read_back(fresh: EmulatedFirmware) -> None:
    fresh.dialogue(load(PICTURE))
    flat = PICTURE.reshape(-1)
    rows = ["m-buffer-" + "-".join(f"{byte:02x}" for byte in flat[at : at + 8]) for at in (0, 8)]
    assert fresh.dialogue("db print%") == "\r\n".join([*rows, "m-ready\r\n"])
    assert fresh.dialogue("db print 3 189%") == f"m-buffer-{'-'.join(f'{b:02x}' for b in flat[189:])}\r\nm-ready\r\n"
    assert fresh.dialogue("db print 192%").count("m-buffer-") == 24
    for wrong in ("193", "1 192", "4294967295 4294967295", "1 1 1", "x"):
        assert "e-[db print" in fresh.dialogue(f"db print {wrong}%"), wrong


def test_a_short_picture_is_black_where_nothing_came(fresh: EmulatedFirmware) -> None:
    short = np.zeros_like(PICTURE)
    short.reshape(-1)[:2] = 200
    expected = answer(fresh, short)
    assert expected in fresh.dialogue(f"{load(PICTURE)}db load 2%db c8c8%infer 1%")


def test_energy_mode_makes_edges(on_every_board: EmulatedFirmware) -> None:
    fresh = on_every_board
    fresh.boot()
    chip, pin = fresh.machine.peripherals, fresh.board.timestamp
    assert pin is not None
    assert "m-timestamp-mode-performance" in fresh.console and "m-timestamp-mode-performance" in fresh.dialogue("mode%")
    text = fresh.dialogue("mode energy%")
    assert text == "m-timestamp-mode-energy\r\nm-ready\r\n"
    assert baud(fresh) == pytest.approx(9600, rel=0.005)
    chip.edges.clear()
    text = fresh.dialogue(f"timestamp%{load(PICTURE, 26)}infer 2%")
    assert "m-lap-us" not in text and "m-results-[" in text
    edges = [edge for edge in chip.edges if (edge.port, edge.pin) == (f"GPIO{pin.port}", pin.pin)]
    assert [edge.level for edge in edges] == [0, 1] * 3
    for fall, rise in zip(edges[::2], edges[1::2], strict=True):
        assert 1e-6 <= (rise.cycles - fall.cycles) / fresh.board.clock_hz < 1e-5
    assert "m-timestamp-mode-energy" in fresh.dialogue("mode%")
    assert "m-timestamp-mode-performance" in fresh.dialogue("mode performance%")
    assert baud(fresh) == pytest.approx(115200, rel=0.005)
    assert len(laps(fresh.dialogue("timestamp%infer 1%"))) == 3


def test_a_build_can_start_in_energy_mode() -> None:
    firmware = make(BOARDS[0], MJ_ENERGY_MODE="1")
    assert firmware.boot().endswith("m-timestamp-mode-energy\r\nm-init-done\r\nm-ready\r\n")
    assert "m-lap-us" not in firmware.dialogue("timestamp%")


@pytest.mark.parametrize(
    ("command", "reply"),
    [
        ("nonsense", "e-[Unknown command: nonsense]"),
        ("", "e-[Unknown command: ]"),
        ("\x07\x1b[2J\xff", "e-[Unknown command: ??[2J?]"),
        ("name\x00", "e-[Unknown command: name?]"),
        ("names", "e-[Unknown command: names]"),
        ("db", "e-[Send db load N first]"),
        ("db load 193", "e-[db load needs a size"),
        ("db load 0", "e-[db load needs a size"),
        ("db load 2 2", "e-[db load needs a size"),
        ("db load 4294967298", "e-[db load needs a size"),
        ("db load", "e-[db load needs a size"),
        ("db 00", "e-[Send db load N first]"),
        ("db print", "e-[There is no picture]"),
        ("infer", "e-[infer needs a number"),
        ("infer x", "e-[infer needs a number"),
        ("infer 0", "e-[infer needs a number"),
        ("infer 1x", "e-[infer needs a number"),
        ("infer 1 -1", "e-[infer needs a number"),
        ("infer 1 1 1", "e-[infer needs a number"),
        ("infer 1", "e-[Send db load N first]"),
        ("mode fast", "e-[The modes are"),
        ("mode energy now", "e-[The modes are"),
        ("x" * 81, "e-[Command too long]"),
        ("x" * 80, "e-[Unknown command: xxx"),
        ("\r\nname", "m-name-dut-"),
        ("half a line\x03name", "m-name-dut-"),
        ("   name  ", "m-name-dut-"),
        ("stack", "m-stack-"),
        ("help", "infer N [W=0]"),
        ("timestamp", "m-lap-us-"),
    ],
)
def test_odd_commands_get_one_clear_answer(fresh: EmulatedFirmware, command: str, reply: str) -> None:
    text = fresh.dialogue(f"{command}%")
    assert reply in text and text.count("m-ready\r\n") == 1 and text.endswith("m-ready\r\n")
    assert set(text) <= PRINTABLE


def test_a_line_is_taken_whole_or_not_at_all(fresh: EmulatedFirmware) -> None:
    text = fresh.dialogue("db load 4%db 01%db 020g%db 020%db 0203040506%db 020304%")
    assert text.count("e-[Not hexadecimal") == 2 and text.count("e-[More bytes than announced]") == 1
    assert text.count("m-load-done") == 1
    assert "m-buffer-01-02-03-04\r\n" in fresh.dialogue("db print 4%")
    assert "e-[The picture is not complete]" in fresh.dialogue("db load 4%db 01%infer 1%")


def test_ctrl_c_stops_a_long_measurement(fresh: EmulatedFirmware) -> None:
    fresh.dialogue(load(PICTURE))
    text = fresh.dialogue("infer 999999999%\x03")
    assert "e-[Interrupted]" in text and text.endswith("m-ready\r\n") and len(laps(text)) == 2
    assert not errors(fresh.dialogue("infer 2%name%"))


def test_commands_that_wait_are_kept_as_far_as_there_is_room(fresh: EmulatedFirmware) -> None:
    text = fresh.dialogue(load(PICTURE) + "infer 5%" + "name%" * 25)
    assert text.count("m-name-dut-") == 25 and not errors(text)
    text = fresh.dialogue("infer 5%" + "name%" * 60)
    assert "m-name-dut-" not in text and len(errors(text)) == 1 and "were lost" in text
    assert not errors(fresh.dialogue("infer 1%name%"))
    assert "e-[Interrupted]" in fresh.dialogue("infer 999999999%" + "name%" * 60 + "\x03")


# *** the checks at the start ***


def damaged(board: str, section: str, offset: int) -> EmulatedFirmware:
    """A compiled network on a board, one bit of its flash turned over."""
    program = compile_graph(random_network(["conv", "depthwise", "pointwise"], 3), board)
    image = build_board(program.files, board)
    address = next(item.address for item in image.sections if item.name == section) + offset
    segments = []
    for segment in image.segments:
        content = bytearray(segment.data)
        if segment.address <= address < segment.address + len(content):
            content[address - segment.address] ^= 0x10
        segments.append(Segment(segment.address, bytes(content)))
    return EmulatedFirmware(dataclasses.replace(image, segments=tuple(segments)), board, program)


@pytest.mark.parametrize("board", BOARDS[:2])
@pytest.mark.parametrize("offset", [0, pytest.param(41, marks=pytest.mark.slow), 200])
def test_a_turned_bit_in_the_weights_is_found(board: str, offset: int) -> None:
    firmware = damaged(board, ".mj_weights", offset)
    with pytest.raises(EmulationError, match="checksum of its weights"):
        firmware.boot()
    assert "e-[self-test failed: the checksum of the weights is wrong]" in firmware.console
    assert "m-ready" in firmware.console  # it can still be asked


def test_other_logits_are_found() -> None:
    program = compile_graph(random_network(["conv", "depthwise"], 3), BOARDS[0])
    files = {**program.files}
    files["mj_model.c"] = files["mj_model.c"].replace("state = 1664525u * state", "state = 22695477u * state")
    assert files["mj_model.c"] != program.files["mj_model.c"]
    firmware = EmulatedFirmware(build_board(files, BOARDS[0]), BOARDS[0], program)
    with pytest.raises(EmulationError, match="other logits"):
        firmware.boot()
    assert "e-[self-test failed: the golden picture gave other logits]" in firmware.console


# *** noise ***

WORDS = ("name", "profile", "timestamp", "db", "load", "print", "infer", "results", "raw", "info", "mode", "energy")
WORDS += (
    "db load 1%db 07%infer 2 1",
    "infer 999999999",
    "performance",
    "stack",
    "help",
    "0",
    "1",
    "7",
    "192",
    "193",
    "-1",
    "999999999999",
    "4294967297",
    "0x10",
)
WORDS += ("ff", "00ff", "0g", "f" * 62, "f" * 63, " ", "  ", "\r\n", "\x03", "\x00", "\x1b", "%", "\xff", "e-[]")


def outside(firmware: EmulatedFirmware) -> list[bytes]:
    """All RAM that belongs neither to the firmware nor to the copy of the picture."""
    image, machine = firmware.image, firmware.machine
    owned = [(s.address, s.address + s.size) for s in image.sections if s.address >= 0x20000000]
    found = re.search(r"copy of the picture: at 0x([0-9a-f]{8})", firmware.console)
    assert found is not None
    owned.append((int(found[1], 16), int(found[1], 16) + 192))
    pieces = []
    for memory in firmware.board.memories:
        position = memory.base
        for start, end in sorted((s, e) for s, e in owned if memory.base <= s < memory.end):
            pieces.append(machine.read(position, max(start - position, 0)))
            position = max(position, end)
        pieces.append(machine.read(position, memory.end - position))
    return pieces


def check_noise(firmware: EmulatedFirmware, lines: list[str]) -> None:
    """Every line is answered; afterwards the firmware works as before and nothing was written outside."""
    firmware.boot()
    before, expected = outside(firmware), answer(firmware, PICTURE)
    for line in lines:
        # Ctrl-C behind the line: a billion inferences would be obeyed otherwise.
        text = firmware.dialogue(line + "%\x03")
        assert text.endswith("m-ready\r\n"), line
        assert set(text) <= PRINTABLE, line
    assert outside(firmware) == before
    assert expected in firmware.dialogue("mode performance%" + load(PICTURE) + "infer 1%")
    assert answer(firmware, PICTURE) == expected
    assert firmware.peak_stack_bytes() < 2048


def random_lines(count: int, seed: int) -> list[str]:
    chance = random.Random(seed)
    lines = []
    for _ in range(count):
        kind = chance.random()
        if kind < 0.6:
            lines.append(" ".join(chance.choice(WORDS) for _ in range(chance.randint(0, 6))))
        elif kind < 0.9:
            parts = [chance.choice([*WORDS, chr(chance.randrange(256))]) for _ in range(chance.randint(0, 30))]
            lines.append("".join(parts))
        else:
            lines.append(chance.randbytes(chance.randint(0, 200)).decode("latin-1"))
    return lines


def test_random_lines_never_hang_the_firmware(firmware: EmulatedFirmware) -> None:
    check_noise(firmware, random_lines(200, 7))


@settings(max_examples=5)
@given(st.lists(st.text(st.characters(max_codepoint=255), max_size=120), max_size=8))
def test_any_bytes_are_answered(firmware: EmulatedFirmware, lines: list[str]) -> None:
    check_noise(firmware, lines)


@pytest.mark.slow
def test_ten_thousand_random_lines_never_hang_the_firmware(on_every_board: EmulatedFirmware) -> None:
    check_noise(on_every_board, random_lines(10_000, 1))
