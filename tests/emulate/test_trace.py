"""Full traces of real firmware: against the counts of blocks, themselves, and what the C part must look like."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from millijoule.build import build_board
from millijoule.compile import compile_graph
from millijoule.emulate import CortexM4, CortexM7, EmulatedFirmware, M4Rules, M7Rules, Machine, Profile
from millijoule.emulate import _trace_native as native
from millijoule.emulate.cortex_m4 import FlashInterfaceRules
from millijoule.emulate.cortex_m7 import M7MemoryRules
from millijoule.emulate.cycles import EdgeTotal
from millijoule.emulate.estimate import MemoryEstimate
from millijoule.emulate.trace import STALLS, FullTrace, TraceResult
from millijoule.errors import EmulationError, OptionError, ToolchainError
from networks import random_network, random_pictures

BOARDS = ("stm32l4r9i", "stm32h7b3i")
BLOCKS = ["conv", "depthwise", "pointwise", "depthwise", "pointwise", "residual"]
C_FOLDER = Path(native.__file__).parent / "c"


@dataclass
class Case:
    """A network on a board, its profile from edges, and one picture."""

    firmware: EmulatedFirmware
    picture: np.ndarray
    profile: Profile
    known: TraceResult | None = None

    def result(self) -> TraceResult:
        """The trace with the board's own model, made once."""
        self.known = self.known or self.trace()
        return self.known

    def trace(self, model: CortexM4 | CortexM7 | None = None) -> TraceResult:
        """Of an inference with warm caches and predictor."""
        with FullTrace(self.firmware.machine, model=model) as trace:
            self.firmware.run(self.picture)
            trace.clear()
            self.firmware.run(self.picture)
        return trace.result()


def inside(result: TraceResult) -> int:
    """Cycles of mj_run and its layers."""
    return sum(layer.cycles for layer in result.layers if layer.number > 0)


def zero_wait(case: Case) -> CortexM4 | CortexM7:
    """The same pipeline, memories that never make it wait."""
    if case.firmware.board.core == "cortex-m4":
        return CortexM4(flash=FlashInterfaceRules(wait_states=0))
    return CortexM7(memory=M7MemoryRules(instruction_bytes=0, data_bytes=0))


@pytest.fixture(scope="module", params=BOARDS)
def case(request: pytest.FixtureRequest) -> Case:
    board = request.param
    graph = random_network(BLOCKS, 5, "integer", size=(20, 20, 3), rounding="single")
    program = compile_graph(graph, board)
    firmware = EmulatedFirmware(build_board(program.files, board), board, program)
    picture = random_pictures(graph, 1)[0]
    firmware.run(picture)
    return Case(firmware, picture, firmware.profile(picture))


def test_instructions_equal_the_counts_of_blocks(case: Case) -> None:
    result = case.result()
    layers = {layer.symbol: layer for layer in result.layers}
    assert sum(layer.instructions for layer in result.layers if layer.number > 0) == case.profile.instructions
    for expected in case.profile.layers:
        assert layers[expected.symbol].instructions == expected.instructions
        assert sum(layers[expected.symbol].kinds.values()) == expected.instructions
    assert 0 < result.skipped < result.instructions


def test_every_sum_agrees(case: Case) -> None:
    result = case.result()
    for part in (result.layers, result.addresses):
        assert sum(item.instructions for item in part) == result.instructions
        assert sum(item.skipped for item in part) == result.skipped
        assert sum(item.cycles for item in part) == result.cycles
        for cause in STALLS:
            assert sum(item.stalls[cause] for item in part) == result.stalls[cause]
    assert 0 < sum(result.stalls.values()) < result.cycles
    assert result.stalls["flash_fetch"] > 0 and result.stalls["branch"] > 0
    assert result.milliseconds == pytest.approx(result.cycles / case.firmware.board.clock_hz * 1e3)
    assert json.loads(json.dumps(result.to_json()))["cycles"] == result.cycles
    assert "addresses" not in result.to_json(addresses=False)


def test_edges_and_trace_agree_where_memory_never_waits(case: Case) -> None:
    """M4: what edges cannot see is unaligned accesses. M7: also which entry states follow each other, and that counts
    in this network, whose odd sizes make loops of a few bytes."""
    limit = 0.005 if case.firmware.board.core == "cortex-m4" else 0.025
    assert case.profile.cycles == pytest.approx(inside(case.trace(zero_wait(case))), rel=limit)


# by default the Cortex-M4 has the test above, with the same limit
@pytest.mark.parametrize("board", [pytest.param(BOARDS[0], marks=pytest.mark.slow), BOARDS[1]])
def test_edges_and_trace_agree_on_a_mobilenet(board: str) -> None:
    pytest.importorskip("torch")
    from millijoule.cli.bench import random_model
    from millijoule.nets import specify

    graph = random_model(specify("mobilenet_v2", alpha=0.35, resolution=32), "single")
    program = compile_graph(graph, board, self_test=False)
    firmware = EmulatedFirmware(build_board(program.files, board), board, program)
    picture = random_pictures(graph, 1)[0]
    firmware.run(picture)
    case = Case(firmware, picture, firmware.profile(picture))
    assert case.profile.cycles == pytest.approx(inside(case.trace(zero_wait(case))), rel=0.005)


