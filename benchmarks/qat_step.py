"""Time of a quantisation-aware training step against the float step: same network, batch, pictures and optimiser.

    python benchmarks/qat_step.py --alpha 0.35 --resolution 224 --batch 16 --rounds 9
    python benchmarks/qat_step.py --operators     # where the time of one step goes, by operator
    python benchmarks/qat_step.py --library-memory     # without the training loop's setting of the C library

Both networks are in channels_last memory. Steps alternate (float, then every kind of QAT step, and again), so that a
busy machine slows all of them alike; the figure is the median of the rounds' ratios, with their quartiles. Processor
time is counted beside wall time: it does not see who else waits for the core (use one thread), only who fills caches.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn

from millijoule.execute import FakeQuantModule, float_module
from millijoule.graph import simplify
from millijoule.interchange import capture
from millijoule.nets import build, mobilenet_v2
from millijoule.quantize.qat import TAUGHT
from millijoule.train import TrainOptions, network_input
from millijoule.train._memory import kept_memory
from millijoule.train._recipe import make_optimizer, training_loss

KINDS = ("float", "qat", "qat-taught", "qat-frozen-ranges", "qat-frozen", "qat-learned")
"""QAT steps: ranges and batch statistics move; the same with the float network as teacher, as fine-tuning has it;
ranges are frozen; both are frozen; step sizes are learned."""


def step_of(
    module: nn.Module, inputs: torch.Tensor, labels: torch.Tensor, phase: Any, teacher: nn.Module | None = None
) -> Callable[[], None]:
    """One whole step of the training loop on a fixed batch."""
    options = TrainOptions.from_dict({"learning_rate": 1e-5, **(TAUGHT if teacher is not None else {})})
    optimizer = make_optimizer(module, options)
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def step() -> None:
        module.train()
        if phase is not None:
            module.set_phase(*phase)  # type: ignore[operator]
        loss = training_loss(module(inputs), inputs, labels, 1.0, options, teacher, False)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def main() -> None:
    """Measures and prints one line per kind of step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--alpha", type=float, default=0.35)
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS[:-1])
    parser.add_argument("--library-memory", action="store_true", help="leave freed memory to the C library")
    parser.add_argument("--operators", action="store_true", help="profile one step of each kind instead")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    spec = mobilenet_v2(alpha=options.alpha, resolution=options.resolution, classes=10)
    random = np.random.default_rng(0)
    shape = (options.batch, options.resolution, options.resolution, 3)
    pictures = random.integers(0, 256, shape, dtype=np.uint8)
    inputs = network_input(pictures, spec.normalization, torch.device("cpu"))
    labels = torch.from_numpy(random.integers(0, 10, options.batch))
    graph = capture(build(spec, seed=0), spec)
    steps: dict[str, Callable[[], None]] = {}
    for kind in dict.fromkeys(["float", *options.kinds]):
        if kind == "float":
            steps[kind] = step_of(build(spec, seed=0), inputs, labels, None)
            continue
        chosen = {"ranges": "learned"} if kind == "qat-learned" else {}
        module = FakeQuantModule(graph, **chosen)
        module.train()
        module(inputs)  # the first batch sets the ranges
        teacher = float_module(simplify(graph)).eval().requires_grad_(False) if kind == "qat-taught" else None
        phase = (kind in ("qat", "qat-taught"), True, kind == "qat-frozen")
        steps[kind] = step_of(module, inputs, labels, phase, teacher)
    with nullcontext() if options.library_memory else kept_memory():
        for step in steps.values():
            step()
        if options.operators:
            profile(steps)
        else:
            measure(steps, options)


def profile(steps: dict[str, Callable[[], None]]) -> None:
    """Prints one step of each kind by operator."""
    for kind, step in steps.items():
        with torch.profiler.profile() as found:
            step()
        print(kind)
        print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=40))


def measure(steps: dict[str, Callable[[], None]], options: argparse.Namespace) -> None:
    """Times every step in turn, `options.rounds` times, and prints the ratios."""
    wall: dict[str, list[float]] = {kind: [] for kind in steps}
    processor: dict[str, list[float]] = {kind: [] for kind in steps}
    for _ in range(options.rounds):
        for kind, step in steps.items():
            began, worked = time.perf_counter(), time.process_time()
            step()
            wall[kind].append(time.perf_counter() - began)
            processor[kind].append(time.process_time() - worked)
    print(
        f"alpha {options.alpha}, {options.resolution} pixels, batch {options.batch}, {options.threads} threads, "
        f"{options.rounds} rounds, torch {torch.__version__}"
    )
    for kind in steps:
        line = f"{kind:18s} {np.median(wall[kind]):7.3f} s"
        for what, times in (("wall", wall), ("processor", processor)):
            low, middle, high = np.percentile(np.array(times[kind]) / np.array(times["float"]), (25, 50, 75))
            line += f"   {what} {middle:5.2f}x ({low:.2f} to {high:.2f})"
        print(line)


if __name__ == "__main__":
    main()
