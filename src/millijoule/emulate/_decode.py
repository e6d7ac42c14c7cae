"""Machine code -> the facts about each instruction that the cycle models need."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

from millijoule.errors import ToolchainError

__all__ = ["KINDS", "Access", "Instruction", "decode", "is_shift"]

KINDS = (
    *("alu", "nop", "it", "branch", "call", "indirect", "table", "divide", "multiply", "system"),
    *("load", "store", "load_double", "store_double", "load_many", "store_many"),
    *("float", "float_multiply_add", "float_divide"),
    *("float_load", "float_store", "float_load_many", "float_store_many"),
)  # fmt: skip
_LOADS = frozenset(["ldr", "ldrb", "ldrh", "ldrsb", "ldrsh", "ldrt", "ldrex", "ldrexb", "ldrexh"])
_STORES = frozenset(["str", "strb", "strh", "strt", "strex", "strexb", "strexh"])
_MULTIPLIES = [
    "mul",
    "mla",
    "mls",
    "smull",
    "umull",
    "smlal",
    "umlal",
    "umaal",
    "smmul",
    "smmla",
    "smmls",
    "smuad",
    "smusd",
    "smlad",
    "smlsd",
    "smlald",
    "smlsld",
    "smulb",
    "smult",
    "smulw",
    "smlab",
    "smlat",
    "smlaw",
]
_MULTIPLY_ADDS = frozenset(["vmla", "vmls", "vfma", "vfms", "vnmla", "vnmls", "vfnma", "vfnms"])
_SYSTEM = frozenset(["mrs", "msr", "dmb", "dsb", "isb", "svc", "bkpt", "cps", "cpsid", "cpsie", "wfi", "wfe", "udf"])
_ACCUMULATES = ("mla", "mls", "smlad", "smlsd", "smmla", "smmls", "smlab", "smlat", "smlaw")
_SHIFTS = frozenset(["lsl", "lsr", "asr", "ror", "rrx"])


@dataclass(frozen=True, slots=True)
class Access:
    """Where an instruction reads or writes memory: base + (index << shift) + displacement, as it stands before it.

    Registers are 0..15; 15 is the address of the instruction + 4. `element` is the width that decides alignment.
    """

    write: bool
    base: int
    index: int | None
    shift: int
    displacement: int
    bytes: int
    element: int


@dataclass(frozen=True, slots=True, eq=False)
class Instruction:
    """One decoded instruction. Registers are the disassembler's numbers; `pc`, flags are separate.

    The masks hold the same registers as bits: 0..15 the core's, 16..47 the single-precision ones (a double is two).
    """

    address: int
    size: int
    text: str
    name: str
    kind: str
    reads: frozenset[int]
    writes: frozenset[int]
    addresses: frozenset[int]  # registers that form the memory address
    accumulators: frozenset[int]  # registers a multiply adds to: needed one cycle later
    registers: int  # registers moved by a load or store
    register_offset: bool
    offset: tuple[int, int] | None  # (base register, displacement) of a memory operand
    shifted: bool
    floating: bool
    double: bool
    writeback: bool
    conditional: bool
    sets_flags: bool
    uses_flags: bool
    writes_pc: bool
    pc_relative: bool
    in_it: bool  # inside an IT block: not executed when its condition fails
    access: Access | None
    read_mask: int
    write_mask: int
    address_mask: int
    accumulator_mask: int

    @property
    def end(self) -> int:
        """Address behind the instruction."""
        return self.address + self.size


_FIELDS = tuple(field.name for field in fields(Instruction))


@functools.lru_cache(maxsize=1)
def _disassembler() -> Any:
    try:
        import capstone
    except ImportError as error:
        raise ToolchainError(
            "capstone", "it is not installed", "Install the extra: pip install 'millijoule[deploy]'"
        ) from error
    made = capstone.Cs(capstone.CS_ARCH_ARM, capstone.CS_MODE_THUMB | capstone.CS_MODE_MCLASS)
    made.detail = True
    return made


def decode(code: bytes, address: int) -> tuple[Instruction, ...]:
    """Decodes Thumb machine code that starts at `address`, which must not be inside an IT block."""
    found = []
    for start, piece, alone in _pieces(code):
        one = _alone(piece) if alone else None
        if one is None or one.kind in ("branch", "call"):  # the text of these has addresses
            found += _disassembled(piece, address + start)
        else:
            found.append(_moved(one, address + start))
        if not found or found[-1].end != address + start + len(piece):
            break  # no instruction
    return tuple(found)


def _pieces(code: bytes) -> Iterator[tuple[int, bytes, bool]]:
    """Where instructions begin, their bytes, and whether it is one alone.

    From an IT instruction on, the rest is one piece: its parts depend on each other.
    """
    start = 0
    while start < len(code):
        first = int.from_bytes(code[start : start + 2], "little")
        if first >> 8 == 0xBF and first & 0xF:
            yield start, code[start:], False
            return
        size = 4 if first >= 0xE800 else 2
        yield start, code[start : start + size], True
        start += size


@functools.lru_cache(maxsize=1 << 16)
def _alone(piece: bytes) -> Instruction | None:
    """One instruction at address 0; programs consist of few different ones. None when there is no such instruction."""
    found = _disassembled(piece, 0)
    return found[0] if found else None


def _moved(instruction: Instruction, address: int) -> Instruction:
    """The same at another address."""
    made = object.__new__(Instruction)
    for name in _FIELDS:
        object.__setattr__(made, name, getattr(instruction, name))
    object.__setattr__(made, "address", address)
    return made


def _disassembled(code: bytes, address: int) -> list[Instruction]:
    """Instructions one after the other, until something is none."""
    found: list[Instruction] = []
    conditional = 0
    for item in _disassembler().disasm(code, address):
        found.append(_instruction(item, conditional > 0))
        conditional = len(item.mnemonic) - 1 if found[-1].kind == "it" else max(0, conditional - 1)
    return found


def _instruction(item: Any, in_it: bool) -> Instruction:
    from capstone import arm

    name = item.insn_name() or item.mnemonic
    name = "vmrs" if name == "fmstat" else name.split(".")[0]
    conditional = item.cc not in (arm.ARM_CC_AL, arm.ARM_CC_INVALID)
    read, written = (set(part) for part in item.regs_access())
    if name == "it" or item.mnemonic.startswith("it"):
        name, conditional = "it", False
    operands = item.operands
    registers = [o.reg for o in operands if o.type == arm.ARM_OP_REG]
    memory = next((o for o in operands if o.type == arm.ARM_OP_MEM), None)
    double = ".f64" in item.mnemonic or any(arm.ARM_REG_D0 <= r <= arm.ARM_REG_D31 for r in registers)
    kind, count = _kind(name, registers, double)
    addresses: set[int] = set()
    if memory is not None:
        addresses = {r for r in (memory.mem.base, memory.mem.index) if r}
    elif kind in ("load_many", "store_many", "float_load_many", "float_store_many"):
        stack = name in ("push", "pop", "vpush", "vpop")
        addresses = {arm.ARM_REG_SP if stack else registers[0]}
    accumulators: frozenset[int] = frozenset()
    if kind == "multiply":
        if name.startswith(_ACCUMULATES) and len(registers) == 4:
            accumulators = frozenset(registers[3:])
        elif name.startswith(("smlal", "umlal", "smlsl")):
            accumulators = frozenset(registers[:2])
    # The disassembler leaves out operands of these instructions.
    if name.startswith("pkh"):
        read |= set(registers[1:])
    elif kind == "multiply":
        read |= accumulators
    elif kind in ("float_load_many", "float_store_many"):
        moved = set(registers[0 if name in ("vpush", "vpop") else 1 :])
        written = (written - moved) | (moved if kind == "float_load_many" else set())
        read = (read - moved) | addresses | (moved if kind == "float_store_many" else set())
    writes_pc = arm.ARM_REG_PC in written
    hidden = {arm.ARM_REG_CPSR, arm.ARM_REG_PC, arm.ARM_REG_FPSCR}
    return Instruction(
        address=item.address,
        size=item.size,
        text=f"{item.mnemonic} {item.op_str}".strip(),
        name=name,
        kind=kind,
        reads=frozenset(read - hidden),
        writes=frozenset(written - hidden),
        addresses=frozenset(addresses),
        accumulators=accumulators,
        registers=count,
        register_offset=memory is not None and bool(memory.mem.index),
        offset=(memory.mem.base, memory.mem.disp) if memory is not None else None,
        shifted=any(
            o.type == arm.ARM_OP_REG and o.shift.type != arm.ARM_SFT_INVALID and bool(o.shift.value) for o in operands
        ),
        floating=name.startswith("v"),
        double=double,
        writeback=bool(item.writeback),
        conditional=conditional,
        sets_flags=bool(item.update_flags) or name in ("cmp", "cmn", "tst", "teq"),
        uses_flags=conditional or name == "it",  # the instructions behind it wait for the flags even when skipped
        writes_pc=writes_pc,
        pc_relative=arm.ARM_REG_PC in addresses,
        in_it=in_it,
        access=_access(item, name, kind, count, registers, memory),
        read_mask=_mask(frozenset(read - hidden)),
        write_mask=_mask(frozenset(written - hidden)),
        address_mask=_mask(frozenset(addresses - hidden)),
        accumulator_mask=_mask(accumulators),
    )


def _access(item: Any, name: str, kind: str, words: int, registers: Sequence[int], memory: Any) -> Access | None:
    """The memory operand, None for instructions that do not touch memory."""
    from capstone import arm

    write = kind in ("store", "store_double", "store_many", "float_store", "float_store_many")
    if kind == "table":
        width = 2 if name == "tbh" else 1
        return Access(False, _bit(memory.mem.base), _bit(memory.mem.index), width - 1, 0, width, width)
    if kind.endswith("_many"):
        stack = name in ("push", "pop", "vpush", "vpop")
        down = name in ("push", "vpush") or name.endswith("db")
        base = arm.ARM_REG_SP if stack else registers[0]
        return Access(write, _bit(base), None, 0, -4 * words if down else 0, 4 * words, 4)
    if memory is None or not kind.endswith(("load", "store", "double")):
        return None
    width = 4
    if kind in ("load", "store"):
        width = {"b": 1, "h": 2}.get(name[-1] if name not in ("ldrt", "strt") else "", 4)
    index = memory.mem.index
    shift = (
        memory.shift.value if index and memory.shift.type == arm.ARM_SFT_LSL else (memory.mem.lshift if index else 0)
    )
    displacement = 0 if item.post_index else memory.mem.disp
    size = width if kind in ("load", "store") else 4 * words
    return Access(write, _bit(memory.mem.base), _bit(index) if index else None, shift, displacement, size, width)


def _bit(register: int) -> int:
    """Number of a core register: 0..12, 13 sp, 14 lr, 15 pc."""
    from capstone import arm

    special = {arm.ARM_REG_SP: 13, arm.ARM_REG_LR: 14, arm.ARM_REG_PC: 15}
    return special[register] if register in special else register - int(arm.ARM_REG_R0)


@functools.lru_cache(maxsize=1 << 14)
def _mask(registers: frozenset[int]) -> int:
    """Registers as bits, see `Instruction`."""
    from capstone import arm

    mask = 0
    for register in registers:
        if arm.ARM_REG_R0 <= register <= arm.ARM_REG_R12 or register in (arm.ARM_REG_SP, arm.ARM_REG_LR):
            mask |= 1 << _bit(register)
        elif arm.ARM_REG_S0 <= register <= arm.ARM_REG_S31:
            mask |= 1 << (16 + register - arm.ARM_REG_S0)
        elif arm.ARM_REG_D0 <= register <= arm.ARM_REG_D15:
            mask |= 3 << (16 + 2 * (register - arm.ARM_REG_D0))
    return mask


def _kind(name: str, registers: Sequence[int], double: bool) -> tuple[str, int]:
    """The kind of an instruction and the number of words it moves."""
    simple = {
        "it": "it", "nop": "nop", "b": "branch", "cbz": "branch", "cbnz": "branch", "bl": "call", "bx": "indirect",
        "blx": "indirect", "tbb": "table", "tbh": "table", "sdiv": "divide", "udiv": "divide",
    }  # fmt: skip
    if name in simple:
        return simple[name], 1
    if name in ("ldrd", "strd"):
        return ("load_double" if name == "ldrd" else "store_double"), 2
    if name in _LOADS:
        return "load", 1
    if name in _STORES:
        return "store", 1
    if name in ("push", "pop") or name.startswith(("ldm", "stm")):
        count = len(registers) - (0 if name in ("push", "pop") else 1)
        return ("load_many" if name == "pop" or name.startswith("ldm") else "store_many"), count
    if name.startswith("v"):
        return _float_kind(name, registers, double)
    if name.startswith(tuple(_MULTIPLIES)):
        return "multiply", 1
    return ("system" if name in _SYSTEM else "alu"), 1


def _float_kind(name: str, registers: Sequence[int], double: bool) -> tuple[str, int]:
    words = 2 if double else 1
    if name == "vldr":
        return "float_load", words
    if name == "vstr":
        return "float_store", words
    if name.startswith(("vldm", "vpop")):
        return "float_load_many", max(1, len(registers) - (name != "vpop")) * words
    if name.startswith(("vstm", "vpush")):
        return "float_store_many", max(1, len(registers) - (name != "vpush")) * words
    if name in _MULTIPLY_ADDS:
        return "float_multiply_add", 1
    return ("float_divide" if name in ("vdiv", "vsqrt") else "float"), 1


def is_shift(instruction: Instruction) -> bool:
    """Whether the instruction uses the shifter."""
    return instruction.shifted or instruction.name in _SHIFTS
