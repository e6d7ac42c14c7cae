"""The public surface: `__all__` is true, every name can be had, and importing the package costs nothing."""

from __future__ import annotations

import subprocess
import sys

import millijoule


def test_every_public_name_exists() -> None:
    assert sorted(millijoule.__all__) == sorted({*millijoule._PLACES, "__version__"})
    for name in millijoule.__all__:
        assert getattr(millijoule, name) is not None


def test_dir_is_the_public_surface() -> None:
    assert dir(millijoule) == sorted(millijoule.__all__)


def test_import_is_cheap() -> None:
    code = "import sys, millijoule; print(sorted({'numpy', 'torch', 'cv2', 'rich', 'typer'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
