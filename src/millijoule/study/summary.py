"""The end of a study on the terminal: what was assumed, memory, work, time; then where the report is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from millijoule.report import cycles_statement
from millijoule.study.results import Study

__all__ = ["summary"]


def _aligned(rows: Sequence[Sequence[str]], left: int = 2) -> list[str]:
    """Rows as lines, the first `left` columns flush left, the others flush right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  " + "  ".join(cells).rstrip())
    return lines


def summary(study: Study, report: Path) -> str:
    """The summary as plain text, at most about 100 columns wide.

    Args:
        study: the result.
        report: the page to name in the last line.
    """
    titles = {board.name: board.title for board in study.boards}
    names = {method.name: method.title for method in study.methods}
    counts = study.data.counts
    lines = [study.title, "", "assumed"]
    toy = " (a toy, rendered)" if study.data.toy else ""
    lines += _aligned(
        [
            (
                "data",
                f"{study.data.source}{toy}, {len(study.data.classes)} classes, {counts['train']:,} train / "
                f"{counts['validation']:,} validation / {counts['test']:,} test",
            ),
            ("network", f"{study.network.parameters:,} parameters, {study.network.macs / 1e6:.1f} million MACs"),
            ("cycles", f"of executed instructions; they {cycles_statement(study.to_json()['deployments'])}"),
            ("energy", "power x time, fitted to published measurements of the same silicon family"),
        ]
    )
    lines += ["", "accuracy and memory (KiB = 1,024 bytes)"]
    rows = [("method", "", "accuracy", "95 % interval", "changed", "model KiB", "activations KiB")]
    for method in study.methods:
        arena = method.activation_bytes
        rows.append(
            (
                method.title,
                "",
                f"{method.accuracy:.2f} %",
                f"{method.interval[0]:.1f} to {method.interval[1]:.1f}",
                "-" if method.changed is None else f"{method.changed}/{method.pictures}",
                f"{method.flash_bytes / 1024:,.1f}",
                "-" if arena is None else f"{arena / 1024:,.1f}",
            )
        )
    lines += _aligned(rows)
    lines += ["", "work and time on the boards (emulated)"]
    head = ("board", "method", "arena KiB", "instructions", "cycles", "ms", "mJ", "verified")
    board_rows, refusals = [head], []
    for item in study.deployments:
        if item.status != "ran":
            refusals.append(f"  {titles[item.board]}, {names[item.method]}: refused. {item.reason}")
            continue
        energy = item.energy[0]
        verified = "-"
        if item.verify is not None:
            good = "bit-exact" if item.verify.tolerance == 0 else f"within {item.verify.tolerance:g}"
            verified = good if item.verify.equal else "DIFFERS"
        board_rows.append(
            (
                titles[item.board],
                names[item.method],
                f"{item.arena_bytes / 1024:,.1f}",
                f"{item.instructions / 1e6:,.2f} M",
                f"{item.cycles / 1e6:,.2f} M",
                f"{item.milliseconds:,.1f}",
                f"{energy.millijoules:.3g} +-{energy.uncertainty:.0%}",
                verified,
            )
        )
    lines += _aligned(board_rows) if len(board_rows) > 1 else ["  no model ran on a board"]
    lines += refusals
    lines += ["", f"report: {report}"]
    return "\n".join(lines)
