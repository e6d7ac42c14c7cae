"""Writes `src/millijoule/compile/recorded.json`: options of blocks that make MobileNetV2 faster than the defaults do.

    python benchmarks/record_tuning.py [--board NAME ...] [--alpha 0.35 0.5] [--resolution 224 128] [--ram-budget BYTES]
        [--only KNOB=VALUE ...]

What is recorded now: --alpha 0.5 --resolution 224 --ram-budget 172000 --only filter_pixels=112 chunk_pixels=56.

Every network is tuned on every board (`millijoule.deploy.tune`); its winners are recorded if they save more than 0.3 %
of its cycles. Traces are cached, so an interrupted run goes on where it was. Takes hours from scratch.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from millijoule.cli.bench import BOARDS, random_model
from millijoule.compile.recorded import differences
from millijoule.deploy import tuning
from millijoule.files import atomic_write_json
from millijoule.nets import specify

LEAST_GAIN = 0.003
PLACE = Path(__file__).resolve().parent.parent / "src" / "millijoule" / "compile" / "recorded.json"


def main() -> None:
    """Tunes, prints the gains, writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--board", nargs="+", default=list(BOARDS))
    parser.add_argument("--alpha", nargs="+", type=float, default=[0.35, 0.5])
    parser.add_argument("--resolution", nargs="+", type=int, default=[224, 128])
    parser.add_argument("--ram-budget", type=int, help="the arena may grow to this")
    parser.add_argument("--only", nargs="+", help="candidates instead of those of the library, such as chunk_pixels=56")
    arguments = parser.parse_args()
    if arguments.only:
        pairs = [item.split("=") for item in arguments.only]
        tuning.CANDIDATES = {name: (int(value),) for name, value in pairs}
    boards: dict[str, dict[str, Any]] = {}
    for board in arguments.board:
        for alpha in arguments.alpha:
            for resolution in arguments.resolution:
                spec = specify("mobilenet_v2", alpha=alpha, resolution=resolution, classes=10)
                found = tuning.tune(random_model(spec, "single"), board, ram_budget=arguments.ram_budget)
                kept = found.gain > LEAST_GAIN
                verdict = "recorded" if kept else "not recorded"
                print(
                    f"{board} {alpha} {resolution}: {found.cycles_before:,} -> {found.cycles_after:,} "
                    f"({100 * found.gain:.2f} %), {verdict}",
                    flush=True,
                )
                if kept:
                    own = {key: differences(options) for key, options in found.winners.items()}
                    boards.setdefault(board, {}).update(own)
    atomic_write_json(PLACE, {"version": 1, "boards": boards})


if __name__ == "__main__":
    main()
