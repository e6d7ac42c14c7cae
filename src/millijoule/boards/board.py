"""What a board is: core, clock, memories, compiler flags, energy per cycle; read from one TOML file per board."""

from __future__ import annotations

import functools
import importlib
import itertools
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from millijoule.boards.clock import ClockTree, read_clock
from millijoule.boards.power import FIT_ROW, TEST_ROWS, Regulator, Round
from millijoule.errors import BoardError

_PORTS = tuple("ABCDEFGHIJK")
tomllib: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

__all__ = [
    "Board",
    "Console",
    "Flash",
    "Memory",
    "OutputPin",
    "Paper",
    "Pin",
    "Probe",
    "Regulator",
    "SleepMode",
    "board_names",
    "load_board",
    "read_board",
]


@dataclass(frozen=True)
class Memory:
    """One RAM of the chip.

    `speed` ranks the memories, 1 is the fastest. `data` marks the RAM of stack, .data and .bss; `arena` marks those
    that may hold the model's arena, tried in the order of the file. `cache_bytes` is the data cache in front of it, 0
    where it answers without one.
    """

    name: str
    base: int
    size: int
    purpose: str
    speed: int
    data: bool = False
    arena: bool = False
    cache_bytes: int = 0

    @property
    def end(self) -> int:
        """The first address behind the memory."""
        return self.base + self.size


@dataclass(frozen=True)
class Flash:
    """The program memory: base, size in bytes, wait states at the board's clock, bits per line.

    `staging`: whether weights are better copied to free RAM before their layer, because no data cache holds them, or
    where they are larger than the `cache_bytes` of the one in front of it (0: none worth counting).
    """

    base: int
    size: int
    wait_states: int
    line_bits: int
    bank_mode: str
    staging: bool = False
    cache_bytes: int = 0


@dataclass(frozen=True)
class Pin:
    """A pin and the alternate function that routes it: port letter, number 0..15, function 0..15."""

    port: str
    pin: int
    alternate: int


@dataclass(frozen=True)
class OutputPin:
    """A pin that the firmware drives itself: port letter, number 0..15."""

    port: str
    pin: int


@dataclass(frozen=True)
class Probe:
    """How programs for debug probes call the chip.

    `pyocd` is the target type of its CMSIS pack; `openocd` are the configuration files, the probe's first.
    """

    pyocd: str
    openocd: tuple[str, ...]


@dataclass(frozen=True)
class SleepMode:
    """What the chip draws between inferences: the mode, amperes, and where the figure comes from."""

    mode: str
    amperes: float
    source: str

    def __post_init__(self) -> None:
        """Raises ValueError for a current that is none."""
        if not 0.0 <= self.amperes < 1.0:
            raise ValueError(f"sleep.amperes = {self.amperes!r} is no current of a stop mode")

    @property
    def statement(self) -> str:
        """Mode and source in one line."""
        return f"{self.mode}: {self.source}"


@dataclass(frozen=True)
class Console:
    """The serial line of the firmware."""

    peripheral: str
    baud: int
    transmit: Pin
    receive: Pin


@dataclass(frozen=True)
class Paper:
    """The study's figures for this board: milliseconds and millijoules per inference."""

    milliseconds: float
    millijoules: float
    remark: str


