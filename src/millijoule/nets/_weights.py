"""Weights of a network: our own files, and those in Keras' layout."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from millijoule.errors import FormatError, WeightsError
from millijoule.files import atomic_write_bytes
from millijoule.nets._network import Network, build
from millijoule.nets._registry import family, layers
from millijoule.nets._spec import Layer, NetworkSpec

__all__ = [
    "LoadReport",
    "load_keras_weights",
    "load_network",
    "load_weights",
    "save_weights",
    "unfold_batch_norm",
    "weights_bytes",
]

WEIGHTS_FORMAT = "millijoule-weights"
_TRAINING_FORMAT = "millijoule-training"
Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LoadReport:
    """What became of each layer's weights.

    Attributes:
        layout: "millijoule" or "keras".
        folded: whether batch normalisation was folded into the file's kernels; ours is then an identity with a bias.
        loaded: tensors of the module (or layers, for Keras files) that were taken as they are.
        padded: layers whose file tensor was smaller, with both shapes; the new outputs keep their initial weights, the
            new inputs get zeros, so that what was loaded computes what it computed before.
        skipped: names that were not taken, with the reason; the module keeps its initial weights there.
    """

    layout: str
    folded: bool = False
    loaded: tuple[str, ...] = ()
    padded: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

    def summary(self) -> str:
        """One line, for the log."""
        return (
            f"{len(self.loaded)} loaded, {len(self.padded)} padded, {len(self.skipped)} skipped ({self.layout} layout)"
        )


@dataclass
class _Report:
    loaded: list[str] = field(default_factory=list)
    padded: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def read_tensors(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    """All tensors of a safetensors file and its metadata.

    Raises:
        WeightsError: the file is missing, truncated or not safetensors.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(str(path), "there is no such file", "Check the path")
    try:
        with safe_open(str(path), "np") as file:
            names = list(file.keys())
            return {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise WeightsError(
            str(path), f"it is truncated or not a safetensors file ({error})", "Fetch or write it again"
        ) from error


def weights_bytes(module: nn.Module, metadata: Mapping[str, str] | None = None) -> bytes:
    """The state of `module` as one safetensors file; the specification is in its header if the module has one."""
    header = {"format": WEIGHTS_FORMAT}
    spec = getattr(module, "spec", None)
    if isinstance(spec, NetworkSpec):
        header["spec"] = spec.to_json()
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in module.state_dict().items()}
    return bytes(save_tensors(tensors, header | dict(metadata or {})))


def save_weights(module: nn.Module, path: Path, *, classes: Sequence[str] | None = None) -> None:
    """Writes the weights whole or not at all.

    Args:
        module: usually made by `build`; its specification is written with the weights.
        path: the file, by custom ending in .safetensors.
        classes: class names to write with them.

    Raises:
        OutputError: the place cannot be written.
    """
    metadata = {"classes": json.dumps(list(classes))} if classes is not None else None
    atomic_write_bytes(Path(path), weights_bytes(module, metadata))


def load_network(path: Path) -> tuple[Network, tuple[str, ...] | None]:
    """Builds the network that `save_weights` or a training run wrote, in evaluation mode.

    Returns:
        The module (its `spec` attribute says what it is) and the class names, None if none were written.

    Raises:
        WeightsError: the file is not one of ours or is damaged.
    """
    tensors, metadata = read_tensors(path)
    if "spec" not in metadata:
        raise WeightsError(
            str(path), "it does not say which network it belongs to", "Build the network and use load_weights"
        )
    try:
        spec = NetworkSpec.from_json(metadata["spec"])
        classes = tuple(json.loads(metadata["classes"])) if "classes" in metadata else None
    except (FormatError, ValueError) as error:
        raise WeightsError(str(path), f"its header is damaged ({error})", "Write it again") from error
    network = build(spec)
    _load_own(network, _own_tensors(tensors, metadata), Path(path), strict=True)
    return network.eval(), classes


