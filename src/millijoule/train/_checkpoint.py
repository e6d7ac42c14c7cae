"""The state of a training run in one file: written whole or not at all, read without running code from it.

One safetensors file holds the network (`model.*`), its moving average (`average.*`) and the optimiser
(`optimizer.<parameter>.*`); the header holds the rest as JSON. The random numbers of a step depend only on the seed,
the epoch and the step (`_loop.seed_step`), so these three numbers are the whole random state.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from millijoule.errors import CheckpointError, OutputError
from millijoule.files import atomic_write_bytes
from millijoule.train._options import TrainOptions

__all__ = [
    "BEST",
    "LAST",
    "METRICS",
    "RESULT",
    "State",
    "check_options",
    "read_checkpoint",
    "read_weights",
    "write_checkpoint",
]

LAST, BEST, METRICS, RESULT = "last.safetensors", "best.safetensors", "metrics.jsonl", "result.json"
"""The files of a run folder."""

_FORMAT = "millijoule-training"
_VERSION = 1


@dataclass
class State:
    """Where a run is.

    Attributes:
        options: the run's options as plain values.
        epoch: epochs that are complete.
        step: steps of the next epoch that are complete.
        totals: loss, right predictions and pictures of those steps, summed.
        seconds: training time spent in the next epoch so far.
        history: one dictionary per complete epoch, the lines of metrics.jsonl.
        best_epoch: epoch (from 1) with the best validation accuracy, 0 before the first.
        best_accuracy: its validation accuracy, 0..1.
        best_loss: its validation loss; of two equal accuracies the lower loss wins.
    """

    options: dict[str, Any]
    epoch: int = 0
    step: int = 0
    totals: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best_accuracy: float = -1.0
    best_loss: float = float("inf")


def write_checkpoint(
    path: Path, state: State, module: nn.Module, average: nn.Module | None, optimizer: torch.optim.Optimizer
) -> None:
    """Writes the run's state atomically.

    Raises:
        CheckpointError: it cannot be written; the previous checkpoint is intact.
    """
    tensors: dict[str, Tensor] = {f"model.{name}": value for name, value in module.state_dict().items()}
    if average is not None:
        tensors |= {f"average.{name}": value for name, value in average.state_dict().items()}
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value for key, value in values.items()}
    header = {"format": _FORMAT, "version": str(_VERSION), "state": json.dumps(asdict(state))}
    spec = getattr(module, "spec", None)
    if spec is not None and hasattr(spec, "to_json"):
        header["spec"] = spec.to_json()
    own = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    try:
        atomic_write_bytes(path, save_tensors(own, header))
    except OutputError as error:
        raise CheckpointError(
            error.what,
            f"the checkpoint after epoch {state.epoch}, step {state.step} cannot be written: {error.reason}",
            f"{error.fix}; the previous checkpoint is intact and the same command goes on from it",
        ) from error


def read_checkpoint(
    path: Path, module: nn.Module, average: nn.Module | None, optimizer: torch.optim.Optimizer
) -> State:
    """Puts a run's state back into `module`, `average` and `optimizer`.

    Raises:
        CheckpointError: the file is damaged or belongs to another network; nothing has been changed then.
    """
    fix = "Choose another run folder, or start anew (--fresh)"
    try:
        with safe_open(str(path), "pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(str(path), f"it is truncated or not a checkpoint ({error})", fix) from error
    if metadata.get("format") != _FORMAT or metadata.get("version") != str(_VERSION):
        raise CheckpointError(str(path), "it is not a checkpoint of this version", fix)
    try:
        state = State(**json.loads(metadata["state"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(str(path), f"its header is damaged ({error})", fix) from error
    targets = {f"model.{name}": value for name, value in module.state_dict().items()}
    if average is not None:
        targets |= {f"average.{name}": value for name, value in average.state_dict().items()}
    for name, target in targets.items():
        if name not in tensors or tensors[name].shape != target.shape:
            raise CheckpointError(str(path), f"{name} does not fit: it belongs to another network", fix)
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(tensors[name])
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            parameter = parameters[int(index)]
            same = value.shape == parameter.shape
            moments.setdefault(int(index), {})[key] = torch.empty_like(parameter).copy_(value) if same else value
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return state


def read_weights(path: Path, module: nn.Module) -> None:
    """Copies a weight file of this run into `module`. Raises `CheckpointError`."""
    fix = "Start anew (--fresh)"
    try:
        with safe_open(str(path), "pt") as file, torch.no_grad():
            for name, target in module.state_dict().items():
                target.copy_(file.get_tensor(name))
    except (SafetensorError, OSError, RuntimeError) as error:
        raise CheckpointError(str(path), f"it is missing, truncated or of another network ({error})", fix) from error


def check_options(path: Path, stored: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuses to go on with a run whose options were others.

    What changes no step may change: how often checkpoints are written, the evaluation's batch, the pictures of
    batch normalisation (they count after the last step), and the number of epochs when the learning rate does not
    depend on it.

    Raises:
        CheckpointError: naming the options that differ.
    """
    free = {"batch_norm_pictures", "checkpoint_steps", "evaluation_batch_size", "device"}
    if wanted.get("schedule") == "constant" and not wanted.get("resolutions"):
        free.add("epochs")
    stored = TrainOptions().to_dict() | json.loads(json.dumps(stored))  # older runs lack younger options
    wanted = json.loads(json.dumps(wanted))
    differing = [name for name in wanted if name not in free and stored.get(name) != wanted[name]]
    if differing:
        listed = ", ".join(f"{name} was {stored.get(name)!r}, is {wanted[name]!r}" for name in differing)
        raise CheckpointError(
            str(path),
            f"the run was started with other options ({listed})",
            "Use the same options, or start anew (--fresh)",
        )
