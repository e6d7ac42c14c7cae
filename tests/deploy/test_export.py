"""Exported folders as files: complete, repeatable, readable, and never in place of somebody else's."""

from __future__ import annotations

import errno
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from exported import needs
from millijoule.boards import load_board
from millijoule.compile import Program, compile_graph
from millijoule.deploy import FORMATS, export_project, export_sources
from millijoule.deploy.export.cubeide import microcontroller
from millijoule.deploy.export.project import identifier
from millijoule.deploy.export.zephyr import zephyr_board
from millijoule.errors import OptionError, OutputError, PlacementError
from networks import random_network

ROOT = Path(__file__).resolve().parents[2]
BOARDS = ("stm32l4r9i", "stm32h7b3i")
FIRMWARE = ("make", "cmake", "cubeide")
pytestmark = needs("zig", "emulator")


def program_for(board: str = "stm32l4r9i", **options: object) -> Program:
    return compile_graph(random_network(["conv", "depthwise"], 4), board, name="shed 2", **options)  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", FORMATS)
def test_a_folder_is_complete_and_says_what_it_is(kind: str, tmp_path: Path) -> None:
    program = program_for()
    folder = export_project(program, tmp_path / "deep" / "project", format=kind)
    assert [path.name for path in folder.parent.iterdir()] == ["project"]
    files = contents(folder)
    assert files["LICENSE"] == (ROOT / "LICENSE").read_bytes()
    summary = json.loads(files["millijoule.json"])
    assert summary["arena_bytes"] == program.arena_bytes
    form = FORMATS[kind]
    for name, text in program.files.items():
        place = f"{form.model}/{name}" if name == "mj_model.h" else f"{form.source}/{name}"
        assert files[place].decode().endswith(text)
    headers = [name for name in files if name.startswith(f"{form.model}/") and name.endswith(".h")]
    assert [name for name in headers if name.count("/") == form.model.count("/") + 1] == [f"{form.model}/mj_model.h"]
    assert (set(files) >= {"firmware.elf", "firmware.bin", "firmware.hex"}) == form.firmware
    readme = files["README.md"].decode()
    assert f"{program.arena_bytes:,}" in readme and f"{program.weight_bytes:,}" in readme
    assert re.findall("^## (.*)$", readme, re.MULTILINE)[-3].endswith("in five steps")
    assert "Apache-2.0" in readme and ("openocd" in readme) == form.firmware
    for name in re.findall(r"^\| `([^`]+)` \|", readme, re.MULTILINE):
        first = name.split(",")[0].rstrip("/")
        assert (folder / first).exists(), f"{name} is listed, but not there"
    assert max(map(len, readme.splitlines())) <= 200


@pytest.mark.parametrize("kind", FORMATS)
def test_the_main_program_is_short(kind: str, tmp_path: Path) -> None:
    folder = export_project(program_for(), tmp_path / "project", format=kind)
    name = "examples/Classify/Classify.ino" if kind == "arduino" else "src/main.c"
    text = (folder / name).read_text()
    assert len(text.splitlines()) <= 20
    assert all(word in text for word in ("mj_init()", "MJ_INPUT", "mj_run(&result)", "mj_class_names"))


def test_two_exports_are_equal_and_tell_nothing_of_this_computer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from millijoule.files import cache_folder

    monkeypatch.setenv("ZIG_GLOBAL_CACHE_DIR", str(cache_folder("zig")))
    folders = []
    for number in (1, 2):
        # Another cache each time: the second firmware is compiled again, in another place.
        monkeypatch.setenv("MILLIJOULE_CACHE", str(tmp_path / f"cache{number}"))
        folders.append(export_project(program_for(), tmp_path / f"project{number}"))
    assert contents(folders[0]) == contents(folders[1])
    traces = [str(tmp_path), sys.prefix, str(Path.home()), str(ROOT), "millijoule-build"]
    for name, content in contents(folders[0]).items():
        for trace in traces:
            assert len(trace) < 4 or trace.encode() not in content, f"{trace} in {name}"


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind != "make"])
def test_every_format_is_repeatable(kind: str, tmp_path: Path) -> None:
    first = export_project(program_for(), tmp_path / "first", format=kind)
    second = export_project(program_for(), tmp_path / "second", format=kind)
    assert contents(first) == contents(second)


