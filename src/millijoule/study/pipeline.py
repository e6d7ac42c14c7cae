"""The study from photographs to report, stage after stage; whatever is up to date is reused."""

from __future__ import annotations

import functools
import hashlib
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from millijoule.boards import load_board
from millijoule.errors import OutputError
from millijoule.files import Progress, atomic_write_json
from millijoule.report import write_report
from millijoule.study import stages
from millijoule.study.analysis import analysis_facts, gallery, measure_curve, measure_sensitivity
from millijoule.study.deployment import TIMING, deploy, deployment_from, deployment_json
from millijoule.study.facts import board_facts, data_facts, host_facts, method_facts, network_facts, version_facts
from millijoule.study.ledger import Inputs, Ledger, StageRecord
from millijoule.study.options import METHODS, StaticPlan, StudyOptions
from millijoule.study.progress import QuietReporter, Reporter
from millijoule.study.results import AnalysisFacts, ConversionFacts, StageFacts, Study, TrainingFacts

if TYPE_CHECKING:
    from millijoule.data import PreparedSet
    from millijoule.nets import NetworkSpec

__all__ = ["clear_run", "run_study"]

EVALUATED = ["bits", "changes"]
"""What the rows of the comparison have since it was first written; results without them are made again."""
PLANNED = ["constants"]
"""The same of the sizes."""
OURS = ("data", "stages", "train", "firmware")
"""Folders that a study makes in its run folder."""


def clear_run(folder: Path) -> None:
    """Removes what earlier studies left in `folder`, and nothing else. Raises OutputError."""
    try:
        for name in OURS:
            if (folder / name).is_dir():
                shutil.rmtree(folder / name)
        for name in (*(f"{method}.mj" for method in METHODS), "report.json", "report.html", "study.toml"):
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            str(folder), f"the old run cannot be removed ({error.strerror})", "Choose another folder with --out"
        ) from error


@dataclass
class _Run:
    """A study in progress: its folder, what is finished, and how it tells."""

    folder: Path
    options: StudyOptions
    ledger: Ledger
    reporter: Reporter

    def stage(
        self,
        name: str,
        title: str,
        inputs: Mapping[str, Any] | Inputs,
        work: Callable[[str, Progress], dict[str, Any]],
        after: Iterable[str] = (),
        files: Sequence[Path] = (),
    ) -> StageRecord:
        """Runs a stage under a progress bar, or says that it is up to date."""
        after = tuple(after)
        if self.ledger.up_to_date(name, inputs, after, files):
            self.reporter.reused(title)
            return self.ledger.stage(name, title, inputs, lambda _mark: {}, after=after, files=files)
        with self.reporter.stage(title) as progress:
            return self.ledger.stage(name, title, inputs, lambda mark: work(mark, progress), after=after, files=files)

    def model(self, method: str) -> Path:
        """Where the graph of a method lies."""
        return self.folder / f"{method}.mj"


