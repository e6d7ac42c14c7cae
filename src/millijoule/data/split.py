"""Which picture belongs to train, validation and test: stratified, and decided by content alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from millijoule.errors import DataError, OptionError

__all__ = ["SPLITS", "check_fractions", "split_pictures"]

SPLITS = ("train", "validation", "test")


def check_fractions(fractions: Sequence[float]) -> tuple[float, float, float]:
    """Three fractions that are at least 0 and sum to 1, the first above 0.

    Raises:
        OptionError: they are not.
    """
    values = tuple(float(value) for value in fractions)
    if len(values) != 3 or min(values) < 0 or values[0] <= 0 or abs(sum(values) - 1) > 1e-6:
        raise OptionError(
            f"split {'/'.join(f'{value:g}' for value in values)}",
            "train, validation and test need three fractions that sum to 1",
            "Use for example 0.7/0.2/0.1",
        )
    return values


def _shares(count: int, fractions: tuple[float, float, float], name: str) -> list[int]:
    """Whole numbers in the proportion of the fractions (largest remainder), none of the wanted ones zero."""
    wanted = [index for index, fraction in enumerate(fractions) if fraction > 0]
    if count < len(wanted):
        raise DataError(
            f"class {name}",
            f"it has {count} different picture{'s' if count != 1 else ''}, fewer than the {len(wanted)} splits need",
            "Add pictures, leave the class out, or use fewer splits",
        )
    exact = [count * fraction for fraction in fractions]
    shares = [int(value + 1e-9) for value in exact]
    order = sorted(range(3), key=lambda index: (shares[index] - exact[index], index))
    for index in order[: count - sum(shares)]:
        shares[index] += 1
    for index in wanted:
        if shares[index] == 0:
            shares[shares.index(max(shares))] -= 1
            shares[index] = 1
    return shares


def split_pictures(
    labels: Sequence[int],
    keys: Sequence[str],
    contents: Sequence[str],
    classes: Sequence[str],
    fractions: tuple[float, float, float] = (0.7, 0.2, 0.1),
) -> list[str]:
    """Assigns every picture to a split.

    Pictures with equal content form one group, wherever they lie and whatever their labels say, and a group is never
    divided. Within a class the groups are put in the order of their hash, and the order is cut at the fractions: the
    result depends on the pictures only, not on their names, order or the machine.

    Args:
        labels: one class index per picture.
        keys: SHA-256 of each picture file.
        contents: SHA-256 of each decoded picture.
        classes: class names, for the error.
        fractions: of train, validation and test.

    Returns:
        One of "train", "validation", "test" per picture.

    Raises:
        DataError: a class has fewer different pictures than there are splits.
    """
    members: dict[str, list[int]] = {}
    for index, content in enumerate(contents):
        members.setdefault(content, []).append(index)
    by_class: dict[int, list[tuple[str, list[int]]]] = {label: [] for label in range(len(classes))}
    for group in members.values():
        label = min(Counter(labels[index] for index in group).items(), key=lambda item: (-item[1], item[0]))[0]
        by_class[label].append((min(keys[index] for index in group), group))
    result = [""] * len(labels)
    for label, groups in by_class.items():
        groups.sort()
        shares = _shares(sum(len(group) for _, group in groups), fractions, classes[label]) if groups else [0, 0, 0]
        _shares(len(groups), fractions, classes[label])  # refuses a class whose pictures are copies of one another
        _deal(groups, shares, result)
    return result


def _deal(groups: list[tuple[str, list[int]]], shares: list[int], result: list[str]) -> None:
    """Fills the splits in order of hash; groups left over by the size of others still reach every wanted split."""
    wanted = [index for index in range(3) if shares[index] > 0]
    room = list(shares)
    for position, (_, group) in enumerate(groups):
        left = len(groups) - position
        empty = [index for index in wanted if room[index] == shares[index]]
        open_splits = empty if left <= len(empty) else [index for index in wanted if room[index] > 0] or wanted
        chosen = open_splits[0]
        room[chosen] -= len(group)
        for index in group:
            result[index] = SPLITS[chosen]
