"""torchao's PT2E quantisation-aware training of the torch module with its batch normalisation, as its tutorial does it.

Settings:
    batch_norm: share of the steps after which statistics of batch normalisation stay; the tutorial's is 3 of 10 epochs.
    observers: share of the steps after which ranges stay; the tutorial's is 4 of 10 epochs.
    epsilon: "tool": torchao 0.18 replaces every epsilon of batch normalisation by its constant of 1e-5 (issue 4107 of
        pytorch/ao); "in_variances": what that takes away is added to the variances beforehand, so that training
        begins at the given network.

The photographs come augmented and in their order (`training.py`), with the learning rate of each step. Leaves
`trained.npy`, logits of the fake-quantised model, beside `logits.npy`, those of the converted one. Both simulate int8
in float32; there is no file whose size could be measured.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import worker
from executorch.backends.xnnpack.quantizer import xnnpack_quantizer as xnnpack
from torch_network import TorchNetwork
from torchao.quantization.pt2e import disable_observer, move_exported_model_to_eval
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_qat_pt2e

EVALUATION_BATCH = 16
TOOL_EPSILON = 1e-5
BATCH_NORMS = (
    torch.ops.aten.batch_norm.default,
    torch.ops.aten._native_batch_norm_legit.default,
    torch.ops.aten.cudnn_batch_norm.default,
)
"""The tutorial names the last two; torch 2.13 exports the first, with the flag for training at the same place."""
TRAINING_FLAG = 5


def freeze_batch_norm(model: Any) -> int:
    """Statistics of batch normalisation are used and no longer moved. Gives the number of layers."""
    count = 0
    for node in model.graph.nodes:
        if node.target in BATCH_NORMS:
            node.args = (*node.args[:TRAINING_FLAG], False, *node.args[TRAINING_FLAG + 1 :])
            count += 1
    model.recompile()
    return count


def move_epsilon(network: torch.nn.Module) -> None:
    """The same function with the epsilon that torchao will put in anyway."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var += module.eps - TOOL_EPSILON
            module.eps = TOOL_EPSILON


def prepared_network(job: worker.Job) -> Any:
    """The float network, exported for training, with fake quantisation."""
    network = TorchNetwork(job.layers, job.parameters)
    if job.settings["epsilon"] == "in_variances":
        move_epsilon(network)
    example = torch.from_numpy(next(job.calibration_batches(2, channels_first=True)))
    dynamic = {0: torch.export.Dim("batch", min=1, max=64)}
    exported = torch.export.export(network.train(), (example,), dynamic_shapes=(dynamic,), strict=True)
    quantizer = xnnpack.XNNPACKQuantizer()
    quantizer.set_global(xnnpack.get_symmetric_quantization_config(is_per_channel=True, is_qat=True))
    return prepare_qat_pt2e(exported.module(check_guards=False), quantizer)


def train(model: Any, job: worker.Job, training: dict[str, Any]) -> None:
    """One pass over the photographs with Adam."""
    pictures, labels = np.load(training["pictures"], mmap_mode="r"), np.load(training["labels"])
    rates, size = training["rates"], training["batch_size"]
    optimizer = torch.optim.Adam(model.parameters(), eps=training["adam_epsilon"])
    freeze, settle = (round(job.settings[name] * len(rates)) for name in ("batch_norm", "observers"))
    for step, rate in enumerate(rates):
        if step == freeze:
            print(f"step {step}: {freeze_batch_norm(model)} batch normalisations keep their statistics", flush=True)
        if step == settle:
            print(f"step {step}: ranges stay", flush=True)
            model.apply(disable_observer)
        for group in optimizer.param_groups:
            group["lr"] = rate
        rows = slice(step * size, (step + 1) * size)
        logits = model(torch.from_numpy(job.normalised(pictures[rows], channels_first=True)))
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels[rows]))
        if not torch.isfinite(loss):
            raise SystemExit(f"the loss is no longer finite in step {step + 1}")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step + 1} of {len(rates)}: loss {loss.item():.3f}", flush=True)
    model.apply(disable_observer)  # or the evaluation would move the ranges


@torch.no_grad()
def logits_of(model: Any, job: worker.Job) -> np.ndarray:
    """Logits of all photographs."""
    run = move_exported_model_to_eval(model)
    return job.evaluate(lambda x: run(torch.from_numpy(x)).numpy(), batch=EVALUATION_BATCH, channels_first=True)


def measure(job: worker.Job) -> tuple[np.ndarray, Path | None]:
    """Trains, then measures the model as trained and as converted."""
    torch.set_num_threads(job.threads)
    torch.manual_seed(0)
    model = prepared_network(job)
    train(model, job, json.loads((job.folder / "job.json").read_text())["training"])
    trained = logits_of(copy.deepcopy(model), job)
    if not np.isfinite(trained).all():
        raise SystemExit("logits of the trained model are not finite")
    np.save(job.folder / "trained.npy", trained)
    return logits_of(convert_pt2e(model), job), None


if __name__ == "__main__":
    worker.main(measure, ("torch", "torchao", "executorch", "numpy"))
