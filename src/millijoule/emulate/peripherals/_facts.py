"""Facts of the two chip families: where peripherals live, which bits mean what, which interrupt they raise.

Source: the vendor's device headers stm32l4r9xx.h and stm32h7b3xx.h (register structures, `..._Pos` and `..._Msk`
definitions, `IRQn_Type`). Offsets are bytes from the peripheral's base, fields are (lowest bit, width).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from millijoule.boards.registers import Field, Register

__all__ = ["FAMILIES", "LAYOUTS", "Family", "Instance", "registers_of"]

Fields = Mapping[str, tuple[int, int]]
Layout = Mapping[str, tuple[int, Fields]]

_USART: Layout = {
    "CR1": (
        0x00,
        {
            "UE": (0, 1),
            "RE": (2, 1),
            "TE": (3, 1),
            "IDLEIE": (4, 1),
            "RXNEIE_RXFNEIE": (5, 1),
            "TCIE": (6, 1),
            "TXEIE_TXFNFIE": (7, 1),
            "OVER8": (15, 1),
            "FIFOEN": (29, 1),
            "TXFEIE": (30, 1),
            "RXFFIE": (31, 1),
        },
    ),
    "CR2": (0x04, {}),
    "CR3": (0x08, {"OVRDIS": (12, 1), "TXFTIE": (23, 1), "RXFTCFG": (25, 3), "RXFTIE": (28, 1), "TXFTCFG": (29, 3)}),
    "BRR": (0x0C, {}),
    "RQR": (0x18, {"RXFRQ": (3, 1), "TXFRQ": (4, 1)}),
    "ISR": (
        0x1C,
        {
            "IDLE": (4, 1),
            "RXNE_RXFNE": (5, 1),
            "TC": (6, 1),
            "TXE_TXFNF": (7, 1),
            "TEACK": (21, 1),
            "REACK": (22, 1),
            "TXFE": (23, 1),
            "RXFF": (24, 1),
            "RXFT": (26, 1),
            "TXFT": (27, 1),
        },
    ),
    "ICR": (0x20, {"IDLECF": (4, 1), "TCCF": (6, 1)}),
    "RDR": (0x24, {}),
    "TDR": (0x28, {}),
    "PRESC": (0x2C, {"PRESCALER": (0, 4)}),
}
_TIM: Layout = {
    "CR1": (
        0x00,
        {"CEN": (0, 1), "UDIS": (1, 1), "URS": (2, 1), "OPM": (3, 1), "DIR": (4, 1), "CMS": (5, 2), "ARPE": (7, 1)},
    ),
    "SMCR": (0x08, {}),
    "DIER": (0x0C, {"UIE": (0, 1)}),
    "SR": (0x10, {"UIF": (0, 1)}),
    "EGR": (0x14, {"UG": (0, 1)}),
    "CNT": (0x24, {}),
    "PSC": (0x28, {"PSC": (0, 16)}),
    "ARR": (0x2C, {}),
    "RCR": (0x30, {}),
}
_GPIO: Layout = {
    "MODER": (0x00, {}),
    "OTYPER": (0x04, {}),
    "OSPEEDR": (0x08, {}),
    "PUPDR": (0x0C, {}),
    "IDR": (0x10, {}),
    "ODR": (0x14, {}),
    "BSRR": (0x18, {}),
    "BRR": (0x28, {}),
}
_L4_RCC: Layout = {
    "CR": (
        0x00,
        {
            "MSION": (0, 1),
            "MSIRDY": (1, 1),
            "MSIRGSEL": (3, 1),
            "MSIRANGE": (4, 4),
            "HSION": (8, 1),
            "HSIRDY": (10, 1),
            "HSEON": (16, 1),
            "HSERDY": (17, 1),
            "PLLON": (24, 1),
            "PLLRDY": (25, 1),
            "PLLSAI1ON": (26, 1),
            "PLLSAI1RDY": (27, 1),
            "PLLSAI2ON": (28, 1),
            "PLLSAI2RDY": (29, 1),
        },
    ),
    "CFGR": (0x08, {"SW": (0, 2), "SWS": (2, 2), "HPRE": (4, 4), "PPRE1": (8, 3), "PPRE2": (11, 3)}),
    "PLLCFGR": (0x0C, {"PLLSRC": (0, 2), "PLLM": (4, 4), "PLLN": (8, 7), "PLLREN": (24, 1), "PLLR": (25, 2)}),
    "AHB2ENR": (0x4C, {f"GPIO{port}EN": (bit, 1) for bit, port in enumerate("ABCDEFGHI")}),
    "APB1ENR1": (
        0x58,
        {f"TIM{number}EN": (number - 2, 1) for number in range(2, 8)}
        | {"USART2EN": (17, 1), "USART3EN": (18, 1), "UART4EN": (19, 1), "UART5EN": (20, 1)},
    ),
    "APB1ENR2": (0x5C, {"LPUART1EN": (0, 1)}),
    "APB2ENR": (0x60, {"USART1EN": (14, 1), "TIM15EN": (16, 1), "TIM16EN": (17, 1), "TIM17EN": (18, 1)}),
    "CCIPR": (
        0x88,
        {
            "USART1SEL": (0, 2),
            "USART2SEL": (2, 2),
            "USART3SEL": (4, 2),
            "UART4SEL": (6, 2),
            "UART5SEL": (8, 2),
            "LPUART1SEL": (10, 2),
        },
    ),
    "BDCR": (0x90, {"LSEON": (0, 1), "LSERDY": (1, 1)}),
    "CSR": (0x94, {"LSION": (0, 1), "LSIRDY": (1, 1), "MSISRANGE": (8, 4)}),
    "CRRCR": (0x98, {"HSI48ON": (0, 1), "HSI48RDY": (1, 1)}),
}
_L4_PWR: Layout = {
    "CR1": (0x00, {"VOS": (9, 2)}),
    "SR2": (0x14, {"VOSF": (10, 1), "REGLPF": (9, 1)}),
    "CR5": (0x80, {"R1MODE": (8, 1)}),
}
_L4_FLASH: Layout = {
    "ACR": (0x00, {"LATENCY": (0, 4)}),
    "KEYR": (0x08, {}),
    "SR": (0x10, {"BSY": (16, 1)}),
    "CR": (0x14, {"PG": (0, 1), "PER": (1, 1), "MER1": (2, 1), "MER2": (15, 1), "STRT": (16, 1), "LOCK": (31, 1)}),
}
_H7_RCC: Layout = {
    "CR": (
        0x00,
        {
            "HSION": (0, 1),
            "HSIRDY": (2, 1),
            "HSIDIV": (3, 2),
            "HSIDIVF": (5, 1),
            "CSION": (7, 1),
            "CSIRDY": (8, 1),
            "HSI48ON": (12, 1),
            "HSI48RDY": (13, 1),
            "CPUCKRDY": (14, 1),
            "CDCKRDY": (15, 1),
            "HSEON": (16, 1),
            "HSERDY": (17, 1),
            "PLL1ON": (24, 1),
            "PLL1RDY": (25, 1),
            "PLL2ON": (26, 1),
            "PLL2RDY": (27, 1),
            "PLL3ON": (28, 1),
            "PLL3RDY": (29, 1),
        },
    ),
    "CFGR": (0x10, {"SW": (0, 3), "SWS": (3, 3), "TIMPRE": (15, 1)}),
    "CDCFGR1": (0x18, {"HPRE": (0, 4), "CDPPRE": (4, 3), "CDCPRE": (8, 4)}),
    "CDCFGR2": (0x1C, {"CDPPRE1": (4, 3), "CDPPRE2": (8, 3)}),
    "SRDCFGR": (0x20, {"SRDPPRE": (4, 3)}),
    "PLLCKSELR": (0x28, {"PLLSRC": (0, 2), "DIVM1": (4, 6)}),
    "PLLCFGR": (0x2C, {"PLL1FRACEN": (0, 1), "DIVP1EN": (16, 1)}),
    "PLL1DIVR": (0x30, {"N1": (0, 9), "P1": (9, 7)}),
    "PLL1FRACR": (0x34, {"FRACN1": (3, 13)}),
    "CDCCIP2R": (0x54, {"USART234578SEL": (0, 3), "USART16910SEL": (3, 3)}),
    "SRDCCIPR": (0x58, {"LPUART1SEL": (0, 3)}),
    "BDCR": (0x70, {"LSEON": (0, 1), "LSERDY": (1, 1)}),
    "CSR": (0x74, {"LSION": (0, 1), "LSIRDY": (1, 1)}),
    "AHB4ENR": (0x140, {f"GPIO{port}EN": (bit, 1) for bit, port in enumerate("ABCDEFGHIJK")}),
    "APB1LENR": (
        0x148,
        {f"TIM{number}EN": (number - 2, 1) for number in range(2, 8)}
        | {"USART2EN": (17, 1), "USART3EN": (18, 1), "UART4EN": (19, 1), "UART5EN": (20, 1)}
        | {"UART7EN": (30, 1), "UART8EN": (31, 1)},
    ),
    "APB2ENR": (
        0x150,
        {
            "USART1EN": (4, 1),
            "USART6EN": (5, 1),
            "UART9EN": (6, 1),
            "USART10EN": (7, 1),
            "TIM15EN": (16, 1),
            "TIM16EN": (17, 1),
            "TIM17EN": (18, 1),
        },
    ),
    "APB4ENR": (0x154, {"LPUART1EN": (3, 1)}),
}
_H7_PWR: Layout = {
    "CSR1": (0x04, {"ACTVOS": (14, 2), "ACTVOSRDY": (13, 1)}),
    "CR3": (0x0C, {"SCUEN": (2, 1), "LDOEN": (1, 1)}),
    "SRDCR": (0x18, {"VOS": (14, 2), "VOSRDY": (13, 1)}),
}
_H7_FLASH: Layout = {
    "ACR": (0x00, {"LATENCY": (0, 4)}),
    "KEYR1": (0x04, {}),
    "CR1": (0x0C, {}),
    "SR1": (0x10, {}),
    "KEYR2": (0x104, {}),
    "CR2": (0x10C, {}),
    "SR2": (0x110, {}),
}

LAYOUTS: Mapping[str, Layout] = {"USART": _USART, "TIM": _TIM, "GPIO": _GPIO}
"""Registers of the peripherals that are alike on both families and exist several times."""


@dataclass(frozen=True)
class Instance:
    """One peripheral.

    Attributes:
        kind: "USART" (also UART and LPUART), "TIM" or "GPIO".
        base: its first address.
        interrupt: number of its interrupt line, None when none is emulated.
        bus: the prescaler its clock passes, a field name of the family's RCC ("" for none).
        enable: (register, field) of RCC that switches its clock on.
        select: (register, field) of RCC that chooses a serial port's clock.
        bits: width of a timer's counter.
    """

    name: str
    kind: str
    base: int
    interrupt: int | None = None
    bus: str = ""
    enable: tuple[str, str] = ("", "")
    select: tuple[str, str] | None = None
    bits: int = 16


@dataclass(frozen=True)
class Family:
    """The facts of one chip family. `fifo` is the depth of a serial port's queue in characters."""

    name: str
    source: str
    bases: Mapping[str, int]
    layouts: Mapping[str, Layout]
    instances: tuple[Instance, ...]
    fifo: int


