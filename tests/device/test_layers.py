"""Cycles of each layer over the serial line of an emulated board, and the command that compares them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from millijoule.build import read_image
from millijoule.cli.profile import app
from millijoule.compile import compile_graph
from millijoule.device import Device, measure_layers
from millijoule.emulate import EmulatedFirmware
from millijoule.errors import DeviceError
from millijoule.graph import save_graph

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from networks import random_network

pytest.importorskip("unicorn")

BOARD = "stm32l4r9i"
NETWORK = random_network(["conv", "depthwise", "residual"], 7)


class Line:
    """A serial line whose other end is an emulated board."""

    name = "emulated"

    def __init__(self, firmware: EmulatedFirmware) -> None:
        self._firmware = firmware
        self._answers = bytearray()

    def read(self, seconds: float) -> bytes:
        data = bytes(self._answers)
        self._answers.clear()
        return data

    def write(self, data: bytes) -> None:
        self._answers += self._firmware.dialogue(data.decode("latin-1")).encode("latin-1")

    def close(self) -> None:
        pass


def call(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_command_compares_model_and_board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, elf, other = tmp_path / "model.mj", tmp_path / "timed.elf", tmp_path / "other.mj"
    save_graph(NETWORK, model)
    common = (str(model), "--board", BOARD, "--edges")
    assert f"written    {elf}" in call(*common, "--firmware", str(elf))
    program = compile_graph(NETWORK, BOARD, name="model")
    firmware = EmulatedFirmware(read_image(elf, BOARD, arena_memory="SRAM"), BOARD, program)
    monkeypatch.setattr("millijoule.device.device.open_port", lambda name, **_: Line(firmware))

    values = json.loads(call(*common, "--port", "emulated", "--json"))
    assert [layer["name"] for layer in values["measured"]["layers"]] == [layer["name"] for layer in values["layers"]]
    for layer, board in zip(values["layers"], values["measured"]["layers"], strict=True):
        assert 30 <= board["cycles"] - layer["cycles"] <= 60
    text = call(*common, "--port", "emulated")
    table = text.split("cycles by the board's own counter")[1]
    for layer, board in zip(values["layers"], values["measured"]["layers"], strict=True):
        line = next(line for line in table.splitlines() if line.strip().startswith(layer["name"] + " "))
        assert f"{layer['cycles']:,}" in line.split()
        assert abs(board["cycles"] - int(line.split()[-2].replace(",", ""))) <= 2, "the same inference again"

    save_graph(random_network(["conv", "depthwise"], 3), other)
    with pytest.raises(DeviceError, match="other layers"):
        call(str(other), "--board", BOARD, "--edges", "--port", "emulated")


class Scripted(Line):
    """Answers every command with the same text."""

    def __init__(self, reply: str) -> None:
        self._reply = reply
        self._answers = bytearray()

    def write(self, data: bytes) -> None:
        self._answers += self._reply.encode("latin-1")


@pytest.mark.parametrize(
    "reply",
    [
        "m-profile-[x]\r\nm-model-[y]\r\nm-ready\r\n",
        "m-layer-[0 12 a]\r\nm-layer-[2 12 b]\r\nm-layers-[30]\r\nm-ready\r\n",
        "m-layer-[0 12 a]\r\nm-ready\r\n",
    ],
)
def test_firmware_that_does_not_time_layers_is_named(reply: str) -> None:
    with pytest.raises(DeviceError, match="does not time layers"):
        measure_layers(Device(Scripted(reply)))


def test_names_may_hold_anything() -> None:
    reply = "m-layer-[0 12 a + b [c] d]\r\nm-layer-[1 7 e]\r\nm-layers-[30]\r\nm-ready\r\n"
    found = measure_layers(Device(Scripted(reply)))
    assert found.cycles == 30
    assert [(layer.name, layer.cycles) for layer in found.layers] == [("a + b [c] d", 12), ("e", 7)]
