"""How long the bit-exact integer executor takes for a test split's worth of pictures.

    python benchmarks/integer_executor.py [--pictures 464] [--alpha 0.5] [--resolution 224]

Random weights and pictures: the arithmetic does not depend on them. Prints processor and wall seconds as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import time

import numpy as np

from millijoule import execute, quantize
from millijoule.interchange import capture
from millijoule.nets import build, mobilenet_v2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=464)
    parser.add_argument("--alpha", type=float, default=0.5)
    parser.add_argument("--resolution", type=int, default=224)
    options = parser.parse_args()
    spec = mobilenet_v2(options.alpha, options.resolution, 10)
    shape = (options.pictures, options.resolution, options.resolution, 3)
    pictures = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    graph = quantize.static(capture(build(spec).eval(), spec), pictures[:8])
    wall, processor = time.perf_counter(), time.process_time()
    execute.predict(graph, pictures)
    print(
        json.dumps(
            {
                "pictures": options.pictures,
                "alpha": options.alpha,
                "resolution": options.resolution,
                "wall_seconds": round(time.perf_counter() - wall, 2),
                "processor_seconds": round(time.process_time() - processor, 2),
                "load": round(os.getloadavg()[0], 1),
            }
        )
    )


if __name__ == "__main__":
    main()