def run_study(
    options: StudyOptions,
    folder: Path,
    *,
    reporter: Reporter | None = None,
    title: str | None = None,
    command: str = "",
) -> Study:
    """Runs a study, or the rest of it: an interrupted run goes on where it was, a finished one is only told again.

    Writes below `folder`: `study.toml` (the resolved options), `data/`, `train/`, one `.mj` per method, `firmware/`,
    `stages/`, `report.json` and `report.html`.

    Args:
        options: what to study.
        folder: the run folder, made when missing.
        reporter: shows progress; silent by default.
        title: heading of the report.
        command: the command line, for the report.

    Returns:
        The result, as in report.json.

    Raises:
        MillijouleError: whatever a room refuses; the stages before it are kept.
    """
    began = time.monotonic()
    folder = Path(folder).resolve()
    boards = [load_board(name) for name in options.boards]
    stages.check_options(options)
    for board in boards:
        board.regulator()
    run = _Run(folder, options, Ledger(folder), reporter or QuietReporter())
    options.save(folder / "study.toml")
    prepared = _data(run)
    spec = stages.network_of(options, prepared)
    _float(run, prepared, spec)
    methods = _quantise(run, prepared, spec)
    comparison = run.stage(
        "evaluate",
        "evaluate on the test split",
        {"rows": EVALUATED},
        lambda _mark, progress: stages.evaluate({name: run.model(name) for name in methods}, prepared, progress),
        after=methods,
    )
    arenas = run.stage(
        "arenas",
        "plan the memory",
        {"code": _code_mark(), "rows": PLANNED},
        lambda _mark, progress: stages.plan_arenas({name: run.model(name) for name in methods}, progress),
        after=methods,
    )
    analysis = _analyse(run, prepared)
    deployments = _deploy(run, prepared, methods)
    changes = comparison.result["changes"]
    study = Study(
        title=title or f"{_network_title(spec)} on {data_facts(prepared).source}",
        created=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        seconds=round(time.monotonic() - began, 1),
        command=command,
        commands=_commands(command, folder),
        versions=version_facts(),
        host=host_facts(),
        options=options.to_dict(),
        data=data_facts(prepared),
        network=network_facts(spec),
        training=_trainings(run.ledger),
        methods=tuple(
            method_facts({**row, **arenas.result[row["name"]]}, stages.TITLES) for row in comparison.result["models"]
        ),
        boards=tuple(board_facts(board) for board in boards),
        deployments=tuple(deployments),
        stages=tuple(
            StageFacts(item.name, item.title, round(item.seconds, 2), item.reused)
            for item in run.ledger.records.values()
        ),
        analysis=analysis,
        changed_pictures=len(changes),
        gallery=gallery(changes, prepared) if options.gallery else (),
    )
    atomic_write_json(folder / "report.json", study.to_json())
    write_report(study.to_json(), folder / "report.html")
    return study


def _network_title(spec: NetworkSpec) -> str:
    return f"MobileNetV2 alpha {spec.alpha:g} at {spec.resolution}x{spec.resolution}"


def _commands(command: str, folder: Path) -> tuple[str, ...]:
    lines = ["pip install -c constraints.txt '.[all]'"]
    return (*lines, command) if command else (*lines, f"millijoule study --config {folder.name}/study.toml")


def _data(run: _Run) -> PreparedSet:
    from millijoule.data import open_prepared

    data = run.options.data
    if data.prepared:
        prepared = open_prepared(Path(data.prepared))
        run.stage("data", "open the prepared pictures", {"key": prepared.manifest.key}, lambda _mark, _progress: {})
        return prepared
    source = stages.data_source(data, run.options.seed)
    folder = run.folder / "data"
    inputs = {
        "source": source.fingerprint(),
        "resolution": run.options.resolution,
        "split": data.split,
        "move": data.move_near_duplicates,
    }

    def work(_mark: str, progress: Progress) -> dict[str, Any]:
        stages.prepare_data(source, run.options, folder, progress)
        return {}

    run.stage("data", "prepare pictures", inputs, work, files=[folder / "manifest.json"])
    return open_prepared(folder)


def _float(run: _Run, prepared: PreparedSet, spec: NetworkSpec) -> None:
    from millijoule.train import TrainOptions

    options, folder = run.options, run.folder / "train" / "float"
    train = stages.train_options(options).to_dict()
    inputs = _training(options, spec, {"train": train}, {"train": TrainOptions().to_dict()})
    run.stage(
        "train",
        "train in float",
        inputs,
        lambda mark, progress: stages.train_float(spec, prepared, options, folder, mark, progress),
        after=["data"],
        files=[folder / "best.safetensors"],
    )

    def capture(_mark: str, _progress: Progress) -> dict[str, Any]:
        stages.capture_float(folder / "best.safetensors", prepared.classes, folder / "captured.mj", run.model("float"))
        return {}

    files = [folder / "captured.mj", run.model("float")]
    run.stage("float", "capture the float graph", {}, capture, after=["train"], files=files)


