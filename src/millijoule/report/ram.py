"""The arena row step by row step as SVG and as a table, from the values of `millijoule.compile.row_timeline`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from millijoule.report._svg import Scale, attribute, compact, text, text_width, ticks

__all__ = ["MOMENTS", "USES", "ram_chart", "ram_of", "ram_rows", "ram_statement", "ram_uses"]

Row = Mapping[str, Any]

MOMENTS = 32
"""About how many moments of a layer a page can show."""
USES = {
    "input": "input: rows that wait to be read",
    "result": "result: rows that are there",
    "map": "maps for later layers",
    "rings": "rings of rows, planes",
    "groups": "groups of pixels",
    "prepared": "prepared parameters",
    "scratch": "other scratch memory",
    "staged": "copies of weights (where there is room)",
}
"""What the key calls a kind of use."""
LEAST = 6
"""A layer, or a pass that is one moment, is drawn at least as wide as so many moments of a layer by rows."""
WIDTH, LEFT, RIGHT, TOP, HEIGHT = 1080.0, 76.0, 14.0, 34.0, 330.0


def ram_of(ram: Row | None, title: str) -> dict[str, Any] | None:
    """What the page shows of it: chart, statement, rows, uses; None where there is nothing."""
    if not ram:
        return None
    return {
        "chart": ram_chart(ram, title),
        "statement": ram_statement(ram),
        "rows": ram_rows(ram),
        "uses": ram_uses(ram),
    }


def ram_uses(ram: Row) -> list[str]:
    """The kinds of use that occur, in the order of `USES`."""
    seen = {part["kind"] for layer in ram["layers"] for part in layer["parts"]}
    return [kind for kind in USES if kind in seen]


def ram_statement(ram: Row) -> str:
    """The peak in a sentence."""
    peak, layer = ram["peak"], ram["layers"][ram["peak"]["layer"]]
    return (
        f"Most bytes in use: {peak['bytes']:,}, in layer {layer['index']} ({layer['name']}), "
        f"{_when(layer, peak['moment'])}. No plan of these layers can be smaller than "
        f"{ram['lower_bound_bytes']:,} bytes; the arena has {ram['arena_bytes']:,}."
    )


def ram_rows(ram: Row) -> list[dict[str, Any]]:
    """The cells of the table, one row per layer.

    Returns:
        For each layer index, name, rows and result_rows (int, 0 where it has none), first, most and last (bytes in
        use), when (of the most) and uses: bytes of each of `ram_uses` at that moment.
    """
    kinds = ram_uses(ram)
    rows = []
    for layer in ram["layers"]:
        used = layer["bytes"]
        at = used.index(max(used))
        sums = dict.fromkeys(kinds, 0)
        for part in layer["parts"]:
            sums[part["kind"]] += _place(part, at)[1]
        rows.append(
            {
                **{name: layer[name] for name in ("index", "name", "rows", "result_rows")},
                "first": used[0],
                "most": used[at],
                "last": used[-1],
                "when": _when(layer, at, short=True),
                "uses": list(sums.values()),
            }
        )
    return rows


def _when(layer: Row, at: int, short: bool = False) -> str:
    """A moment in words."""
    if _is_pass(layer, at):
        return str(layer["passes"][at])
    read, written = layer["read"][at], layer["written"][at]
    if not layer["rows"] or short:
        return f"{read} read, {written} written" if layer["rows"] else "all at once"
    return f"{read} of {layer['rows']} rows read, {written} of {layer['result_rows']} rows written"


def _place(part: Row, at: int) -> tuple[int, int]:
    """Offset and bytes of a part at one moment."""
    offset, size = (value[at] if isinstance(value, Sequence) else value for value in (part["offset"], part["bytes"]))
    return offset, size


# *** the chart *****


def ram_chart(ram: Row, title: str) -> str:
    """Every byte of the arena over the row steps of one inference: what it is used for, the peak, the bound.

    Args:
        ram: what `millijoule.compile.row_timeline` gives.
        title: for screen readers.
    """
    columns = [_columns(layer) for layer in ram["layers"]]
    widths = [max(len(found), LEAST) for found in columns]
    x = Scale(0.0, float(sum(widths)), LEFT, WIDTH - RIGHT)
    y = Scale(0.0, max(ram["arena_bytes"], 1) / 1024, TOP + HEIGHT, TOP)
    parts: list[str] = []
    _axes(parts, x, y)
    left, total, peak = 0, [], 0.0
    for layer, shown, width in zip(ram["layers"], columns, widths, strict=True):
        start, end = round(x(left)), round(x(left + width))
        parts.append(_layer(layer, shown, start, end, y))
        parts.append(f'<path class="axis" d="M{end} {y.start:g}v5"/>')
        if text_width(str(layer["index"])) + 5 <= end - start:
            parts.append(text((start + end) / 2, y.start + 18, str(layer["index"]), "middle"))
        total += _steps([layer["bytes"][at] for at in shown], start, end, y)
        if layer["index"] == ram["peak"]["layer"]:
            peak = start + (shown.index(ram["peak"]["moment"]) + 0.5) / len(shown) * (end - start)
        left += width
    parts.append(f'<path class="in-use" d="{_line(total)}"/>')
    parts += _peak(ram, peak)
    parts += _levels(ram, x, y)
    height = TOP + HEIGHT + 44
    return (
        f'<svg class="wide" viewBox="0 0 {WIDTH:g} {height:g}" role="img" aria-label="{attribute(title)}">'
        + "".join(parts)
        + "</svg>"
    )


def _columns(layer: Row) -> list[int]:
    """The moment of every column: a pass that is one moment gets several."""
    return [at for at in range(len(layer["bytes"])) for _ in range(LEAST if _is_pass(layer, at) else 1)]


def _is_pass(layer: Row, at: int) -> bool:
    label = layer["passes"][at] if layer["passes"] else ""
    return bool(label) and (label != "result" or not layer["rows"])


def _axes(parts: list[str], x: Scale, y: Scale) -> None:
    base = y.start
    parts.append(text(4, 13, "place in the arena, KiB", "start", ' class="name"'))
    for value in ticks(0.0, y.high, 6):
        if value <= y.high:
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{x.end}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
            parts.append(text(LEFT - 8, y(value) + 4, compact(value), "end"))
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{x.end}" y1="{base}" y2="{base}"/>')
    name = "layers in the order of execution; within a layer, row by row"
    parts.append(text((LEFT + x.end) / 2, base + 38, name, "middle", ' class="name"'))


def _layer(layer: Row, shown: Sequence[int], start: int, end: int, y: Scale) -> str:
    """One layer: its background, which spans it, first; then all parts that are high enough to be seen."""
    most = max(layer["bytes"])
    tip = f"at most {most:,} bytes in use ({_when(layer, layer['bytes'].index(most))})"
    moments = ";".join(_told(layer, at) for at in dict.fromkeys(shown))
    rows = f' data-rows="{layer["rows"]} {layer["result_rows"]}"' if layer["rows"] else ""
    wide = f' data-wide="{LEAST}"' if layer["passes"] else ""
    back = f"M{start} {y.end:g}H{end}V{y.start:g}H{start}Z"
    inner = [f'<path class="step" d="{back}" tabindex="0" data-tip="{attribute(tip)}"/>']
    for part in layer["parts"]:
        places = [_place(part, at) for at in shown]
        there = [column for column, (_, size) in enumerate(places) if size]
        places, width = places[there[0] : there[-1] + 1], (end - start) / len(shown)
        left, right = start + there[0] * width, start + (there[-1] + 1) * width
        tops = _steps([offset + size for offset, size in places], left, right, y)
        bottoms = _steps([offset for offset, _ in places], left, right, y)
        if tops != bottoms:
            shape = f"{_line(tops)}{_back(bottoms, tops[-1][2])}Z"
            inner.append(f'<path class="u-{attribute(part["kind"])}" d="{shape}" data-tip="{attribute(_tip(part))}"/>')
    head = attribute(f"{layer['index']} {layer['name']}")
    return f'<g data-layer="{head}"{rows}{wide} data-moments="{attribute(moments)}">{"".join(inner)}</g>'


def _told(layer: Row, at: int) -> str:
    """A moment for the page's script: rows read, rows written, bytes in use, and the pass where it is not by rows."""
    numbers = f"{layer['read'][at]} {layer['written'][at]} {layer['bytes'][at]}"
    return f"{numbers} {layer['passes'][at]}" if _is_pass(layer, at) else numbers


