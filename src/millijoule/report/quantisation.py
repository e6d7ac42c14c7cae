"""The page's part on quantisation: accuracy against bits and bytes, sensitivity, calibration, changed pictures."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from millijoule.report._svg import Labels, Plot, attribute, ticks
from millijoule.report.charts import group_of

__all__ = [
    "bits_chart",
    "bytes_chart",
    "curve_point_chart",
    "front",
    "frontier_chart",
    "gallery_rows",
    "layer_chart",
    "loss_chart",
    "quantisation_of",
]

Result = Mapping[str, Any]
Row = Mapping[str, Any]

APART = 11.0
"""Least distance in user units between the middles of two marks with nearly the same cost."""
COSTLY = 3.0
"""From this loss in dB on, a layer keeps 8 bits, see `millijoule.quantize.sensitivity`."""


def quantisation_of(result: Result) -> dict[str, Any]:
    """Charts as SVG text, and rows of tables; what a result does not have is empty.

    Returns:
        "bytes", "bits" (accuracy against them), "models" (rows), "layers", "losses" and "sensitivity" (charts and rows
        of the layers), "curve", "frontier", "gallery" (rows).
    """
    # 16-bit floats are in the table; in the charts their size would press all others together
    quantised = [method for method in result["methods"] if method["kind"] not in ("float", "half")]
    reference = next((method for method in result["methods"] if method["kind"] == "float"), None)
    analysis = result.get("analysis") or {}
    found, mixed = analysis.get("sensitivity"), analysis.get("mixed")
    known = bool(quantised) and all(method.get("weight_bits") is not None for method in quantised)
    return {
        "bytes": bytes_chart(quantised, reference) if quantised else "",
        "bits": bits_chart(quantised, reference) if known else "",
        "models": [{**method, "bits": _bits(method)} for method in result["methods"]] if known else [],
        "layers": layer_chart(found) if found else "",
        "losses": loss_chart(found) if found else "",
        "sensitivity": found,
        "curve": curve_point_chart(analysis["curve"]) if analysis.get("curve") else "",
        "frontier": frontier_chart(mixed) if mixed else "",
        "gallery": gallery_rows(result),
    }


def _bytes(method: Row) -> int:
    """Flash as the compiler lays it out; results of before know only the sum over the graph."""
    return int(method.get("compiled_bytes") or method["flash_bytes"])


def _bits(method: Row) -> str:
    """Bits of the weights; of a mixture the mean, and how many layers have the fewest."""
    layers = {int(bits): count for bits, count in method["layers_by_bits"].items()}
    if len(layers) == 1:
        return f"{method['weight_bits']:.0f}"
    fewest = min(layers)
    return f"{method['weight_bits']:.2f}: {fewest} in {layers[fewest]} of {sum(layers.values())} layers"


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (cost, value) that no other one beats, by cost: none costs less with at least that value.

    Example:
        >>> front([(4.0, 80.0), (8.0, 82.0), (6.0, 79.0)])
        [0, 1]
    """
    best, kept = float("-inf"), []
    for index in sorted(range(len(points)), key=lambda index: (points[index][0], -points[index][1])):
        if points[index][1] > best:
            best = points[index][1]
            kept.append(index)
    return kept


def bytes_chart(methods: Sequence[Row], reference: Row | None) -> str:
    """Accuracy of the quantised models against their flash, with the front."""
    title = "accuracy against flash, quantised models"
    return _pareto(
        methods, reference, lambda method: _bytes(method) / 1024, "weights and constants in flash, KiB", title
    )


def bits_chart(methods: Sequence[Row], reference: Row | None) -> str:
    """Accuracy of the quantised models against the mean bits of a weight, with the front."""
    title = "accuracy against bits, quantised models"
    return _pareto(
        methods,
        reference,
        lambda method: float(method["weight_bits"]),
        "bits of a weight, mean over all weights",
        title,
    )


