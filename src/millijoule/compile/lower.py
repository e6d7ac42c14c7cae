"""One layer of the graph as one call of a kernel: its constants, its parameter structures, its arguments.

The table `LOWERINGS` has a line per operator and arithmetic; each entry is a function that follows the kernel contract
of `mj_kernels.h` word by word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from millijoule.compile._text import C_TYPES, FLOAT_MAX, float_literal
from millijoule.compile.legal import dense_by_lanes, row_numbers
from millijoule.compile.schedule import Step
from millijoule.errors import UnsupportedError
from millijoule.graph import WEIGHT_AXIS, Graph, Node, arithmetic
from millijoule.kernels import DENSE_INNER, DENSE_LANES, DENSE_NIBBLES, UNPACK, Kernel, dims_of, nibble_features

__all__ = ["LOWERINGS", "Call", "Constant", "Layer", "Structure", "add_structure", "lower", "window_structure"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Constant:
    """An array in flash: its name in the layer's block and its values (int8, int32, uint32 or float32)."""

    name: str
    value: Array


@dataclass(frozen=True)
class Structure:
    """A parameter structure: C type, name of the variable, initialisers of its fields in order."""

    type: str
    name: str
    fields: Mapping[str, str]


@dataclass(frozen=True)
class Call:
    """A kernel call. `arguments` are C expressions; `sources` are the C functions that it needs, itself included.

    `staged` is where in the arena constants are copied to before it, by name. `then` is a further call behind it, with
    structures of its own; its constants and sources are among those of the first one.
    """

    kernel: str
    sources: tuple[str, ...]
    arguments: tuple[str, ...]
    constants: tuple[Constant, ...] = ()
    structures: tuple[Structure, ...] = ()
    staged: Mapping[str, int] = field(default_factory=dict)
    then: Call | None = None


@dataclass(frozen=True)
class Layer:
    """What a lowering sees: the graph, the step and the C expressions of its memory.

    Attributes:
        graph: the network.
        step: the layer.
        address: tensor name -> C expression of its address in the arena, with its type.
        scratch: C expression of the scratch memory, "NULL" when the kernel needs none.
        node: the operation.
        kernel: the kernel that packs its weights.
        staged: where in the arena copies of constants lie while it runs, by name; the others are read from flash.
        constants: those so far.
        prefix: what names of constants begin with.
    """

    graph: Graph
    step: Step
    address: Callable[[str], str]
    scratch: str
    node: Node
    kernel: Kernel
    staged: Mapping[str, int] = field(default_factory=dict)
    constants: list[Constant] = field(default_factory=list)
    prefix: str = ""

    @property
    def data(self) -> str:
        """The first input."""
        return self.node.inputs[0]

    @property
    def data_shape(self) -> tuple[int, ...]:
        """The shape of the first input."""
        return self.graph.tensor(self.data).shape

    @property
    def result_shape(self) -> tuple[int, ...]:
        """The shape of the result."""
        return self.graph.tensor(self.node.output).shape

    @property
    def x(self) -> str:
        """The address of the first input."""
        return self.address(self.data)

    @property
    def y(self) -> str:
        """The address of the result."""
        return self.address(self.node.output)

    @property
    def elements(self) -> str:
        """How many numbers the result holds."""
        return str(self.graph.tensor(self.node.output).elements)

    def flash(self, name: str, value: Array) -> str:
        """Puts an array into the layer's block of constants and returns the C expression of its first element."""
        name = self.prefix + name
        self.constants.append(Constant(name, np.ascontiguousarray(value).ravel()))
        if name in self.staged:
            return f"MJ_AT(const {C_TYPES[value.dtype.name]}, {self.staged[name]})"
        return f"mj_constants_{self.step.index:03d}.{name}"

    def call(self, *arguments: str, structures: tuple[Structure, ...] = ()) -> Call:
        """The call of the layer's kernel."""
        kernel = self.kernel
        return Call(kernel.name, (kernel.name,), arguments, tuple(self.constants), structures, self.staged)


