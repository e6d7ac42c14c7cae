"""A compiled model that runs: the firmware in the emulated board, driven as a debug probe would drive the real one."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from millijoule.boards import Board, Memory
from millijoule.build import Image
from millijoule.emulate.cycles import CycleModel
from millijoule.emulate.machine import Machine
from millijoule.emulate.profile import LayerInfo, Profile, make_profile, traced_profile
from millijoule.errors import DataError, EmulationError, FormatError, OptionError
from millijoule.files import Progress

if TYPE_CHECKING:
    from millijoule.emulate.trace import TraceResult

__all__ = ["EmulatedFirmware", "ModelInfo"]

_MAIL = {"magic": 0, "version": 4, "request": 8, "status": 12, "error": 16, "runs": 20, "cycles": 24, "logits": 28}
_MAIL |= {"probabilities": 32, "class_index": 36}
_MAGIC = 0x4D4A4D42
_DONE, _FAILED = 3, 4
_ERRORS = {
    1: "its self-test gave other logits than the computer",
    3: "the checksum of its weights in flash is wrong",
    -102: "the stack overflowed: its lowest words were overwritten",
    -103: "a word beside the arena was overwritten",
}
_FENCE = b"\xa5"
_PAINT = b"\x5c"


class HasFiles(Protocol):
    """A compiled model: its C files by relative path."""

    @property
    def files(self) -> Mapping[str, str]:
        """The files."""


@dataclass(frozen=True)
class ModelInfo:
    """What the emulator must know of a model: the macros of its mj_model.h, and its layers by symbol."""

    input_offset: int | None
    input_shape: tuple[int, int, int]
    classes: int
    logits_are_float: bool
    probabilities_are_float: bool
    arena_bytes: int
    layers: Mapping[str, LayerInfo]

    @classmethod
    def of(cls, program: HasFiles | Mapping[str, str]) -> ModelInfo:
        """Reads the header among the files of a compiled model.

        Raises:
            FormatError: there is no mj_model.h, or a macro is missing.
        """
        files = program if isinstance(program, Mapping) else program.files
        header = next((text for name, text in files.items() if name.rsplit("/", 1)[-1] == "mj_model.h"), None)
        if header is None:
            raise FormatError("the model", "there is no mj_model.h among its files", "Compile the model again")
        macros = _macros(header)
        try:
            logits = bool(macros["MJ_LOGIT_IS_FLOAT"])
            height, width = macros["MJ_INPUT_HEIGHT"], macros["MJ_INPUT_WIDTH"]
            layers = getattr(program, "layers", ())
            return cls(
                input_offset=macros.get("MJ_INPUT_OFFSET"),
                input_shape=(height, width, macros["MJ_INPUT_CHANNELS"]),
                classes=macros["MJ_CLASSES"],
                logits_are_float=logits,
                probabilities_are_float=bool(macros.get("MJ_PROBABILITY_IS_FLOAT", logits)),
                arena_bytes=macros["MJ_ARENA_BYTES"],
                layers={
                    layer.symbol: LayerInfo(
                        layer.name, layer.operator, layer.kernel, int(layer.macs), int(layer.live_bytes)
                    )
                    for layer in layers
                },
            )
        except KeyError as error:
            raise FormatError(
                "mj_model.h", f"the macro {error.args[0]} is missing", "Compile the model again"
            ) from None


_OPERATORS: dict[type, Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.LShift: operator.lshift,
}


def _macros(header: str) -> dict[str, int]:
    """The integer macros of a header; sums and products of numbers and earlier macros are evaluated."""
    found: dict[str, int] = {}

    def value(node: ast.expr) -> int:
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return node.value
        if isinstance(node, ast.Name):
            return found[node.id]
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -value(node.operand)
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            return _OPERATORS[type(node.op)](value(node.left), value(node.right))
        raise ValueError

    for name, text in re.findall(r"^\s*#\s*define\s+(MJ_\w+)[ \t]+(\S.*?)\s*(?:/\*.*)?$", header, flags=re.MULTILINE):
        try:
            found[name] = value(ast.parse(re.sub(r"(?<=[0-9a-fA-F])[uUlL]+\b", "", text), mode="eval").body)
        except (SyntaxError, ValueError, KeyError):
            continue
    return found


class EmulatedFirmware:
    """A model's firmware on an emulated board.

    Args:
        image: the linked firmware from `build_board`.
        board: the board or its name.
        program: the compiled model (anything with `.files`), its files by path, or a `ModelInfo`.
        hook: "auto", "native" or "python", see `Machine`.
        model: timing rules, the core's own by default.
        block_limit: blocks after which a run counts as a hang.
    """

    def __init__(
        self,
        image: Image,
        board: Board | str,
        program: ModelInfo | HasFiles | Mapping[str, str],
        *,
        hook: str = "auto",
        model: CycleModel | None = None,
        block_limit: int | None = None,
    ) -> None:
        self.info = program if isinstance(program, ModelInfo) else ModelInfo.of(program)
        self.image = image
        self.machine = Machine(image, board, hook=hook, model=model, block_limit=block_limit)
        self.board = self.machine.board
        self._mail = image.symbol("mj_mail").address
        self._idle = image.symbol("mj_idle").address
        # a picture that comes row by row has a place of its own for whole pictures
        offset, place = self.info.input_offset, "mj_arena" if self.info.input_offset is not None else "mj_frame"
        self._input = image.symbol(place).address + (offset or 0)
        self._booted = False

    @property
    def console(self) -> str:
        """What the firmware has printed so far."""
        return self.machine.console

    def boot(self) -> str:
        """Powers the board on and runs until the main loop waits. Returns what was printed.

        Raises:
            EmulationError: a fault, a hang, a failed self-test, or a clock set up in an order the chip forbids.
        """
        self.machine.reset()
        self.machine.run(self._idle)
        if self.machine.peripherals.problems:
            raise EmulationError(
                f"the start-up of {self.board.title}", self.machine.peripherals.problems[0], "Correct the clock set-up"
            )
        if self._word("magic") != _MAGIC:
            raise EmulationError(self.image.elf.name, "its mailbox is not initialised", "Build it with our main.c")
        if self._word("status") == _FAILED:
            raise self._failure("the start of the firmware")
        self._booted = True
        return self.console

    def run(self, pictures: npt.NDArray[np.uint8], *, progress: Progress | None = None) -> dict[str, npt.NDArray[Any]]:
        """Classifies pictures one after the other.

        Args:
            pictures: uint8, shape (N, height, width, channels), or (height, width, channels) for one.
            progress: called as (what, done, total).

        Returns:
            "logits" and, when the model has them, "probabilities", shape (N, classes), int8 or float32 as the firmware
            computes them, and "class", int64 of shape (N,).

        Raises:
            DataError: pictures of another shape or type.
            EmulationError: a fault, a hang, or a write outside the model's memory.
        """
        batch = self._checked(pictures)
        logits, probabilities, classes = [], [], []
        for number, picture in enumerate(batch):
            self._infer(picture)
            logits.append(self._vector("logits", self.info.logits_are_float))
            if self._word("probabilities") != 0:
                probabilities.append(self._vector("probabilities", self.info.probabilities_are_float))
            classes.append(np.int64(np.uint32(self._word("class_index")).astype(np.int32)))
            if progress is not None:
                progress(f"emulating {self.board.title}", number + 1, len(batch))
        results: dict[str, npt.NDArray[Any]] = {"class": np.array(classes, np.int64)}
        kind = np.float32 if self.info.logits_are_float else np.int8
        results["logits"] = np.stack(logits) if logits else np.zeros((0, self.info.classes), kind)
        if probabilities:
            results["probabilities"] = np.stack(probabilities)
        return results

    def profile(self, picture: npt.NDArray[np.uint8], *, method: str = "edges") -> Profile:
        """Instructions and cycles of one inference, per layer and per function.

        Args:
            picture: uint8, shape (height, width, channels).
            method: "edges" prices counts of executed blocks, quickly; "trace" times every instruction and address with
                flash, caches and the causes of lost cycles.

        Raises:
            OptionError: several pictures, or an unknown method.
            ToolchainError: "trace", and its C part cannot be built here.
        """
        batch = self._checked(picture)
        if len(batch) != 1:
            raise OptionError("picture", f"there are {len(batch)} of them", "Profile one picture at a time")
        if method not in ("edges", "trace"):
            raise OptionError(f"method {method!r}", "there is no such method", "Choose edges or trace")
        self._start()
        self.machine.clear_counts()
        self._infer(batch[0])
        sizes = self.machine.counter.sizes()
        profile = make_profile(
            self.board,
            self.image,
            self.machine.model,
            self.machine.totals(),
            self.machine.markers,
            block=lambda address: self.machine.costs.block(address, sizes[address]),
            layers=self.info.layers,
            arena_bytes=self.info.arena_bytes,
            peak_stack_bytes=self.peak_stack_bytes(),
        )
        return profile if method == "edges" else traced_profile(profile, self.board, self.image, self._trace(batch[0]))

    def _trace(self, picture: npt.NDArray[np.uint8]) -> TraceResult:
        """A full trace of one call of mj_run, whose caches and predictor are as the way to it left them."""
        from millijoule.emulate.trace import FullTrace

        run = self.image.symbol("mj_run").address
        with FullTrace(self.machine) as trace:
            self.machine.write(self._input, picture.tobytes())
            self.machine.write_word(self._mail + _MAIL["request"], 1)
            self._resume(run)
            trace.clear()
            self.machine.run(self.machine.register("lr") & ~1)
            result = trace.result()
        self.machine.run(self._idle)
        self._finish()
        return result

    def dialogue(self, text: str) -> str:
        """Sends characters to the firmware's serial line and returns what it answers.

        Args:
            text: commands of the device protocol, each ended by '%'.
        """
        self._start()
        before = len(self.machine.peripherals.transmitted)
        self.machine.peripherals.received.extend(text.encode("latin-1"))
        while self.machine.peripherals.received:
            self._resume()
        self._resume()
        return self.machine.peripherals.transmitted[before:].decode("latin-1")

    def peak_stack_bytes(self) -> int:
        """Bytes of stack ever used, from the paint that start-up left there."""
        low = self.image.symbol("mj_stack_limit").address
        content = self.machine.read(low, self.image.stack_bytes)
        return self.image.stack_bytes - (len(content) - len(content.lstrip(_PAINT))) // 4 * 4

    def _start(self) -> None:
        if not self._booted:
            self.boot()

    def _resume(self, until: int | None = None) -> None:
        """Lets the main loop take one more turn: returns from mj_idle and runs to it again, or to `until`."""
        self.machine.write_register("pc", self.machine.register("lr") | 1)
        self.machine.run(self._idle if until is None else until)

    def _infer(self, picture: npt.NDArray[np.uint8]) -> None:
        self._start()
        runs = self._word("runs")
        before = self._outside()
        self.machine.write(self._input, picture.tobytes())
        self.machine.write_word(self._mail + _MAIL["request"], 1)
        self._resume()
        self._finish()
        if self._word("status") != _DONE or self._word("runs") != (runs + 1) & 0xFFFFFFFF:
            raise EmulationError("the inference", "the firmware did not run it", "Build it with our main.c")
        self._compare(before)

    def _finish(self) -> None:
        if self._word("status") == _FAILED:
            self._booted = False
            raise self._failure("the inference")

    def _outside(self) -> list[tuple[Memory, list[tuple[int, bytes]]]]:
        """The content of all RAM that neither the model nor the firmware owns."""
        owned = [(s.address, s.address + s.size) for s in self.image.sections if s.name in (".stack", ".data", ".bss")]
        for name in ("mj_arena", "mj_fast", "mj_frame"):
            if name in self.image.symbols:
                arena = self.image.symbol(name)
                owned.append((arena.address, arena.address + arena.size))
        owned.sort()
        found = []
        for memory in self.board.memories:
            position, pieces = memory.base, []
            for start, end in [*owned, (memory.end, memory.end)]:
                if memory.base <= start <= memory.end:
                    if start > position:
                        pieces.append((position, self.machine.read(position, start - position)))
                    position = max(position, end)
            found.append((memory, pieces))
        return found

    def _compare(self, before: list[tuple[Memory, list[tuple[int, bytes]]]]) -> None:
        for memory, pieces in before:
            for start, content in pieces:
                now = self.machine.read(start, len(content))
                if now == content:
                    continue
                changed = np.flatnonzero(np.frombuffer(now, np.uint8) != np.frombuffer(content, np.uint8))
                self._booted = False
                raise EmulationError(
                    "the inference",
                    f"it wrote {len(changed)} bytes outside the model's arena, the first at "
                    f"{start + int(changed[0]):#010x} in {memory.name}",
                    "Report it together with the model",
                )

    def _failure(self, what: str) -> EmulationError:
        code = int(np.uint32(self._word("error")).astype(np.int32))
        reason = _ERRORS.get(code, f"the model returned error {code}")
        return EmulationError(what, reason, "Report it together with the model")

    def _word(self, field: str) -> int:
        return self.machine.read_word(self._mail + _MAIL[field])

    def _vector(self, field: str, floating: bool) -> npt.NDArray[Any]:
        address, dtype = self._word(field), np.dtype("<f4") if floating else np.dtype(np.int8)
        content = self.machine.read(address, self.info.classes * dtype.itemsize)
        values: npt.NDArray[Any] = np.frombuffer(content, dtype).copy()
        return values

    def _checked(self, pictures: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        batch = np.asarray(pictures)
        batch = batch[None] if batch.ndim == 3 else batch
        if batch.dtype != np.uint8 or batch.shape[1:] != self.info.input_shape:
            raise DataError(
                "pictures",
                f"they are {batch.dtype} of shape {batch.shape}, the model wants uint8 (N, "
                f"{', '.join(map(str, self.info.input_shape))})",
                "Convert or resize them",
            )
        checked: npt.NDArray[np.uint8] = np.ascontiguousarray(batch)
        return checked