def _pareto(
    methods: Sequence[Row], reference: Row | None, cost: Callable[[Row], float], x_label: str, title: str
) -> str:
    costs = [cost(method) for method in methods]
    bounds = [bound for method in methods for bound in method["interval"]]
    bounds += [] if reference is None else [reference["accuracy"]]
    y_ticks = [value for value in ticks(min(bounds), max(bounds)) if value <= 100.0]
    if y_ticks[-1] < max(bounds):
        y_ticks.append(2 * y_ticks[-1] - y_ticks[-2] if len(y_ticks) > 1 else 100.0)
    margin = max(0.06 * (max(costs) - min(costs)), 0.04 * max(costs))
    plot = Plot(
        ticks(max(0.0, min(costs) - margin), max(costs) + margin),
        y_ticks,
        x_label,
        "accuracy on the test split, % (bar: 95 % interval)",
    )
    labels = Labels(plot)
    if reference is not None:
        y = plot.y(reference["accuracy"])
        plot.parts.append(
            f'<line class="level reference" x1="{plot.left}" x2="{plot.x.end}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        labels.line(plot.left, y, plot.x.end, y)
    places = _apart([plot.x(value) for value in costs], plot.left + 6, plot.x.end - 6)
    kept = front([(value, method["accuracy"]) for value, method in zip(costs, methods, strict=True)])
    _front_line(plot, labels, [(places[index], methods[index]["accuracy"]) for index in kept])
    for x, method in zip(places, methods, strict=True):
        top, bottom = plot.y(method["interval"][1]), plot.y(method["interval"][0])
        plot.parts.append(
            f'<path class="interval m-{method["name"].split("_")[0]}" d="M{x:.1f} {top:.1f}V{bottom:.1f}'
            f'M{x - 4:.1f} {top:.1f}h8M{x - 4:.1f} {bottom:.1f}h8"/>'
        )
        labels.point(x, plot.y(method["accuracy"]))
        labels.line(x, top, x, bottom)
    for x, method, value in zip(places, methods, costs, strict=True):
        y = plot.y(method["accuracy"])
        tip = (
            f"{method['title']}: {method['accuracy']:.2f} % ({method['interval'][0]:.2f} to "
            f"{method['interval'][1]:.2f}), {_bytes(method):,} bytes"
            + ("" if value == _bytes(method) / 1024 else f", {value:.2f} bits")
        )
        plot.parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5.5" class="mark m-{attribute(method["name"].split("_")[0])}" '
            f'tabindex="0" data-tip="{attribute(tip)}"/>'
        )
        labels.place(x, y, method["title"])
    if reference is not None:
        labels.along(plot.y(reference["accuracy"]), f"float {reference['accuracy']:.2f} %")
    return plot.svg(title)


def _apart(places: Sequence[float], low: float, high: float) -> list[float]:
    """The places moved as little as needed so that no two are closer than `APART`; order and middle of a crowd stay."""

    def start(crowd: Sequence[int]) -> float:
        width = APART * (len(crowd) - 1)
        first = sum(places[index] for index in crowd) / len(crowd) - width / 2
        return min(max(first, low), high - width)

    crowds: list[list[int]] = []
    for index in sorted(range(len(places)), key=lambda index: places[index]):
        crowds.append([index])
        while len(crowds) > 1 and start(crowds[-1]) < start(crowds[-2]) + APART * len(crowds[-2]):
            last = crowds.pop()
            crowds[-1] += last
    moved = list(places)
    for crowd in crowds:
        for position, index in enumerate(crowd):
            moved[index] = start(crowd) + APART * position
    return moved


def _front_line(plot: Plot, labels: Labels, points: Sequence[tuple[float, float]]) -> None:
    """Steps through the models that none beats: right of a point no cheaper model is better."""
    if not points:
        return
    x, y = points[0][0], plot.y(points[0][1])
    path = f"M{x:.1f} {y:.1f}"
    for to_x, value in (*points[1:], (plot.x.end, points[-1][1])):
        to_y = plot.y(value)
        path += f"H{to_x:.1f}V{to_y:.1f}"
        labels.line(x, y, to_x, y)
        labels.line(to_x, y, to_x, to_y)
        x, y = to_x, to_y
    plot.parts.append(f'<path class="front" d="{path}"/>')