def lower(
    graph: Graph, step: Step, address: Callable[[str], str], scratch: str, staged: Mapping[str, int] | None = None
) -> Call:
    """The kernel call of one layer.

    Args:
        graph: a verified graph.
        step: one of its scheduled layers.
        address: from a tensor name to the C expression of its place.
        scratch: C expression of the scratch memory.
        staged: offsets in the arena of copies of its constants, by name.

    Raises:
        UnsupportedError: no kernel computes this operator in this arithmetic.
    """
    lowering = LOWERINGS.get((step.node.op, step.mode))
    if lowering is None:
        raise UnsupportedError(
            f"layer {step.name!r} ({step.node.op})", f"no kernel computes it in {step.mode} arithmetic", "Replace it"
        )
    return lowering(Layer(graph, step, address, scratch, step.node, step.kernel, staged=staged or {}))


# *** shared parts *****


def window_structure(layer: Layer, node: Node) -> Structure:
    """The `mj_window` of a convolution.

    Raises:
        UnsupportedError: a size that the structure cannot hold.
    """
    height, width = layer.graph.tensor(node.inputs[1]).shape[1:3]
    return _window(layer, node, (height, width))


def _window(layer: Layer, node: Node, kernel: tuple[int, int]) -> Structure:
    attrs = node.attrs
    data, result = layer.graph.tensor(node.inputs[0]).shape, layer.graph.tensor(node.output).shape
    dilation, padding = attrs.get("dilation", (1, 1)), attrs["padding"]
    fields = {
        "in_height": data[1],
        "in_width": data[2],
        "in_channels": data[3],
        "out_height": result[1],
        "out_width": result[2],
        "out_channels": result[3],
        "kernel_height": kernel[0],
        "kernel_width": kernel[1],
        "stride_height": attrs["stride"][0],
        "stride_width": attrs["stride"][1],
        "dilation_height": dilation[0],
        "dilation_width": dilation[1],
        "pad_top": padding[0],
        "pad_left": padding[2],
    }
    for name, value in fields.items():
        limit = 0xFFFF if name.startswith(("in_", "out_")) else 0xFF
        if value > limit:
            raise UnsupportedError(
                f"layer {layer.step.name!r} ({node.op})", f"{name} is {value}", f"Keep it at most {limit}"
            )
    return Structure("mj_window", "window", {name: str(value) for name, value in fields.items()})


def _bounds(layer: Layer) -> tuple[int, int]:
    return arithmetic.clamp_bounds(layer.node.attrs.get("clamp"), layer.graph.quant(layer.node.output))


def _float_bounds(layer: Layer) -> tuple[str, str]:
    low, high = layer.node.attrs.get("clamp") or (-FLOAT_MAX, FLOAT_MAX)
    return float_literal(low), float_literal(high)


def _channel_scales(layer: Layer) -> npt.NDArray[np.float64]:
    """One weight scale per output channel, float64."""
    weights = layer.node.inputs[1]
    channels = layer.graph.tensor(weights).shape[WEIGHT_AXIS[layer.node.op]]
    scales = np.asarray(layer.graph.quant(weights).scale, dtype=np.float64)
    return np.broadcast_to(scales, (channels,))


def _weight_sums(layer: Layer) -> npt.NDArray[np.int64]:
    axis = WEIGHT_AXIS[layer.node.op]
    weights = np.moveaxis(layer.graph.constant(layer.node.inputs[1]).astype(np.int64), axis, 0)
    sums: npt.NDArray[np.int64] = weights.reshape(weights.shape[0], -1).sum(axis=1)
    return sums


def _weights(layer: Layer) -> str:
    value = layer.graph.constant(layer.node.inputs[1])
    value = value.view(np.uint16) if value.dtype == np.float16 else value
    return layer.flash("weights", layer.kernel.packed(value))


def _folded_bias(layer: Layer) -> str:
    """The bias less in_zero * sum(weights): the kernels then add x * w without the zero point."""
    zero = layer.graph.quant(layer.data).scalar_zero_point
    bias = layer.graph.constant(layer.node.inputs[2]).astype(np.int64) if len(layer.node.inputs) == 3 else 0
    return layer.flash("bias", (bias - zero * _weight_sums(layer)).astype(np.int32))


