"""The end of a training run: statistics measured anew, the test split, `result.json`."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from millijoule.errors import CheckpointError
from millijoule.files import atomic_write_bytes, atomic_write_json
from millijoule.nets import Normalization, weights_bytes
from millijoule.train._checkpoint import BEST, RESULT, State, read_weights
from millijoule.train._evaluate import Evaluation, evaluate
from millijoule.train._options import TrainOptions
from millijoule.train._parallel import World
from millijoule.train._protocol import BatchSource, PreparedLike
from millijoule.train._statistics import measure_batch_norm

__all__ = ["TrainResult", "finish"]


@dataclass(frozen=True)
class TrainResult:
    """What a run came to.

    Attributes:
        run_dir: the run folder.
        weights: the best epoch's weights.
        best_epoch: counted from 1.
        validation_accuracy: of the best epoch, 0..1.
        test: evaluation of the best epoch on the test split, None if it was not asked for.
        history: one dictionary per epoch, the lines of metrics.jsonl.
        seconds: time spent training and validating, over all sessions of the run.
    """

    run_dir: Path
    weights: Path
    best_epoch: int
    validation_accuracy: float
    test: Evaluation | None
    history: tuple[dict[str, Any], ...]
    seconds: float


def finish(
    run_dir: Path,
    state: State,
    module: nn.Module,
    prepared: PreparedLike,
    options: TrainOptions,
    normalization: Normalization,
    full: int,
    bfloat16: bool,
    test: bool,
    batches: BatchSource | None,
    world: World,
) -> TrainResult:
    """Loads the best epoch's weights, measures their statistics anew, and touches the test split, once."""

    def judge(split: str) -> Evaluation:
        return evaluate(
            module,
            prepared.split(split),
            normalization=normalization,
            resolution=full,
            batch_size=options.evaluation_batch_size,
            bfloat16=bfloat16,
            batches=batches,
        )

    world.wait()
    read_weights(run_dir / BEST, module)
    module.eval()
    measured: dict[str, Any] | None = None
    evaluation: Evaluation | None = None
    result_path = run_dir / RESULT
    if result_path.exists():
        evaluation, measured = _stored_results(result_path, state)
    accuracy, loss = state.best_accuracy, state.best_loss
    if measured and measured["kept"]:
        accuracy, loss = measured["validation_accuracy"], measured["validation_loss"]
    wanted = options.batch_norm_pictures
    if wanted and (measured is None or measured["pictures"] != wanted):
        measure_batch_norm(
            module,
            prepared.split("train"),
            wanted,
            normalization=normalization,
            resolution=full,
            seed=options.seed,
            batches=batches,
        )
        found = judge("validation")
        kept = (found.accuracy, -found.loss) > (accuracy, -loss)
        if kept:
            evaluation = None  # it was of other statistics
            header = {
                "classes": json.dumps(list(prepared.classes)),
                "epoch": str(state.best_epoch),
                "batch_norm_pictures": str(wanted),
            }
            if world.rank == 0:
                atomic_write_bytes(run_dir / BEST, weights_bytes(module, header))
        if kept or measured is None or not measured["kept"]:
            measured = {
                "pictures": wanted,
                "kept": kept,
                "validation_accuracy": found.accuracy,
                "validation_loss": found.loss,
                "validation_accuracy_before": accuracy,
            }
        accuracy = found.accuracy if kept else accuracy
    world.wait()
    read_weights(run_dir / BEST, module)
    if test and evaluation is None:
        evaluation = judge("test")
    seconds = sum(line["seconds"] for line in state.history)
    world.wait()
    if world.rank == 0:
        atomic_write_json(
            result_path,
            {
                "epochs": state.epoch,
                "best_epoch": state.best_epoch,
                "validation_accuracy": accuracy,
                "batch_norm": measured,
                "test": None
                if evaluation is None
                else {**evaluation.to_dict(), "predictions": evaluation.predictions.tolist()},
                "seconds": round(seconds, 1),
                "processes": world.size,
                "device": str(world.device),
                "torch": torch.__version__,
            },
        )
    return TrainResult(
        run_dir=run_dir,
        weights=run_dir / BEST,
        best_epoch=state.best_epoch,
        validation_accuracy=accuracy,
        test=evaluation,
        history=tuple(state.history),
        seconds=seconds,
    )


def _stored_results(path: Path, state: State) -> tuple[Evaluation | None, dict[str, Any] | None]:
    """The test figures of a run that was already finished, so that the test split is not touched again, and those of
    its measured statistics.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["epochs"] != state.epoch or stored["best_epoch"] != state.best_epoch:
            return None, None
        test = None if stored["test"] is None else Evaluation.from_dict(stored["test"])
        measured = stored.get("batch_norm")
        if measured is not None:
            measured = {"validation_loss": math.inf} | measured  # younger than the other figures
        return test, measured
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(str(path), f"it is damaged ({error})", "Delete it; it is made again") from error