def _tip(part: Row) -> str:
    sizes = part["bytes"] if isinstance(part["bytes"], Sequence) else [part["bytes"]]
    size = f"{sizes[0]:,} bytes" if len(sizes) == 1 else f"{sizes[0]:,} bytes at first, {sizes[-1]:,} in the end"
    use = {"input": ", waiting to be read", "result": ", the result", "staged": ", a copy"}.get(part["kind"], "")
    places = part["offset"] if isinstance(part["offset"], Sequence) else [part["offset"]]
    return f"{part['name']}{use}: {size}, from {min(places):,} on"


def _steps(values: Sequence[int], start: float, end: float, y: Scale) -> list[tuple[int, int, int]]:
    """(left, right, height) of every value's column, in whole units; equal neighbours are one."""
    width, found = (end - start) / len(values), list[tuple[int, int, int]]()
    for at, value in enumerate(values):
        right, level = round(start + (at + 1) * width), round(y(value / 1024))
        left = found.pop()[0] if found and found[-1][2] == level else round(start + at * width)
        found.append((left, right, level))
    return found


def _line(steps: Sequence[tuple[int, int, int]]) -> str:
    """A line of steps from left to right."""
    left, _, level = steps[0]
    return f"M{left} {level}" + _moves([(right - left, height) for left, right, height in steps], level)


