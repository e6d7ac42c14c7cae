"""A model that runs: on this computer or on an emulated board, behind one object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from millijoule.boards import Board
from millijoule.compile import MemoryPlan, PlanOptions, Program, RowOptions, compile_graph
from millijoule.errors import FormatError
from millijoule.files import Progress
from millijoule.graph import Graph

if TYPE_CHECKING:
    from millijoule.build import HostFirmware, Image
    from millijoule.build.host import LayerTime
    from millijoule.emulate import EmulatedFirmware, Profile

__all__ = ["Firmware", "build_program", "compile_model"]

Pictures = npt.NDArray[np.uint8]


class _Runs(Protocol):
    def run(self, pictures: Pictures, *, progress: Progress | None = None) -> dict[str, npt.NDArray[Any]]: ...


@dataclass(frozen=True)
class Firmware:
    """A compiled and built model. Made by `compile_model`.

    Attributes:
        program: its C files, memory plan and layers.
        image: the linked firmware, None on this computer.
    """

    program: Program
    image: Image | None
    _executor: HostFirmware | EmulatedFirmware

    @property
    def target(self) -> str:
        """The board's name, or "host"."""
        return self.program.target

    @property
    def plan(self) -> MemoryPlan:
        """Where every buffer lies."""
        return self.program.plan

    @property
    def files(self) -> Mapping[str, str]:
        """The model's C files by name."""
        return self.program.files

    def run(self, pictures: Pictures, *, progress: Progress | None = None) -> dict[str, npt.NDArray[Any]]:
        """Classifies pictures, one after another.

        Args:
            pictures: uint8 (N, H, W, C), prepared as the graph's picture rule says.
            progress: told after each picture.

        Returns:
            "logits" and "probabilities" as stored (N, classes), "class" int64 (N,).

        Raises:
            DataError, OptionError: pictures of another shape or type.
            EmulationError: the firmware faults, hangs or writes outside its memory.
        """
        runs: _Runs = self._executor
        return runs.run(pictures, progress=progress)

    def profile(self, picture: Pictures | None = None, *, method: str = "edges") -> Profile | list[LayerTime]:
        """Where the time of one inference goes.

        On a board: instructions, cycles and energy per layer (`emulate.Profile`). On this computer: seconds per layer,
        which say nothing about a board.

        Args:
            picture: uint8 (H, W, C); a black one without it.
            method: "edges" or "trace", see `emulate.EmulatedFirmware.profile`; this computer has its clock only.
        """
        if picture is None:
            graph = self.program.graph
            picture = np.zeros(graph.tensor(graph.inputs[0]).shape[1:], dtype=np.uint8)
        if self.image is None:
            return self._executor.profile(picture)
        board: Any = self._executor
        profile: Profile = board.profile(picture, method=method)
        return profile

    def checksums(self, picture: Pictures) -> npt.NDArray[np.uint32]:
        """The checksum of every layer's result for one picture (H, W, C); the model must be compiled with `trace`.

        Raises:
            FormatError: it was not.
        """
        if not self.program.traced:
            raise FormatError(f"model {self.program.name!r}", "it keeps no trace", "Compile it with trace=True")
        if self.image is None:
            host: Any = self._executor
            sums: npt.NDArray[np.uint32] = host.checksums(picture)
            return sums
        self.run(picture[None])
        board: Any = self._executor
        symbol = self.image.symbol("mj_trace")
        return np.frombuffer(board.machine.read(symbol.address, 4 * len(self.program.layers)), dtype="<u4")


def compile_model(
    graph: Graph,
    target: str | Board = "host",
    *,
    kernels: str = "dsp",
    name: str = "model",
    compiler: str = "zig",
    optimize: str | None = None,
    trace: bool = False,
    objective: str = "cycles",
    ram_budget: int | None = None,
    winners: Mapping[str, RowOptions] | None = None,
    stream: bool = False,
) -> Firmware:
    """Graph -> C -> firmware that runs.

    Example:
        firmware = compile_model(load_graph(Path("static.mj")), "stm32l4r9i")
        firmware.run(pictures)["class"]

    Args:
        graph: float, dynamic or integer.
        target: "host" for this computer, a board's name, or a board.
        kernels: "dsp" or "plain"; the results are the same.
        name: what the firmware calls itself.
        compiler: "zig" or "gcc" for a board.
        optimize: the optimisation flag; -O2 on this computer and -O3 on boards without it.
        trace: keeps a checksum of every layer's result.
        objective: "cycles", "ram" or "energy", see `compile_graph`.
        ram_budget: bytes that the arena may have.
        winners: from `tune`; None: those that the package brings.
        stream: the picture comes row by row and is stored nowhere.

    Raises:
        PlacementError: the model does not fit the board or the budget; the message says what would.
        UnsupportedError: an operator without a kernel.
        ToolchainError: no compiler, or an error in a source.
        BoardError, OptionError: unknown board, kernels or compiler.
    """
    program = compile_graph(
        graph,
        target,
        kernels=kernels,
        name=name,
        trace=trace,
        options=PlanOptions(stream=stream),
        objective=objective,
        ram_budget=ram_budget,
        winners=winners,
    )
    return build_program(program, compiler=compiler, optimize=optimize)


def build_program(program: Program, *, compiler: str = "zig", optimize: str | None = None) -> Firmware:
    """Builds a compiled program for its target; see `compile_model`."""
    from millijoule.build import build_board, build_host

    if program.board is None:
        return Firmware(program, None, build_host(program, optimize=optimize or "-O2"))
    from millijoule.emulate import EmulatedFirmware

    image = build_board(program.files, program.board, compiler=compiler, optimize=optimize or "-O3")
    return Firmware(program, image, EmulatedFirmware(image, program.board, program))
