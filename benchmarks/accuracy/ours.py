"""The project's own quantisers as rows: a worker like the peers', run by the project's interpreter.

Settings: method "static", "dynamic" or "mixed" and the keyword arguments of `millijoule.quantize.<method>`; `pictures`,
whether it gets the calibration pictures. Mixed precision counts the bytes that the compiler gives.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
from figures import real_logits
from mixed import compiled_bytes, refusals

import millijoule
from millijoule import quantize
from millijoule.files import atomic_write_json
from millijoule.graph import load_graph
from millijoule.interchange import tflite_bytes


def main() -> None:
    """Runs one job, see `worker.py`."""
    folder = Path(sys.argv[1])
    job = json.loads((folder / "job.json").read_text())
    settings = dict(job["settings"])
    method, wanted = getattr(quantize, settings.pop("method")), settings.pop("pictures")
    graph, calibration = load_graph(Path(job["graph"])), np.load(job["calibration"])
    began = time.process_time()
    if method is quantize.mixed:
        model = method(graph, calibration, size=compiled_bytes, refusals=refusals, **settings).graph
    else:
        model = method(graph, calibration if wanted else None, **settings)
    seconds = time.process_time() - began
    np.save(folder / "logits.npy", real_logits(model, np.load(job["pictures"], mmap_mode="r")))
    result = {
        "file_bytes": len(tflite_bytes(model)),
        "flash_bytes": quantize.flash_bytes(model),
        "quantisation_core_seconds": round(seconds, 1),
        "versions": {"millijoule": millijoule.__version__, "numpy": np.__version__},
    }
    atomic_write_json(folder / "result.json", result)


if __name__ == "__main__":
    main()
