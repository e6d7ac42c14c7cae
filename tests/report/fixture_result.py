"""A hand-made study result. A FIXTURE: every figure in it is invented to exercise the page, none was measured."""

from __future__ import annotations

import random
from typing import Any

from millijoule.nets import layer_table, mobilenet_v2, stage_table

CLASSES = ("sedan", "hatchback", "wagon", "suv", "coupe", "convertible", "van", "minivan", "pickup_crew_cab", "bus")
NOTE = "FIXTURE: invented figures, not a measurement"


def _confusion(seed: int, share: float, count: int = 20) -> list[list[int]]:
    chance = random.Random(seed)
    rows = []
    for true in range(len(CLASSES)):
        row = [0] * len(CLASSES)
        for _ in range(count):
            row[true if chance.random() < share else chance.randrange(len(CLASSES))] += 1
        rows.append(row)
    return rows


def _method(name: str, title: str, share: float, flash: int, activation: int, seed: int) -> dict[str, Any]:
    confusion = _confusion(seed, share)
    correct, pictures = sum(confusion[i][i] for i in range(len(CLASSES))), 200
    accuracy = 100.0 * correct / pictures
    first = name == "float"
    return {
        "name": name,
        "title": title,
        "kind": "float" if first else "integer",
        "file": f"{name}.mj",
        "pictures": pictures,
        "correct": correct,
        "accuracy": accuracy,
        "interval": [accuracy - 3.7, min(100.0, accuracy + 3.1)],
        "flash_bytes": flash,
        "tflite_bytes": int(flash * 1.1),
        "activation_bytes": activation,
        "activation_note": "",
        "changed": None if first else 7,
        "lost": None if first else 4,
        "won": None if first else 2,
        "difference": None if first else -1.0,
        "difference_interval": None if first else [-3.4, 1.4],
        "logits_sqnr": None if first else 24.0,
        "confusion": confusion,
    }


STALLS = ("load_use", "branch", "flash_fetch", "flash_data", "data_cache")


