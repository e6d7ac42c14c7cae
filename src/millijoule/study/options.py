"""The options of a study: one TOML file, overridden by the command line, saved as resolved with the run."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from millijoule.errors import OptionError
from millijoule.files import atomic_write_text

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - depends on the interpreter
    import tomli as tomllib

__all__ = [
    "METHODS",
    "QAT_MODES",
    "Analysis",
    "DataOptions",
    "MixedPlan",
    "QatPlan",
    "StaticPlan",
    "StudyOptions",
    "demo_options",
]

METHODS = ("float", "half", "dynamic", "static", "static4", "mixed", "qat", "qat_scratch", "qat4")
"""Every column a study can have: those of the paper's Table 2, and beside them those with 16-bit and 4-bit weights."""
QAT_MODES = ("fine-tune", "scratch", "both", "none")


@dataclass(frozen=True)
class DataOptions:
    """Where the pictures come from.

    Attributes:
        prepared: a folder that `millijoule data prepare` made; when given, everything else here is unused.
        kind: toy_vehicles, folder, parquet or vmmrdb.
        root: the folder or file of photographs, not for toy_vehicles.
        subset: see `millijoule.data.open_source`.
        label: the label column of a parquet file.
        per_class: toy_vehicles: how many pictures to render of each class.
        split: shares of train, validation and test.
        move_near_duplicates: put pictures that look the same into one split.
    """

    prepared: str = ""
    kind: str = "toy_vehicles"
    root: str = ""
    subset: str = ""
    label: str = "label"
    per_class: int = 300
    split: tuple[float, float, float] = (0.7, 0.2, 0.1)
    move_near_duplicates: bool = False


@dataclass(frozen=True)
class StaticPlan:
    """Static quantisation.

    Attributes:
        refine: see `millijoule.quantize.static`.
        weight_bits: 4 adds a second model whose weights all have 4 bits ("static4"), every layer of it reconstructed.
    """

    refine: str = "bias"
    weight_bits: int = 8


@dataclass(frozen=True)
class MixedPlan:
    """A model with weights of 4 and 8 bits ("mixed") within a budget of flash; without a budget there is none.

    Attributes:
        budget_share: most flash, per cent of the network with 8 bits everywhere; 0: no such budget.
        budget_bytes: most flash in bytes; 0: no such budget.
        held_back: calibration pictures that the choice is measured on.
    """

    budget_share: float = 0.0
    budget_bytes: int = 0
    held_back: int = 24


@dataclass(frozen=True)
class Analysis:
    """What the report says about quantisation besides the models themselves.

    Attributes:
        sensitivity: what each layer loses, see `millijoule.quantize.sensitivity`.
        calibration_curve: static quantisation with so many calibration pictures each; empty for none.
        pictures: validation pictures that the curve is measured on.
    """

    sensitivity: bool = True
    calibration_curve: tuple[int, ...] = (10, 25, 50, 100, 200)
    pictures: int = 64


