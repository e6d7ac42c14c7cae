"""ELF -> result, instructions, cycles and energy: the unmodified firmware on an emulated board."""

from millijoule.emulate._faults import FaultReport
from millijoule.emulate._native import hook_is_native
from millijoule.emulate.cortex_m4 import CortexM4, FlashInterfaceRules, M4Rules
from millijoule.emulate.cortex_m7 import CortexM7, M7MemoryRules, M7Rules
from millijoule.emulate.cycles import Counts, CycleModel, cycle_model
from millijoule.emulate.duty import Battery, DutyCycle, duty_cycle
from millijoule.emulate.energy import Energy, Phase, energy
from millijoule.emulate.exceptions import Interrupts
from millijoule.emulate.firmware import EmulatedFirmware, ModelInfo
from millijoule.emulate.machine import Machine
from millijoule.emulate.memories import MemoryWindow, default_windows
from millijoule.emulate.peripherals import Peripherals
from millijoule.emulate.profile import FunctionProfile, LayerInfo, LayerProfile, Profile, block_names
from millijoule.emulate.trace import AddressTrace, FullTrace, LayerTrace, TraceResult

__all__ = [
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
    "FlashInterfaceRules",
    "FullTrace",
    "FunctionProfile",
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
    "Peripherals",
    "Phase",
    "Profile",
    "TraceResult",
    "block_names",
    "cycle_model",
    "default_windows",
    "duty_cycle",
    "energy",
    "hook_is_native",
]
