"""The options of a training run: the paper's by default, the modern ones beside them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from millijoule.data import Augmentation
from millijoule.errors import OptionError

__all__ = ["TrainOptions"]

PAPER_AUGMENTATION = Augmentation()


@dataclass(frozen=True)
class TrainOptions:
    """How to train. The defaults are those of the paper: Adam, 1e-4, batch 16, 150 epochs, its augmentation.

    Attributes:
        epochs: passes over the training split.
        batch_size: pictures per optimiser step, over all processes together.
        learning_rate: of Adam, at its highest.
        schedule: "constant" as in the paper; "cosine" falls to zero and saves most of the epochs, because the last
            ones average out the noise of the steps.
        warmup_epochs: epochs with a linearly rising rate; lets a high rate start without destroying the weights.
        weight_decay: decoupled (AdamW), on kernels only; keeps weights small, which also keeps their int8 steps small.
        label_smoothing: share of the target given to all classes alike; keeps logits bounded and ranges narrow.
        ema_decay: decay per step of an exponential moving average of the weights, 0 for none; the average
            generalises better than the last step and replaces a long fall of the rate.
        mixup: parameter of the beta distribution that mixes pairs of pictures, 0 for none; helps when pictures are few.
        distillation: share of the loss that imitates a teacher, 0 for none; a wider network teaches a narrow one
            which classes resemble each other.
        temperature: softens both logits for distillation.
        gradient_clip: largest norm of the gradient, 0 for none; survives a broken batch at a high rate.
        resolutions: (share of the epochs, resolution) pairs, for example ((0.0, 64), (0.6, 96)): the first epochs on
            smaller pictures cost less. Validation is always at full resolution.
        augmentation: random changes of each training picture, None for none.
        batch_norm_pictures: after the last epoch the statistics of batch normalisation are measured anew on so many
            unaugmented training pictures at full resolution, and kept if validation is better; 0: never. Worth most
            where augmentation is strong, training short, or most epochs see smaller pictures.
        seed: of shuffling, augmentation, dropout and mixup.
        device: "auto" (the GPU if there is one), "cpu" or "cuda".
        precision: "auto" (bfloat16 autocast on a GPU, float32 elsewhere), "float32" or "bfloat16".
        checkpoint_steps: also write a checkpoint every so many steps, 0 for every epoch only.
        evaluation_batch_size: pictures per forward pass of the evaluation.
    """

    epochs: int = 150
    batch_size: int = 16
    learning_rate: float = 1e-4
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_epochs: float = 0.0
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    ema_decay: float = 0.0
    mixup: float = 0.0
    distillation: float = 0.0
    temperature: float = 4.0
    gradient_clip: float = 0.0
    resolutions: tuple[tuple[float, int], ...] = ()
    augmentation: Augmentation | None = PAPER_AUGMENTATION
    batch_norm_pictures: int = 0
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    checkpoint_steps: int = 0
    evaluation_batch_size: int = 64

    def __post_init__(self) -> None:
        """Refuses values outside their range.

        Raises:
            OptionError: naming the option and its range.
        """
        ranges = (
            ("epochs", 1, 100_000),
            ("batch_size", 2, 65_536),
            ("learning_rate", 1e-9, 10.0),
            ("warmup_epochs", 0.0, float(self.epochs)),
            ("weight_decay", 0.0, 10.0),
            ("label_smoothing", 0.0, 0.99),
            ("ema_decay", 0.0, 0.999999),
            ("mixup", 0.0, 100.0),
            ("distillation", 0.0, 1.0),
            ("temperature", 0.1, 100.0),
            ("gradient_clip", 0.0, 1e6),
            ("batch_norm_pictures", 0, 10**9),
            ("seed", 0, 2**31 - 1),
            ("checkpoint_steps", 0, 10**9),
            ("evaluation_batch_size", 1, 65_536),
        )
        for name, low, high in ranges:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
                raise OptionError(f"{name} = {value!r}", f"it must be a number from {low:g} to {high:g}", "Change it")
            if isinstance(low, int) and not isinstance(value, int):
                raise OptionError(f"{name} = {value!r}", "it must be a whole number", f"Use for example {round(value)}")
        choices = (
            ("schedule", ("constant", "cosine")),
            ("device", ("auto", "cpu", "cuda")),
            ("precision", ("auto", "float32", "bfloat16")),
        )
        for name, allowed in choices:
            if getattr(self, name) not in allowed:
                raise OptionError(f"{name} = {getattr(self, name)!r}", "it is not known", f"Use {' or '.join(allowed)}")
        for pair in self.resolutions:
            if len(pair) != 2 or not 0 <= pair[0] < 1 or not 32 <= pair[1] <= 1024:
                raise OptionError(
                    f"resolutions = {self.resolutions!r}",
                    "each entry is (share of the epochs from 0 to below 1, pixels from 32 to 1024)",
                    "Write for example [[0.0, 64], [0.6, 96]]",
                )

    @classmethod
    def modern(cls, **changes: Any) -> TrainOptions:
        """Cosine with warm-up, a higher rate, label smoothing and averaged weights; `changes` override any option."""
        values: dict[str, Any] = {
            "epochs": 40,
            "batch_size": 32,
            "learning_rate": 1e-3,
            "schedule": "cosine",
            "warmup_epochs": 1.0,
            "label_smoothing": 0.1,
            "ema_decay": 0.998,
        }
        return cls(**(values | changes))

    def rate(self, progress: float) -> float:
        """The learning rate after `progress` epochs (fractional, 0..epochs)."""
        if progress < self.warmup_epochs:
            return self.learning_rate * progress / self.warmup_epochs
        if self.schedule == "constant":
            return self.learning_rate
        share = (progress - self.warmup_epochs) / max(self.epochs - self.warmup_epochs, 1e-9)
        return self.learning_rate * 0.5 * (1.0 + math.cos(math.pi * min(share, 1.0)))

    def resolution(self, epoch: int, full: int) -> int:
        """The resolution of the training pictures in `epoch` (0-based); `full` where `resolutions` names none."""
        chosen = full
        for share, size in sorted(self.resolutions):
            if epoch >= share * self.epochs:
                chosen = size
        return chosen

    def to_dict(self) -> dict[str, Any]:
        """The options as plain values for TOML and JSON; no augmentation is written as false."""
        values = dataclasses.asdict(self)
        values["resolutions"] = [list(pair) for pair in self.resolutions]
        if self.augmentation is None:
            values["augmentation"] = False
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainOptions:
        """The inverse of `to_dict`; options that are not there keep their defaults.

        Raises:
            OptionError: an option is unknown or out of range.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        for name in values:
            if name not in known:
                raise OptionError(f"training option {name!r}", "it is not known", f"Use {', '.join(sorted(known))}")
        chosen = dict(values)
        try:
            if "resolutions" in chosen:
                chosen["resolutions"] = tuple((float(share), int(size)) for share, size in chosen["resolutions"])
            augmentation = chosen.get("augmentation")
            if isinstance(augmentation, Mapping):
                chosen["augmentation"] = Augmentation(**augmentation)
            elif augmentation is True:
                chosen["augmentation"] = PAPER_AUGMENTATION
            elif augmentation is False:
                chosen["augmentation"] = None
        except (TypeError, ValueError) as error:
            raise OptionError("training options", f"a value has the wrong form ({error})", "See --help") from error
        return cls(**chosen)
