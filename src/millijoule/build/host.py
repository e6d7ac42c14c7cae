"""A compiled model on this computer: the same C, as a shared library or as a checked executable."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from millijoule.build._toolchain import Compiler, run, zig_command
from millijoule.compile import Program
from millijoule.errors import DataError, ToolchainError
from millijoule.files import Progress, atomic_path, cache_folder
from millijoule.graph import Tensor
from millijoule.graph.tensor import DTYPES
from millijoule.kernels import FLAGS

__all__ = ["HostFirmware", "LayerTime", "build_host", "host_compiler", "run_sanitized"]

WARNINGS = ("-Wall", "-Wextra", "-Werror", "-pedantic")
SANITIZERS = (
    "-DMJ_DEBUG",
    "-g",
    "-O1",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    "-fno-omit-frame-pointer",
)

Pictures = npt.NDArray[np.uint8]
_LOCK = threading.Lock()  # the models' memory is static: one picture at a time


class _Result(ctypes.Structure):
    _fields_ = (
        ("logits", ctypes.c_void_p),
        ("probabilities", ctypes.c_void_p),
        ("class_index", ctypes.c_int32),
    )


@dataclass(frozen=True)
class LayerTime:
    """Wall-clock seconds of one layer on this computer; it says nothing about a microcontroller."""

    name: str
    seconds: float


class HostFirmware:
    """A model's C code, loaded into this process. Made by `build_host`."""

    def __init__(self, program: Program, path: Path) -> None:
        self.program = program
        self.path = path
        try:
            self._library = ctypes.CDLL(str(path))
        except OSError as error:
            raise ToolchainError(
                str(path), f"the library cannot be loaded ({error})", "Delete it and try again"
            ) from error
        graph = program.graph
        self._picture = graph.tensor(graph.inputs[0])
        # a picture that comes row by row has a place of its own for whole pictures
        places = [buffer.offset for buffer in program.plan.buffers if self._picture.name in buffer.tensors]
        first = (ctypes.c_uint8 * 1).in_dll(self._library, "mj_arena" if places else "mj_frame")
        self._input = ctypes.addressof(first) + (places[0] if places else 0)
        self._logits = graph.tensor(graph.outputs[0])
        self._probabilities = graph.tensor(graph.outputs[1]) if len(graph.outputs) > 1 else None

    def initialize(self) -> int:
        """Runs `mj_init` (the self-test) and returns its status, 0 when all is well."""
        with _LOCK:
            return int(self._library.mj_init())

    def run(self, pictures: Pictures, *, progress: Progress | None = None) -> dict[str, npt.NDArray[Any]]:
        """Classifies pictures.

        Args:
            pictures: uint8 (N, H, W, C), prepared as the graph's picture rule says.
            progress: told after each picture.

        Returns:
            "logits" and, when the model has them, "probabilities" as stored (N, classes), "class" int64 (N,).

        Raises:
            DataError: pictures of another shape or type.
        """
        pictures = checked_pictures(pictures, self._picture)
        logits = np.empty((len(pictures), *self._logits.shape[1:]), DTYPES[self._logits.dtype])
        results: dict[str, npt.NDArray[Any]] = {"logits": logits}
        if self._probabilities is not None:
            shape = (len(pictures), *self._probabilities.shape[1:])
            results["probabilities"] = np.empty(shape, DTYPES[self._probabilities.dtype])
        results["class"] = np.empty(len(pictures), np.int64)
        for index, picture in enumerate(pictures):
            with _LOCK:
                result = self._infer(picture)
                _copy(result.logits, logits[index : index + 1])
                if self._probabilities is not None:
                    _copy(result.probabilities, results["probabilities"][index : index + 1])
            results["class"][index] = result.class_index
            if progress is not None:
                progress("pictures on this computer", index + 1, len(pictures))
        return results

    def profile(self, picture: Pictures) -> list[LayerTime]:
        """Seconds per layer for one picture (H, W, C), from the hook of `mj_profile`."""
        picture = checked_pictures(picture[None], self._picture)[0]
        names = [layer.name for layer in self.program.layers]
        stamps: list[int] = []
        kind = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_int)
        hook = kind(lambda _layer, _end: stamps.append(time.perf_counter_ns()))
        with _LOCK:
            self._library.mj_profile(hook)
            try:
                self._infer(picture)
            finally:
                self._library.mj_profile(None)
        return [
            LayerTime(name, (end - start) * 1e-9)
            for name, start, end in zip(names, stamps[0::2], stamps[1::2], strict=True)
        ]

    def checksums(self, picture: Pictures) -> npt.NDArray[np.uint32]:
        """The checksum of every layer's result for one picture (H, W, C); the program must be compiled with `trace`."""
        picture = checked_pictures(picture[None], self._picture)[0]
        with _LOCK:
            self._infer(picture)
            trace = (ctypes.c_uint32 * len(self.program.layers)).in_dll(self._library, "mj_trace")
            return np.array(trace, dtype=np.uint32)

    def _infer(self, picture: Pictures) -> _Result:
        ctypes.memmove(self._input, picture.tobytes(), self._picture.bytes)
        result = _Result()
        status = self._library.mj_run(ctypes.byref(result))
        if status:  # cannot happen: the only error is a null result
            raise ToolchainError(str(self.path), f"the model returned status {status}", "Report it")
        return result


