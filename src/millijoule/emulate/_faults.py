"""A run that ended badly -> one clear refusal: where, what, why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from millijoule.emulate._decode import decode
from millijoule.errors import EmulationError

if TYPE_CHECKING:
    from millijoule.emulate.machine import Machine

__all__ = ["explain"]


def explain(machine: Machine, number: int | None, interrupt: int | None = None) -> EmulationError:
    """The error that describes why the machine stopped.

    Args:
        machine: stopped at the faulting instruction.
        number: the emulator library's error number, None when there was none.
        interrupt: the exception number the core raised, None when there was none.
    """
    import unicorn

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
