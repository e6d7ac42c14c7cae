"""Instructions and cycles of one inference, per layer and per function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from millijoule.boards import Board
from millijoule.build import Image
from millijoule.emulate.cycles import CycleModel, EdgeTotal
from millijoule.emulate.energy import Energy, energy

__all__ = ["FunctionProfile", "LayerProfile", "Profile", "make_profile"]


@dataclass(frozen=True)
class LayerProfile:
    """One layer: instructions and cycles between its function's first instruction and its return.

    `macs` is 0 when the compiler did not say. `cycles_per_mac` is 0 then.
    """

    name: str
    symbol: str
    instructions: int
    cycles: int
    macs: int

    @property
    def cycles_per_mac(self) -> float:
        """Cycles per multiply-accumulate, 0 where there are none."""
        return self.cycles / self.macs if self.macs else 0.0


@dataclass(frozen=True)
class FunctionProfile:
    """One function of the firmware by itself, without those it calls."""

    name: str
    calls: int
    instructions: int
    cycles: int


@dataclass(frozen=True)
class Profile:
    """One inference on one board. Totals count everything inside `mj_run`."""

    board: str
    clock_hz: int
    instructions: int
    cycles: int
    layers: tuple[LayerProfile, ...]
    functions: tuple[FunctionProfile, ...]
    peak_stack_bytes: int
    core: str
    model_version: str
    assumptions: str
    energies: tuple[Energy, ...]

    @property
    def milliseconds(self) -> float:
        """Latency at the board's clock."""
        return self.cycles / self.clock_hz * 1e3

    def to_json(self) -> dict[str, Any]:
        """The profile as plain values for a JSON file."""
        values = asdict(self)
        values["milliseconds"] = self.milliseconds
        values["energies"] = [
            {**asdict(item), "millijoules": item.millijoules, "statement": item.statement} for item in self.energies
        ]
        return values


def make_profile(
    board: Board,
    image: Image,
    model: CycleModel,
    totals: Sequence[EdgeTotal],
    markers: Mapping[int, tuple[int, str]],
    *,
    layer_names: Mapping[str, str],
    layer_macs: Mapping[str, int],
    peak_stack_bytes: int,
) -> Profile:
    """Adds up the edges of one inference.

    Args:
        board: the board.
        image: the firmware, for the names of functions.
        model: the timing rules that made the totals.
        totals: instructions and cycles of every edge since the inference began.
        markers: entry address -> (layer number, symbol), number 1 for mj_run.
        layer_names: the user's name of a layer by symbol; the symbol's own name where it is missing.
        layer_macs: multiply-accumulates of a layer by symbol.
        peak_stack_bytes: bytes of stack ever used.
    """
    symbols = dict(markers.values())
    layers: dict[int, list[int]] = {number: [0, 0] for number in symbols if number > 1}
    functions: dict[str, list[int]] = {}
    instructions = cycles = 0
    for total in totals:
        if total.layer == 0:
            continue
        instructions += total.instructions
        cycles += total.cycles
        if total.layer > 1:
            layers[total.layer][0] += total.instructions
            layers[total.layer][1] += total.cycles
        name = image.function_at(total.target)
        cell = functions.setdefault(name, [0, 0, 0])
        known = image.symbols.get(name)
        if known is not None and known.address == total.target:
            cell[0] += total.count
        cell[1] += total.instructions
        cell[2] += total.cycles
    return Profile(
        board=board.name,
        clock_hz=board.clock_hz,
        instructions=instructions,
        cycles=cycles,
        layers=tuple(
            LayerProfile(
                name=layer_names.get(symbols[number], _plain(symbols[number])),
                symbol=symbols[number],
                instructions=cell[0],
                cycles=cell[1],
                macs=layer_macs.get(symbols[number], 0),
            )
            for number, cell in sorted(layers.items())
        ),
        functions=tuple(
            FunctionProfile(name, *cell) for name, cell in sorted(functions.items(), key=lambda item: -item[1][2])
        ),
        peak_stack_bytes=peak_stack_bytes,
        core=model.name,
        model_version=model.version,
        assumptions=model.assumptions,
        energies=tuple(energy(cycles, board, regulator.name) for regulator in board.regulators),
    )


def _plain(symbol: str) -> str:
    """`mj_layer_003_conv` -> `conv`."""
    return symbol.split("_", 3)[-1]
