"""The few parts that every chart is made of: scales with round ticks, axes, labels that do not overlap."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["Labels", "Plot", "Scale", "attribute", "compact", "text", "text_width", "ticks"]

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in user units."""
WIDEST = 1.15
"""How much wider labels may be drawn than `text_width` says: fonts differ, and small screens have larger letters."""
CHARACTER = 6.6
"""Mean width in user units of one character at the charts' font size of 12."""


def attribute(value: str) -> str:
    """`value` escaped for a quoted attribute."""
    return html.escape(value, quote=True)


def text_width(value: str) -> float:
    """About how wide `value` is drawn, in user units."""
    return CHARACTER * len(value)


def text(x: float, y: float, value: str, anchor: str = "start", extra: str = "") -> str:
    """One line of text; `anchor` is start, middle or end."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{extra}>{html.escape(value)}</text>'


def compact(value: float) -> str:
    """A tick label: no needless zeros, thousands separated.

    Example:
        >>> compact(2500.0), compact(0.25)
        ('2,500', '0.25')
    """
    return f"{value:,.0f}" if value == round(value) else f"{value:,.6g}"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round values (1, 2 or 5 times a power of ten apart) that cover low..high, about `count` of them.

    Example:
        >>> ticks(0, 930)
        [0.0, 200.0, 400.0, 600.0, 800.0, 1000.0]
    """
    span = max(high - low, 1e-12)
    rough = span / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


@dataclass(frozen=True)
class Scale:
    """A linear map from low..high to start..end in user units."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Where `value` lies."""
        return self.start + (value - self.low) / ((self.high - self.low) or 1.0) * (self.end - self.start)


@dataclass
class Plot:
    """A chart area with a left and a bottom axis; `parts` collects the SVG in drawing order.

    `x_end` ends the bottom axis somewhere else than at its last tick.
    """

    x_ticks: Sequence[float]
    y_ticks: Sequence[float]
    x_label: str
    y_label: str
    width: float = 460.0
    height: float = 300.0
    left: float = 58.0
    right: float = 22.0
    top: float = 26.0
    bottom: float = 42.0
    x_end: float | None = None
    parts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.x = Scale(self.x_ticks[0], self.x_end or self.x_ticks[-1], self.left, self.width - self.right)
        self.y = Scale(self.y_ticks[0], self.y_ticks[-1], self.height - self.bottom, self.top)
        base = self.height - self.bottom
        for value in self.y_ticks:
            y = self.y(value)
            self.parts.append(f'<line class="grid" x1="{self.left}" x2="{self.x.end}" y1="{y:.1f}" y2="{y:.1f}"/>')
            self.parts.append(text(self.left - 6, y + 4, compact(value), "end"))
        for value in self.x_ticks:
            x = self.x(value)
            self.parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{base}" y2="{base + 4}"/>')
            self.parts.append(text(x, base + 18, compact(value), "middle"))
        self.parts.append(f'<line class="axis" x1="{self.left}" x2="{self.x.end}" y1="{base}" y2="{base}"/>')
        self.parts.append(text((self.left + self.x.end) / 2, self.height - 6, self.x_label, "middle", ' class="name"'))
        self.parts.append(text(4, 13, self.y_label, "start", ' class="name"'))

    def svg(self, title: str) -> str:
        """The finished chart; `title` is read out by screen readers."""
        return (
            f'<svg viewBox="0 0 {self.width:g} {self.height:g}" role="img" aria-label="{attribute(title)}">'
            + "".join(self.parts)
            + "</svg>"
        )


class Labels:
    """Places short labels so that they cover neither each other nor the points nor the frame, nor lines if possible."""

    def __init__(self, plot: Plot) -> None:
        self._plot = plot
        self._taken: list[Box] = []
        self._lines: list[Box] = []

    def point(self, x: float, y: float, radius: float = 6.0) -> None:
        """Keeps labels off a marker at (x, y)."""
        self._taken.append((x - radius, y - radius, x + radius, y + radius))

    def box(self, left: float, top: float, right: float, bottom: float) -> None:
        """Keeps labels off a rectangle."""
        self._taken.append((left, top, right, bottom))

    def line(self, x: float, y: float, to_x: float, to_y: float) -> None:
        """Keeps labels off a straight line as long as there is another place for them."""
        steps = max(1, round(max(abs(to_x - x), abs(to_y - y)) / 6))
        for step in range(steps):
            a, b = step / steps, (step + 1) / steps
            ends = sorted((x + a * (to_x - x), x + b * (to_x - x))), sorted((y + a * (to_y - y), y + b * (to_y - y)))
            self._lines.append((ends[0][0] - 1, ends[1][0] - 1, ends[0][1] + 1, ends[1][1] + 1))

    def place(self, x: float, y: float, value: str) -> None:
        """Writes `value` at the nearest free place around (x, y); it is left out when there is none."""
        sides = [(10, 4, "start"), (-10, 4, "end"), (0, -11, "middle"), (0, 19, "middle")]
        sides += [(10, -10, "start"), (10, 18, "start"), (-10, -10, "end"), (-10, 18, "end")]
        for distances in ((0, 14), (28, 42, 56, 70)):
            places = [
                (x + dx, y + dy + sign * distance, anchor)
                for distance in distances
                for dx, dy, anchor in sides
                for sign in ((1, -1) if distance else (1,))
            ]
            if self._write(value, places):
                return

    def along(self, y: float, value: str) -> None:
        """Writes `value` above or below the level `y`, as far to the right as there is room."""
        end, width = self._plot.x.end, self._plot.x.end - self._plot.left
        self._write(value, [(end - step, y + dy, "end") for step in range(0, int(width), 8) for dy in (-5, 15)])

    def _write(self, value: str, places: Sequence[tuple[float, float, str]]) -> bool:
        """At the first of the places (x, base line, anchor) that is free; whether there was one."""
        width, plot = WIDEST * text_width(value), self._plot
        for taken in ((*self._taken, *self._lines), self._taken):
            for x, base, anchor in places:
                left = x - {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor] * width
                box = (left - 2, base - 11, left + width + 2, base + 4)
                inside = box[0] >= plot.left and box[2] <= plot.width and box[1] >= plot.top - 8
                if inside and box[3] <= plot.y.start and not any(_overlap(box, other) for other in taken):
                    self._taken.append(box)
                    plot.parts.append(text(x, base, value, anchor, ' class="halo"'))
                    return True
        return False


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
