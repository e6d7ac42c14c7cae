"""A run that ended badly -> one clear refusal: where, what, why."""

from __future__ import annotations

import contextlib
import importlib
from typing import TYPE_CHECKING, Any

from millijoule.emulate._decode import decode
from millijoule.errors import EmulationError

if TYPE_CHECKING:
    from millijoule.emulate.machine import Machine

__all__ = ["deliver", "explain"]


def explain(machine: Machine, number: int | None, interrupt: int | None = None) -> EmulationError:
    """The error that describes why the machine stopped.

    Args:
        machine: stopped at the faulting instruction.
        number: the emulator library's error number, None when there was none.
        interrupt: the exception number the core raised, None when there was none.
    """
    unicorn: Any = importlib.import_module("unicorn")
    pc = machine.register("pc") & ~1
    place = f"{machine.image.function_at(pc)} at {pc:#010x}"
    address = _accessed(machine, pc)
    at = f" {address:#010x}" if address is not None else ""
    reasons = {
        unicorn.UC_ERR_READ_UNMAPPED: f"it reads{at}, where there is no memory",
        unicorn.UC_ERR_WRITE_UNMAPPED: f"it writes{at}, where there is no memory",
        unicorn.UC_ERR_FETCH_UNMAPPED: "it jumps to an address without memory",
        unicorn.UC_ERR_WRITE_PROT: f"it writes{at}, which is flash",
        unicorn.UC_ERR_INSN_INVALID: "the instruction is undefined on this core",
    }
    if interrupt is not None:
        reason = f"the core raised exception {interrupt}"
        if interrupt == 7:
            reason = "it reached a breakpoint"
    elif number is None:
        reason = "it stopped without reaching its end"
    else:
        reason = reasons.get(number, f"the emulator stopped with error {number}")
    limit = machine.image.symbols.get("mj_stack_limit")
    low = machine.board.data_memory.base
    if limit is not None and address is not None and limit.address - 0x10000 <= address < limit.address == low:
        reason = f"the stack of {machine.image.stack_bytes} bytes overflowed (access to {address:#010x})"
    return EmulationError(place, reason, "Correct the code, or enlarge the stack if that overflowed")


def _accessed(machine: Machine, pc: int) -> int | None:
    """The address the instruction at `pc` accesses, from its operands and the registers."""
    from capstone import arm

    try:
        instructions = decode(machine.read(pc, 4), pc)
    except EmulationError:
        return None
    if not instructions:
        return None
    first = instructions[0]
    names = {arm.ARM_REG_R0 + n: f"r{n}" for n in range(13)} | {arm.ARM_REG_SP: "sp", arm.ARM_REG_LR: "lr"}
    if first.kind in ("load_many", "store_many", "float_load_many", "float_store_many"):
        base = machine.register(names[next(iter(first.addresses))])
        down = first.name in ("push", "vpush") or first.name.endswith("db")
        return base - (4 * first.registers if down else 0)
    if first.offset is None or first.offset[0] not in names:
        return None
    address = machine.register(names[first.offset[0]]) + first.offset[1]
    for register in first.addresses - {first.offset[0]}:
        address += machine.register(names[register])
    return address & 0xFFFFFFFF


# Configurable fault status bits, Armv7-M Architecture Reference Manual B3.2.15, and the exception they raise.
_PRECISE_WITH_ADDRESS = 1 << 9 | 1 << 15
_FETCH = 1 << 8
_STACKING = 1 << 12
_UNDEFINED = 1 << 16
_BUS_FAULT, _USAGE_FAULT = 5, 6
_EXCEPTION_RETURN = 0xFFFFFFF9  # thread mode, main stack
_HANDLER_BLOCKS = 1_000_000


def deliver(machine: Machine, number: int | None) -> None:
    """Enters the firmware's own fault handler, as the core would, and runs it until it halts: it prints the reason.

    Nothing happens for images without `mj_halt`, or when the handler faults itself.
    """
    unicorn: Any = importlib.import_module("unicorn")
    image, registers = machine.image, machine.peripherals.registers
    kinds = {
        unicorn.UC_ERR_READ_UNMAPPED: (_BUS_FAULT, _PRECISE_WITH_ADDRESS),
        unicorn.UC_ERR_WRITE_UNMAPPED: (_BUS_FAULT, _PRECISE_WITH_ADDRESS),
        unicorn.UC_ERR_WRITE_PROT: (_BUS_FAULT, _PRECISE_WITH_ADDRESS),
        unicorn.UC_ERR_FETCH_UNMAPPED: (_BUS_FAULT, _FETCH),
        unicorn.UC_ERR_INSN_INVALID: (_USAGE_FAULT, _UNDEFINED),
    }
    if number not in kinds or "mj_halt" not in image.symbols:
        return
    exception, status = kinds[number]
    pc = machine.register("pc") & ~1
    address = _accessed(machine, pc)
    frame = [machine.register(name) for name in ("r0", "r1", "r2", "r3", "r12", "lr")]
    frame += [pc, machine.register("xpsr")]
    stack = (machine.register("sp") - 4 * len(frame)) & ~7
    try:
        for offset, word in enumerate(frame):
            machine.write_word(stack + 4 * offset, word)
    except EmulationError:
        status |= _STACKING  # no room for the frame: the handler starts on a fresh stack
    values = machine.peripherals.values
    values[registers.address("CORE_SCB_CFSR")] = status
    values[registers.address("CORE_SCB_BFAR")] = address or 0
    vector = machine.read_word(machine.board.flash.base + 4 * exception)
    machine.write_register("sp", stack)
    machine.write_register("lr", _EXCEPTION_RETURN)
    machine.write_register("ipsr", exception)
    machine.counter.begin(_HANDLER_BLOCKS)
    with contextlib.suppress(unicorn.UcError):
        machine.emulator.emu_start(vector | 1, image.symbols["mj_halt"].address)
