"""The registry: complete, consistent with the folder, and clear about its limits."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import millijoule.kernels
from millijoule.errors import UnsupportedError
from millijoule.graph import OPERATORS, GraphBuilder, Quant
from millijoule.kernels import (
    DENSE_INNER,
    DENSE_LANES,
    DENSE_NIBBLES,
    KERNELS,
    ROW_KERNELS,
    ROW_KERNELS_DYNAMIC,
    ROWS,
    ROWS_AGAIN,
    ROWS_DYNAMIC,
    ROWS_MEAN,
    ROWS_MEAN_FLOATS,
    ROWS_PATCH,
    UNPACK,
    Dims,
    choose,
    dims_of,
    headers,
    kernels_for,
    source,
    support_table,
)

FOLDER = Path(millijoule.kernels.__file__).parent
DECLARED = {
    name
    for header in ("mj_kernels.h", "mj_rows.h", "mj_row_engine.h", "mj_rows_dynamic.h", "mj_dense.h", "mj_unpack.h")
    for name in re.findall(r"^void (mj_\w+)\(", headers()[header], flags=re.MULTILINE)
}
ENGINE = {"mj_rows_s8", "mj_rows_begin", "mj_rows_push", "mj_rows_end"}  # one file
MEANS = {f"{name}_{step}" for name in (ROWS_MEAN, ROWS_MEAN_FLOATS) for step in ("take", "finish", "slices")}  # others


def test_files_registry_and_header_agree() -> None:
    names = {kernel.name for kernel in KERNELS}
    assert len(names) == len(KERNELS)
    files = {path.stem for path in (FOLDER / "c").iterdir()}
    names |= {DENSE_LANES.name, DENSE_INNER, DENSE_NIBBLES.name, UNPACK}
    names |= {ROWS.name, ROWS_DYNAMIC.name, ROWS_AGAIN, ROWS_PATCH, ROWS_MEAN, ROWS_MEAN_FLOATS}
    assert files == names | {*ROW_KERNELS, *ROW_KERNELS_DYNAMIC}
    assert files - {ROWS_MEAN, ROWS_MEAN_FLOATS} | ENGINE | MEANS == DECLARED


def test_every_operator_at_run_time_has_a_plain_kernel() -> None:
    done = {kernel.operator for kernel in KERNELS if kernel.variant == "plain"}
    assert done == set(OPERATORS) - {"reshape", "batch_norm"}


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_one_public_function_per_file(kernel: Any) -> None:
    text = source(kernel.name)
    public = re.findall(r"^void (\w+)\(", text, flags=re.MULTILINE)
    assert public == [kernel.name]
    assert "double" not in re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    for name in re.findall(r'#include "(\w+\.h)"', text):
        assert name in headers()


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("mj_pointwise_s8", Dims(4, 4, 3, 4, 4, 8), Dims(4, 4, 3, 2, 2, 8, stride=(2, 2))),
        ("mj_pointwise_s8", Dims(4, 4, 3, 4, 4, 8), Dims(4, 4, 3, 4, 4, 8, kernel=(3, 3), padding=(1, 1, 1, 1))),
        ("mj_depthwise_s8_dsp", Dims(9, 9, 3, 3, 3, 3, kernel=(7, 7)), Dims(9, 9, 3, 2, 2, 3, kernel=(8, 8))),
        ("mj_conv2d_s8", Dims(65535, 1, 1, 65535, 1, 1), Dims(65536, 1, 1, 65536, 1, 1)),
        ("mj_conv2d_s8", Dims(9, 9, 1, 1, 1, 1, stride=(255, 1)), Dims(9, 9, 1, 1, 1, 1, stride=(256, 1))),
        ("mj_softmax_s8", Dims(out_channels=32767), Dims(out_channels=32768)),
    ],
)
def test_limits_hold_on_both_sides(name: str, good: Dims, bad: Dims) -> None:
    kernel = next(kernel for kernel in KERNELS if kernel.name == name)
    assert kernel.legal(good)
    assert not kernel.legal(bad)
    assert kernel.legal.__doc__


def test_best_kernel_comes_first() -> None:
    point = kernels_for("conv2d", "integer", Dims(4, 4, 8, 4, 4, 8))
    assert [kernel.name for kernel in point] == [
        "mj_pointwise_s8_dsp", "mj_conv2d_s8_dsp", "mj_pointwise_s8", "mj_conv2d_s8",
    ]  # fmt: skip
    assert kernels_for("conv2d", "nonsense", Dims()) == []


def _graph(kernel: int, stride: int, channels: int = 4) -> Any:
    builder = GraphBuilder("g")
    x = builder.input("x", (1, 9, 9, channels), "int8", Quant.per_tensor(0.1))
    weights = np.ones((6, kernel, kernel, channels), dtype=np.int8)
    w = builder.constant("w", weights, Quant.per_channel(np.full(6, 0.1), 0))
    extent = (9 - kernel) // stride + 1
    attrs = {"stride": (stride, stride), "padding": (0, 0, 0, 0), "dilation": (1, 1)}
    y = builder.node(
        "conv2d", [x, w], (1, extent, extent, 6), dtype="int8", quant=Quant.per_tensor(0.1), attrs=attrs, source="stem"
    )
    return builder.build([y])


def test_choose_reads_sizes_from_the_graph() -> None:
    graph = _graph(1, 1)
    assert choose(graph, graph.nodes[0]).name == "mj_pointwise_s8_dsp"
    assert choose(graph, graph.nodes[0], "plain").name == "mj_pointwise_s8"
    graph = _graph(3, 2)
    assert dims_of(graph, graph.nodes[0]) == Dims(9, 9, 4, 4, 4, 6, (3, 3), (2, 2))
    assert choose(graph, graph.nodes[0]).name == "mj_conv2d_s8_dsp"


def test_refusal_names_layer_and_condition() -> None:
    graph = _graph(3, 256)
    with pytest.raises(UnsupportedError, match=r"stem.*beyond every kernel.*below 256"):
        choose(graph, graph.nodes[0])
    with pytest.raises(UnsupportedError, match="no such kernel"):
        source("mj_nonsense")


def test_support_table_lists_every_kernel_with_its_condition() -> None:
    lines = support_table().splitlines()
    assert len(lines) == len(KERNELS) + 2
    for kernel in KERNELS:
        row = next(line for line in lines if f"`{kernel.name}`" in line)
        assert (kernel.legal.__doc__ or "?").strip() in row
        assert row.count("|") == 6


def test_pair_layout_by_its_definition() -> None:
    weights = np.arange(1, 16, dtype=np.int8).reshape(3, 5)  # three channels of five taps
    packed = next(k for k in KERNELS if k.name == "mj_dense_s8_dsp").packed(weights)
    padded = np.zeros((4, 8), dtype=np.int8)
    padded[:3, :5] = weights
    expected = []
    for pair in range(2):
        a, b = padded[2 * pair], padded[2 * pair + 1]
        for k in (0, 4):
            expected += [a[k], b[k], a[k + 2], b[k + 2], a[k + 1], b[k + 1], a[k + 3], b[k + 3]]
    assert packed.dtype == np.int8
    assert packed.tolist() == expected


def test_group_layout_by_its_definition() -> None:
    weights = np.arange(30, dtype=np.int8).reshape(1, 2, 3, 5)
    packed = next(k for k in KERNELS if k.name == "mj_depthwise_s8_dsp").packed(weights)
    flat = weights.reshape(6, 5)
    expected = [flat[t, c] if c < 5 else 0 for group in (0, 4) for t in range(6) for c in range(group, group + 4)]
    assert packed.tolist() == expected


def test_the_rounding_rule_must_be_named(tools: Any, tmp_path: Path) -> None:
    for file in tools.write_sources(tmp_path):
        if file.name == "mj_dense_s8.c":
            command = [*tools.host_compiler(), "-c", str(file), "-o", str(tmp_path / "x.o")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "define exactly one" in done.stderr


def test_all_kernels_build_for_both_cores_without_warnings(tools: Any, tmp_path: Path) -> None:
    pytest.importorskip("ziglang")
    files = [str(path) for path in tools.write_sources(tmp_path)]
    flags = ["-std=c11", "-O1", "-ffreestanding", "-fno-sanitize=all", "-Wall", "-Wextra", "-Werror", "-pedantic"]
    flags += ["-Wdouble-promotion", "-DMJ_ROUNDING_DOUBLE", f"-I{tmp_path}"]
    for cpu, more in (("cortex_m4+vfp4d16sp", ["-DMJ_DSP_ASSEMBLY"]), ("cortex_m7+fp_armv8d16sp", [])):
        target = ["-target", "thumb-freestanding-eabihf", f"-mcpu={cpu}"]
        command = [sys.executable, "-m", "ziglang", "cc", *target, *flags, *more, "-c", *files]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