def _float_bias(layer: Layer) -> str:
    if len(layer.node.inputs) < 3:
        return "NULL"
    bias, weights = (layer.graph.constant(name) for name in (layer.node.inputs[2], layer.node.inputs[1]))
    if weights.dtype != np.float16:
        return layer.flash("bias", bias.astype(np.float32))
    if bias.dtype != np.float16:
        raise UnsupportedError(
            f"layer {layer.step.name!r} ({layer.node.op})",
            "its weights are 16-bit floats and its bias is not",
            "Round both: millijoule quantize half",
        )
    return layer.flash("bias", bias.view(np.uint16))


def _requant(layer: Layer) -> Structure:
    data, result = layer.graph.quant(layer.data), layer.graph.quant(layer.node.output)
    reals = [data.scalar_scale * scale / result.scalar_scale for scale in _channel_scales(layer)]
    multipliers, shifts = arithmetic.multipliers(reals, layer.graph.rounding)
    low, high = _bounds(layer)
    fields = {
        "multiplier": layer.flash("multiplier", multipliers),
        "shift": layer.flash("shift", shifts),
        "in_zero": str(data.scalar_zero_point),
        "out_zero": str(result.scalar_zero_point),
        "low": str(low),
        "high": str(high),
    }
    return Structure("mj_requant", "requant", fields)


def _dynamic(layer: Layer) -> Structure:
    low, high = _float_bounds(layer)
    fields = {
        "weight_scale": layer.flash("weight_scale", _channel_scales(layer).astype(np.float32)),
        "weight_sums": layer.flash("weight_sums", _weight_sums(layer).astype(np.int32)),
        "low": low,
        "high": high,
    }
    return Structure("mj_dynamic", "dynamic", fields)


# *** one function per operator and arithmetic *****


def _normalize_int8(layer: Layer) -> Call:
    scale, offset = layer.node.attrs["scale"], layer.node.attrs["offset"]
    table = arithmetic.normalize_table(tuple(scale), tuple(offset), layer.graph.quant(layer.node.output))
    flash = layer.flash("table", table)
    _, height, width, channels = layer.data_shape
    return layer.call(layer.x, layer.y, str(height * width), str(channels), flash, str(len(table)))


def _normalize_float(layer: Layer) -> Call:
    _, height, width, channels = layer.data_shape
    flash = [
        layer.flash(name, np.broadcast_to(np.asarray(layer.node.attrs[name], dtype=np.float32), (channels,)))
        for name in ("scale", "offset")
    ]
    return layer.call(layer.x, layer.y, str(height * width), str(channels), *flash)


def _convolution_int8(layer: Layer) -> Call:
    bias, requant, weights = _folded_bias(layer), _requant(layer), _weights(layer)
    window = window_structure(layer, layer.node)
    return layer.call(
        layer.x, weights, bias, layer.y, "&window", "&requant", layer.scratch, structures=(window, requant)
    )


def _convolution_dynamic(layer: Layer) -> Call:
    bias, dynamic, weights = _float_bias(layer), _dynamic(layer), _weights(layer)
    window = window_structure(layer, layer.node)
    return layer.call(
        layer.x, weights, bias, layer.y, "&window", "&dynamic", layer.scratch, structures=(window, dynamic)
    )


def _convolution_float(layer: Layer) -> Call:
    bias, weights = _float_bias(layer), _weights(layer)
    return layer.call(
        layer.x,
        weights,
        bias,
        layer.y,
        "&window",
        *_float_bounds(layer),
        structures=(window_structure(layer, layer.node),),
    )


def _features(layer: Layer) -> tuple[str, str]:
    return str(layer.data_shape[1]), str(layer.result_shape[1])


