"""The README of an exported project: what a firmware engineer asks, in the order in which it is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from millijoule import __version__
from millijoule.boards import Pin

if TYPE_CHECKING:
    from millijoule.deploy.export.project import Format, Project

__all__ = ["flash_section", "readme"]

_CODE = (".isr_vector", ".text", ".ARM.extab", ".ARM.exidx")


def readme(project: Project, kind: Format) -> str:
    """The README's text; the format gives the sections on building and flashing."""
    program = project.program
    graph = program.graph
    _, height, width, channels = graph.tensor(graph.inputs[0]).shape
    classes = ", ".join(graph.classes) or "unnamed"
    colour, resize = graph.picture.colour.upper(), graph.picture.resize
    return f"""# {program.name} on {project.board.title}

Made by millijoule {__version__}: {kind.title}. Everything that is needed is in this folder.

| | |
|---|---|
| picture | {height} x {width} x {channels} bytes, {colour}, rows from top to bottom; resize rule: {resize} |
| classes | {classes} |
| work | {program.macs:,} multiply-accumulate operations for one picture |
| API | `{kind.model}/mj_model.h`: `mj_init`, `mj_run`, `mj_profile`; C11, callable from C++ |

{kind.readme(project)}
{_memory(project, kind)}
{kind.reuse(project) if kind.reuse else _reuse(project, kind)}
## Files

{_files(kind)}
## Licence

The C code is Apache-2.0 (`LICENSE`); keep that file with it. The weights, the class names and whatever else came out of
your training are yours: millijoule claims nothing in them. What you write around the model may have any licence.
"""


def flash_section(project: Project, elf: str = "build/firmware.elf") -> str:
    """How the firmware gets onto the board, and what to see then."""
    board = project.board
    probe = board.probe
    files = " ".join(f"-f {name}" for name in probe.openocd) if probe else "-f interface/stlink.cfg -f target/CHIP.cfg"
    target = probe.pyocd if probe else "CHIP"
    console = board.console
    return f"""## Flash

With a debug probe (most development boards have an ST-LINK); any one of these:

    openocd {files} -c "program {elf} verify reset exit"
    pyocd flash --target {target} {elf}
    STM32_Programmer_CLI -c port=SWD -w {elf} -v -rst

(pyOCD wants the chip's pack once: `pyocd pack install {target}`.) `firmware.elf`, `firmware.bin` (for address
{board.flash.base:#010x}) and `firmware.hex` in this folder are built already, with {project.image.compiler}: flash one
of them to see the model run before anything is installed.

The board says `ready` on {console.peripheral} ({console.baud} baud, 8N1; transmit {_pin(console.transmit)}, receive
{_pin(console.receive)}) and then answers every picture (nothing but its bytes) with its class. From Linux:

    stty -F /dev/ttyACM0 {console.baud} raw -echo
    head -n 1 /dev/ttyACM0 & cat picture.rgb > /dev/ttyACM0; wait

`picture.rgb` holds nothing but the picture's bytes, for example from ImageMagick:
`convert photo.jpg -resize {_size(project)}! -depth 8 rgb:picture.rgb`. Without a board, and with millijoule installed
(end it with Ctrl-C):

    millijoule emulate firmware.elf --board {board.name} < picture.rgb
"""


def _pin(pin: Pin) -> str:
    return f"P{pin.port}{pin.pin}"


def _size(project: Project) -> str:
    graph = project.program.graph
    _, height, width, _ = graph.tensor(graph.inputs[0]).shape
    return f"{width}x{height}"


