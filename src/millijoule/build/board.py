"""C files -> firmware for a board: compile (objects cached by content), place the arena, link, check."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from millijoule.boards import Board, Memory, firmware_defines, firmware_sources, linker_script, load_board
from millijoule.build._toolchain import Compiler, cross_compiler, run
from millijoule.build.image import Image, read_image
from millijoule.errors import OptionError, PlacementError, ToolchainError
from millijoule.files import atomic_path, cache_folder
from millijoule.kernels import FLAGS

__all__ = ["DEFAULT_STACK_BYTES", "build_board", "build_elf", "compiler_flags"]

DEFAULT_STACK_BYTES = 8192
_FENCE_BYTES = 128 + 32 + 32  # two fences and the alignment of the arena
_SLACK_BYTES = 64  # alignment between .data and .bss

# Frame pointers and errno cost instructions and bring nothing here; zig's undefined-behaviour traps are debug code.
_COMMON_FLAGS = (
    *FLAGS,
    "-ffreestanding",
    "-fomit-frame-pointer",
    "-fno-math-errno",
    "-ffunction-sections",
    "-fdata-sections",
    "-fno-common",
    "-Wall",
    "-Wextra",
)
_COMPILER_FLAGS = {"zig": ("-fno-sanitize=all", "-g0"), "gcc": ("-g0",)}
# GCC would turn the loops of memcpy and memset into calls of themselves.
_FILE_FLAGS = {("gcc", "memory.c"): ("-fno-tree-loop-distribute-patterns",)}
# Tag_FP_arch of the ABI for the Arm Architecture: 6 is VFPv4-D16, 8 is the 16-register FPv5.
_FP_ARCHITECTURE = {"fpv4-sp-d16": 6, "fpv5-sp-d16": 8, "fpv5-d16": 8}


def compiler_flags(board: Board, compiler: str = "zig", *, optimize: str = "-O3") -> tuple[str, ...]:
    """The flags every file is compiled with, without the board's macros.

    Raises:
        OptionError: an optimisation level the compilers do not know, or a compiler the board has no flags for.
    """
    if optimize not in ("-O0", "-O1", "-O2", "-O3", "-Os", "-Oz"):
        raise OptionError(f"optimisation {optimize!r}", "it is none of -O0 -O1 -O2 -O3 -Os -Oz", "Use -O3")
    if compiler not in board.target_flags or compiler not in _COMPILER_FLAGS:
        raise OptionError(f"compiler {compiler!r}", f"{board.title} has no flags for it", "Choose zig or gcc")
    return (*board.target_flags[compiler], optimize, *_COMMON_FLAGS, *_COMPILER_FLAGS[compiler])


def build_board(
    files: Mapping[str, str],
    board: Board | str,
    *,
    compiler: str = "zig",
    optimize: str = "-O3",
    stack_bytes: int = DEFAULT_STACK_BYTES,
    defines: Mapping[str, str] | None = None,
    strict: bool = False,
    out: Path | None = None,
) -> Image:
    """Builds the firmware of a model for a board.

    Args:
        files: the model's C sources and headers by relative path, `mj_model.h` among them.
        board: the board or its name.
        compiler: "zig" or "gcc" (arm-none-eabi-gcc).
        optimize: the optimisation flag.
        stack_bytes: bytes reserved for the stack, a multiple of 8.
        defines: further macros.
        strict: treat warnings as errors.
        out: where the ELF goes; without it, it stays in the cache.

    Returns:
        The linked firmware. The arena is in the first memory of the board in which it fits, a second one (`mj_fast`)
        in the fastest.

    Raises:
        ToolchainError: no compiler, or an error in a source (its first lines are quoted).
        PlacementError: arena, data or program do not fit the board's memories.
        OutputError: `out` cannot be written.
    """
    target = load_board(board) if isinstance(board, str) else board
    if "mj_model.h" not in {PurePosixPath(name).name for name in files}:
        raise OptionError("files", "there is no mj_model.h among them", "Give the files of a compiled model")
    sources = {f"board/{name}": text for name, text in firmware_sources(target).items()}
    macros = {**firmware_defines(target, stack_bytes=stack_bytes), **(defines or {})}
    return build_elf(
        {**files, **sources},
        target,
        compiler=compiler,
        optimize=optimize,
        stack_bytes=stack_bytes,
        defines=macros,
        strict=strict,
        out=out,
    )


def build_elf(
    files: Mapping[str, str],
    board: Board,
    *,
    compiler: str = "zig",
    optimize: str = "-O3",
    stack_bytes: int = DEFAULT_STACK_BYTES,
    defines: Mapping[str, str] | None = None,
    strict: bool = False,
    out: Path | None = None,
) -> Image:
    """Builds exactly these files (start-up included) with the board's linker script; see `build_board`."""
    tool = cross_compiler(compiler)
    flags = compiler_flags(board, compiler, optimize=optimize)
    macros = tuple(f"-D{name}={value}" for name, value in sorted((defines or {}).items()))
    strictness = ("-Werror",) if strict else ()
    arguments = (*flags, *strictness, *macros)
    script = linker_script(board, board.memories[0], stack_bytes=8, fast=board.memories[0])
    key = _digest([tool.version, *arguments, str(stack_bytes), script])
    key = _digest([key, *(part for name in sorted(files) for part in (name, files[name]))])
    cached = cache_folder("images") / f"{board.name}-{key[:32]}.elf"
    note = cached.with_suffix(".arena")
    if not (cached.is_file() and note.is_file()):
        _build_into(cached, note, files, board, tool, arguments, stack_bytes)
    elf = cached
    if out is not None:
        with atomic_path(out) as temporary:
            shutil.copyfile(cached, temporary)
        elf = out
    memory, _, fast = note.read_text().strip().partition(" ")
    image = read_image(
        elf,
        board.name,
        compiler=tool.version,
        flags=(*flags, *strictness),
        arena_memory=memory,
        fast_memory=fast,
    )
    if image.fp_architecture != _FP_ARCHITECTURE.get(board.fpu, image.fp_architecture):
        raise ToolchainError(
            board.title,
            f"the firmware was compiled for floating point architecture {image.fp_architecture}, not for {board.fpu}",
            "Correct the target flags of the board's description",
        )
    return image


