"""Exported projects built by their own build files, and run: every bit must be the executor's.

The firmware formats run on the emulated board, fed over the serial line; the formats for other systems are built
against stand-ins for the few functions they call, and run on this computer.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from exported import ZIG, check_on_board, cmake, execute, golden_verdict, lines, make, needs
from millijoule.build import read_image
from millijoule.compile import Program, compile_graph
from millijoule.deploy import export_project
from millijoule.deploy.export.project import Project
from networks import LAYERS, random_network, random_pictures

COMPILERS = [pytest.param("gcc", marks=needs("gcc")), pytest.param("zig", marks=pytest.mark.slow)]
OTHER_BOARDS = ["stm32h7b3i", "nucleo_l4r5zi", "nucleo_h7a3zi_q"]
pytestmark = needs("zig", "emulator")


def program_for(board: str = "stm32l4r9i") -> Program:
    return compile_graph(random_network(["conv", "depthwise"], 4), board, name="shed")


# *** make, cmake *****


@needs("make", "cc")
@pytest.mark.parametrize("compiler", COMPILERS)
def test_make_builds_the_firmware_and_both_golden_tests(compiler: str, tmp_path: Path) -> None:
    program = program_for()
    folder = export_project(program, tmp_path / "project", compiler=compiler)
    text = make(folder, compiler, "all", "golden")
    assert "warning" not in text
    check_on_board(folder / "build/firmware.elf", program, random_pictures(program.graph, 2))
    assert golden_verdict(folder / "build/golden.elf", "stm32l4r9i") == "golden: pass\r\n"
    # The images in the folder are what its own build makes, byte by byte.
    made = read_image(folder / "build/firmware.elf", "stm32l4r9i")
    assert made.binary() == (folder / "firmware.bin").read_bytes()
    if compiler == "gcc":
        assert (folder / "build/firmware.bin").read_bytes() == made.binary()
        assert (folder / "build/firmware.hex").stat().st_size > 2 * len(made.binary())
        assert "golden: 0 of" in make(folder, compiler, "test")
    make(folder, compiler, "clean")
    assert not (folder / "build").exists()


@pytest.mark.slow
@needs("cmake")
@pytest.mark.parametrize("compiler", COMPILERS)
def test_cmake_builds_the_firmware_and_both_golden_tests(compiler: str, tmp_path: Path) -> None:
    program = program_for("stm32h7b3i")
    folder = export_project(program, tmp_path / "project", format="cmake", compiler=compiler)
    built = cmake(folder, compiler)
    check_on_board(built / "firmware.elf", program, random_pictures(program.graph, 2))
    assert read_image(built / "firmware.elf", "stm32h7b3i").binary() == (folder / "firmware.bin").read_bytes()
    if compiler == "gcc":
        assert (built / "firmware.bin").read_bytes() == (folder / "firmware.bin").read_bytes()
        cmake(folder, compiler, "golden")
        assert golden_verdict(built / "golden.elf", "stm32h7b3i") == "golden: pass\r\n"


@pytest.mark.slow
@needs("cmake", "cc")
def test_cmake_runs_the_golden_test_on_this_computer(tmp_path: Path) -> None:
    folder = export_project(program_for(), tmp_path / "project", format="cmake")
    execute(["cmake", "-S", "test", "-B", "build/test"], folder)
    execute(["cmake", "--build", "build/test"], folder)
    assert "100% tests passed" in execute(["ctest", "--test-dir", "build/test"], folder)


@pytest.mark.slow
@needs("make", "gcc")
def test_the_place_of_a_project_does_not_change_its_firmware(tmp_path: Path) -> None:
    elves = []
    for place in ("here", "somewhere/else/deep"):
        folder = export_project(program_for(), tmp_path / place)
        make(folder, "gcc")
        elves.append((folder / "build/firmware.elf").read_bytes())
    assert elves[0] == elves[1] and b".debug_line" in elves[0]
    assert str(tmp_path).encode() not in elves[0]


@needs("make", "cc")
def test_the_golden_test_finds_a_wrong_weight(tmp_path: Path) -> None:
    program = program_for()
    folder = export_project(program, tmp_path / "project")
    weights = folder / "model/source/mj_weights.c"
    text = weights.read_text()
    start = text.rindex(".weights = {")  # of the last layer, whose result are the logits
    changed = re.sub(r"-?\d+", lambda match: str(-int(match.group())), text[start : text.index("}", start)])
    weights.write_text(text[:start] + changed + text[text.index("}", start) :])
    verdict = execute(["make", "-C", "test"], folder, refused=True)
    assert "self-test: FAIL" in verdict and not re.search(r"golden: 0 of", verdict)


@pytest.mark.slow
@needs("make", "cmake", "gcc")
@pytest.mark.parametrize("board", OTHER_BOARDS)
def test_every_board_and_layer_builds_with_make_and_cmake(board: str, tmp_path: Path) -> None:
    program = compile_graph(random_network(LAYERS, 5), board)
    pictures = random_pictures(program.graph, 1)
    project = export_project(program, tmp_path / "make")
    other = export_project(program, tmp_path / "cmake", format="cmake")
    for compiler in ("gcc", "zig"):
        make(project, compiler, "clean", "all")
        check_on_board(project / "build/firmware.elf", program, pictures)
        check_on_board(cmake(other, compiler) / "firmware.elf", program, pictures)


@pytest.mark.slow
def test_the_firmware_talks_to_millijoule_emulate(tmp_path: Path) -> None:
    program = program_for()
    folder = export_project(program, tmp_path / "project")
    pictures = random_pictures(program.graph, 2)
    command = [sys.executable, "-m", "millijoule", "emulate", "firmware.elf", "--board", "stm32l4r9i"]
    greeting, *classes = lines(program, pictures)
    said = execute([*command, "--until", f"{greeting}\r\n{classes[0]}\r\n"], folder, stdin=pictures.tobytes())
    assert said.split()[:1] == ["ready"] and classes[0] in said


# *** cubeide *****


def cubeide_commands(folder: Path, configuration: str) -> tuple[list[list[str]], list[str]]:
    """What STM32CubeIDE would call for the settings in `.cproject`: one command per source, and the linker's."""
    root = ElementTree.parse(folder / ".cproject").getroot()
    chosen = next(item for item in root.iter("configuration") if item.get("name") == configuration)

    def option(ending: str) -> ElementTree.Element:
        return next(item for item in chosen.iter("option") if item.get("superClass", "").endswith(ending))

    def value(ending: str) -> str:
        return option(ending).get("value", "").rsplit(".value.", 1)[-1]

    def values(ending: str) -> list[str]:
        return [item.get("value", "") for item in option(ending).iter("listOptionValue")]

    core = {"STM32L4": "cortex-m4", "STM32H7": "cortex-m7"}[value("option.target_mcu")[:7]]
    target = [f"-mcpu={core}", "-mthumb", f"-mfpu={value('option.fpu')}", f"-mfloat-abi={value('option.floatabi')}"]
    flags = ["-std=gnu11", f"-{value('compiler.option.debuglevel')}", f"-O{value('optimization.level')[1:]}"]
    flags += ["-ffunction-sections", "-fdata-sections", "-Wall", *values("tool.c.compiler.option.otherflags")]
    includes = [f"-I{place}" for place in values("compiler.option.includepaths")]
    build = folder / configuration
    build.mkdir()
    compiles, objects = [], []
    for entry in chosen.iter("entry"):
        for number, source in enumerate(sorted((folder / entry.get("name", "")).rglob("*.c"))):
            objects.append(f"{entry.get('name')}_{number}.o")
            name = f"../{source.relative_to(folder)}"
            compiles.append(["arm-none-eabi-gcc", name, *target, *flags, *includes, "-c", "-o", objects[-1]])
    script = value("linker.option.script").replace("${workspace_loc:/${ProjName}/", "../").rstrip("}")
    link = ["arm-none-eabi-gcc", "-o", "project.elf", *objects, *target, "-T", script, "-Wl,--gc-sections", "-static"]
    # The IDE ends with -lc -lm; newlib may be missing here, and nothing of it is used.
    return compiles, [*link, *values("tool.c.linker.option.otherflags"), "-nodefaultlibs", "-lgcc"]