def _dense_int8(layer: Layer) -> Call:
    packed = layer.graph.quant(layer.node.inputs[1]).bits == 4
    if (packed or layer.kernel.variant == "dsp") and dense_by_lanes(layer.graph, layer.node):
        return _dense_lanes(layer, DENSE_NIBBLES if packed else DENSE_LANES)
    bias, requant, weights = _folded_bias(layer), _requant(layer), _weights(layer)
    sizes = _features(layer)
    return layer.call(layer.x, weights, bias, layer.y, *sizes, "&requant", layer.scratch, structures=(requant,))


def _dense_lanes(layer: Layer, kernel: Kernel) -> Call:
    """Two features in one lane of 16 bits: mj_dense.h."""
    graph, node = layer.graph, layer.node
    numbers, zero = row_numbers(graph, node), graph.quant(node.output).scalar_zero_point
    offset = 1 if graph.rounding == "single" else 0
    shift = -numbers.shift.astype(np.int64) - offset
    addend = np.full(len(shift), zero) if graph.rounding == "mulhi" else (2 * zero + 1) << (shift - 1)
    channels = np.stack([numbers.bias, numbers.multiplier, addend, shift], axis=1)
    if len(channels) % 2:
        channels = np.concatenate([channels, np.ones_like(channels[:1])])
    even, odd = channels[0::2], channels[1::2]
    starts = np.stack([even[:, 0], 256 * odd[:, 0] + even[:, 0]], axis=1)
    pairs = np.concatenate([starts, even[:, 1:], odd[:, 1:]], axis=1).astype(np.uint32).view(np.int32)
    words = kernel.packed(graph.constant(node.inputs[1])).view(np.uint32)
    call = layer.call(
        layer.x, layer.flash("weights", words), layer.flash("pairs", pairs), layer.y, *_features(layer),
        *map(str, _bounds(layer)), layer.scratch,
    )  # fmt: skip
    if kernel is DENSE_NIBBLES:
        arguments = (*call.arguments, str(numbers.up), str(nibble_features(dims_of(graph, node))))
        return replace(call, kernel=kernel.name, sources=(kernel.name, DENSE_INNER, UNPACK), arguments=arguments)
    return replace(call, kernel=kernel.name, sources=(kernel.name, DENSE_INNER))


def _dense_dynamic(layer: Layer) -> Call:
    bias, dynamic, weights = _float_bias(layer), _dynamic(layer), _weights(layer)
    sizes = _features(layer)
    return layer.call(layer.x, weights, bias, layer.y, *sizes, "&dynamic", layer.scratch, structures=(dynamic,))


def _dense_float(layer: Layer) -> Call:
    bias, weights = _float_bias(layer), _weights(layer)
    return layer.call(layer.x, weights, bias, layer.y, *_features(layer), *_float_bounds(layer))


def add_structure(graph: Graph, node: Node) -> Structure:
    """The `mj_add_params` of an int8 addition."""
    left, right, result = (graph.quant(name) for name in (*node.inputs, node.output))
    plan = arithmetic.add_plan(left, right, result, graph.rounding)
    low, high = arithmetic.clamp_bounds(node.attrs.get("clamp"), result)
    fields = {
        "left_zero": left.scalar_zero_point,
        "right_zero": right.scalar_zero_point,
        "out_zero": result.scalar_zero_point,
        "left_multiplier": plan.left[0],
        "right_multiplier": plan.right[0],
        "out_multiplier": plan.result[0],
        "left_shift": plan.left[1],
        "right_shift": plan.right[1],
        "out_shift": plan.result[1],
        "low": low,
        "high": high,
    }
    return Structure("mj_add_params", "params", {name: str(value) for name, value in fields.items()})


def _add_int8(layer: Layer) -> Call:
    params = add_structure(layer.graph, layer.node)
    right_address = layer.address(layer.node.inputs[1])
    return layer.call(layer.x, right_address, layer.y, layer.elements, "&params", structures=(params,))


def _add_float(layer: Layer) -> Call:
    right = layer.address(layer.node.inputs[1])
    return layer.call(layer.x, right, layer.y, layer.elements, *_float_bounds(layer))