def _training(
    options: StudyOptions, spec: NetworkSpec, values: Mapping[str, Any], defaults: Mapping[str, Any]
) -> Inputs:
    """What decides a training from the first weights: its options, the network, where the weights come from."""
    rest = {"partial": options.init_partial, "seed": options.seed}
    return Inputs(
        {**values, "spec": spec.to_dict(), "init": _file_hash(options.init), "init_alpha": options.init_alpha, **rest},
        {**defaults, "spec": _field_defaults(type(spec))},
        {**values, "spec": spec.to_json(), "init": [*_file_stamp(options.init), options.init_alpha], **rest},
    )


def _field_defaults(kind: type[Any]) -> dict[str, Any]:
    """The default of every field of a dataclass that has one, as plain values."""
    found = {item.name: item.default for item in fields(kind) if item.default is not MISSING}
    return {
        name: asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
        for name, value in found.items()
    }


def _file_hash(path: str) -> str:
    """The SHA-256 of a file's bytes; empty without a file."""
    if not path:
        return ""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _file_stamp(path: str) -> list[Any]:
    """How ledgers used to tell whether a file is the same."""
    if not path:
        return []
    facts = Path(path).stat()
    return [Path(path).name, facts.st_size, facts.st_mtime_ns]


def _quantise(run: _Run, prepared: PreparedSet, spec: NetworkSpec) -> list[str]:
    from millijoule.quantize.refine import FOUR_BITS

    options, source = run.options, run.folder / "train" / "float" / "captured.mj"

    def dynamic(_mark: str, progress: Progress) -> dict[str, Any]:
        stages.make_dynamic(source, run.model("dynamic"), progress)
        return {}

    run.stage(
        "dynamic", "quantise: dynamic", {"refine": "full"}, dynamic, after=["float"], files=[run.model("dynamic")]
    )
    values = _calibrated(options)
    run.stage(
        "static",
        "quantise: static",
        Inputs({**values, "refine": options.static.refine}, {"refine": StaticPlan().refine}, values),
        lambda _mark, progress: stages.make_static(source, prepared, options, run.model("static"), progress),
        after=["float"],
        files=[run.model("static")],
    )
    methods = ["float", "dynamic", "static"]
    if options.half:
        path = run.model("half")
        run.stage(
            "half",
            "round: 16-bit float",
            {},
            lambda _m, _p: stages.make_half(source, path),
            after=["float"],
            files=[path],
        )
        methods.insert(1, "half")
    if options.static.weight_bits == 4:
        run.stage(
            "static4",
            "quantise: static, 4 bits",
            {**values, "refine": FOUR_BITS},
            lambda _mark, progress: stages.make_static(
                source, prepared, options, run.model("static4"), progress, weight_bits=4
            ),
            after=["float"],
            files=[run.model("static4")],
        )
        methods.append("static4")
    if options.mixed.budget_share or options.mixed.budget_bytes:
        run.stage(
            "mixed",
            "quantise: 4 and 8 bits",
            {**values, "mixed": asdict(options.mixed)},
            lambda _mark, progress: stages.make_mixed(source, prepared, options, run.model("mixed"), progress),
            after=["float"],
            files=[run.model("mixed")],
        )
        methods.append("mixed")
    wanted = {"fine-tune": ["qat"], "scratch": ["qat_scratch"], "both": ["qat", "qat_scratch"], "none": []}
    for name in [*wanted[options.qat.mode], *(["qat4"] if options.qat.weight_bits == 4 else [])]:
        _qat(run, prepared, spec, name, source)
        methods.append(name)
    return methods


def _calibrated(options: StudyOptions) -> dict[str, Any]:
    """What decides ranges measured on calibration pictures."""
    return {
        "count": options.calibration,
        "observer": options.observer,
        "rounding": options.rounding,
        "seed": options.seed,
    }


