"""The flash controller: wait states are read back; attempts to program or erase are recorded, flash never changes.

Source: RM0432 chapter 3 (STM32L4+), RM0455 chapter 4 (STM32H7A3/7B3): unlock keys, lock and command bits.
"""

from __future__ import annotations

from millijoule.emulate.peripherals._block import Block

__all__ = ["FlashController"]

_KEYS = (0x45670123, 0xCDEF89AB)
_CONTROL_OF = {"KEYR": "CR", "KEYR1": "CR1", "KEYR2": "CR2"}
# Of FLASH_CR1 and FLASH_CR2 of the H7A3/7B3, whose bits the device header names for the whole family.
_H7_LOCK, _H7_PROGRAM, _H7_ERASE = 1 << 0, 1 << 1, 1 << 2 | 1 << 3
_LIMIT = 100


class FlashController(Block):
    """FLASH.

    Attributes:
        attempts: what the firmware tried, in words, at most 100 of them.
    """

    def reset(self) -> None:
        """See `Block.reset`."""
        self.attempts: list[str] = []
        self._keys: dict[str, int] = {}
        self._names = {offset: name for name, offset in self._offsets.items()}
        for key, control in _CONTROL_OF.items():
            if key in self._offsets:
                self.store(control, self.stored(control) | self._bits(control)[0])

    def write(self, offset: int, value: int) -> None:
        """See `Block.write`."""
        name = self._names.get(offset, "")
        if name in _CONTROL_OF:
            self._unlock(name, value)
        elif name in _CONTROL_OF.values():
            self._command(name, value)
        else:
            super().write(offset, value)

    def _bits(self, control: str) -> tuple[int, int, int]:
        """Lock, program and erase bits of a control register."""
        if control == "CR":
            erase = self.mask("CR", "PER") | self.mask("CR", "MER1") | self.mask("CR", "MER2")
            return self.mask("CR", "LOCK"), self.mask("CR", "PG"), erase
        return _H7_LOCK, _H7_PROGRAM, _H7_ERASE

    def _unlock(self, name: str, value: int) -> None:
        position = self._keys.get(name, 0)
        if position >= len(_KEYS) or value != _KEYS[position]:
            self._keys[name] = len(_KEYS)  # a wrong key locks until reset
            self._record(f"a wrong key was written to FLASH_{name}")
            return
        self._keys[name] = position + 1
        if self._keys[name] == len(_KEYS):
            self._keys[name] = 0
            control = _CONTROL_OF[name]
            self.store(control, self.stored(control) & ~self._bits(control)[0])
            self._record(f"FLASH_{control} was unlocked")

    def _command(self, name: str, value: int) -> None:
        lock, program, erase = self._bits(name)
        before = self.stored(name)
        if before & lock:
            if value & (program | erase):
                self._record(f"FLASH_{name} was written while it is locked")
            return
        if value & program & ~before:
            self._record(f"programming was switched on (FLASH_{name})")
        if value & erase & ~before:
            self._record(f"an erase was prepared (FLASH_{name})")
        self.store(name, value)

    def _record(self, what: str) -> None:
        if len(self.attempts) < _LIMIT:
            self.attempts.append(what)
        self.chip.warn(f"the firmware tried to change the flash ({what}); the emulated flash keeps its content")
