"""A torch network as a graph, through torch.export.

torch works on (N, C, H, W), the graph on (N, H, W, C): weights are transposed once, here, and no transpose node exists.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from millijoule.errors import ToolchainError, UnsupportedError
from millijoule.graph import Graph, GraphBuilder, verify
from millijoule.interchange._capture_rules import RULES, Call, Value
from millijoule.nets import NetworkSpec, identifier

if TYPE_CHECKING:
    from torch import nn

__all__ = ["capture"]


class _Normalization(Protocol):
    @property
    def scale(self) -> float | Sequence[float]: ...
    @property
    def offset(self) -> float | Sequence[float]: ...


class _Spec(Protocol):
    @property
    def input_shape(self) -> tuple[int, int, int]: ...
    @property
    def normalization(self) -> _Normalization: ...


def capture(
    module: nn.Module,
    spec: _Spec | Sequence[int],
    *,
    classes: Iterable[str] = (),
    normalization: _Normalization | None = None,
    name: str | None = None,
) -> Graph:
    """The network as a float graph whose layers carry the names of the torch modules.

    The graph begins with `normalize` (it takes the uint8 picture) and ends with `softmax`; its outputs are "logits" and
    "probabilities". Batch normalisation stays a node (`graph.simplify` folds it), dropout disappears.

    Args:
        module: takes float32 (N, C, H, W), normalised, and gives logits (N, classes). It is traced in evaluation mode;
            its own mode is restored.
        spec: a `nets.NetworkSpec` (or anything with input_shape and normalization), or the input's shape
            (height, width, channels).
        classes: names of the classes, in the order of the logits.
        normalization: scale and offset with x = picture * scale + offset, one value or one per channel; default: the
            spec's, or 1/127.5 and -1.
        name: the graph's name; default: from the spec, else the module's class.

    Returns:
        A verified float graph, batch 1.

    Raises:
        UnsupportedError: an operator that the graph does not have; it names the layer, the aten operator and the fix.
        ToolchainError: torch is not installed.
    """
    try:
        import torch
    except ModuleNotFoundError:
        raise ToolchainError("torch", "it is not installed", "Run pip install 'millijoule[train]'") from None
    height, width, channels = _input_shape(spec)
    if normalization is None and not isinstance(spec, Sequence):
        normalization = spec.normalization
    scale = _per_channel(1 / 127.5 if normalization is None else normalization.scale, channels)
    offset = _per_channel(-1.0 if normalization is None else normalization.offset, channels)
    if len(scale) != len(offset):
        longest = max(len(scale), len(offset))
        scale, offset = scale * (longest // len(scale)), offset * (longest // len(offset))
    title = name or _title(spec, module)

    builder = GraphBuilder(title)
    picture = builder.input("picture", (1, height, width, channels), "uint8")
    attrs = {"scale": scale, "offset": offset}
    start = builder.node("normalize", [picture], (1, height, width, channels), attrs=attrs, source="normalize")

    parameter = next(module.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    dtype = torch.float32 if parameter is None else parameter.dtype
    example = torch.zeros(1, channels, height, width, device=device, dtype=dtype)
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            program = torch.export.export(module, (example,), strict=True)
    except Exception as error:  # the tracer raises dozens of types; all mean that the network cannot be traced
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UnsupportedError(
            f"network {title!r}",
            f"torch.export cannot trace it ({first})",
            "Write forward() without branches that depend on values",
        ) from error
    finally:
        module.train(was_training)
    logits = _lower(builder, program, Value(start, (1, height, width, channels), (1, channels, height, width)))
    return _finish(builder, logits, tuple(classes))


def _input_shape(spec: _Spec | Sequence[int]) -> tuple[int, int, int]:
    if isinstance(spec, Sequence):
        height, width, channels = (int(extent) for extent in spec)
        return height, width, channels
    return spec.input_shape


def _per_channel(value: float | Sequence[float], channels: int) -> tuple[float, ...]:
    if isinstance(value, (int, float)):
        return (float(value),)
    values = tuple(float(item) for item in value)
    if len(values) not in (1, channels):
        raise UnsupportedError(
            "normalisation",
            f"{len(values)} values do not fit {channels} channels",
            "Give one value, or one per channel",
        )
    return values


def _title(spec: _Spec | Sequence[int], module: nn.Module) -> str:
    return identifier(spec) if isinstance(spec, NetworkSpec) else type(module).__name__.lower()


def _lower(builder: GraphBuilder, program: Any, start: Value) -> Value:
    signature = program.graph_signature
    stored: dict[str, Any] = {**program.state_dict, **program.constants}
    lifted: Mapping[str, str] = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    values: dict[Any, Any] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            if node.name in lifted:
                values[node] = np.asarray(stored[lifted[node.name]].detach().cpu().float().numpy())
            else:
                values[node] = start
        elif node.op == "call_function":
            values[node] = _lower_call(builder, node, values)
        elif node.op == "output":
            results = node.args[0]
            if len(results) != 1 or not isinstance(values.get(results[0]), Value):
                raise UnsupportedError(
                    f"network {builder.name!r}", f"it returns {len(results)} values", "Return the logits only"
                )
            value: Value = values[results[0]]
            if len(value.torch_shape) != 2 or value.order is not None:
                raise UnsupportedError(
                    f"network {builder.name!r}",
                    f"it returns shape {value.torch_shape}",
                    "Return logits of shape (N, classes)",
                )
            return value
    raise UnsupportedError(f"network {builder.name!r}", "it returns nothing", "Return the logits")


def _lower_call(builder: GraphBuilder, node: Any, values: Mapping[Any, Any]) -> Value:
    import torch

    target = str(node.target)
    stack = node.meta.get("nn_module_stack") or {}
    path = next(reversed([entry[0] for entry in stack.values()]), "")
    source = _module_name(path) or str(node.name)
    parts = target.split(".")
    rule = RULES.get(parts[1].rstrip("_")) if len(parts) > 1 and parts[0] == "aten" else None
    arguments = torch.fx.node.map_arg((list(node.args), dict(node.kwargs)), lambda item: values[item])
    call = Call(builder, source, target, arguments[0], arguments[1])
    if rule is None:
        raise call.refuse(
            "the graph has no such operator", f"Build the layer from: {', '.join(sorted(RULES))}, or run it elsewhere"
        )
    return rule(call)


def _module_name(path: str) -> str:
    """`L['self'].features[0].conv` and `features.0.conv` both name the module features.0.conv."""
    for prefix in ("L['self']", "L__self__"):
        path = path.removeprefix(prefix)
    return path.replace("['", ".").replace("']", "").replace("[", ".").replace("]", "").strip("._")


def _finish(builder: GraphBuilder, logits: Value, classes: tuple[str, ...]) -> Graph:
    if classes and len(classes) != logits.shape[1]:
        raise UnsupportedError(
            f"network {builder.name!r}",
            f"it has {logits.shape[1]} logits but there are {len(classes)} class names",
            "Build the network for these classes",
        )
    probabilities = builder.node("softmax", [logits.name], logits.shape, source="softmax", output="probabilities")
    graph = builder.build([logits.name, probabilities], classes=classes, history=["captured from torch"])
    last = graph.producers()[logits.name]
    if last.op == "softmax":  # the module ends with its own softmax: what goes into it are the logits
        nodes = tuple(node for node in graph.nodes if node.output != probabilities)
        graph = replace(graph, nodes=nodes, outputs=(last.inputs[0], logits.name)).without_unused()
    return verify(_renamed(graph, dict(zip(graph.outputs, ("logits", "probabilities"), strict=True))))


def _renamed(graph: Graph, names: Mapping[str, str]) -> Graph:
    def new(name: str) -> str:
        return names.get(name, name)

    clash = (set(names.values()) & set(graph.tensors)) - set(names)
    if clash:
        raise UnsupportedError(f"layer {min(clash)!r}", "this name is kept for an output", "Rename the torch module")
    return replace(
        graph,
        nodes=tuple(
            replace(node, inputs=tuple(map(new, node.inputs)), outputs=tuple(map(new, node.outputs)))
            for node in graph.nodes
        ),
        tensors={new(name): replace(tensor, name=new(name)) for name, tensor in graph.tensors.items()},
        outputs=tuple(map(new, graph.outputs)),
    )
