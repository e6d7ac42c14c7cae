"""Format "make": a folder that `make` builds with arm-none-eabi-gcc, or with zig."""

from __future__ import annotations

from pathlib import PurePosixPath

from millijoule.deploy.export._readme import flash_section
from millijoule.deploy.export.project import Format, Project, sources

__all__ = ["FORMAT", "host_makefile", "makefile"]


def _files(project: Project) -> dict[str, str]:
    return {**project.bare_metal, "Makefile": makefile(project), "test/Makefile": host_makefile(project)}


def _lines(names: list[str]) -> str:
    return " \\\n    ".join(names)


def makefile(project: Project) -> str:
    """The Makefile of the firmware and of the golden test on the board."""
    board = project.board
    openocd = " ".join(f"-f {file}" for file in board.probe.openocd) if board.probe else "-f interface/stlink.cfg"
    common = sources(project.firmware, "board", "model")
    objects = [f"build/{PurePosixPath(name).with_suffix('.o')}" for name in common]
    return f"""# {board.title}. make: build/firmware.elf, .bin and .hex with arm-none-eabi-gcc.
# make COMPILER=zig: build/firmware.elf with zig (pip install ziglang). make test: the model on this computer.
# make golden: the golden test as a firmware, build/golden.elf. make flash: to the board with OpenOCD. make clean.
COMPILER ?= gcc
CROSS ?= arm-none-eabi-
ZIG ?= python3 -m ziglang

ifeq ($(COMPILER),zig)
CROSS_CC := $(ZIG) cc
# zig's objcopy ignores load addresses: every flashing program takes the ELF file.
IMAGES := build/firmware.elf
SIZE := @true
FLAGS := {" ".join(project.flags("zig"))}
LINK := -rtlib=compiler-rt
else
CROSS_CC := $(CROSS)gcc
IMAGES := build/firmware.elf build/firmware.bin build/firmware.hex
SIZE := $(CROSS)size
FLAGS := {" ".join(project.flags("gcc"))}
LINK := -nostartfiles -lgcc
# GCC would turn the loops of memcpy and memset into calls of themselves.
build/board/memory.o: FLAGS += -fno-tree-loop-distribute-patterns
endif
# Debug information without this folder's path: wherever it lies, the files come out the same.
DEBUG := -g -ffile-prefix-map=$(CURDIR)=.

OBJECTS := \\
    {_lines(objects)}

.PHONY: all golden test flash clean
all: $(IMAGES)
golden: build/golden.elf

build/firmware.elf: $(OBJECTS) build/src/main.o
build/golden.elf: $(OBJECTS) build/test/golden.o build/test/golden_board.o
build/%.elf: firmware.ld
\t$(CROSS_CC) $(filter-out -W%,$(FLAGS)) -nostdlib -Wl,-T,firmware.ld -Wl,-e,Reset_Handler -Wl,--gc-sections \\
\t    $(filter %.o,$^) -o $@ $(LINK)
\t$(SIZE) $@

build/%.bin: build/%.elf
\t$(CROSS)objcopy -O binary $< $@

build/%.hex: build/%.elf
\t$(CROSS)objcopy -O ihex $< $@

build/%.o: %.c Makefile
\t@mkdir -p $(@D)
\t$(CROSS_CC) $(FLAGS) $(DEBUG) -MMD -MP -Imodel -Iboard -c $< -o $@

test:
\t$(MAKE) -C test

flash: build/firmware.elf
\topenocd {openocd} -c "program $< verify reset exit"

clean:
\trm -rf build test/build

-include $(wildcard build/*/*.d build/*/*/*.d)
"""


def host_makefile(project: Project, model: str = "../model", source: str = "../model/source") -> str:
    """The Makefile of the golden test on this computer.

    Args:
        project: what is tested.
        model: the folder of mj_model.h, seen from the test's folder.
        source: the folder of the model's C files.
    """
    return f"""# The golden test on this computer, with any C11 compiler: make CC="python3 -m ziglang cc".
CC ?= cc

.PHONY: run
run: build/golden
\t./build/golden

build/golden: golden.c golden_host.c golden.h golden_logits.h $(wildcard {source}/*.[ch] {model}/*.h)
\t@mkdir -p $(@D)
\t$(CC) -O2 -std=c11 -ffp-contract=off -Wall -Wextra -I{model} $(filter %.c,$^) -o $@
"""


def _readme(project: Project) -> str:
    return f"""## Build

    make                  # arm-none-eabi-gcc (Debian: apt install gcc-arm-none-eabi make)
    make COMPILER=zig     # zig, nothing else to install (pip install ziglang)

gives `build/firmware.elf`, with GCC also `.bin` and `.hex`. No C library is needed. `make test` compiles the model for
this computer and compares it with the golden logits; `make golden` builds the same test for the board: it prints
`golden: pass`.

{flash_section(project)}"""


FORMAT = Format(
    "make",
    "a Makefile for arm-none-eabi-gcc or zig",
    _files,
    _readme,
    firmware=True,
    listing=(("Makefile", "firmware, golden test, flashing"),),
)
