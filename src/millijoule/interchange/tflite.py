"""Reading and writing .tflite files without TensorFlow."""

from __future__ import annotations

from millijoule.interchange._tflite_read import read_tflite
from millijoule.interchange._tflite_write import tflite_bytes, write_tflite

__all__ = ["read_tflite", "tflite_bytes", "write_tflite"]