@dataclass(frozen=True)
class QatPlan:
    """Quantisation-aware training.

    Attributes:
        mode: "fine-tune" starts from the trained float network; "scratch", as in the paper, from the weights that the
            float training starts from, for as many epochs; "both"; or "none".
        training: fine-tuning: what differs from the options of float training, for example epochs and learning_rate.
        scratch: the same for training from scratch.
        settings: other options of `millijoule.quantize.QatOptions`, for example averaging.
        weight_bits: 4 adds a model that is fine-tuned with weights of 4 bits ("qat4").
    """

    mode: str = "fine-tune"
    weight_bits: int = 8
    training: dict[str, Any] = field(default_factory=dict)
    scratch: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StudyOptions:
    """Everything that decides the result of a study.

    Attributes:
        data: the pictures.
        alpha: width multiplier of MobileNetV2.
        resolution: pixels per side; 0 takes that of the prepared set.
        dropout: before the classifier while training.
        bn_momentum: share of the newest batch in the statistics of batch normalisation; short trainings need more.
        init: a weight file to start from, empty for random weights.
        init_alpha: width of the network in that file, 0 for `alpha`; a narrower one is grown.
        init_partial: pad or skip layers of the file that have another shape.
        seed: of the toy pictures, the initial weights, shuffling and augmentation.
        train: options of float training, see `millijoule.train.TrainOptions`.
        qat: quantisation-aware training.
        half: add a model with 16-bit float weights ("half").
        calibration: how many pictures choose the ranges of static quantisation.
        observer: how they choose them.
        rounding: "single", "double" or "mulhi"; see `graph.arithmetic.requantize`.
        static: more of static quantisation.
        mixed: mixed precision.
        analysis: sensitivity and calibration curve.
        gallery: put the pictures that some model answers otherwise than the float one into the report, as thumbnails.
        methods: which of `METHODS` to deploy (all that exist are evaluated).
        boards: which boards.
        kernels: "dsp" or "plain".
        compiler: "zig" or "gcc".
        verify_pictures: test pictures that every executor must agree on.
    """

    data: DataOptions = DataOptions()
    alpha: float = 0.5
    resolution: int = 0
    dropout: float = 0.2
    bn_momentum: float = 0.03
    init: str = ""
    init_alpha: float = 0.0
    init_partial: bool = False
    seed: int = 0
    train: dict[str, Any] = field(default_factory=dict)
    qat: QatPlan = field(default_factory=QatPlan)
    half: bool = False
    calibration: int = 200
    observer: str = "mse"
    rounding: str = "single"
    static: StaticPlan = StaticPlan()
    mixed: MixedPlan = MixedPlan()
    analysis: Analysis = Analysis()
    gallery: bool = False
    methods: tuple[str, ...] = METHODS[1:]
    boards: tuple[str, ...] = ("stm32l4r9i", "stm32h7b3i")
    kernels: str = "dsp"
    compiler: str = "zig"
    verify_pictures: int = 3

    def __post_init__(self) -> None:
        """Refuses what can be told to be wrong before any work is done. Raises OptionError."""
        choices: tuple[tuple[str, str, tuple[str, ...]], ...] = (
            ("qat.mode", self.qat.mode, QAT_MODES),
            ("kernels", self.kernels, ("dsp", "plain")),
            ("compiler", self.compiler, ("zig", "gcc")),
        )
        for name, value, allowed in choices:
            if value not in allowed:
                raise OptionError(f"{name} = {value!r}", "it is not known", f"Use one of: {', '.join(allowed)}")
        for method in self.methods:
            if method not in METHODS[1:]:
                raise OptionError(f"methods: {method!r}", "it is not known", f"Use some of: {', '.join(METHODS[1:])}")
        counts = {"calibration": self.calibration, "verify_pictures": self.verify_pictures}
        counts |= {"analysis.pictures": self.analysis.pictures, "mixed.held_back": self.mixed.held_back}
        for name, count in (
            *counts.items(),
            *(("analysis.calibration_curve", n) for n in self.analysis.calibration_curve),
        ):
            if count < 1:
                raise OptionError(f"{name} = {count}", "at least one picture is needed", "Use 1 or more")
        for name, bits in (("static", self.static.weight_bits), ("qat", self.qat.weight_bits)):
            if bits not in (4, 8):
                raise OptionError(f"{name}.weight_bits = {bits!r}", "such weights are not stored", "Use 8 or 4")
        if not 0.0 <= self.mixed.budget_share <= 100.0:
            raise OptionError(
                f"mixed.budget_share = {self.mixed.budget_share!r}", "it is a share in per cent", "Use 0 to 100"
            )
        if self.mixed.budget_bytes < 0:
            raise OptionError(f"mixed.budget_bytes = {self.mixed.budget_bytes!r}", "it is negative", "Use 0 for none")
        if self.init and not Path(self.init).is_file():
            raise OptionError(f"init = {self.init!r}", "there is no such file", "Check the path")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StudyOptions:
        """Options from nested dictionaries; what is not there keeps its default. Raises OptionError."""
        chosen = dict(values)
        _known(cls, chosen, "")
        try:
            if "data" in chosen:
                data = dict(chosen["data"])
                _known(DataOptions, data, "data.")
                if "split" in data:
                    train, validation, test = (float(share) for share in data["split"])
                    data["split"] = (train, validation, test)
                chosen["data"] = DataOptions(**data)
            for name, kind in (("qat", QatPlan), ("static", StaticPlan), ("mixed", MixedPlan), ("analysis", Analysis)):
                if name in chosen:
                    if not isinstance(chosen[name], Mapping):
                        raise OptionError(f"option {name} = {chosen[name]!r}", "it is a table", f"Write [{name}]")
                    part = dict(chosen[name])
                    _known(kind, part, f"{name}.")
                    if "calibration_curve" in part:
                        part["calibration_curve"] = _counts(part["calibration_curve"])
                    chosen[name] = kind(**part)
            for name in ("methods", "boards"):
                if name in chosen:
                    chosen[name] = tuple(str(item) for item in chosen[name])
            return cls(**chosen)
        except (TypeError, ValueError) as error:
            raise OptionError("the study's options", f"a value has the wrong form ({error})", "See --help") from error

    @classmethod
    def from_toml(cls, path: Path) -> StudyOptions:
        """Options from a TOML file. Raises OptionError when it cannot be read or an option is unknown."""
        try:
            return cls.from_dict(tomllib.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise OptionError(str(path), f"it cannot be read as TOML ({error})", "Check the file") from error

    def to_dict(self) -> dict[str, Any]:
        """The options as plain values."""
        values = asdict(self)
        values["data"]["split"] = list(self.data.split)
        values["methods"], values["boards"] = list(self.methods), list(self.boards)
        values["analysis"]["calibration_curve"] = list(self.analysis.calibration_curve)
        return values

    def save(self, path: Path) -> None:
        """Writes the options as TOML. Raises OutputError."""
        import tomli_w

        atomic_write_text(path, tomli_w.dumps(self.to_dict()))

    def with_changes(self, **changes: Any) -> StudyOptions:
        """The options with some replaced; changes that are None are left out."""
        return replace(self, **{name: value for name, value in changes.items() if value is not None})


def _known(kind: type[Any], values: Mapping[str, Any], prefix: str) -> None:
    """Refuses names that `kind` does not have, and values of another type than their defaults. Raises OptionError."""
    items = {item.name: item.default for item in fields(kind)}
    for name, value in values.items():
        if name not in items:
            raise OptionError(f"option {prefix}{name}", "it is not known", f"Use some of: {', '.join(items)}")
        words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}.get(type(items[name]))
        if words is not None and not _same_type(value, items[name]):
            raise OptionError(f"option {prefix}{name} = {value!r}", f"it must be {words}", "Change the value")


