"""ELF -> result, instructions, cycles and energy: the unmodified firmware on an emulated board."""

from millijoule.emulate._faults import FaultReport
from millijoule.emulate._native import hook_is_native
from millijoule.emulate.access import AccessCheck, Finding
from millijoule.emulate.cortex_m4 import CortexM4, FlashInterfaceRules, M4Rules
from millijoule.emulate.cortex_m7 import CortexM7, M7MemoryRules, M7Rules
from millijoule.emulate.cycles import Counts, CycleModel, cycle_model
from millijoule.emulate.duty import Battery, DutyCycle, duty_cycle
from millijoule.emulate.energy import Energy, Phase, energy
from millijoule.emulate.exceptions import Interrupts
from millijoule.emulate.firmware import EmulatedFirmware, ModelInfo
from millijoule.emulate.image import RawImage, load_image
from millijoule.emulate.machine import Machine
from millijoule.emulate.memories import MemoryWindow, default_windows
from millijoule.emulate.peripherals import GpioEdge, Peripherals
from millijoule.emulate.profile import FunctionProfile, LayerInfo, LayerProfile, Profile, block_names
from millijoule.emulate.serial import open_link
from millijoule.emulate.session import Outcome, Session
from millijoule.emulate.trace import AddressTrace, FullTrace, LayerTrace, TraceResult

__all__ = [
    "AccessCheck",
    "AddressTrace",
    "Battery",
    "CortexM4",
    "CortexM7",
    "Counts",
    "CycleModel",
    "DutyCycle",
    "EmulatedFirmware",
    "Energy",
    "FaultReport",
    "Finding",
    "FlashInterfaceRules",
    "FullTrace",
    "FunctionProfile",
    "GpioEdge",
    "Interrupts",
    "LayerInfo",
    "LayerProfile",
    "LayerTrace",
    "M4Rules",
    "M7MemoryRules",
    "M7Rules",
    "Machine",
    "MemoryWindow",
    "ModelInfo",
    "Outcome",
    "Peripherals",
    "Phase",
    "Profile",
    "RawImage",
    "Session",
    "TraceResult",
    "block_names",
    "cycle_model",
    "default_windows",
    "duty_cycle",
    "energy",
    "hook_is_native",
    "load_image",
    "open_link",
]