def _digest(parts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode("utf-8") + b"\0")
    return digest.hexdigest()


def _build_into(
    cached: Path,
    note: Path,
    files: Mapping[str, str],
    board: Board,
    tool: Compiler,
    arguments: tuple[str, ...],
    stack_bytes: int,
) -> None:
    with tempfile.TemporaryDirectory(prefix="millijoule-build-") as name:
        folder = Path(name)
        for file, text in files.items():
            path = folder / file
            if PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts:
                raise OptionError(file, "a source file must lie inside the project", "Give a relative path")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        headers = {file: text for file, text in files.items() if file.endswith(".h")}
        places = sorted({str(PurePosixPath(file).parent) for file in headers})
        includes = tuple(f"-I{place}" for place in places)
        sources = sorted(file for file in files if file.endswith((".c", ".s", ".S")))
        with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
            work = [pool.submit(_object, folder, s, files, headers, tool, (*arguments, *includes)) for s in sources]
            objects = [item.result() for item in work]
        arena, fast_bytes, data = _measure(objects)
        memory, fast = _place(board, arena, fast_bytes, data, stack_bytes)
        script = linker_script(board, memory, stack_bytes=stack_bytes, fast=fast)
        (folder / "firmware.ld").write_text(script, encoding="utf-8")
        linked = folder / "firmware.elf"
        _link(folder, objects, linked, tool, arguments, board)
        with atomic_path(cached) as temporary:
            shutil.copyfile(linked, temporary)
        with atomic_path(note) as temporary:
            temporary.write_text(memory.name if fast is None else f"{memory.name} {fast.name}")


def _object(
    folder: Path,
    source: str,
    files: Mapping[str, str],
    headers: Mapping[str, str],
    tool: Compiler,
    arguments: tuple[str, ...],
) -> Path:
    """Compiles one file, or takes it from the cache when neither it nor a header it sees has changed."""
    extra = _FILE_FLAGS.get((tool.name, PurePosixPath(source).name), ())
    seen = _closure(source, files, headers)
    key = _digest([tool.version, *arguments, *extra, source, *(part for n in seen for part in (n, files[n]))])
    path = cache_folder("objects", key[:2]) / f"{key[:32]}.o"
    if not path.is_file():
        command = [*tool.command, *arguments, *extra, "-c", source, "-o", str(folder / f"{key[:32]}.o")]
        run(command, what=source, folder=folder)
        with atomic_path(path) as temporary:
            shutil.copyfile(folder / f"{key[:32]}.o", temporary)
    return path


