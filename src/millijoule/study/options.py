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

__all__ = ["METHODS", "QAT_MODES", "DataOptions", "QatPlan", "StudyOptions", "demo_options"]

METHODS = ("float", "half", "dynamic", "static", "qat", "qat_scratch")
"""Every column a study can have, in the order of the paper's Table 2."""
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
class QatPlan:
    """Quantisation-aware training.

    Attributes:
        mode: "fine-tune" starts from the trained float network; "scratch", as in the paper, from the weights that the
            float training starts from, for as many epochs; "both"; or "none".
        training: fine-tuning: what differs from the options of float training, for example epochs and learning_rate.
        scratch: the same for training from scratch.
        settings: other options of `millijoule.quantize.QatOptions`, for example averaging.
    """

    mode: str = "fine-tune"
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
    methods: tuple[str, ...] = ("half", "dynamic", "static", "qat", "qat_scratch")
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
        if self.calibration < 1 or self.verify_pictures < 1:
            what = "calibration" if self.calibration < 1 else "verify_pictures"
            raise OptionError(f"{what} = {getattr(self, what)}", "at least one picture is needed", "Use 1 or more")
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
            if "qat" in chosen:
                qat = dict(chosen["qat"])
                _known(QatPlan, qat, "qat.")
                chosen["qat"] = QatPlan(**qat)
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
        return values

    def save(self, path: Path) -> None:
        """Writes the options as TOML. Raises OutputError."""
        import tomli_w

        atomic_write_text(path, tomli_w.dumps(self.to_dict()))

    def with_changes(self, **changes: Any) -> StudyOptions:
        """The options with some replaced; changes that are None are left out."""
        return replace(self, **{name: value for name, value in changes.items() if value is not None})


def _known(kind: type[Any], values: Mapping[str, Any], prefix: str) -> None:
    names = [item.name for item in fields(kind)]
    for name in values:
        if name not in names:
            raise OptionError(f"option {prefix}{name}", "it is not known", f"Use some of: {', '.join(names)}")


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
