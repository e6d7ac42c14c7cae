"""What every row gets: the float network in three forms, pictures and labels, calibration pictures; kept on disk."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from baseline import Photographs, baseline_graph, photographs
from figures import evenly, real_logits

from millijoule.data import calibration_set, open_prepared
from millijoule.errors import DataError, OptionError
from millijoule.files import atomic_path, atomic_write_text
from millijoule.graph import Graph, load_graph, save_graph, simplify
from millijoule.interchange import capture, onnx_bytes, tflite_bytes
from millijoule.nets import load_network

BASELINE = "baseline_mbv2_0.35_cars.safetensors"


@dataclass(frozen=True)
class Inputs:
    """Where everything lies.

    Attributes:
        folder: holds the files named in `paths`.
        digest: of the network and all pictures.
        labels: int64 (N,), classes of the pictures to evaluate on.
        reference: float64 (N, classes), logits of the float network in the project's executor.
        scale: of a picture's values before they enter the network, per channel.
        offset: likewise.
    """

    folder: Path
    digest: str
    labels: npt.NDArray[np.int64]
    reference: npt.NDArray[np.float64]
    scale: tuple[float, ...]
    offset: tuple[float, ...]

    def paths(self) -> dict[str, str]:
        """Files by what they are."""
        names = {
            "pictures": "pictures.npy",
            "calibration": "calibration.npy",
            "onnx": "float.onnx",
            "tflite": "float.tflite",
            "layers": "layers.json",
            "parameters": "parameters.npz",
            "graph": "float.mj",
        }
        return {kind: str(self.folder / name) for kind, name in names.items()}


def load_float(weights: Path) -> Graph:
    """The float graph, batch normalisation kept: the reference network, a training run's weights, or a .mj file."""
    if weights.name == BASELINE:
        return baseline_graph(weights)
    if weights.suffix == ".mj":
        return load_graph(weights)
    network, classes = load_network(weights)
    return capture(network, network.spec, classes=classes or ())


def load_pictures(data: Path, cache: Path, count: int) -> tuple[Photographs, tuple[str, ...] | None]:
    """Pictures to evaluate on (validation, then test) and `count` for calibration, and the classes.

    Args:
        data: a prepared set, or the folder with cars_body10.parquet, whose classes are not said.
        cache: where decoded photographs are kept.
        count: calibration pictures; cars_body10.parquet has 200.
    """
    if not (data / "manifest.json").exists():
        photos = photographs(data / "cars_body10.parquet", cache)
        return replace(photos, calibration=np.asarray(photos.calibration[:count])), None
    prepared = open_prepared(data)
    parts = [prepared.split(name) for name in ("validation", "test")]
    pictures = np.concatenate([np.asarray(part.pictures) for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    return Photographs(pictures, labels, calibration_set(prepared, count)[0]), prepared.classes


def check_pictures(graph: Graph, data: Path, photos: Photographs, classes: tuple[str, ...] | None) -> None:
    """Refuses pictures or classes that are not the network's."""
    expected, shape = tuple(graph.tensor(graph.inputs[0]).shape[1:]), tuple(photos.pictures.shape[1:])
    if shape != expected:
        raise DataError(str(data), f"pictures are {shape}, the network takes {expected}", "Prepare again")
    if classes is not None and graph.classes and tuple(graph.classes) != tuple(classes):
        raise DataError(str(data), "its classes are not the network's", "Give the set that it was trained on")


def make_inputs(data: Path, weights: Path | None, cache: Path, limit: int | None, count: int) -> Inputs:
    """Loads pictures and network, exports the network, and computes the float logits, unless all that is there.

    Args:
        data: a prepared set (pictures: validation, then test), or the folder with cars_body10.parquet.
        weights: the network; None: the reference network in `data`/weights.
        cache: where decoded photographs and the inputs are kept.
        limit: only so many pictures, evenly chosen.
        count: calibration pictures; cars_body10.parquet has 200.
    """
    photos, classes = load_pictures(data, cache, count)
    graph = load_float(weights or data / "weights" / BASELINE)
    check_pictures(graph, data, photos, classes)
    chosen = evenly(len(photos.labels), limit)
    pictures, labels = np.ascontiguousarray(photos.pictures[chosen]), photos.labels[chosen]
    return store_inputs(logits_only(graph), pictures, labels, np.ascontiguousarray(photos.calibration), cache)


def logits_only(graph: Graph) -> Graph:
    """The graph without what follows its first output: peers would quantise the softmax, too."""
    outputs = graph.outputs[:1]
    needed, nodes = set(outputs), []
    for node in reversed(graph.nodes):
        if node.output in needed:
            nodes.append(node)
            needed.update(node.inputs)
    return replace(graph, nodes=tuple(reversed(nodes)), outputs=outputs).without_unused()


def store_inputs(graph: Graph, pictures: Any, labels: Any, calibration: Any, cache: Path) -> Inputs:
    """Exports a float graph, writes everything into a folder named after its content, computes the float logits."""
    rules = [node.attrs for node in graph.nodes if node.op == "normalize"]
    if len(rules) != 1:
        raise OptionError("the network", "it does not start with one normalisation", "Capture it with one")
    layers, parameters = layer_list(graph)
    files = {"float.onnx": onnx_bytes(graph), "float.tflite": tflite_bytes(graph)}
    digest = hashlib.sha256(json.dumps(layers).encode())
    for part in (*files.values(), *parameters.values(), pictures, labels, calibration):
        digest.update(part if isinstance(part, bytes) else np.ascontiguousarray(part).data)
    name = digest.hexdigest()[:16]
    folder = cache / "inputs" / name
    if not (folder / "reference.npy").exists():
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in files.items():
            (folder / file).write_bytes(content)
        atomic_write_text(folder / "layers.json", json.dumps(layers, indent=1))
        np.savez(folder / "parameters.npz", **parameters)
        save_graph(graph, folder / "float.mj")
        np.save(folder / "pictures.npy", pictures)
        np.save(folder / "calibration.npy", calibration)
        with atomic_path(folder / "reference.npy") as temporary, temporary.open("wb") as file_:
            np.save(file_, real_logits(simplify(graph), pictures))
    reference = np.load(folder / "reference.npy")
    return Inputs(folder, name, labels, reference, tuple(rules[0]["scale"]), tuple(rules[0]["offset"]))


def layer_list(graph: Graph) -> tuple[list[dict[str, Any]], dict[str, npt.NDArray[Any]]]:
    """The graph as `torch_network.py` reads it: layers in order, with weights in torch's layouts by name."""
    parameters: dict[str, npt.NDArray[Any]] = {}
    layers = []
    for node in graph.nodes:
        constants = [name for name in node.inputs if name in graph.constants]
        for index, name in enumerate(constants):
            value = graph.constants[name]
            if index == 0 and node.op == "conv2d":
                value = value.transpose(0, 3, 1, 2)
            elif index == 0 and node.op == "depthwise_conv2d":
                value = value.transpose(3, 0, 1, 2)
            parameters[name] = np.ascontiguousarray(value)
        layers.append(
            {
                "op": node.op,
                "inputs": [name for name in node.inputs if name not in graph.constants],
                "constants": constants,
                "output": node.output,
                "attrs": dict(node.attrs),
            }
        )
    return layers, parameters
