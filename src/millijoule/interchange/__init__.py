"""Other people's formats: capture from torch, read and write .tflite, read and write ONNX."""

from __future__ import annotations

from millijoule.interchange.torch_capture import capture

__all__ = ["capture"]
