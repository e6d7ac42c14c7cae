"""What the README says works: its commands and its ten lines, on a small folder of pictures."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import millijoule

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _block(language: str, word: str) -> str:
    blocks: list[str] = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return next(block for block in blocks if word in block)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three classes of fourteen pictures each."""
    cv2 = pytest.importorskip("cv2")
    random = np.random.default_rng(0)
    for number, name in enumerate(("sedan", "van", "suv")):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for index in range(14):
            picture = random.integers(0, 120, (90, 120, 3), np.uint8)
            picture[..., number] += 120
            assert cv2.imwrite(str(folder / f"{index}.png"), picture)
    return tmp_path


def test_the_two_commands_stand_at_the_top() -> None:
    commands = re.findall(r"```sh\n(pip install .*?)\n```", README)
    assert commands[:2] == [
        "pip install -c constraints.txt '.[all]' && millijoule demo",
        "pip install -c constraints.txt '.[all,test]' && pytest",
    ]


def test_the_python_example_uses_public_names_only() -> None:
    tree = ast.parse(_block("python", "import millijoule"))
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "mj"
    }
    assert used and used <= set(millijoule.__all__)
    assert len([line for line in _block("python", "import millijoule").splitlines() if line.strip()]) <= 10


def test_links_and_the_picture_exist() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


@pytest.mark.slow
def test_the_python_example_runs(photos: Path) -> None:
    code = _block("python", "import millijoule").replace("epochs=40", "epochs=1, batch_size=8")
    done = subprocess.run([sys.executable, "-c", code], cwd=photos, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"\[[0-2]( [0-2])*\] [\d.]+ [\d.]+", done.stdout)


@pytest.mark.slow
def test_the_shell_example_runs(photos: Path) -> None:
    lines = _block("sh", "data prepare folder").splitlines()
    assert len(lines) == 5
    script = "\n".join(lines[:4]).replace("--epochs 40 --qat-epochs 5", "--epochs 1 --qat-epochs 1 --batch-size 8")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    done = subprocess.run(
        ["sh", "-ec", script], cwd=photos, capture_output=True, text=True, env={**os.environ, "PATH": path}, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert (photos / "runs" / "study" / "report.html").is_file()
