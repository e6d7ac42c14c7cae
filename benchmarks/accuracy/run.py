"""Other people's quantisers and ours on one float network and the same photographs.

    python benchmarks/accuracy/run.py --data ../shared/data [--limit 116] [ROW ...]
    python benchmarks/accuracy/run.py --data ../shared/data --training BASE torchao-qat
    python benchmarks/accuracy/run.py --data PREPARED --weights RUN/best.safetensors

Makes one virtual environment for each peer, exports the network, runs each row as a process of its own and computes
all figures itself. A row that is there for the same inputs, settings and scripts is not run again; one that failed is.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from environments import HERE, PeerError, clean_environment, environment_folder, environment_python
from figures import HEADER, Figures, figures
from inputs import Inputs, make_inputs
from rows import GROUPS, OURS, ROWS, Row

import millijoule
from millijoule.errors import MillijouleError
from millijoule.files import atomic_write_json, cache_folder

if TYPE_CHECKING:
    from training import Training  # imports torch, which most rows do without

TIME_LIMIT = 3 * 3600
"""Seconds after which a row is given up."""


TRAINED = "trained.npy"
"""Logits of a model as it was trained, which rows that train leave beside those of the converted one."""


def row_key(row: Row, inputs: Inputs, training: Training | None = None) -> str:
    """A digest of all that decides the row's logits."""
    digest = hashlib.sha256(json.dumps([inputs.digest, row.settings], sort_keys=True).encode())
    if row.trains and training is not None:
        digest.update(json.dumps([training.digest, training.rates, training.batch_size]).encode())
    if row.environment == OURS:
        package = Path(millijoule.__file__).parent
        scripts = [HERE / name for name in (row.script, "figures.py", "mixed.py")]
        for room in ("graph", "execute", "quantize"):
            scripts += sorted((package / room).rglob("*.py"))
    else:
        shared = ["worker.py"] + (["torch_network.py"] if row.environment == "torchao" else [])
        scripts = [HERE / name for name in (row.script, *shared, f"requirements_{row.environment}.txt")]
    for script in scripts:
        digest.update(script.read_bytes())
    return digest.hexdigest()


def stored_result(row: Row, inputs: Inputs, cache: Path, training: Training | None = None) -> dict[str, Any] | None:
    """What the worker said when the row was measured with the same inputs, settings and scripts."""
    folder = cache / "rows" / inputs.digest / row.name
    done, key = folder / "result.json", folder / "key.txt"
    if done.exists() and key.exists() and key.read_text() == row_key(row, inputs, training):
        return dict(json.loads(done.read_text()))
    return None


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keeps other processes of this benchmark away from a row, or waits for them, where the system has such locks."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        with suppress(ImportError):
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)  # gone when the file is closed, however this process ends
        yield


def measure(row: Row, inputs: Inputs, cache: Path, threads: int, training: Training | None = None) -> dict[str, Any]:
    """Runs a row unless its logits are there. Gives what the worker said, or {"error": why}."""
    with alone(cache / "rows" / inputs.digest / row.name):
        return stored_result(row, inputs, cache, training) or _measured(row, inputs, cache, threads, training)


def _measured(row: Row, inputs: Inputs, cache: Path, threads: int, training: Training | None) -> dict[str, Any]:
    folder = cache / "rows" / inputs.digest / row.name
    key, done = row_key(row, inputs, training), folder / "result.json"
    for old in (done, folder / TRAINED):
        old.unlink(missing_ok=True)
    if row.trains and training is None:
        return {"error": "it trains: name a prepared set with --training"}
    try:
        python = Path(sys.executable)
        if row.environment != OURS:
            with alone(cache / "environments" / row.environment):
                python = environment_python(row.environment, cache / "environments")
    except PeerError as error:
        return {"error": str(error)}
    rule = {"scale": inputs.scale, "offset": inputs.offset}
    job = {**inputs.paths(), **rule, "settings": row.settings, "threads": threads}
    if row.trains and training is not None:
        job["training"] = training.to_json()
    (folder / "job.json").write_text(json.dumps(job, indent=2))
    variables = clean_environment() | {"OMP_NUM_THREADS": str(threads)}
    if row.environment == OURS:
        variables["PYTHONPATH"] = str(Path(millijoule.__file__).parents[1])
    print(f"# runs {row.name}", flush=True)
    began = time.perf_counter()
    command = [str(python), str(HERE / row.script), str(folder)]
    with (folder / "log.txt").open("w") as log:
        try:
            status = subprocess.run(
                command, env=variables, stdout=log, stderr=subprocess.STDOUT, check=False, timeout=TIME_LIMIT
            ).returncode
        except subprocess.TimeoutExpired:
            return {"error": f"not finished after {TIME_LIMIT} s"}
    if status != 0 or not done.exists():
        lines = (folder / "log.txt").read_text(errors="replace").strip().splitlines()
        return {"error": f"ended with status {status}: {lines[-1][:200] if lines else 'no output'}"}
    (folder / "key.txt").write_text(key)
    print(f"# {row.name}: {time.perf_counter() - began:.0f} s", flush=True)
    return dict(json.loads(done.read_text()))


