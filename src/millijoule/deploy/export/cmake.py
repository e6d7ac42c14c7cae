"""Format "cmake": a folder that CMake builds with arm-none-eabi-gcc, or with zig."""

from __future__ import annotations

import json

from millijoule.deploy.export._readme import flash_section
from millijoule.deploy.export.project import Format, Project, sources

__all__ = ["FORMAT"]

_COMPILERS = ("gcc", "zig")


def _files(project: Project) -> dict[str, str]:
    return {
        **project.bare_metal,
        "CMakeLists.txt": _lists(project),
        "CMakePresets.json": _presets(),
        "test/CMakeLists.txt": host_lists(project),
        **{f"cmake/{compiler}.cmake": _toolchain(project, compiler) for compiler in _COMPILERS},
    }


def _target_flags(project: Project, compiler: str) -> list[str]:
    return list(project.board.target_flags[compiler])


def _lists(project: Project) -> str:
    shared = [flag for flag in project.flags("gcc") if flag not in _target_flags(project, "gcc")]
    linked = " ".join(flag for flag in shared if not flag.startswith("-W"))
    model = "\n    ".join(sources(project.firmware, "model"))
    board = "\n    ".join(sources(project.firmware, "board"))
    return f"""# {project.board.title}. cmake --preset gcc && cmake --build --preset gcc; see README.md.
cmake_minimum_required(VERSION 3.21)
if(NOT CMAKE_TOOLCHAIN_FILE)
  set(CMAKE_TOOLCHAIN_FILE ${{CMAKE_CURRENT_LIST_DIR}}/cmake/gcc.cmake)
endif()
project({project.name} LANGUAGES C)

# Debug information without this folder's path: wherever it lies, the files come out the same.
add_compile_options({" ".join(shared)} ${{MJ_COMPILE_OPTIONS}}
    -g -ffile-prefix-map=${{CMAKE_SOURCE_DIR}}=. -ffile-prefix-map=${{CMAKE_BINARY_DIR}}=build)

# The model: link it to anything, include mj_model.h.
add_library(model OBJECT
    {model})
target_include_directories(model PUBLIC model)

# Start-up, clock, serial line, printing.
add_library(board OBJECT
    {board})
target_include_directories(board PUBLIC board)
if(CMAKE_C_COMPILER_ID STREQUAL "GNU")
  # GCC would turn the loops of memcpy and memset into calls of themselves.
  set_source_files_properties(board/memory.c PROPERTIES COMPILE_OPTIONS -fno-tree-loop-distribute-patterns)
endif()

# All objects come from libraries, so that they are linked in this order: the same bytes as with make.
function(add_firmware name)
  add_library(${{name}}_main OBJECT ${{ARGN}})
  target_include_directories(${{name}}_main PRIVATE model board)
  add_executable(${{name}} $<TARGET_OBJECTS:board> $<TARGET_OBJECTS:model> $<TARGET_OBJECTS:${{name}}_main>)
  # The compiler's flags are for zig, which compiles its own library when it links.
  target_link_options(${{name}} PRIVATE {linked} ${{MJ_COMPILE_OPTIONS}}
      -nostdlib -Wl,-T,${{CMAKE_SOURCE_DIR}}/firmware.ld -Wl,-e,Reset_Handler
      -Wl,--gc-sections)
  target_link_libraries(${{name}} PRIVATE ${{MJ_LINK_LIBRARIES}})
  set_target_properties(${{name}} PROPERTIES SUFFIX .elf LINKER_LANGUAGE C
      LINK_DEPENDS ${{CMAKE_SOURCE_DIR}}/firmware.ld)
  if(MJ_OBJCOPY)
    add_custom_command(TARGET ${{name}} POST_BUILD
        COMMAND ${{MJ_OBJCOPY}} -O binary $<TARGET_FILE:${{name}}> ${{name}}.bin
        COMMAND ${{MJ_OBJCOPY}} -O ihex $<TARGET_FILE:${{name}}> ${{name}}.hex
        VERBATIM)
  endif()
endfunction()

add_firmware(firmware src/main.c)

# The golden test on the board: cmake --build --preset gcc --target golden.
add_firmware(golden test/golden.c test/golden_board.c)
set_target_properties(golden PROPERTIES EXCLUDE_FROM_ALL TRUE)
"""


