"""The teacher that --teacher and --teacher-data name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from millijoule.errors import OptionError

if TYPE_CHECKING:
    from torch import nn

    from millijoule.data import PreparedSet
    from millijoule.nets import Normalization

__all__ = ["named_teacher"]


def named_teacher(
    paths: Sequence[Path],
    finer: Path | None,
    prepared: PreparedSet,
    normalization: Normalization,
    distillation: float,
) -> nn.Module | None:
    """The teacher, None where no file is given.

    Raises:
        OptionError: there is nothing that the teacher could teach (`distillation` is 0), its data without a teacher, or
            as `train.committee`.
    """
    from millijoule.data import open_prepared
    from millijoule.train import coarse_classes, committee

    if not paths:
        if finer is not None:
            raise OptionError("--teacher-data", "there is no teacher whose data it is", "Add --teacher")
        return None
    if not distillation:
        raise OptionError("--teacher", "distillation is 0, nothing would be learned from it", "Add --distillation 0.5")
    groups = None
    if finer is not None:
        groups, others = coarse_classes(open_prepared(finer), prepared)
        typer.echo(
            f"{len(groups)} finer classes; {others} pictures belong to another class than most of theirs", err=True
        )
    return committee(paths, normalization, prepared.classes, groups)
