"""Format "zephyr": an application with the model as a library; Zephyr brings start-up, clock and serial line."""

from __future__ import annotations

from dataclasses import dataclass

from millijoule.boards import Board
from millijoule.deploy.export.cmake import host_lists
from millijoule.deploy.export.project import Format, Project, c_file, sources

__all__ = ["FORMAT", "ZephyrBoard", "zephyr_board"]

_RESERVED_BYTES = 48 * 1024
"""RAM for Zephyr's kernel, stacks and drivers: more than this application needs."""


@dataclass(frozen=True)
class ZephyrBoard:
    """A board of Zephyr, and what its main RAM can be joined with.

    Attributes:
        name: for `west build -b`.
        title: which board that is.
        address: where its node `sram0` begins.
        ram_bytes: size of that node.
        more: (nodes to delete, bytes of `sram0` then), in the order in which more RAM is taken.
        why: why the memories may be joined.
    """

    name: str
    title: str
    address: int
    ram_bytes: int
    more: tuple[tuple[tuple[str, ...], int], ...]
    why: str


_L4 = (
    0x20000000,
    192 * 1024,
    ((("sram1", "sram2"), 640 * 1024),),
    "SRAM1, the second address of SRAM2, and SRAM3 follow one another without a gap.",
)
_H7 = (
    0x24000000,
    256 * 1024,
    ((("sram1",), 640 * 1024), (("sram1", "sram2"), 1024 * 1024)),
    "The three AXI SRAMs follow one another without a gap.",
)
# Source: Zephyr's boards/st/*/*.dts and dts/arm/st/{l4/stm32l4r5,h7/stm32h7a3}.dtsi.
_BOARDS = {
    "stm32l4r9i": ZephyrBoard("nucleo_l4r5zi", "NUCLEO-L4R5ZI, the same silicon family", *_L4),
    "nucleo_l4r5zi": ZephyrBoard("nucleo_l4r5zi", "NUCLEO-L4R5ZI", *_L4),
    "stm32h7b3i": ZephyrBoard("stm32h7b3i_dk", "STM32H7B3I-DK", *_H7),
    "nucleo_h7a3zi_q": ZephyrBoard("nucleo_h7a3zi_q", "NUCLEO-H7A3ZI-Q", *_H7),
}


def zephyr_board(board: Board) -> ZephyrBoard | None:
    """Zephyr's name for the board, or for one with the same silicon; None when none is known."""
    return _BOARDS.get(board.name) or _BOARDS.get(board.silicon)


def _files(project: Project) -> dict[str, str]:
    files = {
        **project.model(),
        "CMakeLists.txt": _lists(project),
        "model/CMakeLists.txt": _library(project),
        "prj.conf": _configuration(),
        "src/main.c": c_file("main_zephyr.c"),
        **project.golden("test"),
        "test/CMakeLists.txt": host_lists(project),
    }
    overlay = _overlay(project)
    return {**files, "app.overlay": overlay} if overlay else files


def _lists(project: Project) -> str:
    return f"""cmake_minimum_required(VERSION 3.20.0)
find_package(Zephyr REQUIRED HINTS $ENV{{ZEPHYR_BASE}})
project({project.name} LANGUAGES C)

add_subdirectory(model)
target_sources(app PRIVATE src/main.c)
target_link_libraries(app PRIVATE mj_model)
"""


def _library(project: Project) -> str:
    names = [name.removeprefix("model/") for name in sources(project.model(), "model")]
    files = "\n    ".join(names)
    return f"""# The model as a library: target_link_libraries(app PRIVATE mj_model).
add_library(mj_model STATIC
    {files})
target_include_directories(mj_model PUBLIC ${{CMAKE_CURRENT_SOURCE_DIR}})
# The arena lies in .bss like any other variable; give MJ_ARENA a section attribute to place it elsewhere.
target_compile_definitions(mj_model PRIVATE MJ_ARENA=)
target_link_libraries(mj_model PRIVATE zephyr_interface)
add_dependencies(mj_model zephyr_generated_headers)
target_compile_options(mj_model PRIVATE -O3 -ffp-contract=off -fno-math-errno)
"""


def _configuration() -> str:
    return """# Picture and class go over the console's serial line, which the application reads itself.
CONFIG_SERIAL=y
CONFIG_CONSOLE=y
CONFIG_UART_CONSOLE=y
CONFIG_PRINTK=y
CONFIG_FPU=y
CONFIG_SPEED_OPTIMIZATIONS=y
CONFIG_MAIN_STACK_SIZE=8192
"""


def _overlay(project: Project) -> str | None:
    board = zephyr_board(project.board)
    needed = project.program.arena_bytes + _RESERVED_BYTES
    if board is None or needed <= board.ram_bytes:
        return None
    nodes, size = next((item for item in board.more if needed <= item[1]), board.more[-1])
    deleted = "\n".join(f"/delete-node/ &{node};" for node in nodes)
    arena = f"{project.program.arena_bytes:,} bytes"
    return f"""/* For {board.name}: the arena of {arena} needs more than sram0 has by itself.
 * {board.why} */
{deleted}

&sram0 {{
\treg = <{board.address:#010x} DT_SIZE_K({size // 1024})>;
}};
"""


def _readme(project: Project) -> str:
    board = zephyr_board(project.board)
    name = board.name if board else "YOUR_BOARD"
    megahertz = project.board.clock_hz // 1_000_000
    title = board.title if board else "no board of Zephyr with this chip is known to millijoule"
    return f"""## Build

In an environment with Zephyr (https://docs.zephyrproject.org, "Getting Started"):

    west build -b {name} .        # {title}
    west flash

Start-up code, clock and serial line are Zephyr's; the clock is what the board's device tree says, which may be lower
than the {megahertz} MHz of millijoule's own firmware. `app.overlay`, where there is one, joins memories so that the
arena fits. For another board give its name to `west build`; "Where RAM and flash go" says what it needs.

What was checked: the model, as in every format, in the emulator and on this computer; `src/main.c` compiled and run
against stand-ins for the Zephyr functions it calls; the names in `app.overlay` and the CMake files against Zephyr's
sources. Not checked: the options in `prj.conf`. Zephyr itself was not at hand: this application has not been built with
`west`.

The model on this computer, against the golden logits:

    cmake -S test -B build-test && cmake --build build-test && ctest --test-dir build-test

The console says `ready` and then answers every picture (nothing but its bytes) with its class.
"""


def _reuse(project: Project) -> str:
    return """## In an existing application, in five steps

1. Copy the folder `model/` into it.
2. In its `CMakeLists.txt`: `add_subdirectory(model)` and `target_link_libraries(app PRIVATE mj_model)`.
3. In its `prj.conf`: `CONFIG_FPU=y`, and at least 8 KiB of stack for the thread that classifies.
4. `#include "mj_model.h"`; call `mj_init()` once. `MJ_OK` means that a built-in picture gave the expected logits.
5. For every picture write `MJ_INPUT_BYTES` bytes to `MJ_INPUT` and call `mj_run(&result)`. `result.class_index` is the
   class, `mj_class_names[...]` its name, `result.logits` the numbers behind it. The run overwrites the picture.
"""


FORMAT = Format(
    "zephyr",
    "an application for Zephyr, the model as a library",
    _files,
    _readme,
    firmware=False,
    reuse=_reuse,
    listing=(
        ("model/CMakeLists.txt", "the model as a library for Zephyr's build"),
        ("src/main.c", "the application; begin here"),
        ("prj.conf", "the options of Zephyr that it needs"),
        ("test/", "the golden test, for this computer"),
    ),
)
