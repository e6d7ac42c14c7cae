"""The float network as a torch module of standard layers, built from `layers.json`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn


class Add(nn.Module):
    """The sum of two tensors."""

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Adds element by element."""
        return left + right


class Mean(nn.Module):
    """The mean over height and width."""

    def forward(self, x: Tensor) -> Tensor:
        """Averages each channel: (N, C, H, W) to (N, C)."""
        return x.mean((2, 3))


class TorchNetwork(nn.Module):
    """Takes normalised pictures (N, C, H, W), gives logits. Fused clamps become nn.ReLU6 or nn.ReLU, as users write it.

    Raises:
        NotImplementedError: a layer that is none of those of MobileNetV2 and its kin.
    """

    def __init__(self, layers: Path, parameters: Path) -> None:
        super().__init__()
        weights = np.load(parameters)
        self.steps: list[tuple[str, list[str], str]] = []
        self.start = ""
        for layer in json.loads(layers.read_text()):
            if layer["op"] == "normalize":
                self.start = layer["output"]
                continue
            constants = [torch.from_numpy(weights[name].copy()) for name in layer["constants"]]
            inputs = layer["inputs"]
            for module in _modules(layer["op"], layer["attrs"], constants):
                name = f"m{len(self.steps)}"
                self.add_module(name, module)
                self.steps.append((name, inputs, layer["output"]))
                inputs = [layer["output"]]
        self.last = self.steps[-1][2]

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes)."""
        values = {self.start: x}
        for name, inputs, output in self.steps:
            values[output] = getattr(self, name)(*[values[source] for source in inputs])
        return values[self.last]


def _modules(op: str, attrs: dict, constants: list[Tensor]) -> list[nn.Module]:
    made: list[nn.Module] = []
    if op in ("conv2d", "depthwise_conv2d"):
        top, bottom, left, right = attrs["padding"]
        symmetric = top == bottom and left == right
        if not symmetric:
            made.append(nn.ZeroPad2d((left, right, top, bottom)))
        weight = constants[0]
        convolution = nn.Conv2d(
            weight.shape[0] if op == "depthwise_conv2d" else weight.shape[1],
            weight.shape[0],
            tuple(weight.shape[2:]),
            stride=tuple(attrs["stride"]),
            padding=(top, left) if symmetric else 0,
            groups=weight.shape[0] if op == "depthwise_conv2d" else 1,
            bias=len(constants) == 2,
        )
        made.append(_filled(convolution, constants))
    elif op == "dense":
        made.append(_filled(nn.Linear(constants[0].shape[1], constants[0].shape[0], len(constants) == 2), constants))
    elif op == "batch_norm":
        norm = nn.BatchNorm2d(len(constants[0]), eps=float(attrs["epsilon"]), momentum=0.03)
        norm.running_mean, norm.running_var = constants[2], constants[3]
        made.append(_filled(norm, constants[:2]))
    elif op == "add":
        made.append(Add())
    elif op == "pad":
        top, bottom, left, right = attrs["padding"]
        made.append(nn.ZeroPad2d((left, right, top, bottom)))
    elif op == "mean":
        made.append(Mean())
    elif op != "clamp":
        raise NotImplementedError(f"no torch layer for {op}")
    clamp = attrs.get("clamp")
    if clamp is not None:
        low, high = (float(bound) for bound in clamp)
        if low != 0.0 or high not in (6.0, float("inf")):
            raise NotImplementedError(f"no torch layer for a clamp to {low}, {high}")
        made.append(nn.ReLU6() if high == 6.0 else nn.ReLU())
    return made


def _filled(module: nn.Module, constants: list[Tensor]) -> nn.Module:
    with torch.no_grad():
        for parameter, value in zip((module.weight, module.bias), constants, strict=False):
            parameter.copy_(value)
    return module
