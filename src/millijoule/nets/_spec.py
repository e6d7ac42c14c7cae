"""What a network is before it has weights: a specification and the flat list of its layers, both plain data."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from millijoule.errors import FormatError, OptionError

__all__ = [
    "Layer",
    "NetworkSpec",
    "Nonlinearity",
    "Normalization",
    "Operator",
    "Padding",
    "Shape",
    "Stage",
    "check_resolution",
    "same_padding",
]

Operator: TypeAlias = Literal["conv2d", "depthwise_conv2d", "add", "max_pool", "mean", "flatten", "dropout", "dense"]
Nonlinearity: TypeAlias = Literal["relu", "relu6"]
Shape: TypeAlias = tuple[int, int, int]
"""(height, width, channels)."""
Padding: TypeAlias = tuple[int, int, int, int]
"""Rows and columns of zeros around a picture: left, right, top, bottom (the order of torch.nn.ZeroPad2d)."""


@dataclass(frozen=True)
class Normalization:
    """How an 8-bit picture becomes the network's input: x = picture * scale + offset.

    The default maps 0..255 to -1..1, as keras.applications does for MobileNet ("tf" mode).
    """

    scale: float = 1 / 127.5
    offset: float = -1.0


@dataclass(frozen=True)
class NetworkSpec:
    """A network without its weights.

    Attributes:
        family: a name of `millijoule.nets.families()`, for example "mobilenet_v2".
        alpha: width multiplier, applied to the channels of every stage; 1 for families of one width.
        resolution: height of the input in pixels, and its width where `columns` is None.
        classes: number of classes, the length of the logits.
        dropout: probability with which a feature is dropped before the classifier while training, 0..1.
        channels: channels of the input: 3 for colour pictures, 1 for a spectrogram.
        normalization: from uint8 picture to float input.
        bn_epsilon: added to the variance in batch normalisation (Keras' MobileNetV2: 1e-3).
        bn_momentum: share of the newest batch in the moving statistics, torch's convention (1 - Keras' momentum).
        columns: width of an input that is not square, None for a square one.
    """

    family: str
    alpha: float
    resolution: int
    classes: int
    dropout: float = 0.2
    channels: int = 3
    normalization: Normalization = Normalization()
    bn_epsilon: float = 1e-3
    bn_momentum: float = 0.03
    columns: int | None = None

    def __post_init__(self) -> None:
        """Refuses values outside their range.

        Raises:
            OptionError: naming the value and its range.
        """
        checks = (
            ("alpha", self.alpha, 0.05 <= self.alpha <= 4.0, "between 0.05 and 4", "0.35, 0.5, 0.75 or 1.0"),
            ("resolution", self.resolution, 1 <= self.resolution <= 1024, "between 1 and 1024 pixels", "96 or 224"),
            ("classes", self.classes, 2 <= self.classes <= 10000, "between 2 and 10000", "the number of your classes"),
            ("dropout", self.dropout, 0.0 <= self.dropout < 1.0, "at least 0 and below 1", "0.2"),
            ("channels", self.channels, 1 <= self.channels <= 4096, "between 1 and 4096", "3 for colour"),
            ("bn_momentum", self.bn_momentum, 0.0 < self.bn_momentum <= 1.0, "above 0 and at most 1", "0.03"),
            ("bn_epsilon", self.bn_epsilon, 0.0 < self.bn_epsilon < 1.0, "above 0 and below 1", "0.001"),
            ("columns", self.columns, self.columns is None or 1 <= self.columns <= 1024, "between 1 and 1024", "10"),
        )
        for name, value, fine, allowed, example in checks:
            if not fine:
                raise OptionError(f"{name} = {value}", f"it must be {allowed}", f"Use for example {example}")

    @property
    def input_shape(self) -> Shape:
        """(height, width, channels) of the input."""
        return self.resolution, self.resolution if self.columns is None else self.columns, self.channels

    def to_dict(self) -> dict[str, Any]:
        """The specification as plain values, for JSON and TOML; `columns` only where the input is not square."""
        values = dataclasses.asdict(self)
        if self.columns is None:
            del values["columns"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NetworkSpec:
        """The inverse of `to_dict`.

        Raises:
            FormatError: a field is unknown, missing or of another type.
        """
        try:
            rest = {name: value for name, value in values.items() if name != "normalization"}
            return cls(**rest, normalization=Normalization(**values.get("normalization", {})))
        except (TypeError, AttributeError) as error:
            raise FormatError(
                "network specification", f"its fields do not fit ({error})", "Write it with the same version"
            ) from error

    def to_json(self) -> str:
        """The specification as one line of JSON."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> NetworkSpec:
        """The inverse of `to_json`. Raises `FormatError`."""
        try:
            values = json.loads(text)
        except ValueError as error:
            raise FormatError("network specification", "it is not JSON", "Write it with this program") from error
        return cls.from_dict(values)


@dataclass(frozen=True)
class Stage:
    """One row of a family's table, before the width multiplier.

    Attributes:
        operator: what the row repeats, in the words of the paper's Table 1.
        t: expansion factor of a bottleneck, None where there is none.
        c: output channels at alpha 1, None where the input or the classes decide.
        n: how many times the row is repeated.
        s: stride of the first repetition; the others have stride 1.
    """

    operator: str
    t: int | None
    c: int | None
    n: int
    s: int


@dataclass(frozen=True)
class Layer:
    """One layer of the flat list that `layers(spec)` returns: everything the builder and the tables need.

    Attributes:
        name: name of the module with the weights, as Keras names it.
        operator: the operator.
        inputs: names of the layers (or "input") whose outputs this one reads.
        input_shape: (height, width, channels) of the first input; (1, 1, features) where it is flat.
        output_shape: (height, width, channels) of the output.
        stage: index of the row of the family's table that this layer belongs to.
        kernel: (height, width) of the kernel, (0, 0) where there is none.
        stride: step of the kernel, 1 where there is no kernel.
        padding: zeros around the input: TensorFlow's SAME rule for `input_shape`.
        bias: whether a bias is added to the products.
        batch_norm: name of the batch normalisation that follows, None where none does.
        activation: name of the non-linearity that follows, None where none does.
        nonlinearity: which one that is.
        expansion: ratio of expanded to input channels of the block (t), None outside bottlenecks.
        dropout: probability, for operator "dropout".
    """

    name: str
    operator: Operator
    inputs: tuple[str, ...]
    input_shape: Shape
    output_shape: Shape
    stage: int
    kernel: tuple[int, int] = (0, 0)
    stride: int = 1
    padding: Padding = (0, 0, 0, 0)
    bias: bool = False
    batch_norm: str | None = None
    activation: str | None = None
    nonlinearity: Nonlinearity = "relu6"
    expansion: int | None = None
    dropout: float = 0.0


def check_resolution(resolution: int) -> None:
    """Refuses sides of a picture that a family of picture classifiers does not take.

    Raises:
        OptionError: it is not between 32 and 1024 pixels.
    """
    if not 32 <= resolution <= 1024:
        raise OptionError(
            f"resolution = {resolution}", "it must be between 32 and 1024 pixels", "Use for example 96 or 224"
        )


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME rule along one axis: zeros before and after, the odd one after.

    The output has ceil(size / stride) elements. On an even size a 3-wide kernel with stride 2 is padded (0, 1), on an
    odd one (1, 1), so the padding depends on the resolution and is fixed when the network is built.

    Args:
        size: input length in elements.
        kernel: kernel length in elements.
        stride: step in elements.

    Returns:
        (before, after), each at least 0.

    Source: https://www.tensorflow.org/api_docs/python/tf/nn ("Notes on padding").
    """
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2
