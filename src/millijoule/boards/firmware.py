"""The C around the model: start-up, drivers, main loop and linker script of a board, as text."""

from __future__ import annotations

from pathlib import Path
from string import Template

from millijoule.boards.board import Board, Memory
from millijoule.boards.clock import clock_defines
from millijoule.boards.registers import register_header
from millijoule.errors import BoardError

__all__ = ["firmware_defines", "firmware_sources", "linker_script"]

_C = Path(__file__).resolve().parent / "c"
_COMMON = (
    "startup.c",
    "usart.c",
    "timestamp.c",
    "print.c",
    "memory.c",
    "picture.c",
    "profile.c",
    "main.c",
    "command.c",
)
_HEADERS = ("mj_board.h", "mj_firmware.h", "mj_registers.h", "registers_common.h")


def firmware_sources(board: Board) -> dict[str, str]:
    """The C files of the board's firmware (without the model), by file name.

    `clock_<name>.c` and `console_<name>.c` are the board's own files; where it has none, its silicon's are taken.

    Raises:
        BoardError: neither the board nor its silicon has one of them.
    """
    paths = [_C / name for name in (*_COMMON, *_HEADERS)]
    paths += [_own_file(board, "clock"), _own_file(board, "console"), register_header(board)]
    try:
        return {path.name: path.read_text(encoding="utf-8") for path in paths}
    except OSError as error:
        raise BoardError(
            board.name,
            f"{Path(error.filename or '').name} cannot be read",
            "Write it after that of stm32l4r9i, or name the board's silicon",
        ) from error


def _own_file(board: Board, kind: str) -> Path:
    """The board's C file of a kind, beside its description or in the package; its silicon's where it has none."""
    own = f"{kind}_{board.name}.c"
    places = (board.folder / own, _C / own)
    return next((path for path in places if path.is_file()), _C / f"{kind}_{board.silicon}.c")


def firmware_defines(board: Board, *, stack_bytes: int = 8192) -> dict[str, str]:
    """The macros that carry the board's description into the C files, by name.

    Args:
        board: the board.
        stack_bytes: size of the stack; what is left bounds the arena (`MJ_RAM_BYTES`, checked at compile time).
    """
    console = board.console
    defines = {
        "MJ_BOARD_TITLE": f'"{board.title}"',
        "MJ_BOARD_CLOCK_HZ": f"{board.clock_hz}u",
        "MJ_BOARD_INTERRUPTS": str(board.interrupts),
        "MJ_BOARD_FLASH_WAIT_STATES": f"{board.flash.wait_states}u",
        "MJ_BOARD_FLASH_BYTES": f"{board.flash.size}u",
        "MJ_RAM_BYTES": f"{board.arena_limit(stack_bytes)}u",
        "MJ_BOARD_SUPPLY_SMPS": str(int(board.supply == "smps")),
        "MJ_BOARD_REGISTERS": f'"registers_{board.silicon}.h"',
        "MJ_CONSOLE": console.peripheral,
        "MJ_CONSOLE_BAUD": f"{console.baud}u",
        **clock_defines(board.clock),
        "MJ_CONSOLE_IS_LOW_POWER": str(int(console.peripheral.startswith("LPUART"))),
    }
    for way, pin in (("TX", console.transmit), ("RX", console.receive)):
        defines[f"MJ_CONSOLE_{way}_PORT"] = pin.port
        defines[f"MJ_CONSOLE_{way}_PIN"] = f"{pin.pin}u"
        defines[f"MJ_CONSOLE_{way}_ALTERNATE"] = f"{pin.alternate}u"
    ports = [console.transmit.port, console.receive.port]
    if board.timestamp is not None:
        ports.append(board.timestamp.port)
        defines["MJ_TIMESTAMP_PORT"] = board.timestamp.port
        defines["MJ_TIMESTAMP_PIN"] = f"{board.timestamp.pin}u"
    # Bit n is port A + n: the ports whose clocks must run, as in the enable registers of both families.
    defines["MJ_BOARD_PORTS"] = f"{sum({1 << ord(port) - ord('A') for port in ports}):#x}u"
    return defines


def linker_script(board: Board, arena: Memory, *, stack_bytes: int, fast: Memory | None = None) -> str:
    """The linker script with stack and data in the board's data memory and the arena in `arena`.

    What is left over in each RAM is listed at `mj_spare`, for the copy of the picture that the serial protocol keeps.

    Args:
        board: gives the memories.
        arena: one of `board.memories`.
        stack_bytes: size of the stack, a multiple of 8.
        fast: the memory of the second arena, `mj_fast`; None for a model without one.

    Raises:
        BoardError: a stack size that is no positive multiple of 8 or does not fit the data memory.
    """
    if stack_bytes <= 0 or stack_bytes % 8 or stack_bytes > board.data_memory.size:
        raise BoardError(
            f"stack of {stack_bytes} bytes",
            f"it must be a positive multiple of 8 that fits {board.data_memory.name}",
            "Use 8192, the default",
        )
    regions = [f"    FLASH (rx) : ORIGIN = {board.flash.base:#010x}, LENGTH = {board.flash.size:#x}"]
    regions += [f"    {m.name} (rwx) : ORIGIN = {m.base:#010x}, LENGTH = {m.size:#x}" for m in board.memories]
    template = Template((_C / "firmware.ld.in").read_text(encoding="utf-8"))
    return template.substitute(
        board=board.title,
        memories="\n".join(regions),
        stack_bytes=str(stack_bytes),
        data=board.data_memory.name,
        arena=arena.name,
        fast=_NO_FAST if fast is None else _FAST.substitute(fast=fast.name),
        spare=" ".join(_spare(board, arena, fast)),
    )


# In front of .bss, whose pattern would take it, too. Without a second arena its fences are empty.
_FAST = Template("""\
    .mj_fast (NOLOAD) : ALIGN(32)
    {
        . = ALIGN(32);
        mj_fast_low = .; . += 64; mj_fast_low_end = .;
        *(.bss.mj_fast)
        . = ALIGN(32);
        mj_fast_high = .; . += 64; mj_fast_high_end = .;
    } > $fast""")
_NO_FAST = """\
    mj_fast_low = 0; mj_fast_low_end = 0;
    mj_fast_high = 0; mj_fast_high_end = 0;"""


def _spare(board: Board, arena: Memory, fast: Memory | None) -> list[str]:
    """Pairs of words: start and end of what is left over in every RAM that stack, data or an arena may use."""
    # What comes last in the script counts where one RAM has several of them.
    ends = {fast.name: "mj_fast_high_end"} if fast is not None else {}
    ends |= {board.data_memory.name: "mj_bss_end"}
    ends |= {arena.name: "mj_fence_high_end"}
    return [
        f"LONG({ends.get(memory.name, f'{memory.base:#010x}')}) LONG({memory.end:#010x})"
        for memory in board.memories
        if memory.data or memory.arena
    ]
