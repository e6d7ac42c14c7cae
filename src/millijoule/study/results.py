"""The result of a study: the JSON that the report page, the summary and other tools read.

`Study.to_json` gives exactly what `report.json` holds; `SCHEMA` changes whenever a field changes its meaning. Sizes are
bytes, shares of pictures are per cent, times are named with their unit.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = [
    "SCHEMA",
    "AnalysisFacts",
    "BoardFacts",
    "BufferFacts",
    "ConversionFacts",
    "CurvePointFacts",
    "DataFacts",
    "Deployment",
    "EnergyFacts",
    "GalleryPicture",
    "LayerFacts",
    "MethodFacts",
    "NetworkFacts",
    "PlanFacts",
    "RegulatorFacts",
    "StageFacts",
    "StageRowFacts",
    "Study",
    "TimingFacts",
    "TrainingFacts",
    "VerifyFacts",
    "WidthFacts",
]

SCHEMA = "millijoule study 1"


@dataclass(frozen=True)
class DataFacts:
    """The data set: `counts` are pictures per split, `toy` marks rendered pictures."""

    source: str
    toy: bool
    classes: tuple[str, ...]
    resolution: int
    resize: str
    counts: dict[str, int]
    skipped: int
    near_duplicates: int


@dataclass(frozen=True)
class StageRowFacts:
    """One row of the network's table, in the columns of the paper's Table 1 and with what follows from alpha."""

    input: tuple[int, int, int]
    operator: str
    t: int | None
    c: int | None
    channels: int | None
    n: int
    s: int | None
    parameters: int
    macs: int


@dataclass(frozen=True)
class WidthFacts:
    """Size of the network at one alpha, 224x224 independent: parameters, float32 bytes, int8 bytes."""

    alpha: float
    parameters: int
    float_bytes: int
    int8_bytes: int


@dataclass(frozen=True)
class NetworkFacts:
    """The network."""

    family: str
    alpha: float
    resolution: int
    parameters: int
    macs: int
    rows: tuple[StageRowFacts, ...]
    widths: tuple[WidthFacts, ...]


@dataclass(frozen=True)
class ConversionFacts:
    """The trained fake-quantised network beside the integer model made of it, on validation pictures.

    `disagreements` counts predictions that differ (logits are compared bit for bit, so it is 0 or the study stops);
    `float_sums` those that training's own arithmetic, which sums in float32, would give differently.
    """

    pictures: int
    disagreements: int
    float_sums: int


@dataclass(frozen=True)
class TrainingFacts:
    """One training run; `epochs` are the lines of its metrics.jsonl, `conversion` belongs to QAT."""

    title: str
    epochs: tuple[dict[str, Any], ...]
    best_epoch: int
    validation_accuracy: float
    seconds: float
    conversion: ConversionFacts | None = None


@dataclass(frozen=True)
class MethodFacts:
    """One quantisation method on the test split; the fields of `millijoule.quantize.ModelFigures` and the file.

    `compiled_bytes` is what the constants take in flash as the compiler lays them out, `flash_bytes` the sum over the
    graph; fields with defaults are missing in results from before they existed.
    """

    name: str
    title: str
    kind: str
    file: str
    pictures: int
    correct: int
    accuracy: float
    interval: tuple[float, float]
    flash_bytes: int
    tflite_bytes: int | None
    activation_bytes: int | None
    activation_note: str
    changed: int | None
    lost: int | None
    won: int | None
    difference: float | None
    difference_interval: tuple[float, float] | None
    logits_sqnr: float | None
    confusion: tuple[tuple[int, ...], ...]
    weight_bits: float | None = None
    layers_by_bits: dict[int, int] | None = None
    compiled_bytes: int | None = None


@dataclass(frozen=True)
class CurvePointFacts:
    """Static quantisation with `count` calibration pictures: signal to noise of the logits in dB (None: no error)."""

    count: int
    sqnr: float | None
    changed: int


@dataclass(frozen=True)
class AnalysisFacts:
    """Where the error of quantisation comes from.

    Attributes:
        sensitivity: `millijoule.quantize.Sensitivity` as plain values; None where it was not measured.
        curve: static quantisation with more and more calibration pictures; empty where it was not measured.
        curve_pictures: validation pictures of the curve.
        calibration_hashes: SHA-256 of the largest calibration set of the curve; the others are its beginning.
        mixed: what the search of mixed precision found, `millijoule.quantize.MixedResult` without graph and report.
    """

    sensitivity: dict[str, Any] | None = None
    curve: tuple[CurvePointFacts, ...] = ()
    curve_pictures: int = 0
    calibration_hashes: tuple[str, ...] = ()
    mixed: dict[str, Any] | None = None


@dataclass(frozen=True)
class GalleryPicture:
    """A test picture that some model answers otherwise than the float one.

    Attributes:
        row: which picture of the test split.
        sha256: of its file.
        label: its class, an index like all answers.
        reference: the float model's answer.
        models: the answers of the models that differ, by method.
        side: pixels of the thumbnail's sides.
        jpeg: the thumbnail, base64.
    """

    row: int
    sha256: str
    label: int
    reference: int
    models: dict[str, int]
    side: int
    jpeg: str


@dataclass(frozen=True)
class RegulatorFacts:
    """Energy of one core cycle with one supply, from a published measurement."""

    name: str
    title: str
    volts: float
    picojoules_per_cycle: float
    uncertainty: float
    source: str


@dataclass(frozen=True)
class BoardFacts:
    """A board as the report shows it."""

    name: str
    title: str
    core: str
    clock_hz: int
    flash_bytes: int
    ram_bytes: int
    arena_limit_bytes: int
    wait_states: int
    regulators: tuple[RegulatorFacts, ...]
    paper_milliseconds: float | None
    paper_millijoules: float | None
    paper_remark: str


@dataclass(frozen=True)
class EnergyFacts:
    """Energy with one supply; `uncertainty` is relative, `statement` says where the figure comes from."""

    regulator: str
    title: str
    millijoules: float
    uncertainty: float
    statement: str = ""


@dataclass(frozen=True)
class LayerFacts:
    """One layer of the firmware.

    `block` is the part of the network it belongs to, `live_bytes` the RAM in use while it runs, `mix` its instructions
    by class, `stalls` its cycles lost by cause (None where the timing does not tell causes).
    """

    name: str
    operator: str
    macs: int
    cycles: int
    instructions: int
    block: str = ""
    live_bytes: int = 0
    mix: dict[str, int] = field(default_factory=dict)
    stalls: dict[str, int] | None = None


@dataclass(frozen=True)
class BufferFacts:
    """One buffer of the memory plan: bytes at an offset, alive from layer `first` to layer `last`."""

    name: str
    offset: int
    bytes: int
    first: int
    last: int
    kind: str


@dataclass(frozen=True)
class PlanFacts:
    """The memory plan: `steps` are the layers in execution order with the bytes alive in each."""

    steps: tuple[str, ...]
    live_bytes: tuple[int, ...]
    buffers: tuple[BufferFacts, ...]


@dataclass(frozen=True)
class VerifyFacts:
    """The same pictures through several executors: bit-exact, or the largest difference of a logit or probability."""

    pictures: int
    executors: tuple[str, ...]
    equal: bool
    largest_difference: float
    tolerance: float


@dataclass(frozen=True)
class TimingFacts:
    """How the cycles of a deployment were made.

    `method` is "edges" or "trace" (see `millijoule.emulate.Profile`), `memory` says whether the time of flash and
    caches is in them: "none", "estimated" or "modelled". `conditions` and `expected_error` are the model's statements.
    """

    method: str
    memory: str
    model: str
    conditions: tuple[str, ...]
    expected_error: str
    stalls: dict[str, int] | None = None


@dataclass(frozen=True)
class Deployment:
    """One model on one board. `status` is "ran", or "refused" with `reason` and zeros elsewhere.

    `timing` is None in results from before it existed: edges without wait states. `ram` is the arena row step by row
    step, `millijoule.compile.row_timeline` with at most about `millijoule.report.MOMENTS` moments of each layer.
    """

    method: str
    board: str
    status: str
    reason: str = ""
    arena_bytes: int = 0
    lower_bound_bytes: int = 0
    weight_bytes: int = 0
    flash_bytes: int = 0
    ram_bytes: int = 0
    stack_bytes: int | None = None
    cycles: int = 0
    instructions: int = 0
    milliseconds: float = 0.0
    energy: tuple[EnergyFacts, ...] = ()
    assumptions: str = ""
    compiler: str = ""
    layers: tuple[LayerFacts, ...] = ()
    plan: PlanFacts | None = None
    verify: VerifyFacts | None = None
    timing: TimingFacts | None = None
    ram: dict[str, Any] | None = None


@dataclass(frozen=True)
class StageFacts:
    """One stage of the study: how long it took when it ran, and whether this run could reuse it."""

    name: str
    title: str
    seconds: float
    reused: bool


@dataclass(frozen=True)
class Study:
    """Everything the report shows.

    `changed_pictures` counts the test pictures that some model answers otherwise than the float one, `gallery` shows
    some or all of them where the options ask for it.
    """

    title: str
    created: str
    seconds: float
    command: str
    commands: tuple[str, ...]
    versions: dict[str, str]
    host: dict[str, str]
    options: dict[str, Any]
    data: DataFacts
    network: NetworkFacts
    training: dict[str, TrainingFacts]
    methods: tuple[MethodFacts, ...]
    boards: tuple[BoardFacts, ...]
    deployments: tuple[Deployment, ...]
    stages: tuple[StageFacts, ...]
    notes: tuple[str, ...] = ()
    analysis: AnalysisFacts = AnalysisFacts()
    changed_pictures: int | None = None
    gallery: tuple[GalleryPicture, ...] = ()
    schema: str = field(default=SCHEMA)

    def to_json(self) -> dict[str, Any]:
        """The same as dictionaries, lists, numbers and strings (tuples stay tuples; JSON writes both as lists)."""
        return asdict(self)
