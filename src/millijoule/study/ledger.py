"""Which stages of a run are up to date: each stage's result is a file with a fingerprint of everything it came from.

A stage is skipped when its fingerprint (its name, its options, the fingerprints of the stages before it, the version of
the package) is the one in its file and the files it wrote are still there with the same size. Results are written whole
or not at all, so that a run can be stopped at any moment.
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

__all__ = ["Ledger", "StageRecord", "fingerprint"]

LEDGER_VERSION = 1
"""Changes whenever a stage gives another result for the same options."""


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
        inputs: Mapping[str, Any],
        work: Callable[[str], dict[str, Any]],
        *,
        after: Iterable[str] = (),
        files: Iterable[Path] = (),
    ) -> StageRecord:
        """The result of a stage, from its file when it is up to date, otherwise by doing the work.

        Args:
            name: an identifier, the name of the file.
            title: what the user reads.
            inputs: options that decide the result.
            work: makes the result; gets the fingerprint.
            after: names of the stages it builds on; they must be in this ledger.
            files: what the work writes, below the run folder.

        Raises:
            OutputError: the run folder cannot be written.
        """
        mark = fingerprint(name, inputs, (self.records[other].fingerprint for other in after))
        wanted = list(files)
        record = self._read(name, title, mark, wanted)
        if record is None:
            began = time.monotonic()
            result = json.loads(json.dumps(work(mark)))
            seconds = time.monotonic() - began
            sizes = {str(path.relative_to(self.folder)): path.stat().st_size for path in wanted}
            atomic_write_json(
                self._path(name),
                {"stage": name, "fingerprint": mark, "seconds": round(seconds, 3), "files": sizes, "result": result},
            )
            record = StageRecord(name, title, mark, seconds, result, False)
        self.records[name] = record
        return record

    def up_to_date(self, name: str, inputs: Mapping[str, Any], after: Iterable[str], files: Iterable[Path]) -> bool:
        """Whether `stage` would find its result ready."""
        if any(other not in self.records for other in after):
            return False
        mark = fingerprint(name, inputs, (self.records[other].fingerprint for other in after))
        return self._read(name, "", mark, list(files)) is not None

    def _path(self, name: str) -> Path:
        return self.folder / "stages" / f"{name}.json"

    def _read(self, name: str, title: str, mark: str, files: list[Path]) -> StageRecord | None:
        try:
            value = json.loads(self._path(name).read_text(encoding="utf-8"))
            if value["fingerprint"] != mark:
                return None
            for path in files:
                if path.stat().st_size != value["files"][str(path.relative_to(self.folder))]:
                    return None
            return StageRecord(name, title, mark, float(value["seconds"]), dict(value["result"]), True)
        except (OSError, ValueError, KeyError, TypeError):
            return None  # missing, damaged or older: do it again