def _counts(values: Any) -> tuple[int, ...]:
    """A list of whole numbers. Raises TypeError."""
    if not isinstance(values, list | tuple) or any(type(value) is not int for value in values):
        raise TypeError(f"calibration_curve: {values!r} is no list of whole numbers")
    return tuple(values)


def _same_type(value: Any, default: Any) -> bool:
    if isinstance(value, bool) or isinstance(default, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    return isinstance(value, int | float if isinstance(default, float) else type(default))


def demo_options(seed: int = 0) -> StudyOptions:
    """The demo: MobileNetV2 alpha 0.35 at 96x96 on the rendered toy_vehicles, minutes on two cores.

    The schedule is a short modern one (cosine, high rate, label smoothing), not the paper's 150 epochs at 1e-4.
    """
    return StudyOptions(
        data=DataOptions(kind="toy_vehicles", per_class=500, split=(0.8, 0.1, 0.1)),
        alpha=0.35,
        resolution=96,
        dropout=0.0,
        bn_momentum=0.1,
        seed=seed,
        train={
            "epochs": 8,
            "batch_size": 16,
            "learning_rate": 3e-3,
            "schedule": "cosine",
            "warmup_epochs": 0.5,
            "weight_decay": 0.01,
            "label_smoothing": 0.05,
            "augmentation": {"rotation": 0.0, "shift": 0.08, "shear": 0.0, "zoom": 0.1, "flip": True},
        },
        qat=QatPlan(mode="fine-tune", training={"epochs": 2, "learning_rate": 2e-4, "warmup_epochs": 0.0}),
    )
