"""Format "arduino": a library for the Arduino IDE, with an example sketch.

Layout and `library.properties` follow Arduino's "Library specification", revision 2.2.
"""

from __future__ import annotations

from millijoule import __version__
from millijoule.deploy.export.make import host_makefile
from millijoule.deploy.export.project import Format, Project, c_file

__all__ = ["FORMAT"]

_SOURCES = "mj_model"
# The IDE compiles everything for size and lets GCC fuse multiplications with additions; the kernels want neither.
_HEAD = """#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("O3,fp-contract=off")
#endif
"""
_ARENA = "#define MJ_ARENA /* in .bss, like any other variable */\n"


def _files(project: Project) -> dict[str, str]:
    library = project.model("src", _SOURCES)
    for name, text in library.items():
        if name.endswith(".c"):
            library[name] = _HEAD + (_ARENA if name.endswith("/mj_model.c") else "") + text
    return {
        **library,
        "library.properties": _properties(project),
        "keywords.txt": _keywords(),
        "examples/Classify/Classify.ino": c_file("Classify.ino"),
        **project.golden("extras/test"),
        "extras/test/Makefile": host_makefile(project, "../../src", f"../../src/{_SOURCES}"),
    }


def _library(project: Project) -> str:
    """The library's name: letters, digits and underscores, at most 63 of them."""
    return f"millijoule_{project.name}"[:63]


def _properties(project: Project) -> str:
    program = project.program
    graph = program.graph
    _, height, width, channels = graph.tensor(graph.inputs[0]).shape
    classes = ", ".join(" ".join(name.split()) for name in graph.classes) or "unnamed"
    needs = f"{program.arena_bytes} bytes of RAM and {program.weight_bytes} bytes of flash besides its code"
    return f"""name={_library(project)}
version={__version__}
author=millijoule
maintainer=millijoule
sentence=An image classifier for microcontrollers: a picture in, its class out.
paragraph=Pictures of {height}x{width}x{channels} bytes, classes: {classes}. It needs {needs}.
category=Data Processing
url=https://pypi.org/project/millijoule/
architectures=*
includes=mj_model.h
"""


def _keywords() -> str:
    constants = ("MJ_INPUT", "MJ_INPUT_BYTES", "MJ_CLASSES", "MJ_OK", "mj_class_names", "mj_arena")
    rows = [f"{word}\tKEYWORD1" for word in ("mj_result", "mj_status")]
    rows += [f"{word}\tKEYWORD2" for word in ("mj_init", "mj_run", "mj_profile")]
    rows += [f"{word}\tLITERAL1" for word in constants]
    return "\n".join(rows) + "\n"


def _readme(project: Project) -> str:
    name = _library(project)
    return f"""## Install and run

1. Copy this folder as `{name}` into the folder `libraries` of your sketchbook (or pack it as a .zip and take
   Sketch, Include Library, Add .ZIP Library).
2. Open File, Examples, {name}, Classify; choose your board; upload. With arduino-cli:
   `arduino-cli compile --library . --fqbn YOUR_BOARD examples/Classify`.
3. The serial line (115200 baud) says `ready` and then answers every picture (nothing but its bytes) with its class.

The board needs the RAM and flash given below and a 32-bit core; where the core has the DSP instructions (Cortex-M4 and
M7, most M33), they are used.

What was checked: the library compiled with arm-none-eabi-gcc and an Arduino core's flags, its results right in every
bit in the emulator; the header with a C++ compiler; the sketch compiled as C++ and run on this computer against a
stand-in for `Serial`. The layout follows Arduino's library specification. Neither the IDE nor a board was at hand.

`make -C extras/test` compiles the model for this computer and compares it with the golden logits.
"""


def _reuse(project: Project) -> str:
    return """## In an existing sketch, in five steps

1. Install the library as above.
2. `#include <mj_model.h>`; the header is C and may be included from C++.
3. Call `mj_init()` once, in `setup()`. `MJ_OK` means that a built-in picture gave the expected logits.
4. For every picture write `MJ_INPUT_BYTES` bytes to `MJ_INPUT` and call `mj_run(&result)`; it overwrites the picture.
5. `result.class_index` is the class, `mj_class_names[...]` its name, `result.logits` the numbers behind it.
"""


FORMAT = Format(
    "arduino",
    "a library for the Arduino IDE",
    _files,
    _readme,
    firmware=False,
    model="src",
    source=f"src/{_SOURCES}",
    reuse=_reuse,
    listing=(
        ("examples/Classify/", "the sketch; begin here"),
        ("library.properties, keywords.txt", "for the Arduino IDE"),
        ("extras/test/", "the golden test, for this computer"),
    ),
)
