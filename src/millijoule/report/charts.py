"""The report's charts as SVG text. Hover texts are in `data-tip` attributes; the page's script shows them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from millijoule.report._svg import Labels, Plot, attribute, text, text_width, ticks

__all__ = ["accuracy_chart", "confusion_chart", "curve_chart", "cycles_chart", "group_of", "memory_chart"]

Row = Mapping[str, Any]

GROUPS = ("convolution", "depthwise", "pointwise", "fused", "dense", "other")


def _mark(shape: str, x: float, y: float, name: str, tip: str) -> str:
    common = f'class="mark m-{name}" tabindex="0" data-tip="{attribute(tip)}"'
    if shape == "square":
        return f'<rect x="{x - 5:.1f}" y="{y - 5:.1f}" width="10" height="10" {common}/>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5.5" {common}/>'


def accuracy_chart(points: Sequence[Row], x_label: str, title: str) -> str:
    """Accuracy with its 95 % interval against one cost.

    Args:
        points: dictionaries with x, accuracy, interval (low, high), method, label, shape ("circle" or "square"), tip.
        x_label: the cost and its unit.
        title: for screen readers.
    """
    low = min(point["interval"][0] for point in points)
    high = max(point["interval"][1] for point in points)
    y_ticks = [value for value in ticks(low, high) if value <= 100.0]
    y_ticks = y_ticks if len(y_ticks) > 1 else [max(0.0, y_ticks[0] - 1), y_ticks[0]]
    if y_ticks[-1] < high:
        y_ticks.append(2 * y_ticks[-1] - y_ticks[-2])
    x_ticks = ticks(0.0, max(point["x"] for point in points) * 1.02)
    plot = Plot(x_ticks, y_ticks, x_label, "accuracy on the test split, % (bar: 95 % interval)")
    labels = Labels(plot)
    for point in points:
        x = plot.x(point["x"])
        top, bottom = plot.y(point["interval"][1]), plot.y(point["interval"][0])
        plot.parts.append(
            f'<path class="interval m-{point["method"]}" d="M{x:.1f} {top:.1f}V{bottom:.1f}'
            f'M{x - 4:.1f} {top:.1f}h8M{x - 4:.1f} {bottom:.1f}h8"/>'
        )
        labels.point(x, plot.y(point["accuracy"]))
    for point in points:
        x, y = plot.x(point["x"]), plot.y(point["accuracy"])
        plot.parts.append(_mark(point["shape"], x, y, point["method"], point["tip"]))
        labels.place(x, y, point["label"])
    return plot.svg(title)


def curve_chart(series: Sequence[Row], y_label: str, title: str, top: float | None = None) -> str:
    """Lines over epochs; each series has name, label, values (one per epoch, None left out), dashed, low.

    `low` puts the key into the lower right corner instead of the upper one.
    """
    epochs = max(len(line["values"]) for line in series)
    shown = [value for line in series for value in line["values"] if value is not None]
    high = top if top is not None else max(shown)
    y_ticks = ticks(min(0.0, *shown) if top is None else min(shown), high)
    x_ticks = [value for value in ticks(0, epochs) if value == int(value) and value <= epochs]
    plot = Plot(x_ticks, y_ticks, "epoch", y_label, x_end=epochs)
    widest = max((str(line["label"]) for line in series), key=len)
    for line in series:
        points = [(plot.x(i + 1), plot.y(value)) for i, value in enumerate(line["values"]) if value is not None]
        dash = ' stroke-dasharray="5 4"' if line.get("dashed") else ""
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        plot.parts.append(f'<path class="line m-{line["name"]}" d="{path}"{dash}/>')
        for index, value in enumerate(line["values"]):
            if value is not None:
                tip = f"{line['label']}, epoch {index + 1}: {value:.4g}"
                plot.parts.append(
                    f'<circle class="dot m-{line["name"]}" cx="{plot.x(index + 1):.1f}" cy="{plot.y(value):.1f}" '
                    f'r="{2.2 if epochs > 60 else 3}" data-tip="{attribute(tip)}"/>'
                )
        row = series.index(line)
        key_y = plot.y.start - 12 - 16 * row if line.get("low") else plot.top + 12 + 16 * row
        start = plot.x.end - text_width(widest) - 30
        plot.parts.append(f'<path class="line m-{line["name"]}" d="M{start:.1f} {key_y - 4:.1f}h20"{dash}/>')
        plot.parts.append(text(start + 26, key_y, line["label"]))
    return plot.svg(title)


def confusion_chart(confusion: Sequence[Sequence[int]], classes: Sequence[str], title: str) -> str:
    """Rows are the true classes, columns the predicted ones; a cell's shade is its share of the row."""
    count = len(classes)
    short = [name.replace("_", " ") for name in classes]
    label = min(150.0, max(text_width(name) for name in short) + 10)
    cell = max(14.0, min(34.0, 330.0 / count))
    width, height = label + cell * count + 26, label + cell * count + 24
    parts = []
    for row, counts in enumerate(confusion):
        total = sum(counts) or 1
        y = 16 + cell * row
        parts.append(text(label - 6 + 18, y + cell / 2 + 4, short[row][:22], "end"))
        for column, value in enumerate(counts):
            x = label + 18 + cell * column
            share = value / total
            tip = f"{value} of {total} {short[row]} taken for {short[column]} ({100 * share:.1f} %)"
            kind = "right" if row == column else "wrong"
            parts.append(
                f'<rect class="cell {kind}" x="{x:.1f}" y="{y:.1f}" width="{cell - 1:.1f}" height="{cell - 1:.1f}" '
                f'style="--share:{0.0 if value == 0 else 0.12 + 0.88 * share:.3f}" data-tip="{attribute(tip)}"/>'
            )
            if value and cell >= 20:
                strong = " strong" if share > 0.55 else ""
                parts.append(text(x + cell / 2, y + cell / 2 + 4, str(value), "middle", f' class="count{strong}"'))
    base = 16 + cell * count
    for column in range(count):
        x = label + 18 + cell * column + cell / 2 + 4
        turn = f' transform="rotate(-90 {x:.1f} {base + 6:.1f})"'
        parts.append(text(x, base + 6, short[column][:22], "end", turn))
    middle = 16 + cell * count / 2
    parts.append(text(11, middle, "true class", "middle", f' class="name" transform="rotate(-90 11 {middle:.1f})"'))
    parts.append(text(label + 18, 11, "predicted class (below)", "start", ' class="name"'))
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{attribute(title)}">' + "".join(parts)
    ) + "</svg>"


