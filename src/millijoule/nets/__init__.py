"""Networks as data: one table per family, one builder, and the weights that go into it.

`build`, `load_weights` and the other functions that touch weights need torch (`pip install 'millijoule[train]'`);
specifications and tables do not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from millijoule.errors import ToolchainError
from millijoule.nets._autoencoder import autoencoder
from millijoule.nets._ds_cnn import ds_cnn
from millijoule.nets._expand import round_channels
from millijoule.nets._mobilenet_v1 import mobilenet_v1
from millijoule.nets._mobilenet_v2 import mobilenet_v2
from millijoule.nets._registry import Family, families, family, identifier, layers, specify
from millijoule.nets._resnet8 import resnet8
from millijoule.nets._spec import Layer, NetworkSpec, Normalization, Stage, same_padding
from millijoule.nets._table import LayerRow, ParameterCount, StageRow, layer_table, parameter_count, stage_table
from millijoule.nets._vgg16 import vgg16

if TYPE_CHECKING:
    from millijoule.nets._network import Add, GlobalAveragePool, Network, build
    from millijoule.nets._weights import (
        LoadReport,
        load_keras_weights,
        load_network,
        load_weights,
        save_weights,
        unfold_batch_norm,
        weights_bytes,
    )
    from millijoule.nets._widen import widen

__all__ = [
    "Add",
    "Family",
    "GlobalAveragePool",
    "Layer",
    "LayerRow",
    "LoadReport",
    "Network",
    "NetworkSpec",
    "Normalization",
    "ParameterCount",
    "Stage",
    "StageRow",
    "autoencoder",
    "build",
    "ds_cnn",
    "families",
    "family",
    "identifier",
    "layer_table",
    "layers",
    "load_keras_weights",
    "load_network",
    "load_weights",
    "mobilenet_v1",
    "mobilenet_v2",
    "parameter_count",
    "resnet8",
    "round_channels",
    "same_padding",
    "save_weights",
    "specify",
    "stage_table",
    "unfold_batch_norm",
    "vgg16",
    "weights_bytes",
    "widen",
]

_NEEDS_TORCH = {
    "Add": "_network",
    "GlobalAveragePool": "_network",
    "Network": "_network",
    "build": "_network",
    "LoadReport": "_weights",
    "load_keras_weights": "_weights",
    "load_network": "_weights",
    "load_weights": "_weights",
    "save_weights": "_weights",
    "unfold_batch_norm": "_weights",
    "weights_bytes": "_weights",
    "widen": "_widen",
}


def __getattr__(name: str) -> Any:
    """Imports what needs torch when it is first asked for, so that the tables work without torch."""
    if name not in _NEEDS_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    try:
        module = importlib.import_module(f"millijoule.nets.{_NEEDS_TORCH[name]}")
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ToolchainError("torch", "it is not installed", "Run pip install 'millijoule[train]'") from error
    return getattr(module, name)
