"""Inner kernels of the row engine as assembler text for Cortex-M4 and Cortex-M7, one text per core and rounding rule.

Each text defines the same symbol as the plain C of `kernels/c` and gives the same bytes; mj_rows.h is the contract.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from millijoule.kernels.assembly.dense import dense_source
from millijoule.kernels.assembly.depthwise import filter_row_3x3, filter_row_window
from millijoule.kernels.assembly.product import product_source
from millijoule.kernels.assembly.product_sums import sums_source

__all__ = ["CORES", "assembly_names", "assembly_source"]

CORES = ("cortex-m4", "cortex-m7")

# (core, rounding) -> text, None when only C exists for that rounding
Generator = Callable[[str, str], str | None]
_GENERATORS: Mapping[str, Generator] = (
    {"mj_dense_lanes": dense_source}
    | {
        f"mj_product_{form}": partial(product_source, f"mj_product_{form}")
        for form in ("planes", "planes_clamped", "pixels", "pixels_clamped")
    }
    | {f"mj_product_{form}": partial(sums_source, f"mj_product_{form}") for form in ("range", "floats", "planes_relu")}
    | {
        f"mj_filter_row_3x3_s{stride}_p{phase}": partial(filter_row_3x3, stride, phase)
        for stride in (1, 2)
        for phase in (0, 1)
    }
    | {
        f"mj_filter_row_{height}x{width}_s{stride}_p{phase}": partial(filter_row_window, (height, width), stride, phase)
        for height in range(1, 8)
        for width in range(1, 8)
        if (height, width) != (3, 3)
        for stride in (1, 2)
        for phase in (0, 1)
    }
)


def assembly_names() -> tuple[str, ...]:
    """The kernels that exist as assembler text for at least one rounding rule."""
    return tuple(_GENERATORS)


def assembly_source(name: str, core: str, rounding: str) -> str | None:
    """The text of a `.S` file that defines the kernel, None where only C exists.

    Args:
        name: the C function, e.g. "mj_product_planes".
        core: "cortex-m4" or "cortex-m7".
        rounding: "single", "double" or "mulhi".
    """
    generator = _GENERATORS.get(name)
    return None if generator is None or core not in CORES else generator(core, rounding)
