"""What a network is: tensors, operators, arithmetic, verifier, printer, file. Serves every room."""

from __future__ import annotations

from millijoule.graph import arithmetic
from millijoule.graph.bounds import (
    accumulator_bounds,
    check_overflow,
    constant_channels,
    output_bounds,
    stored_bounds,
)
from millijoule.graph.file import load_graph, save_graph
from millijoule.graph.graph import ROUNDINGS, Graph, GraphBuilder, Node, PictureRule, mode
from millijoule.graph.operators import OPERATORS, macs
from millijoule.graph.printer import describe_graph, format_graph
from millijoule.graph.prune import Removed, prune
from millijoule.graph.simplify import simplify, widen_halves
from millijoule.graph.tensor import Quant, Tensor
from millijoule.graph.transpose import transposed
from millijoule.graph.verify import WEIGHT_AXIS, verify

__all__ = [
    "OPERATORS",
    "ROUNDINGS",
    "WEIGHT_AXIS",
    "Graph",
    "GraphBuilder",
    "Node",
    "PictureRule",
    "Quant",
    "Removed",
    "Tensor",
    "accumulator_bounds",
    "arithmetic",
    "check_overflow",
    "constant_channels",
    "describe_graph",
    "format_graph",
    "load_graph",
    "macs",
    "mode",
    "output_bounds",
    "prune",
    "save_graph",
    "simplify",
    "stored_bounds",
    "transposed",
    "verify",
    "widen_halves",
]
