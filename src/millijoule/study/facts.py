"""What the report says about data, network, boards and machine, gathered from the rooms."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from millijoule import __version__
from millijoule.boards import Board
from millijoule.nets import NetworkSpec, layer_table, mobilenet_v2, stage_table
from millijoule.study.results import (
    BoardFacts,
    DataFacts,
    MethodFacts,
    NetworkFacts,
    RegulatorFacts,
    StageRowFacts,
    WidthFacts,
)

if TYPE_CHECKING:
    from millijoule.data import PreparedSet

__all__ = ["board_facts", "data_facts", "host_facts", "method_facts", "network_facts", "version_facts"]

PACKAGES = ("numpy", "torch", "opencv-python-headless", "ziglang", "unicorn", "capstone", "safetensors")
WIDTHS = (0.35, 0.5, 0.75)


def data_facts(prepared: PreparedSet) -> DataFacts:
    """The data set."""
    manifest = prepared.manifest
    kind = str(manifest.source.get("kind", "folder"))
    return DataFacts(
        source=kind,
        toy=kind == "toy_vehicles",
        classes=tuple(prepared.classes),
        resolution=prepared.resolution,
        resize=str(manifest.resize),
        counts={name: len(prepared.split(name).labels) for name in ("train", "validation", "test")},
        skipped=len(manifest.skipped),
        near_duplicates=len(manifest.near_duplicates),
    )


def network_facts(spec: NetworkSpec) -> NetworkFacts:
    """The network's table, and its sizes at the widths that the paper's figures are about."""
    rows = layer_table(spec)
    return NetworkFacts(
        family=spec.family,
        alpha=spec.alpha,
        resolution=spec.resolution,
        parameters=sum(row.parameters for row in rows),
        macs=sum(row.macs for row in rows),
        rows=tuple(
            StageRowFacts(
                row.input_shape, row.operator, row.t, row.c, row.c or None, row.n, row.s, row.parameters, row.macs
            )
            for row in stage_table(spec)
        ),
        widths=tuple(_width(alpha, spec) for alpha in sorted({*WIDTHS, spec.alpha})),
    )


def _width(alpha: float, spec: NetworkSpec) -> WidthFacts:
    """Sizes with batch normalisation folded: a weight is 4 bytes or 1, a bias 4 bytes either way."""
    rows = layer_table(mobilenet_v2(alpha, spec.resolution, spec.classes))
    weights = biases = 0
    for row in rows:
        outputs, taps = row.output_shape[2], row.kernel[0] * row.kernel[1]
        if row.operator == "conv2d":
            weights += taps * row.input_shape[2] * outputs
        elif row.operator == "depthwise_conv2d":
            weights += taps * outputs
        elif row.operator == "dense":
            weights += row.input_shape[2] * outputs
        else:
            continue
        biases += outputs
    return WidthFacts(alpha, weights + biases, 4 * (weights + biases), weights + 4 * biases)


def method_facts(row: Mapping[str, Any], titles: Mapping[str, str]) -> MethodFacts:
    """A row of the comparison (`millijoule.quantize.ModelFigures` as JSON) with its title."""
    interval = row["difference_interval"]
    return MethodFacts(
        name=row["name"],
        title=titles[row["name"]],
        kind=row["kind"],
        file=f"{row['name']}.mj",
        pictures=sum(map(sum, row["confusion"])),
        correct=row["correct"],
        accuracy=row["accuracy"],
        interval=(row["interval"]["low"], row["interval"]["high"]),
        flash_bytes=row["flash_bytes"],
        tflite_bytes=row["tflite_bytes"],
        activation_bytes=row["activation_bytes"],
        activation_note="",
        changed=row["changed"],
        lost=row["lost"],
        won=row["won"],
        difference=row["difference"],
        difference_interval=None if interval is None else (interval["low"], interval["high"]),
        logits_sqnr=row["logits_sqnr"],
        confusion=tuple(tuple(line) for line in row["confusion"]),
        weight_bits=row["weight_bits"],
        layers_by_bits={int(bits): int(count) for bits, count in row["layers_by_bits"].items()},
        compiled_bytes=row["compiled_bytes"],
    )


def board_facts(board: Board) -> BoardFacts:
    """A board."""
    paper = board.paper
    return BoardFacts(
        name=board.name,
        title=board.title,
        core=board.core,
        clock_hz=board.clock_hz,
        flash_bytes=board.flash.size,
        ram_bytes=board.ram_bytes,
        arena_limit_bytes=board.arena_limit(),
        wait_states=board.flash.wait_states,
        regulators=tuple(
            RegulatorFacts(
                item.name, item.title, item.volts, item.joules_per_cycle * 1e12, item.uncertainty, item.source
            )
            for item in board.regulators
        ),
        paper_milliseconds=paper.milliseconds if paper else None,
        paper_millijoules=paper.millijoules if paper else None,
        paper_remark=paper.remark if paper else "",
    )


def version_facts() -> dict[str, str]:
    """Versions of this package, of Python and of what computed the results."""
    versions = {"millijoule": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def host_facts() -> dict[str, str]:
    """The computer that ran the study."""
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"system": f"{platform.system()} {platform.machine()}", "processor": _processor(), "threads": str(threads)}


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