def _timers(apb1: str, apb2: str, buses: tuple[str, str], late: tuple[int, int, int]) -> list[Instance]:
    table = [(2, 0x40000000, 28), (3, 0x40000400, 29), (4, 0x40000800, 30), (5, 0x40000C00, 50)]
    table += [(6, 0x40001000, 54), (7, 0x40001400, 55)]
    first = [
        Instance(f"TIM{n}", "TIM", base, irq, buses[0], (apb1, f"TIM{n}EN"), bits=32 if n in (2, 5) else 16)
        for n, base, irq in table
    ]
    others = [
        Instance(f"TIM{n}", "TIM", 0x40014000 + 0x400 * (n - 15), irq, buses[1], (apb2, f"TIM{n}EN"))
        for n, irq in zip((15, 16, 17), late, strict=True)
    ]
    return first + others


def _ports(base: int, letters: str, enable: str) -> list[Instance]:
    return [
        Instance(f"GPIO{port}", "GPIO", base + 0x400 * n, enable=(enable, f"GPIO{port}EN"))
        for n, port in enumerate(letters)
    ]


def _serial(name: str, base: int, irq: int, bus: str, enable: str, select: tuple[str, str]) -> Instance:
    return Instance(name, "USART", base, irq, bus, (enable, f"{name}EN"), select)


