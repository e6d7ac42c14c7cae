"""The public names of the room."""

from __future__ import annotations

import millijoule.data as room


def test_all_names_exist_and_are_sorted_the_way_ruff_sorts() -> None:
    assert len(set(room.__all__)) == len(room.__all__)
    assert all(hasattr(room, name) for name in room.__all__)
    public = {name for name in vars(room) if not name.startswith("_") and name[0].isupper()}
    assert public - {"TYPE_CHECKING"} == {name for name in room.__all__ if name[0].isupper()}