def checked_pictures(pictures: Pictures, picture: Tensor) -> Pictures:
    """`pictures` as a contiguous array. Raises DataError when they are not uint8 (N, *picture.shape[1:])."""
    pictures = np.asarray(pictures)
    if pictures.dtype != np.uint8 or pictures.shape[1:] != picture.shape[1:]:
        wanted = " x ".join(str(extent) for extent in picture.shape[1:])
        raise DataError(
            "pictures",
            f"they are {pictures.dtype} {pictures.shape}, the model reads uint8 (N, {wanted})",
            "Prepare them at the model's resolution",
        )
    return np.ascontiguousarray(pictures)


def _copy(address: int, target: npt.NDArray[Any]) -> None:
    ctypes.memmove(target.ctypes.data, address, target.nbytes)


@functools.lru_cache(maxsize=1)
def host_compiler() -> Compiler:
    """The C compiler of this computer: `CC`, cc, gcc, clang, else zig.

    Raises:
        ToolchainError: there is none.
    """
    wanted = os.environ.get("CC")
    for name in ([wanted] if wanted else []) + ["cc", "gcc", "clang"]:
        path = shutil.which(name)
        if path is not None:
            version = run([path, "--version"], what=name).splitlines()[0]
            return Compiler(name, version, (path,))
    try:
        command = zig_command()
    except ToolchainError as error:
        raise ToolchainError(
            "the C compiler of this computer",
            "neither cc, gcc, clang nor the package ziglang is installed",
            "Install one: pip install 'millijoule[deploy]'",
        ) from error
    return Compiler("zig", run([*command[:-1], "version"], what="zig").strip(), command)


def build_host(program: Program, *, optimize: str = "-O2") -> HostFirmware:
    """Builds the model's C files into a shared library (cached by content) and loads it.

    Args:
        program: from `compile_graph`; for a board's program the portable versions of its instructions are used.
        optimize: the optimisation flag.

    Raises:
        ToolchainError: no compiler, or an error in a source.
    """
    flags = (optimize, "-fPIC", *FLAGS, *WARNINGS)
    path = _linked(program.files, flags, ("-shared",), ".dll" if sys.platform == "win32" else ".so")
    return HostFirmware(program, path)


