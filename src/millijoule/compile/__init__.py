"""Graph -> C: schedule the layers, plan the memory, lower to kernel calls, emit the text, check that it fits."""

from __future__ import annotations

from millijoule.compile.fit import CODE_BYTES, RESERVED_BYTES
from millijoule.compile.golden import GoldenVector, golden_picture
from millijoule.compile.plan import Buffer, Lifetime, MemoryPlan, Overlap, StepMemory, lower_bound, plan_memory
from millijoule.compile.program import HOST, KERNELS, Layer, Program, compile_graph

__all__ = [
    "CODE_BYTES",
    "HOST",
    "KERNELS",
    "RESERVED_BYTES",
    "Buffer",
    "GoldenVector",
    "Layer",
    "Lifetime",
    "MemoryPlan",
    "Overlap",
    "Program",
    "StepMemory",
    "compile_graph",
    "golden_picture",
    "lower_bound",
    "plan_memory",
]