@needs("gcc")
@pytest.mark.parametrize("configuration", ["Release", pytest.param("Debug", marks=pytest.mark.slow)])
def test_the_settings_of_the_cubeide_project_build_firmware_that_runs(configuration: str, tmp_path: Path) -> None:
    program = program_for()
    folder = export_project(program, tmp_path / "project", format="cubeide")
    compiles, link = cubeide_commands(folder, configuration)
    for command in compiles:
        assert "warning" not in execute(command, folder / configuration)
    execute(link, folder / configuration)
    check_on_board(folder / configuration / "project.elf", program, random_pictures(program.graph, 2))


# *** zephyr *****

ZEPHYR_HEADERS = {
    "zephyr/device.h": """#pragma once
struct device { int number; };
extern const struct device stand_in_console;
#define DT_CHOSEN(name) chosen_##name
#define DEVICE_DT_GET(node) node()
static inline const struct device *chosen_zephyr_console(void) { return &stand_in_console; }
""",
    "zephyr/drivers/uart.h": """#pragma once
#include <zephyr/device.h>
int uart_poll_in(const struct device *dev, unsigned char *p_char);
""",
    "zephyr/kernel.h": """#pragma once
#include <stdint.h>
void printk(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
""",
    "stand_in.c": """#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <zephyr/drivers/uart.h>
#include <zephyr/kernel.h>
const struct device stand_in_console;
void printk(const char *fmt, ...)
{
    va_list arguments;
    va_start(arguments, fmt);
    vprintf(fmt, arguments);
    va_end(arguments);
}
int uart_poll_in(const struct device *dev, unsigned char *p_char)
{
    static int turn;
    if (dev != &stand_in_console || ++turn % 3 == 0) {
        return -1; /* nothing has come yet */
    }
    const int byte = getchar();
    if (byte == EOF) {
        exit(0);
    }
    *p_char = (unsigned char)byte;
    return 0;
}
""",
    # What Zephyr's package gives an application: the languages, the library app, and its interface.
    "ZephyrConfig.cmake": """project(stand_in LANGUAGES C)
add_library(zephyr_interface INTERFACE)
add_custom_target(zephyr_generated_headers)
target_include_directories(zephyr_interface INTERFACE ${CMAKE_CURRENT_LIST_DIR})
target_compile_options(zephyr_interface INTERFACE -Wall -Wextra -Werror -Os -std=c17)
add_library(app STATIC)
target_link_libraries(app PUBLIC zephyr_interface)
add_executable(zephyr ${CMAKE_CURRENT_LIST_DIR}/stand_in.c)
target_link_libraries(zephyr PRIVATE app)
""",
}