def load_weights(module: nn.Module, spec: NetworkSpec, path: Path, *, partial: bool = False) -> LoadReport:
    """Loads a weight file into `module`, whichever of the known layouts it has.

    Our own files are loaded by the module's names; a classifier for other classes is skipped. Everything else is
    taken for Keras' layout, see `load_keras_weights`.

    Args:
        module: made by `build(spec)`.
        spec: its specification.
        path: a .safetensors file.
        partial: pad or skip layers of another shape instead of refusing the file.

    Returns:
        What was loaded, padded and skipped.

    Raises:
        WeightsError: the file is damaged, or belongs to another network.
    """
    tensors, metadata = read_tensors(path)
    if metadata.get("format") in (WEIGHTS_FORMAT, _TRAINING_FORMAT):
        own = _own_tensors(tensors, metadata)
        _check_width(own, metadata, spec, Path(path))
        return _load_own(module, own, Path(path), strict=False)
    return _load_keras(module, spec, tensors, Path(path), partial)


def load_keras_weights(module: nn.Module, spec: NetworkSpec, path: Path, *, partial: bool = False) -> LoadReport:
    """Loads a safetensors file with Keras' names and layouts (HWIO kernels, depthwise HWC1), without its classifier.

    A file whose batch normalisation is folded into kernel and bias is loaded by making ours the identity plus that
    bias: the network computes the same, but its moving statistics say nothing. Before training further, give it real
    ones with `unfold_batch_norm`.

    Args:
        module: made by `build(spec)`.
        spec: its specification.
        path: the file.
        partial: pad layers that are narrower in the file, skip those that do not fit otherwise or are not there.

    Returns:
        What was loaded, padded and skipped.

    Raises:
        WeightsError: the file is damaged, or its layers have other shapes (the message names the alpha that fits).
    """
    tensors, _ = read_tensors(path)
    return _load_keras(module, spec, tensors, Path(path), partial)


# Our own files ---------------------------------------------------------------------------------------------------


def _own_tensors(tensors: dict[str, Array], metadata: dict[str, str]) -> dict[str, Array]:
    if metadata.get("format") != _TRAINING_FORMAT:
        return tensors
    return {name[len("model.") :]: value for name, value in tensors.items() if name.startswith("model.")}


def _check_width(tensors: dict[str, Array], metadata: dict[str, str], spec: NetworkSpec, path: Path) -> None:
    if "spec" not in metadata:
        return
    theirs = NetworkSpec.from_json(metadata["spec"])
    if theirs.family != spec.family or theirs.alpha != spec.alpha:
        fix = f"Use --alpha {theirs.alpha:g}, or another file" if theirs.family == spec.family else "Use another file"
        raise WeightsError(str(path), f"it holds {_width(theirs)}, the network is {_width(spec)}", fix)


def _width(spec: NetworkSpec) -> str:
    return f"{spec.family} of alpha {spec.alpha:g}" if "alpha" in family(spec.family).options else spec.family


def _load_own(module: nn.Module, tensors: dict[str, Array], path: Path, *, strict: bool) -> LoadReport:
    state: dict[str, Tensor] = module.state_dict()
    classifier = tuple(name for name, child in module.named_children() if isinstance(child, nn.Linear))
    loaded, skipped = [], []
    with torch.no_grad():
        for name, target in state.items():
            value = tensors.get(name)
            if value is None or tuple(value.shape) != tuple(target.shape):
                reason = "it is not in the file" if value is None else f"{value.shape} is not {tuple(target.shape)}"
                if strict or name.rsplit(".", 1)[0] not in classifier:
                    raise WeightsError(
                        str(path), f"{name} does not fit the network: {reason}", "Use the network it was written for"
                    )
                skipped.append(f"{name}: {reason}")
        for name, target in state.items():
            if not any(entry.startswith(f"{name}:") for entry in skipped):
                target.copy_(torch.from_numpy(np.array(tensors[name])))
                loaded.append(name)
    return LoadReport("millijoule", loaded=tuple(loaded), skipped=tuple(skipped))


# Keras' layout ---------------------------------------------------------------------------------------------------


def _kernel_name(layer: Layer) -> str:
    return f"{layer.name}/{'depthwise_kernel' if layer.operator == 'depthwise_conv2d' else 'kernel'}:0"


