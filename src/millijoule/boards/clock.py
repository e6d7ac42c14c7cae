"""The clock tree of a board: oscillator, PLL, buses, console clock; the numbers its firmware is compiled with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Bus", "ClockTree", "ConsoleClock", "clock_defines", "read_clock"]

LOW_POWER_STEPS = 256
"""An LPUART's baud rate register holds 256 x clock / baud (reference manuals, LPUART)."""


@dataclass(frozen=True)
class Bus:
    """A bus or the core's own domain: its name, and what divides the clock that feeds it.

    Dividers are 1, 2, 4, 8, 16, and for those whose name does not begin with APB also 64, 128, 256, 512.
    """

    name: str
    feed: str
    divider: int


@dataclass(frozen=True)
class ConsoleClock:
    """What the console counts: source, frequency in Hz, baud rate register and the relative error of the baud rate."""

    source: str
    hertz: int
    divider: int
    baud: float
    error: float


@dataclass(frozen=True)
class ClockTree:
    """Oscillator / `input_divider` x `multiplier` / `output_divider` = system clock; core, buses and console behind it.

    The start-up C is compiled with exactly these numbers (`clock_defines`), and a test reads them back from the
    registers that the firmware wrote.

    Attributes:
        oscillator: name of the oscillator.
        oscillator_hz: its frequency in Hz.
        input_divider: of the PLL (M), 1..63.
        multiplier: of the PLL (N), 4..512.
        output_divider: of the PLL's output that becomes the system clock (R or P).
        voltage_scale: value of the voltage scaling field (VOS).
        voltage: the voltage range in the words of the reference manual.
        buses: in the order of the tree; the feed of a bus is "system" or a bus before it.
        core: name of the bus that clocks the core.
        console_source: name of the bus or of the oscillator that clocks the console.
    """

    oscillator: str
    oscillator_hz: int
    input_divider: int
    multiplier: int
    output_divider: int
    voltage_scale: int
    voltage: str
    buses: tuple[Bus, ...]
    core: str
    console_source: str

    @property
    def pll_input_hz(self) -> int:
        """Hz behind the input divider."""
        return self.oscillator_hz // self.input_divider

    @property
    def vco_hz(self) -> int:
        """Hz of the PLL's oscillator."""
        return self.pll_input_hz * self.multiplier

    @property
    def system_hz(self) -> int:
        """Hz of the PLL's output."""
        return self.vco_hz // self.output_divider

    @property
    def core_hz(self) -> int:
        """Hz of the core."""
        return self.hertz(self.core)

    def hertz(self, name: str) -> int:
        """Hz of a bus, of "system", or of the oscillator. Raises `KeyError` for another name."""
        known = {"system": self.system_hz, self.oscillator: self.oscillator_hz}
        for bus in self.buses:
            known[bus.name] = known[bus.feed] // bus.divider
        return known[name]

    def console(self, peripheral: str, baud: int) -> ConsoleClock:
        """The console's clock, and how well `baud` is met by `peripheral` ("USART2", "LPUART1", ...)."""
        hertz = self.hertz(self.console_source)
        counted = hertz * (LOW_POWER_STEPS if peripheral.startswith("LPUART") else 1)
        divider = (counted + baud // 2) // baud
        real = counted / divider
        return ConsoleClock(self.console_source, hertz, divider, real, real / baud - 1.0)

    def to_json(self) -> dict[str, Any]:
        """The tree as plain values, frequencies in Hz."""
        return {
            "oscillator": {"name": self.oscillator, "hz": self.oscillator_hz},
            "pll": {
                "input_divider": self.input_divider,
                "input_hz": self.pll_input_hz,
                "multiplier": self.multiplier,
                "vco_hz": self.vco_hz,
                "output_divider": self.output_divider,
            },
            "system_hz": self.system_hz,
            "core_hz": self.core_hz,
            "buses": [
                {"name": bus.name, "feed": bus.feed, "divider": bus.divider, "hz": self.hertz(bus.name)}
                for bus in self.buses
            ],
            "voltage": self.voltage,
            "voltage_scale": self.voltage_scale,
        }


def read_clock(values: Mapping[str, Any], console_source: str) -> ClockTree:
    """The tree from the `[clock]` table of a board's description and the name of what clocks its console.

    Raises:
        KeyError, TypeError, ValueError: a key is missing, or a number is not possible.
    """
    tree = ClockTree(
        oscillator=str(values["oscillator"]),
        oscillator_hz=int(values["oscillator_hz"]),
        input_divider=int(values["input_divider"]),
        multiplier=int(values["multiplier"]),
        output_divider=int(values["output_divider"]),
        voltage_scale=int(values["voltage_scale"]),
        voltage=str(values["voltage"]),
        buses=tuple(Bus(str(bus["name"]), str(bus["feed"]), int(bus["divider"])) for bus in values["bus"]),
        core=str(values["core"]),
        console_source=console_source,
    )
    for what, number, low, high in (
        ("input_divider", tree.input_divider, 1, 63),
        ("multiplier", tree.multiplier, 4, 512),
        ("output_divider", tree.output_divider, 1, 128),
        ("voltage_scale", tree.voltage_scale, 0, 3),
        *((f"divider of {bus.name}", bus.divider, 1, 512) for bus in tree.buses),
    ):
        if not low <= number <= high:
            raise ValueError(f"{what} {number} is not in {low}..{high}")
    for bus in tree.buses:
        if bus.divider & (bus.divider - 1) or bus.divider == 32:
            raise ValueError(f"no bus can be divided by {bus.divider}")
        if bus.divider > 16 and bus.name.startswith("APB"):
            raise ValueError(f"{bus.name} can be divided by 16 at most")
    if tree.oscillator_hz % tree.input_divider or tree.vco_hz % tree.output_divider:
        raise ValueError("the frequencies of the clock tree are no whole numbers of Hz")
    tree.hertz(tree.core)
    tree.hertz(tree.console_source)
    return tree


def clock_defines(tree: ClockTree) -> dict[str, str]:
    """The macros that carry the tree into the start-up C.

    `MJ_CLOCK_<BUS>_BITS` is the value of the bus's prescaler field, see `prescaler_bits`.
    """
    defines = {
        "MJ_CLOCK_INPUT_DIVIDER": f"{tree.input_divider}u",
        "MJ_CLOCK_MULTIPLIER": f"{tree.multiplier}u",
        "MJ_CLOCK_OUTPUT_DIVIDER": f"{tree.output_divider}u",
        "MJ_CLOCK_VOLTAGE_SCALE": f"{tree.voltage_scale}u",
        "MJ_CONSOLE_CLOCK_HZ": f"{tree.hertz(tree.console_source)}u",
    }
    for bus in tree.buses:
        defines[f"MJ_CLOCK_{bus.name}_BITS"] = f"{prescaler_bits(bus)}u"
    return defines


def prescaler_bits(bus: Bus) -> int:
    """The field value that divides a bus: 0 undivided, otherwise the top bit and a count.

    Reference manuals, RCC: fields of APB have 3 bits (4 is / 2), the others 4 bits (8 is / 2; / 32 does not exist).
    """
    if bus.divider == 1:
        return 0
    steps = bus.divider.bit_length() - 2
    if bus.name.startswith("APB"):
        return 4 + steps
    return 8 + steps - (1 if bus.divider > 32 else 0)