def memory_chart(plan: Row, arena_bytes: int, bound_bytes: int, title: str) -> str:
    """The memory plan: every buffer at its offset, from first to last layer; arena and lower bound."""
    steps = plan["steps"]
    x_ticks = [value for value in ticks(0, len(steps), 6) if value == int(value) and value <= len(steps)]
    y_ticks = ticks(0, arena_bytes / 1024 * 1.06)
    plot = Plot(x_ticks, y_ticks, "layer, in execution order", "offset in the arena, KiB", x_end=len(steps))
    for buffer in plan["buffers"]:
        x, end = plot.x(buffer["first"]), plot.x(buffer["last"] + 1)
        low, high = plot.y(buffer["offset"] / 1024), plot.y((buffer["offset"] + buffer["bytes"]) / 1024)
        names = f"{steps[buffer['first']]} to {steps[buffer['last']]}"
        tip = f"{buffer['name']} ({buffer['kind']}): {buffer['bytes']:,} bytes at {buffer['offset']:,}; {names}"
        plot.parts.append(
            f'<rect class="buffer b-{attribute(buffer["kind"])}" x="{x:.1f}" y="{high:.1f}" '
            f'width="{max(end - x - 0.4, 0.8):.1f}" height="{max(low - high - 0.3, 0.6):.1f}" '
            f'data-tip="{attribute(tip)}"/>'
        )
    for value, name, label in (
        (arena_bytes, "arena", f"arena {arena_bytes / 1024:,.1f} KiB"),
        (bound_bytes, "bound", f"lower bound {bound_bytes / 1024:,.1f} KiB"),
    ):
        y = plot.y(value / 1024)
        plot.parts.append(f'<line class="level {name}" x1="{plot.left}" x2="{plot.x.end}" y1="{y:.1f}" y2="{y:.1f}"/>')
        at = y - 5 if name == "arena" else y + 14
        plot.parts.append(text(plot.x.end, at, label, "end", ' class="halo"'))
    peak = max(range(len(steps)), key=lambda index: plan["live_bytes"][index])
    tip = f"peak: {plan['live_bytes'][peak]:,} bytes alive in layer {peak}, {steps[peak]}"
    x = plot.x(peak + 0.5)
    plot.parts.append(
        f'<path class="peak" d="M{x - 5:.1f} {plot.y.start + 9:.1f}h10l-5 -8z" data-tip="{attribute(tip)}"/>'
    )
    return plot.svg(title)


def group_of(layer: Row) -> str:
    """Which of `GROUPS` a layer of the firmware belongs to, by its operator (and its kernel where it is known)."""
    operator = f"{layer['operator']} {layer.get('kernel', '')}"
    if " + " in operator:
        return "fused"
    if "depthwise" in operator:
        return "depthwise"
    if "pointwise" in operator or "1x1" in operator:
        return "pointwise"
    if "conv" in operator:
        return "convolution"
    return "dense" if "dense" in operator else "other"


def cycles_chart(layers: Sequence[Row], title: str) -> str:
    """One bar per layer: cycles, coloured by the kind of layer."""
    total = sum(layer["cycles"] for layer in layers) or 1
    largest = max(layer["cycles"] for layer in layers)
    power = 6 if largest >= 500_000 else 3
    unit = {6: "million", 3: "thousand"}[power]
    x_ticks = [value for value in ticks(0, len(layers), 6) if value == int(value) and value <= len(layers)]
    y_ticks, y_label = ticks(0, largest / 10**power), f"cycles per layer, {unit}"
    plot = Plot(x_ticks, y_ticks, "layer, in execution order", y_label, x_end=len(layers))
    for index, layer in enumerate(layers):
        x, end = plot.x(index), plot.x(index + 1)
        y = plot.y(layer["cycles"] / 10**power)
        per_mac = f", {layer['cycles'] / layer['macs']:.2f} cycles per MAC" if layer["macs"] else ""
        tip = (
            f"{index} {layer['name']} ({layer['operator']}): {layer['cycles']:,} cycles, "
            f"{100 * layer['cycles'] / total:.1f} %{per_mac}"
        )
        plot.parts.append(
            f'<rect class="bar g-{group_of(layer)}" x="{x + 0.4:.1f}" y="{y:.1f}" '
            f'width="{max(end - x - 0.8, 0.8):.1f}" height="{max(math.fabs(plot.y.start - y), 0.5):.1f}" '
            f'data-tip="{attribute(tip)}"/>'
        )
    return plot.svg(title)
