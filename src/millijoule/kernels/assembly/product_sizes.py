"""How far the products are unrolled: measured (benchmarks/kernel_ladder.py).

On Cortex-M4 a way must stay in the 1 KB instruction cache of the STM32L4+; bounds and rounding twice need more code
behind the words. The cache of the Cortex-M7's chips has room for all.
"""

from __future__ import annotations

__all__ = [
    "DEPTH_APART",
    "DEPTH_OF_SPLIT",
    "RAM",
    "UNROLL_LATER",
    "UNROLL_M7",
    "WORDS_OF_SPLIT",
    "straight_depths",
    "unrolled",
]

_STRAIGHT_DEPTHS = {
    ("cortex-m4", "planes"): (4, 8, 15, 16),
    ("cortex-m4", "pixels"): (8,),
    ("cortex-m7", "planes"): (4, 8, 15, 16, 24, 40),
    ("cortex-m7", "pixels"): (8, 24),
}
# Cortex-M4: so few words that there is room for two groups and for the weights of both channels by themselves.
DEPTH_APART = 4

# Words in a round of the loop for groups and for rests; whether a rest shares the code for results of a group.
Unroll = tuple[int, int, bool]
_UNROLL: dict[tuple[str, bool], dict[str, Unroll]] = {  # by form and whether results have bounds
    ("planes", False): {"whole": (12, 0, False), "two": (7, 4, False), "three": (6, 5, True)},
    ("planes", True): {"whole": (10, 0, False), "two": (6, 3, False), "three": (5, 4, True)},
    ("pixels", False): {"whole": (12, 0, False), "two": (7, 4, False), "three": (6, 5, True)},
    ("pixels", True): {"whole": (10, 0, False), "two": (7, 3, True), "three": (5, 4, True)},
}
_UNROLL_DOUBLE: dict[tuple[str, bool], dict[str, Unroll]] = {
    ("planes", False): {"whole": (9, 0, False), "two": (5, 3, False), "three": (5, 4, True)},
    ("planes", True): {"whole": (8, 0, False), "two": (6, 3, True), "three": (4, 4, True)},
    ("pixels", False): {"whole": (9, 0, False), "two": (6, 3, True), "three": (5, 4, True)},
    ("pixels", True): {"whole": (8, 0, False), "two": (6, 3, True), "three": (4, 4, True)},
}
_UNROLL_ANY: Unroll = (4, 2, False)
UNROLL_M7: Unroll = (24, 12, False)

# Cortex-M4: when a rest of one or two pixels is done in a second pass over all pairs. The first pass then has the
# quicker code for whole groups; but weights must not come from flash twice, and the second pass has costs of its own.
UNROLL_LATER = 12
RAM = 0x20000000
DEPTH_OF_SPLIT = 16
WORDS_OF_SPLIT = 160


def straight_depths(core: str, form: str, clamped: bool, rounding: str) -> tuple[int, ...]:
    """Words per pixel for which the code has no loop over words."""
    depths = _STRAIGHT_DEPTHS[core, form]
    if core == "cortex-m4" and (clamped or rounding == "double"):  # no room for sixteen in the cache
        return tuple(depth for depth in depths if depth < DEPTH_OF_SPLIT)
    return depths


def unrolled(core: str, form: str, clamped: bool, rounding: str, way: str) -> Unroll:
    """Words in a round of groups and of rests, and whether rests share code; `way` as in `product`."""
    if core == "cortex-m7":
        return UNROLL_M7
    table = _UNROLL_DOUBLE if rounding == "double" else _UNROLL
    return table[form, clamped].get(way, _UNROLL_ANY)