def test_flash_and_caches_make_it_slower(case: Case) -> None:
    fast, real = inside(case.trace(zero_wait(case))), inside(case.result())
    assert fast < real
    if case.firmware.board.core == "cortex-m4":
        wide = CortexM4(flash=FlashInterfaceRules(line_bytes=16), board=case.firmware.board)
        slow = CortexM4(M4Rules(refill_direct=2), board=case.firmware.board)
        assert fast < inside(case.trace(wide)) < real < inside(case.trace(slow))
    else:
        quick = CortexM7(M7Rules(two_loads=True), board=case.firmware.board)
        assert inside(case.trace(quick)) < real


def test_edges_with_the_memory_of_one_trace_predict_another_picture(case: Case) -> None:
    """Within 0.5 %: what memory costs hardly depends on the picture."""
    machine = case.firmware.machine

    def edges(picture: np.ndarray) -> list[EdgeTotal]:
        machine.clear_counts()
        case.firmware.run(picture)
        return machine.totals()

    estimate = MemoryEstimate.of(edges(case.picture), case.result())
    assert sum(estimate.layers(edges(case.picture)).values()) == pytest.approx(inside(case.result()), rel=1e-4)
    other = Case(case.firmware, np.ascontiguousarray(255 - case.picture[::-1]), case.profile)
    assert sum(estimate.layers(edges(other.picture)).values()) == pytest.approx(inside(other.trace()), rel=0.005)
    assert estimate.conditions == case.result().conditions
    with pytest.raises(EmulationError, match="the same inference"):
        MemoryEstimate.of([], case.result())


def test_traces_are_reproducible_to_the_cycle(case: Case) -> None:
    assert case.trace() == case.result()


def test_counting_goes_on_unchanged_after_a_trace(case: Case) -> None:
    case.trace()
    assert case.firmware.profile(case.picture) == case.profile


def test_conditions_and_errors_are_stated(case: Case) -> None:
    result = case.result()
    board = case.firmware.board
    for part in (
        f"{board.clock_hz / 1e6:g} MHz",
        f"{board.flash.wait_states} flash wait states",
        "stack in",
        "arena in",
    ):
        assert part in result.conditions
    assert "published images" in result.expected_error and "%" in result.expected_error
    model = case.firmware.machine.model
    assert model.conditions in result.conditions and result.model_version == model.version
    assert "edge counts" in model.expected_error and "full trace" in model.traced_error


def test_the_structures_of_both_languages_are_equal() -> None:
    library = native.trace_library()
    import ctypes

    sizes = [ctypes.sizeof(native.Context), native.ROW.itemsize, native.CELL.itemsize, native.LAYER.itemsize]
    assert [library.mj_trace_size(number) for number in range(5)] == [*sizes, 0]
    for name, model in (("m4", CortexM4()), ("m7", CortexM7())):
        memory = model.flash if isinstance(model, CortexM4) else model.memory
        known = {**vars(model.rules), **vars(memory)}
        names = native.names_of(library, f"mj_{name}_rules")
        assert len(names) == len(set(names)) and set(names) <= set(known)
        assert set(vars(memory)) <= set(names)


@pytest.mark.parametrize("name", ["trace.c", "m4.c", "m7.c"])
def test_the_c_code_has_no_warnings(name: str, tmp_path: Path) -> None:
    flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-Wconversion", "-Wmissing-prototypes", "-c"]
    command = [sys.executable, "-m", "ziglang", "cc", *flags, str(C_FOLDER / name), "-o", str(tmp_path / "out.o")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_without_a_compiler_the_trace_is_refused(case: Case, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from millijoule.emulate import _library

    native.trace_library.cache_clear()
    monkeypatch.setattr(_library, "cache_folder", lambda name: tmp_path)
    monkeypatch.setattr(_library, "find_spec", lambda name: None)
    monkeypatch.setattr(_library.shutil, "which", lambda name: None)
    with pytest.raises(ToolchainError, match="no C compiler was found"):
        FullTrace(case.firmware.machine)
    native.trace_library.cache_clear()


def test_a_model_without_a_simulator_is_refused(case: Case) -> None:
    class Other(CortexM4):
        pass

    machine: Machine = case.firmware.machine
    assert FullTrace(machine, model=Other()).result().instructions == 0
    with pytest.raises(OptionError, match="no simulator"):
        FullTrace(machine, model=_Foreign())  # type: ignore[arg-type]


class _Foreign:
    name = "another core"
