"""What tests of commands share: a small model on disk, the extra they need, and a call that must end as expected."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
from typer.testing import CliRunner

__all__ = ["call_app", "needs_boards"]

needs_boards = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("ziglang", "unicorn", "capstone", "elftools")),
    reason="the extra 'deploy' is not installed",
)


def call_app(app: Any, *arguments: str, code: int = 0) -> str:
    """Standard output of a command that must end with `code`; refusals come through as exceptions."""
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.stdout
