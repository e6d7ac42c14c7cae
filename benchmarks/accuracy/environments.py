"""One virtual environment for each peer, made from `requirements_<name>.txt` in this folder and kept in a cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
GPU_PACKAGES = ("nvidia-", "cuda-", "triton-", "pytorch-triton-", "onnxruntime-gpu-")
READY = "installed.txt"


class PeerError(Exception):
    """An environment could not be made; the text says why."""


def clean_environment() -> dict[str, str]:
    """The variables of a worker: nothing that would let it import this project or another environment."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if name not in hidden}


def environment_folder(name: str, root: Path) -> Path:
    """Where the environment `name` is kept: another requirements file or Python is another folder."""
    text = (HERE / f"requirements_{name}.txt").read_bytes() + sys.version.encode()
    return root / f"{name}-{hashlib.sha256(text).hexdigest()[:12]}"


def environment_python(name: str, root: Path) -> Path:
    """The interpreter of environment `name`; makes the environment under `root` where it is not there yet.

    Raises:
        PeerError: pip cannot install it, or it would need GPU packages.
    """
    folder = environment_folder(name, root)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if (folder / READY).exists():
        return python
    if folder.exists():  # a build that was interrupted
        shutil.rmtree(folder)
    print(f"# makes {folder}", flush=True)
    _run([sys.executable, "-m", "venv", str(folder)], folder)
    pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    wheels = folder / "wheels"
    requirements = ["-r", str(HERE / f"requirements_{name}.txt")]
    _run([*pip, "wheel", "--prefer-binary", "--wheel-dir", str(wheels), *requirements], folder)
    packages = [wheel.name.split("-")[0].replace("_", "-").lower() + "-" for wheel in wheels.glob("*.whl")]
    refused = sorted(package[:-1] for package in packages if package.startswith(GPU_PACKAGES))
    if refused:
        shutil.rmtree(folder)
        raise PeerError(
            f"{name} would install GPU packages ({', '.join(refused)}); name an index with CPU builds, see README.md"
        )
    _run([*pip, "install", "--no-index", "--find-links", str(wheels), *requirements], folder)
    shutil.rmtree(wheels)
    (folder / READY).write_text(_run([*pip, "freeze"], folder))
    return python


def _run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        shutil.rmtree(folder, ignore_errors=True)
        raise PeerError(f"{' '.join(command[1:5])}: {' / '.join(lines[-3:])}")
    return done.stdout
