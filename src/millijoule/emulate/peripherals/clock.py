"""Oscillators, clock tree and supply: ready bits follow enable bits, rules of order are checked as the clock changes.

Sources: register fields from the device headers (`_facts`); meaning of the codes (dividers, selections, ranges) and
reset values from the reference manuals RM0432 (STM32L4+) and RM0455 (STM32H7A3/7B3), chapters RCC, PWR, FLASH, GPIO.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from millijoule.emulate.peripherals._facts import Instance
    from millijoule.emulate.peripherals.chip import Peripherals

__all__ = ["ClockRules", "rules_for"]

_HSI16, _HSI64, _CSI, _LSE = 16_000_000, 64_000_000, 4_000_000, 32_768
_MSI = (100_000, 200_000, 400_000, 800_000, 10**6, 2 * 10**6, 4 * 10**6, 8 * 10**6, 16 * 10**6, 24 * 10**6)
_MSI_RANGES = (*_MSI, 32 * 10**6, 48 * 10**6)
_PRESCALERS = (1, 2, 4, 8, 16, 64, 128, 256, 512)


@dataclass(frozen=True)
class ClockRules:
    """How one chip family derives its clocks, and what it may not do.

    Attributes:
        ready: (register, enable field, ready field): the second follows the first at once.
        constant: (register, field, value) that always read so.
        reset: words after power-on that are not zero.
        switch: (register, selection, status): the status follows when the selected source runs.
        sources: for every selection the (register, ready field) it needs.
        frequency: the core's clock in Hz, None when it comes from an external oscillator of unknown frequency.
        bus: core cycles per cycle of a bus, by the name of its prescaler's field.
        timer: core cycles per cycle of a timer's clock, by the same name.
        kernel: clock of a serial port in Hz, None when unknown.
        voltage: what forbids a core clock (in Hz), in words, or None.
    """

    ready: tuple[tuple[str, str, str], ...]
    constant: tuple[tuple[str, str, int], ...]
    reset: Mapping[str, int]
    switch: tuple[str, str, str] | None
    sources: Mapping[int, tuple[str, str]]
    frequency: Callable[[Peripherals], int | None]
    bus: Callable[[Peripherals, str], int]
    timer: Callable[[Peripherals, str], int]
    kernel: Callable[[Peripherals, Instance], int | None]
    voltage: Callable[[Peripherals, int], str | None]


def rules_for(base: int) -> ClockRules:
    """The rules of the family whose RCC lies at `base`; an unknown one gets plain storage at the board's clock."""
    return {0x40021000: _L4, 0x58024400: _H7}.get(base, _PLAIN)


def _four_bits(code: int) -> int:
    """A prescaler of four bits: 0..7 one, 8..15 two and up, without 32."""
    return _PRESCALERS[max(0, code - 7)]


def _three_bits(code: int) -> int:
    """A prescaler of three bits: 0..3 one, 4..7 two to sixteen."""
    return 1 << max(0, code - 3)


# STM32L4+ ------------------------------------------------------------------------------------------------------------


def _l4_msi(chip: Peripherals) -> int:
    own = chip.value("RCC_CR", "MSIRGSEL")
    code = chip.value("RCC_CR", "MSIRANGE") if own else chip.value("RCC_CSR", "MSISRANGE")
    return _MSI_RANGES[min(code, len(_MSI_RANGES) - 1)]


def _l4_system(chip: Peripherals) -> int | None:
    source = chip.value("RCC_CFGR", "SWS")
    if source < 3:
        return (_l4_msi(chip), _HSI16, None)[source]
    feed = (0, _l4_msi(chip), _HSI16, None)[chip.value("RCC_PLLCFGR", "PLLSRC")]
    if feed is None:
        return None
    multiplied = feed // (chip.value("RCC_PLLCFGR", "PLLM") + 1) * chip.value("RCC_PLLCFGR", "PLLN")
    return multiplied // (2 * (chip.value("RCC_PLLCFGR", "PLLR") + 1)) * chip.value("RCC_CR", "PLLRDY")


def _l4_frequency(chip: Peripherals) -> int | None:
    system = _l4_system(chip)
    return None if system is None else system // _four_bits(chip.value("RCC_CFGR", "HPRE"))


