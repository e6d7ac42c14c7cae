"""The network as data: channels, padding, shapes, parameters, MACs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import millijoule.nets
from millijoule.errors import FormatError, OptionError
from millijoule.nets import (
    NetworkSpec,
    families,
    family,
    layer_table,
    layers,
    mobilenet_v2,
    parameter_count,
    round_channels,
    same_padding,
    stage_table,
)


@pytest.mark.parametrize(
    ("alpha", "parameters"), [(0.35, 410_208), (0.5, 706_224), (0.75, 1_382_064), (1.0, 2_257_984)]
)
def test_parameters_equal_keras_applications_without_top(alpha: float, parameters: int) -> None:
    assert parameter_count(mobilenet_v2(alpha)).without_classifier == parameters


def test_macs_of_the_papers_network() -> None:
    rows = layer_table(mobilenet_v2(0.5, 224, 10))
    by_operator: dict[str, int] = {}
    for row in rows:
        by_operator[row.operator] = by_operator.get(row.operator, 0) + row.macs
    first = rows[0].macs
    assert first == 112 * 112 * 27 * 16
    assert by_operator["depthwise_conv2d"] == 11_204_928
    assert by_operator["conv2d"] - first == pytest.approx(79.2e6, rel=1e-3)
    assert sum(by_operator.values()) == 95_864_640


def test_table_1_of_the_paper_at_alpha_1() -> None:
    rows = stage_table(mobilenet_v2(1.0, 224, 10))
    assert [(r.input_shape, r.operator, r.t, r.c, r.n, r.s) for r in rows] == [
        ((224, 224, 3), "conv2d", None, 32, 1, 2),
        ((112, 112, 32), "bottleneck", 1, 16, 1, 1),
        ((112, 112, 16), "bottleneck", 6, 24, 2, 2),
        ((56, 56, 24), "bottleneck", 6, 32, 3, 2),
        ((28, 28, 32), "bottleneck", 6, 64, 4, 2),
        ((14, 14, 64), "bottleneck", 6, 96, 3, 1),
        ((14, 14, 96), "bottleneck", 6, 160, 3, 2),
        ((7, 7, 160), "bottleneck", 6, 320, 1, 1),
        ((7, 7, 320), "conv2d 1x1", None, 1280, 1, 1),
        ((7, 7, 1280), "avgpool", None, 1280, 1, 1),
        ((1, 1, 1280), "dense", None, 10, 1, 1),
    ]
    assert sum(r.parameters for r in rows) == parameter_count(mobilenet_v2(1.0)).total


def test_activation_sizes_by_hand() -> None:
    rows = {row.name: row for row in layer_table(mobilenet_v2(0.5, 224))}
    assert rows["Conv1"].activation_bytes_int8 == 224 * 224 * 3 + 112 * 112 * 16
    assert rows["block_1_expand"].activation_bytes_int8 == 112 * 112 * (8 + 48)
    # the peak of alpha 0.5 at 224: input 112x112x48 and output 56x56x48 of the depthwise of block 1
    assert max(row.activation_bytes_int8 for row in rows.values()) == (112 * 112 + 56 * 56) * 48
    # the depthwise of a residual block also keeps the block's input
    assert rows["block_2_depthwise"].activation_bytes_int8 == 56 * 56 * (16 + 96 + 96)
    assert rows["block_2_add"].activation_bytes_int8 == 56 * 56 * (16 + 16 + 16)
    assert all(row.activation_bytes_float == 4 * row.activation_bytes_int8 for row in rows.values())
    assert "dropout" not in rows


def test_names_are_those_of_keras() -> None:
    names = [layer.name for layer in layers(mobilenet_v2(0.35))]
    assert names[:4] == ["Conv1", "expanded_conv_depthwise", "expanded_conv_project", "block_1_expand"]
    assert names[-5:] == ["block_16_project", "Conv_1", "global_average_pool", "dropout", "classifier"]
    assert [name for name in names if name.endswith("_add")] == [
        f"block_{n}_add" for n in (2, 4, 5, 7, 8, 9, 11, 12, 14, 15)
    ]
    assert len(set(names)) == len(names)


@given(st.floats(1, 2000))
def test_rounded_channels_are_multiples_and_never_much_smaller(channels: float) -> None:
    rounded = round_channels(channels)
    assert rounded % 8 == 0
    assert rounded >= max(8, 0.9 * channels)
    assert rounded <= max(8, channels + 8)


@given(st.integers(1, 300), st.integers(1, 7), st.integers(1, 4))
def test_same_padding_gives_the_output_size_and_no_more_zeros_than_needed(size: int, kernel: int, stride: int) -> None:
    before, after = same_padding(size, kernel, stride)
    outputs = -(-size // stride)
    assert 0 <= after - before <= 1
    covered = (outputs - 1) * stride + kernel
    assert before + after + size >= covered
    if before + after:
        assert before + after + size == covered
        assert (before + after + size - kernel) // stride + 1 == outputs


def test_padding_depends_on_the_parity_of_the_input() -> None:
    even = {layer.name: layer for layer in layers(mobilenet_v2(0.35, 96))}
    odd = {layer.name: layer for layer in layers(mobilenet_v2(0.35, 97))}
    assert even["Conv1"].padding == (0, 1, 0, 1)
    assert odd["Conv1"].padding == (1, 1, 1, 1)
    assert odd["Conv1"].output_shape == (49, 49, 16)
    assert even["block_2_depthwise"].padding == (1, 1, 1, 1)


def test_specification_survives_json() -> None:
    spec = mobilenet_v2(0.75, 160, 7, 0.1, bn_momentum=0.05)
    assert NetworkSpec.from_json(spec.to_json()) == spec
    assert json.loads(spec.to_json())["normalization"] == {"scale": 1 / 127.5, "offset": -1.0}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"family": "mobilenet_v2", "depth": 3}', '"words"'])
def test_foreign_json_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        NetworkSpec.from_json(text)


@pytest.mark.parametrize(
    "change", [{"alpha": 0.0}, {"alpha": float("nan")}, {"resolution": 16}, {"classes": 1}, {"dropout": 1.0}]
)
def test_values_out_of_range_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(OptionError, match=next(iter(change))):
        mobilenet_v2(**change)  # type: ignore[arg-type]


def test_registry() -> None:
    assert [entry.name for entry in families()] == sorted(entry.name for entry in families())
    assert family("mobilenet_v2").specify(0.5) == mobilenet_v2(0.5)
    with pytest.raises(OptionError, match="mobilenet_v2"):
        family("resnet8000")


def test_public_names_exist_and_tables_need_no_torch() -> None:
    for name in millijoule.nets.__all__:
        assert getattr(millijoule.nets, name) is not None
    with pytest.raises(AttributeError):
        _ = millijoule.nets.nonsense
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from millijoule.nets import layer_table, mobilenet_v2\n"
        "print(len(layer_table(mobilenet_v2())))\n"
        "import millijoule.nets\n"
        "try:\n    millijoule.nets.build\n"
        "except millijoule.errors.ToolchainError as error:\n    print(error.fix)\n"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert output.splitlines() == ["64", "Run pip install 'millijoule[train]'"]
