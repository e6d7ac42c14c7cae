"""A compiled model in use: run it, prove it, export it."""

from __future__ import annotations

from millijoule.deploy.export import FORMATS, check_format, export_project, export_sources
from millijoule.deploy.firmware import Firmware, build_program, compile_model
from millijoule.deploy.tuning import Tuning, tune
from millijoule.deploy.verify import LayerDifference, TargetReport, VerifyReport, first_difference, verify

__all__ = [
    "FORMATS",
    "Firmware",
    "LayerDifference",
    "TargetReport",
    "Tuning",
    "VerifyReport",
    "build_program",
    "check_format",
    "compile_model",
    "export_project",
    "export_sources",
    "first_difference",
    "tune",
    "verify",
]
