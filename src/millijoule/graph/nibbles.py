"""Two 4-bit numbers in one byte: how 4-bit weights are stored in files (`.mj`, `.tflite`)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from millijoule.errors import GraphError

__all__ = ["INT4_MAX", "INT4_MIN", "pack_nibbles", "unpack_nibbles"]

INT4_MIN, INT4_MAX = -8, 7


def pack_nibbles(values: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.uint8]:
    """Numbers in [-8, 7] as two's complement, the first of two in the low half of its byte, as in .tflite.

    Args:
        values: any shape; taken in the order of their memory (C order).

    Returns:
        uint8, half as many; the high half of the last byte of an odd count is 0.

    Raises:
        GraphError: a number is outside [-8, 7].

    Example:
        >>> pack_nibbles(np.array([1, -1, 7]))
        array([241,   7], dtype=uint8)
    """
    flat = np.asarray(values).ravel().astype(np.int64)
    if flat.size and (flat.min() < INT4_MIN or flat.max() > INT4_MAX):
        raise GraphError("4-bit values", f"they reach from {flat.min()} to {flat.max()}", "Keep them within [-8, 7]")
    halves = (flat & 15).astype(np.uint8)
    if halves.size % 2:
        halves = np.append(halves, np.uint8(0))
    packed: npt.NDArray[np.uint8] = halves[0::2] | halves[1::2] << np.uint8(4)
    return packed


def unpack_nibbles(packed: npt.NDArray[np.uint8], shape: tuple[int, ...]) -> npt.NDArray[np.int8]:
    """The inverse of `pack_nibbles`: int8 of this shape.

    Raises:
        GraphError: there are more or fewer bytes than the shape needs, or the last half that nobody needs is not 0.

    Example:
        >>> unpack_nibbles(np.array([241, 7], np.uint8), (3,))
        array([ 1, -1,  7], dtype=int8)
    """
    count = int(np.prod(shape, dtype=np.int64))
    if packed.dtype != np.uint8 or packed.shape != ((count + 1) // 2,):
        raise GraphError(
            "4-bit values",
            f"{packed.dtype.name}{packed.shape} does not hold {count} of them",
            "Store two in each byte, in order",
        )
    halves = np.stack([packed & 15, packed >> 4], axis=1).ravel()
    if count % 2 and halves[-1]:
        raise GraphError("4-bit values", "there is a number behind the last one", "Fill the last byte up with 0")
    return ((halves[:count].astype(np.int8) ^ 8) - 8).reshape(shape).astype(np.int8)
