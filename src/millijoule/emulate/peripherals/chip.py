"""The chip around the core: dispatches accesses to its peripherals, and checks the order in which clocks are set up."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

from millijoule.boards import Board, Registers, board_registers
from millijoule.boards.registers import Register
from millijoule.emulate.peripherals._block import Block, InterruptLines
from millijoule.emulate.peripherals._facts import FAMILIES, Family, Instance, registers_of
from millijoule.emulate.peripherals.clock import ClockRules, rules_for
from millijoule.emulate.peripherals.flash import FlashController
from millijoule.emulate.peripherals.gpio import GpioEdge, Port
from millijoule.emulate.peripherals.timer import Timer
from millijoule.emulate.peripherals.usart import BAUD_TOLERANCE, SerialPort
from millijoule.errors import OptionError

__all__ = ["Peripherals"]

_KINDS: Mapping[str, type[Block]] = {"USART": SerialPort, "TIM": Timer, "GPIO": Port, "FLASH": FlashController}
_EDGES = 1 << 16
_WARNINGS = 50


class Peripherals:
    """The registers of one chip.

    Args:
        board: the board; its register header says which family it belongs to.
        cycles: the present time in core cycles, never falling.

    Attributes:
        interrupts: takes the levels of the interrupt lines; None when nothing listens.
        transmitted: bytes the firmware sent on its console.
        problems: rules of order that the firmware broke, in words.
        warnings: other things a person should know: a peripheral used without its clock, a baud rate that does not fit
            the host's, attempts to change the flash, functions that are not emulated.
        unknown: addresses touched that no register fact names (they store what is written).
        edges: changes of output pins, the last 65,536.
        host_baud: bits per second of the other end of the console, None when nothing is known of it.
        on_byte: called after every byte of the console.
        clock_changes: how often the clock registers were written.
        values: stored words by address.
    """

    def __init__(self, board: Board, cycles: Callable[[], int]) -> None:
        self.board = board
        header = board_registers(board)
        family = FAMILIES.get(header.bases.get("RCC", 0))
        self.registers = _merged(header, family)
        self.rules: ClockRules = rules_for(header.bases.get("RCC", 0))
        self.queue_depth = family.fifo if family else 1
        self.interrupts: InterruptLines | None = None
        self.transmitted = bytearray()
        self.problems: list[str] = []
        self.warnings: list[str] = []
        self.unknown: set[int] = set()
        self.edges: deque[GpioEdge] = deque(maxlen=_EDGES)
        self.host_baud: int | None = None
        self.on_byte: Callable[[], None] | None = None
        self.values: dict[int, int] = {}
        self.now = cycles
        self.clock_changes = 0
        self._timer_cycles: dict[str, tuple[int, int]] = {}
        self._automatic = False
        self.blocks: dict[str, Block] = {}
        for instance in family.instances if family else _instances(header):
            self.blocks[instance.name] = _KINDS[instance.kind](self, instance)
        if family is not None:
            self.blocks["FLASH"] = FlashController(self, Instance("FLASH", "FLASH", family.bases["FLASH"]))
        self._by_base = {block.base: block for block in self.blocks.values()}
        self._timed: list[Block] = []  # what changes with time: serial ports and timers once they are used
        self.serial = {name: block for name, block in self.blocks.items() if isinstance(block, SerialPort)}
        self.console = self.serial[board.console.peripheral]
        at = self.registers.address
        self._follow: dict[int, list[tuple[int, int]]] = {}
        for name, enable, ready in self.rules.ready:
            pair = (self.registers.field(name, enable).position, self.registers.field(name, ready).position)
            self._follow.setdefault(at(name), []).append(pair)
        self._constant: dict[int, list[tuple[int, int]]] = {}
        for name, field, value in self.rules.constant:
            bits = self.registers.field(name, field)
            self._constant.setdefault(at(name), []).append((bits.mask, bits.put(0, value)))
        self._switch = at(self.rules.switch[0]) if self.rules.switch else None
        self._clock_registers = {at("RCC_CFGR"), at("RCC_CR")} if family else set()
        self._rcc = header.bases.get("RCC", 0)
        self._windows = {base & ~0x3FF for base in self.registers.bases.values()} | set(self._by_base)
        self._gates = {
            block.base: (at(f"RCC_{register}"), self.registers.field(f"RCC_{register}", field).mask, register, field)
            for block in self.blocks.values()
            for register, field in [block.instance.enable]
            if register
        }
        self.reset()

    @property
    def received(self) -> deque[int]:
        """Bytes waiting for the firmware on its console."""
        return self.console.waiting

    def reset(self) -> None:
        """Every register as after power-on; nothing sent, nothing waiting."""
        self.values = {self.registers.address(name): value for name, value in self._reset_words().items()}
        self.transmitted.clear()
        for kept in (self.problems, self.warnings, self.unknown, self.edges):
            kept.clear()
        self.clock_changes += 1
        self._ungated = set(self._gates)
        self._timed.clear()
        for block in self.blocks.values():
            block.forget_line()
            block.reset()

    def _reset_words(self) -> dict[str, int]:
        known = self.registers.bases
        return {name: value for name, value in self.rules.reset.items() if name.split("_")[0] in known}

    def value(self, register: str, field: str | None = None) -> int:
        """What the firmware would read from a register, or from a field of it."""
        word = self._plain(self.registers.address(register))
        return word if field is None else self.registers.field(register, field).get(word)

    def clock_hz(self) -> int:
        """The core's clock that the registers describe; the board's own where it comes from an external oscillator."""
        return self.rules.frequency(self) or self.board.clock_hz

    def timer_cycles(self, timer: Block) -> int:
        """Core cycles per cycle of a timer's clock."""
        bus = timer.instance.bus
        changes, cycles = self._timer_cycles.get(bus, (-1, 1))
        if changes != self.clock_changes:
            cycles = self.rules.timer(self, bus)
            self._timer_cycles[bus] = (self.clock_changes, cycles)
        return cycles

    def select_console(self, name: str | None) -> None:
        """Chooses the serial port that talks to the host: by name, or (None) the first one that speaks.

        Raises:
            OptionError: the chip has no such port.
        """
        self._automatic = name is None
        if name is not None:
            if name.upper() not in self.serial:
                known = ", ".join(self.serial)
                raise OptionError(f"serial port {name!r}", f"{self.board.title} has none", f"Choose one of: {known}")
            self.console = self.serial[name.upper()]

    def receive(self, data: bytes) -> None:
        """Bytes from the host for the firmware."""
        if self._automatic and not self.console.receives:
            other = next((port for port in self.serial.values() if port.receives), None)
            if other is not None:
                self._move_console(other)
        self.console.receive(data)

    def sent(self, port: SerialPort, byte: int) -> None:
        """A port sent a byte; the console's go to the host."""
        if self._automatic and port is not self.console and not self.console.active:
            self._move_console(port)
        if port is not self.console:
            return
        self.transmitted.append(byte)
        if self.on_byte is not None:
            self.on_byte()
        if not self.host_baud:
            return
        baud = port.baud()
        if baud and abs(baud / self.host_baud - 1) > BAUD_TOLERANCE:
            self.warn(f"{port.name} sends at {baud:.0f} baud, the host listens at {self.host_baud}")

    def _move_console(self, port: SerialPort) -> None:
        waiting = bytes(self.console.waiting)
        self.console.waiting.clear()
        self.console = port
        port.receive(waiting)

    def warn(self, text: str) -> None:
        """Keeps one remark; the same one only once."""
        if text not in self.warnings and len(self.warnings) < _WARNINGS:
            self.warnings.append(text)

    def record_edge(self, edge: GpioEdge) -> None:
        """A pin changed."""
        self.edges.append(edge)

    def port(self, name: str) -> Port:
        """A GPIO port by name ("GPIOA"). Raises `OptionError` when the chip has none."""
        found = self.blocks.get(name.upper())
        if not isinstance(found, Port):
            raise OptionError(f"port {name!r}", f"{self.board.title} has none", "Name it like GPIOA")
        return found

    def refresh(self) -> None:
        """Brings timers, serial ports and all interrupt lines to the present time."""
        for block in self._timed:
            block.refresh()

    def next_event(self) -> int | None:
        """When (in core cycles) an interrupt line may rise without any access, None for never."""
        return min((time for block in self._timed if (time := block.next_event()) is not None), default=None)

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
        base = address & ~0x3FF
        block = self._by_base.get(base)
        if block is not None:
            if base in self._ungated:
                self._check_gate(base)
            word = block.read(address - base)
            for mask, bits in self._constant.get(address, ()):
                word = (word & ~mask) | bits
            return word
        if base not in self._windows and address < 0xE0000000:
            self.unknown.add(address)
        return self._plain(address)

    def _plain(self, address: int) -> int:
        word = self.values.get(address, 0)
        for mask, bits in self._constant.get(address, ()):
            word = (word & ~mask) | bits
        return word

    def _write_word(self, address: int, value: int) -> None:
        base = address & ~0x3FF
        block = self._by_base.get(base)
        if block is not None:
            if base in self._ungated:
                self._check_gate(base)
            if block not in self._timed and isinstance(block, (SerialPort, Timer)):
                self._timed.append(block)
            block.write(address - base, value)
        elif base == self._rcc:
            self._write_clock(address, value)
        else:
            self.values[address] = value
            if base not in self._windows and address < 0xE0000000:
                self.unknown.add(address)

    def _write_clock(self, address: int, value: int) -> None:
        for block in self._timed:  # the past ran at the old clock
            block.advance()
        self.clock_changes += 1
        for enable, ready in self._follow.get(address, ()):
            value = (value & ~(1 << ready)) | (value >> enable & 1) << ready
        if address == self._switch and self.rules.switch is not None:
            register, wanted, status = self.rules.switch
            choice = self.registers.field(register, wanted).get(value)
            source = self.rules.sources.get(choice)
            if source is not None and not self.value(*source):
                self.problems.append(
                    f"the core's clock is switched to a source that is off ({source[1]} of {source[0]} is 0)"
                )
                choice = self.value(register, status)
            value = self.registers.field(register, status).put(value, choice)
        before, self.values[address] = self.values.get(address), value
        if address in self._clock_registers and value != before:
            self._check_clock()

    def _check_gate(self, base: int) -> None:
        address, mask, register, field = self._gates[base]
        if self.values.get(address, 0) & mask:
            self._ungated.discard(base)
        else:
            name = self._by_base[base].name
            self.warn(
                f"{name} is used while its clock is off (RCC_{register}.{field}): on the chip nothing would happen"
            )

    def _check_clock(self) -> None:
        clock = self.rules.frequency(self)
        if clock is None:
            self.warn(
                "the clock comes from an external oscillator whose frequency is not known here: "
                f"{self.board.clock_hz / 1e6:g} MHz are assumed"
            )
            return
        # One wait state per equal share of the clock at which the board needs all of them.
        needed = -(-clock * (self.board.flash.wait_states + 1) // self.board.clock_hz) - 1
        latency = self.value("FLASH_ACR", "LATENCY")
        if clock > self.board.clock_hz:
            self.problems.append(f"the core runs at {clock} Hz, above the limit of {self.board.clock_hz} Hz")
        elif latency < needed:
            self.problems.append(f"{latency} flash wait states at {clock} Hz: {needed} are needed before the switch")
        problem = self.rules.voltage(self, clock)
        if problem:
            self.problems.append(problem)


def _merged(header: Registers, family: Family | None) -> Registers:
    """The header's registers and the family's facts; fields of both."""
    instances = family.instances if family else ()
    bases = {**header.bases, **(family.bases if family else {}), **{item.name: item.base for item in instances}}
    registers = dict(header.registers)
    for name, fact in registers_of(family).items():
        known = registers.get(name)
        fields = {**(known.fields if known else {}), **fact.fields}
        registers[name] = Register(fact.peripheral, fact.name, fact.offset, fields)
    for item in instances:
        if item.kind == "GPIO":
            for fact in [registers["GPIO_MODER"], registers["GPIO_OSPEEDR"], registers["GPIO_PUPDR"]]:
                registers[f"{item.name}_{fact.name}"] = Register(item.name, fact.name, fact.offset, fact.fields)
    return Registers(bases, registers)


def _instances(header: Registers) -> list[Instance]:
    """Serial ports of a chip of which only the header is known."""
    return [Instance(name, "USART", base) for name, base in header.bases.items() if "USART" in name]
