"""Speed of both ways of timing: one inference of MobileNetV2 at 224x224 on each board, on one core.

Weights are random: neither the instructions nor their cycles depend much on their values. Prints CPU seconds, so that a
busy machine matters little. Needs the extras train and deploy.

Run: python benchmarks/emulator_speed.py [--alpha 0.5] [--repeat 3] [--model static.mj]
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from millijoule.build import build_board
from millijoule.compile import compile_graph
from millijoule.emulate import EmulatedFirmware, FullTrace, TraceResult
from millijoule.graph import Graph, load_graph

BOARDS = ("stm32l4r9i", "stm32h7b3i")
RESOLUTION = 224


def pictures(count: int) -> np.ndarray:
    """Coloured tiles: uint8 (count, 224, 224, 3)."""
    tiles = np.random.default_rng(0).integers(0, 256, (count, 14, 14, 3)).astype(np.uint8)
    return tiles.repeat(RESOLUTION // 14, axis=1).repeat(RESOLUTION // 14, axis=2)


def random_model(alpha: float) -> Graph:
    """An int8 MobileNetV2 with random weights."""
    import torch

    from millijoule.interchange import capture
    from millijoule.nets import build, mobilenet_v2
    from millijoule.quantize import static

    torch.set_num_threads(1)
    torch.manual_seed(0)
    spec = mobilenet_v2(alpha=alpha, resolution=RESOLUTION, classes=10)
    return static(capture(build(spec).eval(), spec), pictures(4))


def seconds(action: Callable[[], object], repeat: int) -> float:
    """CPU seconds of the quickest of some runs."""
    found = []
    for _ in range(repeat):
        start = time.process_time()
        action()
        found.append(time.process_time() - start)
    return min(found)


def trace(firmware: EmulatedFirmware, picture: np.ndarray) -> TraceResult:
    """A full trace of one inference, caches cold."""
    with FullTrace(firmware.machine) as traced:
        firmware.run(picture)
    return traced.result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--alpha", type=float, default=0.5, help="width of the network")
    parser.add_argument("--repeat", type=int, default=3, help="runs, of which the quickest counts")
    parser.add_argument("--model", type=Path, help="a converted network instead of random weights")
    arguments = parser.parse_args()
    graph = load_graph(arguments.model) if arguments.model else random_model(arguments.alpha)
    picture = pictures(1)[0]
    print(
        f"{'board':12} {'instructions':>13} {'run s':>6} {'edges s':>8} {'trace s':>8} {'million/s':>10}"
        f" {'edges, cycles':>14} {'trace, cycles':>14} {'edges/trace':>12}"
    )
    for board in BOARDS:
        program = compile_graph(graph, board)
        firmware = EmulatedFirmware(build_board(program.files, board), board, program)
        firmware.boot()
        run = seconds(partial(firmware.run, picture), arguments.repeat)
        edges = seconds(partial(firmware.profile, picture), arguments.repeat)
        profile = firmware.profile(picture)

        full = seconds(partial(trace, firmware, picture), arguments.repeat)
        result = trace(firmware, picture)
        cycles = sum(layer.cycles for layer in result.layers if layer.number > 0)
        print(
            f"{board:12} {profile.instructions:13,} {run:6.2f} {edges:8.2f} {full:8.2f}"
            f" {result.instructions / full / 1e6:10.1f} {profile.cycles:14,} {cycles:14,}"
            f" {100 * (profile.cycles / cycles - 1):+11.2f}%"
        )
        stalls = {cause: f"{100 * value / result.cycles:.1f} %" for cause, value in result.stalls.items() if value}
        print(f"{'':12} stalls, share of the cycles: {stalls}")


if __name__ == "__main__":
    main()