def with_timing(deployment: dict[str, Any]) -> dict[str, Any]:
    """A deployment as results have it since timing tells conditions and causes; `_deployment` makes those of before."""
    layers = []
    for layer in deployment["layers"]:
        stalls = {cause: layer["cycles"] * (index + 1) // 40 for index, cause in enumerate(STALLS)}
        block = layer["name"].rsplit("_", 1)[0]
        mix = {"multiply": layer["instructions"] // 2, "load": layer["instructions"] - layer["instructions"] // 2}
        layers.append({**layer, "block": block, "live_bytes": 4096, "mix": mix, "stalls": stalls})
    timing = {
        "method": "trace",
        "memory": "modelled",
        "model": "Cortex-F f-0",
        "conditions": ["0 MHz FIXTURE", "code in a fixture"],
        "expected_error": "everything, for it is a FIXTURE",
        "stalls": {cause: sum(layer["stalls"][cause] for layer in layers) for cause in STALLS},
    }
    energy = [{**item, "statement": "power times time of a FIXTURE"} for item in deployment["energy"]]
    return {**deployment, "layers": layers, "timing": timing, "energy": energy}


def _deployment(method: str, board: str, clock: int, picojoules: float, factor: float) -> dict[str, Any]:
    rows = layer_table(mobilenet_v2(0.35, 96, len(CLASSES)))
    layers = [
        {
            "name": row.name,
            "operator": f"{row.operator}_1x1" if row.operator == "conv2d" and row.kernel == (1, 1) else row.operator,
            "macs": row.macs,
            "cycles": int(row.macs * factor + row.activation_bytes_int8 * 1.5),
            "instructions": int(row.macs * factor * 0.8 + row.activation_bytes_int8),
        }
        for row in rows
    ]
    sizes = [row.output_shape[0] * row.output_shape[1] * row.output_shape[2] for row in rows]
    buffers = []
    for index, size in enumerate(sizes):
        offset = 0 if index % 2 else max(sizes[max(0, index - 1)], sizes[min(index + 1, len(sizes) - 1)])
        last = min(index + 1, len(sizes) - 1)
        kind = "scratch" if index % 7 == 3 else "picture" if index == 0 else "activation"
        buffers.append(
            {"name": rows[index].name, "offset": offset, "bytes": size, "first": index, "last": last, "kind": kind}
        )
    live = [row.activation_bytes_int8 for row in rows]
    cycles = sum(layer["cycles"] for layer in layers)
    milliseconds = 1e3 * cycles / clock
    return {
        "method": method,
        "board": board,
        "status": "ran",
        "reason": "",
        "arena_bytes": max(buffer["offset"] + buffer["bytes"] for buffer in buffers),
        "lower_bound_bytes": max(live),
        "weight_bytes": 560_000,
        "flash_bytes": 612_000,
        "ram_bytes": 148_000,
        "stack_bytes": 1_240,
        "cycles": cycles,
        "instructions": sum(layer["instructions"] for layer in layers),
        "milliseconds": milliseconds,
        "energy": [
            {
                "regulator": "ldo",
                "title": "internal LDO, 1.8 V",
                "millijoules": cycles * picojoules * 1e-9,
                "uncertainty": 0.06,
            }
        ],
        "assumptions": f"{NOTE}; cycle model without wait states",
        "compiler": "zig 0.0 -Ofixture",
        "layers": layers,
        "plan": {"steps": [row.name for row in rows], "live_bytes": live, "buffers": buffers},
        "verify": {
            "pictures": 8,
            "executors": ["integer executor", "host C", "emulated board"],
            "equal": True,
            "largest_difference": 0.0,
            "tolerance": 0.0,
        },
    }


def _board(name: str, title: str, clock: int, paper: tuple[float, float], picojoules: float) -> dict[str, Any]:
    return {
        "name": name,
        "title": title,
        "core": "cortex-m",
        "clock_hz": clock,
        "flash_bytes": 2 << 20,
        "ram_bytes": 640 << 10,
        "arena_limit_bytes": 600 << 10,
        "wait_states": 5,
        "regulators": [
            {
                "name": "ldo",
                "title": "internal LDO, 1.8 V",
                "volts": 1.8,
                "picojoules_per_cycle": picojoules,
                "uncertainty": 0.06,
                "source": NOTE,
            }
        ],
        "paper_milliseconds": paper[0],
        "paper_millijoules": paper[1],
        "paper_remark": "",
    }


def fixture_result() -> dict[str, Any]:
    """The whole result as `Study.to_json` shapes it."""
    spec = mobilenet_v2(0.35, 96, len(CLASSES))
    chance = random.Random(7)
    epochs = [
        {
            "epoch": epoch,
            "loss": 2.3 * 0.93**epoch + 0.1 * chance.random(),
            "accuracy": 0.93 - 0.8 * 0.9**epoch,
            "validation_loss": 2.3 * 0.94**epoch + 0.2 * chance.random(),
            "validation_accuracy": 0.95 - 0.8 * 0.88**epoch - 0.03 * chance.random(),
        }
        for epoch in range(1, 31)
    ]
    refused = {
        **_deployment("dynamic", "stm32l4r9i", 120_000_000, 349.0, 4.0),
        "status": "refused",
        "reason": "FIXTURE model: it needs 812,000 bytes of arena, the board has 638,976. Use resolution 64.",
        "arena_bytes": 0,
        "layers": [],
        "plan": None,
        "verify": None,
        "energy": [],
    }
    return {
        "schema": "millijoule study 1",
        "title": f"MobileNetV2 alpha 0.35 at 96x96 ({NOTE})",
        "created": "2000-01-01 00:00 UTC",
        "seconds": 300.0,
        "command": "millijoule demo",
        "commands": ["pip install -c constraints.txt '.[all]'", "millijoule demo"],
        "versions": {"millijoule": "0.0", "python": "3.11"},
        "host": {"processor": "fixture", "threads": "2"},
        "options": {"alpha": 0.35, "resolution": 96},
        "data": {
            "source": "toy_vehicles",
            "toy": True,
            "classes": list(CLASSES),
            "resolution": 96,
            "resize": "stretch",
            "counts": {"train": 1400, "validation": 400, "test": 200},
            "skipped": 0,
            "near_duplicates": 0,
        },
        "network": {
            "family": "mobilenet_v2",
            "alpha": 0.35,
            "resolution": 96,
            "parameters": 423_018,
            "macs": 11_000_000,
            "rows": [
                {
                    "input": list(row.input_shape),
                    "operator": row.operator,
                    "t": row.t,
                    "c": row.c,
                    "channels": row.c,
                    "n": row.n,
                    "s": row.s,
                    "parameters": row.parameters,
                    "macs": row.macs,
                }
                for row in stage_table(spec)
            ],
            "widths": [
                {"alpha": alpha, "parameters": size, "float_bytes": 4 * size, "int8_bytes": size}
                for alpha, size in ((0.35, 423_018), (0.5, 719_034), (0.75, 1_394_874))
            ],
        },
        "training": {
            "float": {
                "title": "Float training",
                "epochs": epochs,
                "best_epoch": 30,
                "validation_accuracy": 0.9,
                "seconds": 150.0,
                "conversion": None,
            },
            "qat": {
                "title": "QAT fine-tuning",
                "epochs": epochs[20:],
                "best_epoch": 8,
                "validation_accuracy": 0.9,
                "seconds": 60.0,
                "conversion": {"pictures": 256, "disagreements": 0, "float_sums": 3},
            },
        },
        "methods": [
            _method("float", "No quantisation", 0.93, 1_680_000, 442_368, 1),
            _method("dynamic", "Dynamic", 0.92, 520_000, 442_368, 2),
            _method("static", "Static", 0.89, 520_000, 110_592, 3),
            _method("qat", "QAT", 0.92, 520_000, 110_592, 4),
        ],
        "boards": [
            _board("stm32l4r9i", "STM32L4R9I", 120_000_000, (2619.0, 57.0), 349.0),
            _board("stm32h7b3i", "STM32H7B3I", 280_000_000, (379.0, 87.0), 445.0),
        ],
        "deployments": [
            refused,
            _deployment("dynamic", "stm32h7b3i", 280_000_000, 445.0, 3.0),
            _deployment("static", "stm32l4r9i", 120_000_000, 349.0, 2.0),
            _deployment("static", "stm32h7b3i", 280_000_000, 445.0, 1.3),
            with_timing(_deployment("qat", "stm32l4r9i", 120_000_000, 349.0, 2.0)),
            with_timing(_deployment("qat", "stm32h7b3i", 280_000_000, 445.0, 1.3)),
        ],
        "stages": [
            {"name": "data", "title": "prepare data", "seconds": 12.0, "reused": True},
            {"name": "train", "title": "train in float", "seconds": 150.0, "reused": False},
        ],
        "notes": [NOTE],
    }
