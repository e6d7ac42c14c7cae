"""The one builder: a flat list of layers becomes a torch module with one named child per operation."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from millijoule.nets._registry import layers
from millijoule.nets._spec import Layer, NetworkSpec

__all__ = ["Add", "GlobalAveragePool", "Network", "build"]

RESIDUAL_SCALE = 0.1
"""Initial batch normalisation scale at the end of a residual branch; see `build`."""


class Add(nn.Module):
    """The sum of two tensors of one shape, as a module, so that the residual has a name."""

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Adds element by element."""
        return left + right


class GlobalAveragePool(nn.Module):
    """The mean over height and width: (N, C, H, W) -> (N, C)."""

    def forward(self, features: Tensor) -> Tensor:
        """Averages each channel."""
        return features.mean((2, 3))


class Network(nn.Module):
    """A network built from a specification.

    Children are in execution order and are named as in Keras, in MobileNetV2 for example `Conv1`, `bn_Conv1`,
    `Conv1_relu`, `block_1_expand`, `block_1_expand_BN`, `block_1_expand_relu`, ..., `classifier`. A convolution whose
    SAME padding (TensorFlow's rule) is one-sided, for example one of stride 2 on an even input, has a `<name>_pad`
    before it; the others pad themselves. The padding is fixed for `spec.input_shape`.

    Attributes:
        spec: the specification it was built from.
        wiring: (child, names of its inputs, names that nobody needs afterwards), in execution order.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        steps: list[tuple[str, tuple[str, ...]]] = []
        output_of = {"input": "input"}  # layer -> the last child that belongs to it
        for layer in layers(spec):
            inputs = tuple(output_of[name] for name in layer.inputs)
            for name, module in _modules(layer, spec):
                self.add_module(name, module)
                steps.append((name, inputs))
                inputs = (name,)
            output_of[layer.name] = inputs[0]
        last_use = {name: index for index, (_, inputs) in enumerate(steps) for name in inputs}
        self.wiring = tuple(
            (name, inputs, tuple(used for used in dict.fromkeys(inputs) if last_use[used] == index))
            for index, (name, inputs) in enumerate(steps)
        )

    def forward(self, pictures: Tensor) -> Tensor:
        """Runs the network.

        Args:
            pictures: float (N, channels, height, width) of `spec.input_shape`, normalised.

        Returns:
            Logits, float (N, classes).
        """
        values = {"input": pictures}
        for name, inputs, finished in self.wiring:
            output: Tensor = getattr(self, name)(*[values[source] for source in inputs])
            for source in finished:
                del values[source]
            values[name] = output
        return output


def _modules(layer: Layer, spec: NetworkSpec) -> list[tuple[str, nn.Module]]:
    """The named torch modules of one layer, in execution order."""
    inputs, outputs = layer.input_shape[2], layer.output_shape[2]
    named: list[tuple[str, nn.Module]] = []
    if layer.operator == "add":
        named.append((layer.name, Add()))
    elif layer.operator == "mean":
        named.append((layer.name, GlobalAveragePool()))
    elif layer.operator == "max_pool":
        named.append((layer.name, nn.MaxPool2d(layer.kernel, stride=layer.stride)))
    elif layer.operator == "flatten":
        named.append((layer.name, nn.Flatten()))
    elif layer.operator == "dropout":
        named.append((layer.name, nn.Dropout(layer.dropout)))
    elif layer.operator == "dense":
        named.append((layer.name, nn.Linear(inputs, outputs, bias=layer.bias)))
    else:
        left, right, top, bottom = layer.padding
        symmetric = left == right and top == bottom
        if not symmetric:
            named.append((f"{layer.name}_pad", nn.ZeroPad2d(layer.padding)))
        convolution = nn.Conv2d(
            inputs,
            outputs,
            layer.kernel,
            stride=layer.stride,
            padding=(top, left) if symmetric else 0,
            groups=inputs if layer.operator == "depthwise_conv2d" else 1,
            bias=layer.bias,
        )
        named.append((layer.name, convolution))
    if layer.batch_norm is not None:
        kind = nn.BatchNorm1d if layer.operator == "dense" else nn.BatchNorm2d
        named.append((layer.batch_norm, kind(outputs, eps=spec.bn_epsilon, momentum=spec.bn_momentum)))
    if layer.activation is not None:
        named.append((layer.activation, nn.ReLU6() if layer.nonlinearity == "relu6" else nn.ReLU()))
    return named


def build(spec: NetworkSpec, *, seed: int = 0) -> Network:
    """Builds the torch module of a specification, with random weights.

    Convolutions are initialised after He et al. 2015 (arXiv:1502.01852, fan out; fan in where no batch normalisation
    keeps the size of the signal), hidden dense layers too (fan in), the last layer with a standard deviation of 0.01;
    the random numbers depend on `seed` alone, torch's global generator is left as it is. The last batch normalisation
    of a residual branch starts with a scale of 0.1, so that a block begins close to the identity: a short training
    needs about half the steps (after Goyal et al. 2017,
    arXiv:1706.02677, section 5.1, who use 0; not 0 here, because folded kernels of zeros would have no range to
    quantise).

    Args:
        spec: the network.
        seed: of the initial weights.

    Returns:
        A module in training mode, float32 (N, channels, H, W) normalised -> logits (N, classes), weights in
        channels_last memory format.
    """
    state = torch.get_rng_state()
    try:
        network = Network(spec)
    finally:
        torch.set_rng_state(state)
    generator = torch.Generator().manual_seed(seed)
    last = layers(spec)[-1].name
    normalized = any(layer.batch_norm is not None for layer in layers(spec))
    with torch.no_grad():
        for name, module in network.named_children():
            if isinstance(module, nn.Conv2d):
                channels = module.out_channels if normalized else module.in_channels
                fan = module.kernel_size[0] * module.kernel_size[1] * channels // module.groups
                module.weight.normal_(0.0, math.sqrt(2.0 / fan), generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.Linear):
                deviation = 0.01 if name == last else math.sqrt(2.0 / module.in_features)
                module.weight.normal_(0.0, deviation, generator=generator)
                module.bias.zero_()
        norms = {layer.name: layer.batch_norm for layer in layers(spec)}
        for layer in layers(spec):
            norm = norms[layer.inputs[-1]] if layer.operator == "add" else None
            if norm is not None:
                getattr(network, norm).weight.fill_(RESIDUAL_SCALE)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