@needs("cmake", "cc")
def test_the_zephyr_application_builds_and_classifies_against_stand_ins(tmp_path: Path) -> None:
    program = program_for()
    folder = export_project(program, tmp_path / "project", format="zephyr")
    for name, text in ZEPHYR_HEADERS.items():
        (tmp_path / "zephyr" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "zephyr" / name).write_text(text)
    build = tmp_path / "build"
    execute(["cmake", "-S", str(folder), "-B", str(build), f"-DZephyr_DIR={tmp_path}/zephyr"], tmp_path)
    execute(["cmake", "--build", str(build)], tmp_path)
    pictures = random_pictures(program.graph, 3)
    said = execute([str(build / "zephyr")], tmp_path, stdin=pictures.tobytes())
    assert said.splitlines() == lines(program, pictures)
    # Names of Zephyr's: Kconfig options of its kernel, its serial drivers and its toolchain.
    known = {"SERIAL", "CONSOLE", "UART_CONSOLE", "PRINTK", "FPU", "SPEED_OPTIMIZATIONS", "MAIN_STACK_SIZE"}
    assert set(re.findall(r"^CONFIG_(\w+)=", (folder / "prj.conf").read_text(), re.MULTILINE)) == known
    # The arena is an ordinary variable: no section that Zephyr's linker script does not know.
    object_file = next(build.rglob("mj_model.c.o"))
    assert b".mj_arena" not in object_file.read_bytes()


