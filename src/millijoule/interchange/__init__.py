"""Other people's formats: capture from torch, read and write .tflite, read and write ONNX."""

from __future__ import annotations

from millijoule.interchange.onnx import onnx_bytes, read_onnx, write_onnx
from millijoule.interchange.tflite import read_tflite, tflite_bytes, write_tflite
from millijoule.interchange.torch_capture import capture

__all__ = [
    "capture",
    "onnx_bytes",
    "read_onnx",
    "read_tflite",
    "tflite_bytes",
    "write_onnx",
    "write_tflite",
]
