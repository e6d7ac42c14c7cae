"""Float graph to integer graph: dynamic, static and quantisation-aware training; the comparison of them all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from millijoule.quantize.calibration_curve import CurvePoint, calibration_curve
from millijoule.quantize.compare import (
    ChangedPicture,
    Comparison,
    Compiled,
    Interval,
    ModelFigures,
    bits_of_weights,
    chosen_rows,
    compare,
    flash_bytes,
)
from millijoule.quantize.decisions import Decision, QuantizationReport, Trial, report_of
from millijoule.quantize.dynamic import dynamic
from millijoule.quantize.half import half
from millijoule.quantize.mixed import MixedResult, mixed
from millijoule.quantize.observers import OBSERVERS
from millijoule.quantize.sensitivity import LayerError, LayerSensitivity, Sensitivity, layer_snr, sensitivity
from millijoule.quantize.static import static

if TYPE_CHECKING:
    from millijoule.quantize.qat import QatOptions, QatResult, quantization_aware_training

__all__ = [
    "OBSERVERS",
    "ChangedPicture",
    "Comparison",
    "Compiled",
    "CurvePoint",
    "Decision",
    "Interval",
    "LayerError",
    "LayerSensitivity",
    "MixedResult",
    "ModelFigures",
    "QatOptions",
    "QatResult",
    "QuantizationReport",
    "Sensitivity",
    "Trial",
    "bits_of_weights",
    "calibration_curve",
    "chosen_rows",
    "compare",
    "dynamic",
    "flash_bytes",
    "half",
    "layer_snr",
    "mixed",
    "quantization_aware_training",
    "report_of",
    "sensitivity",
    "static",
]


def __getattr__(name: str) -> Any:
    """Imports quantisation-aware training, which needs torch, only when it is asked for."""
    if name in ("QatOptions", "QatResult", "quantization_aware_training"):
        from millijoule.quantize import qat

        return getattr(qat, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
