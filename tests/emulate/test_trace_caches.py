"""The caches of the simulators against caches written a second time, in a few lines of Python, on random accesses."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from millijoule.emulate import CortexM4, CortexM7
from millijoule.emulate.cortex_m4 import FlashInterfaceRules

from .micro import Bench

FLASH_DATA = 0x08010000
AXI = 0x24000000


class Cache:
    """Set associative, least recently used; lines are divided into sectors that are filled one by one."""

    def __init__(self, sets: int, ways: int, line: int, sector: int) -> None:
        self.sets: list[OrderedDict[int, set[int]]] = [OrderedDict() for _ in range(sets)]
        self.ways, self.line, self.sector = ways, line, sector
        self.misses = self.written_back = 0
        self.dirty: set[int] = set()

    def access(self, address: int, write: bool = False) -> None:
        line, sector = address // self.line, address % self.line // self.sector
        place = self.sets[line % len(self.sets)]
        if sector not in place.get(line, ()):
            self.misses += 1
            if line not in place and len(place) == self.ways:
                gone, _ = place.popitem(last=False)
                self.written_back += gone in self.dirty
                self.dirty.discard(gone)
            place.setdefault(line, set()).add(sector)
        place.move_to_end(line)
        if write:
            self.dirty.add(line)


@pytest.mark.parametrize("line_bytes", [8, 16])
def test_the_data_cache_of_the_flash_interface(line_bytes: int, tmp_path: Path) -> None:
    offsets = np.random.default_rng(line_bytes).integers(0, 120, 600) * 4
    bench = Bench("stm32l4r9i", {"loads": "\n".join(f"ldr r1,[r4,#{offset}]" for offset in offsets)}, tmp_path)
    expected = Cache(1, 8, 32, line_bytes)
    for offset in offsets:
        expected.access(FLASH_DATA + int(offset))
    model = CortexM4(flash=FlashInterfaceRules(line_bytes=line_bytes))
    result = bench.traced("loads", model, {"r4": FLASH_DATA})
    assert result.memory["data_misses"] == expected.misses
    assert result.memory["data_hits"] == len(offsets) - expected.misses
    assert 100 < expected.misses < 500


def test_the_instruction_cache_of_the_flash_interface(tmp_path: Path) -> None:
    """Pieces of code 8 bytes long, visited in a random order by a table of addresses; without prefetch."""
    pieces, visits = 200, np.random.default_rng(3).integers(0, 200, 900)
    # r4 points into a table in RAM: the next piece's address goes to the program counter.
    code = ".balign 8\n" + "\n".join(["ldr pc,[r4],#4\n nop\n nop"] * pieces)
    bench = Bench("stm32l4r9i", {"pieces": code}, tmp_path)
    table = 0x20002000
    begin = 0x08000200 + bench.places["pieces"][0]
    until = 0x08000200 + bench.places["pieces"][1]
    targets = [begin + 8 * int(piece) for piece in visits]
    words = [*(target | 1 for target in targets), until | 1]
    bench.machine.write(table, b"".join(word.to_bytes(4, "little") for word in words))
    expected = Cache(1, 32, 32, 8)
    line = None
    for address in [begin, *targets]:
        if address // 8 != line:  # the line the core already reads from is asked for once
            expected.access(address)
        line = address // 8
    model = CortexM4(flash=FlashInterfaceRules(prefetch=False))
    result = bench.traced("pieces", model, {"r4": table})
    assert result.memory["lines_from_flash"] == expected.misses
    assert 300 < expected.misses < 850


def test_the_data_cache_of_the_m7(tmp_path: Path) -> None:
    generator = np.random.default_rng(7)
    bases = {f"r{4 + number}": AXI + 4096 * number for number in range(8)}
    accesses = [
        (str(generator.choice(list(bases))), int(generator.integers(0, 1024)) * 4, bool(generator.integers(0, 2)))
        for _ in range(3000)
    ]
    text = "\n".join(f"{'str' if write else 'ldr'} r1,[{base},#{offset}]" for base, offset, write in accesses)
    bench = Bench("stm32h7b3i", {"accesses": text}, tmp_path)
    expected = Cache(128, 4, 32, 32)
    for base, offset, write in accesses:
        expected.access(bases[base] + offset, write)
    result = bench.traced("accesses", CortexM7(), bases)
    assert result.memory["data_lines"] == expected.misses
    assert result.memory["data_hits"] == len(accesses) - expected.misses
    assert result.memory["data_lines_written_back"] == expected.written_back
    assert 100 < expected.written_back < expected.misses