def run_sanitized(program: Program, pictures: Pictures) -> dict[str, npt.NDArray[Any]]:
    """Runs the model in its own process with address and undefined-behaviour checks.

    Args:
        program: from `compile_graph`.
        pictures: uint8 (N, H, W, C).

    Returns:
        "logits" as stored (N, classes) and "class" int64 (N,).

    Raises:
        ToolchainError: the compiler has no sanitizers, or a check failed (its report is quoted).
        DataError: pictures of another shape or type.
    """
    graph = program.graph
    pictures = checked_pictures(pictures, graph.tensor(graph.inputs[0]))
    files = {**program.files, "sanitized_main.c": _SANITIZED_MAIN}
    path = _linked(files, (*SANITIZERS, *FLAGS, *WARNINGS), (), ".exe")
    done = subprocess.run([str(path)], input=pictures.tobytes(), capture_output=True)
    if done.returncode:
        report = done.stderr.decode("utf-8", "replace")
        lines = [line for line in report.splitlines() if "ERROR" in line or "runtime error" in line]
        reason = lines[0] if lines else f"exit status {done.returncode}"
        raise ToolchainError("the model under sanitizers", reason, "Report it: generated code must not do this")
    logits = graph.tensor(graph.outputs[0])
    kind = np.dtype(
        [("class", np.int32), ("logits", DTYPES[logits.dtype], logits.shape[1:])],
    )
    records = np.frombuffer(done.stdout, dtype=kind)
    return {"logits": records["logits"].copy(), "class": records["class"].astype(np.int64)}


_SANITIZED_MAIN = """#include <stdio.h>

#include "mj_model.h"

/* Pictures from standard input, class and logits of each to standard output. */
int main(void)
{
    const size_t size = MJ_LOGIT_IS_FLOAT ? sizeof(float) : 1;
    const int status = mj_init();
    if (status != MJ_OK) {
        return status;
    }
    while (fread(MJ_INPUT, MJ_INPUT_BYTES, 1, stdin) == 1) {
        mj_result result;
        (void)mj_run(&result);
        fwrite(&result.class_index, sizeof result.class_index, 1, stdout);
        fwrite(result.logits, size, MJ_CLASSES, stdout);
    }
    return 0;
}
"""


def _linked(files: Mapping[str, str], flags: Sequence[str], link: Sequence[str], suffix: str) -> Path:
    """The library or program made of `files`, from the cache when all of them are unchanged."""
    compiler = host_compiler()
    key = _digest([compiler.version, *flags, *link, *(part for name in sorted(files) for part in (name, files[name]))])
    path = cache_folder("host") / f"{key}{suffix}"
    if path.is_file():
        return path
    sources = sorted(name for name in files if name.endswith(".c"))
    with tempfile.TemporaryDirectory(prefix="millijoule-host-") as name:
        folder = Path(name)
        for file, text in files.items():
            (folder / file).write_text(text, encoding="utf-8")
        with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
            objects = list(pool.map(lambda source: _object(folder, source, files, compiler, flags), sources))
        sanitizers = [flag for flag in flags if flag.startswith("-fsanitize")]
        with atomic_path(path) as temporary:
            words = [*compiler.command, *link, *sanitizers, *map(str, objects), "-o", str(temporary)]
            run(words, what="the linker", folder=folder)
            temporary.chmod(0o755)
    return path


def _object(folder: Path, source: str, files: Mapping[str, str], compiler: Compiler, flags: Sequence[str]) -> Path:
    """One object file; those of kernels are kept, since they are the same in every model."""
    command = [*compiler.command, *flags, "-c", source, "-o"]
    if re.search(r'#include "mj_(model|weights)\.h"', files[source]):
        target = folder / f"{Path(source).stem}.o"
        run([*command, str(target)], what=source, folder=folder)
        return target
    seen = [files[name] for name in sorted(files) if name.endswith(".h") and name not in ("mj_model.h", "mj_weights.h")]
    cached = cache_folder("host", "objects") / f"{_digest([compiler.version, *flags, files[source], *seen])}.o"
    if not cached.is_file():
        with atomic_path(cached) as temporary:
            run([*command, str(temporary)], what=source, folder=folder)
    return cached


def _digest(parts: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode("utf-8") + b"\0")
    return digest.hexdigest()[:32]
