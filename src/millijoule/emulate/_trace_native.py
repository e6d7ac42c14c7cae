"""The native part of full traces: built from C at first use, and the structures that both sides know."""

from __future__ import annotations

import ctypes
import functools

import numpy as np

from millijoule.emulate._decode import KINDS, Instruction
from millijoule.emulate._library import native_library
from millijoule.emulate.cortex_m4 import CortexM4
from millijoule.emulate.cortex_m7 import UNITS, CortexM7

__all__ = ["CELL", "DECODE", "LAYER", "PLACES", "ROW", "Context", "fill_row", "names_of", "trace_library"]

WINDOWS, DEPTH, EVENTS, CAUSES = 16, 16, 4096, 9
PLACES = {"immediate": 0, "flash": 1, "axi": 2, "ahb": 3, "slow": 4}
_WORD = ctypes.c_uint64

DECODE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint32, ctypes.c_uint32)

# `instruction`, `cell` and `layer_cell` of c/trace.h.
ROW = np.dtype(
    [
        *((name, "<u8") for name in ("reads", "writes", "addresses", "early", "late")),
        *(("address", "<u4"), ("displacement", "<i4"), ("unit_mask", "<u4"), ("flags", "<u2"), ("layer", "<u2")),
        *((name, "u1") for name in ("kind", "size", "place", "access", "base", "index", "shift", "bytes", "element")),
        *((name, "u1") for name in ("cycles", "refill", "latency", "occupies", "predictor")),
    ],
    align=True,
)
CELL = np.dtype([("issued", "<u8"), ("skipped", "<u8"), ("cycles", "<u8"), ("stalls", "<u8", (CAUSES,))])
LAYER = np.dtype([("total", CELL), ("kinds", "<u8", (len(KINDS),))])


class _Event(ctypes.Structure):
    _fields_ = (("row", ctypes.c_uint32), ("address", ctypes.c_uint32), ("layer", ctypes.c_uint32))


class Context(ctypes.Structure):
    """The hook's state; the fields mirror `context` in c/trace.h."""

    _fields_ = (
        ("windows", _WORD),
        ("base", _WORD * WINDOWS),
        ("span", _WORD * WINDOWS),
        ("first", _WORD * WINDOWS),
        ("place", _WORD * WINDOWS),
        ("row_of", ctypes.c_void_p),
        ("rows", ctypes.c_void_p),
        ("cells", ctypes.c_void_p),
        ("layers", ctypes.c_void_p),
        ("rules", ctypes.c_void_p),
        ("core", ctypes.c_void_p),
        ("core_kind", _WORD),
        ("read_register", ctypes.c_void_p),
        ("stop", ctypes.c_void_p),
        ("decode", DECODE),
        ("register_number", _WORD * 16),
        ("layer", _WORD),
        ("depth", _WORD),
        ("returns", _WORD * DEPTH),
        ("outer", _WORD * DEPTH),
        ("failed", _WORD),
        ("outside", _WORD),
        ("window", _WORD),
        ("pending", _WORD),
        ("memory", _WORD * 16),
        ("events", _Event * EVENTS),
    )


@functools.lru_cache(maxsize=1)
def trace_library() -> ctypes.CDLL:
    """The compiled hook and simulators.

    Raises:
        ToolchainError: no compiler here can build them.
    """
    library = native_library("trace", ("trace.c", "m4.c", "m7.c"), ("trace.h", "memory.h"))
    for name in ("mj_m4_new", "mj_m7_new"):
        getattr(library, name).restype = ctypes.c_void_p
        getattr(library, name).argtypes = (ctypes.c_void_p,)
    library.mj_trace_flush.argtypes = (ctypes.c_void_p,)
    library.mj_trace_flush.restype = None
    library.mj_trace_free.argtypes = (ctypes.c_void_p,)
    library.mj_trace_free.restype = None
    library.mj_trace_size.restype = ctypes.c_uint64
    return library


def names_of(library: ctypes.CDLL, symbol: str) -> list[str]:
    """A list of names that the C part exports as one string, in the order of its structure."""
    return ctypes.string_at(ctypes.addressof(ctypes.c_char.in_dll(library, symbol))).decode().split()


def fill_row(row: np.void, instruction: Instruction, model: CortexM4 | CortexM7, *, layer: int, place: int) -> None:
    """Writes what the simulators need to know of an instruction."""
    access = instruction.access
    row["reads"], row["writes"] = instruction.read_mask, instruction.write_mask
    row["addresses"] = instruction.address_mask
    row["address"], row["size"], row["kind"] = instruction.address, instruction.size, KINDS.index(instruction.kind)
    row["layer"], row["place"] = layer, place
    row["access"], row["base"], row["index"] = 0, 255, 255
    if access is not None:
        row["access"], row["base"] = 2 if access.write else 1, access.base
        row["index"] = 255 if access.index is None else access.index
        row["shift"], row["displacement"] = access.shift, access.displacement
        row["bytes"], row["element"] = access.bytes, access.element
    row["predictor"] = 1
    flags = {
        1: instruction.writes_pc,
        2: instruction.conditional,
        4: instruction.sets_flags,
        8: instruction.uses_flags,
        16: instruction.writeback,
        32: instruction.in_it,
        512: instruction.kind in ("load", "float_load"),
        1024: instruction.kind in ("alu", "multiply"),
    }
    if isinstance(model, CortexM4):
        need = model.need(instruction)
        row["cycles"], row["refill"], row["early"] = need.cycles, need.refill, need.early
        flags[64] = need.overlaps
    else:
        wants = model.need(instruction)
        row["latency"], row["occupies"] = wants.latency, wants.occupies
        row["early"], row["late"] = wants.early, wants.late
        row["unit_mask"] = sum(1 << UNITS.index(unit) for unit in wants.units)
        flags[128], flags[256] = wants.alone, wants.first
    row["flags"] = sum(bit for bit, is_set in flags.items() if is_set)
