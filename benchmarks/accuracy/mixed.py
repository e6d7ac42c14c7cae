"""Mixed 4- and 8-bit weights of the reference network: bytes as compiled, accuracy on its photographs.

    python benchmarks/accuracy/mixed.py --data ../shared/data --cache ../prepared --limit 348 --share 60 70 80

For each share of the int8 network's flash: one row in the columns of docs/results/static_baseline.md. Other networks:
`--weights`, and the prepared set that it was trained on as `--data` (pictures: validation, then test).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from figures import HEADER, evenly, figures, real_logits
from inputs import BASELINE, check_pictures, load_float, load_pictures

from millijoule import execute
from millijoule.compile import HOST, compile_graph
from millijoule.compile.explain import four_bits
from millijoule.graph import Graph, simplify
from millijoule.quantize.mixed import mixed


def compiled_bytes(graph: Graph) -> int:
    """Flash of weights and constants as compiled."""
    return compile_graph(graph, HOST, self_test=False).weight_bytes


def refusals(graph: Graph) -> dict[str, str]:
    """The layers whose weights take whole bytes all the same."""
    found = four_bits(compile_graph(graph, HOST, self_test=False))
    return {item["layer"]: item["reason"] for item in found if item["stored_bits"] == 8}


def main() -> None:
    """Measures the shares that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a prepared set, or the folder of cars_body10.parquet")
    parser.add_argument("--weights", type=Path, help="best.safetensors or .mj; the reference network when not given")
    parser.add_argument("--cache", type=Path, required=True, help="where decoded photographs are kept (240 MB)")
    parser.add_argument("--limit", type=int, help="only so many photographs, evenly chosen")
    parser.add_argument("--share", type=float, nargs="+", default=[60.0], help="per cent of the int8 flash")
    options = parser.parse_args()
    photos, classes = load_pictures(options.data, options.cache, 200)
    graph = load_float(options.weights or options.data / "weights" / BASELINE)
    check_pictures(graph, options.data, photos, classes)
    chosen = evenly(len(photos.labels), options.limit)
    pictures, labels = np.ascontiguousarray(photos.pictures[chosen]), photos.labels[chosen]
    reference = execute.run(simplify(graph), pictures)[graph.outputs[0]].astype(np.float64)
    right = reference.argmax(axis=1) == labels
    print(f"# {len(labels)} photographs; float: {right.sum()} right, {100 * right.mean():.2f} %", flush=True)
    print(HEADER.format(sizes="flash bytes"))
    for share in options.share:
        began = time.perf_counter()
        found = mixed(
            graph,
            np.asarray(photos.calibration),
            budget_share=share,
            size=compiled_bytes,
            refusals=refusals,
        )
        seconds = time.perf_counter() - began
        result = figures(reference, real_logits(found.graph, pictures), labels)
        print(result.line(f"{share:g} %", f"{found.bytes:,}"), flush=True)
        four = sum(bits == 4 for bits in found.weight_bits.values())
        print(f"# 4 bits in {four} of {len(found.weight_bits)} layers; {seconds:.0f} s", flush=True)
        wide = [name for name, bits in found.weight_bits.items() if bits == 8]
        print(f"# int8 {found.bytes_at_eight:,}, held back {found.sqnr:.2f} dB; 8 bits: {', '.join(wide)}", flush=True)
        near = [f"{size:,}: {level:.2f}" for size, level, _ in found.frontier[:: max(1, len(found.frontier) // 12)]]
        print(f"# {len(found.frontier)} best choices, some of them (bytes: dB): {'; '.join(near)}", flush=True)


if __name__ == "__main__":
    main()
