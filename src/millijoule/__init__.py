"""millijoule: photographs to a measured firmware, in one open tool."""

from __future__ import annotations

__version__ = "0.1.0"

__all__ = ["__version__"]
