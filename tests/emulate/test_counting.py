"""Counters, and what happens without the tools they need."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

import millijoule.emulate as emulate
from millijoule.build import build_board
from millijoule.emulate import Machine, ModelInfo
from millijoule.emulate._counting import NativeCounter, PythonCounter, make_counter
from millijoule.errors import EmulationError, FormatError, ToolchainError

MODEL = Path(__file__).parents[1] / "fixtures" / "tiny_model"
WINDOWS = ((0x08000000, 0x1000), (0x20000000, 0x1000))


def model_files() -> dict[str, str]:
    return {path.name: path.read_text() for path in MODEL.iterdir()}


def test_exports_exist() -> None:
    assert all(hasattr(emulate, name) for name in emulate.__all__)
    assert emulate.__all__ == sorted(emulate.__all__)


def test_the_context_mirrors_the_c_structure() -> None:
    """Field by field, so that a change on one side cannot go unnoticed."""
    from millijoule.emulate import _native

    source = (Path(_native.__file__).parent / "c" / "hook.c").read_text()
    body = re.sub(r"/\*.*?\*/", "", source.split("typedef struct {")[1].split("} context;")[0], flags=re.DOTALL)
    names = []
    for declaration in body.split(";"):
        pointer = re.search(r"\(\*(\w+)\)", declaration)
        if pointer:
            names.append(pointer[1])
        else:
            names += re.findall(r"(\w+)(?:\[\w+\])?(?=,|$)", declaration.strip())
    assert names == [name for name, *_ in _native.Context._fields_]


def test_without_a_compiler_python_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(make_counter("auto", WINDOWS, {}), NativeCounter)
    monkeypatch.setattr("millijoule.emulate._counting.hook_library", lambda: None)
    assert isinstance(make_counter("auto", WINDOWS, {}), PythonCounter)
    with pytest.raises(ToolchainError, match="no compiler can build it"):
        make_counter("native", WINDOWS, {})
    with pytest.raises(EmulationError, match="no hook of that name"):
        make_counter("fast", WINDOWS, {})


@pytest.mark.parametrize("module", ["unicorn", "capstone", "elftools"])
def test_missing_packages_are_named(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image = build_board(model_files(), "stm32l4r9i")
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    from millijoule.emulate import _decode

    _decode._disassembler.cache_clear()
    _decode._alone.cache_clear()
    with pytest.raises(ToolchainError, match=r"pip install 'millijoule\[deploy\]'"):
        if module == "unicorn":
            Machine(image, "stm32l4r9i")
        elif module == "capstone":
            _decode.decode(b"\x00\xbf", 0x08000000)
        else:
            from millijoule.build import read_image

            read_image(image.elf, "stm32l4r9i")


def test_an_image_for_the_other_board_is_refused() -> None:
    from dataclasses import replace

    from millijoule.boards import load_board

    image = build_board(model_files(), "stm32l4r9i")
    board = load_board("stm32l4r9i")
    moved = replace(board, flash=replace(board.flash, base=0x09000000))
    with pytest.raises(EmulationError, match="outside the flash"):
        Machine(image, moved)


def test_blocks_are_limited() -> None:
    image = build_board(model_files(), "stm32l4r9i")
    for hook in ("native", "python"):
        machine = Machine(image, "stm32l4r9i", hook=hook)
        with pytest.raises(EmulationError, match="did not end within 100 blocks"):
            machine.run(image.symbol("mj_idle").address, block_limit=100)


def test_model_info_reads_the_header() -> None:
    info = ModelInfo.of(model_files())
    assert info.input_shape == (8, 8, 3) and info.input_offset == 64 and info.classes == 4
    header = "#define MJ_INPUT_HEIGHT (4 * 2)\n#define MJ_INPUT_WIDTH 0x8u /* pixels */\n#define MJ_INPUT_CHANNELS 3\n"
    header += "#define MJ_INPUT_OFFSET (MJ_INPUT_HEIGHT - 8)\n#define MJ_CLASSES 5\n#define MJ_LOGIT_IS_FLOAT 1\n"
    info = ModelInfo.of({"a/mj_model.h": header + "#define MJ_ARENA_BYTES (1 << 10)\n"})
    assert info.input_shape == (8, 8, 3) and info.input_offset == 0 and info.arena_bytes == 1024
    assert info.probabilities_are_float
    with pytest.raises(FormatError, match="MJ_ARENA_BYTES is missing"):
        ModelInfo.of({"mj_model.h": header})
    with pytest.raises(FormatError, match=r"no mj_model\.h"):
        ModelInfo.of({})
