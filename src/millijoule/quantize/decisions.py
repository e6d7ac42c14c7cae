"""What a quantiser decided, layer by layer, and why: kept with the model and printed on request."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from millijoule.graph import Graph

__all__ = ["Decision", "QuantizationReport", "Trial", "report_of"]

_MARK = "quantisation report: "


@dataclass(frozen=True)
class Decision:
    """One thing that was done to a layer, or refused.

    Attributes:
        layer: the name the user knows, "all" for the whole network.
        what: "observer", "range", "equalize", "bias", "adjust", "clip", "round", "tune" or "refine".
        why: one sentence.
        gain: dB less noise in the layer's own results (equalisation: expected, others: on the calibration pictures);
            None where nothing was measured.
        kept: False for what was tried and refused.
    """

    layer: str
    what: str
    why: str
    gain: float | None = None
    kept: bool = True


@dataclass(frozen=True)
class Trial:
    """One set of refinements and what it did to pictures that were held back.

    Attributes:
        refinements: their names, in the order of the conversion.
        sqnr: signal to noise of the logits against the float network's, dB; None when they are equal.
        changed: predictions that differ from the float network's.
        kept: whether the result uses it.
    """

    refinements: tuple[str, ...]
    sqnr: float | None
    changed: int
    kept: bool


@dataclass(frozen=True)
class QuantizationReport:
    """The decisions of one conversion.

    Attributes:
        settings: the options it ran with.
        refinements: those the result has, in order.
        decisions: per layer, in execution order.
        trials: what `refine="auto"` measured; empty otherwise.
        held_back: pictures the trials were measured on.
    """

    settings: dict[str, Any]
    refinements: tuple[str, ...]
    decisions: tuple[Decision, ...]
    trials: tuple[Trial, ...] = ()
    held_back: int = 0

    def to_json(self) -> dict[str, Any]:
        """The same as plain dictionaries, lists and numbers."""
        return asdict(self)

    def to_text(self) -> str:
        """A table for the terminal."""
        lines = [", ".join(f"{name}: {value}" for name, value in self.settings.items())]
        lines.append(f"refinements: {' + '.join(self.refinements) or 'none'}")
        for trial in self.trials:
            figure = "equal to float" if trial.sqnr is None else f"{trial.sqnr:.2f} dB"
            lines.append(
                f"  {'kept   ' if trial.kept else 'refused'} {' + '.join(trial.refinements) or 'none'}: {figure}, "
                f"{trial.changed} of {self.held_back} predictions changed (pictures held back)"
            )
        width = max([len(decision.layer) for decision in self.decisions] or [0])
        for decision in self.decisions:
            gain = "" if decision.gain is None else f"{decision.gain:+6.2f} dB"
            mark = "" if decision.kept else "refused: "
            lines.append(f"{decision.layer:<{width}}  {decision.what:<9} {gain:>9}  {mark}{decision.why}")
        return "\n".join(lines)

    def note(self) -> str:
        """One line of a graph's history that `report_of` reads back."""
        return _MARK + json.dumps(_rounded(self.to_json()), separators=(",", ":"))


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(part) for part in value]
    return value


def report_of(graph: Graph) -> QuantizationReport | None:
    """The report that a quantised graph carries in its history; None when it has none."""
    return next((_parse(note) for note in reversed(graph.history) if note.startswith(_MARK)), None)


def _parse(note: str) -> QuantizationReport:
    value = json.loads(note[len(_MARK) :])

    def trials(items: Iterable[dict[str, Any]]) -> tuple[Trial, ...]:
        return tuple(Trial(**{**item, "refinements": tuple(item["refinements"])}) for item in items)

    return QuantizationReport(
        settings=value["settings"],
        refinements=tuple(value["refinements"]),
        decisions=tuple(Decision(**item) for item in value["decisions"]),
        trials=trials(value["trials"]),
        held_back=int(value["held_back"]),
    )