def _mean_int8(layer: Layer) -> Call:
    _, height, width, channels = layer.data_shape
    data, result = layer.graph.quant(layer.data), layer.graph.quant(layer.node.output)
    multiplier, shift = arithmetic.mean_multiplier(data, result, height * width, layer.graph.rounding)
    numbers = (
        height * width,
        channels,
        data.scalar_zero_point,
        result.scalar_zero_point,
        multiplier,
        shift,
        *_bounds(layer),
    )
    return layer.call(layer.x, layer.y, *(str(number) for number in numbers))


def _mean_float(layer: Layer) -> Call:
    _, height, width, channels = layer.data_shape
    return layer.call(layer.x, layer.y, str(height * width), str(channels))


def _pool_int8(layer: Layer) -> Call:
    window = _window(layer, layer.node, layer.node.attrs["kernel"])
    return layer.call(layer.x, layer.y, "&window", *(str(bound) for bound in _bounds(layer)), structures=(window,))


def _pool_float(layer: Layer) -> Call:
    return layer.call(layer.x, layer.y, "&window", structures=(_window(layer, layer.node, layer.node.attrs["kernel"]),))


def _pad(layer: Layer) -> Call:
    zero = (str(layer.graph.quant(layer.data).scalar_zero_point),) if layer.step.mode == "integer" else ()
    sizes = (*layer.data_shape[1:], *layer.node.attrs["padding"])
    return layer.call(layer.x, layer.y, *(str(size) for size in sizes), *zero)


def _transpose(layer: Layer) -> Call:
    return layer.call(layer.x, layer.y, *(str(size) for size in layer.data_shape[1:]))


def _clamp_int8(layer: Layer) -> Call:
    return layer.call(layer.x, layer.y, layer.elements, *(str(bound) for bound in _bounds(layer)))


def _clamp_float(layer: Layer) -> Call:
    return layer.call(layer.x, layer.y, layer.elements, *_float_bounds(layer))


def _softmax_int8(layer: Layer) -> Call:
    table = arithmetic.softmax_table(layer.graph.quant(layer.data).scalar_scale)
    return layer.call(layer.x, layer.y, layer.elements, layer.flash("table", table))


def _softmax_float(layer: Layer) -> Call:
    return layer.call(layer.x, layer.y, layer.elements)


def _convert(layer: Layer) -> Call:
    quant = layer.graph.quant(layer.node.output if layer.node.op == "quantize" else layer.data)
    scale = float_literal(quant.scalar_scale)
    return layer.call(layer.x, layer.y, layer.elements, scale, str(quant.scalar_zero_point))


LOWERINGS: dict[tuple[str, str], Callable[[Layer], Call]] = {
    ("normalize", "integer"): _normalize_int8,
    ("normalize", "float"): _normalize_float,
    ("conv2d", "integer"): _convolution_int8,
    ("conv2d", "dynamic"): _convolution_dynamic,
    ("conv2d", "float"): _convolution_float,
    ("depthwise_conv2d", "integer"): _convolution_int8,
    ("depthwise_conv2d", "dynamic"): _convolution_dynamic,
    ("depthwise_conv2d", "float"): _convolution_float,
    ("dense", "integer"): _dense_int8,
    ("dense", "dynamic"): _dense_dynamic,
    ("dense", "float"): _dense_float,
    ("add", "integer"): _add_int8,
    ("add", "float"): _add_float,
    ("mean", "integer"): _mean_int8,
    ("mean", "float"): _mean_float,
    ("avg_pool", "integer"): _pool_int8,
    ("avg_pool", "float"): _pool_float,
    ("max_pool", "integer"): _pool_int8,
    ("max_pool", "float"): _pool_float,
    ("pad", "integer"): _pad,
    ("pad", "float"): _pad,
    ("transpose", "integer"): _transpose,
    ("transpose", "float"): _transpose,
    ("clamp", "integer"): _clamp_int8,
    ("clamp", "float"): _clamp_float,
    ("softmax", "integer"): _softmax_int8,
    ("softmax", "float"): _softmax_float,
    ("quantize", "integer"): _convert,
    ("dequantize", "integer"): _convert,
}
