"""The chip around the core, as far as firmware waits for it: stored registers, ready bits that follow enable bits."""

from millijoule.emulate.peripherals._block import Block, InterruptLines
from millijoule.emulate.peripherals.chip import Peripherals
from millijoule.emulate.peripherals.clock import ClockRules
from millijoule.emulate.peripherals.flash import FlashController
from millijoule.emulate.peripherals.gpio import GpioEdge, Port
from millijoule.emulate.peripherals.timer import Timer
from millijoule.emulate.peripherals.usart import SerialPort

__all__ = [
    "Block",
    "ClockRules",
    "FlashController",
    "GpioEdge",
    "InterruptLines",
    "Peripherals",
    "Port",
    "SerialPort",
    "Timer",
]