def _memory(project: Project, kind: Format) -> str:
    program, image, board = project.program, project.image, project.board
    sizes = image.section_bytes
    plan = program.plan
    peak = program.layers[plan.peak_steps()[0]].name if plan.peak_steps() else "?"
    code = sum(sizes.get(name, 0) for name in _CODE)
    arena = f"{program.arena_bytes:,} | arena: picture, activations, scratch; layer `{peak}` needs the most"
    if not kind.firmware:
        return f"""## Where RAM and flash go

| bytes | what |
|---:|---|
| {arena} |
| {program.weight_bytes:,} | weights, biases, multipliers and tables, in flash (`.rodata.mj_weights`) |
| {code:,} | code at most: what a whole firmware of this model has with {image.compiler} |

No other RAM but a stack of less than {image.stack_bytes:,} bytes. No plan of these layers can have a smaller arena than
{plan.lower_bound:,} bytes. The figures were checked against {board.title}; other chips may have less.
"""
    fences = sizes.get(".mj_arena", 0) + sizes.get(".mj_fast", 0) - program.arena_bytes
    places = image.arena_memory
    if plan.fast_bytes:
        places += f", {plan.fast_bytes:,} of them (`mj_fast`) in {image.fast_memory}, which answers at once"
    constants = program.weight_bytes
    rest = image.flash_bytes - code - constants
    return f"""## Where RAM and flash go

| flash, bytes | what |
|---:|---|
| {constants:,} | weights, biases, multipliers and tables (`.mj_weights`) |
| {code:,} | code and vector table (`.text`, `.isr_vector`) |
| {rest:,} | texts, tables, initial values (`.rodata`, `.data`), alignment |
| {image.flash_bytes:,} | all together, of {board.flash.size:,}: {image.flash_bytes / board.flash.size:.1%} |

| RAM, bytes | what |
|---:|---|
| {arena}; in {places} |
| {fences:,} | words around the arena that show whether something wrote beside it |
| {image.stack_bytes:,} | stack, at the bottom of {board.data_memory.name}: an overflow faults, no data is lost |
| {sizes.get(".data", 0) + sizes.get(".bss", 0):,} | variables (`.data`, `.bss`) |
| {image.ram_bytes:,} | all together, of {board.ram_bytes:,}: {image.ram_bytes / board.ram_bytes:.1%} |

Sizes with {image.compiler}. No plan of these layers can have a smaller arena than {plan.lower_bound:,} bytes.
"""


def _reuse(project: Project, kind: Format) -> str:
    model, source = kind.model, kind.source
    fast = ""
    if project.program.plan.fast_bytes:
        fast = """
   `mj_fast`, `MJ_FAST_BYTES` of these bytes, is what every row needs: it has the section `.bss.mj_fast`, or what
   `-DMJ_FAST=` says. In tightly coupled memory the model is faster; anywhere else it gives the same results."""
    return f"""## In an existing project, in five steps

1. Copy the folder `{model}/`. It needs nothing else from here, no operating system, and of a C library only `memcpy`
   and `memset`.
2. Compile `{source}/*.c` as C11 with `-O3 -ffp-contract=off` for your core; include path: `{model}`.
3. Give the arena a place: `.mj_arena (NOLOAD) : {{ *(.mj_arena) }} > RAM` in the linker script, in the fastest RAM
   with room for `MJ_ARENA_BYTES`; or compile with `-DMJ_ARENA=`, and it lies in `.bss` like any other variable.{fast}
4. Call `mj_init()` once, with the floating-point unit and the caches on. `MJ_OK` means that a built-in picture gave
   the expected logits: compiler, flags, flash and RAM are right.
5. For every picture write `MJ_INPUT_BYTES` bytes to `MJ_INPUT` and call `mj_run(&result)`. `result.class_index` is the
   class, `mj_class_names[...]` its name, `result.logits` the numbers behind it. The run overwrites the picture.
"""


def _files(kind: Format) -> str:
    model, source = kind.model, kind.source
    rows = [
        (f"{model}/mj_model.h", "the model's only public header"),
        (f"{source}/", "the model: one function per layer, kernels, weights; generated, not to be edited"),
    ]
    rows += kind.listing
    if kind.firmware:
        rows += [
            ("src/main.c", "the main program; begin here"),
            ("board/", "start-up, clock, serial line, printing, fault report; no vendor library"),
            ("firmware.ld", "the linker script"),
            ("test/", "the golden test, for this computer and for the board"),
            ("firmware.elf, .bin, .hex", "the firmware, built already"),
        ]
    rows.append(("millijoule.json", "memory plan, layers and sizes, for programs"))
    return "| | |\n|---|---|\n" + "".join(f"| `{name}` | {what} |\n" for name, what in rows)
