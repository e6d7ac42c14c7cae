"""Reading and writing ONNX models."""

from __future__ import annotations

from millijoule.interchange._onnx_read import read_onnx
from millijoule.interchange._onnx_write import onnx_bytes, write_onnx

__all__ = ["onnx_bytes", "read_onnx", "write_onnx"]
