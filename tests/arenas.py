"""Follows the arena of a model on this computer through its layers."""

from __future__ import annotations

import ctypes

import numpy as np

from millijoule.build.host import HostFirmware
from networks import random_pictures


def writes_outside(firmware: HostFirmware, seed: int = 0) -> list[str]:
    """The layers that wrote a byte of the arena outside their result and their scratch, with the first such byte.

    The arena is filled with noise first, so that a write of what is there already is unlikely to go unseen, and it is
    checked that the noise changes no result.
    """
    program = firmware.program
    place = (ctypes.c_uint8 * program.arena_bytes).in_dll(firmware._library, "mj_arena")
    arena = np.frombuffer(place, np.uint8)
    picture = random_pictures(program.graph, 1, seed)[0]
    clean = firmware.run(picture[None])["logits"]
    before = np.zeros_like(arena)
    found: list[str] = []

    def hook(layer: int, end: int) -> None:
        if not end:
            before[:] = arena
            return
        mine = program.layers[layer]
        changed = before != arena
        for buffer in program.plan.buffers:
            if buffer.first <= layer <= buffer.last and (mine.output in buffer.tensors or buffer.kind == "scratch"):
                changed[buffer.offset : buffer.end] = False
        if mine.scratch_bytes and not any(b.kind == "scratch" and b.first == layer for b in program.plan.buffers):
            # a quantised copy at the start of the input, which dies
            for buffer in program.plan.buffers:
                if buffer.last == layer and buffer.tail_bytes is not None:
                    changed[buffer.offset : buffer.offset + mine.scratch_bytes] = False
        if changed.any():
            found.append(f"{mine.name} ({mine.kernel}) at byte {int(np.argmax(changed))} of the arena")

    kind = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_int)
    call = kind(hook)
    arena[:] = np.random.default_rng(seed).integers(0, 256, arena.size, dtype=np.uint8)
    firmware._library.mj_profile(call)
    try:
        again = firmware.run(picture[None])["logits"]
    finally:
        firmware._library.mj_profile(None)
    if not np.array_equal(clean, again):
        found.append("the result depends on what was in the arena before")
    return found
