"""A chain of dynamic layers as one call of the row engine in passes: packed weights, structures, addresses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from millijoule.compile._row_fields import RowLowering, filter_fields
from millijoule.compile._text import FLOAT_MAX, float_literal
from millijoule.compile.lower import Call, Layer, Structure
from millijoule.compile.lower_rows import lane_order, pack_lanes
from millijoule.compile.rows_dynamic import FRONT_BYTES, RESULT_BYTES, DynamicMemory, float_distance
from millijoule.graph import WEIGHT_AXIS, Node
from millijoule.kernels import ROWS_MEAN_FLOATS, Dims, Kernel, dims_of

__all__ = ["lower_rows_dynamic"]

ALWAYS = ("mj_rows_dyn", "mj_rows_s8", "mj_product_range", "mj_filter_row_stored")
FULL = {"low": "-128", "high": "127"}


def lower_bound_is_zero(node: Node) -> bool:
    """Whether the result of a layer is never negative, by its own bounds."""
    clamp = node.attrs.get("clamp")
    return clamp is not None and clamp[0] == 0.0


class _Lowering(RowLowering):
    """What the parts of a chain share."""

    @property
    def clamp_after(self) -> bool:
        """Whether the bounds of the convolution that gives the result are kept in the end."""
        block = self.memory.block
        return block.nodes[-1] is block.conv and block.conv.attrs.get("clamp") is not None

    def meaning(self, node: Node, prefix: str) -> str:
        """The `mj_dynamic_layer` of a convolution."""
        graph, axis = self.layer.graph, WEIGHT_AXIS[node.op]
        weights = np.moveaxis(graph.constant(node.inputs[1]).astype(np.int64), axis, 0)
        channels = len(weights)
        scales = np.broadcast_to(np.asarray(graph.quant(node.inputs[1]).scale, dtype=np.float32), (channels,))
        has_bias = len(node.inputs) == 3
        bias = graph.constant(node.inputs[2]).astype(np.float32) if has_bias else np.zeros(channels, np.float32)
        low, high = node.attrs.get("clamp") or (-FLOAT_MAX, FLOAT_MAX)
        fields = {
            "weight_scale": self.layer.flash(f"{prefix}_weight_scale", scales),
            "bias": self.layer.flash(f"{prefix}_bias", bias),
            "weight_sums": self.layer.flash(
                f"{prefix}_weight_sums", weights.reshape(channels, -1).sum(axis=1).astype(np.int32)
            ),
            "low": float_literal(low),
            "high": float_literal(high),
        }
        return self.structure("mj_dynamic_layer", f"{prefix}_meaning", fields)

    def floats(self) -> str:
        """The kernel of the products that give the result. It is quicker without bounds, which are kept afterwards
        where nothing else happens to the result, or before a number is added to its sum.
        """
        block = self.memory.block
        bounded = block.last_product.attrs.get("clamp") is not None and not self.clamp_after
        bounded = bounded and (block.mean is None or block.add is not None)
        return "mj_product_floats_clamped" if bounded else "mj_product_floats"

    def product(self, node: Node, name: str, order: npt.NDArray[np.int64], kernel: str) -> str:
        """A convolution as products."""
        weights = self.layer.graph.constant(node.inputs[1])
        words = pack_lanes(weights.reshape(weights.shape[0], -1), order)
        fields = {
            "weights": self.layer.flash(f"{name}_weights", words),
            "pairs": self.part(f"{name}_pairs", "mj_pair", RESULT_BYTES),
            "product": self.uses(kernel),
            "channels": str(weights.shape[0]),
            "depth": str(len(order) // 2),
            **FULL,
        }
        return self.structure("mj_products", name, fields)

    def mean(self) -> str:
        """The mean over all pixels, as an `mj_rows_mean`. Bounds of a convolution hold before it is added."""
        self.uses(ROWS_MEAN_FLOATS)
        block = self.memory.block
        bounds = block.last_product.attrs.get("clamp") if block.add is None else None
        low, high = bounds or (-FLOAT_MAX, FLOAT_MAX)
        steps = ", ".join(f".{step} = {ROWS_MEAN_FLOATS}_{step}" for step in ("take", "finish"))
        fields = {
            "mean": f"{{{steps}, .sums = {self.part('sums', 'int32_t')}}}",
            "bounded": str(int(bounds is not None)),
            "low": float_literal(low),
            "high": float_literal(high),
        }
        return f"{self.structure('mj_rows_mean_floats', 'mean', fields)}.mean"

    def filter(self, node: Node, dims: Dims) -> str:
        """A depthwise convolution on planes."""
        taps = np.moveaxis(self.layer.graph.constant(node.inputs[1])[0], -1, 0)
        fields = {
            "taps": self.layer.flash("filter_taps", taps),
            "filters": self.part("filters", "uint32_t", FRONT_BYTES),
            "filter_row": self.uses("mj_filter_row_exact"),
            **filter_fields(dims),
            **FULL,
        }
        return self.structure("mj_filters", "filter", fields)


def lower_rows_dynamic(
    layer: Layer,
    memory: DynamicMemory,
    scratch: int,
    quantized: int | None,
    kernel_of: Callable[[Node], Kernel],
    *,
    plain: bool = False,
) -> Call:
    """The call of the row engine for a chain.

    Args:
        layer: the chain's step; its constants go into one block.
        memory: what the scratch memory holds.
        scratch: where in the arena it begins.
        quantized: where in the arena the input as int8 begins, None for the picture.
        kernel_of: the kernel of a dense layer.
        plain: without the quicker kernels for layers whose lower bound is zero.
    """
    graph, block = layer.graph, memory.block
    parts = _Lowering(layer, memory, scratch, [], list(ALWAYS))
    last = memory.last
    fields = parts.first()
    extra: dict[str, str] = {}
    if quantized is not None:
        extra["quantized"] = f"MJ_AT(int8_t, {quantized})"
    if block.normalize is not None:
        scale = np.asarray(block.normalize.attrs["scale"], dtype=np.float32)
        extra |= {
            "scale": layer.flash("scale", scale),
            "offset": layer.flash("offset", np.asarray(block.normalize.attrs["offset"], dtype=np.float32)),
            "step": str(int(len(scale) > 1)),
            "table": parts.part("table", "int8_t"),
        }
        fields |= {"table": parts.part("table", "const int8_t"), "table_step": "256" if len(scale) > 1 else "0"}
    extra["clamp_after"] = str(int(parts.clamp_after))
    if memory.conv is not None and block.conv is not None:
        kernel = "mj_product_planes_exact" if block.filter else parts.floats()
        product = parts.product(block.conv, "conv", lane_order(memory.conv, memory.window), kernel)
        extra["conv"] = parts.meaning(block.conv, "conv")
        if not plain and block.filter is not None and lower_bound_is_zero(block.conv):
            extra["conv_relu"] = parts.uses("mj_product_planes_relu")
        fields |= parts.convolved(block.conv, memory.conv, product)
    if memory.filter is not None and block.filter is not None:
        filtered = memory.filter
        fields |= parts.filtered(filtered, parts.filter(block.filter, filtered))
        extra["filter"] = parts.meaning(block.filter, "filter")
        if "stored" in memory.parts:
            extra["sums"] = parts.part("stored", "int32_t")
        if not plain and lower_bound_is_zero(block.filter) and filtered.kernel == (3, 3):
            extra["filter_relu"] = parts.uses("mj_filter_row_relu_3x3")
        extra["filter_range"] = parts.uses(
            "mj_filter_range_3x3" if filtered.kernel == (3, 3) else "mj_filter_range_any"
        )
    if block.project is not None:
        numbers = dims_of(graph, block.project).in_channels
        order = np.concatenate([np.arange(numbers), np.full(numbers % 2, -1)])
        fields["project"] = parts.product(block.project, "project", order, parts.floats())
        extra["project"] = parts.meaning(block.project, "project")
    fields |= {
        "out_height": str(last.out_height),
        "out_width": str(last.out_width),
        "out_channels": str(4 * last.out_channels),
        "row": parts.part("row", "int8_t"),
        "row_distance": str(float_distance(last)) if "row" in memory.parts else str(4 * last.out_channels),
    }
    if block.add is not None and block.residual is not None:
        low, high = block.add.attrs.get("clamp") or (-FLOAT_MAX, FLOAT_MAX)
        fields["residual"] = f"(const int8_t *){layer.address(block.residual)}"
        fields["result_left"] = str(int(block.add.inputs[0] == block.last_product.output))
        extra |= {"low": float_literal(low), "high": float_literal(high)}
    if memory.slice:
        fields |= {"parts": f"{ROWS_MEAN_FLOATS}_slices", "slice": str(4 * memory.slice)}
    if block.mean is not None:
        fields["mean"] = parts.mean()
    result = layer.address(block.output) if block.dense is None else parts.means(block.dense)
    then = None if block.dense is None else parts.dense(block.dense, kernel_of(block.dense))
    parts.structures.append(Structure("mj_rows", "rows", fields))
    parts.structures.append(Structure("mj_rows_dynamic", "passes", extra))
    return Call(
        "mj_rows_dyn",
        tuple(parts.sources),
        (layer.address(block.input), result, "&rows", "&passes"),
        tuple(layer.constants),
        tuple(parts.structures),
        layer.staged,
        then,
    )
