"""Serial ports (USART, UART, LPUART): bytes out at once, bytes in one after the other, flags, interrupts, baud rate.

Flags and interrupts as in the reference manuals RM0432 and RM0455, chapters USART and LPUART.
"""

from __future__ import annotations

from collections import deque

from millijoule.emulate.peripherals._block import Block

__all__ = ["SerialPort"]

_PRESCALERS = (1, 2, 4, 6, 8, 10, 12, 16, 32, 64, 128, 256)
_CHARACTER_BITS = 10  # start, eight data bits, stop
# Receive threshold in eighths of the queue, by RXFTCFG.
_EIGHTHS = (1, 2, 4, 6, 7, 8)
BAUD_TOLERANCE = 0.03
"""Largest relative distance of two baud rates at which ten bits still arrive whole, rounded."""


class SerialPort(Block):
    """One serial port.

    A firmware that polls gets the next byte as soon as it has taken the one before: it never waits and never loses
    one. With the receive interrupt on, bytes keep the distance of the line's baud rate, so that the main program runs
    between them; a byte waits until the one before was read.

    Attributes:
        waiting: bytes on their way to the firmware.
        sent: bytes the firmware sent.
        late: bytes that a real line would have lost, because the one before was read too late.
        looks: how often the firmware looked at the flags while no byte was there.
    """

    def reset(self) -> None:
        """See `Block.reset`."""
        self.waiting: deque[int] = deque()
        self.sent = bytearray()
        self.late = 0
        self.looks = 0
        self._complete = True
        self._idle = False
        self._idle_at: int | None = None
        self._arrival: int | None = None
        self._baud_key: tuple[int, int, int, int] | None = None
        self._baud: float | None = None
        names = ("CR1", "CR3", "BRR", "RQR", "ISR", "ICR", "RDR", "TDR", "PRESC")
        self._at = {name: self.offset(name) for name in names}
        mask = self.mask
        self._enabled, self._receiver, self._sender = (mask("CR1", name) for name in ("UE", "RE", "TE"))
        self._queued = mask("CR1", "FIFOEN")
        flags = ("IDLE", "RXNE_RXFNE", "TC", "TXE_TXFNF", "TEACK", "REACK", "TXFE", "RXFF", "RXFT", "TXFT")
        self._flag = {name: mask("ISR", name) for name in flags}
        enables = [("CR1", "IDLEIE", "IDLE"), ("CR1", "RXNEIE_RXFNEIE", "RXNE_RXFNE"), ("CR1", "TCIE", "TC")]
        enables += [("CR1", "TXEIE_TXFNFIE", "TXE_TXFNF"), ("CR1", "TXFEIE", "TXFE"), ("CR1", "RXFFIE", "RXFF")]
        enables += [("CR3", "RXFTIE", "RXFT"), ("CR3", "TXFTIE", "TXFT")]
        self._interrupts = [(register, mask(register, enable), flag) for register, enable, flag in enables]

    @property
    def active(self) -> bool:
        """Whether it is switched on and receives or sends."""
        control = self.stored("CR1")
        return bool(control & self._enabled and control & (self._receiver | self._sender))

    @property
    def receives(self) -> bool:
        """Whether its receiver is on."""
        control = self.stored("CR1")
        return bool(control & self._enabled and control & self._receiver)

    def baud(self) -> float | None:
        """Bits per second that clock and divider give, None before the divider is set or for an unknown clock."""
        key = (self.chip.clock_changes, self.stored("CR1"), self.stored("BRR"), self.stored("PRESC"))
        if key != self._baud_key:
            self._baud_key, self._baud = key, self._compute_baud()
        return self._baud

    def _compute_baud(self) -> float | None:
        clock = self.chip.rules.kernel(self.chip, self.instance)
        divider = self.stored("BRR")
        if not clock or not divider:
            return None
        code = self.stored("PRESC") & 0xF
        clock_hz = clock / _PRESCALERS[min(code, len(_PRESCALERS) - 1)]
        if self.name.startswith("LPUART"):
            return 256 * clock_hz / (divider & 0xFFFFF)
        if self.stored("CR1") & self.mask("CR1", "OVER8"):
            divider = divider & 0xFFF0 | (divider & 7) << 1  # bit 3 is kept clear, the fraction has three bits
            return 2 * clock_hz / divider if divider else None
        return clock_hz / (divider & 0xFFFF) if divider & 0xFFFF else None

    def character_cycles(self) -> int:
        """Core cycles that one character takes on the line; 0 while the baud rate is unknown."""
        baud = self.baud()
        return int(self.chip.clock_hz() * _CHARACTER_BITS / baud) if baud else 0

    def receive(self, data: bytes) -> None:
        """Bytes come in over the line."""
        if data and not self.waiting:
            # A silent line: the first byte needs its own time to arrive.
            self._arrival = self.chip.now() + self.character_cycles() if self._paced() else None
        self.waiting.extend(data)
        self._idle_at = None
        self.refresh()

    def read(self, offset: int) -> int:
        """See `Block.read`."""
        if offset == self._at["ISR"]:
            self.looks += not self.waiting
            return self._status()
        if offset == self._at["RDR"]:
            value = self._take() if self._readable() else 0
            self.refresh()
            return value
        return super().read(offset)

    def write(self, offset: int, value: int) -> None:
        """See `Block.write`."""
        at = self._at
        if offset == at["TDR"]:
            self._send(value & 0xFF)
        elif offset == at["ICR"]:
            if value & self.mask("ICR", "TCCF"):
                self._complete = False
            if value & self.mask("ICR", "IDLECF"):
                self._idle = False
        elif offset == at["RQR"]:
            if value & self.mask("RQR", "RXFRQ"):
                self._flush()
        elif offset != at["ISR"]:
            super().write(offset, value)
        self.refresh()

    def interrupting(self) -> bool:
        """See `Block.interrupting`."""
        if not self.stored("CR1") & self._enabled:
            return False
        status = self._status()
        return any(
            self.stored(register) & enable and status & self._flag[flag] for register, enable, flag in self._interrupts
        )

    def next_event(self) -> int | None:
        """See `Block.next_event`."""
        times = [self._idle_at]
        if self.waiting and self._arrival is not None and self.receives:
            times.append(self._arrival)
        now = self.chip.now()
        return min((time for time in times if time is not None and time > now), default=None)

    def _paced(self) -> bool:
        control = self.stored("CR1")
        wanted = control & self.mask("CR1", "RXNEIE_RXFNEIE") or self.stored("CR3") & self.mask("CR3", "RXFTIE")
        return bool(wanted) and self.chip.interrupts is not None

    def _readable(self) -> bool:
        if not self.waiting or not self.receives:
            return False
        return self._arrival is None or not self._paced() or self.chip.now() >= self._arrival

    def _take(self) -> int:
        value = self.waiting.popleft()
        if self.chip.interrupts is None:  # nothing depends on when: the line is silent once the last byte is taken
            self._arrival, self._idle = None, not self.waiting
            return value
        now, paced = self.chip.now(), self._paced()
        duration = self.character_cycles() if paced or not self.waiting else 0
        if paced and self.waiting:
            due = (now if self._arrival is None else self._arrival) + duration
            self.late += due + duration < now
            self._arrival = max(due, now)
        else:
            self._arrival = None
        self._idle_at = None if self.waiting else now + duration
        return value

    def _flush(self) -> None:
        depth = self.chip.queue_depth if self.stored("CR1") & self._queued else 1
        for _ in range(depth):
            if self._readable():
                self._take()

    def _send(self, byte: int) -> None:
        control = self.stored("CR1")
        if not (control & self._enabled and control & self._sender):
            self.chip.warn(f"{self.name} is written while its transmitter is off: the byte is lost")
            return
        self.sent.append(byte)
        self._complete = True
        self.chip.sent(self, byte)

    def _status(self) -> int:
        control = self.stored("CR1")
        flag = self._flag
        word = flag["TXE_TXFNF"]  # a byte leaves at once
        if self._complete:
            word |= flag["TC"]
        if control & self._queued:
            word |= flag["TXFE"] | flag["TXFT"]
        if not control & self._enabled:
            return word
        if control & self._sender:
            word |= flag["TEACK"]
        if control & self._receiver:
            word |= flag["REACK"]
        if self._idle_at is not None and self.chip.now() >= self._idle_at:
            self._idle, self._idle_at = True, None
        if self._idle:
            word |= flag["IDLE"]
        if self._readable():
            word |= flag["RXNE_RXFNE"]
            if control & self._queued:
                depth = self.chip.queue_depth
                code = self.chip.registers.field("USART_CR3", "RXFTCFG").get(self.stored("CR3"))
                held = min(len(self.waiting), depth)
                word |= flag["RXFF"] if held == depth else 0
                word |= flag["RXFT"] if held * 8 >= depth * _EIGHTHS[min(code, 5)] else 0
        return word
