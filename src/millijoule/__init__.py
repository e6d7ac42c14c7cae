"""millijoule: photographs to a measured firmware, in one open tool.

The names below are imported from their rooms when they are first used, so that `import millijoule` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from millijoule.boards import Board, board_names, load_board
    from millijoule.data import (
        Augmentation,
        PreparedSet,
        calibration_set,
        open_prepared,
        open_source,
        prepare,
    )
    from millijoule.deploy import Firmware, compile_model
    from millijoule.errors import MillijouleError
    from millijoule.execute import predict, run
    from millijoule.graph import Graph, format_graph, load_graph, save_graph, simplify
    from millijoule.interchange import capture
    from millijoule.nets import (
        NetworkSpec,
        autoencoder,
        ds_cnn,
        layer_table,
        mobilenet_v1,
        mobilenet_v2,
        resnet8,
        vgg16,
    )
    from millijoule.nets import build as build_network
    from millijoule.quantize import QatOptions, quantization_aware_training
    from millijoule.quantize.compare import compare as compare_models
    from millijoule.quantize.dynamic import dynamic
    from millijoule.quantize.half import half
    from millijoule.quantize.static import static
    from millijoule.report import write_report
    from millijoule.study import StudyOptions, run_study
    from millijoule.train import TrainOptions, evaluate, fit

__version__ = "0.1.0"

_PLACES = {
    "Augmentation": "data",
    "Board": "boards",
    "Firmware": "deploy",
    "Graph": "graph",
    "MillijouleError": "errors",
    "NetworkSpec": "nets",
    "PreparedSet": "data",
    "QatOptions": "quantize",
    "StudyOptions": "study",
    "TrainOptions": "train",
    "autoencoder": "nets",
    "board_names": "boards",
    "build_network": "nets:build",
    "calibration_set": "data",
    "capture": "interchange",
    "compare_models": "quantize:compare",
    "compile_model": "deploy",
    "ds_cnn": "nets",
    "dynamic": "quantize",
    "evaluate": "train",
    "fit": "train",
    "format_graph": "graph",
    "half": "quantize",
    "layer_table": "nets",
    "load_board": "boards",
    "load_graph": "graph",
    "mobilenet_v1": "nets",
    "mobilenet_v2": "nets",
    "open_prepared": "data",
    "open_source": "data",
    "predict": "execute",
    "prepare": "data",
    "quantization_aware_training": "quantize",
    "resnet8": "nets",
    "run": "execute",
    "run_study": "study",
    "save_graph": "graph",
    "simplify": "graph",
    "static": "quantize",
    "vgg16": "nets",
    "write_report": "report",
}
"""Public name -> room, or room:name where the room calls it otherwise."""

__all__ = [
    "Augmentation",
    "Board",
    "Firmware",
    "Graph",
    "MillijouleError",
    "NetworkSpec",
    "PreparedSet",
    "QatOptions",
    "StudyOptions",
    "TrainOptions",
    "__version__",
    "autoencoder",
    "board_names",
    "build_network",
    "calibration_set",
    "capture",
    "compare_models",
    "compile_model",
    "ds_cnn",
    "dynamic",
    "evaluate",
    "fit",
    "format_graph",
    "half",
    "layer_table",
    "load_board",
    "load_graph",
    "mobilenet_v1",
    "mobilenet_v2",
    "open_prepared",
    "open_source",
    "predict",
    "prepare",
    "quantization_aware_training",
    "resnet8",
    "run",
    "run_study",
    "save_graph",
    "simplify",
    "static",
    "vgg16",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """Imports a public name from its room."""
    place = _PLACES.get(name)
    if place is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    room, _, inner = place.partition(":")
    value = getattr(importlib.import_module(f"millijoule.{room}"), inner or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