def _analyse(run: _Run, prepared: PreparedSet) -> AnalysisFacts:
    """Sensitivity and calibration curve, where the options ask for them, and what the search of bits found."""
    options, source = run.options, run.folder / "train" / "float" / "captured.mj"
    values, found = _calibrated(options), {}
    if options.analysis.sensitivity:
        found["sensitivity"] = run.stage(
            "sensitivity",
            "sensitivity of the layers",
            {name: value for name, value in values.items() if name != "rounding"},
            lambda _mark, progress: measure_sensitivity(source, prepared, options, progress),
            after=["float"],
        )
    if options.analysis.calibration_curve:
        found["curve"] = run.stage(
            "curve",
            "calibration curve",
            {**values, "count": sorted(set(options.analysis.calibration_curve)), "refine": options.static.refine}
            | {"pictures": options.analysis.pictures},
            lambda _mark, progress: measure_curve(source, prepared, options, progress),
            after=["float"],
        )
    results = {name: record.result for name, record in found.items()}
    mixed = run.ledger.records.get("mixed")
    return analysis_facts(
        results.get("sensitivity"), results.get("curve"), None if mixed is None else mixed.result["found"]
    )


def _qat(run: _Run, prepared: PreparedSet, spec: NetworkSpec, name: str, source: Path) -> None:
    from millijoule.quantize import QatOptions

    options, scratch, bits = run.options, name == "qat_scratch", 4 if name == "qat4" else 8
    values = {"qat": stages.qat_options(options, scratch=scratch, weight_bits=bits).to_dict()}
    defaults = {"qat": QatOptions().to_dict()}
    inputs = _training(options, spec, values, defaults) if scratch else Inputs(values, defaults)
    run.stage(
        name,
        f"train: {stages.TITLES[name]}",
        inputs,
        lambda mark, progress: stages.train_qat(
            source,
            prepared,
            spec,
            options,
            run.folder / "train" / name,
            mark,
            run.model(name),
            progress,
            scratch=scratch,
            weight_bits=bits,
        ),
        after=["data"] if scratch else ["float"],
        files=[run.model(name)],
    )


def _deploy(run: _Run, prepared: PreparedSet, methods: Sequence[str]) -> list[Any]:
    options = run.options
    deployments = []
    for method in (name for name in methods if name in options.methods):
        for board in options.boards:
            elf = run.folder / "firmware" / f"{method}_{board}.elf"

            def work(_mark: str, progress: Progress, method: str = method, board: str = board, elf: Path = elf) -> Any:
                return deployment_json(deploy(method, run.model(method), board, options, prepared, elf, progress))

            title = f"{stages.TITLES[method]} on {load_board(board).title}"
            inputs = {
                "kernels": options.kernels,
                "compiler": options.compiler,
                "pictures": options.verify_pictures,
                "board": repr(load_board(board)),
                "timing": TIMING,
                "code": _code_mark(),
            }
            record = run.stage(f"deploy_{method}_{board}", title, inputs, work, after=[method, "data"])
            deployments.append(deployment_from(record.result))
    return deployments


@functools.lru_cache(maxsize=1)
def _code_mark() -> str:
    """A hash of what turns a model into firmware and cycles, so that no figure outlives the code that made it."""
    package, digest = Path(__file__).resolve().parent.parent, hashlib.sha256()
    for room in ("kernels", "boards", "compile", "build", "emulate"):
        for path in sorted((package / room).rglob("*")):
            if path.suffix in (".py", ".c", ".h", ".in", ".toml"):
                digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _trainings(ledger: Ledger) -> dict[str, TrainingFacts]:
    titles = {"train": "Float training", "qat": "QAT fine-tuning", "qat_scratch": "QAT from scratch"}
    titles["qat4"] = "QAT fine-tuning, 4 bits"
    names = {"train": "float"}
    trainings = {}
    for stage, title in titles.items():
        if stage in ledger.records:
            result = ledger.records[stage].result
            trainings[names.get(stage, stage)] = TrainingFacts(
                title,
                tuple(result["epochs"]),
                int(result["best_epoch"]),
                float(result["validation_accuracy"]),
                float(result["seconds"]),
                ConversionFacts(**result["agreement"]) if "agreement" in result else None,
            )
    return trainings
