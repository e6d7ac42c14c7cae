"""Sensitivity of every layer of the reference network, 64 calibration photographs, errors on the first 16 of them.

python benchmarks/accuracy/sensitivity.py --data ../shared/data --cache ../prepared
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from baseline import baseline_graph, photographs

from millijoule.quantize import sensitivity


def main() -> None:
    """Prints one line per layer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with cars_body10.parquet and weights/")
    parser.add_argument("--cache", type=Path, required=True, help="where decoded photographs are kept (240 MB)")
    options = parser.parse_args()
    photos = photographs(options.data / "cars_body10.parquet", options.cache)
    graph = baseline_graph(options.data / "weights" / "baseline_mbv2_0.35_cars.safetensors")
    began, used = time.perf_counter(), time.process_time()
    found = sensitivity(graph, np.asarray(photos.calibration[:64]))
    seconds, processor = time.perf_counter() - began, time.process_time() - used
    print(f"# {seconds:.0f} s, {processor:.0f} s of processor time; all layers: {found.all_quantised} dB")
    print("| layer | weights | own 8, 4 | alone 8, 4 | all but it 8, 4 | 4 among 8 | bits | why |")
    print("|---|---|---|---|---|---|---|---|")
    for layer in found.layers:
        cells = [
            ", ".join(f"{part[bits] or np.inf:.1f}" for bits in (8, 4))
            for part in (layer.own, layer.alone, layer.without)
        ]
        print(
            f"| {layer.layer} | {layer.weights:,} | {' | '.join(cells)} | {layer.four_among_eight or np.inf:.1f} | "
            f"{layer.suggested_bits} | {layer.why} |"
        )


if __name__ == "__main__":
    main()
