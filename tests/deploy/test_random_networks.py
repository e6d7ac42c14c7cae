"""Random networks as firmware on both emulated boards: the bits of the executor, and no byte outside the arena."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

import millijoule
from drawn import KNOBS, Draw, any_row_options
from millijoule.boards import Board
from millijoule.build import build_board, build_host
from millijoule.compile import OBJECTIVES, Program, RowOptions, compile_graph, rows, staging
from millijoule.emulate import EmulatedFirmware
from millijoule.emulate.access import AccessCheck
from millijoule.execute import run
from millijoule.graph import ROUNDINGS
from networks import any_dynamic, any_network, random_pictures
from timeless import timeless

pytest.importorskip("unicorn")
pytest.importorskip("ziglang")

BOARDS = ("stm32l4r9i", "stm32h7b3i")
FEW = 30
CAMPAIGN = range(1000, 1300)
FEW_NIBBLES = (9, 13, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (20, 24)))
FEW_DYNAMIC, MANY_DYNAMIC = (4, 10, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 8))), 60
RESUME = "MILLIJOULE_RESUME"
"""With this variable a campaign goes on: networks that passed with the same files are skipped."""


BY_ROWS = """
#include "mj_model.h"
#define KEPT __attribute__((used, retain, noinline))
void rows_begin(void);
void rows_push(const uint8_t *row);
int rows_finish(mj_result *result);
KEPT void rows_begin(void) { mj_begin(); }
KEPT void rows_push(const uint8_t *row) { mj_push_row(row); }
KEPT int rows_finish(mj_result *result) { return mj_finish(result); }
"""
"""Keeps what the firmware itself would only contain inlined."""


def whole_pages(board: Board) -> Board:
    """The board with memories that the emulator can map: sizes rounded up."""
    return replace(board, memories=tuple(replace(m, size=-(-m.size // 4096) * 4096) for m in board.memories))


def built(program: Program) -> EmulatedFirmware:
    """The firmware on a board where every block takes one cycle: quicker, and nothing here depends on time."""
    assert program.board is not None
    board, files = whole_pages(program.board), dict(program.files)
    if program.options.stream:
        files["by_rows.c"] = BY_ROWS
    firmware = EmulatedFirmware(build_board(files, board), board, program)
    timeless(firmware.machine)
    return firmware


def booted(program: Program) -> EmulatedFirmware:
    firmware = built(program)
    firmware.boot()
    return firmware


def unowned(firmware: EmulatedFirmware) -> Iterator[tuple[int, int]]:
    """All RAM that is neither the firmware's data and stack nor the arena nor its fences: (address, bytes)."""
    symbols = firmware.image.symbols
    fences = [
        (symbols[name].address, symbols[f"{name}_end"].address)
        for name in ("mj_fence_low", "mj_fence_high", "mj_fast_low", "mj_fast_high")
        if name in symbols
    ]
    for _, pieces in firmware._outside():
        for address, content in pieces:
            end = address + len(content)
            for first, last in sorted(fences):
                if address <= first < end:
                    yield address, first - address
                    address = min(last, end)
            yield address, end - address


def painted(firmware: EmulatedFirmware, seed: int) -> list[tuple[int, bytes]]:
    """Fills the arenas and all RAM that nobody owns with noise; returns what lies where outside the arenas."""
    rng, machine = np.random.default_rng(seed), firmware.machine
    for name in ("mj_arena", "mj_fast"):
        if name in firmware.image.symbols:
            arena = firmware.image.symbol(name)
            machine.write(arena.address, rng.bytes(arena.size))
    noise = [(address, rng.bytes(size)) for address, size in unowned(firmware) if size]
    for address, content in noise:
        machine.write(address, content)
    return noise


def unharmed(firmware: EmulatedFirmware, noise: list[tuple[int, bytes]], what: str) -> None:
    """Nothing was written outside the arenas, and the stack was large enough."""
    for address, content in noise:
        assert firmware.machine.read(address, len(content)) == content, f"{what} wrote behind {address:#x}"
    assert firmware.peak_stack_bytes() < firmware.image.stack_bytes // 2


def by_rows(firmware: EmulatedFirmware, picture: np.ndarray) -> np.ndarray:
    """The logits of a picture whose rows are pushed one after the other, each gone when the next one comes."""
    machine, frame = firmware.machine, firmware.image.symbol("mj_frame")
    machine.call("rows_begin")
    for row in picture:
        machine.write(frame.address, row.tobytes())
        machine.call("rows_push", frame.address)
        assert machine.read(frame.address, row.size) == row.tobytes()
        machine.write(frame.address, b"\xee" * row.size)
    result = firmware.image.symbol("mj_last").address
    assert machine.call("rows_finish", result) == 0
    return np.frombuffer(machine.read(machine.read_word(result), firmware.info.classes), np.int8)