# *** arduino *****

ARDUINO = """#pragma once
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
struct Line {
    void begin(unsigned long) {}
    void setTimeout(unsigned long) {}
    void println(const char *text) { puts(text); }
    size_t readBytes(uint8_t *to, size_t count)
    {
        const size_t got = fread(to, 1, count, stdin);
        if (got == 0) { exit(0); }
        return got;
    }
};
extern Line Serial;
"""
ARDUINO_MAIN = (
    '#include "Arduino.h"\nLine Serial;\nvoid setup();\nvoid loop();\nint main() { setup(); for (;;) loop(); }\n'
)


@pytest.mark.slow
def test_the_sketch_is_c_plus_plus_and_classifies_against_a_stand_in(tmp_path: Path) -> None:
    program = program_for()
    folder = export_project(program, tmp_path / "project", format="arduino")
    place = tmp_path / "sketch"
    place.mkdir()
    (place / "Arduino.h").write_text(ARDUINO)
    (place / "main.cpp").write_text(ARDUINO_MAIN)
    sketch = folder / "examples/Classify/Classify.ino"
    warnings = ["-Wall", "-Wextra", "-Werror", "-pedantic"]
    sources = sorted(str(path) for path in (folder / "src").rglob("*.c"))
    compiler = [*ZIG.split(), "c++", "-std=c++17", *warnings, "-fno-exceptions", "-fno-rtti", "-fno-sanitize=all"]
    compiler += [f"-I{folder}/src", "-I."]
    execute([*compiler, "-include", "Arduino.h", "-x", "c++", "-c", str(sketch), "-o", "sketch.o"], place)
    execute([*compiler, "-c", "main.cpp", "-o", "main.o"], place)
    # Linked as C: an Arduino sketch of this kind needs nothing of the C++ library.
    library = [*ZIG.split(), "cc", "-std=gnu11", "-Os", *warnings[:3], f"-I{folder}/src", *sources]
    execute([*library, "sketch.o", "main.o", "-o", "classify"], place)
    pictures = random_pictures(program.graph, 3)
    said = execute([str(place / "classify")], place, stdin=pictures.tobytes())
    assert said.splitlines() == lines(program, pictures)


@needs("gcc")
def test_the_arduino_library_is_bit_exact_with_the_flags_of_an_arduino_core(tmp_path: Path) -> None:
    program = program_for()
    folder = export_project(program, tmp_path / "project", format="arduino")
    assert program.board is not None
    board = Project(program, program.board)
    for name, text in {**board.board_support, "main.c": board.firmware["src/main.c"]}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    (folder / "firmware.ld").write_text(board.linker_script)
    target = list(program.board.target_flags["gcc"])
    flags = ["-std=gnu11", "-Os", "-ffunction-sections", "-fdata-sections", "-nostdlib", "-fno-builtin"]
    sources = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.c") if "extras" not in path.parts)
    link = ["-T", "firmware.ld", "-Wl,-e,Reset_Handler", "-Wl,--gc-sections", "-nostartfiles", "-lgcc"]
    command = ["arm-none-eabi-gcc", *target, *flags, "-fno-tree-loop-distribute-patterns", "-Isrc", "-Iboard"]
    execute([*command, *sources, "-o", "firmware.elf", *link], folder)
    image = read_image(folder / "firmware.elf", "stm32l4r9i")
    assert image.symbol("mj_arena").size == program.arena_bytes
    bss = next(section for section in image.sections if section.name == ".bss")
    assert bss.address <= image.symbol("mj_arena").address < bss.address + bss.size
    check_on_board(folder / "firmware.elf", program, random_pictures(program.graph, 2))
