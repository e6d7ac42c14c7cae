"""Boards at the other end of a serial line: accuracy, latency, and programming them."""

from __future__ import annotations

from millijoule.device.device import Device, Inference, RawResult
from millijoule.device.flash import FlashTool, flash_command, flash_firmware
from millijoule.device.layers import LayerCycles, MeasuredLayers, measure_layers
from millijoule.device.measure import (
    AccuracyReport,
    Comparison,
    LatencyReport,
    Window,
    measure_accuracy,
    measure_latency,
)
from millijoule.device.port import BAUD_RATE, Port, open_port

__all__ = [
    "BAUD_RATE",
    "AccuracyReport",
    "Comparison",
    "Device",
    "FlashTool",
    "Inference",
    "LatencyReport",
    "LayerCycles",
    "MeasuredLayers",
    "Port",
    "RawResult",
    "Window",
    "flash_command",
    "flash_firmware",
    "measure_accuracy",
    "measure_latency",
    "measure_layers",
    "open_port",
]
