"""Small pieces of C text, each a pure function."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "C_TYPES",
    "FLOAT_MAX",
    "array_values",
    "comment",
    "float_literal",
    "note",
    "string_literal",
    "with_assembly",
]

C_TYPES = {
    "int8": "int8_t", "uint8": "uint8_t", "int16": "int16_t", "uint16": "uint16_t", "int32": "int32_t",
    "uint32": "uint32_t", "float32": "float",
}  # fmt: skip
"""The C type of each stored number type."""
WIDTH = 120
FLOAT_MAX = float(np.finfo(np.float32).max)


def float_literal(value: float) -> str:
    """The shortest C literal that is exactly this float32; infinities become the largest finite value.

    Example:
        >>> float_literal(0.1)
        '0.1f'
    """
    return f"{np.float32(min(max(value, -FLOAT_MAX), FLOAT_MAX))!s}f"


def string_literal(text: str) -> str:
    r"""A C string literal of the UTF-8 bytes of `text`, safe against quotes, trigraphs and control characters.

    Example:
        >>> string_literal('caf\u00e9 "1"')
        '"caf\\303\\251 \\"1\\""'
    """
    parts = []
    for byte in text.encode("utf-8"):
        character = chr(byte)
        if character in '"\\?':
            parts.append("\\" + character)
        elif 32 <= byte < 127:
            parts.append(character)
        else:
            parts.append(f"\\{byte:03o}")
    return '"' + "".join(parts) + '"'


def note(text: str) -> str:
    """`text` as it may stand inside a C comment: printable ASCII without comment marks.

    Example:
        >>> note("a */ b")
        'a * / b'
    """
    plain = text.encode("ascii", "replace").decode("ascii").replace("*/", "* /").replace("/*", "/ *").replace("??", "?")
    return "".join(character if character.isprintable() else " " for character in plain)


def comment(text: str) -> str:
    """A C block comment wrapped at the line width.

    Example:
        >>> comment("one line")
        '/* one line */'
    """
    lines = textwrap.wrap(note(text), WIDTH - 6, break_on_hyphens=False)
    return "/* " + "\n * ".join(lines) + " */"


def array_values(values: npt.NDArray[Any]) -> str:
    """The initialisers of an array, indented, as many on a line as fit.

    Example:
        >>> array_values(np.array([1, -2], dtype=np.int8))
        '        1, -2,'
    """
    flat = values.ravel()
    if flat.dtype == np.float32:
        words: Sequence[str] = [float_literal(value) for value in flat.tolist()]
    elif flat.dtype == np.uint32:
        words = [f"{value}u" for value in flat.tolist()]
    else:
        words = [str(value) for value in flat.tolist()]
    return "\n".join(_lines(words, 8))


def _lines(words: Iterable[str], indent: int) -> Iterable[str]:
    """Words with a comma behind each, filled into lines no wider than the line width."""
    line: list[str] = []
    used = indent
    for word in words:
        if line and used + len(word) + 2 > WIDTH:
            yield " " * indent + " ".join(line)
            line, used = [], indent
        line.append(word + ",")
        used += len(word) + 2
    if line:
        yield " " * indent + " ".join(line)


def with_assembly(plain: str, assembly: str) -> str:
    """A C file that is `assembly` on Armv7E-M and the plain C everywhere else: every build system takes it as it is."""
    lines = [line.rstrip().replace("\\", "\\\\").replace('"', '\\"') for line in assembly.splitlines()]
    block = "\n".join(f'    "{line}\\n"' for line in lines)
    return (
        "#if defined(__ARM_ARCH_7EM__)\n"
        "/* Generated; the plain C below says what it computes. */\n"
        f'__asm__(\n{block}\n    ".text\\n");\n'
        f"struct mj_assembly; /* a C file has to declare something */\n#else\n{plain}#endif\n"
    )
