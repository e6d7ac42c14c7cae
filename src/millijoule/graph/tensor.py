"""What flows along the edges of a network: a shape, a number type and, when it is quantised, its scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from millijoule.errors import GraphError

__all__ = ["DTYPES", "INT8_MAX", "INT8_MIN", "WIDTHS", "Quant", "Tensor"]

DTYPES: dict[str, type[np.generic]] = {
    "float32": np.float32,
    "float16": np.float16,
    "int8": np.int8,
    "int32": np.int32,
    "uint8": np.uint8,
}
INT8_MIN, INT8_MAX = -128, 127
WIDTHS = (4, 8)
"""Bits of a stored number that a `Quant` may declare."""


@dataclass(frozen=True)
class Quant:
    """Affine quantisation: real = scale * (stored - zero_point).

    TFLite 8-bit quantisation specification (tensorflow.org/lite/performance/quantization_spec).

    Attributes:
        scale: one positive value, or one per slice along `axis`; each is exactly a float32.
        zero_point: as many values as `scale`; zero for weights.
        axis: the dimension the scales belong to, None for one scale per tensor.
        bits: 8, or 4 for weights in [-8, 7], which take half a byte each in files and in flash.
    """

    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int | None = None
    bits: int = 8

    def __post_init__(self) -> None:
        if not self.scale or len(self.scale) != len(self.zero_point):
            raise GraphError(
                "quantisation",
                f"{len(self.scale)} scales and {len(self.zero_point)} zero points do not pair up",
                "Give one zero point for each scale",
            )
        if self.axis is None and len(self.scale) != 1:
            raise GraphError("quantisation", "several scales but no axis", "Name the axis the scales belong to")
        if type(self.bits) is not int or self.bits not in WIDTHS:
            raise GraphError("quantisation", f"{self.bits!r} bits are not stored", "Use 8, or 4 for weights")

    @classmethod
    def per_tensor(cls, scale: float, zero_point: int = 0, *, bits: int = 8) -> Quant:
        """One scale and zero point for the whole tensor; the scale is rounded to float32."""
        return cls((float(np.float32(scale)),), (int(zero_point),), bits=bits)

    @classmethod
    def per_channel(cls, scales: npt.ArrayLike, axis: int, *, bits: int = 8) -> Quant:
        """Symmetric quantisation with one scale per slice along `axis` (zero points are 0)."""
        values = tuple(float(v) for v in np.asarray(scales, dtype=np.float32).ravel())
        return cls(values, (0,) * len(values), axis, bits)

    @property
    def scalar_scale(self) -> float:
        """The scale of a per-tensor quantisation."""
        if self.axis is not None:
            raise GraphError("quantisation", "a per-channel scale was used as a single one", "Use .scale")
        return self.scale[0]

    @property
    def scalar_zero_point(self) -> int:
        """The zero point of a per-tensor quantisation."""
        if self.axis is not None:
            raise GraphError("quantisation", "a per-channel zero point was used as a single one", "Use .zero_point")
        return self.zero_point[0]

    def broadcast_scale(self, rank: int) -> npt.NDArray[np.float64]:
        """The scales as float64, shaped to multiply a tensor of `rank` dimensions."""
        values = np.asarray(self.scale, dtype=np.float64)
        if self.axis is None:
            return values.reshape((1,) * rank)
        shape = [1] * rank
        shape[self.axis] = len(values)
        return values.reshape(shape)


@dataclass(frozen=True)
class Tensor:
    """A named value of the network.

    Attributes:
        name: unique in its graph.
        shape: NHWC for pictures and feature maps, the leading batch dimension is 1; weights are OHWI for conv2d,
            1HWC for depthwise_conv2d and OI for dense.
        dtype: a key of `DTYPES`; weights of 4 bits are int8, too, and `quant.bits` says so. Only weights and biases of
            float layers are float16, IEEE 754 binary16; they are widened to float32, exactly, wherever they are used.
        quant: how stored integers mean real numbers; None for float and raw tensors.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    quant: Quant | None = None

    @property
    def elements(self) -> int:
        """How many numbers the tensor holds (batch 1)."""
        count = 1
        for extent in self.shape:
            count *= extent
        return count

    @property
    def bytes(self) -> int:
        """How many bytes the tensor occupies (batch 1); two numbers of 4 bits share one."""
        if self.quant is not None and self.quant.bits == 4:
            return (self.elements + 1) // 2
        return self.elements * np.dtype(DTYPES[self.dtype]).itemsize
