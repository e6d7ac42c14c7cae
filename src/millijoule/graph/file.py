"""The `.mj` file: one safetensors file with the constants, the graph as JSON in its header.

Safe to load (no code), readable with any safetensors reader, written whole or not at all. Weights of 4 bits are stored
two in a byte (`nibbles`).
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from millijoule.errors import FormatError, GraphError, MillijouleError
from millijoule.files import atomic_write_bytes
from millijoule.graph.graph import Graph, Node, PictureRule
from millijoule.graph.nibbles import pack_nibbles, unpack_nibbles
from millijoule.graph.tensor import Quant, Tensor
from millijoule.graph.verify import verify

__all__ = ["FORMAT", "graph_from_json", "graph_to_json", "load_graph", "save_graph"]

FORMAT = "millijoule graph 1"


def graph_to_json(graph: Graph) -> dict[str, Any]:
    """The graph without the values of its constants, as JSON values (infinities as the strings "inf" and "-inf")."""
    return {
        "name": graph.name,
        "nodes": [
            {
                "op": node.op,
                "inputs": list(node.inputs),
                "outputs": list(node.outputs),
                "attrs": {name: _plain(value) for name, value in node.attrs.items()},
                "source": node.source,
            }
            for node in graph.nodes
        ],
        "tensors": [
            {"name": tensor.name, "shape": list(tensor.shape), "dtype": tensor.dtype, "quant": _quant(tensor.quant)}
            for tensor in graph.tensors.values()
        ],
        "inputs": list(graph.inputs),
        "outputs": list(graph.outputs),
        "rounding": graph.rounding,
        "classes": list(graph.classes),
        "picture": {"resize": graph.picture.resize, "colour": graph.picture.colour},
        "history": list(graph.history),
    }


def graph_from_json(value: dict[str, Any], constants: dict[str, np.ndarray[Any, Any]]) -> Graph:
    """The inverse of `graph_to_json`; the result is verified.

    Raises:
        KeyError, TypeError, ValueError: `value` has another structure.
        GraphError: the graph breaks a rule.
    """
    tensors = {
        item["name"]: Tensor(
            str(item["name"]),
            tuple(int(extent) for extent in item["shape"]),
            str(item["dtype"]),
            None
            if item["quant"] is None
            else Quant(
                tuple(float(scale) for scale in item["quant"]["scale"]),
                tuple(int(zero) for zero in item["quant"]["zero_point"]),
                None if item["quant"]["axis"] is None else int(item["quant"]["axis"]),
                _bits(item["quant"].get("bits", 8)),
            ),
        )
        for item in value["tensors"]
    }
    nodes = tuple(
        Node(
            str(item["op"]),
            tuple(map(str, item["inputs"])),
            tuple(map(str, item["outputs"])),
            {str(name): _frozen(attr) for name, attr in item["attrs"].items()},
            str(item["source"]),
        )
        for item in value["nodes"]
    )
    graph = Graph(
        str(value["name"]),
        nodes,
        tensors,
        constants,
        tuple(map(str, value["inputs"])),
        tuple(map(str, value["outputs"])),
        str(value["rounding"]),
        tuple(map(str, value["classes"])),
        PictureRule(str(value["picture"]["resize"]), str(value["picture"]["colour"])),
        tuple(map(str, value["history"])),
    )
    return verify(replace(graph, constants={**constants, **_unpacked(tensors, constants)}))


def _packed(tensor: Tensor) -> bool:
    return tensor.quant is not None and tensor.quant.bits == 4


def _unpacked(
    tensors: dict[str, Tensor], constants: dict[str, np.ndarray[Any, Any]]
) -> dict[str, np.ndarray[Any, Any]]:
    """The values of the constants that are stored two in a byte."""
    found = {}
    for name, value in constants.items():
        if name in tensors and _packed(tensors[name]):
            try:
                found[name] = unpack_nibbles(value, tensors[name].shape)
            except GraphError as error:
                raise GraphError(f"tensor {name!r}", error.reason, error.fix) from None
    return found


def save_graph(graph: Graph, path: Path) -> None:
    """Writes `graph` to `path` (usually `*.mj`). Raises OutputError."""
    header = {"format": FORMAT, "graph": json.dumps(graph_to_json(graph), separators=(",", ":"))}
    constants = {
        name: pack_nibbles(value) if _packed(graph.tensor(name)) else np.ascontiguousarray(value)
        for name, value in graph.constants.items()
    }
    atomic_write_bytes(Path(path), save(constants, metadata=header))


def load_graph(path: Path) -> Graph:
    """Reads a graph written by `save_graph`.

    Raises:
        FormatError: the file is missing, truncated, foreign or of another version.
    """
    path = Path(path)
    what = str(path)
    if not path.is_file():
        raise FormatError(what, "there is no such file", "Check the path")
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            constants = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise FormatError(what, f"it is truncated or not a graph file ({error})", "Export the model again") from None
    if header.get("format") != FORMAT:
        found = header.get("format", "no format line")
        raise FormatError(
            what, f"it is not a '{FORMAT}' file (found: {found})", "Use a .mj file written by this version"
        )
    try:
        return graph_from_json(json.loads(header["graph"]), constants)
    except MillijouleError as error:
        raise FormatError(what, f"its graph is broken ({error})", "Export the model again") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(what, f"its header is damaged ({error!r})", "Export the model again") from None


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return value


def _frozen(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_frozen(item) for item in value)
    if value in ("inf", "-inf"):
        return float(value)
    return value


def _bits(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is no number of bits")
    return value


def _quant(quant: Quant | None) -> dict[str, Any] | None:
    if quant is None:
        return None
    stored = {"scale": list(quant.scale), "zero_point": list(quant.zero_point), "axis": quant.axis}
    return stored if quant.bits == 8 else {**stored, "bits": quant.bits}
