"""The rows of the benchmark: which script measures each, in which environment, with which settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from millijoule.quantize.refine import FOUR_BITS

OURS = "project"
"""The environment that the benchmark itself runs in."""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: as given on the command line.
        what: tool and setting, for people.
        group: the heading it stands under; rows of one group do the same task.
        environment: requirements file without "requirements_", or `OURS`.
        script: the worker.
        settings: what the worker gets.
        trains: whether it also gets photographs to train on.
    """

    name: str
    what: str
    group: str
    environment: str
    script: str
    settings: dict[str, Any]
    trains: bool = False


GROUPS = {
    "float": "float, as exported",
    "static": "static, one weight scale per channel",
    "static_per_tensor": "static, one weight scale per layer",
    "data_free": "static without pictures",
    "dynamic": "dynamic",
    "four": "weights of 4 bits",
    "qat": "quantisation-aware training",
}


def _ours(name: str, what: str, group: str, method: str, pictures: bool, **settings: Any) -> Row:
    everything = {"method": method, "pictures": pictures, **settings}
    return Row(name, f"**millijoule** {what}", group, OURS, "ours.py", everything)


def _onnxruntime(name: str, what: str, group: str, **settings: Any) -> Row:
    return Row(name, f"ONNX Runtime {what}", group, "onnxruntime", "peer_onnxruntime.py", settings)


def _nncf(preset: str, fast: bool = True) -> Row:
    what = f"NNCF PTQ {preset}{'' if fast else ', slow bias correction'}, in ONNX Runtime"
    settings = {"preset": preset, "fast_bias_correction": fast}
    name = f"nncf-{preset.lower()}{'' if fast else '-slow'}"
    return Row(name, what, "static", "nncf", "peer_nncf.py", settings)


def _ai_edge(name: str, what: str, group: str, **settings: Any) -> Row:
    return Row(name, f"ai-edge-quantizer {what}", group, "ai_edge", "peer_ai_edge.py", settings)


def _ai_edge_four(recipe: str, algorithm: str, word: str) -> Row:
    kind = recipe.split("_")[0]
    return _ai_edge(
        f"ai_edge-4-{kind}-{word.lower()}",
        f"{kind}, 4-bit weights (depthwise 8), {word}, XNNPACK",
        "four",
        recipe=recipe,
        weight_bits=4,
        algorithm=algorithm,
        delegate=True,
    )


def _torchao(name: str, what: str, group: str, **settings: Any) -> Row:
    return Row(name, f"torchao {what}", group, "torchao", "peer_torchao.py", settings)


def _torchao_qat(name: str, what: str, **settings: Any) -> Row:
    what = f"torchao PT2E QAT, XNNPACKQuantizer, {what} (simulated)"
    return Row(name, what, "qat", "torchao", "peer_torchao_qat.py", settings, trains=True)


FOUR = {"weight_bits": 4, "refine": FOUR_BITS}
PER_TENSOR = {"per_channel": False, "refine": "full"}
ROWS = (
    _onnxruntime("onnxruntime-float", "float", "float", mode="float"),
    Row("litert-float", "LiteRT float", "float", "ai_edge", "peer_ai_edge.py", {"recipe": None, "delegate": True}),
    _ours("ours-static", "static, corrected biases (default)", "static", "static", True),
    _ours("ours-static-full", "static, full", "static", "static", True, refine="full"),
    _onnxruntime("onnxruntime-minmax", "QDQ MinMax", "static", mode="static", calibrate="MinMax", per_channel=True),
    _onnxruntime(
        "onnxruntime-percentile",
        "QDQ Percentile 99.999",
        "static",
        mode="static",
        calibrate="Percentile",
        percentile=99.999,
        per_channel=True,
    ),
    _nncf("PERFORMANCE"),
    _nncf("MIXED"),
    _nncf("PERFORMANCE", fast=False),
    _ai_edge("ai_edge-static", "static_wi8_ai8, XNNPACK", "static", recipe="static_wi8_ai8", delegate=True),
    _ai_edge(
        "ai_edge-static-builtin", "static_wi8_ai8, no delegate", "static", recipe="static_wi8_ai8", delegate=False
    ),
    _torchao("torchao-x86", "PT2E PTQ, X86Inductor (simulated)", "static", quantizer="x86"),
    _torchao("torchao-xnnpack", "PT2E PTQ, XNNPACKQuantizer (simulated)", "static", quantizer="xnnpack"),
    _ours("ours-static-per_tensor", "static, full (default)", "static_per_tensor", "static", True, **PER_TENSOR),
    _onnxruntime(
        "onnxruntime-minmax-per_tensor",
        "QDQ MinMax",
        "static_per_tensor",
        mode="static",
        calibrate="MinMax",
        per_channel=False,
    ),
    _onnxruntime(
        "onnxruntime-percentile-per_tensor",
        "QDQ Percentile 99.999",
        "static_per_tensor",
        mode="static",
        calibrate="Percentile",
        percentile=99.999,
        per_channel=False,
    ),
    _ai_edge(
        "ai_edge-static-per_tensor",
        "static_wi8_ai8 with TENSORWISE weights, XNNPACK",
        "static_per_tensor",
        recipe="static_wi8_ai8",
        granularity="TENSORWISE",
        delegate=True,
    ),
    _ours("ours-data_free", "static, data-free, full (default)", "data_free", "static", False, refine="full"),
    _ours("ours-dynamic", "dynamic, corrected biases", "dynamic", "dynamic", False, refine="bias"),
    _ours("ours-dynamic-full", "dynamic, full, drawn pictures (default)", "dynamic", "dynamic", False, refine="full"),
    _ai_edge("ai_edge-dynamic", "dynamic_wi8_afp32, XNNPACK", "dynamic", recipe="dynamic_wi8_afp32", delegate=True),
    _ai_edge(
        "ai_edge-dynamic-builtin",
        "dynamic_wi8_afp32, no delegate",
        "dynamic",
        recipe="dynamic_wi8_afp32",
        delegate=False,
    ),
    _onnxruntime("onnxruntime-dynamic", "dynamic, defaults", "dynamic", mode="dynamic", per_channel=False),
    _onnxruntime(
        "onnxruntime-dynamic-per_channel",
        "dynamic, QUInt8, per_channel=True",
        "dynamic",
        mode="dynamic",
        per_channel=True,
        weight_type="QUInt8",
    ),
    _ours("ours-static-4", "static, 4-bit weights in all layers (default)", "four", "static", True, **FOUR),
    _ours(
        "ours-mixed-60",
        "mixed, 4 and 8 bits, 60 % of the int8 flash",
        "four",
        "mixed",
        True,
        budget_share=60.0,
    ),
    _ai_edge_four("static_wi8_ai8", "MIN_MAX_UNIFORM_QUANT", "min-max"),
    _ai_edge_four("static_wi8_ai8", "MSE", "MSE"),
    _ai_edge_four("static_wi8_ai8", "OCTAV", "OCTAV"),
    _ai_edge_four("dynamic_wi8_afp32", "MIN_MAX_UNIFORM_QUANT", "min-max"),
    _ai_edge_four("dynamic_wi8_afp32", "OCTAV", "OCTAV"),
    _torchao_qat("torchao-qat", "as in its tutorial", batch_norm=0.3, observers=0.4, epsilon="tool"),
    _torchao_qat(
        "torchao-qat-frozen",
        "epsilon kept, statistics frozen from the first step on",
        batch_norm=0.0,
        observers=0.4,
        epsilon="in_variances",
    ),
)