@pytest.mark.parametrize("compiler", [pytest.param("gcc", marks=needs("gcc")), "zig"])
def test_the_firmware_loses_its_debug_information_and_nothing_else(compiler: str, tmp_path: Path) -> None:
    from elftools.elf.elffile import ELFFile

    from millijoule.build import read_image
    from millijoule.deploy.export.project import Project

    program = program_for()
    assert program.board is not None
    whole = Project(program, program.board, compiler).image
    bare = read_image(export_project(program, tmp_path / "project", compiler=compiler) / "firmware.elf", whole.board)
    assert bare.sections == whole.sections and bare.segments == whole.segments
    assert bare.symbols == whole.symbols and bare.entry == whole.entry
    assert bare.fp_architecture == whole.fp_architecture != 0
    with bare.elf.open("rb") as file:
        names = [section.name for section in ELFFile(file).iter_sections()]
    assert ".symtab" in names and not [name for name in names if name.startswith(".debug")]
    assert bare.binary() == (tmp_path / "project/firmware.bin").read_bytes()


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    program = program_for()
    folder = export_project(program, tmp_path / "project")
    (folder / "notes.txt").write_text("of an earlier export")
    with pytest.raises(OutputError, match="already"):
        export_project(program, folder, format="cmake")
    export_project(program, folder, format="cmake", overwrite=True)
    assert (folder / "CMakeLists.txt").is_file()
    assert not (folder / "Makefile").exists() and not (folder / "notes.txt").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("keep me")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="other files"):
            export_project(program, tmp_path / "mine", overwrite=overwrite)
    assert contents(tmp_path / "mine") == {"letter.txt": b"keep me"}
    with pytest.raises(OutputError, match="a file"):
        export_project(program, tmp_path / "mine/letter.txt")
    (tmp_path / "empty").mkdir()
    export_sources(program, tmp_path / "empty")
    assert {path.name for path in tmp_path.iterdir()} == {"project", "mine", "empty"}


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = program_for()
    before = contents(export_project(program, tmp_path / "project"))
    written: list[Path] = []
    honest = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        written.append(path)
        if len(written) == 7:
            raise OSError(errno.ENOSPC, "No space left on device")
        return honest(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    for name, overwrite in (("project", True), ("fresh", False)):
        written.clear()
        with pytest.raises(OutputError, match="disk is full"):
            export_project(program, tmp_path / name, format="cmake", overwrite=overwrite)
    assert contents(tmp_path / "project") == before
    assert [path.name for path in tmp_path.iterdir()] == ["project"]


def test_what_cannot_be_exported_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    program = program_for()
    with pytest.raises(OptionError, match=r"'keil'.*make, cmake, cubeide, zephyr, arduino"):
        export_project(program, tmp_path / "a", format="keil")
    with pytest.raises(OptionError, match="for a board"):
        export_project(compile_graph(program.graph), tmp_path / "b")
    with pytest.raises(PlacementError):
        compile_graph(random_network(["conv"], 1, size=(600, 700, 3)), "stm32l4r9i")
    board = load_board("stm32l4r9i")
    # Weights and arena fit, the program does not: only the linker can know.
    small = replace(board, flash=replace(board.flash, size=8192))
    for kind in FORMATS:
        with pytest.raises(PlacementError):
            export_project(replace(program, board=small), tmp_path / "c", format=kind)
    assert list(tmp_path.iterdir()) == []


def test_names_are_identifiers() -> None:
    assert identifier("static 0.5") == "static_0_5"
    assert identifier("0.5") == "model_0_5"
    assert identifier("ä") == "model"


# *** cubeide *****


def test_the_cubeide_project_names_part_sources_and_linker_script(tmp_path: Path) -> None:
    for name, part in (("stm32l4r9i", "STM32L4R9AIIx"), ("stm32h7b3i", "STM32H7B3LIHxQ")):
        assert microcontroller(load_board(name)) == part
    folder = export_project(program_for("stm32h7b3i"), tmp_path / "project", format="cubeide")
    project = ElementTree.parse(folder / ".project").getroot()
    assert project.findtext("name") == "shed_2"
    assert "com.st.stm32cube.ide.mcu.MCUProjectNature" in [item.text for item in project.iter("nature")]
    text = (folder / ".cproject").read_text()
    assert text.startswith('<?xml version="1.0" encoding="UTF-8" standalone="no"?>\n<?fileVersion 4.0.0?>')
    root = ElementTree.fromstring(text)
    configurations = [item.get("name") for item in root.iter("configuration")]
    assert configurations == ["Debug", "Release"]
    numbered = [item.get("id", "") for tag in ("option", "tool", "toolChain") for item in root.iter(tag)]
    assert len(set(numbered)) == len(numbered)
    for item in root.iter("entry"):
        assert (folder / item.get("name", "")).is_dir()
    scripts = [item.get("value", "") for item in root.iter("option") if item.get("name") == "Linker Script (-T)"]
    assert scripts == ["${workspace_loc:/${ProjName}/firmware.ld}"] * 2 and (folder / "firmware.ld").is_file()


# *** zephyr *****


@pytest.mark.parametrize(
    ("board", "arena", "nodes", "kibibytes"),
    [
        ("stm32l4r9i", 100_000, [], 0),
        ("stm32l4r9i", 200_000, ["sram1", "sram2"], 640),
        ("stm32h7b3i", 300_000, ["sram1"], 640),
        ("stm32h7b3i", 700_000, ["sram1", "sram2"], 1024),
    ],
)
def test_zephyr_joins_memories_where_the_arena_needs_it(
    board: str, arena: int, nodes: list[str], kibibytes: int, tmp_path: Path
) -> None:
    from millijoule.deploy.export import zephyr
    from millijoule.deploy.export.project import Project

    program = program_for(board)
    assert program.board is not None
    big = replace(program, plan=replace(program.plan, arena_bytes=arena))
    text = zephyr.FORMAT.files(Project(big, program.board)).get("app.overlay", "")
    assert re.findall(r"/delete-node/ &(\w+);", text) == nodes
    assert re.findall(r"DT_SIZE_K\((\d+)\)", text) == ([str(kibibytes)] if nodes else [])


def test_zephyr_knows_the_boards() -> None:
    for name in BOARDS:
        found = zephyr_board(load_board(name))
        assert found is not None and found.address in {memory.base for memory in load_board(name).memories}
        sizes = {memory.base: memory.size for memory in load_board(name).memories}
        assert max(size for _, size in found.more) == sizes[found.address]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_board_nobody_knows_gets_a_project_too(kind: str, tmp_path: Path) -> None:
    program = program_for()
    assert program.board is not None
    board = replace(program.board, name="stm32l4r9i_mine", title="MY BOARD", probe=None)
    other = replace(board, silicon="stm32l4r9i")
    files = contents(export_project(replace(program, board=other), tmp_path / "project", format=kind))
    assert b"MY BOARD" in files["README.md"] and b"None" not in files["README.md"]
    assert zephyr_board(replace(board, silicon="nothing")) is None
    assert microcontroller(other) == "MY BOARD"


# *** arduino *****


def test_the_arduino_library_keeps_the_specification(tmp_path: Path) -> None:
    graph = replace(random_network(["conv"], 4), classes=())
    folder = export_project(compile_graph(graph, "stm32l4r9i", name="x" * 80), tmp_path / "project", format="arduino")
    fields = dict(line.split("=", 1) for line in (folder / "library.properties").read_text().splitlines())
    required = {"name", "version", "author", "maintainer", "sentence", "paragraph", "category", "url"}
    assert set(fields) == required | {"architectures", "includes"} and all(fields.values())
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_ .-]{0,62}", fields["name"])
    assert re.fullmatch(r"\d+\.\d+\.\d+", fields["version"])
    assert fields["category"] == "Data Processing" and fields["url"].startswith("https://")
    assert not re.search("arduino", fields["name"] + fields["sentence"], re.IGNORECASE)
    for header in fields["includes"].split(","):
        assert (folder / "src" / header).is_file()
    # A sketch is named like its folder; nothing is executable, hidden, or a link.
    assert [path.parent.name for path in folder.rglob("*.ino")] == [path.stem for path in folder.rglob("*.ino")]
    for path in folder.rglob("*"):
        assert not path.name.startswith(".") and not path.is_symlink() and path.suffix not in (".exe", ".a", ".o")
    rows = [line.split("\t") for line in (folder / "keywords.txt").read_text().splitlines()]
    header = (folder / "src/mj_model.h").read_text()
    assert {kind for _, kind in rows} == {"KEYWORD1", "KEYWORD2", "LITERAL1"}
    assert all(re.search(rf"\b{word}\b", header) for word, _ in rows)


def test_float_models_carry_a_tolerance(tmp_path: Path) -> None:
    program = compile_graph(random_network(["conv"], 2, "float"), "stm32l4r9i")
    text = (export_project(program, tmp_path / "project") / "test/golden_logits.h").read_text()
    found = re.search(r"#define GOLDEN_TOLERANCE (\S+?)f?\n", text)
    assert found is not None and 0 < float(found[1]) < 100 and "typedef float golden_logit;" in text
    values = np.array(re.findall(r"-?\d+\.\d+(?:e[+-]\d+)?f", text.split("golden_logits[", 1)[1]))
    assert len(values) >= 3
