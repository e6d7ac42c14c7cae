"""Graph -> C: schedule the layers, plan the memory, lower to kernel calls, emit the text, check that it fits."""

from __future__ import annotations

from millijoule.compile.explain import explain_program, timeline
from millijoule.compile.fit import CODE_BYTES, RESERVED_BYTES
from millijoule.compile.golden import GoldenVector, golden_picture
from millijoule.compile.objective import OBJECTIVES
from millijoule.compile.options import PlanOptions, RowOptions
from millijoule.compile.plan import Buffer, Lifetime, MemoryPlan, Overlap, StepMemory, lower_bound, plan_memory
from millijoule.compile.program import HOST, KERNELS, Layer, Program, compile_graph
from millijoule.compile.row_timeline import row_timeline

__all__ = [
    "CODE_BYTES",
    "HOST",
    "KERNELS",
    "OBJECTIVES",
    "RESERVED_BYTES",
    "Buffer",
    "GoldenVector",
    "Layer",
    "Lifetime",
    "MemoryPlan",
    "Overlap",
    "PlanOptions",
    "Program",
    "RowOptions",
    "StepMemory",
    "compile_graph",
    "explain_program",
    "golden_picture",
    "lower_bound",
    "plan_memory",
    "row_timeline",
    "timeline",
]