def _keras_shape(layer: Layer) -> tuple[int, ...]:
    inputs, outputs = layer.input_shape[2], layer.output_shape[2]
    return (*layer.kernel, outputs, 1) if layer.operator == "depthwise_conv2d" else (*layer.kernel, inputs, outputs)


def _convolutions(spec: NetworkSpec) -> list[Layer]:
    return [layer for layer in layers(spec) if layer.operator in ("conv2d", "depthwise_conv2d")]


def _matches(spec: NetworkSpec, tensors: dict[str, Array]) -> tuple[int, int]:
    """How many of the file's kernels have the shape the network wants, and how many of the network's it has."""
    wanted = {_kernel_name(layer): _keras_shape(layer) for layer in _convolutions(spec)}
    there = [name for name in wanted if name in tensors]
    return sum(tuple(tensors[name].shape) == wanted[name] for name in there), len(there)


def _fitting_alpha(spec: NetworkSpec, tensors: dict[str, Array]) -> tuple[float, int, int] | None:
    """The published width whose kernels match best: (alpha, matching, in the file)."""
    import dataclasses

    best: tuple[float, int, int] | None = None
    for alpha in family(spec.family).alphas:
        right, there = _matches(dataclasses.replace(spec, alpha=alpha), tensors)
        if right and (best is None or right > best[1]):
            best = alpha, right, there
    return best


