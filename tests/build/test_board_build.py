"""Firmware built by zig (and by GCC where it is installed): sizes, placement, refusals, file formats."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from millijoule.boards import load_board
from millijoule.build import Image, Segment, build_board, compiler_flags, intel_hex, read_image
from millijoule.errors import FormatError, OptionError, OutputError, PlacementError, ToolchainError

MODEL = Path(__file__).parents[1] / "fixtures" / "tiny_model"
BOARDS = ("stm32l4r9i", "stm32h7b3i")


def model_files() -> dict[str, str]:
    return {path.name: path.read_text() for path in MODEL.iterdir()}


@pytest.fixture(scope="module", params=BOARDS)
def image(request: pytest.FixtureRequest) -> Image:
    return build_board(model_files(), request.param, strict=True)


def test_sections_lie_in_their_memories(image: Image) -> None:
    board = load_board(image.board)
    places = {section.name: section for section in image.sections}
    assert places[".isr_vector"].address == board.flash.base
    assert places[".isr_vector"].size == 4 * (16 + board.interrupts)
    assert places[".stack"].address == board.data_memory.base and places[".stack"].size == 8192
    arena = image.symbol("mj_arena")
    assert arena.address % 32 == 0 and arena.size == 1024
    assert board.data_memory.base <= arena.address < board.data_memory.end
    assert places[".mj_weights"].size >= 64
    assert image.flash_bytes < 20_000 and image.ram_bytes >= 8192 + 1024


def test_code_is_compiled_for_the_board_s_unit(image: Image) -> None:
    assert image.fp_architecture == {"stm32l4r9i": 6, "stm32h7b3i": 8}[image.board]
    assert "zig" in image.compiler and "-O3" in image.flags and "-Werror" in image.flags


def test_layers_are_functions_of_their_own(image: Image) -> None:
    layers = [name for name in image.symbols if name.startswith("mj_layer_0")]
    assert sorted(layers) == ["mj_layer_000_square", "mj_layer_001_mix", "mj_layer_002_softmax"]
    first = image.symbol("mj_layer_000_square")
    assert image.function_at(first.address + 4) == first.name
    assert image.function_at(0x0810_0000) == "?"
    with pytest.raises(FormatError, match="no symbol nonsense"):
        image.symbol("nonsense")


def test_binary_and_hex_hold_the_same_bytes(image: Image, tmp_path: Path) -> None:
    binary = image.binary()
    assert len(binary) >= image.flash_bytes and binary[4:8] == (image.symbol("Reset_Handler").address | 1).to_bytes(
        4, "little"
    )
    image.save_binary(tmp_path / "a.bin")
    image.save_hexadecimal(tmp_path / "a.hex")
    assert (tmp_path / "a.bin").read_bytes() == binary
    memory, upper = {}, 0
    for line in (tmp_path / "a.hex").read_text().split():
        record = bytes.fromhex(line[1:])
        assert sum(record) & 0xFF == 0 and len(record) == record[0] + 5
        address, data = int.from_bytes(record[1:3], "big"), record[4:-1]
        if record[3] == 4:
            upper = int.from_bytes(data, "big") << 16
        elif record[3] == 0:
            memory.update({upper + address + number: byte for number, byte in enumerate(data)})
    start = load_board(image.board).flash.base
    assert bytes(memory.get(start + n, 0xFF) for n in range(len(binary))) == binary


def test_intel_hex_record_of_the_specification() -> None:
    # The well-known example record of 16 bytes at 0x0100.
    data = bytes.fromhex("214601360121470136007EFE09D21901")
    assert ":10010000214601360121470136007EFE09D2190140" in intel_hex([Segment(0x0100, data)])
    crossing = intel_hex([Segment(0x0000FFFE, b"abcd")]).split()
    assert crossing == [":02FFFE0061623E", ":020000040001F9", ":02000000636437", ":00000001FF"]


def test_a_second_build_comes_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = model_files()
    first = build_board(files, "stm32l4r9i", out=tmp_path / "a.elf")
    monkeypatch.setattr("millijoule.build.board.run", lambda *_, **__: pytest.fail("the compiler ran again"))
    second = build_board(files, "stm32l4r9i", out=tmp_path / "b.elf")
    assert first.elf.read_bytes() == second.elf.read_bytes() and first.arena_memory == second.arena_memory


@pytest.mark.parametrize(
    ("board", "arena", "memory"),
    [("stm32h7b3i", 100_000, "DTCM"), ("stm32h7b3i", 130_000, "AXI"), ("stm32l4r9i", 600_000, "SRAM")],
)
def test_the_arena_goes_to_the_first_memory_it_fits(board: str, arena: int, memory: str) -> None:
    image = build_board(model_files(), board, defines={"MJ_ARENA_BYTES": str(arena)})
    place = next(m for m in load_board(board).memories if m.name == memory)
    symbol = image.symbol("mj_arena")
    assert image.arena_memory == memory
    assert place.base <= symbol.address and symbol.address + arena <= place.end


@pytest.mark.parametrize(("board", "arena"), [("stm32l4r9i", 650_000), ("stm32h7b3i", 1_048_576)])
def test_an_arena_that_does_not_fit_is_refused_with_the_bytes(board: str, arena: int) -> None:
    with pytest.raises(PlacementError, match=rf"arena of {arena} bytes: (SRAM|AXI) of STM32\w+ has \d+ bytes"):
        build_board(model_files(), board, defines={"MJ_ARENA_BYTES": str(arena)})


def test_a_stack_larger_than_its_memory_is_refused() -> None:
    with pytest.raises(PlacementError, match="of stack: DTCM"):
        build_board(model_files(), "stm32h7b3i", stack_bytes=131_072)


def test_a_program_larger_than_flash_is_refused() -> None:
    files = model_files()
    files["big.c"] = "const unsigned char big[2200000] __attribute__((used, retain)) = {1};\n"
    with pytest.raises(PlacementError, match=r"FLASH"):
        build_board(files, "stm32l4r9i")


def test_the_compiler_s_first_error_is_quoted() -> None:
    files = model_files()
    files["wrong.c"] = "int wrong(void)\n{\n    return undeclared;\n}\n"
    with pytest.raises(ToolchainError, match=r"wrong\.c.*undeclared"):
        build_board(files, "stm32l4r9i")
    files["wrong.c"] = "int missing(void);\nint wrong(void);\nint wrong(void) { return missing(); }\n"
    files["mj_model.c"] = files["mj_model.c"].replace("return MJ_OK;", "extern int wrong(void); return wrong();", 1)
    with pytest.raises(ToolchainError, match="undefined symbol: missing"):
        build_board(files, "stm32l4r9i")


def test_strict_builds_refuse_warnings() -> None:
    files = model_files()
    files["warned.c"] = "int warned(int unused);\nint warned(int unused) { return 0; }\n"
    build_board(files, "stm32l4r9i")
    with pytest.raises(ToolchainError, match="unused parameter"):
        build_board(files, "stm32l4r9i", strict=True)


def test_wrong_options_are_refused(tmp_path: Path) -> None:
    board = load_board("stm32l4r9i")
    with pytest.raises(OptionError, match="optimisation"):
        compiler_flags(board, optimize="-Ofast")
    with pytest.raises(OptionError, match="no flags for it"):
        compiler_flags(board, "icc")
    with pytest.raises(OptionError, match=r"mj_model\.h"):
        build_board({"a.c": ""}, board)
    with pytest.raises(OptionError, match="inside the project"):
        build_board({**model_files(), "../escape.c": "int x;\n"}, board)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        build_board(model_files(), board, out=tmp_path / "file" / "a.elf")


def test_an_image_for_another_unit_is_refused() -> None:
    from dataclasses import replace

    board = load_board("stm32l4r9i")
    soft = {"zig": ("-target", "thumb-freestanding-eabihf", "-mcpu=cortex_m7+fp_armv8d16sp")}
    with pytest.raises(ToolchainError, match="floating point architecture 8, not for fpv4-sp-d16"):
        build_board(model_files(), replace(board, target_flags=soft))


def test_foreign_files_are_no_images(tmp_path: Path) -> None:
    path = tmp_path / "a.elf"
    path.write_bytes(b"\x7fELF" + b"\0" * 8)
    with pytest.raises(FormatError, match="no intact ELF"):
        read_image(path, "stm32l4r9i")
    path.write_bytes(b"GIF89a")
    with pytest.raises(FormatError):
        read_image(path, "stm32l4r9i")
    with pytest.raises(FormatError, match="cannot be read"):
        read_image(tmp_path / "none.elf", "stm32l4r9i")
    with pytest.raises(FormatError, match="no linked ELF for Arm"):
        read_image(Path(shutil.which("true") or "/bin/true").resolve(), "stm32l4r9i")


@pytest.mark.skipif(shutil.which("arm-none-eabi-gcc") is None, reason="arm-none-eabi-gcc is not installed")
@pytest.mark.parametrize("board", BOARDS)
def test_gcc_builds_the_same_firmware(board: str) -> None:
    image = build_board(model_files(), board, compiler="gcc", strict=True)
    assert "gcc" in image.compiler and image.fp_architecture == build_board(model_files(), board).fp_architecture


@pytest.mark.skipif(shutil.which("arm-none-eabi-gcc") is not None, reason="arm-none-eabi-gcc is installed")
def test_a_missing_gcc_is_refused() -> None:
    with pytest.raises(ToolchainError, match="not on the PATH"):
        build_board(model_files(), "stm32l4r9i", compiler="gcc")
