"""The training loop. One file, read from top to bottom: `fit`.

A run folder holds `last.safetensors` (everything needed to go on), `best.safetensors` (the weights of the best epoch by
validation), `metrics.jsonl` (one line per epoch) and, at the end, `result.json`.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from millijoule.data import batches as data_batches
from millijoule.errors import OptionError
from millijoule.files import Progress, atomic_write_bytes, atomic_write_text
from millijoule.nets import NetworkSpec, Normalization, layers, weights_bytes
from millijoule.train._checkpoint import (
    BEST,
    LAST,
    METRICS,
    RESULT,
    State,
    check_options,
    read_checkpoint,
    write_checkpoint,
)
from millijoule.train._evaluate import evaluate, network_input
from millijoule.train._finish import TrainResult, finish
from millijoule.train._memory import kept_memory
from millijoule.train._options import TrainOptions
from millijoule.train._parallel import World, joined, synchronise_batch_norm
from millijoule.train._protocol import BatchSource, PreparedLike
from millijoule.train._recipe import follow, make_optimizer, seed_step, training_loss

__all__ = ["EpochHook", "TrainResult", "fit"]

EpochHook = Callable[[nn.Module, int], None]
"""Called with the module and the epoch (from 0) before each epoch; must depend on these two alone, since a resumed run
calls it for the resumed epoch only."""


def fit(
    module: nn.Module,
    prepared: PreparedLike,
    options: TrainOptions,
    run_dir: Path,
    *,
    teacher: nn.Module | None = None,
    normalization: Normalization | None = None,
    on_epoch_start: EpochHook | None = None,
    batches: BatchSource | None = None,
    fresh: bool = False,
    test: bool = True,
    progress: Progress | None = None,
) -> TrainResult:
    """Trains `module` in place and leaves it with the best epoch's weights, in evaluation mode.

    A run that was interrupted goes on from its last checkpoint when `fit` is called again with the same module,
    options and folder; on a CPU the weights are then the same, bit by bit, as without the interruption. Under torchrun
    every process calls `fit`; the batch is shared out and the statistics of batch normalisation are global.

    Args:
        module: any module from normalised float (N, C, H, W) to logits (N, classes).
        prepared: splits "train", "validation" and, if `test`, "test".
        options: how to train.
        run_dir: folder of the run, made when missing; one run per folder.
        teacher: module of the same kind whose logits are imitated, see `TrainOptions.distillation`.
        normalization: from picture to input; by default that of `module.spec`, else -1..1.
        on_epoch_start: called before each epoch, for example to freeze statistics.
        batches: where batches come from; `millijoule.data.batches` by default.
        fresh: start anew even if there is a checkpoint.
        test: whether to evaluate the best epoch on the test split, once, at the end.
        progress: called after every step with a line of news, steps done, steps in all.

    Returns:
        The best epoch and its figures.

    Raises:
        OptionError: options that do not fit the data or the module, or a loss that is no longer finite.
        CheckpointError: the state cannot be written or read.
        OutputError: the run folder cannot be written.
    """
    run_dir = Path(run_dir)
    spec: NetworkSpec | None = getattr(module, "spec", None)
    normalization = normalization or (spec.normalization if spec is not None else Normalization())
    full = spec.resolution if spec is not None else prepared.resolution
    source: Callable[..., Any] = batches or data_batches
    train, validation = prepared.split("train"), prepared.split("validation")
    steps = len(train.labels) // options.batch_size  # an incomplete last batch is left out: every step weighs the same

    with joined(options.device) as world, kept_memory() if world.device.type == "cpu" else nullcontext():
        _check(options, spec, full, len(train.labels), len(validation.labels), teacher, world)
        bfloat16 = options.precision == "bfloat16" or (options.precision == "auto" and world.device.type == "cuda")
        module.to(world.device)
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if teacher is not None:
            teacher.to(world.device).eval()
        average = copy.deepcopy(module).eval().requires_grad_(False) if options.ema_decay else None
        parallel: nn.Module = module
        if world.size > 1:
            synchronise_batch_norm(module)
            parallel = nn.parallel.DistributedDataParallel(module)
        optimizer = make_optimizer(module, options)
        state = _start(run_dir, options, module, average, optimizer, fresh, world)

        for epoch in range(state.epoch, options.epochs):
            parallel.train()
            if on_epoch_start is not None:
                on_epoch_start(module, epoch)
            resolution = options.resolution(epoch, full)
            totals = torch.tensor(state.totals, dtype=torch.float64, device=world.device)  # loss, right, pictures
            began = time.perf_counter() - state.seconds
            order = {"seed": options.seed, "epoch": epoch, "shuffle": True, "rank": world.rank, "world": world.size}
            how = {"augmentation": options.augmentation, "resolution": resolution, "drop_last": True}
            for step, (pictures, labels) in enumerate(source(train, options.batch_size, **order, **how)):
                if step < state.step:
                    continue  # done before the interruption
                for group in optimizer.param_groups:
                    group["lr"] = options.rate(epoch + (step + 1) / steps)
                mix = seed_step(options, epoch, step, world.rank)
                inputs = network_input(pictures, normalization, world.device)
                target = torch.from_numpy(np.asarray(labels, np.int64)).to(world.device)
                if mix < 1.0:
                    inputs = torch.lerp(inputs.flip(0), inputs, mix)
                with torch.autocast(world.device.type, torch.bfloat16, enabled=bfloat16):
                    logits = parallel(inputs)
                loss = training_loss(logits.float(), inputs, target, mix, options, teacher, bfloat16)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                if options.gradient_clip:
                    nn.utils.clip_grad_norm_(module.parameters(), options.gradient_clip)
                optimizer.step()
                if average is not None:
                    follow(average, module, options.ema_decay, epoch * steps + step)

                totals[0] += loss.detach() * len(labels)
                totals[1] += (logits.detach().argmax(1) == target).sum()
                totals[2] += len(labels)
                done = epoch * steps + step + 1
                if progress is not None:
                    progress(_news(state, options, epoch, totals), done, options.epochs * steps)
                if options.checkpoint_steps and done % options.checkpoint_steps == 0 and step + 1 < steps:
                    state.step, state.totals = step + 1, totals.tolist()
                    state.seconds = time.perf_counter() - began
                    _save(run_dir / LAST, state, module, average, optimizer, totals, world)

            loss_sum, right_sum, count = world.total(totals).tolist()
            _check_loss(loss_sum, epoch, options)
            seconds = time.perf_counter() - began
            judged = average if average is not None else module
            validated = evaluate(
                judged,
                validation,
                normalization=normalization,
                resolution=full,
                batch_size=options.evaluation_batch_size,
                bfloat16=bfloat16,
                world=world,
                batches=batches,
            )
            state.history.append(
                {
                    "epoch": epoch + 1,
                    "loss": loss_sum / count,
                    "accuracy": right_sum / count,
                    "validation_loss": validated.loss,
                    "validation_accuracy": validated.accuracy,
                    "learning_rate": options.rate(epoch + 1),
                    "resolution": resolution,
                    "seconds": round(time.perf_counter() - began, 3),
                    "pictures_per_second": round(count / max(seconds, 1e-9), 1),
                }
            )
            better = (validated.accuracy, -validated.loss) > (state.best_accuracy, -state.best_loss)
            if better:
                state.best_epoch, state.best_accuracy, state.best_loss = epoch + 1, validated.accuracy, validated.loss
            state.epoch, state.step, state.totals, state.seconds = epoch + 1, 0, [0.0, 0.0, 0.0], 0.0
            if world.rank == 0:
                # The order matters: a kill between two of these is mended by doing the epoch again.
                if better:
                    header = {"classes": json.dumps(list(prepared.classes)), "epoch": str(epoch + 1)}
                    atomic_write_bytes(run_dir / BEST, weights_bytes(judged, header))
                write_checkpoint(run_dir / LAST, state, module, average, optimizer)
                _write_metrics(run_dir, state)
            world.wait()

        return finish(run_dir, state, module, prepared, options, normalization, full, bfloat16, test, batches, world)


def _check(
    options: TrainOptions,
    spec: NetworkSpec | None,
    full: int,
    pictures: int,
    validation: int,
    teacher: nn.Module | None,
    world: World,
) -> None:
    """Refuses what would fail later."""
    if options.batch_size > pictures:
        raise OptionError(
            f"batch_size = {options.batch_size}",
            f"the training split has only {pictures} pictures",
            "Use a smaller batch or more pictures",
        )
    if validation == 0:
        raise OptionError("validation split", "it is empty", "Prepare the data with a share for validation")
    if options.batch_size % world.size:
        raise OptionError(
            f"batch_size = {options.batch_size}",
            f"{world.size} processes cannot share it evenly",
            f"Use a multiple of {world.size}",
        )
    if options.distillation and teacher is None:
        raise OptionError("distillation", "there is no teacher", "Give a teacher, or leave distillation at 0")
    for _, size in options.resolutions:
        if spec is None:
            raise OptionError(
                "resolutions", "the module does not say whether it takes other resolutions", "Train at one resolution"
            )
        other = NetworkSpec.from_dict({**spec.to_dict(), "resolution": size})
        if [layer.padding for layer in layers(other)] != [layer.padding for layer in layers(spec)]:
            raise OptionError(
                f"resolutions = {options.resolutions!r}",
                f"SAME padding at {size} pixels is not that at {full}",
                "Use resolutions that are multiples of 32",
            )


def _check_loss(loss: float, epoch: int, options: TrainOptions) -> None:
    """Refuses to go on, and to write a checkpoint, when the loss is no longer a number."""
    if not math.isfinite(loss):
        raise OptionError(
            f"learning_rate = {options.learning_rate:g}",
            f"the loss is no longer finite in epoch {epoch + 1}",
            "Lower the learning rate, or clip the gradient (gradient_clip = 1)",
        )


def _start(
    run_dir: Path,
    options: TrainOptions,
    module: nn.Module,
    average: nn.Module | None,
    optimizer: torch.optim.Optimizer,
    fresh: bool,
    world: World,
) -> State:
    """The state to go on from: the last checkpoint's, or a new one."""
    if world.rank == 0 and fresh:
        for name in (LAST, BEST, METRICS, RESULT):
            with suppress(FileNotFoundError):
                (run_dir / name).unlink()
    world.wait()
    if not (run_dir / LAST).exists():
        state = State(options.to_dict())
        if world.rank == 0:
            _write_metrics(run_dir, state)  # finds out before the first epoch whether the folder can be written
        return state
    state = read_checkpoint(run_dir / LAST, module, average, optimizer)
    check_options(run_dir / LAST, state.options, options.to_dict())
    state.options = options.to_dict()
    if world.rank == 0:
        _write_metrics(run_dir, state)  # drops lines that are newer than the checkpoint
    else:
        state.totals = [0.0, 0.0, 0.0]  # the stored sums are everyone's, and the first process has them
    return state


