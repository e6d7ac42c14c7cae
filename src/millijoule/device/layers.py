"""Cycles of each layer on a board: the command `profile layers` of firmware built with MJ_PROFILE=1."""

from __future__ import annotations

import re
from dataclasses import dataclass

from millijoule.device.device import Device
from millijoule.errors import DeviceError

__all__ = ["LayerCycles", "MeasuredLayers", "measure_layers"]

_SECONDS = 60.0
"""Silence while the inference runs; the slowest model that fits a board takes a few seconds."""


@dataclass(frozen=True)
class LayerCycles:
    """One layer: its name and what the core's counter advanced around it, the call and the hook's returns included."""

    name: str
    cycles: int


@dataclass(frozen=True)
class MeasuredLayers:
    """All layers in the order of execution, and `cycles` of all of `mj_run`, which the calls of the hook lengthen."""

    cycles: int
    layers: tuple[LayerCycles, ...]


def measure_layers(device: Device) -> MeasuredLayers:
    """Runs one inference on the device and reads the cycles of every layer.

    Raises:
        DeviceError: no answer, a failed inference, or firmware without the command.
    """
    lines = device.command("profile layers", timeout=max(device.timeout, _SECONDS))
    found = [match for line in lines if (match := re.fullmatch(r"m-layer-\[(\d+) (\d+) (.*)\]", line))]
    total = next((match for line in lines if (match := re.fullmatch(r"m-layers-\[(\d+)\]", line))), None)
    if total is None or [int(match[1]) for match in found] != list(range(len(found))):
        raise DeviceError(
            f"port {device.port.name}",
            "its firmware does not time layers",
            "Flash the firmware that millijoule profile MODEL --board B --firmware FILE writes",
        )
    return MeasuredLayers(int(total[1]), tuple(LayerCycles(match[3], int(match[2])) for match in found))