def _load_keras(
    module: nn.Module, spec: NetworkSpec, tensors: dict[str, Array], path: Path, partial: bool
) -> LoadReport:
    convolutions = _convolutions(spec)
    right, there = _matches(spec, tensors)
    if there == 0:
        raise WeightsError(
            str(path), f"it holds no layer of {spec.family}", "Use a file written by this program or in Keras' layout"
        )
    best = _fitting_alpha(spec, tensors)
    if best is not None and right < best[1] and (not partial or right < len(convolutions) // 2):
        exactly = "its layers fit" if best[1] == best[2] else f"{best[1]} of its {best[2]} kernels fit"
        raise WeightsError(
            str(path),
            f"{exactly} alpha {best[0]:g}, the network has alpha {spec.alpha:g}",
            f"Use --alpha {best[0]:g}" + (f", or --init-alpha {best[0]:g} to grow it" * (best[0] < spec.alpha)),
        )
    report = _Report()
    normalized = any(layer.batch_norm is not None for layer in convolutions)
    folded = normalized and f"{convolutions[0].name}/bias:0" in tensors
    children = dict(module.named_modules())
    planned = []
    for layer in convolutions:
        parts, complaint = _layer_tensors(layer, tensors, folded, spec.bn_epsilon)
        if complaint is None and not partial and tuple(parts["kernel"].shape) != _keras_shape(layer):
            complaint = f"the file's kernel has shape {parts['kernel'].shape}, the network's {_keras_shape(layer)}"
        if complaint is not None:
            if not partial:
                raise WeightsError(
                    str(path),
                    f"{layer.name}: {complaint}",
                    f"{right} of {len(convolutions)} layers fit: allow a partial load, or use another file",
                )
            report.skipped.append(f"{layer.name}: {complaint}")
            continue
        planned.append((layer, parts))
    for layer, parts in planned:
        _fill(layer, parts, children, report)
    return LoadReport("keras", folded, tuple(report.loaded), tuple(report.padded), tuple(report.skipped))


def _layer_tensors(
    layer: Layer, tensors: dict[str, Array], folded: bool, epsilon: float
) -> tuple[dict[str, Array], str | None]:
    """The tensors of one convolution and its normalisation in the file, or why they cannot be used."""
    kernel = tensors.get(_kernel_name(layer))
    if kernel is None:
        return {}, "it is not in the file"
    parts: dict[str, Array] = {"kernel": kernel}
    outputs = kernel.shape[2] if layer.operator == "depthwise_conv2d" else kernel.shape[-1]
    if folded or layer.batch_norm is None:
        bias = tensors.get(f"{layer.name}/bias:0")
        if bias is None:
            return {}, "its bias is not in the file"
        one = np.ones(outputs, np.float32)
        parts |= {"gamma": one, "beta": bias, "moving_mean": 0 * one, "moving_variance": (1 - epsilon) * one}
    else:
        for name in ("gamma", "beta", "moving_mean", "moving_variance"):
            value = tensors.get(f"{layer.batch_norm}/{name}:0")
            if value is None:
                return {}, f"{layer.batch_norm}/{name} is not in the file"
            parts[name] = value
    wanted = _keras_shape(layer)
    if kernel.ndim != 4 or any(size > limit for size, limit in zip(kernel.shape, wanted, strict=True)):
        return {}, f"the file's kernel has shape {kernel.shape}, the network's {wanted}"
    if any(parts[name].shape != (outputs,) for name in parts if name != "kernel"):
        return {}, "its normalisation has another number of channels than its kernel"
    if any(not np.isfinite(value).all() for value in parts.values()) or (parts["moving_variance"] < 0).any():
        return {}, "it holds values that are not finite, or a negative variance"
    return parts, None


def _fill(layer: Layer, parts: dict[str, Array], children: Mapping[str, Any], report: _Report) -> None:
    axes = (2, 3, 0, 1) if layer.operator == "depthwise_conv2d" else (3, 2, 0, 1)
    kernel = torch.from_numpy(np.ascontiguousarray(parts["kernel"].transpose(axes), dtype=np.float32))
    weight: Tensor = children[layer.name].weight
    outputs, inputs = kernel.shape[0], kernel.shape[1]
    with torch.no_grad():
        if layer.operator == "conv2d":
            weight[:outputs, inputs:] = 0.0  # new inputs must not disturb what was learnt
        weight[:outputs, :inputs] = kernel
        for name, target in _targets(layer, children):
            target[:outputs] = torch.from_numpy(np.asarray(parts[name], dtype=np.float32))
    if tuple(parts["kernel"].shape) == _keras_shape(layer):
        report.loaded.append(layer.name)
    else:
        report.padded.append(f"{layer.name}: {parts['kernel'].shape} in {_keras_shape(layer)}")


def _targets(layer: Layer, children: Mapping[str, Any]) -> list[tuple[str, Tensor]]:
    """Where the vectors of a convolution go: into its normalisation, or its bias where it has none."""
    if layer.batch_norm is None:
        return [("beta", children[layer.name].bias)]
    norm = children[layer.batch_norm]
    return [
        ("gamma", norm.weight),
        ("beta", norm.bias),
        ("moving_mean", norm.running_mean),
        ("moving_variance", norm.running_var),
    ]


def unfold_batch_norm(module: nn.Module, inputs: Sequence[Tensor]) -> None:
    """Gives real moving statistics to a network whose batch normalisation was folded away, without changing it.

    Every normalisation is measured on `inputs`; then y = gamma * (x - mean) / sqrt(var + eps) + beta is rewritten with
    the measured mean and variance and the gamma and beta that leave y the same. The network computes what it did in
    evaluation mode, and nearly the same in training mode, so that it can be trained further.

    Args:
        module: a network loaded from a folded file; its mode is kept.
        inputs: batches of normalised float (N, C, H, W); a few hundred pictures are enough.
    """
    norms = [child for child in module.modules() if isinstance(child, nn.BatchNorm2d)]
    sums: dict[nn.Module, list[Tensor]] = {}

    def measure(norm: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        features = arguments[0].double()
        count = torch.tensor(float(features.numel() // features.shape[1]), dtype=torch.float64)
        new = [count, features.sum((0, 2, 3)), features.square().sum((0, 2, 3))]
        sums[norm] = [old + more for old, more in zip(sums[norm], new, strict=True)] if norm in sums else new

    handles = [norm.register_forward_pre_hook(measure) for norm in norms]
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            for batch in inputs:
                module(batch)
    finally:
        for handle in handles:
            handle.remove()
        module.train(was_training)
    with torch.no_grad():
        for norm in norms:
            if norm not in sums or norm.running_mean is None or norm.running_var is None:
                continue
            count, total, squares = sums[norm]
            mean = total / count
            variance = (squares / count - mean.square()).clamp_min(0.0)
            scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
            shift = norm.bias.double() - norm.running_mean.double() * scale
            norm.weight.copy_(scale * (variance + norm.eps).sqrt())
            norm.bias.copy_(shift + mean * scale)
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(variance)
