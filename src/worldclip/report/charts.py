"""Line and dot charts as inline SVG; colours are the page's own variables, so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM = 44, 10, 10, 34
MAX_LABELS = 45  # of a dot chart; more would run into each other


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A named curve; points with a y that has no place on the axis (0 on a logarithmic one) are left out."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str = "var(--s1)"
    dash: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """From `low` to `high`, linear or logarithmic, with its ticks."""

    low: float
    high: float
    log: bool

    def share(self, value: float) -> float:
        """Place of `value` on the axis, 0 to 1."""
        low, high, at = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return (at - low) / (high - low)

    def ticks(self) -> list[float]:
        if self.log:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            step = max(1, math.ceil((last - first) / 5))
            return [10.0**power for power in range(first, last + 1, step)]
        raw = (self.high - self.low) / 4
        power = 10 ** math.floor(math.log10(raw))
        step = next(nice * power for nice in (1, 2, 2.5, 5, 10) if nice * power >= raw)
        first_step = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first_step, math.floor(self.high / step + 1e-9) + 1)]


def axis_over(values: Sequence[float], *, log: bool = False, from_zero: bool = False) -> Axis:
    """An axis that holds all of `values`, never of no length."""
    used = [value for value in values if math.isfinite(value) and (value > 0 or not log)] or [1.0]
    low, high = min(used), max(used)
    if from_zero:
        low = min(low, 0.0)
    if low == high:
        low, high = (low / 2, high * 2) if log else (low - 0.5, high + 0.5)
    if log and high / low < 100:  # whole decades, else there is next to nothing to put a tick at
        low, high = 10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high))
    return Axis(low=low, high=high, log=log)


def line_chart(
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    x_log: bool = False,
    y_log: bool = False,
    y_from_zero: bool = False,
    marks: Sequence[tuple[float, str]] = (),
    width: int = 460,
    height: int = 240,
) -> str:
    """SVG of `lines` on shared axes.  marks: (y, name) of horizontal rules.  width, height: in pixels of the text."""
    x_axis = axis_over([value for line in lines for value in line.x], log=x_log)
    y_values = [value for line in lines for value in line.y] + [y for y, _ in marks]
    y_axis = axis_over(y_values, log=y_log, from_zero=y_from_zero)
    plot_width, plot_height = width - MARGIN_LEFT - MARGIN_RIGHT, height - MARGIN_TOP - MARGIN_BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return MARGIN_LEFT + x_axis.share(x) * plot_width, MARGIN_TOP + (1 - y_axis.share(y)) * plot_height

    names = ", ".join(line.name for line in lines)
    parts = [
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(f"{y_label} by {x_label}: {names}")}">'
    ]
    for tick in y_axis.ticks():
        _, y = place(x_axis.low, tick)
        parts.append(
            f'<line class="grid-line" x1="{MARGIN_LEFT}" x2="{width - MARGIN_RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(f'<text x="{MARGIN_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick_text(tick)}</text>')
    bottom = height - MARGIN_BOTTOM
    for tick in x_axis.ticks():
        x, _ = place(tick, y_axis.low)
        parts.append(f'<line class="grid-line" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{tick_text(tick)}</text>')
    parts.append(f'<text x="{width - MARGIN_RIGHT}" y="{height - 3}" text-anchor="end">{escape(x_label)}</text>')
    for at, name in marks:
        _, y = place(x_axis.low, at)
        span = f'x1="{MARGIN_LEFT}" x2="{width - MARGIN_RIGHT}" y1="{y:.1f}" y2="{y:.1f}"'
        parts.append(f'<line {span} stroke="var(--s2)" stroke-dasharray="2 4"><title>{escape(name)}</title></line>')
    for line in lines:
        points = [
            place(x, y)
            for x, y in zip(line.x, line.y, strict=True)
            if math.isfinite(y) and (y > 0 or not y_log) and (x > 0 or not x_log)
        ]
        path = " ".join(f"{'L' if i else 'M'}{x:.1f} {y:.1f}" for i, (x, y) in enumerate(points))
        dash = f' stroke-dasharray="{line.dash}"' if line.dash else ""
        title = f"<title>{escape(line.name)}</title>"
        parts.append(f'<path class="curve" d="{path}" stroke="{line.colour}"{dash}>{title}</path>')
    return "".join([*parts, "</svg>"])


@dataclass(frozen=True, kw_only=True, slots=True)
class Dot:
    """A value among others, with the interval it lies in and what chance reaches where they are known."""

    label: str
    """Short, below the axis."""
    hover: str
    y: float
    interval: tuple[float, float] | None = None
    chance: float | None = None
    colour: str = "var(--s1)"


def dot_chart(dots: Sequence[Dot], *, y_label: str, x_label: str, width: int = 900, height: int = 300) -> str:
    """SVG of `dots` side by side, from 0 up; labels where there are at most MAX_LABELS."""
    is_labelled = len(dots) <= MAX_LABELS
    tops = [dot.interval[1] if dot.interval else dot.y for dot in dots]
    y_axis = axis_over([*tops, *(dot.y for dot in dots)], from_zero=True)
    margin_bottom = 58 if is_labelled else MARGIN_BOTTOM
    plot_height, step = height - MARGIN_TOP - margin_bottom, (width - MARGIN_LEFT - MARGIN_RIGHT) / len(dots)
    radius = min(4.5, max(2.2, 0.3 * step))

    def place_y(value: float) -> float:
        return MARGIN_TOP + (1 - y_axis.share(value)) * plot_height

    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(f"{y_label} by {x_label}")}">']
    for tick in y_axis.ticks():
        y = place_y(tick)
        parts.append(
            f'<line class="grid-line" x1="{MARGIN_LEFT}" x2="{width - MARGIN_RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{MARGIN_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick_text(tick)}</text>'
        )
    for i, dot in enumerate(dots):
        x = MARGIN_LEFT + (i + 0.5) * step
        drawn = [f"<title>{escape(dot.hover)}</title>"]
        if dot.interval:
            low, high = map(place_y, dot.interval)
            drawn.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}" stroke="{dot.colour}" opacity=".4"/>'
            )
        if dot.chance is not None:
            y, half = place_y(dot.chance), min(5.0, 0.4 * step)
            drawn.append(
                f'<line x1="{x - half:.1f}" x2="{x + half:.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--ink)"/>'
            )
        drawn.append(f'<circle cx="{x:.1f}" cy="{place_y(dot.y):.1f}" r="{radius:.1f}" fill="{dot.colour}"/>')
        if is_labelled:
            y = height - margin_bottom + 14
            turned = f'x="{x:.1f}" y="{y}" text-anchor="end" transform="rotate(-50 {x:.1f} {y})"'
            drawn.append(f"<text {turned}>{escape(dot.label)}</text>")
        parts.append(f"<g>{''.join(drawn)}</g>")
    parts.append(f'<text x="{width - MARGIN_RIGHT}" y="{height - 3}" text-anchor="end">{escape(x_label)}</text>')
    return "".join([*parts, "</svg>"])


def tick_text(value: float) -> str:
    """0.5, 20, 5k, 1.2M: as short as it stays exact enough for a tick."""
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:g}{unit}"
    return f"{value:.4g}"
