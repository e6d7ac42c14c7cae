"""Weights of 4 bits as `mj_unpack.h` reads them: eight in a word."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["pack_lane_nibbles"]


def pack_lane_nibbles(words: npt.NDArray[np.uint32], depth: int) -> npt.NDArray[np.uint32]:
    """Words of lanes, two weights of 4 bits in each lane, as packed words.

    Args:
        words: rows of `depth` words, one behind the other (`mj_rows.h`); every weight lies in [-8, 7].
        depth: words in a row; an odd one is filled up.

    Returns:
        Half as many words, each row beginning with one.
    """
    halves = words.astype(np.uint32).view(np.uint16).astype(np.int64) + 0x0808
    biased = (halves & 0xFFFF).astype(np.uint16).view(np.uint32).reshape(-1, depth)
    assert not (biased & 0xF0F0F0F0).any(), "a weight has more than 4 bits"
    if depth % 2:
        biased = np.pad(biased, ((0, 0), (0, 1)))
    packed: npt.NDArray[np.uint32] = (biased[:, 0::2] | biased[:, 1::2] << np.uint32(4)).ravel()
    return packed
