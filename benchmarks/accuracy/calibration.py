"""Static quantisation of the reference network with more and more calibration photographs.

python benchmarks/accuracy/calibration.py --data ../shared/data --cache ../prepared
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from baseline import baseline_graph, photographs

from millijoule.quantize import calibration_curve

COUNTS = (10, 25, 50, 100, 200)


def main() -> None:
    """Prints one line per number of photographs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with cars_body10.parquet and weights/")
    parser.add_argument("--cache", type=Path, required=True, help="where decoded photographs are kept (240 MB)")
    parser.add_argument("--limit", type=int, default=64, help="evaluation photographs, evenly chosen")
    options = parser.parse_args()
    photos = photographs(options.data / "cars_body10.parquet", options.cache)
    graph = baseline_graph(options.data / "weights" / "baseline_mbv2_0.35_cars.safetensors")
    rows = np.unique(np.linspace(0, len(photos.labels) - 1, options.limit).round().astype(int))
    began, used = time.perf_counter(), time.process_time()
    points = calibration_curve(graph, np.asarray(photos.calibration), np.asarray(photos.pictures[rows]), COUNTS)
    seconds, processor = time.perf_counter() - began, time.process_time() - used
    print(f"# {len(rows)} photographs; {seconds:.0f} s, {processor:.0f} s of processor time")
    print("| calibration photographs | SQNR dB | changed |")
    print("|---|---|---|")
    for point in points:
        print(f"| {point.count} | {np.inf if point.sqnr is None else point.sqnr:.1f} | {point.changed} |")


if __name__ == "__main__":
    main()