def _toolchain(project: Project, compiler: str) -> str:
    flags = " ".join(_target_flags(project, compiler))
    head = """set(CMAKE_SYSTEM_NAME Generic)
set(CMAKE_SYSTEM_PROCESSOR arm)
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
"""
    if compiler == "gcc":
        return f"""# arm-none-eabi-gcc from the PATH.
{head}set(CMAKE_C_COMPILER arm-none-eabi-gcc)
set(CMAKE_C_FLAGS_INIT "{flags}")
set(MJ_OBJCOPY arm-none-eabi-objcopy)
set(MJ_LINK_LIBRARIES -nostartfiles gcc)
"""
    return f"""# zig, from the PATH or from Python (pip install ziglang).
{head}find_program(ZIG zig)
if(ZIG)
  set(MJ_ZIG ${{ZIG}})
else()
  find_program(MJ_PYTHON NAMES python3 python REQUIRED)
  set(MJ_ZIG ${{MJ_PYTHON}} -m ziglang)
endif()
set(CMAKE_C_COMPILER ${{MJ_ZIG}} cc)
set(CMAKE_C_COMPILER_WORKS TRUE)
set(CMAKE_C_FLAGS_INIT "{flags}")
# zig's objcopy ignores load addresses: every flashing program takes the ELF file.
set(MJ_OBJCOPY)
set(MJ_COMPILE_OPTIONS -fno-sanitize=all)
set(MJ_LINK_LIBRARIES -rtlib=compiler-rt)
"""


def _presets() -> str:
    configure = [
        {
            "name": compiler,
            "binaryDir": f"${{sourceDir}}/build/{compiler}",
            "toolchainFile": f"${{sourceDir}}/cmake/{compiler}.cmake",
        }
        for compiler in _COMPILERS
    ]
    build = [{"name": compiler, "configurePreset": compiler} for compiler in _COMPILERS]
    presets = {"version": 3, "configurePresets": configure, "buildPresets": build}
    return json.dumps(presets, indent=2) + "\n"


def host_lists(project: Project, model: str = "../model", source: str = "../model/source") -> str:
    """The CMakeLists.txt of the golden test on this computer.

    Args:
        project: what is tested.
        model: the folder of mj_model.h, seen from the test's folder.
        source: the folder of the model's C files.
    """
    names = [name.rsplit("/", 1)[-1] for name in sources(project.model(), "model")]
    files = "\n    ".join(f"{source}/{name}" for name in names)
    return f"""# The golden test on this computer; see README.md.
cmake_minimum_required(VERSION 3.21)
project({project.name}_golden LANGUAGES C)
enable_testing()
add_executable(golden golden.c golden_host.c
    {files})
set_target_properties(golden PROPERTIES C_STANDARD 11 C_EXTENSIONS OFF)
target_include_directories(golden PRIVATE {model})
target_compile_options(golden PRIVATE -O2 -ffp-contract=off)
add_test(NAME golden COMMAND golden)
"""


def _readme(project: Project) -> str:
    elf = "build/gcc/firmware.elf"
    return f"""## Build

    cmake --preset gcc && cmake --build --preset gcc     # arm-none-eabi-gcc
    cmake --preset zig && cmake --build --preset zig     # zig (pip install ziglang)

gives `{elf}`, `.bin` and `.hex`, or `build/zig/firmware.elf`. No C library is needed. `--target golden`
builds the golden test for the board: it prints `golden: pass`. On this computer:

    cmake -S test -B build/test && cmake --build build/test && ctest --test-dir build/test

{flash_section(project, elf)}"""


FORMAT = Format(
    "cmake",
    "a CMake project for arm-none-eabi-gcc or zig",
    _files,
    _readme,
    firmware=True,
    listing=(("CMakeLists.txt, CMakePresets.json", "the build"), ("cmake/", "one toolchain file per compiler")),
)
