"""One inference over time as SVG: layers, blocks of the network, cycles lost by cause, memory in use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from millijoule.report._svg import Scale, attribute, compact, text, text_width, ticks
from millijoule.report.charts import group_of

__all__ = ["CAUSES", "causes_of", "timeline_chart"]

Row = Mapping[str, Any]

CAUSES = {
    "load-use": ("load_use",),
    "operand": ("dependency",),
    "branch": ("branch",),
    "flash": ("flash_fetch", "flash_data"),
    "cache": ("instruction_cache", "data_cache"),
    "other": ("bank", "unaligned"),
}
"""What the chart and the tables call a cause of lost cycles, and the names of it in a profile."""

WIDTH, LEFT, RIGHT = 1080.0, 76.0, 14.0


def causes_of(stalls: Mapping[str, int]) -> dict[str, int]:
    """Cycles lost by cause, in the words of `CAUSES`; causes that the model does not know are left out."""
    found = {name: [stalls[key] for key in keys if key in stalls] for name, keys in CAUSES.items()}
    return {name: sum(values) for name, values in found.items() if values}


def timeline_chart(layers: Sequence[Row], blocks: Sequence[Row], clock_hz: int, arena_bytes: int, title: str) -> str:
    """Layers in the order of execution, as wide as they take time; below them blocks, losses and memory in use.

    Args:
        layers: name, operator, cycles, macs, live_bytes, stalls (or None) of every layer, in the order of execution.
        blocks: name, cycles and members (names of layers; none for a single layer) of every block, in the same order.
        clock_hz: for the axis in milliseconds.
        arena_bytes: the line above the memory in use.
        title: for screen readers.
    """
    total = sum(layer["cycles"] for layer in layers) or 1
    parts: list[str] = []
    lost = any(layer.get("stalls") for layer in layers)
    memory_top = 196.0 if lost else 108.0
    base = memory_top + 92.0
    axis = ticks(0.0, total / clock_hz * 1e3, 8)
    x = Scale(0.0, float(total), LEFT, WIDTH - RIGHT)
    _axis(parts, x, axis, clock_hz, base, total)
    _layer_row(parts, layers, x, total, clock_hz)
    _block_row(parts, blocks, x, total, clock_hz)
    if lost:
        _loss_row(parts, layers, x, 100.0, 60.0)
    _memory_row(parts, layers, x, arena_bytes, memory_top, base)
    return (
        f'<svg class="wide" viewBox="0 0 {WIDTH:g} {base + 44:g}" role="img" aria-label="{attribute(title)}">'
        + "".join(parts)
        + "</svg>"
    )


def _axis(parts: list[str], x: Scale, axis: Sequence[float], clock_hz: int, base: float, total: int) -> None:
    for value in axis:
        cycles = value * clock_hz / 1e3
        if cycles <= total * 1.0001:
            at = x(cycles)
            parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="4" y2="{base:.1f}"/>')
            parts.append(text(at, base + 18, compact(value), "middle"))
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{x.end}" y1="{base:.1f}" y2="{base:.1f}"/>')
    parts.append(text((LEFT + x.end) / 2, base + 37, "time, ms", "middle", ' class="name"'))


def _box(x: float, y: float, width: float, height: float, kind: str, tip: str, focus: bool = False) -> str:
    index = ' tabindex="0"' if focus else ""
    return (
        f'<rect class="{kind}" x="{x:.2f}" y="{y:.1f}" width="{max(width, 0.3):.2f}" height="{height:.1f}"{index} '
        f'data-tip="{attribute(tip)}"/>'
    )


def _label(x: float, width: float, y: float, names: Sequence[str], kind: str) -> str:
    """The first of `names` that fits into the box, or nothing."""
    for name in names:
        if text_width(name) + 6 <= width:
            return text(x + width / 2, y, name, "middle", f' class="{kind}"')
    return ""


def _spans(rows: Sequence[Row], x: Scale) -> list[tuple[Row, float, float]]:
    """Every row with its left edge and width, without a sum of rounding errors."""
    spans, done = [], 0
    for row in rows:
        start = x(done)
        done += row["cycles"]
        spans.append((row, start, x(done) - start))
    return spans


def _time(cycles: int, total: int, clock_hz: int) -> str:
    return f"{cycles:,} cycles, {cycles / clock_hz * 1e3:,.3f} ms, {100 * cycles / total:.1f} %"


def _layer_row(parts: list[str], layers: Sequence[Row], x: Scale, total: int, clock_hz: int) -> None:
    top, height = 8.0, 40.0
    parts.append(text(LEFT - 8, top + height / 2 + 4, "layers", "end", ' class="name"'))
    for index, (layer, start, width) in enumerate(_spans(layers, x)):
        tip = f"{index} {layer['name']} ({layer['operator']}): {_time(layer['cycles'], total, clock_hz)}"
        if layer["macs"]:
            tip += f", {layer['cycles'] / layer['macs']:.2f} cycles per MAC"
        gap = 0.5 if width > 2 else 0.0
        parts.append(_box(start, top, width - gap, height, f"bar g-{group_of(layer)}", tip, focus=True))
        name = str(layer["name"])
        short = (
            name.rsplit("_", 1)[-1]
            if " + " not in name
            else " + ".join(n.rsplit("_", 1)[-1] for n in name.split(" + "))
        )
        parts.append(_label(start, width, top + height / 2 + 4, (name, short), "inside"))


def _block_row(parts: list[str], blocks: Sequence[Row], x: Scale, total: int, clock_hz: int) -> None:
    top, height = 51.0, 26.0
    parts.append(text(LEFT - 8, top + height / 2 + 4, "blocks", "end", ' class="name"'))
    for block, start, width in _spans(blocks, x):
        members = f"; {len(block['members'])} layers" if len(block["members"]) > 1 else ""
        tip = f"{block['name']}: {_time(block['cycles'], total, clock_hz)}{members}"
        parts.append(_box(start, top, width - (0.5 if width > 2 else 0.0), height, "block", tip))
        name = str(block["name"])
        number = name.rsplit("_", 1)[-1]
        choices = (name, number) if number.isdigit() else (name,)
        parts.append(_label(start, width, top + height / 2 + 4, choices, "name"))


def _loss_row(parts: list[str], layers: Sequence[Row], x: Scale, top: float, height: float) -> None:
    """Of each layer's cycles the share that was lost, by cause."""
    total = sum(layer["cycles"] for layer in layers) or 1
    seen = [
        layer for layer in layers if layer["cycles"] / total > 0.002
    ] or layers  # a short one must not set the scale
    most = max(100 * sum((layer.get("stalls") or {}).values()) / (layer["cycles"] or 1) for layer in seen)
    axis = ticks(0.0, max(most, 1.0), 3)
    y = Scale(0.0, axis[-1], top + height, top)
    parts.append(text(LEFT - 8, top - 11, "lost, %", "end", ' class="name"'))
    for value in axis:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{x.end}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        parts.append(text(LEFT - 8, y(value) + 4, compact(value), "end"))
    for layer, start, width in _spans(layers, x):
        cycles, low = layer["cycles"] or 1, 0.0
        shares = {name: 100 * value / cycles for name, value in causes_of(layer.get("stalls") or {}).items()}
        listed = ", ".join(f"{name} {share:.1f} %" for name, share in shares.items() if share)
        tip = f"{layer['name']}: cycles lost: {listed or 'none'}"
        for name, share in shares.items():
            if share > 0:
                bottom, low = y(low), min(low + share, axis[-1])
                parts.append(_box(start, y(low), width, bottom - y(low), f"s-{name}", tip))


def _memory_row(parts: list[str], layers: Sequence[Row], x: Scale, arena_bytes: int, top: float, base: float) -> None:
    high = max(arena_bytes, *(layer["live_bytes"] for layer in layers), 1)
    y = Scale(0.0, high / 1024, base, top)
    parts.append(text(LEFT - 8, top - 11, "RAM, KiB", "end", ' class="name"'))
    for value in ticks(0.0, high / 1024, 3):
        if value <= high / 1024:
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{x.end}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
            parts.append(text(LEFT - 8, y(value) + 4, compact(value), "end"))
    for layer, start, width in _spans(layers, x):
        height = base - y(layer["live_bytes"] / 1024)
        tip = f"{layer['name']}: {layer['live_bytes']:,} bytes of RAM in use"
        parts.append(_box(start, base - height, width, max(height, 0.5), "ram", tip))
    level = y(arena_bytes / 1024)
    parts.append(f'<line class="level arena" x1="{LEFT}" x2="{x.end}" y1="{level:.1f}" y2="{level:.1f}"/>')
    parts.append(text(x.end, level - 5, f"arena {arena_bytes / 1024:,.1f} KiB", "end", ' class="halo"'))
