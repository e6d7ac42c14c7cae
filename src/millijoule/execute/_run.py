"""Running a graph over many pictures: one plan of steps, small batches, a thread per core."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from millijoule.errors import DataError, GraphError
from millijoule.execute._blas import single_blas_thread
from millijoule.execute._float import dynamic_step, float_step
from millijoule.execute._integer import Step, integer_step
from millijoule.files import Progress
from millijoule.graph import Graph, mode

__all__ = ["Executor", "predict", "run"]

Array = npt.NDArray[Any]

STEP_BUILDERS = {"integer": integer_step, "dynamic": dynamic_step, "float": float_step}


@dataclass(frozen=True)
class _Step:
    """One node, ready to run."""

    compute: Step
    inputs: tuple[str, ...]
    output: str
    finished: tuple[str, ...]


class Executor:
    """A graph prepared for running: weights in the layout of the kernels, tables made, lifetimes known.

    Args:
        graph: any graph; each node runs in the arithmetic its tensors name (float, dynamic, integer).
        keep: names of inner tensors whose values are wanted besides the outputs.

    Raises:
        GraphError: a kept tensor does not exist, or the graph has several inputs.
        UnsupportedError: a node has no arithmetic of its kind.
    """

    def __init__(self, graph: Graph, keep: Iterable[str] = ()) -> None:
        if len(graph.inputs) != 1:
            raise GraphError(f"graph {graph.name!r}", f"it has {len(graph.inputs)} inputs", "Use one input")
        self.graph = graph
        self.wanted = tuple(dict.fromkeys((*graph.outputs, *keep)))
        for name in self.wanted:
            graph.tensor(name)
        last: dict[str, int] = {}
        for index, node in enumerate(graph.nodes):
            for name in node.inputs:
                last[name] = index
        self.steps = []
        for index, node in enumerate(graph.nodes):
            data = tuple(name for name in node.inputs if name not in graph.constants)
            finished = tuple(name for name in dict.fromkeys(data) if last[name] == index and name not in self.wanted)
            compute = STEP_BUILDERS[mode(graph, node)](graph, node)
            self.steps.append(_Step(compute, data, node.output, finished))

    def __call__(self, pictures: Array) -> dict[str, Array]:
        """Runs one batch in the calling thread: the wanted tensors with leading dimension N."""
        values: dict[str, Array] = {self.graph.inputs[0]: pictures}
        for step in self.steps:
            values[step.output] = step.compute([values[name] for name in step.inputs])
            for name in step.finished:
                del values[name]
        return {name: values[name] for name in self.wanted}


def run(
    graph: Graph,
    pictures: Any,
    *,
    batch: int | None = None,
    keep: Sequence[str] = (),
    progress: Progress | None = None,
) -> dict[str, Array]:
    """The outputs of a graph for many pictures.

    Float graphs run through torch where it is installed, otherwise in numpy; dynamic and integer nodes run in numpy and
    follow `graph.arithmetic` bit for bit, whatever the batch and the number of threads.

    Args:
        graph: a float, dynamic, integer or mixed graph.
        pictures: uint8 (N, H, W, C) of the input's size (float32 for graphs with a float input); an array or anything
            that gives one when sliced.
        batch: pictures per step; default: as many as keep the working set small.
        keep: names of inner tensors that are returned too.
        progress: told (graph name, pictures done, pictures in all).

    Returns:
        Each output and kept tensor with leading dimension N, in the type the graph gives it.

    Raises:
        DataError: the pictures have another size or type.
        GraphError: a kept tensor does not exist.
    """
    count = len(pictures)
    expected = graph.tensor(graph.inputs[0])
    first = np.asarray(pictures[:1])
    if first.shape[1:] != expected.shape[1:] or first.dtype.name != expected.dtype:
        raise DataError(
            "the pictures",
            f"they are {first.dtype.name}{first.shape[1:]} but {graph.name!r} takes "
            f"{expected.dtype}{expected.shape[1:]}",
            "Prepare them at the network's resolution",
        )
    if all(mode(graph, node) == "float" for node in graph.nodes):
        execute, size, threads = _float_executor(graph, keep, batch)
    else:
        execute, size, threads = Executor(graph, keep), batch or _small_batch(graph), os.cpu_count() or 1
    parts: list[dict[str, Array]] = []
    done = 0
    for part in _in_order(execute, pictures, count, size, threads):
        parts.append(part)
        done += len(next(iter(part.values())))
        if progress is not None:
            progress(graph.name, done, count)
    names = tuple(dict.fromkeys((*graph.outputs, *keep)))
    if not parts:
        return {name: np.zeros((0, *graph.tensor(name).shape[1:]), graph.tensor(name).dtype) for name in names}
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def predict(
    graph: Graph, pictures: Any, *, batch: int | None = None, progress: Progress | None = None
) -> npt.NDArray[np.int64]:
    """The class of each picture: the index of the largest first output (logits), the lowest index on ties."""
    logits = run(graph, pictures, batch=batch, progress=progress)[graph.outputs[0]]
    classes: npt.NDArray[np.int64] = logits.reshape(len(logits), -1).argmax(axis=1).astype(np.int64)
    return classes


def _small_batch(graph: Graph) -> int:
    """Pictures per step so that the largest activation stays near two million values."""
    largest = max(tensor.elements for tensor in graph.activations())
    return max(1, min(64, (1 << 21) // largest))


def _float_executor(graph: Graph, keep: Sequence[str], batch: int | None) -> tuple[Any, int, int]:
    try:
        from millijoule.execute._torch import TorchExecutor
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        return Executor(graph, keep), batch or _small_batch(graph), os.cpu_count() or 1
    return TorchExecutor(graph, keep), batch or 32, 1


def _in_order(execute: Any, pictures: Any, count: int, size: int, threads: int) -> Iterator[dict[str, Array]]:
    """Results of consecutive batches, computed by a few threads (numpy releases the interpreter lock)."""
    starts = range(0, count, size)
    if threads == 1 or len(starts) == 1:
        for start in starts:
            yield execute(np.asarray(pictures[start : start + size]))
        return
    with single_blas_thread(), ThreadPoolExecutor(threads) as pool:
        waiting: list[Future[dict[str, Array]]] = []
        try:
            for start in starts:
                waiting.append(pool.submit(execute, np.asarray(pictures[start : start + size])))
                if len(waiting) > 2 * threads:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()