def check(seed: int, board: str, *, largest: int, layers: int) -> None:
    draw, what = Draw(seed, largest, layers), f"network {seed}"
    graph, compiled = draw.graph, draw.compiled(board)
    assert not compiled.budget or compiled.program.arena_bytes <= compiled.budget
    firmware = booted(compiled.program)
    noise = painted(firmware, seed)
    pictures = random_pictures(graph, 2, seed)
    ours, expected = firmware.run(pictures), run(graph, pictures)
    for name, tensor in zip(("logits", "probabilities"), graph.outputs, strict=False):
        np.testing.assert_array_equal(ours[name], expected[tensor], err_msg=f"{what}: {name}")
    unharmed(firmware, noise, what)
    if compiled.stream:
        np.testing.assert_array_equal(by_rows(firmware, pictures[0]), expected[graph.outputs[0]][0].ravel())
        unharmed(firmware, noise, f"{what} by rows")


def check_dynamic(seed: int, board: str) -> None:
    """The bits of the plain C on this computer; the executor adds floats of pools and means in another order."""
    graph, what = any_dynamic(seed), f"dynamic network {seed}"
    objective, kernels = OBJECTIVES[seed % 3], "plain" if seed % 5 == 3 else "dsp"
    program = compile_graph(graph, board, kernels=kernels, objective=objective, self_test=seed % 4 == 0)
    firmware = booted(program)
    noise = painted(firmware, seed)
    pictures = random_pictures(graph, 2, seed)
    pictures[1] = seed % 256  # a picture without any range
    ours, expected = firmware.run(pictures)["logits"], run(graph, pictures)[graph.outputs[0]]
    host = build_host(compile_graph(graph, kernels="plain", self_test=False)).run(pictures)["logits"]
    np.testing.assert_array_equal(ours, host, err_msg=what)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5 * max(1e-3, float(np.abs(expected).max())))
    unharmed(firmware, noise, what)


@pytest.mark.parametrize("seed", range(FEW))
def test_a_small_random_network_on_a_board(seed: int) -> None:
    check(seed, BOARDS[seed % 2], largest=9, layers=3)


@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize("seed", FEW_NIBBLES)
def test_weights_of_four_bits_unpacked_in_small_tiles(seed: int, board: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "TILE_BYTES", (4, 40, 100)[seed % 3])
    monkeypatch.setattr(staging, "MINIMUM_TILE", 1)
    monkeypatch.setattr(Draw, "nibbles", True)
    check(seed, board, largest=11, layers=3)


@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize("seed", FEW_DYNAMIC)
def test_a_random_dynamic_network_on_the_boards(seed: int, board: str) -> None:
    check_dynamic(seed, board)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(FEW))
def test_a_small_random_network_on_the_other_board(seed: int) -> None:
    check(seed, BOARDS[1 - seed % 2], largest=9, layers=3)


@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize(("seed", "kernels"), [(31, "dsp"), (35, "plain")])
def test_what_is_read_was_written_or_lies_in_the_arena(seed: int, kernels: str, board: str) -> None:
    """Kernels may read bytes of the arena that nobody wrote where the value does not matter, and nothing else."""
    graph = any_network(seed, largest=9, layers=3)
    firmware = built(compile_graph(graph, board, kernels=kernels, self_test=False))
    firmware.machine.reset()
    with AccessCheck(firmware.machine) as watch:
        firmware.run(random_pictures(graph, 1, seed))
        found = watch.found()
    assert [str(item) for item in found if item.kind != "unwritten" or item.place not in ("mj_arena", "mj_fast")] == []
    assert watch.lost == 0


class Journal:
    """Which networks passed with the same files: what a campaign that goes on need not do again."""

    def __init__(self, folder: Path) -> None:
        digest = hashlib.sha256()
        ours = Path(millijoule.__file__).parent
        for path in sorted([*ours.rglob("*"), *Path(__file__).parents[1].glob("*.py"), Path(__file__)]):
            if path.is_file() and path.suffix != ".pyc":
                digest.update(str(path).encode() + path.read_bytes())
        digest.update(str([version(name) for name in ("numpy", "unicorn", "ziglang")]).encode())
        self.path = folder / f"{digest.hexdigest()[:16]}.txt"

    def skip_known(self, name: str) -> None:
        if os.environ.get(RESUME) and self.path.exists() and name in self.path.read_text().splitlines():
            pytest.skip("it passed before, with the same files")

    def note(self, name: str) -> None:
        with self.path.open("a") as file:  # one short line at a time: processes do not disturb each other
            file.write(f"{name}\n")


