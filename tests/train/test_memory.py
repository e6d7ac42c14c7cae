"""Memory kept between steps."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
from millijoule.train._memory import kept_memory  # noqa: E402 - after torch is known to be there

SIZE = 48 << 20


def resident() -> int:
    """Bytes of this process in memory."""
    text = Path("/proc/self/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", text)[1]) * 1024


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc" or os.environ.get("LD_PRELOAD"), reason="another allocator")
def test_freed_blocks_stay_inside_and_go_back_at_the_end() -> None:
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
