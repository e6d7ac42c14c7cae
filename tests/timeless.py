"""Emulated boards for tests that ask for results alone."""

from __future__ import annotations

from millijoule.emulate import Machine
from millijoule.emulate.cycles import Counts

__all__ = ["timeless"]


def timeless(machine: Machine) -> Machine:
    """Every block takes one cycle and nothing is counted: the same results, much sooner.

    A short run is mostly spent on what code that is met for the first time costs in the core's pipeline.
    """
    machine.price = lambda *edge: (1, 0)  # type: ignore[method-assign]
    machine.measured_cycles = lambda: machine.now  # type: ignore[method-assign]
    machine.counts = lambda: Counts(0, 0)  # type: ignore[method-assign]
    return machine
