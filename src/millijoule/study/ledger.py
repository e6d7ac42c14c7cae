"""Which stages of a run are up to date: each stage's result is a file that says everything it came from.

A stage is skipped when its file holds today's inputs (the stage's options as plain values, hashes of files that it
reads), the fingerprints of the stages before it, and the version of the package, and when the files it wrote are still
there with the same size. An option that did not exist when the stage ran counts as its default, because new options
leave the result as it was unless they are used; a default that has changed, or an option that has gone, makes the
stage run again. Results are written whole or not at all, so that a run can be stopped at any moment.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from millijoule import __version__
from millijoule.files import atomic_write_json

__all__ = ["Inputs", "Ledger", "StageRecord", "fingerprint"]

LEDGER_VERSION = 1
"""Changes whenever a stage gives another result for the same options."""


@dataclass(frozen=True)
class Inputs:
    """What decides the result of a stage.

    Attributes:
        values: JSON values, options by name; nested where they are.
        defaults: of options that an earlier version may not have known, nested like `values`.
        hashed: `values` as they were when files held a hash of them only; None where that is the same. Such a file is
            read as long as its hash can be made again.
    """

    values: Mapping[str, Any]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    hashed: Mapping[str, Any] | None = None


def _plain(values: Any) -> Any:
    """As values are after they were written and read."""
    return json.loads(json.dumps(values, default=str))


def _agree(now: Any, then: Any, defaults: Any) -> bool:
    """Whether recorded values are today's, where one that was not recorded stands for its default."""
    if not isinstance(now, Mapping) or not isinstance(then, Mapping):
        return bool(now == then)
    defaults = defaults if isinstance(defaults, Mapping) else {}
    known = all(_agree(now[name], then[name], defaults.get(name)) for name in now if name in then)
    new = all(name in defaults and now[name] == defaults[name] for name in now if name not in then)
    return known and new and then.keys() <= now.keys()


def fingerprint(name: str, inputs: Mapping[str, Any], upstream: Iterable[str]) -> str:
    """The SHA-256 of everything that decides a stage's result, as 64 hexadecimal digits."""
    parts = [LEDGER_VERSION, __version__, name, dict(inputs), sorted(upstream)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


@dataclass(frozen=True)
class StageRecord:
    """One finished stage: its result (JSON values), how long it took, whether this run could reuse it."""

    name: str
    title: str
    fingerprint: str
    seconds: float
    result: dict[str, Any]
    reused: bool


@dataclass
class Ledger:
    """The finished stages of one run folder."""

    folder: Path
    records: dict[str, StageRecord] = field(default_factory=dict)

    def stage(
        self,
        name: str,
        title: str,
        inputs: Mapping[str, Any] | Inputs,
        work: Callable[[str], dict[str, Any]],
        *,
        after: Iterable[str] = (),
        files: Iterable[Path] = (),
    ) -> StageRecord:
        """The result of a stage, from its file when it is up to date, otherwise by doing the work.

        Args:
            name: an identifier, the name of the file.
            title: what the user reads.
            inputs: what decides the result.
            work: makes the result; gets the fingerprint.
            after: names of the stages it builds on; they must be in this ledger.
            files: what the work writes, below the run folder.

        Raises:
            OutputError: the run folder cannot be written.
        """
        found = inputs if isinstance(inputs, Inputs) else Inputs(inputs)
        before = self._before(after)
        wanted = list(files)
        record = self._read(name, title, found, before, wanted)
        if record is None:
            mark = fingerprint(name, found.values, before.values())
            began = time.monotonic()
            result = json.loads(json.dumps(work(mark)))
            seconds = time.monotonic() - began
            sizes = {str(path.relative_to(self.folder)): path.stat().st_size for path in wanted}
            facts = {"seconds": round(seconds, 3), "files": sizes, "result": result}
            self._write(name, mark, found, before, facts)
            record = StageRecord(name, title, mark, seconds, result, False)
        self.records[name] = record
        return record

    def up_to_date(
        self, name: str, inputs: Mapping[str, Any] | Inputs, after: Iterable[str], files: Iterable[Path]
    ) -> bool:
        """Whether `stage` would find its result ready."""
        after = list(after)
        if any(other not in self.records for other in after):
            return False
        found = inputs if isinstance(inputs, Inputs) else Inputs(inputs)
        return self._read(name, "", found, self._before(after), list(files)) is not None

    def _before(self, after: Iterable[str]) -> dict[str, str]:
        return {other: self.records[other].fingerprint for other in after}

    def _write(self, name: str, mark: str, inputs: Inputs, before: Mapping[str, str], facts: Mapping[str, Any]) -> None:
        head = {"stage": name, "version": [LEDGER_VERSION, __version__], "fingerprint": mark}
        atomic_write_json(self._path(name), {**head, "inputs": _plain(inputs.values), "after": before, **facts})

    def _path(self, name: str) -> Path:
        return self.folder / "stages" / f"{name}.json"

    def _read(
        self, name: str, title: str, inputs: Inputs, before: Mapping[str, str], files: list[Path]
    ) -> StageRecord | None:
        try:
            value = json.loads(self._path(name).read_text(encoding="utf-8"))
            for path in files:
                if path.stat().st_size != value["files"][str(path.relative_to(self.folder))]:
                    return None
            mark = str(value["fingerprint"])
            record = StageRecord(name, title, mark, float(value["seconds"]), dict(value["result"]), True)
            if "inputs" not in value:
                if mark != fingerprint(
                    name, inputs.values if inputs.hashed is None else inputs.hashed, before.values()
                ):
                    return None
                # from now on it says what it came from; stages behind it know its fingerprint
                facts = {key: value[key] for key in ("seconds", "files", "result")}
                self._write(name, mark, inputs, before, facts)
                return record
            same = value["version"] == [LEDGER_VERSION, __version__] and value["after"] == before
            return record if same and _agree(_plain(inputs.values), value["inputs"], _plain(inputs.defaults)) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None  # missing, damaged or older: do it again
