"""Memory kept between steps."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

pytest.importorskip("torch")

SCRIPT = r"""
import re
from pathlib import Path

import torch

from millijoule.train._memory import kept_memory

SIZE = 48 << 20


def resident():
    text = Path("/proc/self/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", text)[1]) * 1024


with kept_memory() as changed:
    assert changed
    block = torch.zeros(SIZE, dtype=torch.uint8)
    used = resident()
    del block
    assert resident() > used - SIZE // 4
assert resident() < used - SIZE // 2
block = torch.zeros(SIZE, dtype=torch.uint8)
used = resident()
del block
assert resident() < used - SIZE // 2
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc" or os.environ.get("LD_PRELOAD"), reason="another allocator")
def test_freed_blocks_stay_inside_and_go_back_at_the_end() -> None:
    """In a process of its own: holes that other tests leave in the heap would take the blocks."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
