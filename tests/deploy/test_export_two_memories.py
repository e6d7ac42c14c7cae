"""Exported projects of a model with two arenas: every format builds, and every bit is the executor's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from exported import ZIG, check_on_board, cmake, execute, golden_verdict, lines, make, needs
from millijoule.boards import load_board
from millijoule.build import read_image
from millijoule.compile import Program, compile_graph
from millijoule.deploy import export_project
from networks import random_network, random_pictures

pytestmark = needs("zig", "emulator")


@pytest.fixture(scope="module")
def program() -> Program:
    """A model for an STM32H7B3I with so little tightly coupled memory that its arena does not fit there."""
    full = load_board("stm32h7b3i")
    board = replace(full, memories=(replace(full.memories[0], size=24 * 1024), *full.memories[1:]))
    graph = random_network(["strided", "strided", "pointwise", "depthwise", "pointwise"], 1, size=(64, 64, 3))
    compiled = compile_graph(graph, board, name="shed")
    assert compiled.plan.fast_bytes > 1000
    return compiled


def check(elf: Path, program: Program) -> None:
    assert program.board is not None
    symbols, (fast, large, *_) = read_image(elf, program.board.name).symbols, program.board.memories
    assert large.base <= symbols["mj_arena"].address < large.end
    assert fast.base <= symbols["mj_fast"].address < fast.end
    assert symbols["mj_fast"].size == program.plan.fast_bytes
    check_on_board(elf, program, random_pictures(program.graph, 2))


@needs("make", "gcc")
def test_make_places_both(program: Program, tmp_path: Path) -> None:
    folder = export_project(program, tmp_path / "project", compiler="gcc")
    assert "warning" not in make(folder, "gcc", "all", "golden")
    check(folder / "build/firmware.elf", program)
    assert golden_verdict(folder / "build/golden.elf", program.board.name) == "golden: pass\r\n"
    readme = (folder / "README.md").read_text()
    assert f"{program.plan.fast_bytes:,} of them (`mj_fast`) in DTCM" in readme and "-DMJ_FAST=" in readme


@pytest.mark.slow
@needs("cmake")
def test_cmake_places_both(program: Program, tmp_path: Path) -> None:
    folder = export_project(program, tmp_path / "project", format="cmake", compiler="zig")
    check(cmake(folder, "zig") / "firmware.elf", program)


@pytest.mark.parametrize("flags", (["-DMJ_ARENA=", "-DMJ_FAST="], ["-DMJ_ARENA="], []))
@pytest.mark.parametrize("tool", [pytest.param(ZIG, marks=pytest.mark.slow), pytest.param("gcc", marks=needs("cc"))])
def test_the_model_is_portable_c_with_both_in_bss(
    program: Program, flags: list[str], tool: str, tmp_path: Path
) -> None:
    """As Zephyr and Arduino build it: two variables like any other; the golden picture gives the expected logits."""
    for name, text in program.files.items():
        (tmp_path / name).write_text(text)
    main = '#include "mj_model.h"\n#include <stdio.h>\nint main(void) { printf("%d\\n", mj_init()); return 0; }\n'
    (tmp_path / "main.c").write_text(main)
    command = [*(f"{tool} cc" if tool == ZIG else tool).split(), "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror"]
    command += ["-pedantic", *flags, "-o", "model", *sorted(path.name for path in tmp_path.glob("*.c"))]
    execute(command, tmp_path)
    assert execute([str(tmp_path / "model")], tmp_path) == "0\n"


def test_the_formats_for_other_systems_have_both(program: Program, tmp_path: Path) -> None:
    for kind in ("arduino", "zephyr", "cubeide"):
        folder = export_project(program, tmp_path / kind, format=kind)
        text = next(folder.rglob("mj_model.c")).read_text()
        assert "mj_fast[MJ_FAST_BYTES]" in text
    script = next((tmp_path / "cubeide").rglob("*.ld")).read_text()
    assert "*(.bss.mj_fast)" in script and script.index("*(.bss.mj_fast)") < script.index("*(.bss .bss.*)")
    assert lines(program, random_pictures(program.graph, 1))[0] == "ready"
