"""Float graph to integer graph: dynamic, static and quantisation-aware training."""

from __future__ import annotations

from millijoule.quantize.dynamic import dynamic
from millijoule.quantize.observers import OBSERVERS
from millijoule.quantize.static import static

__all__ = ["OBSERVERS", "dynamic", "static"]
