"""Teachers for distillation: several networks as one, and networks that tell finer classes apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from millijoule.data import PreparedSet
from millijoule.errors import DataError, OptionError
from millijoule.nets import Normalization, load_network

__all__ = ["Committee", "coarse_classes", "committee"]

SMALLEST = 1e-6
"""Added to probabilities before their logarithm, so that no class is impossible."""


class Committee(nn.Module):
    """The logarithm of the mean of its members' class probabilities, each summed over finer classes.

    A network that was taught finer classes (makes and models instead of body types, say) knows more about the coarse
    ones than one that was taught these alone, when pictures are few; and the mean of several networks is better than
    each (Hinton, Vinyals, Dean: Distilling the knowledge in a neural network, 2015, sections 3 and 5).

    Args:
        members: normalised float (N, C, H, W) -> logits (N, classes of the member).
        groups: for each member the class of each of its classes, or None where they are the same.
        classes: how many there are.
    """

    def __init__(self, members: Sequence[nn.Module], groups: Sequence[Sequence[int] | None], classes: int) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.finer = [group is not None for group in groups]
        for index, group in enumerate(groups):
            rows = torch.arange(classes) if group is None else torch.tensor(group)
            self.register_buffer(f"sums{index}", nn.functional.one_hot(rows, classes).float())

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) whose softmax is the committee's opinion."""
        total = torch.zeros(())
        for index, member in enumerate(self.members):
            found = torch.softmax(member(x).float(), 1)
            total = total.to(found.device) + (found @ self.get_buffer(f"sums{index}") if self.finer[index] else found)
        return torch.log(total / len(self.members) + SMALLEST)


def coarse_classes(finer: PreparedSet, prepared: PreparedSet) -> tuple[dict[str, str], int]:
    """To which class each finer class belongs, from pictures that are in both sets.

    Args:
        finer: the same training pictures, prepared with finer labels.
        prepared: those to train with.

    Returns:
        Finer class -> the class of most of its pictures; and how many pictures are of another one.

    Raises:
        DataError: a finer class has no picture in the other set, or training pictures of one set validate or test the
            other: then a teacher has seen what its pupil is judged by.
    """
    first, second = finer.split("train"), prepared.split("train")
    known = dict(zip(second.hashes, second.labels, strict=True))
    judged = {name for split in ("validation", "test") for name in prepared.split(split).hashes} - known.keys()
    seen = sum(name in judged for name in first.hashes)
    if seen:
        raise DataError(
            str(finer.folder),
            f"{seen} of its training pictures validate or test in {prepared.folder}",
            "Prepare both sets with the same split (--split-file)",
        )
    pairs = Counter(
        (finer.classes[int(label)], prepared.classes[int(known[name])])
        for name, label in zip(first.hashes, first.labels, strict=True)
        if name in known
    )
    found: dict[str, str] = {}
    for (fine, coarse), _ in pairs.most_common():
        found.setdefault(fine, coarse)
    missing = [name for name in finer.classes if name not in found]
    if missing:
        raise DataError(
            str(finer.folder),
            f"no training picture of {missing[0]!r} is among those of {prepared.folder}",
            "Prepare both sets from the same pictures and with the same split",
        )
    return found, sum(count for (fine, coarse), count in pairs.items() if found[fine] != coarse)


def committee(
    paths: Sequence[Path],
    normalization: Normalization,
    classes: Sequence[str],
    groups: Mapping[str, str] | None = None,
) -> nn.Module:
    """The teacher that these files make.

    Args:
        paths: weights with their networks (`best.safetensors` of training runs), at least one.
        normalization: of the network to be taught.
        classes: its classes in order.
        groups: for networks with other classes: to which class each of theirs belongs.

    Raises:
        OptionError: a network with another normalisation, or with classes that belong nowhere.
        WeightsError: a file that cannot be read.
    """
    groups = groups or {}
    members: list[nn.Module] = []
    sums: list[list[int] | None] = []
    for path in paths:
        network, names = load_network(path)
        if network.spec.normalization != normalization:
            raise OptionError(f"teacher {path}", "it has another normalisation", "Train it like this network")
        same = network.spec.classes == len(classes) if names is None else tuple(names) == tuple(classes)
        if not same:
            unknown = [name for name in names or ("(unnamed)",) if groups.get(name) not in classes]
            if unknown:
                raise OptionError(
                    f"teacher {path}",
                    f"its class {unknown[0]!r} is none of this data, nor known to be part of one",
                    "Train it on this data, or give the data that it was trained on (--teacher-data)",
                )
        place = {name: index for index, name in enumerate(classes)}
        sums.append(None if same else [place[groups[name]] for name in names or ()])
        members.append(network)
    if len(members) == 1 and sums[0] is None:
        return members[0]
    return Committee(members, sums, len(classes))
