"""ONNX Runtime's own quantiser: static to QDQ, and dynamic. Settings that are not named are its defaults.

Settings: mode "float", "static" or "dynamic"; per_channel; calibrate "MinMax" or "Percentile"; percentile;
weight_type "QInt8" or "QUInt8".
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import worker
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process


class Reader(CalibrationDataReader):
    """The calibration pictures, one at a time."""

    def __init__(self, job: worker.Job, name: str) -> None:
        self.batches = ({name: batch} for batch in job.calibration_batches(channels_first=True))

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


def measure(job: worker.Job) -> tuple[np.ndarray, Path | None]:
    settings: dict[str, Any] = job.settings
    if settings["mode"] == "float":
        return worker.run_onnx(job, job.onnx), job.onnx
    prepared, quantised = job.folder / "prepared.onnx", job.folder / "quantised.onnx"
    quant_pre_process(job.onnx, prepared)
    weight_type = QuantType[settings.get("weight_type", "QInt8")]
    if settings["mode"] == "dynamic":
        quantize_dynamic(prepared, quantised, per_channel=settings["per_channel"], weight_type=weight_type)
    else:
        import onnx

        name = onnx.load(prepared).graph.input[0].name
        options = {"CalibPercentile": settings["percentile"]} if "percentile" in settings else {}
        quantize_static(
            prepared,
            quantised,
            Reader(job, name),
            quant_format=QuantFormat.QDQ,
            per_channel=settings["per_channel"],
            activation_type=QuantType.QInt8,
            weight_type=weight_type,
            calibrate_method=CalibrationMethod[settings["calibrate"]],
            extra_options=options,
        )
    return worker.run_onnx(job, quantised), quantised


if __name__ == "__main__":
    worker.main(measure, ("onnxruntime", "onnx", "numpy"))