def _closure(source: str, files: Mapping[str, str], headers: Mapping[str, str]) -> list[str]:
    by_name: dict[str, list[str]] = {}
    for header in headers:
        by_name.setdefault(PurePosixPath(header).name, []).append(header)
    found, queue = {source}, [source]
    while queue:
        text = files[queue.pop()]
        names = re.findall(r'^[ \t]*#[ \t]*include[ \t]+"([^"]+)"', text, flags=re.MULTILINE)
        if re.search(r"^[ \t]*#[ \t]*include[ \t]+[A-Z_]", text, flags=re.MULTILINE):
            names = list(by_name)  # an include by macro may name any header
        for name in names:
            for header in by_name.get(PurePosixPath(name).name, ()):
                if header not in found:
                    found.add(header)
                    queue.append(header)
    return sorted(found)


def _measure(objects: Sequence[Path]) -> tuple[int, int, int]:
    """Bytes of the arena, of the second arena, and of .data and .bss, in the object files."""
    from elftools.elf.elffile import ELFFile

    arena = fast = data = 0
    for path in objects:
        with path.open("rb") as file:
            for section in ELFFile(file).iter_sections():
                size = int(section["sh_size"])
                if section.name.startswith(".mj_arena"):
                    arena += size
                elif section.name == ".bss.mj_fast":
                    fast += size
                elif re.match(r"\.(data|bss)(\.|$)", section.name):
                    data += size + max(int(section["sh_addralign"]) - 1, 0)
    return arena, fast, data


def _place(board: Board, arena: int, fast: int, data: int, stack_bytes: int) -> tuple[Memory, Memory | None]:
    """The first memory of the board in which the arena fits, beside what shares it, and that of a second arena."""
    own, quick = board.data_memory, min(board.arena_memories, key=lambda memory: memory.speed) if fast else None
    taken = {memory.name: 0 for memory in board.memories}
    taken[own.name] += stack_bytes + data + _SLACK_BYTES
    if quick is not None:
        taken[quick.name] += fast + _FENCE_BYTES
        if taken[quick.name] > quick.size:
            raise PlacementError(
                f"the fast arena of {fast} bytes",
                f"{quick.name} of {board.title} has {quick.size} bytes, stack and data included",
                "Reduce the stack, or compile the model for this board",
            )
    if stack_bytes + data + _SLACK_BYTES > own.size:
        raise PlacementError(
            f"{data} bytes of data and {stack_bytes} of stack",
            f"{own.name} of {board.title} has {own.size} bytes",
            "Reduce the stack or move constant data to flash",
        )
    needed = arena + _FENCE_BYTES
    for memory in board.arena_memories:
        if needed <= memory.size - taken[memory.name]:
            return memory, quick
    largest = board.largest_arena_memory
    shared = taken[largest.name]
    raise PlacementError(
        f"the arena of {arena} bytes",
        f"{largest.name} of {board.title} has {largest.size - shared - _FENCE_BYTES} bytes for it "
        f"({largest.size} less {shared + _FENCE_BYTES} for stack, data and fences)",
        "Choose a smaller resolution or width, or the other board",
    )


def _link(
    folder: Path, objects: Sequence[Path], linked: Path, tool: Compiler, arguments: tuple[str, ...], board: Board
) -> None:
    target = [argument for argument in arguments if not argument.startswith(("-D", "-I", "-W"))]
    command = [*tool.command, *target, "-nostdlib", "-Wl,-T,firmware.ld", "-Wl,-e,Reset_Handler", "-Wl,--gc-sections"]
    if tool.name == "gcc":
        command += ["-nostartfiles", "-Wl,--no-warn-rwx-segments"]
    libraries = ["-lgcc"] if tool.name == "gcc" else ["-rtlib=compiler-rt"]
    try:
        run([*command, *map(str, objects), "-o", str(linked), *libraries], what="the linker", folder=folder)
    except ToolchainError as error:
        if re.search(r"will not fit|overflowed", error.reason):
            raise PlacementError(
                f"the firmware for {board.title}", error.reason, "Choose a smaller network, or the other board"
            ) from error
        raise
