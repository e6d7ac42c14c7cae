"""What every peer's worker script shares: it runs in the peer's own environment and needs numpy only.

A worker gets one argument, a folder with `job.json`; it leaves `logits.npy` (float32 (N, classes), real values) and
`result.json` there. Whatever it raises ends it with a non-zero status and the reason as the last line of its output.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np


class Job:
    """What to quantise, how, and on which pictures.

    Attributes:
        folder: where the worker may write.
        settings: of the row, see `peers.py`.
        onnx: the float network, input float32 (N, C, H, W), normalised.
        tflite: the same, input float32 (1, H, W, C), normalised.
        layers: the same as JSON, with batch normalisation; see `torch_network.py`.
        parameters: its weights (.npz).
        pictures: uint8 (N, H, W, C), to evaluate on.
        calibration: uint8 (M, H, W, C).
        threads: what the peer's runtime may use.
    """

    def __init__(self, folder: Path) -> None:
        stored = json.loads((folder / "job.json").read_text())
        self.folder = folder
        self.settings: dict[str, Any] = stored["settings"]
        self.onnx, self.tflite = Path(stored["onnx"]), Path(stored["tflite"])
        self.layers, self.parameters = Path(stored["layers"]), Path(stored["parameters"])
        self.pictures = np.load(stored["pictures"], mmap_mode="r")
        self.calibration = np.load(stored["calibration"], mmap_mode="r")
        self.threads: int = stored["threads"]
        self.scale = np.array(stored["scale"], np.float32)
        self.offset = np.array(stored["offset"], np.float32)

    def normalised(self, pictures: np.ndarray, *, channels_first: bool) -> np.ndarray:
        """Pictures as the float network takes them."""
        values = pictures.astype(np.float32) * self.scale + self.offset
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2) if channels_first else values)

    def calibration_batches(self, batch: int = 1, *, channels_first: bool) -> Iterator[np.ndarray]:
        """The calibration pictures in their order, normalised."""
        for start in range(0, len(self.calibration), batch):
            yield self.normalised(self.calibration[start : start + batch], channels_first=channels_first)

    def evaluate(self, run: Callable[[np.ndarray], np.ndarray], *, batch: int = 1, channels_first: bool) -> np.ndarray:
        """Logits of all pictures. `run` takes one normalised batch and gives real values (batch, classes)."""
        parts = []
        for start in range(0, len(self.pictures), batch):
            part = self.normalised(self.pictures[start : start + batch], channels_first=channels_first)
            parts.append(np.asarray(run(part), np.float32).reshape(len(part), -1))
        return np.concatenate(parts)


def main(measure: Callable[[Job], tuple[np.ndarray, Path | None]], packages: Sequence[str]) -> None:
    """Runs one job: `measure` gives the logits and the quantised file, None where the peer has none."""
    folder = Path(sys.argv[1])
    logits, model = measure(Job(folder))
    if not np.isfinite(logits).all():
        raise SystemExit("logits are not finite")
    np.save(folder / "logits.npy", logits)
    result = {
        "file_bytes": None if model is None else model.stat().st_size,
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }
    temporary = folder / "result.json.part"
    temporary.write_text(json.dumps(result, indent=2))
    temporary.replace(folder / "result.json")


def run_onnx(job: Job, model: Path) -> np.ndarray:
    """Logits of an ONNX file with a float input, picture by picture, in ONNX Runtime on the processor."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = job.threads
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return job.evaluate(lambda x: session.run(None, {name: x})[0], channels_first=True)