def row_figures(row: Row, inputs: Inputs, cache: Path, said: dict[str, Any]) -> Figures | dict[str, str]:
    """The figures of a row that was measured, or its error."""
    if "error" in said:
        return {"error": said["error"]}
    logits = np.load(cache / "rows" / inputs.digest / row.name / "logits.npy")
    if logits.shape != inputs.reference.shape:
        return {"error": f"gave logits {logits.shape}, not {inputs.reference.shape}"}
    return figures(inputs.reference, logits, inputs.labels)


def trained_result(
    row: Row, inputs: Inputs, cache: Path, said: dict[str, Any]
) -> tuple[Row, dict[str, Any], Figures] | None:
    """The model of a row as it was trained, before its conversion, as a row of its own; None where there is none."""
    folder = cache / "rows" / inputs.digest / row.name
    if "error" in said or not (folder / TRAINED).exists():
        return None
    trained, converted = np.load(folder / TRAINED), np.load(folder / "logits.npy")
    differing = int((trained.argmax(axis=1) != converted.argmax(axis=1)).sum())
    before = replace(row, name=f"{row.name}-trained", what=f"{row.what}, before conversion")
    return before, {**said, "differing_after_conversion": differing}, figures(inputs.reference, trained, inputs.labels)


def table(results: Sequence[tuple[Row, dict[str, Any], Figures | dict[str, str]]]) -> str:
    """Markdown, one part for each group."""
    lines = []
    for group, title in GROUPS.items():
        members = [result for result in results if result[0].group == group]
        if not members:
            continue
        lines += [f"\n### {title[0].upper()}{title[1:]}\n", HEADER.format(sizes="file bytes")]
        for row, said, found in members:
            if isinstance(found, Figures):
                size = said["file_bytes"]
                lines.append(found.line(row.what, "-" if size is None else f"{size:,}"))
            else:
                lines.append(f"| {row.what} | {found['error'].replace('|', '/')} | | | | | |")
    return "\n".join(lines)


def chosen_rows(names: Sequence[str]) -> list[Row]:
    """Rows by name, or by what their names start with where no row has that name; all without names."""
    known = {row.name for row in ROWS}
    wanted: set[str] = set()
    for name in names:
        found = {name} if name in known else {row for row in known if row.startswith(name)}
        if not found:
            raise SystemExit(f"unknown row {name!r}; there are: {', '.join(row.name for row in ROWS)}")
        wanted |= found
    return [row for row in ROWS if not names or row.name in wanted]


def main() -> None:
    """Measures the rows that are asked for, prints the table, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a prepared set, or the folder of cars_body10.parquet")
    parser.add_argument("--weights", type=Path, help="best.safetensors or .mj; the reference network when not given")
    parser.add_argument("--training", type=Path, help="a prepared set to train on; of the network's own split [--data]")
    parser.add_argument("--cache", type=Path, help="environments, inputs and rows are kept there [cache folder]")
    parser.add_argument("--limit", type=int, help="only so many photographs, evenly chosen")
    parser.add_argument("--calibration", type=int, default=200, help="training photographs for calibration [200]")
    parser.add_argument("--threads", type=int, default=1, help="for each row [1]")
    parser.add_argument("--out", type=Path, help="the JSON file [in the cache, beside the rows]")
    parser.add_argument("--stored", action="store_true", help="run nothing: only rows that are there")
    parser.add_argument("--list", action="store_true", help="print the rows and stop")
    parser.add_argument("rows", nargs="*", help="row names or what they start with; all when none is given")
    options = parser.parse_args()
    rows = chosen_rows(options.rows)
    if options.list:
        for row in rows:
            print(f"{row.name:36} {row.what}")
        return
    cache = (options.cache or cache_folder("accuracy")).resolve()
    prepared = (options.data / "manifest.json").exists()
    source, training = options.training or (options.data if prepared else None), None
    try:
        inputs = make_inputs(options.data, options.weights, cache, options.limit, options.calibration)
        if source is not None and any(row.trains for row in rows):
            from training import make_training

            training = make_training(source, cache, reference=not prepared)
    except MillijouleError as error:
        raise SystemExit(str(error)) from error
    count, right = len(inputs.labels), int((inputs.reference.argmax(axis=1) == inputs.labels).sum())
    results = []
    for row in rows:
        said = stored_result(row, inputs, cache, training)
        if said is None and options.stored:
            continue
        said = said or measure(row, inputs, cache, options.threads, training)
        found = row_figures(row, inputs, cache, said)
        trained = trained_result(row, inputs, cache, said)
        if trained is not None:
            results.append(trained)
            print(f"# {row.name}: its conversion changes {trained[1]['differing_after_conversion']} predictions")
        results.append((row, said, found))
        if not isinstance(found, Figures):
            print(f"# {row.name} failed: {found['error']}", flush=True)
    print(f"\n{count} photographs; float: {right} right, {100 * right / count:.2f} %")
    print(table(results))
    path = options.out or cache / "rows" / inputs.digest / "results.json"
    stored = {
        "inputs": inputs.digest,
        "photographs": count,
        "float_right": right,
        "weights": str(options.weights or "reference network"),
        "rows": {
            row.name: {"what": row.what, "group": row.group, "settings": row.settings, **said}
            | (found.to_json() if isinstance(found, Figures) else found)
            for row, said, found in results
        },
    }
    atomic_write_json(path, stored)
    print(f"\n# {path}")
    used = sorted({row.environment for row in rows} - {OURS})
    print(f"# environments: {', '.join(environment_folder(name, cache / 'peers').name for name in used) or 'none'}")


if __name__ == "__main__":
    main()
