"""The network that the paper compares with, beside ours: size, and accuracy where there is one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from millijoule.nets import parameter_count, vgg16
from millijoule.report.paper import ISEC_ACCURACY, ISEC_MEGABYTES

__all__ = ["vgg16_rows"]


def vgg16_rows(result: Mapping[str, Any], main: str) -> list[dict[str, Any]]:
    """VGG16 of iSEC as the paper quotes it, this package's VGG16 in 16-bit floats, and models of the study.

    The size of this package's VGG16 follows from its table of layers: two bytes for each weight and bias, for the
    study's number of classes (`millijoule quantize half` stores as many). It is not trained by a study, so it has no
    accuracy.

    Args:
        result: a study as JSON values.
        main: name of the method that stands for the study.

    Returns:
        Rows with "name", "weights", "accuracy" (per cent or None), "bytes" and "ratio" (iSEC's size over this one's).
    """
    classes = len(result["data"]["classes"])
    named = {method["name"]: method for method in result["methods"]}
    rows: list[dict[str, Any]] = [
        {
            "name": "iSEC's VGG16, as the paper quotes it",
            "weights": "16-bit",
            "accuracy": ISEC_ACCURACY,
            "bytes": ISEC_MEGABYTES * 1e6,
            "theirs": True,
        },
        {
            "name": f"VGG16 of this package, {classes} classes, not trained here",
            "weights": "16-bit float",
            "accuracy": None,
            "bytes": 2 * parameter_count(vgg16(classes=classes)).total,
        },
    ]
    for name in dict.fromkeys(("half", main)):
        if name in named:
            method = named[name]
            rows.append(
                {
                    "name": f"this study: {method['title']}",
                    "weights": WEIGHTS.get(method["kind"], "integers"),
                    "accuracy": method["accuracy"],
                    "bytes": method["flash_bytes"],
                }
            )
    return [{"theirs": False, **row, "ratio": rows[0]["bytes"] / row["bytes"]} for row in rows]


WEIGHTS = {"float": "32-bit float", "half": "16-bit float"}
"""Weights by the kind of a model; those of the others are integers."""