def layer_chart(found: Row) -> str:
    """Signal to noise of the logits when only one layer is quantised, with 8 and with 4 bits."""
    layers, whole = found["layers"], found["all_quantised"]
    series = {bits: [layer["alone"][bits] for layer in layers] for bits in ("8", "4")}
    levels = {bits: whole[bits] for bits in ("8", "4") if whole[bits] is not None}
    shown = [value for values in series.values() for value in values if value is not None] + list(levels.values())
    if not shown:
        return ""
    plot = _layer_plot(len(layers), ticks(min(0.0, *shown), max(shown)), "signal to noise of the logits, dB")
    labels = Labels(plot)
    for bits, values in series.items():
        for index, (layer, value) in enumerate(zip(layers, values, strict=True)):
            if value is not None:
                labels.point(plot.x(index + 0.5), plot.y(value), 3)
                tip = f"{layer['layer']} ({layer['operator']}) alone with {bits} bits: {value:.1f} dB at the logits"
                plot.parts.append(
                    f'<circle class="dot bits-{bits}" cx="{plot.x(index + 0.5):.1f}" cy="{plot.y(value):.1f}" r="3" '
                    f'data-tip="{attribute(tip)}"/>'
                )
    for bits, value in levels.items():
        y = plot.y(value)
        plot.parts.append(
            f'<line class="level bits-{bits}" x1="{plot.left}" x2="{plot.x.end}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        labels.line(plot.left, y, plot.x.end, y)
    for bits, value in levels.items():
        labels.along(plot.y(value), f"all layers, {bits} bits: {value:.1f} dB")
    return plot.svg("signal to noise of the logits when only one layer is quantised")


def loss_chart(found: Row) -> str:
    """What 4 bits in one layer take from the logits when all others have 8, coloured by the kind of layer."""
    layers, whole = found["layers"], found["all_quantised"]["8"]
    if whole is None:
        return ""
    losses = [None if layer["four_among_eight"] is None else whole - layer["four_among_eight"] for layer in layers]
    shown = [value for value in losses if value is not None] or [0.0]
    plot = _layer_plot(len(layers), ticks(min(0.0, *shown), max(COSTLY, *shown)), "loss at the logits, dB")
    base, labels = plot.y(0.0), Labels(plot)
    for index, (layer, loss) in enumerate(zip(layers, losses, strict=True)):
        if loss is None:
            continue
        x, y = plot.x(index), plot.y(loss)
        labels.box(x, min(y, base), plot.x(index + 1), max(y, base))
        tip = f"{layer['layer']} ({layer['operator']}, {layer['weights']:,} weights): {layer['why']}"
        plot.parts.append(
            f'<rect class="bar g-{group_of(layer)}" x="{x + 0.4:.1f}" y="{min(y, base):.1f}" '
            f'width="{max(plot.x(index + 1) - x - 0.8, 0.8):.1f}" height="{max(abs(base - y), 0.5):.1f}" '
            f'data-tip="{attribute(tip)}"/>'
        )
    y = plot.y(COSTLY)
    plot.parts.append(f'<line class="level bound" x1="{plot.left}" x2="{plot.x.end}" y1="{y:.1f}" y2="{y:.1f}"/>')
    labels.along(y, f"{COSTLY:g} dB: 8 bits from here on")
    return plot.svg("loss at the logits with 4 bits in one layer and 8 in all others")


def _layer_plot(count: int, y_ticks: Sequence[float], y_label: str) -> Plot:
    x_ticks = [value for value in ticks(0, count, 6) if value == int(value) and value <= count]
    return Plot(x_ticks, y_ticks, "layer with weights, in execution order", y_label, x_end=count)


def curve_point_chart(points: Sequence[Row]) -> str:
    """Signal to noise of the logits against the number of calibration pictures."""
    shown = [point for point in points if point["sqnr"] is not None]
    if not shown:
        return ""
    low, high = min(point["sqnr"] for point in shown), max(point["sqnr"] for point in shown)
    margin = max(0.1 * (high - low), 0.25)
    plot = Plot(
        ticks(0.0, max(point["count"] for point in shown)),
        ticks(low - margin, high + margin),
        "calibration pictures",
        "signal to noise of the logits, dB",
    )
    places = [(plot.x(point["count"]), plot.y(point["sqnr"])) for point in shown]
    plot.parts.append(f'<path class="line m-static" d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in places)}"/>')
    labels = Labels(plot)
    for x, y in places:
        labels.point(x, y)
    for start, end in itertools.pairwise(places):
        labels.line(*start, *end)
    for (x, y), point in zip(places, shown, strict=True):
        tip = f"{point['count']} calibration pictures: {point['sqnr']:.2f} dB, {point['changed']} predictions changed"
        plot.parts.append(
            f'<circle class="dot m-static" cx="{x:.1f}" cy="{y:.1f}" r="4" tabindex="0" data-tip="{attribute(tip)}"/>'
        )
        labels.place(x, y, f"{point['sqnr']:.1f}")
    return plot.svg("signal to noise of the logits against the number of calibration pictures")


def frontier_chart(mixed: Row) -> str:
    """What the search of mixed precision would give for every budget, and what it chose."""
    frontier = [(size, level, layers) for size, level, layers in mixed["frontier"] if level is not None]
    if not frontier:
        return ""
    chosen = (mixed["bytes"], mixed["sqnr"])
    sizes = [size / 1024 for size, _, _ in frontier] + [chosen[0] / 1024]
    levels = [level for _, level, _ in frontier] + ([] if chosen[1] is None else [chosen[1]])
    plot = Plot(
        ticks(min(sizes), max(sizes)),
        ticks(min(levels) - 0.5, max(levels) + 0.5),
        "weights and constants in flash, KiB",
        "signal to noise of the logits, dB",
    )
    path = "L".join(f"{plot.x(size / 1024):.1f} {plot.y(level):.1f}" for size, level, _ in sorted(frontier))
    plot.parts.append(f'<path class="line m-mixed" d="M{path}"/>')
    for size, level, layers in frontier:
        tip = f"{size:,} bytes, {layers} layers with 4 bits: {level:.1f} dB in the simulation"
        plot.parts.append(
            f'<circle class="dot m-mixed" cx="{plot.x(size / 1024):.1f}" cy="{plot.y(level):.1f}" r="2.4" '
            f'data-tip="{attribute(tip)}"/>'
        )
    if chosen[1] is not None:
        x, y = plot.x(chosen[0] / 1024), plot.y(chosen[1])
        labels = Labels(plot)
        for size, level, _ in frontier:
            labels.point(plot.x(size / 1024), plot.y(level), 4)
        for a, b in itertools.pairwise(sorted(frontier)):
            labels.line(plot.x(a[0] / 1024), plot.y(a[1]), plot.x(b[0] / 1024), plot.y(b[1]))
        labels.point(x, y, 7)
        tip = f"chosen: {chosen[0]:,} bytes, {chosen[1]:.1f} dB in the integer executor after reconstruction"
        plot.parts.append(
            f'<rect class="mark m-mixed" x="{x - 5:.1f}" y="{y - 5:.1f}" width="10" height="10" '
            f'tabindex="0" data-tip="{attribute(tip)}"/>'
        )
        labels.place(x, y, "chosen, reconstructed")
    return plot.svg("signal to noise of the logits against flash, mixtures of 4 and 8 bits")


def gallery_rows(result: Result) -> list[dict[str, Any]]:
    """The changed pictures with class names instead of indices; every model with the mark of being right."""
    classes = [str(name).replace("_", " ") for name in result["data"]["classes"]]
    titles = {method["name"]: method["title"] for method in result["methods"]}
    rows = []
    for picture in result.get("gallery") or ():
        label = picture["label"]
        rows.append(
            {
                "jpeg": picture["jpeg"],
                "side": picture["side"],
                "row": picture["row"],
                "label": classes[label],
                "reference": {"answer": classes[picture["reference"]], "right": picture["reference"] == label},
                "models": [
                    {"name": name, "title": titles[name], "answer": classes[answer], "right": answer == label}
                    for name, answer in picture["models"].items()
                ],
            }
        )
    return rows