def _save(
    path: Path,
    state: State,
    module: nn.Module,
    average: nn.Module | None,
    optimizer: torch.optim.Optimizer,
    totals: Tensor,
    world: World,
) -> None:
    """A checkpoint within an epoch. The sums of the other processes go to the first one's."""
    shared = world.total(totals).tolist()
    _check_loss(shared[0], state.epoch, TrainOptions.from_dict(state.options))
    if world.rank == 0:
        stored = State(**{**asdict(state), "totals": shared})
        write_checkpoint(path, stored, module, average, optimizer)


def _write_metrics(run_dir: Path, state: State) -> None:
    atomic_write_text(run_dir / METRICS, "".join(json.dumps(line) + "\n" for line in state.history))


def _news(state: State, options: TrainOptions, epoch: int, totals: Tensor) -> str:
    """One line about the running epoch; on a GPU without the sums, since reading them would wait for it."""
    parts = [f"epoch {epoch + 1}/{options.epochs}"]
    if totals.device.type == "cpu":
        loss, right, count = totals.tolist()
        parts.append(f"loss {loss / count:.3f}")
        parts.append(f"accuracy {100 * right / count:.1f} %")
    if state.history:
        parts.append(f"validation {100 * state.history[-1]['validation_accuracy']:.1f} %")
    return ", ".join(parts)
