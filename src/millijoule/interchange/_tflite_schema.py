"""The FlatBuffers object API of .tflite, and the names that the reader and the writer share."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from millijoule.errors import ToolchainError

__all__ = ["ACTIVATIONS", "IDENTIFIER", "METADATA", "NUMPY_TYPES", "schema"]

IDENTIFIER = b"TFL3"
METADATA = "millijoule"
"""Name of the metadata entry with what .tflite has no place for."""

ACTIVATIONS: dict[str, tuple[float, float] | None] = {
    "NONE": None,
    "RELU": (0.0, math.inf),
    "RELU6": (0.0, 6.0),
    "RELU_N1_TO_1": (-1.0, 1.0),
}
"""Fused activations by their name in the schema."""

NUMPY_TYPES: dict[str, type[np.generic]] = {
    "FLOAT32": np.float32,
    "FLOAT16": np.float16,
    "INT32": np.int32,
    "UINT8": np.uint8,
    "INT64": np.int64,
    "INT8": np.int8,
    "INT4": np.int8,
}
"""Tensor types by their name in the schema; INT4 is stored two in a byte."""


def schema() -> Any:
    """The module with the object API (ModelT, SubGraphT, ...).

    Raises:
        ToolchainError: ai-edge-litert or flatbuffers is not installed.
    """
    try:
        import flatbuffers  # noqa: F401
        from ai_edge_litert import schema_py_generated
    except ModuleNotFoundError as error:
        raise ToolchainError(
            str(error.name), "it is not installed", "Run pip install 'millijoule[interchange]'"
        ) from error
    return schema_py_generated
