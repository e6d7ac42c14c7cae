"""The chip around the core, as far as firmware waits for it: registers that store, ready bits that follow enable bits.

Addresses and bits come from the register headers of `boards`. Rules of order are checked as the clock changes: voltage
and flash wait states must be set before the core runs faster.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from millijoule.boards import Board, Registers, board_registers

__all__ = ["ClockRules", "Peripherals", "clock_rules"]


@dataclass(frozen=True)
class ClockRules:
    """How one chip derives its core clock, and what it may not do.

    `ready` lists (register, enable field, ready field); `constant` bits that always read as given; `reset` values.
    """

    ready: tuple[tuple[str, str, str], ...]
    constant: tuple[tuple[str, str, int], ...]
    reset: tuple[tuple[str, int], ...]
    frequency: Callable[[Peripherals], int]
    voltage: Callable[[Peripherals, int], str | None]


class Peripherals:
    """The registers of one chip.

    Attributes:
        transmitted: bytes the firmware sent on its console.
        received: bytes waiting for the firmware.
        problems: rules of order that the firmware broke, in words.
        unknown: addresses touched that no header names (they store what is written).
    """

    def __init__(self, board: Board, cycles: Callable[[], int]) -> None:
        self.board = board
        self.registers: Registers = board_registers(board)
        self.transmitted = bytearray()
        self.received: deque[int] = deque()
        self.problems: list[str] = []
        self.unknown: set[int] = set()
        self.values: dict[int, int] = {}
        self.rules = clock_rules(board)
        self._cycles = cycles
        self._cycle_offset = 0
        at = self.registers.address
        self._follow: dict[int, list[tuple[int, int]]] = {}
        for name, enable, ready in self.rules.ready:
            pair = (self.registers.field(name, enable).position, self.registers.field(name, ready).position)
            self._follow.setdefault(at(name), []).append(pair)
        self._constant: dict[int, list[tuple[int, int]]] = {}
        for name, field, value in self.rules.constant:
            bits = self.registers.field(name, field)
            self._constant.setdefault(at(name), []).append((bits.mask, bits.put(0, value)))
        self._console = self.registers.bases[board.console.peripheral]
        self._usarts = {base for name, base in self.registers.bases.items() if name.startswith(("USART", "LPUART"))}
        self._counter = at("CORE_DWT_CYCCNT")
        self._clock_registers = {at("RCC_CFGR"), at("RCC_CR")}
        self._usart = {name: self.registers.registers[f"USART_{name}"].offset for name in ("CR1", "ISR", "RDR", "TDR")}
        self._blocks = {base & ~0x3FF for base in self.registers.bases.values()}
        self.reset()

    def reset(self) -> None:
        """Every register as after power-on; nothing sent, nothing waiting."""
        self.values = {self.registers.address(name): value for name, value in self.rules.reset}
        self.transmitted.clear()
        self.received.clear()
        self.problems.clear()
        self.unknown.clear()
        self._cycle_offset = 0

    def value(self, register: str, field: str | None = None) -> int:
        """What the firmware would read from a register, or from a field of it."""
        word = self._read_word(self.registers.address(register))
        return word if field is None else self.registers.field(register, field).get(word)

    def clock_hz(self) -> int:
        """The core's clock that the registers describe."""
        return self.rules.frequency(self)

    def read(self, address: int, size: int) -> int:
        """A load of `size` bytes."""
        word = self._read_word(address & ~3)
        return word >> 8 * (address & 3) & ((1 << 8 * size) - 1)

    def write(self, address: int, size: int, value: int) -> None:
        """A store of `size` bytes."""
        word, shift = address & ~3, 8 * (address & 3)
        mask = ((1 << 8 * size) - 1) << shift
        self._write_word(word, (self.values.get(word, 0) & ~mask) | (value << shift & mask))

    def _read_word(self, address: int) -> int:
        base, offset = address & ~0x3FF, address & 0x3FF
        if base in self._usarts:
            if offset == self._usart["ISR"]:
                return self._usart_status(base)
            if offset == self._usart["RDR"]:
                return self.received.popleft() if base == self._console and self.received else 0
        if address == self._counter:
            return (self._cycles() - self._cycle_offset) & 0xFFFFFFFF
        word = self.values.get(address, 0)
        for mask, bits in self._constant.get(address, ()):
            word = (word & ~mask) | bits
        if base not in self._blocks and address < 0xE0000000:
            self.unknown.add(address)
        return word

    def _usart_status(self, base: int) -> int:
        field = self.registers.field
        control = self.values.get(base + self._usart["CR1"], 0)
        enabled = field("USART_CR1", "UE").get(control)
        word = 0
        if enabled:
            word = field("USART_ISR", "TXE_TXFNF").mask | field("USART_ISR", "TC").mask
            word = field("USART_ISR", "TEACK").put(word, field("USART_CR1", "TE").get(control))
            word = field("USART_ISR", "REACK").put(word, field("USART_CR1", "RE").get(control))
            word = field("USART_ISR", "RXNE_RXFNE").put(word, int(base == self._console and bool(self.received)))
        return word

    def _write_word(self, address: int, value: int) -> None:
        base, offset = address & ~0x3FF, address & 0x3FF
        if base in self._usarts and offset == self._usart["TDR"]:
            if base == self._console:
                self.transmitted.append(value & 0xFF)
            return
        if address == self._counter:
            self._cycle_offset = self._cycles() - value
            return
        for enable, ready in self._follow.get(address, ()):
            value = (value & ~(1 << ready)) | (value >> enable & 1) << ready
        if address == self.registers.address("RCC_CFGR"):
            switch = self.registers.field("RCC_CFGR", "SW").get(value)
            value = self.registers.field("RCC_CFGR", "SWS").put(value, switch)
        self.values[address] = value
        if base not in self._blocks and address < 0xE0000000:
            self.unknown.add(address)
        if address in self._clock_registers:
            self._check_clock()

    def _check_clock(self) -> None:
        clock = self.clock_hz()
        # One wait state per equal share of the clock at which the board needs all of them.
        share = self.board.clock_hz // (self.board.flash.wait_states + 1)
        needed = -(-clock // share) - 1
        latency = self.value("FLASH_ACR", "LATENCY")
        if clock > self.board.clock_hz:
            self.problems.append(f"the core runs at {clock} Hz, above the limit of {self.board.clock_hz} Hz")
        elif latency < needed:
            self.problems.append(f"{latency} flash wait states at {clock} Hz: {needed} are needed before the switch")
        problem = self.rules.voltage(self, clock)
        if problem:
            self.problems.append(problem)


def clock_rules(board: Board) -> ClockRules:
    """The rules of the board's chip family; a chip without rules gets plain storage."""
    if board.silicon.startswith("stm32l4"):
        return _L4
    if board.silicon.startswith("stm32h7"):
        return _H7
    return ClockRules((), (), (), lambda _: board.clock_hz, lambda _, __: None)


def _l4_frequency(chip: Peripherals) -> int:
    source = chip.value("RCC_CFGR", "SWS")
    hertz = {0: 4_000_000, 1: 16_000_000}.get(source, 0)
    if source == 3:
        feed = {1: 4_000_000, 2: 16_000_000}.get(chip.value("RCC_PLLCFGR", "PLLSRC"), 0)
        multiplied = feed // (chip.value("RCC_PLLCFGR", "PLLM") + 1) * chip.value("RCC_PLLCFGR", "PLLN")
        hertz = multiplied // (2 * (chip.value("RCC_PLLCFGR", "PLLR") + 1)) * chip.value("RCC_CR", "PLLRDY")
    divider = chip.value("RCC_CFGR", "HPRE")
    return hertz >> (divider - 7 if 8 <= divider < 12 else divider - 6 if divider >= 12 else 0)


def _l4_voltage(chip: Peripherals, clock: int) -> str | None:
    if clock > 26_000_000 and chip.value("PWR_CR1", "VOS") != 1:
        return f"{clock} Hz needs voltage range 1"
    if clock > 80_000_000 and chip.value("PWR_CR5", "R1MODE") != 0:
        return f"{clock} Hz needs range 1 boost"
    return None


def _h7_frequency(chip: Peripherals) -> int:
    internal = 64_000_000 >> chip.value("RCC_CR", "HSIDIV")
    if chip.value("RCC_CFGR", "SWS") != 3:
        return internal
    divider = max(1, chip.value("RCC_PLLCKSELR", "DIVM1"))
    multiplied = internal // divider * (chip.value("RCC_PLL1DIVR", "N1") + 1)
    return multiplied // (chip.value("RCC_PLL1DIVR", "P1") + 1) * chip.value("RCC_CR", "PLL1RDY")


def _h7_voltage(chip: Peripherals, clock: int) -> str | None:
    # Voltage scale 0 (field value 3) for more than 225 MHz; the reset value 0 allows the 64 MHz after reset.
    if clock > 225_000_000 and chip.value("PWR_SRDCR", "VOS") != 3:
        return f"{clock} Hz needs voltage scale 0"
    return None


_L4 = ClockRules(
    ready=(("RCC_CR", "HSION", "HSIRDY"), ("RCC_CR", "PLLON", "PLLRDY")),
    constant=(("PWR_SR2", "VOSF", 0),),
    reset=(("RCC_CR", 0x63), ("FLASH_ACR", 0x600), ("PWR_CR1", 0x200), ("PWR_CR5", 0x100), ("RCC_PLLCFGR", 0x1000)),
    frequency=_l4_frequency,
    voltage=_l4_voltage,
)
_H7 = ClockRules(
    ready=(("RCC_CR", "HSION", "HSIRDY"), ("RCC_CR", "PLL1ON", "PLL1RDY")),
    constant=(("PWR_CSR1", "ACTVOSRDY", 1), ("PWR_SRDCR", "VOSRDY", 1)),
    # CCSIDR describes a 16 KiB data cache of 4 ways and 32-byte lines.
    reset=(("RCC_CR", 0x25), ("PWR_CR3", 0x6), ("CORE_SCB_CCSIDR", 0xF007E019), ("RCC_PLL1DIVR", 0x01010280)),
    frequency=_h7_frequency,
    voltage=_h7_voltage,
)