_L4_INSTANCES = (
    _serial("USART1", 0x40013800, 37, "PPRE2", "APB2ENR", ("CCIPR", "USART1SEL")),
    _serial("USART2", 0x40004400, 38, "PPRE1", "APB1ENR1", ("CCIPR", "USART2SEL")),
    _serial("USART3", 0x40004800, 39, "PPRE1", "APB1ENR1", ("CCIPR", "USART3SEL")),
    _serial("UART4", 0x40004C00, 52, "PPRE1", "APB1ENR1", ("CCIPR", "UART4SEL")),
    _serial("UART5", 0x40005000, 53, "PPRE1", "APB1ENR1", ("CCIPR", "UART5SEL")),
    _serial("LPUART1", 0x40008000, 70, "PPRE1", "APB1ENR2", ("CCIPR", "LPUART1SEL")),
    *_timers("APB1ENR1", "APB2ENR", ("PPRE1", "PPRE2"), (24, 25, 26)),
    *_ports(0x48000000, "ABCDEFGHI", "AHB2ENR"),
)
_FIRST, _SECOND = ("CDCCIP2R", "USART234578SEL"), ("CDCCIP2R", "USART16910SEL")
_H7_INSTANCES = (
    _serial("USART1", 0x40011000, 37, "CDPPRE2", "APB2ENR", _SECOND),
    _serial("USART2", 0x40004400, 38, "CDPPRE1", "APB1LENR", _FIRST),
    _serial("USART3", 0x40004800, 39, "CDPPRE1", "APB1LENR", _FIRST),
    _serial("UART4", 0x40004C00, 52, "CDPPRE1", "APB1LENR", _FIRST),
    _serial("UART5", 0x40005000, 53, "CDPPRE1", "APB1LENR", _FIRST),
    _serial("USART6", 0x40011400, 71, "CDPPRE2", "APB2ENR", _SECOND),
    _serial("UART7", 0x40007800, 82, "CDPPRE1", "APB1LENR", _FIRST),
    _serial("UART8", 0x40007C00, 83, "CDPPRE1", "APB1LENR", _FIRST),
    _serial("UART9", 0x40011800, 140, "CDPPRE2", "APB2ENR", _SECOND),
    _serial("USART10", 0x40011C00, 141, "CDPPRE2", "APB2ENR", _SECOND),
    _serial("LPUART1", 0x58000C00, 142, "SRDPPRE", "APB4ENR", ("SRDCCIPR", "LPUART1SEL")),
    *_timers("APB1LENR", "APB2ENR", ("CDPPRE1", "CDPPRE2"), (116, 117, 118)),
    *_ports(0x58020000, "ABCDEFGHIJK", "AHB4ENR"),
)
# Depth of the serial ports' queues: reference manuals RM0432 (L4+) and RM0455 (H7A3/H7B3), tables of USART features.
FAMILIES: Mapping[int, Family] = {
    0x40021000: Family(
        "STM32L4+",
        "stm32l4r9xx.h",
        {"RCC": 0x40021000, "PWR": 0x40007000, "FLASH": 0x40022000},
        {"RCC": _L4_RCC, "PWR": _L4_PWR, "FLASH": _L4_FLASH},
        _L4_INSTANCES,
        8,
    ),
    0x58024400: Family(
        "STM32H7A3/B3",
        "stm32h7b3xx.h",
        {"RCC": 0x58024400, "PWR": 0x58024800, "FLASH": 0x52002000},
        {"RCC": _H7_RCC, "PWR": _H7_PWR, "FLASH": _H7_FLASH},
        _H7_INSTANCES,
        16,
    ),
}
"""Families by the base address of their reset and clock control (RCC)."""


def registers_of(family: Family | None) -> dict[str, Register]:
    """Every register of the family by "PERIPHERAL_REGISTER" ("USART_CR1" for all serial ports)."""
    layouts = {**LAYOUTS, **(family.layouts if family else {})}
    return {
        f"{peripheral}_{name}": Register(peripheral, name, offset, {key: Field(*bits) for key, bits in fields.items()})
        for peripheral, layout in layouts.items()
        for name, (offset, fields) in layout.items()
    }
