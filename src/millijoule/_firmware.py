"""A graph to something that runs, in one call."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from millijoule.graph import Graph

if TYPE_CHECKING:
    from millijoule.build.host import HostFirmware
    from millijoule.emulate import EmulatedFirmware

__all__ = ["Firmware", "compile_model"]

Firmware: TypeAlias = "HostFirmware | EmulatedFirmware"
"""A compiled model; `run(pictures)` gives logits, probabilities and class of each picture."""


def compile_model(
    graph: Graph,
    target: str = "host",
    *,
    kernels: str = "dsp",
    compiler: str = "zig",
    out: Path | None = None,
) -> Any:
    """Compiles a graph to C and to a firmware that runs.

    Args:
        graph: from `static`, `dynamic`, `quantization_aware_training` or `load_graph`.
        target: "host" for this computer, or a board's name: then the firmware runs in that board's emulator.
        kernels: "dsp" or "plain"; the results are the same.
        compiler: for boards, "zig" or "gcc".
        out: for boards, where the ELF file goes; without it, it stays in the cache.

    Returns:
        A `millijoule.build.HostFirmware` or `millijoule.emulate.EmulatedFirmware`; both have
        ``run(pictures uint8 (N, H, W, 3)) -> {"logits", "probabilities", "class"}``, the emulated one also
        ``profile(picture)`` with instructions, cycles, milliseconds and energies.

    Raises:
        PlacementError: the model does not fit the board; the message says what would.
        BoardError, UnsupportedError, ToolchainError: as compiling and building raise them.
    """
    from millijoule.compile import compile_graph

    program = compile_graph(graph, target, kernels=kernels)
    if program.board is None:
        from millijoule.build import build_host

        return build_host(program)
    from millijoule.build import build_board
    from millijoule.emulate import EmulatedFirmware

    image = build_board(program.files, program.board, compiler=compiler, out=out)
    return EmulatedFirmware(image, program.board, program)