def _l4_bus(chip: Peripherals, field: str) -> int:
    return _three_bits(chip.value("RCC_CFGR", field))


def _l4_timer(chip: Peripherals, field: str) -> int:
    # Timers run at the bus clock, at twice of it when the bus is divided.
    return max(1, _l4_bus(chip, field) // 2)


def _l4_kernel(chip: Peripherals, port: Instance) -> int | None:
    choice = chip.value(f"RCC_{port.select[0]}", port.select[1]) if port.select else 0
    if choice == 1:
        return _l4_system(chip)
    if choice == 0:
        return chip.clock_hz() // _l4_bus(chip, port.bus)
    return (0, 0, _HSI16, _LSE)[choice]


def _l4_voltage(chip: Peripherals, clock: int) -> str | None:
    if clock > 26_000_000 and chip.value("PWR_CR1", "VOS") != 1:
        return f"{clock} Hz needs voltage range 1"
    if clock > 80_000_000 and chip.value("PWR_CR5", "R1MODE") != 0:
        return f"{clock} Hz needs range 1 boost"
    return None


# STM32H7A3 and H7B3 --------------------------------------------------------------------------------------------------


def _h7_internal(chip: Peripherals) -> int:
    return _HSI64 >> chip.value("RCC_CR", "HSIDIV")


def _h7_system(chip: Peripherals) -> int | None:
    source = chip.value("RCC_CFGR", "SWS")
    if source < 3:
        return (_h7_internal(chip), _CSI, None)[source]
    feed = (_h7_internal(chip), _CSI, None, 0)[chip.value("RCC_PLLCKSELR", "PLLSRC")]
    if feed is None:
        return None
    divider = max(1, chip.value("RCC_PLLCKSELR", "DIVM1"))
    factor = (chip.value("RCC_PLL1DIVR", "N1") + 1) * 8192
    if chip.value("RCC_PLLCFGR", "PLL1FRACEN"):
        factor += chip.value("RCC_PLL1FRACR", "FRACN1")
    multiplied = feed // divider * factor // 8192
    return multiplied // (chip.value("RCC_PLL1DIVR", "P1") + 1) * chip.value("RCC_CR", "PLL1RDY")


def _h7_frequency(chip: Peripherals) -> int | None:
    system = _h7_system(chip)
    return None if system is None else system // _four_bits(chip.value("RCC_CDCFGR1", "CDCPRE"))


def _h7_bus(chip: Peripherals, field: str) -> int:
    register = {"CDPPRE": "CDCFGR1", "SRDPPRE": "SRDCFGR"}.get(field, "CDCFGR2")
    return _four_bits(chip.value("RCC_CDCFGR1", "HPRE")) * _three_bits(chip.value(f"RCC_{register}", field))


def _h7_timer(chip: Peripherals, field: str) -> int:
    system_bus = _four_bits(chip.value("RCC_CDCFGR1", "HPRE"))
    divided = _h7_bus(chip, field) // system_bus
    # TIMPRE 0: twice the bus clock when the bus is divided; 1: four times when it is divided by four or more.
    return system_bus * max(1, divided // (4 if chip.value("RCC_CFGR", "TIMPRE") else 2))


def _h7_kernel(chip: Peripherals, port: Instance) -> int | None:
    choice = chip.value(f"RCC_{port.select[0]}", port.select[1]) if port.select else 0
    if choice == 0:
        return chip.clock_hz() // _h7_bus(chip, port.bus)
    return {3: _h7_internal(chip), 4: _CSI, 5: _LSE}.get(choice)


def _h7_voltage(chip: Peripherals, clock: int) -> str | None:
    # Voltage scale 0 (field value 3) for more than 225 MHz; the reset value 0 allows the 64 MHz after reset.
    if clock > 225_000_000 and chip.value("PWR_SRDCR", "VOS") != 3:
        return f"{clock} Hz needs voltage scale 0"
    return None


_GPIO_RESET = {
    "GPIOA_MODER": 0xABFFFFFF,
    "GPIOB_MODER": 0xFFFFFEBF,
    "GPIOA_OSPEEDR": 0x0C000000,
    "GPIOB_OSPEEDR": 0x000000C0,
    "GPIOA_PUPDR": 0x64000000,
    "GPIOB_PUPDR": 0x00000100,
} | {f"GPIO{port}_MODER": 0xFFFFFFFF for port in "CDEFGHIJK"}

_L4 = ClockRules(
    ready=(
        ("RCC_CR", "MSION", "MSIRDY"),
        ("RCC_CR", "HSION", "HSIRDY"),
        ("RCC_CR", "HSEON", "HSERDY"),
        ("RCC_CR", "PLLON", "PLLRDY"),
        ("RCC_CR", "PLLSAI1ON", "PLLSAI1RDY"),
        ("RCC_CR", "PLLSAI2ON", "PLLSAI2RDY"),
        ("RCC_BDCR", "LSEON", "LSERDY"),
        ("RCC_CSR", "LSION", "LSIRDY"),
        ("RCC_CRRCR", "HSI48ON", "HSI48RDY"),
    ),
    constant=(("PWR_SR2", "VOSF", 0), ("PWR_SR2", "REGLPF", 0), ("FLASH_SR", "BSY", 0)),
    reset={
        "RCC_CR": 0x63,
        "RCC_CSR": 0x0C000600,
        "FLASH_ACR": 0x600,
        "FLASH_CR": 0xC0000000,
        "PWR_CR1": 0x200,
        "PWR_CR5": 0x100,
        "RCC_PLLCFGR": 0x1000,
        **_GPIO_RESET,
    },
    switch=("RCC_CFGR", "SW", "SWS"),
    sources={0: ("RCC_CR", "MSIRDY"), 1: ("RCC_CR", "HSIRDY"), 2: ("RCC_CR", "HSERDY"), 3: ("RCC_CR", "PLLRDY")},
    frequency=_l4_frequency,
    bus=_l4_bus,
    timer=_l4_timer,
    kernel=_l4_kernel,
    voltage=_l4_voltage,
)
_H7 = ClockRules(
    ready=(
        ("RCC_CR", "HSION", "HSIRDY"),
        ("RCC_CR", "CSION", "CSIRDY"),
        ("RCC_CR", "HSI48ON", "HSI48RDY"),
        ("RCC_CR", "HSEON", "HSERDY"),
        ("RCC_CR", "PLL1ON", "PLL1RDY"),
        ("RCC_CR", "PLL2ON", "PLL2RDY"),
        ("RCC_CR", "PLL3ON", "PLL3RDY"),
        ("RCC_BDCR", "LSEON", "LSERDY"),
        ("RCC_CSR", "LSION", "LSIRDY"),
    ),
    constant=(
        ("PWR_CSR1", "ACTVOSRDY", 1),
        ("PWR_SRDCR", "VOSRDY", 1),
        ("RCC_CR", "HSIDIVF", 1),
        ("RCC_CR", "CPUCKRDY", 1),
        ("RCC_CR", "CDCKRDY", 1),
    ),
    reset={
        "RCC_CR": 0x25,
        "PWR_CR3": 0x6,
        "RCC_PLL1DIVR": 0x01010280,
        "RCC_PLLCKSELR": 0x02020200,
        "RCC_PLLCFGR": 0x01FF0000,
        **_GPIO_RESET,
    },
    switch=("RCC_CFGR", "SW", "SWS"),
    sources={0: ("RCC_CR", "HSIRDY"), 1: ("RCC_CR", "CSIRDY"), 2: ("RCC_CR", "HSERDY"), 3: ("RCC_CR", "PLL1RDY")},
    frequency=_h7_frequency,
    bus=_h7_bus,
    timer=_h7_timer,
    kernel=_h7_kernel,
    voltage=_h7_voltage,
)
_PLAIN = ClockRules(
    ready=(),
    constant=(),
    reset={},
    switch=None,
    sources={},
    frequency=lambda _: None,
    bus=lambda _, __: 1,
    timer=lambda _, __: 1,
    kernel=lambda chip, _: chip.clock_hz(),
    voltage=lambda _, __: None,
)