@dataclass(frozen=True)
class Board:
    """A board: everything the compiler, the linker, the emulator and the energy model need to know about it.

    `silicon` is the part whose registers, clock code and machine rules the board shares: its own name, or that of
    another board with the same silicon. `clock_hz` is the core's clock, `clock` how it comes about. `folder` is where
    the description lies: C files of the board beside it are found there.
    """

    name: str
    title: str
    silicon: str
    core: str
    fpu: str
    clock_hz: int
    clock: ClockTree
    interrupts: int
    flash: Flash
    memories: tuple[Memory, ...]
    regulators: tuple[Regulator, ...]
    console: Console
    supply: str
    target_flags: Mapping[str, tuple[str, ...]]
    paper: Paper | None
    timestamp: OutputPin | None = None
    probe: Probe | None = None
    sleep: SleepMode | None = None
    folder: Path = Path()

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def data_memory(self) -> Memory:
        """The RAM of stack, .data and .bss."""
        return next(memory for memory in self.memories if memory.data)

    @property
    def arena_memories(self) -> tuple[Memory, ...]:
        """The RAMs that may hold the arena, in the order in which they are tried."""
        return tuple(memory for memory in self.memories if memory.arena)

    @property
    def ram_bytes(self) -> int:
        """Bytes of all RAM together."""
        return sum(memory.size for memory in self.memories)

    @property
    def largest_arena_memory(self) -> Memory:
        """The RAM with room for the largest arena."""
        return max(self.arena_memories, key=lambda memory: memory.size)

    def arena_limit(self, reserved: int = 16384) -> int:
        """Largest arena in bytes that can be placed when `reserved` bytes of the data RAM go to stack and data."""
        return max(memory.size - (reserved if memory.data else 0) for memory in self.arena_memories)

    def regulator(self, name: str | None = None) -> Regulator:
        """The regulator called `name`; the first of the board without a name. Raises `BoardError`."""
        if name is None:
            return self.regulators[0]
        for regulator in self.regulators:
            if regulator.name == name:
                return regulator
        known = ", ".join(regulator.name for regulator in self.regulators)
        raise BoardError(f"regulator {name!r}", f"{self.title} has none of that name", f"Choose one of: {known}")


def _folder() -> Path:
    return Path(str(resources.files("millijoule.boards")))


def board_names() -> tuple[str, ...]:
    """The boards that come with the package, sorted."""
    return tuple(sorted(path.stem for path in _folder().glob("*.toml")))


@functools.lru_cache(maxsize=32)
def load_board(name: str) -> Board:
    """The board called `name` (upper or lower case), or described by the TOML file at the path `name`.

    Raises:
        BoardError: no such board, or a description that breaks a rule.
    """
    if name.endswith(".toml"):
        return read_board(Path(name))
    known = {stem.lower(): stem for stem in board_names()}
    stem = known.get(name.lower())
    if stem is None:
        raise BoardError(
            f"board {name!r}", "there is no board of that name", f"Choose one of: {', '.join(sorted(known))}"
        )
    return read_board(_folder() / f"{stem}.toml")


def read_board(path: Path) -> Board:
    """Reads and checks a board description.

    Args:
        path: a TOML file, see `boards/stm32l4r9i.toml` for the keys.

    Raises:
        BoardError: the file cannot be read, is no TOML, lacks a key or has memories that overlap.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BoardError(
            str(path), f"the description cannot be read ({error})", "Compare it with stm32l4r9i.toml"
        ) from error
    try:
        board = replace(_from_values(values), folder=path.parent)
    except (KeyError, TypeError, ValueError) as error:
        raise BoardError(
            str(path), f"a key is missing or wrong ({error})", "Compare it with stm32l4r9i.toml"
        ) from error
    _check(path, board)
    return board


_SILICON_KEYS = ("core", "fpu", "clock_hz", "clock", "interrupts", "flash", "memory", "compiler", "regulator", "sleep")
"""What a board takes over from the board that it names as its silicon, where it does not say it itself."""


def _with_silicon(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The description, completed by that of its silicon. Raises `BoardError` for an unknown silicon."""
    silicon = str(values.get("silicon", values["name"]))
    if silicon == values["name"]:
        return values
    path = _folder() / f"{silicon}.toml"
    if not path.is_file():
        known = ", ".join(name for name in board_names() if load_board(name).silicon == name)
        raise BoardError(f"silicon {silicon!r}", "no board of that name has files to share", f"Choose one of: {known}")
    shared = tomllib.loads(path.read_text(encoding="utf-8"))
    return {**{key: shared[key] for key in _SILICON_KEYS if key in shared}, **values}


