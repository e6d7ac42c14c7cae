"""Pieces of C text: the examples of their docstrings, and exact literals."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millijoule.compile import _text, plan
from millijoule.compile._text import FLOAT_MAX, array_values, comment, float_literal, note, string_literal


@pytest.mark.parametrize("module", [_text, plan])
def test_examples(module: object) -> None:
    result = doctest.testmod(module, extraglobs={"np": np})  # type: ignore[arg-type]
    assert result.attempted > 0 and result.failed == 0


@given(st.floats(width=32, allow_nan=False))
def test_float_literals_are_exact(value: float) -> None:
    text = float_literal(value)
    assert text.endswith("f") and ("." in text or "e" in text)
    assert np.float32(text[:-1]) == np.float32(min(max(value, -FLOAT_MAX), FLOAT_MAX))


@given(st.text())
def test_no_text_ends_a_comment_or_a_string(text: str) -> None:
    assert "*/" not in note(text) and "\n" not in note(text)
    assert comment(text).count("*/") == 1
    literal = string_literal(text)
    assert literal.isascii() and "\n" not in literal and "??" not in literal


@given(st.lists(st.integers(-128, 127), min_size=1, max_size=200))
def test_arrays_keep_their_values_and_the_line_width(values: list[int]) -> None:
    text = array_values(np.array(values, dtype=np.int8))
    assert [int(word) for word in text.replace(",", " ").split()] == values
    assert max(len(line) for line in text.splitlines()) <= 120
