"""The fastest options of blocks as measured, by board and shape: found by `deploy.tune`, shipped with the package.

`recorded.json` beside this module is written by `benchmarks/record_tuning.py`. Options that differ from the defaults
only are recorded, and only where the whole network gains.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib import resources
from typing import Any

from millijoule.boards import Board
from millijoule.compile.finder import Block, find_blocks
from millijoule.compile.objective import planned
from millijoule.compile.options import DEFAULTS, PlanOptions, RowOptions
from millijoule.graph import Graph
from millijoule.kernels import dims_of

__all__ = ["differences", "from_differences", "recorded_for", "shape_key", "with_winners"]

Winners = Mapping[str, RowOptions]
"""`shape_key` -> options."""


def shape_key(graph: Graph, block: Block) -> str:
    """What decides how fast a block is: its layers with their sizes, and the rounding rule. A dense layer at its end
    runs once, whatever the options, and is left out.

    Example: ``conv2d 56x56x16-56x56x96 k1x1 s1x1; depthwise_conv2d ...; single``.
    """
    parts = []
    for node in block.nodes:
        if node is block.dense:
            continue
        if not node.op.endswith("conv2d"):
            parts.append(node.op)
            continue
        dims = dims_of(graph, node)
        before = f"{dims.in_height}x{dims.in_width}x{dims.in_channels}"
        after = f"{dims.out_height}x{dims.out_width}x{dims.out_channels}"
        kernel, stride = "x".join(map(str, dims.kernel)), "x".join(map(str, dims.stride))
        parts.append(f"{node.op} {before}-{after} k{kernel} s{stride}")
    return "; ".join([*parts, graph.rounding])


def with_winners(
    graph: Graph,
    kernels: str,
    able: frozenset[str],
    options: PlanOptions,
    winners: Winners,
    ram_budget: int | None = None,
) -> PlanOptions:
    """`options` with the winners for all blocks that have none of their own, as far as the arena does not grow.

    Args:
        graph: a verified graph.
        kernels: "dsp" or "plain".
        able: as for `schedule`.
        options: what the winners are added to.
        winners: by `shape_key`.
        ram_budget: the arena may grow up to this.
    """
    blocks = find_blocks(graph, able)
    found: dict[str, list[str]] = {}
    for block in blocks:
        key = shape_key(graph, block)
        if key in winners and block.output not in options.blocks:
            found.setdefault(key, []).append(block.output)
    if not found:
        return options
    limit = max(planned(graph, kernels, able, options)[1].arena_bytes, ram_budget or 0)
    for key, outputs in found.items():
        trial = replace(options, blocks={**options.blocks, **dict.fromkeys(outputs, winners[key])})
        if planned(graph, kernels, able, trial)[1].arena_bytes <= limit:
            options = trial
    return options


def recorded_for(board: Board | None, kernels: str) -> Winners:
    """The winners that the package brings for a board; none for this computer, and none for plain kernels."""
    if board is None or kernels != "dsp":
        return {}
    return _recorded().get(board.name, {})


@cache
def _recorded() -> Mapping[str, Winners]:
    text = resources.files("millijoule.compile").joinpath("recorded.json").read_text(encoding="utf-8")
    boards = json.loads(text)["boards"]
    return {name: {key: from_differences(values) for key, values in items.items()} for name, items in boards.items()}


def differences(options: RowOptions) -> dict[str, Any]:
    """What differs from the defaults, as JSON values."""
    usual = DEFAULTS.default.as_dict()
    return {name: value for name, value in options.as_dict().items() if value != usual[name]}


def from_differences(values: Mapping[str, Any]) -> RowOptions:
    """The reverse of `differences`. Raises OptionError for values out of range."""
    return replace(DEFAULTS.default, **values)