def _from_values(values: Mapping[str, Any]) -> Board:
    values = _with_silicon(values)
    clock = int(values["clock_hz"])
    console = values["console"]
    paper = values.get("paper")
    timestamp, probe = values.get("timestamp"), values.get("probe")
    regulators = tuple(map(str, values["regulators"])) if "regulators" in values else None
    return Board(
        name=str(values["name"]),
        title=str(values["title"]),
        silicon=str(values.get("silicon", values["name"])),
        core=str(values["core"]),
        fpu=str(values["fpu"]),
        clock_hz=clock,
        clock=read_clock(values["clock"], str(console.get("clock", "APB1"))),
        interrupts=int(values["interrupts"]),
        flash=Flash(**values["flash"]),
        memories=tuple(Memory(**memory) for memory in values["memory"]),
        regulators=_regulators(values["regulator"], clock, regulators),
        console=Console(
            peripheral=str(console["peripheral"]),
            baud=int(console["baud"]),
            transmit=Pin(**console["transmit"]),
            receive=Pin(**console["receive"]),
        ),
        supply=str(values.get("supply", {}).get("kind", "ldo")),
        target_flags={name: tuple(item["target"]) for name, item in values["compiler"].items()},
        paper=Paper(**paper) if paper else None,
        timestamp=OutputPin(**timestamp) if timestamp else None,
        sleep=SleepMode(**values["sleep"]) if "sleep" in values else None,
        probe=Probe(str(probe["pyocd"]), tuple(map(str, probe["openocd"]))) if probe else None,
    )


def _rows(values: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    rows = {str(key): (float(row[0]), float(row[1])) for key, row in values.items()}
    if any(not value > 0.0 for row in rows.values() for value in row):
        raise ValueError("an energy or latency is not positive")
    return rows


def _stalls(item: Mapping[str, Any]) -> dict[str, float]:
    return {str(key): float(value) for key, value in item.get("stall_cycles", {}).items()}


def _regulators(items: list[Any], clock: int, names: tuple[str, ...] | None) -> tuple[Regulator, ...]:
    """The regulators called `names`, or all."""
    return tuple(
        Regulator(
            name=str(item["name"]),
            title=str(item["title"]),
            kind=str(item.get("kind", "switching")),
            volts=float(item["volts"]),
            clock_hz=int(item.get("clock_hz", clock)),
            source=str(item["source"]),
            rows=_rows(item["rows"]),
            stall_cycles=_stalls(item),
            rounds=tuple(
                Round(str(one["name"]), float(one["volts"]), _rows(one["rows"]), _stalls(one))
                for one in item.get("round", ())
            ),
        )
        for item in items
        if names is None or item["name"] in names
    )


def _check(path: Path, board: Board) -> None:
    for base, size in [(board.flash.base, board.flash.size), *((m.base, m.size) for m in board.memories)]:
        if not (isinstance(base, int) and isinstance(size, int) and base >= 0 and size >= 1024):
            raise BoardError(str(path), f"base {base} or size {size} is wrong", "Give whole numbers of bytes")
    spans = sorted([(board.flash.base, board.flash.size, "flash"), *((m.base, m.size, m.name) for m in board.memories)])
    for (base, size, name), (following, _, other) in itertools.pairwise(spans):
        if base + size > following:
            raise BoardError(str(path), f"the memories {name} and {other} overlap", "Correct their base or size")
    if board.clock.core_hz != board.clock_hz:
        raise BoardError(
            str(path),
            f"its clock tree gives {board.clock.core_hz} Hz, clock_hz says {board.clock_hz}",
            "Correct the numbers of [clock], or clock_hz",
        )
    if sum(memory.data for memory in board.memories) != 1:
        raise BoardError(str(path), "exactly one memory must have data = true", "Mark the RAM of stack and .data")
    if not board.arena_memories:
        raise BoardError(str(path), "no memory has arena = true", "Mark the RAM that may hold the arena")
    if any(FIT_ROW not in regulator.rows for regulator in board.regulators) or not board.regulators:
        raise BoardError(
            str(path),
            f"a regulator needs an '{FIT_ROW}' row",
            f"Give [energy in uJ, latency in ms] of the {FIT_ROW} benchmark",
        )
    if any(not set(TEST_ROWS) & set(regulator.rows) for regulator in board.regulators):
        raise BoardError(
            str(path),
            f"a regulator has none of the rows {' and '.join(TEST_ROWS)}, so that no error of its energy can be stated",
            "Give one of them as well",
        )
    if any(regulator.kind not in ("linear", "switching") for regulator in board.regulators):
        raise BoardError(str(path), "a regulator's kind is unknown", 'Use "linear" or "switching"')
    for pin in (board.console.transmit, board.console.receive, board.timestamp):
        if pin is not None and not (str(pin.port) in _PORTS and pin.pin in range(16)):
            raise BoardError(str(path), f"there is no pin P{pin.port}{pin.pin}", "Give a port A to K and a pin 0 to 15")