def _back(steps: Sequence[tuple[int, int, int]], level: int) -> str:
    """A line of steps from right to left that goes on from a height."""
    return _moves([(left - right, height) for left, right, height in reversed(steps)], level)


def _moves(steps: Sequence[tuple[int, int]], level: int) -> str:
    path = ""
    for width, height in steps:
        path += f"v{height - level}h{width}" if height != level else f"h{width}"
        level = height
    return path


def _peak(ram: Row, at: float) -> Iterator[str]:
    tip, label = ram_statement(ram), f"peak {ram['peak']['bytes']:,} bytes"
    yield f'<path class="peak" d="M{at - 6:.1f} {TOP - 11:g}h12l-6 10z" tabindex="0" data-tip="{attribute(tip)}"/>'
    after = at < WIDTH / 2
    yield text(at + 10 if after else at - 10, TOP - 3, label, "start" if after else "end", ' class="name"')


def _levels(ram: Row, x: Scale, y: Scale) -> Iterator[str]:
    arena, bound, fast = ram["arena_bytes"], ram["lower_bound_bytes"], ram["fast_offset"]
    shown = [(bound, "bound", "lower bound")]
    shown = [(arena, "arena", "arena"), *shown] if arena != bound else [(bound, "bound", "arena = lower bound")]
    for value, kind, name in shown:
        level = y(value / 1024)
        yield f'<line class="level {kind}" x1="{LEFT}" x2="{x.end}" y1="{level:.1f}" y2="{level:.1f}"/>'
        under = kind == "bound" and len(shown) > 1
        yield text(x.end, level + 15 if under else level - 5, f"{name} {value:,} bytes", "end", ' class="halo"')
    if fast is not None:
        level = y(fast / 1024)
        yield f'<line class="level fast" x1="{LEFT}" x2="{x.end}" y1="{level:.1f}" y2="{level:.1f}"/>'
        yield text(x.end, level + 14, "above: the fast memory", "end", ' class="halo"')
