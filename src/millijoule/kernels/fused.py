"""Kernels that do two layers at once: convolution and depthwise convolution without the map between them.

An inverted residual block widens its input, filters each channel, and narrows it again; the widest map lives only
between the first two steps. `FusedKernel` makes the rows of that map when the depthwise convolution needs them and
keeps as many as its window is high. (The idea is that of patch-based inference cut down to rows, which needs no
recomputation: J. Lin et al., MCUNetV2, 2021.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from millijoule.graph import Graph, Node, mode
from millijoule.kernels.registry import KERNELS, Dims, Kernel, dims_of

__all__ = ["FUSED", "FusedKernel", "choose_fused"]

_KERNEL = {kernel.name: kernel for kernel in KERNELS}


@dataclass(frozen=True)
class FusedKernel:
    """One C function that computes a conv2d and the depthwise_conv2d that reads its result.

    The call is ``name(x, y, &pair, scratch)`` with ``pair`` a `mj_conv_depthwise` (mj_kernels.h), whose eight pointers
    are, for each of the two layers, what a call of the layer's own kernel gets: `mj_window`, `mj_requant`, packed
    weights and folded bias. Results are bit for bit those of the two layers one after the other.

    ::

        kernel = choose_fused(graph, conv, depthwise, "dsp")  # None: not possible
        first, second = kernel.parts(dims_of(graph, conv))  # use first.packed(w), second.packed(w)
        kernel.scratch_bytes(dims_of(graph, conv), dims_of(graph, depthwise))
        kernel.sources  # names for `source`, itself included

    Scratch (4-byte aligned)::

        0             kernel height of the depthwise x in_width x in_channels of the depthwise, int8: the window
        window_bytes  the scratch of the kernel called last: the larger of the convolution's and the depthwise's

    x is read until the end: y and the scratch must not overlap it, nor each other. Whoever calls must see to it that
    nothing else reads the map between the layers.

    Attributes:
        name: the C function, which is also the file's name.
        variant: "plain" or "dsp".
        conv: the kernels that compute the convolution, best first; the first legal one is called.
        depthwise: the kernel that computes the depthwise convolution.
    """

    name: str
    variant: str
    conv: tuple[str, ...]
    depthwise: str
    operator: str = "conv_depthwise"
    arithmetic: str = "integer"

    @property
    def file(self) -> str:
        """The file in `c/` that defines it."""
        return f"{self.name}.c"

    @property
    def sources(self) -> tuple[str, ...]:
        """All the C functions that a program with this kernel needs, itself first; names for `source`."""
        return (self.name, *self.conv, self.depthwise)

    def parts(self, conv: Dims) -> tuple[Kernel, Kernel]:
        """The kernels it calls for a (legal) convolution of these sizes; they pack the weights."""
        return next(_KERNEL[name] for name in self.conv if _KERNEL[name].legal(conv)), _KERNEL[self.depthwise]

    def legal(self, conv: Dims, depthwise: Dims) -> bool:
        """The depthwise reads what the convolution writes, its rows are not dilated; each kernel does its layer."""
        between = (conv.out_height, conv.out_width, conv.out_channels)
        return (
            between == (depthwise.in_height, depthwise.in_width, depthwise.in_channels)
            and depthwise.dilation[0] == 1
            and any(_KERNEL[name].legal(conv) for name in self.conv)
            and _KERNEL[self.depthwise].legal(depthwise)
        )

    def window_bytes(self, depthwise: Dims) -> int:
        """Bytes of the rows that are kept, rounded up to 4."""
        return (depthwise.kernel[0] * depthwise.in_width * depthwise.in_channels + 3) // 4 * 4

    def scratch_bytes(self, conv: Dims, depthwise: Dims) -> int:
        """Bytes of scratch for a legal pair of layers, in place of the whole map between them."""
        first, second = self.parts(conv)
        return self.window_bytes(depthwise) + max(first.scratch_bytes(conv), second.scratch_bytes(depthwise))

    def packed(
        self, conv: Dims, conv_weights: npt.NDArray[Any], depthwise_weights: npt.NDArray[Any]
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """The weights of both layers (graph's layouts) as the kernels read them."""
        first, second = self.parts(conv)
        return first.packed(conv_weights), second.packed(depthwise_weights)


FUSED: tuple[FusedKernel, ...] = (
    FusedKernel("mj_conv_depthwise_s8_dsp", "dsp", ("mj_pointwise_s8_dsp", "mj_conv2d_s8_dsp"), "mj_depthwise_s8_dsp"),
    FusedKernel("mj_conv_depthwise_s8", "plain", ("mj_pointwise_s8", "mj_conv2d_s8"), "mj_depthwise_s8"),
)
"""Best first."""


def choose_fused(graph: Graph, conv: Node, depthwise: Node, variant: str = "dsp") -> FusedKernel | None:
    """The best fused kernel for two nodes of a verified graph, or None when they must run one after the other.

    Args:
        graph: the graph of the nodes.
        conv: the first node.
        depthwise: the node that reads its result.
        variant: "dsp" or "plain" (plain C only).
    """
    if (conv.op, depthwise.op) != ("conv2d", "depthwise_conv2d") or depthwise.inputs[0] != conv.output:
        return None
    if mode(graph, conv) != "integer" or mode(graph, depthwise) != "integer":
        return None
    sizes = dims_of(graph, conv), dims_of(graph, depthwise)
    known = [kernel for kernel in FUSED if variant == "dsp" or kernel.variant == "plain"]
    return next((kernel for kernel in known if kernel.legal(*sizes)), None)
