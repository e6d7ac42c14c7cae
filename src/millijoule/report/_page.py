"""What both pages share: the template engine with its filters, and the parts in `page/`."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from millijoule.errors import ToolchainError

__all__ = ["environment", "missing_field", "page_part"]


def environment() -> Any:
    """The template engine. Raises ToolchainError when jinja2 is not installed."""
    try:
        import jinja2
    except ModuleNotFoundError as error:
        raise ToolchainError("jinja2", "it is not installed", "Run pip install 'millijoule[report]'") from error
    made = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    made.filters.update(
        kib=lambda size: "-" if size is None else f"{size / 1024:,.1f}",
        count=lambda value: f"{value:,}",
        fixed=lambda value, digits=2: f"{value:,.{digits}f}",
        signed=lambda value, digits=2: f"{value:+.{digits}f}",
        percent=lambda share, digits=0: f"{100 * share:.{digits}f} %",
        json=lambda value: json.dumps(value, indent=2, ensure_ascii=False),
    )
    return made


def missing_field() -> tuple[type[Exception], ...]:
    """What filling a template raises when the values lack a field. Call it where jinja2 is known to be there."""
    import jinja2

    return (KeyError, TypeError, IndexError, jinja2.UndefinedError)


def page_part(name: str) -> str:
    """A file of `page/` as text."""
    return (resources.files("millijoule.report") / "page" / name).read_text(encoding="utf-8")
