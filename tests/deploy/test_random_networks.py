"""Random networks as firmware on both emulated boards: the bits of the executor, and no byte outside the arena."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from millijoule.build import build_board
from millijoule.compile import Program, compile_graph
from millijoule.emulate import EmulatedFirmware
from millijoule.emulate.access import AccessCheck
from millijoule.execute import run
from millijoule.graph import ROUNDINGS
from networks import any_network, random_pictures

pytest.importorskip("unicorn")
pytest.importorskip("ziglang")

BOARDS = ("stm32l4r9i", "stm32h7b3i")
FEW, MANY = 30, 300


class OneCycle:
    """Every instruction takes one cycle: quicker than a model of the core, and nothing here depends on time."""

    name = version = assumptions = expected_error = traced_error = conditions = ""

    def start(self) -> None:
        return None

    def run(self, state: None, block: Sequence[Any]) -> tuple[int, None]:
        return len(block), None

    def leave(self, state: None, branch: Any, following: Any, missed: bool = False) -> tuple[int, None]:
        return 0, None

    def cycles(self, blocks: Sequence[Sequence[Any]]) -> int:
        return sum(map(len, blocks))


def built(program: Program) -> EmulatedFirmware:
    board = program.target
    return EmulatedFirmware(build_board(program.files, board), board, program, model=OneCycle())


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


def check(seed: int, board: str, *, largest: int, layers: int) -> None:
    graph = any_network(seed, largest=largest, layers=layers)
    program = compile_graph(graph, board, kernels="plain" if seed % 10 == 9 else "dsp", self_test=seed % 4 == 0)
    firmware = booted(program)
    noise = painted(firmware, seed)
    pictures = random_pictures(graph, 2, seed)
    ours, expected = firmware.run(pictures), run(graph, pictures)
    for name, tensor in zip(("logits", "probabilities"), graph.outputs, strict=False):
        np.testing.assert_array_equal(ours[name], expected[tensor], err_msg=f"network {seed}: {name}")
    for address, content in noise:
        assert firmware.machine.read(address, len(content)) == content, f"network {seed} wrote behind {address:#x}"
    assert firmware.peak_stack_bytes() < firmware.image.stack_bytes // 2


@pytest.mark.parametrize("seed", range(FEW))
def test_a_small_random_network_on_a_board(seed: int) -> None:
    check(seed, BOARDS[seed % 2], largest=9, layers=3)


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


@pytest.mark.slow
@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize("seed", range(1000, 1000 + MANY))
def test_a_random_network_on_the_boards(seed: int, board: str) -> None:
    check(seed, board, largest=23, layers=6)


def test_the_networks_of_the_default_run_know_every_rounding_rule() -> None:
    assert {any_network(seed, largest=9, layers=3).rounding for seed in range(FEW)} == set(ROUNDINGS)


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
