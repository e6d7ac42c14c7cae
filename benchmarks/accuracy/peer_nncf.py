"""NNCF's post-training quantisation of the ONNX model, run in ONNX Runtime.

Settings: preset "PERFORMANCE" (its default, symmetric activations) or "MIXED"; fast_bias_correction (its default) or,
when false, the slow one, layer after layer. Everything else is its default.
"""

from __future__ import annotations

from pathlib import Path

import nncf
import numpy as np
import onnx
import worker


def measure(job: worker.Job) -> tuple[np.ndarray, Path | None]:
    model = onnx.load(job.onnx)
    name = model.graph.input[0].name
    batches = [{name: batch} for batch in job.calibration_batches(channels_first=True)]
    quantised = nncf.quantize(
        model,
        nncf.Dataset(batches),
        preset=nncf.QuantizationPreset[job.settings["preset"]],
        subset_size=len(batches),
        fast_bias_correction=job.settings["fast_bias_correction"],
    )
    path = job.folder / "quantised.onnx"
    onnx.save(quantised, path)
    return worker.run_onnx(job, path), path


if __name__ == "__main__":
    worker.main(measure, ("nncf", "onnxruntime", "onnx", "numpy"))