@pytest.fixture(scope="module")
def journal(request: pytest.FixtureRequest) -> Journal:
    return Journal(request.config.cache.mkdir("random_networks"))  # type: ignore[union-attr]


@pytest.mark.slow
@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize("seed", CAMPAIGN)
def test_a_random_network_on_the_boards(seed: int, board: str, journal: Journal) -> None:
    journal.skip_known(f"{seed} {board}")
    check(seed, board, largest=23, layers=6)
    journal.note(f"{seed} {board}")


@pytest.mark.slow
@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize("seed", range(2000, 2000 + MANY_DYNAMIC))
def test_more_random_dynamic_networks_on_the_boards(seed: int, board: str, journal: Journal) -> None:
    journal.skip_known(f"dynamic {seed} {board}")
    check_dynamic(seed, board)
    journal.note(f"dynamic {seed} {board}")


def test_known_networks_are_skipped_only_where_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path)
    journal.note("7 stm32l4r9i")
    monkeypatch.delenv(RESUME, raising=False)
    journal.skip_known("7 stm32l4r9i")
    monkeypatch.setenv(RESUME, "1")
    journal.skip_known("8 stm32l4r9i")
    with pytest.raises(pytest.skip.Exception):
        Journal(tmp_path).skip_known("7 stm32l4r9i")


def test_every_option_of_a_block_is_drawn() -> None:
    assert set(KNOBS) == {field.name for field in fields(RowOptions)}
    rng = np.random.default_rng(1)
    drawn = [any_row_options(rng).as_dict() for _ in range(300)]
    assert all({options[name] for options in drawn} >= set(values) for name, values in KNOBS.items())


@pytest.mark.parametrize("seeds", [range(FEW), CAMPAIGN], ids=["default", "campaign"])
def test_the_networks_have_every_rounding_rule_with_every_objective(seeds: range) -> None:
    draws = [Draw(seed, 9, 3) for seed in seeds]
    boards = [BOARDS[seed % 2] for seed in seeds]
    every = set(itertools.product(BOARDS, ROUNDINGS, OBJECTIVES))
    assert {(board, draw.rounding, draw.objective) for board, draw in zip(boards, draws, strict=True)} == every
    assert {draw.rounding for draw in draws} == {draw.graph.rounding for draw in draws}
    share = len(draws) / FEW
    for least, having in (
        (12, [draw.share is not None for draw in draws]),
        (4, [draw.share == 0 for draw in draws]),
        (9, [draw.stream for draw in draws]),
        (7, [draw.has_row_options for draw in draws]),
        (2, [draw.kernels == "plain" for draw in draws]),
        (4, [draw.stream and draw.share is not None for draw in draws]),
        (6, [draw.nibbles for draw in draws]),
    ):
        assert sum(having) >= least * share


def effective(seeds: Iterable[int], largest: int, layers: int) -> tuple[int, int, int]:
    """Networks with a budget below the fastest plan's arena, whose picture comes by rows, with two arenas."""
    found = [Draw(seed, largest, layers).facts(BOARDS[seed % 2]) for seed in seeds]
    return sum(facts.tight for facts in found), sum(facts.stream for facts in found), sum(f.split for f in found)


def test_budgets_streams_and_second_arenas_of_the_default_run_are_real() -> None:
    tight, streamed, split = effective(range(FEW), 9, 3)
    assert tight >= 5 and streamed >= 5 and split >= 3


@pytest.mark.slow
def test_budgets_streams_and_second_arenas_of_the_campaign_are_real() -> None:
    tight, streamed, split = effective(CAMPAIGN, 23, 6)
    assert tight >= 75 and streamed >= 60 and split >= 30


@pytest.mark.parametrize("board", BOARDS)
def test_a_write_beside_the_arena_would_be_seen(board: str) -> None:
    """The noise covers the memory on both sides of the arena's fences, and other banks."""
    firmware = booted(compile_graph(any_network(0, largest=5, layers=1), board, self_test=False))
    pieces = list(unowned(firmware))
    low, high = (firmware.image.symbol(name).address for name in ("mj_fence_low", "mj_fence_high_end"))
    assert any(address + size == low for address, size in pieces) or low in {m.base for m in firmware.board.memories}
    assert any(address == high for address, size in pieces)
    owned = sum(section.size for section in firmware.image.sections if section.name in (".stack", ".data", ".bss"))
    owned += firmware.image.symbol("mj_arena").size
    total = sum(memory.size for memory in firmware.board.memories)
    assert total - owned - 1024 <= sum(size for _, size in pieces) <= total - owned
